"""The line between a task in the model's process and the job that it works for."""

import time
from collections import deque
from collections.abc import Callable
from typing import Any

SECONDS_BETWEEN = 0.05
"""A count inside a stage is told at most so often."""


class Cancelled(Exception):
    """The reader cancelled the job: raised inside the task at its next report of progress."""


class Line:
    """What a task may say to its job, and hear from it.

    `progress` is a `lucida.progress.Progress`: give it to whatever takes one. It raises Cancelled once the job was
    cancelled; a task that has nothing to save need not catch it.
    """

    def __init__(self, say: Callable[[dict[str, Any]], None]) -> None:
        self._say = say
        self._stage: str | None = None
        self._told = 0.0
        self._inbox: deque[dict[str, Any]] = deque()
        self.is_cancelled = False

    def progress(self, stage: str, done: int, total: int | None) -> None:
        """Tell how far the work is. Raises Cancelled when the job was cancelled."""
        if self.is_cancelled:
            raise Cancelled
        now = time.monotonic()
        if stage == self._stage and done != total and now - self._told < SECONDS_BETWEEN:
            return
        self._stage, self._told = stage, now
        total = None if total is None else int(total)
        self._say({"is": "progress", "stage": stage, "done": int(done), "total": total})

    def send(self, data: dict[str, Any]) -> None:
        """Send a `data` event to whoever follows the job."""
        self._say({"is": "data", "data": data})

    def inbox(self) -> list[dict[str, Any]]:
        """The messages that came for this job since it was last asked."""
        found = []
        while self._inbox:
            found.append(self._inbox.popleft())
        return found

    # --- the other end: the thread that listens ---------------------------------------------------

    def cancel(self) -> None:
        """Make the next report of progress raise Cancelled."""
        self.is_cancelled = True

    def deliver(self, message: dict[str, Any]) -> None:
        """Put a message into the inbox."""
        self._inbox.append(message)
