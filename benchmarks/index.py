"""What an index costs: beside the forward pass alone, how its memory grows, and delphi's caching on the same tokens.

python benchmarks/index.py                                  # tokens per CPU second, the first tiles and later ones
python benchmarks/index.py --peer-python PYTHON             # and delphi (pip install eai-delphi) in the same run
python benchmarks/index.py --scaling                        # only memory, up to 4 million tokens
python benchmarks/index.py --model smollm2-135m --data sae-probes
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent
GOAL = 0.7
"""Tokens per CPU second over those of forward and encoding alone."""
MARKS = (250_000, 500_000, 1_000_000, 2_000_000, 4_000_000)

console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)


def main() -> None:
    """Run what is asked for and print its tables."""
    options = _options()
    results: dict[str, Any] = {"settings": vars(options), "machine": _machine()}
    with tempfile.TemporaryDirectory(prefix="lucida-benchmark-") as scratch:
        setting = results["setting"] = prepare(options, scratch)
        console.rule(
            f"{options.model}, {setting['dictionary']}: {setting['layers']} layers x {setting['features']} features · "
            f"{options.data}, {setting['tokens']:,} tokens · {options.threads} threads"
        )
        if options.scaling:
            results["memory"] = {dtype: memory(dtype, setting, options) for dtype in options.dtypes}
        else:
            results["throughput"] = throughput(setting, options)
            if options.peer_python:
                results["delphi"] = beside_delphi(setting, options, scratch)
    if options.json:
        Path(options.json).write_text(json.dumps(results, indent=1) + "\n")
        console.print(f"wrote {options.json}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="stories15m", help="registry name or folder; with its shipped dictionary")
    parser.add_argument("--data", default="samples", help="a corpus, as lucida index takes it")
    parser.add_argument("--tokens", type=int, help="of the corpus (default: 500,000; with --scaling 4,000,000)")
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "bfloat16"), help="default: both; the faster one")
    parser.add_argument("--stretch", type=int, default=40, help="tiles of a stretch that is timed")
    parser.add_argument("--scaling", action="store_true", help="only memory against tokens, in one run")
    parser.add_argument("--peer-python", help="interpreter with delphi (default: do not run it)")
    parser.add_argument("--peer-tokens", nargs="+", type=int, default=[100_000, 300_000], metavar="TOKENS")
    parser.add_argument("--peer-dtype", choices=("float32", "bfloat16"), default="float32", help="of both")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--offline", action="store_true", help="use cached weights and corpora only")
    parser.add_argument("--json", metavar="FILE", help="also write every number here")
    options = parser.parse_args()
    options.tokens = options.tokens or (max(MARKS) if options.scaling else 500_000)
    options.dtypes = options.dtypes or (["bfloat16"] if options.scaling else ["float32", "bfloat16"])
    return options


def prepare(options: argparse.Namespace, scratch: str) -> dict[str, Any]:
    """The folders of model, corpus and dictionary, and the parts of the corpus that are compared on."""
    sizes = options.peer_tokens if options.peer_python and not options.scaling else []
    tokens = max(options.tokens, *(size + 8192 for size in sizes), 0)
    spec = {"model": options.model, "dtype": options.peer_dtype, "data": options.data, "tokens": tokens,
            "sizes": sizes, "scratch": scratch}  # fmt: skip
    return run_case(sys.executable, "index_case.py", spec | {"task": "prepare"}, options)


def run_case(python: str, script: str, spec: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Run a case in a process of its own; the last line of its output."""
    spec = {"threads": options.threads, "offline": options.offline} | spec
    command = [python, str(HERE / script), json.dumps(spec)]
    environment = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{script} failed:\n{done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


# --- throughput ------------------------------------------------------------------------------------


def throughput(setting: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Tokens per CPU second of the index beside forward and encoding alone."""
    table = Table("", "tokens from", "forward + encoding alone", "of it encoding", "index", "ratio", "goal")
    for column in table.columns[1:]:
        column.justify = "right"
    found = {}
    for dtype in options.dtypes:
        spec = {"task": "throughput", "model": options.model, "dtype": dtype, "store": setting["store"],
                "tiles": -(-options.tokens // (8 * 127)), "stretch": options.stretch}  # fmt: skip
        found[dtype] = case = run_case(sys.executable, "index_case.py", spec, options)
        for name, part in case["stretches"].items():
            both = part["forward"] + part["encode"]
            table.add_row(
                f"{dtype}, {name}", f"{part['first']:,}", f"{part['tokens'] / both:,.0f}",
                f"{part['encode'] / both:.0%}", f"{part['tokens'] / part['index']:,.0f}",
                f"{both / part['index']:.2f}", f"{GOAL}",
            )  # fmt: skip
        whole = case["whole"]
        table.add_row(f"{dtype}, all with the save", "", "", "",
                      f"{whole['tokens'] / (whole['index'] + whole['save']):,.0f}", "", "")  # fmt: skip
    console.print("tokens per CPU second; the two take turns tile by tile")
    console.print(table)
    active = ", ".join(f"{case['active']:.1f} in {dtype}" for dtype, case in found.items())
    console.print(f"active features a token, all layers: {active}; one-minute load {os.getloadavg()[0]:.1f}")
    return found


# --- memory ----------------------------------------------------------------------------------------


def memory(dtype: str, setting: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Peak memory of each part of one long run."""
    marks = [mark for mark in MARKS if mark < 0.95 * setting["tokens"]]  # the last is all that there is
    spec = {"task": "memory", "model": options.model, "dtype": dtype, "store": setting["store"], "marks": marks}
    found = run_case(sys.executable, "index_case.py", spec, options)
    table = Table(f"{dtype}: up to token", "peak of this part, MiB", "CPU s so far", "tokens per CPU s of this part")
    for column in table.columns:
        column.justify = "right"
    table.add_row("model and dictionary loaded", f"{found['loaded'] / 2**20:,.0f}", "", "")
    tokens, cpu = 0, 0.0
    for point in found["curve"]:
        rate = (point["tokens"] - tokens) / (point["cpu"] - cpu)
        table.add_row(f"{point['tokens']:,}", f"{point['peak'] / 2**20:,.0f}", f"{point['cpu']:.0f}", f"{rate:,.0f}")
        tokens, cpu = point["tokens"], point["cpu"]
    table.add_row("written to disk", f"{found['saved']['peak'] / 2**20:,.0f}", f"{found['saved']['cpu']:.0f}", "")
    console.print(table)
    console.print(f"the index takes {found['disk'] / 2**20:.1f} MiB on disk")
    return found


# --- beside delphi ---------------------------------------------------------------------------------


def beside_delphi(setting: dict[str, Any], options: argparse.Namespace, scratch: str) -> list[dict[str, Any]]:
    """CPU time, memory and disk of both on the same rows, one size after the other."""
    table = Table(f"{options.peer_dtype}, tokens", "", "CPU s", "tokens per CPU s", "peak MiB", "above what was loaded",
                  "disk MiB", "events")  # fmt: skip
    for column in table.columns[2:]:
        column.justify = "right"
    found = []
    for size in setting["sizes"]:
        out = str(Path(scratch) / "ours.npz")
        common = {"dtype": options.peer_dtype}
        spec = {"task": "index", "model": options.model, "store": size["store"], "out": out}
        ours = run_case(sys.executable, "index_case.py", common | spec, options)
        spec = {"model": setting["folder"], "rows": size["rows"], "dictionary": str(Path(scratch) / "dictionary"),
                "reads_at": setting["reads_at"], "layers": setting["layers"], "ours": out}  # fmt: skip
        theirs = run_case(options.peer_python, "peer_delphi.py", common | spec, options)
        found.append({"tokens": size["tokens"], "ours": ours, "delphi": theirs})
        for name, case in (("ours", ours), ("delphi", theirs)):
            table.add_row(f"{size['tokens']:,}", name, *_costs(case, size["tokens"]))
    console.print(table)
    for case in found:
        console.print(_agreement(case))
    return found


def _costs(case: dict[str, Any], tokens: int) -> list[str]:
    cost = case["cost"]
    above = cost["maxrss_above"] if cost["peak_above"] is None else cost["peak_above"]
    return [
        f"{cost['cpu']:.1f}", f"{tokens / cost['cpu']:,.0f}", f"{(cost['resident_before'] + above) / 2**20:,.0f}",
        f"{above / 2**20:,.0f}", f"{case['disk'] / 2**20:,.1f}", f"{case['events']:,}",
    ]  # fmt: skip


def _agreement(case: dict[str, Any]) -> str:
    ours, theirs = case["ours"], case["delphi"]
    return (
        f"{case['tokens']:,} tokens: at the {ours['places']:,} places that our index counts, delphi has "
        f"{theirs['comparable']:,} events and ours {ours['events']:,}; {theirs['features_differing']:,} features differ"
        f", by {theirs['largest_difference']} at most, {theirs['total_difference']:,} in all · "
        f"CPU time {theirs['cost']['cpu'] / ours['cost']['cpu']:.2f} x ours"
    )


def _machine() -> dict[str, Any]:
    return {"cores": os.cpu_count(), "load": os.getloadavg(), "python": sys.version.split()[0]}


if __name__ == "__main__":
    main()
