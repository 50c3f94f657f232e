"""Training of ours in a fresh process: `python benchmarks/train_case.py SPEC`, SPEC and results are JSON.

benchmarks/train.py starts this file. It gets ready, prints a line, and then measures one window of steps for each
line that it reads: so the processes of a comparison take turns, and a busy minute of the machine hits all of them.
"""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from floor import matmul_rate, training_floor
from meter import measure
from shapes import write_random_model
from stages import TRAINING_STAGES, Stages, watch_stages
from torch import Tensor

from lucida.models.load import load_model
from lucida.training import loop, step
from lucida.training.activations import Activations
from lucida.training.checkpoint import RunState
from lucida.training.config import TrainingConfig
from lucida.training.dense import dense_batchtopk
from lucida.training.transcoder import Transcoder


def main() -> None:
    """Run what the first argument describes."""
    spec = json.loads(sys.argv[1])
    torch.set_num_threads(spec["threads"])
    if spec["task"] == "prepare":
        print(json.dumps(prepare(spec)))
    else:
        train(spec)


def prepare(spec: dict[str, Any]) -> dict[str, Any]:
    """Find or make the model's folder, and write rows of random tokens for all processes."""
    if spec["random"] and not Path(spec["model"]).exists():
        write_random_model(spec["random"], Path(spec["model"]), seed=spec["seed"])
    model = load_model(spec["model"], offline=spec["offline"])
    generator = np.random.default_rng(spec["seed"])
    # Their text does not change what a step costs; the first ids are special in many vocabularies.
    np.save(spec["rows"], generator.integers(16, model.d_vocab, (spec["n_rows"], spec["context"])))
    return {"folder": str(Path(model.hf.config._name_or_path).resolve()), "layers": model.n_layers,
            "width": model.d_model}  # fmt: skip


class FileRows:
    """The rows of a file, over and over."""

    def __init__(self, path: str) -> None:
        self.tokens = torch.from_numpy(np.load(path))

    def rows(self, start: int, count: int) -> Tensor:
        return self.tokens[torch.arange(start, start + count) % len(self.tokens)]


def train(spec: dict[str, Any]) -> None:
    """Train up to the end of a block of activations; then one block for each line of standard input."""
    on_gpu = spec["device"] != "cpu"
    settle = torch.cuda.synchronize if on_gpu else lambda: None
    activations, state = begin(spec)
    config, dtype = activations.config, getattr(torch, spec["dtype"])
    before = matmul_rate(dtype, device=spec["device"])
    with dense_path() if spec["path"] == "dense" else nullcontext():
        for _ in range(min(spec["warmup"], activations.steps_per_block)):
            advance(state, activations, spec)
        print(json.dumps({"ready": True}), flush=True)
        for line in sys.stdin:
            # Whole blocks, so that every window pays for its own forward passes.
            state.step = activations.steps_per_block * -(-state.step // activations.steps_per_block)
            if on_gpu:
                torch.cuda.reset_peak_memory_stats()
            with measure() as cost, watched(line.strip() == "stages", settle) as stages:
                for _ in range(activations.steps_per_block):
                    outcome = advance(state, activations, spec)
                settle()
            result = {
                "tokens": activations.steps_per_block * config.batch_tokens,
                "cost": cost.as_dict(),
                "stages": {"cpu": dict(stages.cpu), "wall": dict(stages.wall)},
                "nmse": float(outcome.nmse.mean()),
                "l0": float(outcome.l0.sum()),
                "gpu_peak": torch.cuda.max_memory_allocated() if on_gpu else None,
            }
            print(json.dumps(result), flush=True)
    after = matmul_rate(dtype, device=spec["device"])
    summary = {
        "path": spec["path"],
        "rate": {name: (getattr(before, name) + getattr(after, name)) / 2 for name in ("per_wall", "per_cpu")},
        "floor": training_floor(activations.model, config).as_dict(),
        "parameters": config.n_parameters,
        "forwarded": config.block_rows * config.context / (activations.steps_per_block * config.batch_tokens),
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "torch": str(torch.__version__),
    }
    print(json.dumps(summary), flush=True)


def begin(spec: dict[str, Any]) -> tuple[Activations, RunState]:
    """The state of a run at its final sparsity, as `lucida train` would begin it."""
    model = load_model(spec["model"], offline=True, dtype=spec["dtype"], device=spec["device"])
    knobs = {"block_rows": spec["block_rows"]} if spec["block_rows"] else {}
    config = TrainingConfig.plan(
        n_layers=model.n_layers,
        d_model=model.d_model,
        n_features=spec["features"],
        n_tokens=100_000_000,
        span=spec["span"],
        k=float(spec["k"]),
        batch_tokens=spec["batch"],
        context=spec["context"],
        reads_at=spec["reads_at"],
        products=spec["dtype"],
        anneal=0.0,
        warmup=0.0,
        normalise_tokens=1,
        **knobs,
    )
    activations = Activations(model, FileRows(spec["rows"]), config)
    state = loop.new_state(activations)
    loop.begin(state, activations)
    return activations, state


def advance(state: RunState, activations: Activations, spec: dict[str, Any]) -> step.Outcome:
    """One step of the loop; `dead` is the share of features that the auxiliary loss takes as dead."""
    if spec["dead"]:
        limit = loop.silent_limit(activations.config)
        for steps in state.silent_steps:
            steps[: round(spec["dead"] * len(steps))] = limit + 1
    return loop.advance(state, activations)


@contextmanager
def watched(wanted: bool, settle: Callable[[], None]) -> Iterator[Stages]:
    """The times of the stages of the block, if wanted; none otherwise."""
    if not wanted:
        yield Stages()
        return
    with watch_stages(settle, where=(*TRAINING_STAGES, *DENSE_STAGES), keep=False) as stages:
        yield stages


@contextmanager
def dense_path() -> Iterator[None]:
    """Steps that take every product densely; loss, clipping and Adam stay the loop's own."""
    with mock.patch("lucida.training.step._sparse", dense_encoded):
        yield


def dense_encoded(transcoder: Transcoder, reads: Sequence[Tensor], schedule: step.Schedule) -> step._Encoded:
    """Dense pre-activations, one cut over all of them, dense decoding; autograd does the rest."""
    encoded = step._Encoded(step._Written.nothing(transcoder, len(reads[0])))
    for layer, a in enumerate(dense_batchtopk(transcoder, reads, schedule.budget)):
        encoded.written.add(dense_decode(transcoder, layer, a))
        active = a.detach() > 0
        encoded.counts.append(active.sum())
        encoded.fired.append(active.any(0))
    return encoded


def dense_decode(transcoder: Transcoder, layer: int, a: Tensor) -> Tensor:
    products = getattr(torch, transcoder.config.products)
    return (a.to(products) @ transcoder.layers[layer].decoder.to(products)).float()


DENSE_STAGES = (("encode", "__main__.dense_batchtopk"), ("decode", "__main__.dense_decode"))


if __name__ == "__main__":
    main()
