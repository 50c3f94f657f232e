"""A disk that is full, and a folder that another server uses too."""

import asyncio
import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from fake_worker import HOST, TOKEN, Page, page_of, random_graph

from lucida.server.routes import graphs as graphs_routes
from lucida.server.workspace import OLD, Workspace


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Page]:
    made = page_of(tmp_path / "page")
    with made.client:
        made.client.headers.update(made.headers)
        yield made


def full(*_: Any, **__: Any) -> NoReturn:
    raise OSError(errno.ENOSPC, "No space left on device")


def put(served: Page) -> str:
    name, path = served.workspace.new_file()
    random_graph().save(path)
    return served.workspace.added(name).id


def test_notes_on_a_full_disk_stay_as_they_were(served: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    where = f"/api/graphs/{put(served)}/notes"
    kept = served.client.put(where, json={"revision": 0, "pinned": [3]}).json()
    with monkeypatch.context() as broken:
        broken.setattr(Path, "write_text", full)
        answer = served.client.put(where, json={"revision": 1, "pinned": [4]})
    assert answer.status_code == 422
    assert "No space left on device; nothing was changed" in answer.json()["error"]
    assert served.client.get(where).json() == kept
    assert served.client.put(where, json={"revision": 1, "pinned": [4]}).json()["revision"] == 2


def test_a_graph_sent_to_a_full_disk_leaves_nothing(served: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sorted(served.workspace.folder.iterdir())
    with monkeypatch.context() as broken:
        broken.setattr(graphs_routes.tempfile, "mkdtemp", full)
        answer = served.client.post("/api/graphs", content=b"x" * 100)
    assert (answer.status_code, "the disk is full" in answer.json()["error"]) == (507, True)
    assert sorted(served.workspace.folder.iterdir()) == before


def test_a_refused_upload_is_read_to_its_end_before_the_answer(served: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    """A browser that is still sending when the line closes shows "failed to fetch" and not why."""
    monkeypatch.setattr(graphs_routes.tempfile, "mkdtemp", full)
    headers = [(b"host", HOST.encode()), (b"authorization", f"Bearer {TOKEN}".encode())]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": "/api/graphs", "raw_path": b"/api/graphs", "query_string": b"", "root_path": "", "headers": headers,
        "client": None, "server": None, "app": served.app,
    }  # fmt: skip
    happened: list[str] = []

    async def receive() -> dict[str, Any]:
        happened.append("piece")
        return {"type": "http.request", "body": b"x", "more_body": happened.count("piece") < 5}

    async def send(message: Any) -> None:
        happened.append(message["type"])

    asyncio.run(served.app(scope, receive, send))
    assert happened[:6] == ["piece"] * 5 + ["http.response.start"]


def test_what_was_half_written_is_removed_later_but_not_from_under_another_server(tmp_path: Path) -> None:
    """A second `lucida serve` on the same folder once deleted what the first was just being sent."""
    left = [".incoming-x", ".0123456789ab.graph.safetensors.y", ".0123456789ab.notes.json.z"]
    for name in [*left, ".incoming-now", ".other"]:
        (tmp_path / name).mkdir()
    for name in [*left, ".other"]:
        os.utime(tmp_path / name, (0, time.time() - OLD - 10))
    Workspace(tmp_path).clear_scratch()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".incoming-now", ".other"]


def test_two_servers_on_one_folder_do_not_overwrite_notes(tmp_path: Path) -> None:
    first = page_of(tmp_path)
    name = put(first)
    second = page_of(tmp_path)
    where = f"/api/graphs/{name}/notes"
    with first.client, second.client:
        ours = first.client.put(where, json={"revision": 0, "pinned": [3]}, headers=first.headers)
        theirs = second.client.put(where, json={"revision": 0, "pinned": [4]}, headers=second.headers)
        assert (ours.status_code, theirs.status_code) == (200, 409)
        assert second.client.get(where, headers=second.headers).json()["pinned"] == [3]


@pytest.mark.parametrize(
    "notes",
    [
        {"labels": {"1": "a", "01": "b"}}, {"positions": {"k" * 41: [0, 0]}},
        {"positions": {f"k{number}": [0, 0] for number in range(5_000)}},
    ],
    ids=["two labels of a node", "a long key", "many places"],
)  # fmt: skip
def test_notes_are_bounded_by_the_graph(served: Page, notes: dict[str, Any]) -> None:
    answer = served.client.put(f"/api/graphs/{put(served)}/notes", json={"revision": 0, **notes})
    assert answer.status_code == 422
    assert len(answer.json()["error"]) < 200
