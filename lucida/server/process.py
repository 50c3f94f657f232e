"""The page's end of the model's process: start it, talk to it, notice when it ends, end it."""

import asyncio
import json
import multiprocessing
import queue
import signal
import threading
from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from lucida.server import worker

Hear = Callable[[dict[str, Any]], None]
SECONDS_TO_END = 3.0


@runtime_checkable
class Worker(Protocol):
    """What the jobs need of a model's process; tests put one of their own in its place."""

    def start(self, hear: Hear) -> None:
        """Begin. `hear` gets every message, on the loop that runs now; the last one of a process is "ended"."""

    def say(self, message: dict[str, Any]) -> None:
        """Send a message; lost when the process is gone."""

    def kill(self) -> None:
        """End the process at once."""

    def stop(self) -> None:
        """End the process in order, for good."""


class ModelProcess:
    """A child process that runs `lucida.server.worker.main` with a microscope."""

    def __init__(self, settings: worker.ModelSettings, main: Callable[..., None] = worker.main) -> None:
        self._settings, self._main = settings, main
        self._process: Any = None
        self._connection: Any = None
        self._outbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def start(self, hear: Hear) -> None:
        """Begin a new process; `hear` gets its messages on the running loop."""
        # The thread that wrote to the one before waits for more.
        self._outbox.put(None)
        # A fork would copy the server's sockets and threads into the child.
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=self._main, args=(theirs, self._settings), daemon=True)
        self._process.start()
        # With our copy open we would never see the end of the pipe.
        theirs.close()
        self._outbox = queue.SimpleQueue()
        loop = asyncio.get_running_loop()
        listener = (self._process, self._connection, loop, hear)
        threading.Thread(target=_listen, args=listener, daemon=True).start()
        threading.Thread(target=_send, args=(self._connection, self._outbox), daemon=True).start()

    def say(self, message: dict[str, Any]) -> None:
        """Send a message; a thread of its own writes it, so that a busy child never stops the page."""
        self._outbox.put(json.dumps(message).encode())

    def kill(self) -> None:
        """End the process at once; "ended" follows."""
        if self._process is not None:
            self._process.kill()

    def stop(self) -> None:
        """Close the pipe, at whose end the process ends itself; kill it if it does not."""
        if self._process is None:
            return
        self._outbox.put(None)
        # terminate, not only close: a child in the middle of one long product would not see it.
        self._process.terminate()
        self._process.join(SECONDS_TO_END)
        if self._process.is_alive():
            self._process.kill()
            self._process.join(SECONDS_TO_END)


def _send(connection: Any, outbox: "queue.SimpleQueue[bytes | None]") -> None:
    while (message := outbox.get()) is not None:
        try:
            connection.send_bytes(message)
        except OSError:
            return


def _listen(process: Any, connection: Any, loop: asyncio.AbstractEventLoop, hear: Hear) -> None:
    def tell(message: dict[str, Any]) -> None:
        try:
            loop.call_soon_threadsafe(hear, message)
        except RuntimeError:
            return  # the server has stopped

    try:
        while True:
            tell(json.loads(connection.recv_bytes()))
    except (EOFError, OSError):
        process.join()
        connection.close()
        tell({"is": "ended", "code": process.exitcode})


def how_it_ended(code: int | None) -> str:
    """Why a process ended, in words a reader can do something with."""
    if code == -9:
        return (
            "out of memory: the system ended the model's process; close other programs, or take a shorter prompt or a "
            "smaller model"
        )
    try:
        reason = signal.Signals(-(code or 0)).name
    except ValueError:
        reason = f"exit code {code}"
    return f"the model's process ended unexpectedly ({reason}); the terminal of lucida serve may say why"
