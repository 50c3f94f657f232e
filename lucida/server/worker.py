"""The model's process: loads the microscope once, then works off tasks that come over a pipe.

Messages are JSON both ways, so that nothing is ever unpickled. The page's process may end this one at any time.
"""

import json
import os
import queue
import signal
import sys
import threading
import traceback
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lucida.errors import LucidaError
from lucida.server.line import Cancelled, Line
from lucida.server.problems import one_line

if TYPE_CHECKING:
    from lucida.microscope import Microscope

TASKS = ("trace", "intervene", "steer", "watch", "tokens")
OUT_OF_MEMORY = (
    "out of memory: take a shorter prompt, fewer expanded features or a smaller model, or close other programs"
)


@dataclass(frozen=True)
class ModelSettings:
    """What the process loads; the options of `lucida serve`. `index` is a folder given by hand, or None;
    `folder` is where the page keeps graphs and the reader's names of features.
    """

    model: str
    dictionaries: str | None = None
    index: Path | None = None
    folder: Path | None = None
    dtype: str = "float32"
    device: str = "cpu"
    offline: bool = False
    allow_unverified: bool = False


def main(connection: Connection, settings: ModelSettings) -> None:
    """Run the process until the pipe closes."""
    # Ctrl-C reaches every process of the terminal; the page's process ends this one in order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    desk = Desk(connection)
    threading.Thread(target=desk.listen, daemon=True).start()
    desk.load(settings)
    desk.work()


class Desk:
    """Where messages come in and answers go out. One thread listens, the main thread works."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._tasks: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._lines: dict[str, Line] = {}
        self._scope: Microscope | None = None

    def listen(self) -> None:
        """Take messages in as they come; end the process when the pipe closes."""
        try:
            while True:
                self._take(json.loads(self._connection.recv_bytes()))
        except (EOFError, OSError):
            # The page is gone: whatever is being computed, nobody will read it.
            os._exit(0)

    def _take(self, message: dict[str, Any]) -> None:
        name = message["id"]
        match message["do"]:
            case "task":
                self._lines[name] = Line(lambda said: self.say({**said, "id": name}))
                self._tasks.put(message)
            case "cancel" if name in self._lines:
                self._lines[name].cancel()
            case "inbox" if name in self._lines:
                self._lines[name].deliver(message["message"])

    def say(self, message: dict[str, Any]) -> None:
        """Send a message to the page's process."""
        self._connection.send_bytes(json.dumps(message).encode())

    def load(self, settings: ModelSettings) -> None:
        """Load the microscope and say so; what cannot be loaded is said in one line, and ends the process."""
        last = ""

        def report(stage: str, done: int, total: int | None) -> None:
            nonlocal last
            line = f"{stage}, {100 * done // total} %" if total else stage
            if line != last:
                last = line
                self.say({"is": "loading", "message": line})

        try:
            self._scope = _open(settings, report)
            self.say({"is": "ready", **_described(self._scope)})
        except Exception as error:
            self.say({"is": "failed to load", "error": in_one_line(error)})
            sys.exit(0)

    def work(self) -> None:
        """Do one task after the other, for ever."""
        while True:
            task = self._tasks.get()
            line = self._lines[task["id"]]
            self.say({**self._done(task, line), "id": task["id"]})
            del self._lines[task["id"]]

    def _done(self, task: dict[str, Any], line: Line) -> dict[str, Any]:
        """The message that ends a task."""
        assert task["kind"] in TASKS
        try:
            if line.is_cancelled:
                raise Cancelled
            run = import_module(f"lucida.server.tasks.{task['kind']}").run
            result = run(self._scope, task["request"], line)
        except Cancelled:
            return {"is": "cancelled", "result": None}
        except Exception as error:
            return {"is": "failed", "error": in_one_line(error)}
        # A task that keeps what it had when it was cancelled returns it.
        return {"is": "cancelled" if line.is_cancelled else "done", "result": result}


def in_one_line(error: Exception) -> str:
    """What to tell the reader of an error. Bugs go to the server's log with their traceback, and only there."""
    text = str(error)
    if isinstance(error, LucidaError):
        return one_line(text)
    is_memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if is_memory or "allocate memory" in text or "bad_alloc" in text:
        return OUT_OF_MEMORY
    if "No space left on device" in text:
        return "the disk is full: free some space and try again"
    traceback.print_exception(error, file=sys.stderr)
    return f"a bug of ours: {type(error).__name__}: {one_line(text, 200)} (the terminal of lucida serve shows where)"


def _open(settings: ModelSettings, report: Any) -> "Microscope":
    from lucida.microscope import Microscope
    from lucida.server.index_reading import readers_index

    report("starting", 0, None)
    scope = Microscope(
        settings.model,
        settings.dictionaries,
        dtype=settings.dtype,
        device=settings.device,
        offline=settings.offline,
        allow_unverified=settings.allow_unverified,
        progress=report,
    )
    if settings.index is not None:
        # An index given by hand takes the place of the one beside the dictionary: labels of new graphs too.
        scope.__dict__["index"] = scope.features(settings.index)
    if settings.folder is not None and scope.index is not None:
        scope.__dict__["index"] = readers_index(scope.index, settings.folder)
    return scope


def _described(scope: "Microscope") -> dict[str, Any]:
    """What the page is told of the model; the fields of `ModelState`, and the dictionary's fingerprint."""
    from lucida.features.effects.directions import feature_space

    model, dictionary = scope.model, scope.dictionary
    return {
        "name": model.name,
        "dictionaries": "neurons" if dictionary is None else dictionary.name,
        "fingerprint": "neurons" if dictionary is None else dictionary.source.fingerprint,
        "n_layers": model.n_layers,
        "context": model.context,
        "is_chat": bool(getattr(model.tokenizer, "chat_template", None)),
        "widths": list(feature_space(model, dictionary).n_features),
    }
