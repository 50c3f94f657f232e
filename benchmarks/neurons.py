"""Do the neurons that a trace names carry the answer? Zero them and see: the table of docs/neurons.md.

    python benchmarks/neurons.py [--model smollm2-135m] [--nodes 256] [--top 50] [--draws 5]

For each prompt: trace answer minus runner-up, zero the neuron-positions that push hardest towards the
answer (free run, attention live), and as a control the same number drawn at random (any layer, any position but the
first). "flips" counts prompts whose most probable token is no longer the answer.
"""

import argparse

import torch

from lucida import Microscope

ANTONYMS = ("small", "hot", "tall", "fast", "happy", "old", "rich", "hard", "light", "up")
CAPITALS = ("France", "Germany", "Italy", "Spain", "Japan", "England", "Greece", "Portugal", "Austria", "Ireland")


def measure(scope: Microscope, prompt: str, *, nodes: int, top: int, draws: int, seed: int) -> dict:
    answer, rival = scope.top_tokens(prompt, 2)
    graph = scope.trace(prompt, (answer.token, rival.token), max_nodes=nodes)
    zeroed = scope.intervene(prompt, {graph.strongest(top): 0.0})
    generator = torch.Generator().manual_seed(seed)
    width = scope.model.mlp_weights(0).up.shape[0]
    bounds = ((0, scope.model.n_layers), (1, len(graph.prompt)), (0, width))
    random = []
    for _ in range(draws):
        edits: dict = {}
        while len(edits) < top:
            edits[tuple(int(torch.randint(low, high, (1,), generator=generator)) for low, high in bounds)] = 0.0
        random.append(scope.intervene(prompt, edits).probability(answer.token))
    after = zeroed.top_tokens(1)[0]
    return {
        "prompt": prompt,
        "answer": answer.text,
        "before": answer.probability,
        "rival": rival.text,
        "zeroed": zeroed.probability(answer.token),
        "after": after.text,
        "after_p": after.probability,
        "random": [p - answer.probability for p in random],
        "flipped": after.token != answer.token,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--nodes", type=int, default=256)
    parser.add_argument("--top", type=int, default=50)
    parser.add_argument("--draws", type=int, default=5)
    options = parser.parse_args()
    scope = Microscope(options.model, "neurons")
    groups = {
        "antonyms": [f'The opposite of "{word}" is "' for word in ANTONYMS],
        "capitals": [f"the capital of {name} is" for name in CAPITALS],
    }
    print(
        "| prompt | answer | P before | P zeroed | then says | P | random: mean change, largest |\n"
        "|---|---|---|---|---|---|---|"
    )
    for name, prompts in groups.items():
        rows = [
            measure(scope, prompt, nodes=options.nodes, top=options.top, draws=options.draws, seed=i)
            for i, prompt in enumerate(prompts)
        ]
        for row in rows:
            change = row["random"]
            mean, largest = sum(change) / len(change), max(change, key=abs)
            print(
                f"| `{row['prompt']}` | `{row['answer']}` over `{row['rival']}` "
                f"| {row['before']:.3f} | {row['zeroed']:.3f} "
                f"| `{row['after']!r}` | {row['after_p']:.3f} | {mean:+.3f}, {largest:+.3f} |",
                flush=True,
            )
        flips = sum(row["flipped"] for row in rows)
        typical = sum(abs(c) for row in rows for c in row["random"]) / sum(len(row["random"]) for row in rows)
        print(
            f"| **{name}** | flips **{flips} of {len(rows)}** | | | | | mean \\|change\\| **{typical:.4f}** |",
            flush=True,
        )


if __name__ == "__main__":
    main()
