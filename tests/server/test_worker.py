"""The model's process as a real child: what it says when it fails, dies, or is told to stop."""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import stub_model

from lucida.server import jobs as jobs_module
from lucida.server.jobs import Jobs
from lucida.server.messages import ModelState
from lucida.server.process import ModelProcess
from lucida.server.record import Record
from lucida.server.worker import ModelSettings

SETTINGS = ModelSettings("stub")


def play(script: Callable[[Jobs], Awaitable[None]], main: Any = stub_model.main) -> None:
    async def whole() -> None:
        jobs = Jobs(ModelProcess(SETTINGS, main), ModelState(name="stub", dictionaries="", status="loading"))
        jobs.open()
        try:
            await asyncio.wait_for(script(jobs), 30)
        finally:
            jobs.close()

    asyncio.run(whole())


async def done(jobs: Jobs, prompt: str) -> Record:
    record = jobs.record(jobs.add("trace", prompt, {"prompt": prompt}).id)
    async for _ in jobs.events(record.id):
        pass
    return record


async def until(condition: Callable[[], Any]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


def test_errors_become_sentences_and_the_process_lives_on(capfd: pytest.CaptureFixture[str]) -> None:
    async def script(jobs: Jobs) -> None:
        mistake, memory, bug, good = [await done(jobs, prompt) for prompt in ("mistake", "memory", "bug", "good")]
        assert (mistake.status, mistake.error) == ("failed", "the prompt is empty")
        assert memory.error.startswith("out of memory: take a shorter prompt")
        assert bug.error.startswith("a bug of ours: KeyError: 'inside'")
        assert "Traceback" not in bug.error
        assert (good.status, good.result) == ("done", {"graph": "done"})

    play(script)
    log = capfd.readouterr().err
    assert log.count("Traceback") == 1, "the traceback of the bug, and of nothing else, is in the server's log"
    assert "stub_model.py" in log


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not hold to RLIMIT_AS")
def test_memory_that_the_system_refuses_is_said(capfd: pytest.CaptureFixture[str]) -> None:
    """numpy, torch and the map of a file each say it in their own words, of which only numpy's is a MemoryError."""

    async def script(jobs: Jobs) -> None:
        for prompt in ("numpy", "torch", "map"):
            record = await done(jobs, prompt)
            assert record.status == "failed"
            assert record.error.startswith("out of memory: take a shorter prompt"), prompt
        assert (await done(jobs, "good")).status == "done", "the same process goes on"

    play(script)
    assert "Traceback" not in capfd.readouterr().err


def test_a_process_that_the_system_ends_is_told_and_started_again() -> None:
    async def script(jobs: Jobs) -> None:
        waiting = [jobs.add("trace", prompt, {"prompt": prompt}).id for prompt in ("die", "exit", "crash", "good")]
        for name in waiting:
            async for _ in jobs.events(name):
                pass
        killed, left, crashed, good = [jobs.record(name) for name in waiting]
        assert "out of memory: the system ended" in killed.error
        assert "exit code 3" in left.error
        assert "SIGSEGV" in crashed.error
        assert good.status == "done"

    play(script)


def test_a_process_that_dies_while_it_loads_is_not_started_for_ever() -> None:
    async def script(jobs: Jobs) -> None:
        await until(lambda: jobs.model.status != "loading")
        assert jobs.model.status == "failed"
        assert "could not be loaded: out of memory" in jobs.model.message

    play(script, stub_model.dies_while_loading)


def test_cancelling_stops_a_task_and_keeps_what_it_returns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_module, "SECONDS_TO_CANCEL", 10)

    async def script(jobs: Jobs) -> None:
        for prompt, result in (("slow", None), ("keeps", {"kept": True})):
            record = jobs.record(jobs.add("trace", prompt, {"prompt": prompt}).id)
            await until(lambda record=record: record.stages)
            began = time.monotonic()
            jobs.cancel(record.id)
            await until(lambda record=record: record.is_over)
            assert time.monotonic() - began < 5
            assert (record.status, record.result) == ("cancelled", result)
        assert (await done(jobs, "good")).status == "done", "the same process goes on"

    play(script)


def test_a_task_that_does_not_look_up_is_ended_with_its_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_module, "SECONDS_TO_CANCEL", 0.1)

    async def script(jobs: Jobs) -> None:
        await until(lambda: jobs.model.status == "ready")
        deaf = jobs.record(jobs.add("trace", "deaf", {"prompt": "deaf"}).id)
        await asyncio.sleep(0.1)
        jobs.cancel(deaf.id)
        await until(lambda: deaf.is_over)
        assert (deaf.status, deaf.error) == ("cancelled", "")
        assert (await done(jobs, "good")).status == "done"

    play(script)


def test_messages_reach_the_running_task() -> None:
    async def script(jobs: Jobs) -> None:
        record = jobs.record(jobs.add("trace", "echo", {"prompt": "echo"}).id)
        await until(lambda: record.stages)
        jobs.deliver(record.id, {"steers": []})
        await until(lambda: record.is_over)
        assert list(record.data) == [{"heard": [{"steers": []}]}]

    play(script)


def test_the_pages_process_loads_no_torch() -> None:
    """It must start at once, and stay small beside the model."""
    code = "import sys; from lucida.server.app import create_app; create_app(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_no_process_is_left_behind() -> None:
    """A server that ends while its model works must not leave it computing."""
    seen: list[int] = []

    async def script(jobs: Jobs) -> None:
        jobs.add("trace", "deaf", {"prompt": "deaf"})
        await until(lambda: jobs.model.status == "ready")
        seen.append(jobs._worker._process.pid)  # type: ignore[union-attr]

    play(script)
    with pytest.raises(ProcessLookupError):
        os.kill(seen[0], 0)
