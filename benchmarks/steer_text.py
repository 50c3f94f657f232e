"""Does steering turn the text? Three features of SmolLM2's shipped dictionary, and random ones written as strongly.

python benchmarks/steer_text.py [--samples 12] [--strengths 1 2 4] [--texts 2]

One batch: a baseline and every feature at every strength, in units of its maximum in the index that lies beside the
dictionary; for each feature also a random one of its layer, at a maximum that makes its write as long, at the middle
strength. Printed is the share of texts with a word of the topic (95 % bootstrap intervals over samples), the mean
log-probability (nats a token) of the text under the model as it is, and the share of different 3-grams: the table of
docs/steering.md.
"""

import argparse

import torch

from lucida import Microscope
from lucida.statistics import Interval
from lucida.steering import Steer, generate
from lucida.steering.outcome import text_statistics

PROMPT = "The best thing about my weekend was"
FEATURES = {"sea": (20, 604), "music": (23, 1310), "food": (4, 857)}
"""Layer and feature, found by six sentences on the topic against fourteen on other things."""
WORDS = {
    "sea": r"\b(seas?|ocean|ships?|boats?|sail\w*|beach\w*|crew|captain|shore|island\w*|fish\w*|water|waves?|harbo\w*"
    r"|coast\w*|marine|whales?|diving|swim\w*|surf\w*)\b",
    "music": r"\b(music\w*|song\w*|sing|singing|sang|guitar\w*|piano|orchestra\w*|symphony|concert\w*|bands?|violin\w*"
    r"|album\w*|opera|melod\w*|compos\w*|jazz|choir)\b",
    "food": r"\b(food\w*|eat|eating|ate|dinner|lunch|breakfast|meal\w*|cook\w*|recipe\w*|pizza\w*|burger\w*|cake\w*"
    r"|bread|soup\w*|salad\w*|cheese\w*|restaurant\w*|delicious|chicken|vegetable\w*|arug\w*|avocado|sandwich\w*"
    r"|dessert\w*|cuisine\w*)\b",
}


def main() -> None:
    """Generate, print the table, and the first texts of each kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=12)
    parser.add_argument("--strengths", type=float, nargs="+", default=[1.0, 2.0, 4.0])
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--texts", type=int, default=0, help="texts to show of each kind")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    scope = Microscope("smollm2-135m")
    conditions = _conditions(scope, options.strengths)
    found = generate(
        scope.model, scope.dictionary, PROMPT, conditions, max_tokens=options.tokens, temperature=0.8,
        samples=options.samples,
    )  # fmt: skip
    print(f"{'':30} {'  '.join(f'{topic:17}' for topic in WORDS)}  nats a token         3-grams")
    for row in text_statistics(scope.model, found, list(WORDS.values())):
        shares = "  ".join(f"{_shown(row.containing[pattern]):17}" for pattern in WORDS.values())
        print(f"{row.condition:30} {shares}  {_shown(row.log_probability):19}  {_shown(row.distinct[3])}")
    for sample in found.samples:
        if sample.sample < options.texts:
            print(f"{sample.condition:30} {sample.text!r}")


def _conditions(scope: Microscope, strengths: list[float]) -> dict[str, list[Steer]]:
    generator, middle = torch.Generator().manual_seed(0), strengths[len(strengths) // 2]
    dictionary, index = scope.dictionary, scope.index
    assert dictionary is not None
    assert index is not None
    conditions = {}
    for topic, (layer, feature) in FEATURES.items():
        maximum = index.stats(layer, feature).maximum
        print(f"{topic} {layer}:{feature}, maximum {maximum:.1f}")
        for strength in strengths:
            conditions[f"{topic} {layer}:{feature} x{strength:g}"] = [Steer(layer, feature, strength)]
        other = int(torch.randint(dictionary.n_features(layer), (1,), generator=generator))
        own, random = dictionary.decoder_rows(layer, torch.tensor([feature, other]), layer).norm(dim=1).tolist()
        conditions[f"random {layer}:{other} as {topic} x{middle:g}"] = [
            Steer(layer, other, middle, maximum=maximum * own / random)
        ]
    return conditions


def _shown(interval: Interval | None) -> str:
    return "-" if interval is None else f"{interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


if __name__ == "__main__":
    main()
