"""Where the CPU seconds of a trace or of training go, by timing the functions it is made of from outside.

Times are exclusive: a stage stops counting while one inside it runs. The last stage on the list is whatever no
named function did.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

from meter import cpu_seconds

STAGES = (
    ("forward", "lucida.attribution.record"),
    ("active features", "lucida.attribution.replace_features"),
    ("sweep", "lucida.selection.sweep"),
    ("read vectors", "lucida.selection.feature_targets"),
    ("selection", "lucida.attribution.expand"),
    ("assembly", "lucida.attribution.assemble"),
    ("labels", "lucida.attribution.label_features"),
)
TRAINING_STAGES = (
    ("model forward", "lucida.training.activations.run_body"),
    ("shuffle and serve", "lucida.training.activations.Activations.batch"),
    ("encode", "lucida.training.step.select"),
    ("decode", "lucida.training.step.sparse_decode"),
    ("add up", "lucida.training.step._Written.add"),
    ("backward", "lucida.training.step._Written.backward"),
    ("clip", "lucida.training.loop.clip_gradients"),
    ("Adam", "torch.optim.Adam.step"),
)
REST = "rest"


@dataclass
class Stages:
    """CPU and wall seconds of each stage, and what the stages were called with and gave."""

    cpu: dict[str, float] = field(default_factory=dict)
    wall: dict[str, float] = field(default_factory=dict)
    calls: dict[str, list[tuple[tuple, Any]]] = field(default_factory=dict)
    settle: Callable[[], None] = lambda: None
    """Wait for a device to finish before the clocks are read."""
    keep: bool = True
    """Whether to remember `calls`, which holds on to their tensors."""
    _running: list[str] = field(default_factory=lambda: [REST])
    _since: tuple[float, float] = (0.0, 0.0)

    def switch(self) -> None:
        """Charge the time since the last switch to the stage that runs."""
        self.settle()
        now = (cpu_seconds(), time.perf_counter())
        stage = self._running[-1]
        self.cpu[stage] = self.cpu.get(stage, 0.0) + now[0] - self._since[0]
        self.wall[stage] = self.wall.get(stage, 0.0) + now[1] - self._since[1]
        self._since = now

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, timed as a stage."""

        def call(*args: Any, **kwargs: Any) -> Any:
            self.switch()
            self._running.append(stage)
            try:
                result = function(*args, **kwargs)
            finally:
                self.switch()
                self._running.pop()
            if self.keep:
                self.calls.setdefault(stage, []).append((args, result))
            return result

        return call


@contextmanager
def watch_stages(
    settle: Callable[[], None] = lambda: None, *, where: Sequence[tuple[str, str]] = STAGES, keep: bool = True
) -> Iterator[Stages]:
    """Time the stages of every trace (or of training: `TRAINING_STAGES`) in the block."""
    stages = Stages(settle=settle, keep=keep)
    with ExitStack() as stack:
        for stage, name in where:
            patch = mock.patch(name)
            original, _ = patch.get_original()
            stack.enter_context(mock.patch(name, stages.timed(stage, original)))
        stages._since = (cpu_seconds(), time.perf_counter())
        yield stages
        stages.switch()
