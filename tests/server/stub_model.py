"""A model's process with no model in it: its tasks do what their prompt says. Runs in a real child process."""

import os
import signal
import sys
import tempfile
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from types import ModuleType
from typing import Any

from lucida.errors import PromptError
from lucida.server.line import Cancelled, Line
from lucida.server.worker import Desk


def run(scope: Any, request: dict[str, Any], line: Line) -> dict[str, Any]:
    """A task that ends as its prompt says."""
    match request["prompt"]:
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            os._exit(3)
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "numpy" | "torch" | "map" as kind:
            ask_for_too_much(kind)
        case "bug":
            raise KeyError("inside")
        case "memory":
            raise MemoryError
        case "mistake":
            raise PromptError("the prompt is\nempty")
        case "deaf":
            time.sleep(60)
        case "slow":
            for step in range(1_000_000):
                line.progress("counting", step, 1_000_000)
                time.sleep(0.002)
        case "keeps":
            try:
                while True:
                    line.progress("writing", 0, None)
                    time.sleep(0.002)
            except Cancelled:
                return {"kept": True}
        case "echo":
            line.progress("listening", 0, 1)
            while not (heard := line.inbox()):
                time.sleep(0.002)
            line.send({"heard": heard})
    return {"graph": "done"}


def ask_for_too_much(kind: str) -> None:
    """Ask for more memory than the limit of this process allows."""
    import resource

    import numpy as np
    import torch

    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (64 * 2**30, before[1]))
    try:
        if kind == "numpy":
            np.empty(2**37)
        elif kind == "torch":
            torch.empty(2**37)
        with tempfile.TemporaryDirectory() as folder:
            torch.from_file(str(Path(folder) / "rows"), shared=True, size=2**35)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def main(connection: Connection, settings: Any) -> None:
    """As `lucida.server.worker.main`, without loading."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    task = ModuleType("lucida.server.tasks.trace")
    task.run = run  # type: ignore[attr-defined]
    sys.modules["lucida.server.tasks.trace"] = task
    desk = Desk(connection)
    threading.Thread(target=desk.listen, daemon=True).start()
    desk.say({"is": "ready", "name": "stub", "dictionaries": "neurons", "fingerprint": "neurons", "pid": os.getpid()})
    desk.work()


def dies_while_loading(connection: Connection, settings: Any) -> None:
    """A process that the system ends before it is ready."""
    os.kill(os.getpid(), signal.SIGKILL)
