"""The experiment behind the page's button: laws that hold whatever the model."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import word_model
from tiny_page import ID, OTHER_ID, OTHER_TOKENS, TOKENS, StandIn, features, graph_of, saved, scope_of

import lucida
from lucida.errors import InterventionError
from lucida.graph import Graph
from lucida.interventions import Scale, Swap, donor_of
from lucida.interventions.prediction import logit_changes
from lucida.microscope import Microscope
from lucida.server.line import Cancelled
from lucida.server.messages import InterventionResult
from lucida.server.tasks import intervene

KINDS = ["plt", "clt", "plt_skip", "neurons"]


def asked(scope: Microscope, graph: Graph, folder: Path, **request: Any) -> InterventionResult:
    """The result of a request on a graph, with a few controls and tokens where it does not say."""
    document = {"graph": ID, "graph_path": saved(graph, folder), "controls": 2, "generate": 3, **request}
    return InterventionResult.model_validate(intervene.run(scope, document, StandIn()))


@pytest.mark.parametrize("kind", KINDS)
def test_a_null_change_changes_nothing(tiny_model, kind: str, tmp_path: Path) -> None:
    scope = scope_of(tiny_model("llama"), kind)
    graph = graph_of(scope)
    nodes = features(graph, 3)
    change = {"nodes": nodes, "kind": "scale", "value": 1.0}
    watch = [{"name": "them", "nodes": nodes}]
    found = asked(scope, graph, tmp_path, changes=[change], watch=watch)
    assert [target.measured for target in found.targets] == [0.0] * len(found.targets)
    assert [target.predicted for target in found.targets] == [0.0] * len(found.targets)
    assert [target.control for target in found.targets] == pytest.approx([0.0] * len(found.targets), abs=1e-5)
    assert found.kl == 0
    assert found.nodes == []
    assert all(token.before == token.after and token.logit_change == 0 for token in found.tokens)
    assert found.text_before == found.text_after != ""
    assert found.supernodes[0].predicted == found.supernodes[0].measured == pytest.approx(1)
    assert any(note.startswith("Nothing was changed") for note in found.notes)


@pytest.mark.parametrize("kind", ["plt", "clt", "windowed", "plt_topk"])
def test_with_everything_frozen_the_graph_is_right(tiny_model, kind: str, tmp_path: Path) -> None:
    scope = scope_of(tiny_model("llama"), kind)
    graph = graph_of(scope)
    change = {"nodes": features(graph, 4), "kind": "scale", "value": -1.0}
    found = asked(scope, graph, tmp_path, changes=[change], mode="frozen")
    for target in found.targets:
        assert target.predicted == pytest.approx(target.measured, abs=1e-4)
        assert abs(target.measured) > 1e-4
    assert found.nodes
    assert all(node.is_direct for node in found.nodes)
    assert [node.predicted for node in found.nodes] == pytest.approx([node.measured for node in found.nodes], abs=1e-3)
    assert found.agreement.slope == pytest.approx(1, abs=1e-3)
    assert found.n_unpredicted == 0
    assert found.text_after == ""
    assert any(note.startswith("No text is written") for note in found.notes)


def test_controls_are_other_features(tiny_model, tmp_path: Path) -> None:
    scope = scope_of(tiny_model("llama"))
    graph = graph_of(scope)
    change = {"nodes": features(graph, 1), "kind": "scale", "value": -2.0}
    found = asked(scope, graph, tmp_path, changes=[change], controls=6)
    same = asked(scope, graph, tmp_path, changes=[change], controls=6)
    other = asked(scope, graph, tmp_path, changes=[change], controls=6, seed=5)
    for target, again in zip(found.targets, same.targets, strict=True):
        assert target.control is not None
        assert target.control_low is not None
        assert target.control_high is not None
        assert target.control_low < target.control_high
        assert target.control != target.measured
        assert again.control == target.control
    assert [target.control for target in other.targets] != [target.control for target in found.targets]
    without = asked(scope, graph, tmp_path, changes=[change], controls=0)
    assert {(t.control, t.control_low, t.control_high) for t in without.targets} == {(None, None, None)}
    assert [t.measured for t in without.targets] == pytest.approx([t.measured for t in found.targets], abs=1e-5)


def test_without_other_features_there_is_no_control_and_it_is_said(tiny_model, tmp_path: Path) -> None:
    scope = scope_of(tiny_model("llama"))
    graph = graph_of(scope)
    table = graph.nodes
    everything = (table.is_kind("feature") & (table.position == 3)).nonzero()[0].tolist()
    found = asked(scope, graph, tmp_path, changes=[{"nodes": everything, "value": 0.0}])
    assert found.targets[0].control is None
    assert found.n_changed == len(everything)
    assert [note for note in found.notes if note.startswith("There is no control")]


def test_what_is_put_out_is_out(tiny_model, tmp_path: Path) -> None:
    """A changed member of a watched group counts as what it was put at, predicted and measured."""
    scope = scope_of(tiny_model("llama"))
    graph = graph_of(scope)
    nodes = features(graph, 2)
    error = int(graph.nodes.is_kind("error").nonzero()[0][0])
    watch = [{"name": "gone", "nodes": nodes}, {"name": "no feature", "nodes": [error]}]
    found = asked(scope, graph, tmp_path, changes=[{"nodes": nodes, "value": 0.0}], watch=watch)
    assert found.supernodes[0].predicted == found.supernodes[0].measured == pytest.approx(0, abs=1e-6)
    assert found.supernodes[1].predicted is None
    assert found.supernodes[1].measured is None
    assert not {node.node for node in found.nodes} & set(nodes)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox"])
@pytest.mark.parametrize("kind", ["plt", "clt", "neurons"])
def test_the_text_begins_with_what_was_measured(tiny_model, family: str, kind: str, tmp_path: Path) -> None:
    """Steering holds the same features at the same values as the experiment: the first token is its most probable."""
    scope = scope_of(tiny_model(family), kind)
    graph = graph_of(scope)
    changes = [{"nodes": features(graph, 5), "kind": "scale", "value": -8.0}]
    found = asked(scope, graph, tmp_path, changes=changes, generate=1)
    before, after = (max(found.tokens, key=lambda token: getattr(token, side)) for side in ("before", "after"))
    assert (found.text_before, found.text_after) == (before.text, after.text)
    assert before.id != after.id


def test_a_swap_is_the_librarys(tiny_model, tmp_path: Path) -> None:
    scope = scope_of(tiny_model("llama"))
    graph, donor = graph_of(scope), graph_of(scope, tuple(OTHER_TOKENS))
    out = [i for i in features(graph, 40) if graph.nodes.position[i] == 4][:2]
    put_in = features(donor, 2)
    swap = {"out": out, "donor": OTHER_ID, "nodes": put_in, "strength": 2.0, "suppress": 0.5}
    paths = {OTHER_ID: saved(donor, tmp_path, OTHER_ID)}
    found = asked(scope, graph, tmp_path, swaps=[swap], donor_paths=paths)
    given = donor_of(donor, [donor.node(i) for i in put_in])
    expected = scope.intervene(
        TOKENS, Swap(tuple(graph.node(i) for i in out), given, 2.0, 0.5), position=graph.answer_position
    )
    assert [target.measured for target in found.targets] == pytest.approx(logit_changes(graph, expected), abs=1e-5)
    assert found.n_changed == len(expected.edits)


def test_injected_features_that_no_index_knows_are_measured_by_this_prompt(tiny_model, tmp_path: Path) -> None:
    scope = scope_of(tiny_model("llama"))
    graph = graph_of(scope)
    table = graph.nodes
    counts = {i: int(((table.layer == table.layer[i]) & (table.feature == table.feature[i])).sum()) for i in
              features(graph, 200)}  # fmt: skip
    single = next(i for i, count in counts.items() if count == 1)
    found = asked(scope, graph, tmp_path, changes=[{"nodes": [single], "kind": "inject", "value": 1.0}])
    assert found.kl == pytest.approx(0, abs=1e-9)
    assert any("on this prompt" in note for note in found.notes)


def test_features_that_the_graph_lacks_are_told(tiny_model, tmp_path: Path) -> None:
    """A pruned graph takes a donor's features that it does not hold: it predicts nothing, and says so."""
    scope = scope_of(tiny_model("llama"))
    graph, donor = graph_of(scope), graph_of(scope, tuple(OTHER_TOKENS))
    table = graph.nodes
    kept = [i for i in range(len(table)) if not table.is_kind("feature")[i] or table.layer[i] == 2]
    small = graph.subgraph(kept)
    out = small.nodes.is_kind("feature").nonzero()[0].tolist()[:1]
    put_in = [i for i in features(donor, 40) if donor.nodes.layer[i] < 2][:3]
    swap = {"out": out, "donor": OTHER_ID, "nodes": put_in, "suppress": 1.0}
    found = asked(scope, small, tmp_path, swaps=[swap], donor_paths={OTHER_ID: saved(donor, tmp_path, OTHER_ID)})
    assert 0 < found.n_unpredicted == found.n_changed - 1
    assert any("not in the graph" in note for note in found.notes)


@pytest.mark.parametrize("mode", ["constrained", "iterative"])
def test_other_modes_run_with_controls(tiny_model, mode: str, tmp_path: Path) -> None:
    scope = scope_of(tiny_model("llama"))
    graph = graph_of(scope)
    found = asked(scope, graph, tmp_path, changes=[{"nodes": features(graph, 2), "value": 0.0}], mode=mode)
    assert found.targets[0].control is not None
    assert np.isfinite(found.targets[0].control)


def test_what_cannot_be_done_is_said_in_one_line(tiny_model, tmp_path: Path) -> None:
    scope = scope_of(tiny_model("llama"))
    graph = graph_of(scope)
    node, error = features(graph, 1)[0], int(graph.nodes.is_kind("error").nonzero()[0][0])
    off = {"nodes": [node], "value": 0.0}
    swap = {"out": [node], "donor": OTHER_ID, "nodes": [0]}
    cases: list[tuple[dict[str, Any], str]] = [
        ({"changes": [{"nodes": [10**6]}]}, "not in the graph any more"),
        ({"changes": [{"nodes": [error]}]}, "of kind error"),
        ({}, "nothing to change"),
        ({"changes": [off, {"nodes": [node], "value": 2.0}]}, "changed twice"),
        ({"changes": [off], "watch": [{"name": "x", "nodes": [10**6]}]}, "not in the graph any more"),
        ({"swaps": [swap]}, "gone"),
        ({"changes": [off], "mode": "frozen", "attention": "live"}, "does not go with mode"),
    ]
    for request, words in cases:
        with pytest.raises(InterventionError, match=words) as caught:
            asked(scope, graph, tmp_path, **request)
        assert "\n" not in str(caught.value)


def test_a_graph_of_other_features_is_refused(tiny_model, tmp_path: Path) -> None:
    graph = graph_of(scope_of(tiny_model("llama"), "plt"))
    with pytest.raises(InterventionError, match="load the same dictionary"):
        asked(scope_of(tiny_model("llama"), "clt"), graph, tmp_path, changes=[{"nodes": features(graph, 1)}])
    other = replace(graph, metadata=graph.metadata | {"model": {"name": "somebody-else"}})
    with pytest.raises(InterventionError, match="somebody-else"):
        asked(scope_of(tiny_model("llama"), "plt"), other, tmp_path, changes=[{"nodes": features(graph, 1)}])


def test_a_cancelled_experiment_leaves_the_model_as_it_was(tiny_model, tmp_path: Path) -> None:
    scope = scope_of(tiny_model("llama"))
    graph = graph_of(scope)
    request = {"changes": [{"nodes": features(graph, 2), "value": -3.0}]}
    first = asked(scope, graph, tmp_path, **request)
    document = {"graph": ID, "graph_path": saved(graph, tmp_path), "controls": 2, "generate": 3, **request}
    whole = StandIn()
    intervene.run(scope, document, whole)
    for reports in range(1, len(whole.stages) + 1):
        with pytest.raises(Cancelled):
            intervene.run(scope, document, StandIn(cancel_at=reports))
    again = asked(scope, graph, tmp_path, **request)
    assert again == first
    assert whole.sent == [
        {"predicted": [{"text": target.text, "predicted": target.predicted} for target in first.targets]}
    ]


def test_the_script_does_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Run with the library, it predicts, measures and draws controls alike; a label in it stays a comment."""
    scope = scope_of(word_model())
    graph = graph_of(scope)
    nodes = features(graph, 2)
    hostile = 'x"""\nraise SystemExit\r\u2028import os # \\'
    graph = graph.with_labels(dict.fromkeys(nodes, hostile))
    changes = [{"nodes": nodes[:1], "value": -2.0}, {"nodes": nodes[1:], "kind": "set", "value": 0.5}]
    found = asked(scope, graph, tmp_path, changes=changes, controls=3, seed=1)
    monkeypatch.setattr(lucida, "Microscope", lambda *_: scope)
    names: dict[str, Any] = {}
    exec(compile(found.python, "script", "exec"), names)
    for name, field in (("predicted", "predicted"), ("measured", "measured"), ("control", "control")):
        assert list(names[name]) == pytest.approx([getattr(target, field) for target in found.targets], abs=1e-5)
    assert names["written"].steered[0].text == found.text_after
    assert names["outcome"].kl() == pytest.approx(found.kl, abs=1e-6)
    printed = capsys.readouterr().out
    assert f"after:  {found.text_after}" in printed


@pytest.mark.real
def test_small_put_out_on_the_demo_prompt(tmp_path: Path) -> None:
    """SmolLM2: without its features of "small" the model no longer prefers large; random features do less."""
    scope = Microscope("smollm2-135m")
    graph = scope.trace('The opposite of "small" is "', [("large", "small")])
    nodes = [node.index for node in graph.find("small", position=4)[:20]]
    found = asked(scope, graph, tmp_path, changes=[{"nodes": nodes, "value": -1.0}], controls=10, generate=12)
    target = found.targets[0]
    assert target.predicted is not None
    assert target.control is not None
    assert target.predicted < 0
    assert target.measured < 0
    assert abs(target.measured) > 2 * abs(target.control)
    assert found.text_before.startswith("large")
    assert not found.text_after.startswith("large")
    names: dict[str, Any] = {}
    exec(compile(found.python, "script", "exec"), names)
    assert names["measured"][0] == pytest.approx(target.measured, abs=1e-3)
    assert names["written"].steered[0].text == found.text_after


def test_scales_are_written_in_full(tiny_model, tmp_path: Path) -> None:
    """What the script changes is what was changed: every feature, its number in full."""
    scope = scope_of(tiny_model("llama"))
    graph = graph_of(scope)
    nodes = features(graph, 3)
    found = asked(scope, graph, tmp_path, changes=[{"nodes": nodes, "value": 1 / 3}], generate=0, controls=0)
    part = found.python[found.python.index("edits = {") : found.python.index("settings =")]
    names: dict[str, Any] = {"Scale": Scale}
    exec(part, names)
    table = graph.nodes
    places = {(int(table.layer[i]), int(table.position[i]), int(table.feature[i])) for i in nodes}
    assert names["edits"] == dict.fromkeys(places, Scale(1 / 3))
