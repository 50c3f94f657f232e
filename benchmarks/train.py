"""What training costs: our sparse steps against sparsify, and against our own dense ones. See benchmarks/README.md.

python benchmarks/train.py --peer-python PYTHON        # per-layer of 2048 and 4096 features, cross-layer of 4096
python benchmarks/train.py --cases plt:2048            # one of them; what is not there to compare with is left out
python benchmarks/train.py --random smollm2-135m --device cuda --cases clt:4096 clt:8192
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from shapes import SHAPES

HERE = Path(__file__).parent
PEER = {
    "float32, Adam": {"model_dtype": "float32", "autocast": False, "optimizer": "adam"},
    "bfloat16, Adam": {"model_dtype": "bfloat16", "autocast": True, "optimizer": "adam"},
    "bfloat16, signum": {"model_dtype": "bfloat16", "autocast": True, "optimizer": "signum"},
}
"""sparsify as it is on a CPU, as it is on a GPU (autocast to bfloat16), and the latter with its default optimiser."""
STEPS_OF_THE_SLOW = 4
"""Steps in a window of sparsify; ours are as long as a block of activations."""
DENSE_ROWS = 72
"""Rows in a block of the dense path: two steps of 4096 tokens."""
GOAL = 2.0
KINDS = {"plt": "per-layer", "clt": "cross-layer"}

console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)


def main() -> None:
    """Run the cases one after the other and print their tables."""
    options = _options()
    with tempfile.TemporaryDirectory(prefix="lucida-benchmark-") as scratch:
        shape = prepare(options, Path(scratch))
        cases = []
        for name in options.cases:
            kind, features = name.split(":")
            case = {"kind": kind, "features": int(features), "span": 1 if kind == "plt" else shape["layers"]}
            case["results"] = run_case(case, shape, options, Path(scratch))
            print_case(case, shape, options)
            cases.append(case)
    if options.json:
        results = {"settings": vars(options), "machine": _machine(), "shape": shape, "cases": cases}
        Path(options.json).write_text(json.dumps(results, indent=1) + "\n")
        console.print(f"wrote {options.json}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="stories15m", help="registry name or folder")
    parser.add_argument("--random", choices=SHAPES, help="a model of this shape with random weights instead")
    parser.add_argument("--cases", nargs="+", default=["plt:2048", "plt:4096", "clt:4096"], metavar="KIND:FEATURES",
                        help="plt or clt, and the features of a layer")  # fmt: skip
    parser.add_argument("--dtypes", nargs="+", choices=("float32", "bfloat16"), default=["float32", "bfloat16"],
                        help="of the model and of our products")  # fmt: skip
    parser.add_argument("--k", type=int, default=16)
    parser.add_argument("--batch", type=int, default=4096, help="tokens of a step")
    parser.add_argument("--context", type=int, default=128)
    parser.add_argument("--dead", type=float, default=0.0, help="share of features in our auxiliary loss")
    parser.add_argument("--no-dense", action="store_true", help="do not run our dense path")
    parser.add_argument("--no-sparse", action="store_true", help="do not run our sparse path")
    parser.add_argument("--peer-python", help="interpreter with sparsify (default: do not run it)")
    parser.add_argument("--peer-settings", nargs="+", choices=tuple(PEER), default=list(PEER), metavar="SETTING",
                        help=f"of sparsify: {'; '.join(PEER)}")  # fmt: skip
    parser.add_argument("--repeats", type=int, default=3, help="each window so often; medians are shown")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu", help="cpu or cuda; figures are then per second of wall time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--offline", action="store_true", help="use cached weights only")
    parser.add_argument("--json", metavar="FILE", help="also write every number here")
    return parser.parse_args()


# --- processes that take turns --------------------------------------------------------------------


class Worker:
    """A process that is ready to train and measures one window of steps when asked to."""

    def __init__(self, name: str, python: str, script: str, spec: dict[str, Any], errors: Path) -> None:
        self.name, self.script, self.errors = name, script, errors
        environment = os.environ | {"OMP_NUM_THREADS": str(spec["threads"])}
        self.process = subprocess.Popen(
            [python, str(HERE / script), json.dumps(spec)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors.open("w"), text=True, env=environment,
        )  # fmt: skip
        self.windows: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}

    def read(self) -> dict[str, Any]:
        """Its next line."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            raise SystemExit(f"{self.script} ({self.name}) failed:\n{self.errors.read_text().strip()[-2000:]}")
        return json.loads(line)

    def measure(self, how: str) -> None:
        """One window."""
        assert self.process.stdin is not None
        self.process.stdin.write(how + "\n")
        self.process.stdin.flush()
        self.windows.append(self.read())

    def finish(self) -> dict[str, Any]:
        """End it; everything it said."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.summary = self.read()
        self.process.wait()
        return {"windows": self.windows, **self.summary}


def prepare(options: argparse.Namespace, scratch: Path) -> dict[str, Any]:
    """Find or write the model, write the rows of tokens; the model's folder and shape."""
    spec = {
        "task": "prepare", "model": str(scratch / "model") if options.random else options.model,
        "random": options.random, "offline": options.offline, "seed": options.seed, "context": options.context,
        "n_rows": 4096, "rows": str(scratch / "rows.npy"), "threads": options.threads,
    }  # fmt: skip
    command = [sys.executable, str(HERE / "train_case.py"), json.dumps(spec)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"train_case.py failed:\n{done.stderr.strip()[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def run_case(
    case: dict[str, Any], shape: dict[str, Any], options: argparse.Namespace, scratch: Path
) -> dict[str, dict[str, Any]]:
    """What every contestant of a case said. They run at the same time and take turns."""
    common = {
        "model": shape["folder"], "rows": str(scratch / "rows.npy"), "threads": options.threads,
        "features": case["features"], "k": options.k, "batch": options.batch, "context": options.context,
    }  # fmt: skip
    workers: list[Worker] = []
    try:
        for name, (python, script, spec) in _contestants(case, options).items():
            errors = scratch / f"errors-{len(workers)}.txt"
            workers.append(Worker(name, python, script, common | spec, errors))
            workers[-1].read()  # it is ready: one at a time, so that none disturbs another
        for repeat in range(options.repeats + (options.device != "cpu")):
            # On a GPU the stages' clocks wait for it, so they get a window of their own, which counts for nothing else.
            stages = options.device == "cpu" or repeat == options.repeats
            for worker in workers:
                worker.measure("stages" if stages else "measure")
        return {worker.name: worker.finish() for worker in workers}
    finally:
        for worker in workers:
            if worker.process.poll() is None:
                worker.process.kill()


def _contestants(case: dict[str, Any], options: argparse.Namespace) -> dict[str, tuple[str, str, dict[str, Any]]]:
    found: dict[str, tuple[str, str, dict[str, Any]]] = {}
    for dtype in options.dtypes:
        ours = {"task": "train", "device": options.device, "dtype": dtype, "span": case["span"], "dead": options.dead,
                "reads_at": "mlp_in"}  # fmt: skip
        if not options.no_sparse:
            spec = ours | {"path": "sparse", "block_rows": 0, "warmup": 1 << 30}
            found[f"ours, {dtype}"] = (sys.executable, "train_case.py", spec)
        if case["kind"] == "clt" and not options.no_dense:
            rows = DENSE_ROWS * max(1, options.batch // 4096)
            spec = ours | {"path": "dense", "block_rows": rows, "warmup": 1}
            found[f"ours dense, {dtype}"] = (sys.executable, "train_case.py", spec)
    if case["kind"] == "plt" and options.peer_python and options.device == "cpu":
        for name in options.peer_settings:
            spec = PEER[name] | {"warmup": 3, "window": STEPS_OF_THE_SLOW}
            found[f"sparsify, {name}"] = (options.peer_python, "peer_sparsify.py", spec)
    return found


# --- what they said -------------------------------------------------------------------------------

STAGES = ("model forward", "encode", "decode", "backward", "Adam")


def print_case(case: dict[str, Any], shape: dict[str, Any], options: argparse.Namespace) -> None:
    """The table of a case and its ratios."""
    clock = "CPU second" if options.device == "cpu" else "second"
    console.rule(
        f"{KINDS[case['kind']]}, {case['features']} features a layer · k {options.k} · "
        f"{shape['layers']} layers of {shape['width']} · batch {options.batch} · context {options.context} · "
        f"{options.threads} threads · median of {options.repeats}"
    )
    table = Table("", f"tokens per {clock}", "least - most", "system", "peak GiB", *STAGES, "rest", "share of floor")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, result in case["results"].items():
        table.add_row(name, *_row(result, options))
    console.print(table)
    for line in _ratios(case, options):
        console.print(line)


def rates(result: dict[str, Any], options: argparse.Namespace) -> list[float]:
    """Tokens per CPU second of each window; on a GPU, per second of wall time."""
    windows = result["windows"][: options.repeats]
    return [window["tokens"] / window["cost"]["cpu" if options.device == "cpu" else "wall"] for window in windows]


def _row(result: dict[str, Any], options: argparse.Namespace) -> list[str]:
    found = rates(result, options)
    middle = statistics.median(found)
    windows = result["windows"][: options.repeats]
    peak = max(_peak(window) for window in windows)
    system = statistics.median(window["cost"]["system"] / window["cost"]["cpu"] for window in windows)
    row = [f"{middle:,.0f}", f"{min(found):,.0f} - {max(found):,.0f}", f"{system:.0%}", f"{peak / 2**30:.2f}"]
    if "floor" not in result:
        return [*row, f"{result['forward'] * middle:.0%}", *[""] * len(STAGES), ""]
    shares = stage_shares(result, options)
    row += [f"{shares.get(stage, 0.0):.0%}" for stage in STAGES]
    path = "dense" if result["path"] == "dense" else "sparse"
    floor = (result["floor"][path] + result["floor"]["forward"]) / _matmul(result, options)
    return [*row, f"{1 - sum(shares.get(stage, 0.0) for stage in STAGES):.0%}", f"{floor * middle:.1%}"]


def _peak(window: dict[str, Any]) -> float:
    """Bytes of the whole process; on a GPU, of tensors there."""
    cost = window["cost"]
    return window.get("gpu_peak") or cost["resident_before"] + (cost["peak_above"] or cost["maxrss_above"])


def stage_shares(result: dict[str, Any], options: argparse.Namespace) -> dict[str, float]:
    """Each stage's share of the time of the windows in which stages were timed."""
    clock = "cpu" if options.device == "cpu" else "wall"
    timed = [window["stages"][clock] for window in result["windows"] if window["stages"][clock]]
    total = sum(sum(stages.values()) for stages in timed)
    names = {name for stages in timed for name in stages}
    return {name: sum(stages.get(name, 0.0) for stages in timed) / total for name in names}


def _matmul(result: dict[str, Any], options: argparse.Namespace) -> float:
    return result["rate"]["per_cpu" if options.device == "cpu" else "per_wall"]


def _ratios(case: dict[str, Any], options: argparse.Namespace) -> list[str]:
    """Ours over what it is compared with, and what perfect dense products would reach."""
    middles = {name: statistics.median(rates(result, options)) for name, result in case["results"].items()}
    ours = {name: middles[name] for name in middles if name.startswith("ours, ")}
    peers = {name: middles[name] for name in middles if name.startswith("sparsify, ")}
    lines = []
    if ours and peers:
        mine, theirs = max(ours, key=lambda name: ours[name]), max(peers, key=lambda name: peers[name])
        lines.append(f"{mine} over {theirs}: {ours[mine] / peers[theirs]:.2f} (goal {GOAL})")
    for dtype in options.dtypes:
        mine = middles.get(f"ours, {dtype}")
        for other in (f"ours dense, {dtype}", f"sparsify, {dtype}, Adam"):
            if mine and other in middles:
                lines.append(f"ours, {dtype} over {other}: {mine / middles[other]:.2f} (goal {GOAL})")
        if mine:
            lines.append(_perfect_dense(case["results"][f"ours, {dtype}"], dtype, mine, options))
    return lines


def _perfect_dense(result: dict[str, Any], dtype: str, rate: float, options: argparse.Namespace) -> str:
    shares = stage_shares(result, options)
    kept = (shares.get("model forward", 0.0) + shares.get("Adam", 0.0)) / rate
    bound = 1 / (kept + result["floor"]["dense"] / _matmul(result, options))
    return (
        f"{dtype}: a matmul does {_matmul(result, options) / 1e9:,.0f} GFLOP/s; dense products at that rate and "
        f"nothing else, with our forward and Adam, would do {bound:,.0f} tokens: ours does {rate / bound:.2f} of that"
    )


def _machine() -> dict[str, Any]:
    return {"cores": os.cpu_count(), "load": os.getloadavg(), "python": sys.version.split()[0]}


if __name__ == "__main__":
    main()
