"""Do the features of a graph carry the answer? Ablate the most influential ones, and random ones, on ten prompts.

python benchmarks/ablate.py [--model smollm2-135m] [--dictionaries NAME|FOLDER] [--count 10] [--draws 3]
"""

import argparse
import random
from statistics import mean

from lucida import Microscope

WORDS = ("small", "hot", "tall", "fast", "happy", "old", "rich", "hard", "light", "up")


def main() -> None:
    """Print a line for each prompt and the summary that README quotes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dictionaries")
    parser.add_argument("--count", type=int, default=10, help="features to ablate")
    parser.add_argument("--draws", type=int, default=3, help="random sets of as many active features")
    options = parser.parse_args()
    scope, chance = Microscope(options.model, options.dictionaries), random.Random(0)
    changed, asked, moves = 0, 0, []
    for word in WORDS:
        prompt = f'The opposite of "{word}" is "'
        answer = scope.top_tokens(prompt, 1)[0]
        graph = scope.trace(prompt, (answer.text, word))
        after = scope.intervene(graph.prompt, dict.fromkeys(graph.strongest(options.count), 0.0)).top_tokens(1)[0]
        active, drawn = graph.strongest(len(graph.nodes)), []
        for _ in range(options.draws):
            outcome = scope.intervene(graph.prompt, dict.fromkeys(chance.sample(active, options.count), 0.0))
            left = {token.text: token.probability for token in outcome.top_tokens(50)}
            drawn.append(left.get(answer.text, 0.0) - answer.probability)
        changed, asked, moves = changed + (after.text != answer.text), asked + (after.text == word), moves + drawn
        print(
            f"{word:6} {answer.text!r} {answer.probability:.2f} -> {after.text!r} {after.probability:.2f}; "
            f"random {', '.join(f'{move:+.3f}' for move in drawn)}; replacement {graph.scores().replacement:.2f}",
            flush=True,
        )
    sizes = [abs(move) for move in moves]
    print(f"changed {changed} of {len(WORDS)}, to the word itself {asked}; ", end="")
    print(f"random: at most {max(sizes):.3f}, mean {mean(sizes):.3f}")


if __name__ == "__main__":
    main()
