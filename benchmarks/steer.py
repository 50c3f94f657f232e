"""What steering costs: tokens per CPU second of generation under steers, beside plain `transformers` generate.

python benchmarks/steer.py                              # SmolLM2 and its shipped dictionary, one row and four
python benchmarks/steer.py --model stories15m --tokens 128 --repeats 5 --json out.json

All cases run in this process and take turns, `repeats` times, each after a short run that is not counted: greedy,
the same prompt and number of tokens, key-value cache, the same attention kernel (sdpa), end-of-text tokens ignored.
The clock is CPU seconds of the process (one thread unless asked), from tokens to text. "ratio" is tokens per CPU
second over those of `generate` with as many rows, the median over the turns of each turn's own ratio.
"""

import argparse
import json
import os
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from meter import Cost, measure

from lucida import Microscope
from lucida.models.taps import fast_attention
from lucida.steering import Steer, generate

PROMPT = "The old man looked out of the window and saw"
GOAL = 0.85


def main() -> None:
    """Run every case in turns and print the table."""
    options = _options()
    torch.set_num_threads(options.threads)
    scope = Microscope(options.model, options.dictionaries)
    # A text that ends early would be counted as slow, or as fast.
    scope.model.hf.generation_config.eos_token_id = None
    scope.model.hf.config.eos_token_id = None
    results = []
    for rows in options.rows:
        cases = _cases(scope, rows, options.tokens)
        costs: dict[str, list[Cost]] = {name: [] for name in cases}
        for case in cases.values():
            case(8)
        for _ in range(options.repeats):
            for name, case in cases.items():
                with measure() as cost:
                    case(options.tokens)
                costs[name].append(cost)
        results += [_row(name, rows, options.tokens, costs) for name in cases]
        for row in results[-len(cases) :]:
            print(
                f"{row['rows']} row(s)  {row['case']:28} {row['tokens_per_cpu_second']:7.1f} tokens/CPU s  "
                f"ratio {row['ratio']:.2f} ({row['ratio_low']:.2f} to {row['ratio_high']:.2f})  "
                f"{row['cpu']:6.2f} CPU s  {row['wall']:6.2f} s  peak {row['peak_mb']:6.1f} MB  load {row['load']:.1f}",
                flush=True,
            )
    if options.json:
        Path(options.json).write_text(json.dumps({"settings": vars(options), "rows": results}, indent=1) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--dictionaries")
    parser.add_argument("--tokens", type=int, default=64, help="tokens of each text")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 4], help="texts written at once")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", "1")))
    parser.add_argument("--json")
    return parser.parse_args()


def _cases(scope: Microscope, rows: int, tokens: int) -> dict[str, Callable[[int], Any]]:
    """The cases by name, plain `generate` first; each writes the given number of tokens in `rows` rows."""
    model = scope.model
    ids = torch.tensor([model.tokenize(PROMPT).tokens])
    layers = [round(i * (model.n_layers - 1) / 9) for i in range(10)]
    ten = [Steer(layer, 7 * i + 3, 2.0, maximum=1.0) for i, layer in enumerate(layers)]

    def plain(count: int) -> None:
        batch = ids.expand(rows, -1)
        with fast_attention(model):
            out = model.hf.generate(
                batch, attention_mask=torch.ones_like(batch), max_new_tokens=count, do_sample=False, pad_token_id=0
            )
        assert out.shape[1] == ids.shape[1] + count
        if model.tokenizer is not None:
            model.tokenizer.batch_decode(out)

    def steered(steers: list[Steer], **settings: Any) -> Callable[[int], None]:
        def run(count: int) -> None:
            # Rows of their own conditions: as many strengths as rows, the last one what was asked.
            conditions = {str(i): [_at(s, s.strength * (i + 1) / rows) for s in steers] for i in range(rows)}
            found = generate(model, scope.dictionary, PROMPT, conditions, max_tokens=count, baseline=False, **settings)
            assert all(len(sample.tokens) == count for sample in found.samples)

        return run

    return {
        "transformers generate": plain,
        "ours, no steer": steered([]),
        "one steer, add": steered(ten[4:5]),
        "one steer, clamp": steered([_as(ten[4], "clamp")]),
        "one steer, orthogonal": steered([_as(ten[4], "orthogonal")]),
        "ten steers, add": steered(ten),
        "ten steers, clamp": steered([_as(steer, "clamp") for steer in ten]),
    }


def _at(steer: Steer, strength: float) -> Steer:
    return Steer(steer.layer, steer.feature, strength, steer.variant, maximum=steer.maximum)


def _as(steer: Steer, variant: Any) -> Steer:
    return Steer(steer.layer, steer.feature, steer.strength, variant, maximum=steer.maximum)


def _row(name: str, rows: int, tokens: int, costs: dict[str, list[Cost]]) -> dict[str, Any]:
    own = costs[name]
    ratios = [plain.cpu / cost.cpu for plain, cost in zip(costs["transformers generate"], own, strict=True)]
    return {
        "case": name,
        "rows": rows,
        "tokens_per_cpu_second": rows * tokens / statistics.median(cost.cpu for cost in own),
        "ratio": statistics.median(ratios),
        "ratio_low": min(ratios),
        "ratio_high": max(ratios),
        "reaches_goal": statistics.median(ratios) >= GOAL,
        "cpu": statistics.median(cost.cpu for cost in own),
        "wall": statistics.median(cost.wall for cost in own),
        "peak_mb": max(cost.peak_above or cost.maxrss_above for cost in own) / 1e6,
        "load": max(cost.load for cost in own),
    }


if __name__ == "__main__":
    main()
