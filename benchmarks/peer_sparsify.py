"""sparsify training per-layer transcoders, measured: `PEER_PYTHON benchmarks/peer_sparsify.py SPEC`, JSON in and out.

Runs under the interpreter that has sparsify (`pip install eai-sparsify`), without lucida. Its own Trainer does all the
work: `fit()` on the model's folder, without the unembedding, as its command line does it. The batches it asks for tell
where a window of steps begins and ends: it stops there until a line of standard input asks for the next one, as
train_case.py does.
"""

# pyright: reportMissingImports=false

import contextlib
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from meter import cpu_seconds, measure
from torch import Tensor
from transformers import AutoModel

with contextlib.redirect_stdout(sys.stderr):  # it says on standard output that Triton is missing
    from sparsify import SparseCoderConfig, TrainConfig, Trainer


class Finished(Exception):
    """No more windows are wanted."""


class MeasuredRows:
    """The rows of a file, over and over; reading the first row of a window ends the last one and begins it."""

    def __init__(self, path: str, *, warmup: int, window: int) -> None:
        """`warmup` and `window` are in rows."""
        self.tokens = torch.from_numpy(np.load(path))
        self.warmup, self.window = warmup, window
        self.open: tuple[contextlib.AbstractContextManager, Any] | None = None

    def __len__(self) -> int:
        return 1 << 20

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        if index >= self.warmup and (index - self.warmup) % self.window == 0:
            self.between_windows()
        return {"input_ids": self.tokens[index % len(self.tokens)]}

    def between_windows(self) -> None:
        if self.open is None:
            say({"ready": True})
        else:
            block, cost = self.open
            block.__exit__(None, None, None)
            say({"tokens": self.window * self.tokens.shape[1], "cost": cost.as_dict()})
        if not sys.stdin.readline():
            raise Finished
        block = measure()
        self.open = (block, block.__enter__())


def main() -> None:
    """Train until standard input ends, then say what the model's forward alone costs."""
    spec = json.loads(sys.argv[1])
    torch.set_num_threads(spec["threads"])
    per_batch = spec["batch"] // spec["context"]
    rows = MeasuredRows(spec["rows"], warmup=spec["warmup"] * per_batch, window=spec["window"] * per_batch)
    model = AutoModel.from_pretrained(Path(spec["model"]), dtype=getattr(torch, spec["model_dtype"]))
    quiet = contextlib.redirect_stdout(sys.stderr)
    with tempfile.TemporaryDirectory() as scratch, autocast(spec), quiet, contextlib.suppress(Finished):
        Trainer(configuration(spec, scratch, per_batch), rows, model).fit()
    with autocast(spec):
        forward = forward_seconds(model, torch.stack([rows[index]["input_ids"] for index in range(per_batch)]))
    say({"forward": forward / spec["batch"]} | versions())


def configuration(spec: dict[str, Any], scratch: str, per_batch: int) -> TrainConfig:
    """Transcoders of every MLP. What is not named keeps its default; the auxiliary loss is off by default."""
    return TrainConfig(
        SparseCoderConfig(num_latents=spec["features"], k=spec["k"], transcode=True),
        batch_size=per_batch,
        optimizer=spec["optimizer"],
        hookpoints=["layers.*.mlp"],
        log_to_wandb=False,
        save_every=1 << 30,
        save_dir=scratch,
    )


def autocast(spec: dict[str, Any]) -> contextlib.AbstractContextManager:
    """sparsify casts to bfloat16 on CUDA only; here the same is done from outside, where that is asked for."""
    return torch.autocast("cpu", torch.bfloat16) if spec["autocast"] else contextlib.nullcontext()


@torch.no_grad()
def forward_seconds(model: Any, tokens: Tensor) -> float:
    """CPU seconds of the model alone for a batch."""
    model(tokens)
    began = cpu_seconds()
    for _ in range(2):
        model(tokens)
    return (cpu_seconds() - began) / 2


def say(message: dict[str, Any]) -> None:
    """One line of JSON to the process that measures; sparsify's own lines go to standard error."""
    print(json.dumps(message), file=sys.__stdout__, flush=True)


def versions() -> dict[str, Any]:
    """The versions that ran."""
    from importlib.metadata import version

    return {"versions": {name: version(name) for name in ("eai-sparsify", "torch", "transformers")}}


if __name__ == "__main__":
    main()
