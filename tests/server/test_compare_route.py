"""Two graphs side by side on the page: what the library finds, with the nodes that it means."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import tiny_models
import tiny_page
from fastapi import FastAPI
from fastapi.testclient import TestClient

from lucida.graph import Graph
from lucida.server.messages import ComparedGraphs, GraphSummary
from lucida.server.routes import compare

A, B = "a" * 12, "b" * 12


@pytest.fixture(scope="module")
def graphs() -> tuple[Graph, Graph, Graph]:
    """Two of as many tokens, and a shorter one."""
    scope = tiny_page.scope_of(tiny_models.word_model())
    found = [
        scope.trace(tokens, max_targets=3)
        for tokens in (tiny_page.TOKENS, tiny_page.OTHER_TOKENS, tiny_page.TOKENS[:4])
    ]
    return found[0], found[1], found[2]


def asked(a: Graph, b: Graph) -> ComparedGraphs:
    named: dict[str, Any] = {A: a, B: b}
    app = FastAPI()
    app.include_router(compare.router)
    app.state.workspace = SimpleNamespace(graph=named.__getitem__, summary=summary)
    return ComparedGraphs.model_validate(TestClient(app).get("/api/compare", params={"a": A, "b": B}).json())


def summary(name: str) -> GraphSummary:
    return GraphSummary(id=name, title=name, answer="", model="", dictionary="", n_nodes=0, made="")


def test_a_graph_beside_itself_is_all_shared(graphs) -> None:
    found = asked(graphs[0], graphs[0])
    assert (found.feature_jaccard, found.influence_jaccard, found.edge_jaccard) == (1, 1, 1)
    assert found.by_position
    assert found.n_only_a == found.n_only_b == 0
    assert found.edges == []
    assert found.n_shared == int(graphs[0].nodes.is_kind("feature").sum())
    assert all(one.influence_a == one.influence_b and one.nodes_a == one.nodes_b for one in found.shared)


@pytest.mark.parametrize("other", [1, 2])
def test_entries_name_their_nodes(graphs, other: int) -> None:
    """By position where the prompts are as long as each other; else a feature's nodes of all positions together."""
    a, b = graphs[0], graphs[other]
    found = asked(a, b)
    expected = a.compare(b, positions=other == 1)
    assert found.by_position is (other == 1)
    counts = len(expected.only_a), len(expected.only_b), len(expected.shared)
    assert (found.n_only_a, found.n_only_b, found.n_shared) == counts
    assert found.n_only_a
    assert found.n_shared
    assert found.edges
    for one in [*found.only_a, *found.only_b, *found.shared]:
        for graph, nodes, influence in ((a, one.nodes_a, one.influence_a), (b, one.nodes_b, one.influence_b)):
            for index in nodes:
                node = graph.node(index)
                assert (node.kind, node.layer, node.feature) == ("feature", one.layer, one.feature)
                assert one.position in (None, node.position)
            assert sum(graph.node(index).influence for index in nodes) == pytest.approx(influence, abs=1e-6)
    assert all(not one.nodes_b for one in found.only_a)
    assert all(not one.nodes_a for one in found.only_b)
    assert [token.id for token in found.tokens_b] == list(b.prompt.tokens)
    changes = [abs(edge.weight_a - edge.weight_b) for edge in found.edges]
    assert changes == sorted(changes, reverse=True)
    assert min(changes) > 0
    assert not any(edge.source == "bias" for edge in found.edges)


def test_lists_are_cut_and_counted(graphs, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = asked(graphs[0], graphs[1])
    monkeypatch.setattr(compare, "MOST", 2)
    cut = asked(graphs[0], graphs[1])
    assert (cut.only_a, cut.only_b, cut.shared) == (whole.only_a[:2], whole.only_b[:2], whole.shared[:2])
    assert cut.edges == whole.edges[:2]
    assert (cut.n_only_a, cut.n_shared) == (whole.n_only_a, whole.n_shared)


def test_labels_and_tokens_stay_text(graphs) -> None:
    """Half a surrogate pair, which a file may hold, is not JSON on the wire; markup is text like any other."""
    hostile = "<b>\ud800</b>"
    features = graphs[0].nodes.is_kind("feature").nonzero()[0].tolist()
    a = graphs[0].with_labels(dict.fromkeys(features, hostile))
    prompt = replace(a.prompt, strings=tuple([hostile] * len(a.prompt)))
    found = asked(replace(a, prompt=prompt), graphs[1])
    assert {one.label for one in found.only_a} == {"<b>?</b>"} == {token.text for token in found.tokens_a}


def test_what_is_no_graph_is_refused() -> None:
    app = FastAPI()
    app.include_router(compare.router)
    client = TestClient(app)
    for wrong in ({"a": A}, {"a": A, "b": "../../etc"}, {"a": "A" * 12, "b": B}):
        assert client.get("/api/compare", params=wrong).status_code == 422
