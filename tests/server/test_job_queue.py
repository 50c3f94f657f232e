"""The queue: one at a time, told in stages, cancelled, replayed; and a model that dies."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_worker import FakeWorker, Page, page_of, random_graph

from lucida.server import jobs as jobs_module
from lucida.server.jobs import MOST_WAITING, Jobs
from lucida.server.messages import ModelState
from lucida.server.problems import Conflict, NotFound, TooMany, Unavailable

LOADING = ModelState(name="tiny", dictionaries="neurons", status="loading")


def answering(worker: FakeWorker, message: dict[str, Any]) -> None:
    """Do a trace: two stages, then the graph."""
    if message["do"] == "task":
        for done in (0, 3):
            worker.tell(kind="progress", id=message["id"], stage="edges", done=done, total=3)
        worker.tell(kind="done", id=message["id"], result={"graph": message["request"].get("graph", "")})


async def started(worker: FakeWorker) -> Jobs:
    jobs = Jobs(worker, LOADING)
    jobs.open()
    await asyncio.sleep(0)
    return jobs


async def settled(times: int = 20) -> None:
    for _ in range(times):
        await asyncio.sleep(0)


async def heard(jobs: Jobs, name: str, after: int = 0) -> list[tuple[str, int, Any]]:
    return [event async for event in jobs.events(name, after)]


def test_jobs_run_one_at_a_time_in_the_order_they_came() -> None:
    async def play() -> None:
        worker = FakeWorker()
        jobs = await started(worker)
        names = [jobs.add("trace", f"job {i}", {}).id for i in range(3)]
        assert worker.tasks() == names[:1]
        assert [jobs.job(jobs.record(name)).place for name in names] == [0, 1, 2]
        worker.tell(kind="done", id=names[0], result={"graph": "a"})
        await settled()
        assert worker.tasks() == names[:2]
        assert [jobs.job(jobs.record(name)).status for name in names] == ["done", "running", "queued"]
        worker.tell(kind="done", id=names[2], result={"graph": "not running"})
        await settled()
        assert jobs.record(names[2]).status == "queued", "a message about a job that does not run changes nothing"

    asyncio.run(play())


def test_what_was_said_is_replayed_to_everyone_who_follows_later() -> None:
    async def play() -> None:
        worker = FakeWorker()
        jobs = await started(worker)
        name = jobs.add("steer", "a reply", {}).id
        for text in ("one", "two"):
            worker.tell(kind="data", id=name, data={"text": text})
        await settled()
        early = asyncio.create_task(heard(jobs, name))
        await settled()
        worker.tell(kind="data", id=name, data={"text": "three"})
        worker.tell(kind="done", id=name, result={"steered": "one two three"})
        late = await heard(jobs, name)
        words = [("one", 1), ("two", 2), ("three", 3)]
        for events in (await early, late):
            assert [(content["text"], number) for kind, number, content in events if kind == "data"] == words
            assert events[-1][0] == "job"
            assert events[-1][2].status == "done"
        again = await heard(jobs, name, after=2)
        assert [content["text"] for kind, _, content in again if kind == "data"] == ["three"], "no word comes twice"

    asyncio.run(play())


def test_stages_carry_counts_and_seconds() -> None:
    async def play() -> None:
        worker = FakeWorker()
        jobs = await started(worker)
        name = jobs.add("trace", "", {}).id
        for stage, done in (("forward pass", 1), ("edges", 0), ("edges", 5)):
            worker.tell(kind="progress", id=name, stage=stage, done=done, total=5)
        await settled()
        found = jobs.job(jobs.record(name))
        assert [(stage.name, stage.done, stage.total) for stage in found.stages] == [
            ("forward pass", 1, 5),
            ("edges", 5, 5),
        ]
        assert 0 <= found.stages[0].seconds <= found.seconds < 5

    asyncio.run(play())


def test_a_queued_job_is_cancelled_at_once_and_a_running_one_through_the_line() -> None:
    async def play() -> None:
        worker = FakeWorker()
        jobs = await started(worker)
        first, second = (jobs.add("trace", "", {}).id for _ in range(2))
        assert jobs.cancel(second).status == "cancelled"
        assert jobs.cancel(first).status == "running"
        jobs.cancel(first)
        assert [m for m in worker.said if m["do"] == "cancel"] == [{"do": "cancel", "id": first}], "asked once"
        worker.tell(kind="cancelled", id=first, result=None)
        await settled()
        assert jobs.record(first).status == "cancelled"
        assert jobs.cancel(first).status == "cancelled"
        assert worker.kills == 0
        with pytest.raises(NotFound, match="no job"):
            jobs.cancel("gone")

    asyncio.run(play())


def test_a_model_that_does_not_hear_is_killed_and_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_module, "SECONDS_TO_CANCEL", 0.01)

    async def play() -> None:
        worker = FakeWorker()
        jobs = await started(worker)
        deaf, next_one = (jobs.add("trace", "", {}).id for _ in range(2))
        jobs.cancel(deaf)
        await asyncio.sleep(0.05)
        assert (worker.kills, worker.starts) == (1, 2)
        assert (jobs.record(deaf).status, jobs.record(deaf).error) == ("cancelled", ""), "it was us, not the memory"
        assert worker.tasks()[-1] == next_one, "the queue goes on"

    asyncio.run(play())


@pytest.mark.parametrize(("code", "words"), [(-9, "out of memory"), (1, "exit code 1"), (-11, "SIGSEGV")])
def test_a_model_that_dies_fails_its_job_in_a_sentence_and_the_queue_goes_on(code: int, words: str) -> None:
    async def play() -> None:
        worker = FakeWorker()
        jobs = await started(worker)
        first, second = (jobs.add("trace", "", {}).id for _ in range(2))
        worker.tell(kind="ended", code=code)
        await settled()
        assert jobs.record(first).status == "failed"
        assert words in jobs.record(first).error
        assert worker.starts == 2
        assert worker.tasks() == [first, second]
        assert jobs.model.status == "ready"

    asyncio.run(play())


def test_a_model_that_cannot_be_loaded_fails_what_waits_and_is_not_tried_for_ever() -> None:
    async def play() -> None:
        for last_words in ({"kind": "failed to load", "error": "no model is named 'x'"}, {"kind": "ended", "code": -9}):
            worker = FakeWorker(ready=False)
            jobs = await started(worker)
            name = jobs.add("trace", "", {}).id
            worker.tell(**last_words)
            worker.tell(kind="ended", code=0)
            await settled()
            assert jobs.model.status == "failed"
            assert jobs.record(name).error == jobs.model.message
            assert "no model is named" in jobs.model.message or "out of memory" in jobs.model.message
            assert worker.starts == 1
            with pytest.raises(Unavailable, match=r"no model|memory"):
                jobs.add("trace", "", {})

    asyncio.run(play())


def test_the_queue_and_the_memory_of_it_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs_module, "MOST_FINISHED", 5)

    async def play() -> None:
        worker = FakeWorker()
        jobs = await started(worker)
        for _ in range(MOST_WAITING + 1):
            jobs.add("trace", "", {})
        with pytest.raises(TooMany, match="20 jobs are waiting"):
            jobs.add("trace", "", {})
        for record in jobs.jobs():
            jobs.cancel(record.id)
        jobs.add("trace", "", {})
        assert len([job for job in jobs.jobs() if job.status == "cancelled"]) == 5

    asyncio.run(play())


def test_messages_reach_a_job_that_has_not_begun_and_not_one_that_is_over() -> None:
    async def play() -> None:
        worker = FakeWorker()
        jobs = await started(worker)
        first, second = (jobs.add("steer", "", {}).id for _ in range(2))
        jobs.deliver(second, {"steers": [1]})
        jobs.deliver(first, {"steers": [2]})
        worker.tell(kind="done", id=first, result={})
        await settled()
        inbox = [(m["id"], m["message"]["steers"]) for m in worker.said if m["do"] == "inbox"]
        assert inbox == [(first, [2]), (second, [1])]
        with pytest.raises(Conflict, match="over"):
            jobs.deliver(first, {})

    asyncio.run(play())


def test_tokens_never_wait_for_a_job() -> None:
    async def play() -> None:
        def reads(worker: FakeWorker, message: dict[str, Any]) -> None:
            if message.get("kind") == "tokens":
                worker.tell(kind="done", id=message["id"], result={"tokens": [{"id": 1, "text": "a"}], "top": []})

        worker = FakeWorker(reads)
        jobs = await started(worker)
        assert (await jobs.tokens({"prompt": "a"})).tokens[0].text == "a"
        jobs.add("trace", "", {})
        busy = await asyncio.wait_for(jobs.tokens({"prompt": "a"}), 0.5)
        assert busy.is_busy
        assert (busy.tokens, busy.top) == ([], [])

    asyncio.run(play())


def test_a_question_that_was_overtaken_is_not_waited_for() -> None:
    async def play() -> None:
        worker = FakeWorker()
        jobs = await started(worker)
        first = asyncio.create_task(jobs.tokens({"prompt": "a"}))
        await settled()
        second = asyncio.create_task(jobs.tokens({"prompt": "ab"}))
        await settled()
        assert [message["id"] for message in worker.said if message["do"] == "cancel"] == worker.tasks()[:1]
        worker.tell(kind="cancelled", id=worker.tasks()[0], result=None)
        worker.tell(kind="done", id=worker.tasks()[1], result={"tokens": [{"id": 1, "text": "ab"}], "top": []})
        assert (await first).is_busy
        assert (await second).tokens[0].text == "ab"

    asyncio.run(play())


# --- the same over HTTP -------------------------------------------------------------------------------


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Page]:
    made = page_of(tmp_path / "page", FakeWorker(answering))
    with made.client:
        made.client.headers.update(made.headers)
        yield made


def events_of(text: str) -> list[tuple[str, Any]]:
    """Event and data of a stream of server-sent events."""
    found = []
    for block in text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
        if "event" in lines:
            found.append((lines["event"], json.loads(lines["data"])))
    return found


def test_a_trace_from_the_request_to_the_list_of_graphs(served: Page) -> None:
    assert served.worker is not None
    job = served.client.post("/api/jobs/trace", json={"prompt": "The opposite", "target": "a", "minus": "b"}).json()
    task = served.worker.said[0]["request"]
    random_graph().save(task["graph_path"])
    assert Path(task["graph_path"]).parent == served.workspace.folder
    events = events_of(served.client.get(f"/api/jobs/{job['id']}/events").text)
    assert {kind for kind, _ in events} == {"job"}
    assert events[-1][1]["status"] == "done"
    assert events[-1][1]["result"] == {"graph": task["graph"]}
    assert served.client.get(f"/api/jobs/{job['id']}").json() == served.client.get("/api/jobs").json()[0]


def test_what_cannot_be_asked_is_said(served: Page) -> None:
    post = served.client.post
    answer = post("/api/jobs/trace", json={"prompt": "a", "minus": "b"})
    assert (answer.status_code, "two tokens" in answer.json()["error"]) == (422, True)
    assert post("/api/jobs/trace", json={"prompt": ""}).status_code == 422
    assert post("/api/jobs/nothing/cancel").status_code == 404
    assert served.client.get("/api/jobs/nothing/events").status_code == 404
    assert served.client.put("/api/jobs/nothing/dial", json={"steers": []}).status_code == 404
    change = {"changes": [{"nodes": [0]}]}
    assert post("/api/jobs/intervene", json={"graph": "0" * 12, **change}).status_code == 404
    name, path = served.workspace.new_file()
    random_graph().save(path)
    served.workspace.added(name)
    answer = post("/api/jobs/intervene", json={"graph": name, **change})
    assert answer.status_code == 409, "a graph that does not say its features"
    assert "which features" in answer.json()["error"]


def test_a_server_without_a_model_says_so(tmp_path: Path) -> None:
    made = page_of(tmp_path / "page")
    with made.client:
        answer = made.client.post("/api/jobs/trace", json={"prompt": "a"}, headers=made.headers)
        assert answer.status_code == 503
        assert "without a model" in answer.json()["error"]
        state = made.client.get("/api/state", headers=made.headers).json()
        assert state["model"]["status"] == "none"
        tokens = made.client.post("/api/tokens", json={"prompt": "a"}, headers=made.headers).json()
        assert tokens == {"tokens": [], "top": [], "is_busy": False}
