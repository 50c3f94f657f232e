"""Runs in processes of their own, as a script: one that is killed, and meshes of several.

`python many_processes.py FOLDER` trains SLOW and kills it, and each of CASES in as many processes as its mesh has.
They are forked from one, which has imported everything: that takes longest. Cases of as many processes share them.
"""

import errno
import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from synthetic import MadeUpRows, tiny_config  # noqa: E402
from tiny_models import build_hf  # noqa: E402

from lucida.dictionaries import Dictionary  # noqa: E402
from lucida.errors import LucidaError  # noqa: E402
from lucida.models.model import Model  # noqa: E402
from lucida.training import Mesh, Metrics, TrainingConfig, checkpoint, loop, train  # noqa: E402
from lucida.training.checkpoint import RunState  # noqa: E402

SLOW = tiny_config(n_tokens=30 * 64, block_rows=4, checkpoint_minutes=0.0, normalise_tokens=64)


class SlowRows(MadeUpRows):
    def rows(self, start: int, count: int) -> Tensor:
        time.sleep(0.05)
        return super().rows(start, count)


def rows_of(config: TrainingConfig) -> MadeUpRows:
    """The rows that every process trains on."""
    return MadeUpRows(config.context)


@dataclass(frozen=True)
class Case:
    """A run in `data` x `feature` processes."""

    name: str
    data: int
    feature: int
    config: TrainingConfig
    mishap: str = ""
    """`stopped` after 5 steps and run again; `full` disk in the second process; `differ` in their settings."""

    @property
    def size(self) -> int:
        """How many processes it has."""
        return self.data * self.feature

    @property
    def folder(self) -> str:
        """Where under the given folder it runs."""
        return f"{self.name}-{self.data}x{self.feature}"


STEPS = 14
CONFIGS = {
    # Features that die and are revived on tokens that do not divide evenly among processes; gradients are clipped.
    "batchtopk": tiny_config(
        n_tokens=STEPS * 64, k=0.3, anneal_from=4.0, aux_share=1 / 3, clip=0.05, checkpoint_minutes=0.0
    ),
    # Streams have different numbers of usable tokens, so the processes calibrate on different numbers.
    "bfloat16": tiny_config(n_tokens=STEPS * 64, products="bfloat16", span=1, sink_norm=1.2),
    "tanh": tiny_config(n_tokens=STEPS * 64, activation="jumprelu", span=2, preactivation_weight=0.1),
    "quadratic": tiny_config(n_tokens=STEPS * 64, activation="jumprelu", penalty="quadratic", span=1),
}
MESHES = {"batchtopk": ((1, 1), (2, 1), (1, 2), (2, 2)), "bfloat16": ((1, 1), (2, 1), (1, 2)),
          "tanh": ((1, 1), (2, 1), (1, 2)), "quadratic": ((1, 1), (2, 1), (1, 2))}  # fmt: skip
CASES = [Case(name, data, feature, CONFIGS[name]) for name, shapes in MESHES.items() for data, feature in shapes]
CASES += [
    Case("stopped", 2, 2, CONFIGS["batchtopk"], mishap="stopped"),
    Case("full", 1, 2, CONFIGS["batchtopk"], mishap="full"),
    Case("differ", 2, 1, CONFIGS["batchtopk"], mishap="differ"),
]


def model_of(products: str) -> Model:
    """The model that every process runs; in bfloat16 where the products are."""
    return Model(build_hf("llama").to(getattr(torch, products)), name="tiny-llama")


def slow(folder: Path) -> None:
    train(Model(build_hf("llama"), name="tiny-llama"), SlowRows(SLOW.context), SLOW, folder, name="made")


def worker(case: Case, folder: Path, model: Model) -> None:
    """One process of a case: trains, and saves the dictionary and what it heard."""
    mesh = Mesh.start(feature_size=case.feature)
    assert (mesh.data_size, mesh.feature_size) == (case.data, case.feature)
    heard: list[Metrics] = []
    # Processes look at clocks that differ; only the first one's look counts.
    ticks = count(mesh.rank)
    loop.time.monotonic = lambda: float(next(ticks))  # type: ignore
    here, config = folder / case.folder, case.config

    def run() -> Dictionary:
        return train(model, rows_of(config), config, here, mesh=mesh, name="made", watch=heard.append)

    if case.mishap:
        if case.mishap == "differ":
            config = replace(config, seed=mesh.rank)
        with mishap(case, mesh):
            try:
                run()
            except (KeyboardInterrupt, LucidaError) as error:
                (folder / f"{case.name}-{mesh.rank}.txt").write_text(f"{type(error).__name__} {error}")
        if case.mishap != "stopped":
            return
    found = run()
    weights = {f"{layer}.{name}": t.contiguous() for layer, w in found.weights.items() for name, t in w.named().items()}
    save_file(weights | {"bias": found.decoder_biases}, here / f"dictionary-{mesh.rank}.safetensors")
    (here / f"heard-{mesh.rank}.json").write_text(json.dumps([vars(metrics) for metrics in heard]))


@contextmanager
def mishap(case: Case, mesh: Mesh) -> Iterator[None]:
    """Let it go wrong in the block."""
    save_checkpoint, save_tensors = checkpoint.save_checkpoint, checkpoint.save_file

    def stopping(state: RunState, folder: Path, mesh: Mesh) -> None:
        save_checkpoint(state, folder, mesh)
        if state.step == STEPS // 2:
            raise KeyboardInterrupt

    def full(tensors: dict[str, Tensor], path: Path) -> None:
        if mesh.rank == 1 and int(tensors["adam.step.decoder_bias"]) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        save_tensors(tensors, path)

    if case.mishap == "stopped":
        loop.save_checkpoint = stopping
    elif case.mishap == "full":
        checkpoint.save_file = full
    yield
    loop.save_checkpoint, checkpoint.save_file = save_checkpoint, save_tensors


def fork(run: Callable[[], None]) -> int:
    """Start one process; returns its id."""
    pid = os.fork()
    if pid:
        return pid
    try:
        run()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        os._exit(1)


def member(cases: list[Case], rank: int, port: int, folder: Path, models: dict[str, Model]) -> None:
    """The process of this rank of cases that have as many."""
    size = str(cases[0].size)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "GLOO_SOCKET_IFNAME": "lo"}
    for case in cases:
        worker(case, folder, models[case.config.products])


def killed(folder: Path) -> None:
    """Train SLOW, which saves all the time, and kill -9 it after its fifth step."""
    pid = fork(lambda: slow(folder))
    saved = folder / "checkpoint" / "state.json"
    while not saved.exists() or json.loads(saved.read_text())["step"] < 5:
        assert os.waitpid(pid, os.WNOHANG) == (0, 0), "it ended before it was killed"
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL


def meshes(folder: Path) -> None:
    """All cases, those that end in an error by themselves; fails with the first process that does."""
    loop.CALIBRATION_TOKENS = 200
    models = {products: model_of(products) for products in ("float32", "bfloat16")}
    broken = [case for case in CASES if case.mishap in ("full", "differ")]
    sound = [case for case in CASES if case not in broken]
    by_size = [[case for case in sound if case.size == size] for size in sorted({case.size for case in sound})]
    for cases in [*by_size, *([case] for case in broken)]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        running = {fork(partial(member, cases, rank, port, folder, models)) for rank in range(cases[0].size)}
        while running:
            pid, status = os.wait()
            running.discard(pid)
            if status:
                for other in running:
                    os.kill(other, signal.SIGKILL)
                raise SystemExit(f"a process of {', '.join(case.folder for case in cases)} failed")


if __name__ == "__main__":
    torch.set_num_threads(1)
    killed(Path(sys.argv[1]) / "killed")
    meshes(Path(sys.argv[1]))
