"""`lucida serve` as a person starts it: a process of its own."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, expect

from lucida.graph import Graph

ADDRESS = re.compile(r"https?://\S+")


@dataclass
class Server:
    """A running server: `url` with the token, `address` without."""

    process: subprocess.Popen
    url: str
    log: Path

    @property
    def address(self) -> str:
        """Where it listens, such as http://127.0.0.1:8765."""
        return self.url.split("/?")[0]

    @property
    def token(self) -> str:
        """What opens it."""
        return self.url.split("token=")[1].split("#")[0]

    def ask(self, path: str, *, method: str = "GET", body: Any = None) -> Any:
        """The answer of the API, as a program would ask."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        kind = "application/octet-stream" if isinstance(body, bytes) else "application/json"
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": kind}
        request = urllib.request.Request(f"{self.address}/api/{path}", data, headers, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def upload(self, graph: Graph) -> str:
        """Put a graph on the server; its id."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "g.safetensors"
            graph.save(path)
            return self.ask("graphs", method="POST", body=path.read_bytes())["id"]

    def traced(self, prompt: str, **options: Any) -> str:
        """Trace a prompt, not deeply; the graph's id."""
        job = self.ask("jobs/trace", method="POST", body={"prompt": prompt, "max_nodes": 256, **options})
        job = self.finished(job["id"])
        assert job["status"] == "done", job
        return job["result"]["graph"]

    def finished(self, job: str, seconds: float = 180) -> dict[str, Any]:
        """A job when it has ended."""
        end = time.monotonic() + seconds
        while (now := self.ask(f"jobs/{job}"))["status"] in ("queued", "running"):
            assert time.monotonic() < end, now
            time.sleep(0.1)
        return now

    def wait_for_notes(
        self, graph: str, is_so: Callable[[dict[str, Any]], bool], seconds: float = 30
    ) -> dict[str, Any]:
        """The notes of a graph once the page has saved what this asks for."""
        end = time.monotonic() + seconds
        while not is_so(notes := self.ask(f"graphs/{graph}/notes")):
            assert time.monotonic() < end, notes
            time.sleep(0.05)
        return notes

    def open(self, page: Page, route: str = "#/") -> Page:
        """Open the page as the printed address does, at a route."""
        page.goto(f"{self.address}/?token={self.token}{route}")
        expect(page.get_by_role("main")).to_be_visible()
        return page

    def wait_for_model(self, seconds: float = 120) -> None:
        """Wait until the model is loaded."""
        end = time.monotonic() + seconds
        while (state := self.ask("state")["model"])["status"] == "loading":
            assert time.monotonic() < end, f"the model is not loaded after {seconds} s: {state}"
            time.sleep(0.2)
        assert state["status"] == "ready", state

    def stop(self) -> int:
        """Ctrl-C; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            return self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()


@contextmanager
def serving(*options: object, folder: Path, port: int = 0) -> Iterator[Server]:
    """A server on a free port, stopped at the end."""
    command = [sys.executable, "-m", "lucida", "serve", *options, "--no-browser", "--port", port, "--folder", folder]
    log = folder.with_name(f"{folder.name}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as out:
        environment = os.environ | {"PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen([str(part) for part in command], stdout=out, stderr=out, env=environment)
        server = Server(process, "", log)
        try:
            server.url = _address(server)
            yield server
        finally:
            server.stop()


def _address(server: Server, seconds: float = 60) -> str:
    """The address that the server prints when it is ready."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        said = server.log.read_text()
        found = [url for url in ADDRESS.findall(said) if "token=" in url]
        if found:
            return found[0]
        assert server.process.poll() is None, f"the server ended: {said}"
        time.sleep(0.05)
    raise AssertionError(f"the server did not say where it listens: {server.log.read_text()}")
