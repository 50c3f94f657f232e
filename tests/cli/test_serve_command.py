"""`lucida serve`: what it prints, what it refuses, how it ends."""

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from lucida.cli import app

RUN = "from lucida.cli.app import COMMANDS, main; COMMANDS['serve'] = 'lucida.cli.serve'; main()"


@pytest.fixture(autouse=True)
def _command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(app.COMMANDS, "serve", "lucida.cli.serve")
    monkeypatch.setenv("LUCIDA_CACHE", str(tmp_path / "cache"))


def serve(*arguments: str) -> Result:
    return CliRunner().invoke(app.main, ["serve", "--no-model", "--no-browser", "--model", "stories15m", *arguments])


def refused(result: Result) -> str:
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr


def test_a_port_that_is_taken_is_refused_with_what_to_try() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        line = refused(serve("--port", str(other.getsockname()[1])))
    assert "try --port 0" in line


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.2", "example.org"])
def test_other_machines_are_let_in_only_when_that_is_said(host: str) -> None:
    assert "--allow-remote" in refused(serve("--host", host))


def test_what_is_not_there_is_refused_before_anything_is_served(tmp_path: Path) -> None:
    assert "no graph file" in refused(serve("--port", "0", str(tmp_path / "gone.safetensors")))
    (tmp_path / "bad.json").write_text("{")
    assert "not JSON" in refused(serve("--port", "0", str(tmp_path / "bad.json")))
    unknown = CliRunner().invoke(app.main, ["serve", "--no-browser", "--port", "0", "--model", "nothing"])
    assert "no model is named" in refused(unknown)
    assert "no dictionary is named" in refused(serve("--port", "0", "--dictionaries", "nothing"))
    assert "gone" in refused(serve("--port", "0", "--index", str(tmp_path / "gone")))


def test_the_browser_is_started_with_an_address_for_one_use(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr("lucida.cli.serve._run", lambda settings, _, address: seen.append((settings.rules, address)))
    printed = CliRunner().invoke(app.main, ["serve", "--no-model", "--model", "stories15m", "--port", "0"]).output
    ((rules, address),) = seen
    assert address.endswith(f"?token={rules.once}")
    assert f"?token={rules.token}" in printed
    assert rules.once not in printed
    assert len(rules.once) >= 32


def test_it_prints_its_address_serves_and_ends_with_ctrl_c(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RUN, "serve", "--no-model", "--port", "0", "--folder", str(tmp_path)]
    environment = {**os.environ, "DISPLAY": "", "WAYLAND_DISPLAY": ""}
    server = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )  # fmt: skip
    try:
        assert server.stdout is not None
        address = re.search(r"http://127\.0\.0\.1:\d+/\?token=[\w-]{40,}", server.stdout.readline())
        assert address is not None
        base, token = address[0].split("/?token=")
        asked = urllib.request.Request(f"{base}/api/state", headers={"Authorization": f"Bearer {token}"})
        with urllib.request.urlopen(asked, timeout=20) as answer:
            assert answer.status == 200
            assert "uvicorn" not in str(answer.headers).lower()
        with pytest.raises(urllib.error.HTTPError) as refusal:
            urllib.request.urlopen(f"{base}/api/state", timeout=20)
        refusal.value.close()
        assert refusal.value.code == 401
        server.send_signal(signal.SIGINT)
        out, errors = server.communicate(timeout=20)
    finally:
        server.kill()
        server.wait()
    assert server.returncode == 0
    assert errors == ""
    assert "stopped; graphs and notes are kept" in out
