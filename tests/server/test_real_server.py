"""A real model behind the page: from a prompt over HTTP to a graph, an experiment, a steered text, a scan."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.testclient import TestClient

from lucida.graph import Graph
from lucida.server.app import Settings, create_app
from lucida.server.messages import ModelState
from lucida.server.process import ModelProcess
from lucida.server.safety import Rules
from lucida.server.setup import open_workspace
from lucida.server.worker import ModelSettings

pytestmark = pytest.mark.real
PROMPT = 'The opposite of "small" is "'


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    workspace = open_workspace(tmp_path_factory.mktemp("page"), "smollm2-135m", None, None)
    model = ModelState(name="smollm2-135m", dictionaries=workspace.dictionary_name, status="loading")
    worker = ModelProcess(ModelSettings("smollm2-135m", offline=True))
    app = create_app(Settings(workspace, Rules("token", ("127.0.0.1:1",), 1), worker, model))
    headers = {"authorization": "Bearer token"}
    with TestClient(app, base_url="http://127.0.0.1:1", headers=headers) as client:
        for _ in range(600):
            state = client.get("/api/state").json()["model"]
            if state["status"] != "loading":
                break
            time.sleep(0.2)
        assert state["status"] == "ready", state
        yield client


def finished(client: TestClient, kind: str, request: dict[str, Any]) -> tuple[dict[str, Any], list[Any]]:
    """The job at its end, and its data events."""
    answer = client.post(f"/api/jobs/{kind}", json=request)
    assert answer.status_code == 200, answer.text
    blocks = client.get(f"/api/jobs/{answer.json()['id']}/events").text.split("\n\n")
    events = [dict(line.split(": ", 1) for line in block.splitlines() if line[0] != ":") for block in blocks if block]
    said = [json.loads(event["data"]) for event in events if event.get("event") == "data"]
    job = json.loads([event for event in events if event.get("event") == "job"][-1]["data"])
    assert job["status"] == "done", job["error"]
    return job, said


def test_state_and_tokens(client: TestClient) -> None:
    state = client.get("/api/state").json()["model"]
    assert (state["name"], state["n_layers"], len(state["widths"])) == ("smollm2-135m", 30, 30)
    assert state["is_chat"]
    answer = client.post("/api/tokens", json={"prompt": PROMPT}).json()
    assert "".join(token["text"] for token in answer["tokens"]) == PROMPT
    assert answer["top"][0]["text"] == "large"
    assert client.post("/api/tokens", json={"prompt": ""}).json()["tokens"] == []
    assert client.post("/api/tokens", json={"prompt": "word " * 9_000}).status_code == 409


def test_trace_then_test_the_circuit(client: TestClient) -> None:
    job, _ = finished(client, "trace", {"prompt": PROMPT, "target": "large", "minus": "small"})
    assert [stage["name"] for stage in job["stages"]][-1] == "saving the graph"
    name = job["result"]["graph"]
    detail = client.get(f"/api/graphs/{name}").json()
    assert (detail["answer"], detail["can_intervene"], detail["why_not"]) == ("large - small", True, "")
    sent = client.get(f"/api/graphs/{name}/export", params={"format": "safetensors"}).content
    path = client.app.state.workspace.folder / "again"  # type: ignore[attr-defined]
    path.write_bytes(sent)
    graph = Graph.load(path)
    assert len(graph.nodes) == detail["n_nodes"]
    strongest = graph.strongest(1)[0].index
    change = {"nodes": [strongest], "kind": "scale", "value": 0}
    request = {"graph": name, "changes": [change], "controls": 2, "generate": 4}
    result = finished(client, "intervene", request)[0]["result"]
    assert result["targets"][0]["measured"] < 0
    assert result["text_after"]
    gone = {"graph": name, "changes": [{"nodes": [len(graph.nodes)]}]}
    answer = client.post("/api/jobs/intervene", json=gone)
    assert answer.status_code == 422
    assert "is not in this graph" in answer.json()["error"]


def test_steer_and_watch(client: TestClient) -> None:
    say = [{"role": "user", "content": "Say hello."}]
    job, said = finished(client, "steer", {"steered": say, "baseline": say, "max_tokens": 5})
    for side in ("steered", "baseline"):
        assert "".join(token["text"] for token in said if token["side"] == side) == job["result"][side]
    result = finished(client, "watch", {"text": "The small dog"})[0]["result"]
    assert [token["text"] for token in result["tokens"]][-1] == " dog"


def test_a_target_that_is_no_token_is_said(client: TestClient) -> None:
    answer = client.post("/api/jobs/trace", json={"prompt": PROMPT, "target": "nosuchtoken"})
    client.get(f"/api/jobs/{answer.json()['id']}/events")
    job = client.get(f"/api/jobs/{answer.json()['id']}").json()
    assert job["status"] == "failed"
    assert "is not one token" in job["error"]


def test_cancelling_a_long_trace_leaves_no_graph(client: TestClient) -> None:
    before = client.get("/api/graphs").json()
    job = client.post("/api/jobs/trace", json={"prompt": "The city of light is called Paris, and " * 30}).json()
    time.sleep(0.5)
    client.post(f"/api/jobs/{job['id']}/cancel")
    client.get(f"/api/jobs/{job['id']}/events")
    assert client.get(f"/api/jobs/{job['id']}").json()["status"] == "cancelled"
    assert client.get("/api/graphs").json() == before
