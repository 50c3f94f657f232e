"""A model's process that lives in the test: it says what the test tells it to."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from interchange_graphs import random_graph
from starlette.testclient import TestClient

from lucida.server.app import Settings, create_app
from lucida.server.messages import ModelState
from lucida.server.safety import Rules
from lucida.server.workspace import Workspace

__all__ = ["FakeWorker", "Page", "page_of", "random_graph"]

TOKEN = "the-token-of-this-test"
HOST = "127.0.0.1:8765"
READY = {
    "is": "ready",
    "name": "tiny",
    "dictionaries": "neurons",
    "fingerprint": "neurons",
    "n_layers": 3,
    "widths": [4, 4, 4],
}


class FakeWorker:
    """Tasks are answered by `answer(worker, message)` on the loop; without one they stay open."""

    def __init__(
        self, answer: Callable[["FakeWorker", dict[str, Any]], None] | None = None, *, ready: bool = True
    ) -> None:
        self.said: list[dict[str, Any]] = []
        self.starts = self.kills = self.stops = 0
        self._answer, self._ready = answer, ready

    def start(self, hear: Callable[[dict[str, Any]], None]) -> None:
        self.starts += 1
        self._hear, self._loop = hear, asyncio.get_running_loop()
        if self._ready:
            self._loop.call_soon(hear, READY)

    def say(self, message: dict[str, Any]) -> None:
        self.said.append(message)
        if self._answer is not None:
            self._loop.call_soon(self._answer, self, message)

    def tell(self, **message: Any) -> None:
        """Say something to the server, from any thread."""
        self._loop.call_soon_threadsafe(self._hear, {"is": message.pop("kind"), **message})

    def tasks(self) -> list[str]:
        return [message["id"] for message in self.said if message["do"] == "task"]

    def kill(self) -> None:
        self.kills += 1
        self._loop.call_soon(self._hear, {"is": "ended", "code": -9})

    def stop(self) -> None:
        self.stops += 1


@dataclass
class Page:
    """A server without a network, and a browser's page on it."""

    app: FastAPI
    client: TestClient
    workspace: Workspace
    worker: FakeWorker | None
    headers: dict[str, str] = field(default_factory=lambda: {"authorization": f"Bearer {TOKEN}"})


def page_of(folder: Path, worker: FakeWorker | None = None, **rules: Any) -> Page:
    """A server on a folder; enter `page.client` to start it."""
    workspace = Workspace(folder)
    status = "none" if worker is None else "loading"
    model = ModelState(name="tiny", dictionaries="neurons", status=status)
    known = Rules(TOKEN, (HOST, "localhost:8765"), 8765, **rules)
    app = create_app(Settings(workspace, known, worker, model, folder / "no page is built here"))
    client = TestClient(app, base_url=f"http://{HOST}", follow_redirects=False)
    return Page(app, client, workspace, worker)
