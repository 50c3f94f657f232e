"""The frame around all commands: quick to start, and what goes wrong is said in one line."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner
from command_bench import bench, run

from lucida.cli import main
from lucida.cli.app import COMMANDS
from lucida.cli.screen import bar, percent, progress, show_json, show_table, size
from lucida.errors import GraphError

HEAVY = ("torch", "numpy", "transformers", "matplotlib", "rich", "safetensors")


def lucida(*arguments: str) -> subprocess.Popen[str]:
    # A background job of a shell starts with Ctrl-C ignored, and Python then leaves it so.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "from lucida.cli import main; main(prog_name='lucida')"
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_help_and_import_load_nothing_heavy() -> None:
    code = (
        "import sys, json, lucida\n"
        "from lucida.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(HEAVY) & set(json.loads(done.stderr.splitlines()[-1])) == set()
    for name in COMMANDS:
        assert f"\n  {name} " in done.stdout


def test_help_is_instant() -> None:
    """0.3 s is promised; the best of many leaves out what else the machine does."""
    times = [1.0]
    while min(times) >= 0.3 and len(times) < 20:
        started = time.perf_counter()
        lucida("--help").communicate()
        times.append(time.perf_counter() - started)
    assert min(times) < 0.3


def test_every_command_has_help() -> None:
    for name in COMMANDS:
        result = run(name, "--help")
        assert result.exit_code == 0
        assert result.stdout.startswith(f"Usage: lucida {name}")


def test_an_unknown_command_is_a_usage_error() -> None:
    assert run("telescope").exit_code == 2


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], Any]:
    """Make `lucida score` raise the given exception; return the result of calling it."""

    def call(error: BaseException, *before: str) -> Any:
        def broken(*_: object) -> None:
            raise error

        monkeypatch.setattr("lucida.cli.graphs.read_graph", broken)
        return CliRunner().invoke(main, [*before, "score", "g.safetensors"])

    return call


class OutOfMemoryError(RuntimeError):
    """Named like torch's."""


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (GraphError("no node\nhere"), "error: no node here"),
        (MemoryError(), "out of memory"),
        (OutOfMemoryError("CUDA out of memory"), "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 8 TB"), "out of memory"),
        (OSError(errno.ENOSPC, "No space left on device"), "disk is full"),
        (RuntimeError("SafetensorError: No space left on device (os error 28)"), "disk is full"),
    ],
)
def test_what_can_be_mended_is_one_line(fails: Callable[..., Any], error: Exception, says: str) -> None:
    result = fails(error)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert says in result.stderr
    assert result.stderr.count("\n") == 1


def test_debug_adds_the_traceback(fails: Callable[..., Any]) -> None:
    result = fails(GraphError("no node here"), "--debug")
    assert result.exit_code == 2
    assert "Traceback" in result.stderr
    assert result.stderr.endswith("error: no node here\n")


def test_a_bug_keeps_its_traceback(fails: Callable[..., Any]) -> None:
    assert isinstance(fails(KeyError("oops")).exception, KeyError)


def test_interruption_says_that_nothing_is_half_written(fails: Callable[..., Any]) -> None:
    result = fails(KeyboardInterrupt())
    assert result.exit_code == 130
    assert result.stderr == "stopped; nothing half-written\n"


def test_ctrl_c_in_a_trace_leaves_no_file(tmp_path: Any) -> None:
    """A real process, a real signal, in the middle of loading a model."""
    out = tmp_path / "g.safetensors"
    arguments = ("trace", "--model", bench().model, "--ids", "1,2,3", "--out", str(out))
    process = lucida(*arguments)
    assert process.stderr is not None
    assert process.stderr.readline().startswith("loading weights")
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=180)
    assert process.returncode == 130, stderr
    assert stderr.splitlines()[-1] == "stopped; nothing half-written"
    assert list(tmp_path.iterdir()) == []


def test_a_closed_pipe_is_no_error() -> None:
    """`lucida models | head -1` must not end in a traceback."""
    read, write = os.pipe()
    os.close(read)
    code = "from lucida.cli import main; main(['models', 'list', '--json'])"
    done = subprocess.run([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert done.stderr == ""


def test_tokens_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """Rich would take brackets for markup, and an unbalanced one for an error."""
    show_table("t", ("token",), [(repr("[/bold] :smile: [red]"),)])
    assert "'[/bold] :smile: [red]'" in capsys.readouterr().out


def test_json_has_no_nan(capsys: pytest.CaptureFixture[str]) -> None:
    show_json({"a": float("nan"), "b": (1, float("inf")), "c": "é"})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [1, None], "c": "é"}


@pytest.mark.parametrize(
    ("share", "shown"),
    [(0.0, "0.0 %"), (1e-9, "< 0.1 %"), (0.0005, "0.1 %"), (0.293, "29.3 %"), (1, "100.0 %")],
)
def test_shares(share: float, shown: str) -> None:
    assert percent(share) == shown


def test_bars_and_sizes() -> None:
    assert bar(0) == ""
    assert bar(1, 4) == bar(2, 4) == "████"
    assert bar(0.5, 1) == "▌"
    assert [size(n) for n in (0, 999, 92_871_040, 3_090_000_000)] == ["0 B", "999 B", "93 MB", "3.1 GB"]


def test_progress_off_a_terminal_is_a_line_for_each_stage(capsys: pytest.CaptureFixture[str]) -> None:
    with progress() as report:
        assert report is not None
        for done in range(3):
            report("fetching", done, 2)
        report("edges", 0, None)
    assert capsys.readouterr().err == "fetching ...\nedges ...\n"
    with progress(quiet=True) as report:
        assert report is None


def test_progress_bars_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress() as report:
        assert report is not None
        report("fetching [/bold]", 0, None)
        report("fetching [/bold]", 5, 10)
