"""Saved graphs over HTTP: lists, details, search, paths, notes, exports, uploads; none of it with a model."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fake_worker import Page, page_of, random_graph

from lucida.errors import GraphError
from lucida.graph import Graph
from lucida.graph.neuronpedia import write_neuronpedia
from lucida.graph.neuronpedia.names import node_ids
from lucida.graph.pruning import prune_masks
from lucida.server import workspace as workspace_module
from lucida.server.graphs import why_no_experiment
from lucida.server.messages import ModelState, Notes
from lucida.server.workspace import Workspace

HOSTILE = '<img src=x onerror=alert(1)>"\u202e\ud800'


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Page]:
    made = page_of(tmp_path / "page")
    with made.client:
        made.client.headers.update(made.headers)
        yield made


def put(served: Page, graph: Graph) -> str:
    name, path = served.workspace.new_file()
    graph.save(path)
    return served.workspace.added(name).id


def test_a_graph_says_what_it_is(served: Page) -> None:
    graph = random_graph()
    name = put(served, graph)
    listed = served.client.get("/api/graphs").json()
    assert [one["id"] for one in listed] == [name]
    detail = served.client.get(f"/api/graphs/{name}").json()
    assert {key: detail[key] for key in listed[0]} == listed[0]
    assert detail["n_nodes"] == len(graph.nodes)
    assert detail["n_edges"] == np.count_nonzero(graph.edges)
    assert sum(detail["counts"].values()) == len(graph.nodes)
    assert [token["text"] for token in detail["tokens"]] == list(graph.prompt.strings)
    assert detail["scores"]["replacement"] == pytest.approx(graph.scores().replacement)
    assert [answer["text"] for answer in detail["answers"]] == [' "big"', "\t", "(p=0.9)"]
    assert not detail["can_intervene"]
    assert "without a model" in detail["why_not"]
    assert detail["summary"]


def test_hostile_texts_come_as_text(served: Page) -> None:
    graph = random_graph()
    texts = (*graph.nodes.text[:-1], HOSTILE)
    graph = replace(graph, nodes=replace(graph.nodes, text=texts, label=(HOSTILE,) * len(texts)))
    graph = replace(graph, prompt=replace(graph.prompt, text=HOSTILE, strings=(HOSTILE,) * len(graph.prompt)))
    name = put(served, graph)
    for path in ("", "/view", "/nodes", "/paths", "/groups", "/notes"):
        answer = served.client.get(f"/api/graphs/{name}{path}")
        assert answer.status_code == 200, path
    assert served.client.get("/api/graphs").json()[0]["title"] == HOSTILE.replace("\ud800", "?")
    for form in ("neuronpedia", "safetensors", "python"):
        answer = served.client.get(f"/api/graphs/{name}/export", params={"format": form})
        assert answer.status_code == 200, form
        assert "<" not in answer.headers["content-disposition"]


def test_the_view_is_what_the_library_makes(served: Page) -> None:
    from lucida.graph.view import view

    graph = random_graph()
    name = put(served, graph)
    answer = served.client.get(f"/api/graphs/{name}/view", params={"node_share": 0.5, "most_nodes": 9})
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.content == view(graph, node_share=0.5, most_nodes=9).to_bytes()
    for wrong in (
        {"node_share": 0},
        {"node_share": 1.1},
        {"edge_share": "nan"},
        {"most_nodes": 0},
        {"most_edges": 10**9},
    ):
        assert served.client.get(f"/api/graphs/{name}/view", params=wrong).status_code == 422


def test_pruned_scores_are_those_of_the_library(served: Page) -> None:
    graph = random_graph()
    name = put(served, graph)
    found = served.client.get(f"/api/graphs/{name}/scores", params={"nodes": 0.6, "edges": 0.9}).json()
    small = graph.prune(0.6, 0.9)
    assert (found["nodes"], found["edges"]) == (len(small.nodes), np.count_nonzero(small.edges))
    assert found["scores"]["error_share"] == pytest.approx(small.scores().error_share)


def test_any_node_is_found_and_hidden_ones_say_why(served: Page) -> None:
    graph = random_graph(n_features=30)
    name = put(served, graph)

    def find(**asked: object) -> list[dict]:
        return served.client.get(f"/api/graphs/{name}/nodes", params=asked).json()

    everything = find(node_share=0.3, limit=1000)
    assert {one["node"] for one in everything} == set(range(len(graph.nodes)))
    for one in everything:
        is_always = one["kind"] in ("embedding", "logit", "bias")
        assert (one["why"] == "") == (is_always or (one["threshold"] <= 0.3 and one["influence"] != 0))
    feature = graph.node(0)
    place = f"L{feature.layer}/{feature.feature}"
    assert 0 in [one["node"] for one in find(query=place)]
    assert all(one["layer"] == feature.layer and one["feature"] == feature.feature for one in find(query=place.lower()))
    assert all("about" in one["label"] for one in find(query="ABOUT"))
    assert {one["kind"] for one in find(query="error", limit=1000)} == {"error"}
    assert find(query="no such thing") == []
    served.client.put(f"/api/graphs/{name}/notes", json={"revision": 0, "labels": {"0": "my own name"}})
    assert [(one["node"], one["label"]) for one in find(query="my own")] == [(0, "my own name")]


def test_paths_go_from_the_prompt_to_the_answer_and_through_a_node(served: Page) -> None:
    graph = random_graph(n_features=30)
    name = put(served, graph)
    paths = served.client.get(f"/api/graphs/{name}/paths", params={"count": 5}).json()
    assert 0 < len(paths) <= 5
    for path in paths:
        assert len(path["steps"]) > 2
        assert path["steps"][-1]["weight"] is None
        assert graph.node(path["steps"][-1]["node"]).kind == "logit"
    through = paths[0]["steps"][1]["node"]
    some = served.client.get(f"/api/graphs/{name}/paths", params={"count": 3, "through": through}).json()
    assert len(some) == 3
    assert all(through in [step["node"] for step in path["steps"]] for path in some)
    whole = graph.paths(500)
    best = next(path for path in whole if through in [node.index for node in path.nodes])
    assert [step["node"] for step in some[0]["steps"]] == [node.index for node in best.nodes]
    assert some[0]["share"] == pytest.approx(best.share)
    assert served.client.get(f"/api/graphs/{name}/paths", params={"through": 10**6}).status_code == 422


def test_a_stale_address_is_not_found(served: Page) -> None:
    for path in ("", "/view", "/scores", "/nodes", "/paths", "/groups", "/notes", "/export?format=python"):
        answer = served.client.get(f"/api/graphs/0123456789ab{path}")
        assert answer.status_code == 404, path
        assert "no graph 0123456789ab" in answer.json()["error"]
    assert served.client.delete("/api/graphs/0123456789ab").status_code == 404
    assert served.client.put("/api/graphs/0123456789ab/notes", json={}).status_code == 404


# --- notes --------------------------------------------------------------------------------------------


def test_two_tabs_cannot_overwrite_each_other(served: Page) -> None:
    name = put(served, random_graph())
    where = f"/api/graphs/{name}/notes"
    first = served.client.get(where).json()
    group = {"id": "g1", "name": HOSTILE[:-1], "nodes": [0, 1]}
    saved = served.client.put(where, json={**first, "pinned": [0, 1], "supernodes": [group]}).json()
    assert saved["revision"] == first["revision"] + 1
    assert served.client.get(where).json() == saved
    late = served.client.put(where, json={**first, "pinned": [2]})
    assert late.status_code == 409
    assert "changed elsewhere" in late.json()["error"]
    assert served.client.get(where).json() == saved
    assert Workspace(served.workspace.folder).notes(name) == Notes(**saved), "another server finds them"


@pytest.mark.parametrize(
    "wrong",
    [
        {"pinned": [10_000]}, {"supernodes": [{"id": "a", "name": "", "nodes": [10_000]}]}, {"labels": {"10000": "x"}},
        {"labels": {"../x": "x"}}, {"labels": {"-1": "x"}}, {"pinned": [-1]}, {"labels": {"0": "x" * 201}},
        {"supernodes": [{"id": "a", "name": "", "nodes": []}]}, {"positions": {"a": [1e999, 0]}},
        {"supernodes": [{"id": "a", "name": "", "nodes": [0]}] * 2}, {"other": 1},
    ],
)  # fmt: skip
def test_notes_that_do_not_fit_change_nothing(served: Page, wrong: dict) -> None:
    name = put(served, random_graph())
    where = f"/api/graphs/{name}/notes"
    kept = served.client.put(where, json={"revision": 0, "pinned": [3]}).json()
    body = json.dumps({"revision": 1, **wrong}).encode()
    answer = served.client.put(where, content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422
    assert "error" in answer.json()
    assert served.client.get(where).json() == kept


def test_damaged_notes_are_said_and_not_overwritten(served: Page) -> None:
    name = put(served, random_graph())
    path = served.workspace.folder / f"{name}.notes.json"
    path.write_text("{broken")
    answer = served.client.get(f"/api/graphs/{name}/notes")
    assert answer.status_code == 422
    assert path.name in answer.json()["error"]
    assert served.client.put(f"/api/graphs/{name}/notes", json={}).status_code == 422
    assert path.read_text() == "{broken"


# --- sent in, taken out -------------------------------------------------------------------------------


def test_a_graph_goes_out_and_comes_in_again_with_what_was_noted(served: Page, tmp_path: Path) -> None:
    graph = random_graph()
    name = put(served, graph)
    notes = {"revision": 0, "pinned": [0, 1, 5], "labels": {"0": "named"}}
    notes["supernodes"] = [{"id": "a", "name": "two of them", "nodes": [0, 1]}]
    served.client.put(f"/api/graphs/{name}/notes", json=notes)
    for form in ("safetensors", "neuronpedia"):
        sent = served.client.get(f"/api/graphs/{name}/export", params={"format": form, "nodes": 1, "edges": 1})
        assert "attachment" in sent.headers["content-disposition"]
        again = served.client.post("/api/graphs", content=sent.content).json()
        assert again["n_nodes"] == len(graph.nodes)
        found = served.client.get(f"/api/graphs/{again['id']}/notes").json()
        assert found["pinned"] == [0, 1, 5], form
        assert [(group["name"], group["nodes"]) for group in found["supernodes"]] == [("two of them", [0, 1])]
        loaded = served.workspace.graph(again["id"])
        assert loaded.nodes.label[0] == "named"
        np.testing.assert_array_equal(loaded.edges, graph.edges)
    script = served.client.get(f"/api/graphs/{name}/export", params={"format": "python"})
    compile(script.text, "view.py", "exec")
    assert served.client.get(f"/api/graphs/{name}/export", params={"format": "pickle"}).status_code == 422
    assert list(served.workspace.folder.glob(".incoming-*")) == []


def test_what_is_pinned_is_exported_however_weak_it_is(served: Page) -> None:
    graph = random_graph()
    name = put(served, graph)
    features = np.flatnonzero(graph.nodes.is_kind("feature"))
    weakest = int(features[np.argmin(graph.nodes.influence[features])])
    dropped = ~prune_masks(graph, 0.3, 0.5).node_mask
    assert dropped[weakest]
    served.client.put(f"/api/graphs/{name}/notes", json={"revision": 0, "pinned": [weakest]})
    shares = {"format": "neuronpedia", "nodes": 0.3, "edges": 0.5}
    sent = served.client.get(f"/api/graphs/{name}/export", params=shares)
    again = served.client.post("/api/graphs", content=sent.content).json()
    assert again["n_nodes"] == len(graph.nodes) - int(dropped.sum()) + 1
    loaded = served.workspace.graph(again["id"])
    pinned = served.client.get(f"/api/graphs/{again['id']}/notes").json()["pinned"]
    node = loaded.node(pinned[0])
    assert (node.layer, node.position, node.feature) == tuple(
        int(column[weakest]) for column in (graph.nodes.layer, graph.nodes.position, graph.nodes.feature)
    )
    kept = np.flatnonzero(~dropped | (np.arange(len(dropped)) == weakest))
    before, after = graph.dense().matrix[np.ix_(kept, kept)], loaded.dense().matrix
    np.testing.assert_array_equal(after[pinned[0]], before[pinned[0]])
    np.testing.assert_array_equal(after[:, pinned[0]], before[:, pinned[0]])
    assert before[pinned[0]].any()


def foreign(path: Path, **changes: object) -> bytes:
    """The JSON of another tool: ours without our own fields."""
    graph = random_graph(extras=False)
    ids = node_ids(graph)
    write_neuronpedia(graph, path, slug="a", scan="gpt2", pinned=ids[:2], supernodes=[["<b>group</b>", ids[0]]])
    document = json.loads(path.read_text())
    del document["metadata"]["lucida"]
    for node in document["nodes"]:
        del node["lucida"]
    return json.dumps(document | changes).encode()


def test_another_tools_graph_is_taken_with_its_pins(served: Page, tmp_path: Path) -> None:
    sent = foreign(tmp_path / "a.json")
    answer = served.client.post("/api/graphs", content=sent)
    assert answer.status_code == 200, answer.text
    name = answer.json()["id"]
    notes = served.client.get(f"/api/graphs/{name}/notes").json()
    assert notes["pinned"] == [0, 1]
    assert notes["supernodes"][0]["name"] == "<b>group</b>"
    assert notes == served.client.get(f"/api/graphs/{name}/notes").json()
    detail = served.client.get(f"/api/graphs/{name}").json()
    assert any("another tool" in line for line in detail["warnings"])
    assert served.client.get(f"/api/graphs/{name}/view").status_code == 200


def test_a_corrupt_or_foreign_file_is_refused_and_keeps_what_is_there(served: Page, tmp_path: Path) -> None:
    graph = random_graph()
    name = put(served, graph)
    good = served.workspace.file(name).read_bytes()
    huge = json.loads(good[8 : 8 + int.from_bytes(good[:8], "little")])
    huge["kind"]["shape"] = huge["targets"]["shape"] = [2**40]
    header = json.dumps(huge).encode()
    json_graph = foreign(tmp_path / "a.json")
    bodies = [
        b"", b"not a graph", b"\x80\x04\x95pickle", good[:100], good[: len(good) // 2], b"\xff" * 5000,
        len(header).to_bytes(8, "little") + header, (2**63).to_bytes(8, "little") + b"{}", b"{}", b"[1,2]",
        json_graph[: len(json_graph) // 2],
        foreign(tmp_path / "b.json", links=[{"source": "x", "target": "y", "weight": 1}]),
        foreign(tmp_path / "c.json", nodes=7), b'{"nodes":' + b"[" * 100_000, b"PK\x03\x04 a zip",
    ]  # fmt: skip
    for body in bodies:
        answer = served.client.post("/api/graphs", content=body)
        assert answer.status_code == 422, body[:60]
        assert "\n" not in answer.json()["error"]
        assert str(tmp_path) not in answer.json()["error"]
        assert "incoming" not in answer.json()["error"]
    assert [one["id"] for one in served.client.get("/api/graphs").json()] == [name]
    assert sorted(path.name for path in served.workspace.folder.iterdir()) == [f"{name}.graph.safetensors"]
    assert served.workspace.file(name).read_bytes() == good


@pytest.mark.parametrize(
    ("name", "said"),
    [("mine.json", "mine.json"), ("", "this file"), ("../../etc/<b>x</b>", "../../etc/<b>x</b>"),
     ("two\nlines\ud800".encode("utf-8", "replace").decode(), "two lines?"), ("n" * 900, "n" * 79 + "…")],
    ids=("plain", "none", "markup", "lines", "long"),
)  # fmt: skip
def test_a_refusal_names_the_file_as_its_sender_did(served: Page, name: str, said: str) -> None:
    for body in (b"\x08" + b"\0" * 7 + b"{}      ", b'{"hello": 1}', b"nothing", b""):
        answer = served.client.post("/api/graphs", params={"name": name}, content=body)
        assert answer.status_code == 422
        assert said in answer.json()["error"]
        assert "\n" not in answer.json()["error"]
    assert list(served.workspace.folder.iterdir()) == []
    assert served.client.post("/api/graphs", params={"name": "n" * 1001}, content=b"x").status_code == 422


STRANGE: dict[str, object] = {
    "target_weights": [0.5, None, {}], "top_tokens": 7, "provenance": [1], "n_layers": "many", "model": [["x"]],
    "dictionary": {"name": {}, "source": 5, "kind": []}, "measure": {"a": 1}, "pruning": "x", "neuronpedia": [3],
    "budget": "none", "target": [], "minus": {},
}  # fmt: skip


@pytest.mark.parametrize("field", STRANGE)
def test_a_file_with_a_strange_description_is_no_bug_of_ours(served: Page, tmp_path: Path, field: str) -> None:
    """Whatever a file that is opened in place says of itself: an answer, or a line that names what is wrong."""
    path = tmp_path / "strange.graph.safetensors"
    graph = random_graph()
    replace(graph, metadata=graph.metadata | {field: STRANGE[field]}).save(path)
    good = put(served, random_graph())
    name = served.workspace.open_file(path)
    routes = ("", "/view", "/scores?nodes=0.8", "/nodes?query=", "/paths", "/groups", "/notes", *(
        f"/export?format={form}" for form in ("neuronpedia", "html", "safetensors", "python")
    ))  # fmt: skip
    for route in routes:
        answer = served.client.get(f"/api/graphs/{name}{route}")
        assert answer.status_code in (200, 422), (route, answer.text)
        if answer.status_code == 422:
            assert "\n" not in answer.json()["error"]
    assert good in [one["id"] for one in served.client.get("/api/graphs").json()]


def test_a_file_opened_in_place_is_never_changed_or_deleted(tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    random_graph().save(path)
    before = path.read_bytes()
    workspace = Workspace(tmp_path / "page")
    name = workspace.open_file(path)
    workspace.save_notes(name, Notes(pinned=[1]))
    workspace.delete(name)
    assert path.read_bytes() == before
    assert workspace.summaries() == []
    again = Workspace(tmp_path / "page")
    assert again.open_file(path) == name, "its address and notes outlive the server"
    assert again.notes(name).pinned == [1]
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    for bad in (tmp_path / "bad.safetensors", tmp_path / "gone.safetensors", tmp_path):
        with pytest.raises(GraphError):
            again.open_file(bad)


def test_a_file_that_changes_or_goes_while_it_is_open_is_noticed(served: Page, tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    random_graph().save(path)
    name = served.workspace.open_file(path)
    assert served.client.get("/api/graphs").json()[0]["id"] == name
    assert served.client.get(f"/api/graphs/{name}").json()["n_layers"] == 3
    random_graph(n_layers=2).save(path)
    assert served.client.get(f"/api/graphs/{name}").json()["n_layers"] == 2, "traced again to the same file"
    path.unlink()
    assert served.client.get("/api/graphs").json() == []
    assert served.client.get(f"/api/graphs/{name}").status_code == 404


def test_only_graphs_without_notes_are_tidied_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace_module, "MOST_GRAPHS", 2)
    workspace = Workspace(tmp_path)
    names = []
    for age in range(5):
        name, path = workspace.new_file()
        random_graph(n_features=3).save(path)
        workspace.added(name)
        if age == 0:
            workspace.save_notes(name, Notes(pinned=[0]))
        names.append(name)
    assert set(workspace.names()) == {names[0], *names[-2:]}
    assert {path.name[:12] for path in tmp_path.glob("*.graph.safetensors")} == {names[0], *names[-2:]}


def test_few_graphs_are_held_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workspace_module, "MOST_LOADED", 2)
    workspace = Workspace(tmp_path)
    names = []
    for seed in range(3):
        name, path = workspace.new_file()
        random_graph(seed, n_features=3).save(path)
        workspace.added(name)
        names.append(name)
    first = workspace.graph(names[0])
    assert workspace.graph(names[0]) is first
    for name in names[1:]:
        workspace.graph(name)
    assert workspace.graph(names[0]) is not first


def test_experiments_need_the_model_and_the_features_of_the_graph() -> None:
    ready = ModelState(name="tiny", dictionaries="tiny-plt", status="ready")
    features = {"name": "tiny-plt", "kind": "features", "source": {"fingerprint": "abc"}}
    ours = {"model": {"name": "tiny"}, "dictionary": features}
    assert why_no_experiment(ours, ready, "abc") == ""
    assert "another version of tiny-plt" in why_no_experiment(ours, ready, "abd")
    assert "tiny-plt, not neurons" in why_no_experiment(
        ours, ready.model_copy(update={"dictionaries": "neurons"}), "neurons"
    )
    assert "of the model big" in why_no_experiment({**ours, "model": {"name": "big"}}, ready, "abc")
    assert "loading" in why_no_experiment(ours, ready.model_copy(update={"status": "loading"}), "abc")
    for odd in ({}, {"model": "tiny", "dictionary": "x"}, {"dictionary": {"source": "x"}}, {"model": 7}):
        assert why_no_experiment(odd, ready, "abc")
    assert why_no_experiment({"dictionary": {"name": "neurons"}}, ready, "neurons") == ""


@pytest.mark.parametrize(
    "metadata",
    [
        {"n_layers": "x"}, {"target_weights": ["a", "b", "c"]}, {"target_values": ["a", "b", "c"]}, {"measure": "x"},
        {"target_weights": None}, {"pruning": 7}, {"pruning": {"scores": {}}},
        {"neuronpedia": {"supernodes": [[]], "pinnedIds": 7}, "top_tokens": 7, "dictionary": [], "model": [1]},
    ],
)  # fmt: skip
def test_a_graph_whose_description_lies_is_refused_or_shown_but_never_a_bug(
    served: Page, metadata: dict, tmp_path: Path
) -> None:
    graph = random_graph()
    try:
        replace(graph, metadata={**graph.metadata, **metadata}).save(tmp_path / "odd")
    except GraphError:
        return  # the library writes no such file
    answer = served.client.post("/api/graphs", content=(tmp_path / "odd").read_bytes())
    assert answer.status_code in (200, 422), answer.text
    assert len(served.client.get("/api/graphs").json()) == (answer.status_code == 200)
    for one in served.client.get("/api/graphs").json():
        for path in ("", "/view", "/scores", "/nodes", "/paths", "/groups", "/notes", "/export?format=neuronpedia"):
            assert served.client.get(f"/api/graphs/{one['id']}{path}").status_code in (200, 422), path
