"""However a server ends, its model's process ends with it, and quietly."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from stub_server import TOKEN

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
STUB = Path(__file__).with_name("stub_server.py")


def until(condition: Callable[[], Any], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def is_there(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{process}/stat")
    # An orphan whose new parent does not look after it stays in the table as a zombie.
    return not (state.is_file() and state.read_text().rpartition(")")[2].split()[0] == "Z")


def ask(port: str, path: str, body: dict[str, Any] | None = None) -> Any:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/api/{path}",
        None if body is None else json.dumps(body).encode(),
        {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def _heed_hangup() -> None:
    """Tests that run under nohup would hand its deafness on to the server."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.mark.parametrize(
    ("how", "status"), [("SIGTERM", -signal.SIGTERM), ("SIGHUP", -signal.SIGTERM), ("SIGINT", 0), ("SIGKILL", -9)]
)
def test_no_model_computes_on_when_its_server_is_gone(how: str, status: int, tmp_path: Path) -> None:
    """A service manager, a closed terminal (which ends as in order), Ctrl-C, and a kill that leaves no time at all."""
    command = [sys.executable, str(STUB), str(tmp_path)]
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, preexec_fn=_heed_hangup, **pipes) as server:
        assert server.stdout is not None
        assert server.stderr is not None
        port = server.stdout.readline().strip()
        try:
            until(lambda: ask(port, "state")["model"]["status"] == "ready")
            worker = int((tmp_path / "worker").read_text())
            job = ask(port, "jobs/trace", {"prompt": "deaf"})["id"]
            until(lambda: ask(port, f"jobs/{job}")["status"] == "running")
            server.send_signal(getattr(signal, how))
            assert server.wait(20) == status
            until(lambda: not is_there(worker), 20)
        finally:
            server.kill()
        assert "Traceback" not in server.stderr.read()


def test_nohup_keeps_a_server_when_the_terminal_closes(tmp_path: Path) -> None:
    command = ["nohup", sys.executable, str(STUB), str(tmp_path)]
    quiet = {"stdin": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **quiet) as server:
        assert server.stdout is not None
        port = server.stdout.readline().strip()
        try:
            until(lambda: ask(port, "state")["model"]["status"] == "ready")
            server.send_signal(signal.SIGHUP)
            time.sleep(0.3)
            assert ask(port, "state")["model"]["status"] == "ready"
        finally:
            server.terminate()
            server.wait(20)
