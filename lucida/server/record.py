"""A job and all that was said of it."""

import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from lucida.server.messages import Job, JobKind, JobStatus, Stage

MOST_EVENTS = 20_000
"""Data events of one job that are kept for pages that follow later; the oldest go first."""


@dataclass
class Record:
    """A job and all that was said of it. `change` counts up whenever a page should look again."""

    id: str
    kind: JobKind
    title: str
    request: dict[str, Any]
    status: JobStatus = "queued"
    stages: list[list[Any]] = field(default_factory=list)
    """Name, done, total, when it began, when it ended or None."""
    error: str = ""
    result: Any = None
    began: float = 0.0
    ended: float = 0.0
    is_cancelled: bool = False
    data: deque[Any] = field(default_factory=lambda: deque(maxlen=MOST_EVENTS))
    n_data: int = 0
    change: int = 0
    inbox: list[dict[str, Any]] = field(default_factory=list)
    """Messages that came before it began."""

    @property
    def is_over(self) -> bool:
        """Whether nothing more will be said of it."""
        return self.status in ("done", "failed", "cancelled")

    def seconds(self) -> float:
        """How long it has run."""
        return (self.ended or time.monotonic()) - self.began if self.began else 0.0

    def job(self, place: int) -> Job:
        """The job as it stands, with `place` jobs before it."""
        now = self.ended or time.monotonic()
        stages = [
            Stage(name=name, done=done, total=total, seconds=round((end or now) - begin, 3))
            for name, done, total, begin, end in self.stages
        ]
        return Job(
            id=self.id,
            kind=self.kind,
            title=self.title,
            status=self.status,
            place=place,
            stages=stages,
            error=self.error,
            seconds=round(self.seconds(), 3),
            result=self.result,
        )

    def note(self, name: str, done: int, total: int | None) -> None:
        """Write down how far a stage is; a stage that comes again goes on."""
        now = time.monotonic()
        current = self.stages[-1] if self.stages else None
        if current is None or current[0] != name:
            if current is not None:
                current[4] = now
            self.stages.append([name, done, total, now, None])
            return
        current[1:3] = done, total
