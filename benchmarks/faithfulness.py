"""How far to believe the graphs of a model on 20 prompts: `lucida validate` over all of them together.

python benchmarks/faithfulness.py [--json FILE] [--html FILE] [--save-prompts FILE]
python benchmarks/faithfulness.py --prompts FILE.json|FILE.txt      # another set

The prompts: 16 chosen from held-out text by the rules of `lucida evaluate` (docs/evaluation.md), seed 0, out of the
corpus and the split that the shipped dictionary was trained with; and four short ones that the model answers right.
Printed are the findings with intervals over prompts, Spearman over all pairs (the number that the paper gives), and
a line for each prompt: the table of docs/validation.md.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from meter import measure

from lucida import Microscope
from lucida.evaluation import choose_prompts, given_prompts
from lucida.evaluation.prompts import EvaluationPrompt, read_prompts
from lucida.evaluation.text import held_out_text
from lucida.models.model import Model
from lucida.statistics import spearman
from lucida.validation import Validation, findings, validate

CORPUS, CORPUS_TOKENS, HELD_OUT = "sae-probes", 12_000_000, 6_000
"""What SmolLM2's shipped dictionary was trained on, and how much is read of the part that was left out."""
CHOSEN, NODES = 16, 1024
"""Prompts that are chosen by rule, and the features of a graph that are expanded: as `lucida evaluate` has it."""
SHORT = (
    'The opposite of "small" is "',
    'The opposite of "hot" is "',
    "The capital of France is",
    "The capital of Japan is",
)


def main() -> None:
    """Trace every prompt, validate all graphs together, print."""
    options = _options()
    torch.set_num_threads(options.threads)
    scope = Microscope(options.model, options.dictionaries, offline=options.offline)
    prompts = _prompts(scope.model, options)
    if options.save_prompts:
        given = [list(prompt.tokens) for prompt in prompts]
        given_prompts(scope.model, given).save(options.save_prompts)
    with measure() as tracing:
        graphs = [scope.trace(list(prompt.tokens), max_nodes=NODES) for prompt in prompts]
    with measure() as validating:
        found = validate(
            scope.model, scope.dictionary, graphs, ablations=options.ablations, seed=options.seed, progress=_tell
        )
    _show(found)
    print(f"\ntracing: CPU {tracing.cpu:.0f} s; validation: CPU {validating.cpu:.0f} s, load {validating.load:.1f}")
    if options.json:
        found.save(options.json)
    if options.html:
        from lucida.validation.page import save_page

        save_page(found, options.html)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dictionaries", help="default: the shipped one")
    parser.add_argument("--prompts", type=Path, help="a stored set (.json) or a text on each line (.txt)")
    parser.add_argument("--save-prompts", type=Path)
    parser.add_argument("--ablations", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--html", type=Path)
    parser.add_argument("--offline", action="store_true", help="use cached weights and texts only")
    return parser.parse_args()


def _prompts(model: Model, options: argparse.Namespace) -> list[EvaluationPrompt]:
    if options.prompts:
        return list(read_prompts(model, options.prompts).prompts)
    text = held_out_text(model, CORPUS, tokens=HELD_OUT, corpus_tokens=CORPUS_TOKENS, offline=options.offline)
    chosen = choose_prompts(model, text.rows, count=CHOSEN, counts=text.counts)
    return [*chosen.prompts, *given_prompts(model, SHORT).prompts]


def _show(found: Validation) -> None:
    print(f"{len(found.prompts)} graphs of {found.model} through {found.dictionary}; {found.features:,} features")
    for line in findings(found):
        print(f"{line.name} | {line.value} | {line.level} | {line.sentence}")
    if found.pairs is not None:
        everything = found.pairs.everything
        print(f"Feature on feature, all {everything.pairs:,} pairs | {everything.spearman}")
    print("\nSpearman of influence with KL, of prediction with change, by prompt:")
    for index, (prompt, target) in enumerate(zip(found.prompts, found.targets, strict=True)):
        own = [a for a in found.ablations if a.graph == index]
        influence, kl, predicted, change = (
            np.array([getattr(a, name) for a in own]) for name in ("influence", "kl", "predicted", "change")
        )
        print(f"{spearman(influence, kl):6.2f} {spearman(predicted, change):6.2f}  {prompt[-40:]!r} -> {target!r}")


def _tell(stage: str, done: int, total: int | None) -> None:
    print(f"  {stage} {done}/{total}", flush=True)


if __name__ == "__main__":
    main()
