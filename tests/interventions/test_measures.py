"""Measures, matched controls, predictions and ranges."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_cases import TOKENS, active_places, at_layer, features_of, probe_of, view_of

from lucida.attribution import trace
from lucida.errors import InterventionError, LucidaError
from lucida.graph.influence import attributions
from lucida.interventions import (
    Case,
    Edit,
    Set,
    best_layers,
    matched_controls,
    predict,
    predict_and_measure,
    resolve,
    sweep,
)
from lucida.interventions.measures import (
    against_controls,
    is_flipped,
    kl,
    logit_difference,
    probability,
    summarise,
    supernode,
)
from lucida.interventions.picture import draw_calibration
from lucida.interventions.prediction import calibrate


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lucida.statistics.RESAMPLES", 50)


def run(model: Any, kind: str, cases: Any, **options: Any) -> list[Any]:
    return sweep(model, features_of(model, kind), TOKENS, cases, view=view_of(model), **options)


def edits_for(model: Any, kind: str, edits: Any) -> tuple[Edit, ...]:
    return resolve(probe_of(model, kind), [Case(edits)])[0].edits


def ablation(node: Any) -> Edit:
    return Edit(node.layer, node.position, node.feature, node.activation, 0.0)


def test_measures_are_those_of_the_logits(tiny_model: Any) -> None:
    model = tiny_model("gemma2")
    places = at_layer(model, "clt", 0)
    outcome = run(model, "clt", [{places[0]: -2.0}], watch=[*places, (1, None, 3)])[0]
    before, after = outcome.baseline.double(), outcome.logits.double()
    p, q = before.softmax(-1), after.softmax(-1)
    assert kl(outcome) == pytest.approx(float((p * (p / q).log()).sum()), rel=1e-6)
    assert probability(outcome, 7).change == pytest.approx(float(q[7] - p[7]))
    found = logit_difference(outcome, 5, 60)
    assert (found.before, found.after) == pytest.approx((float(before[5] - before[60]), float(after[5] - after[60])))
    assert is_flipped(outcome) == bool(before.argmax() != after.argmax())
    whole = supernode(outcome, (1, None, 3))
    assert whole.before == pytest.approx(float(probe_of(model, "clt").recorded_layer(1)[:, 3].sum()), abs=1e-5)
    cap = model.softcap
    assert cap is not None
    uncapped = model.hf.get_output_embeddings()(model.final_norm_module(view_of(model).recording.residual_final[-1]))
    assert torch.allclose(outcome.uncapped(before=True).float(), uncapped, atol=1e-4)


def test_a_share_is_of_the_total_activation(tiny_model: Any) -> None:
    """Of features that an edit below puts up or down, as many watched as stand in the supernode."""
    model = tiny_model("llama")
    low, high = at_layer(model, "plt", 0), at_layer(model, "plt", 1)
    outcome = run(model, "plt", [{place: 0.0 for place in low}], watch=high)[0]
    layer, position, feature = high[0]
    before, after = outcome.watched.before[0], outcome.watched.after[0]
    assert outcome.share((layer, position, feature)) == pytest.approx(after / before)
    assert not np.allclose(outcome.watched.before, outcome.watched.after)
    silent = int((probe_of(model, "plt").recorded_layer(1) == 0).all(0).nonzero()[0])
    nothing = run(model, "plt", [{}], watch=[(1, 2, silent)])[0]
    with pytest.raises(InterventionError, match="inactive"):
        nothing.share((1, 2, silent))


def test_summaries(tiny_model: Any) -> None:
    model = tiny_model("llama")
    places = active_places(model, "clt")
    outcomes = run(model, "clt", [{place: 0.0} for place in places[:6]])
    found = summarise(outcomes, kl)
    assert found is not None
    assert found.value == pytest.approx(np.mean([kl(o) for o in outcomes]))
    assert found.low is not None
    assert found.low <= found.value
    same = against_controls(outcomes, [[o] for o in outcomes], kl)
    assert same is not None
    assert same.value == 0
    with pytest.raises(InterventionError, match="need controls"):
        against_controls(outcomes, [[]] * 6, kl)


@pytest.mark.parametrize("kind", ["plt", "clt", "plt_topk", "neurons"])
def test_controls_are_matched(tiny_model: Any, kind: str) -> None:
    """Other active features of the same position, the same factor, none twice, the same for the same seed."""
    model = tiny_model("llama")
    probe, view = probe_of(model, kind), view_of(model)
    edits = edits_for(model, kind, {place: -2.0 for place in active_places(model, kind)[1::4][:3]})
    found = matched_controls(view, features_of(model, kind), edits, draws=5, nearest=2, seed=1)
    again = matched_controls(view, features_of(model, kind), edits, draws=5, nearest=2, seed=1)
    assert [c.edits for c in found] == [c.edits for c in again]
    assert len({tuple(c.edits) for c in found}) > 1
    edited = {(e.layer, e.position, e.feature) for e in edits}
    for control in found:
        assert len(control.edits) == len(edits)
        assert not edited & set(control.edits)
        before = probe.recorded(control.edits)
        for edit, (place, change) in zip(edits, control.edits.items(), strict=True):
            assert place[1] == edit.position
            assert before[place] != 0
            assert change.value == pytest.approx(-2.0 * before[place], rel=1e-4)


def test_the_nearest_is_taken(tiny_model: Any) -> None:
    """With one candidate to draw from it is that of the nearest activation x decoder norm."""
    model = tiny_model("llama")
    probe = probe_of(model, "clt")
    place = at_layer(model, "clt", 0)[0]
    edit = edits_for(model, "clt", {place: 0.0})[0]
    control = matched_controls(view_of(model), features_of(model, "clt"), [edit], draws=1, nearest=1)[0]
    here = [p for p in at_layer(model, "clt", 0) if p[1] == place[1]]
    written = {p: probe.recorded([p])[p] * float(probe.strengths(0, torch.tensor([p[2]]))[0]) for p in here}
    expected = min((p for p in here if p != place), key=lambda p: abs(np.log(written[p] / written[place])))
    assert list(control.edits) == [expected]
    assert control.ratios[0] == pytest.approx(written[expected] / written[place], rel=1e-5)
    assert control.same_layer == 1


def test_an_injection_is_matched_in_what_it_writes(tiny_model: Any) -> None:
    model = tiny_model("llama")
    probe = probe_of(model, "clt")
    silent = int((probe.recorded_layer(0)[3] == 0).nonzero()[0])
    edits = edits_for(model, "clt", {(0, 3, silent): Set(2.0)})
    for control in matched_controls(view_of(model), features_of(model, "clt"), edits, draws=3):
        ((place, change),) = control.edits.items()
        moved = change.value - probe.recorded([place])[place]
        norms = [float(probe.strengths(l, torch.tensor([f]))[0]) for l, f in ((place[0], place[2]), (0, silent))]
        assert moved * norms[0] == pytest.approx(2.0 * norms[1], rel=1e-4)


def test_controls_that_cannot_be_are_refused(tiny_model: Any) -> None:
    model = tiny_model("llama")
    all_there = {place: 0.0 for place in active_places(model, "clt") if place[1] == 2}
    edits = edits_for(model, "clt", all_there)
    with pytest.raises(InterventionError, match="no other active feature at position 2"):
        matched_controls(view_of(model), features_of(model, "clt"), edits)
    with pytest.raises(InterventionError, match="one draw"):
        matched_controls(view_of(model), features_of(model, "clt"), edits[:1], draws=0)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize("kind", ["plt", "clt", "windowed", "plt_topk"])
def test_a_frozen_run_is_what_the_graph_predicts(tiny_model: Any, family: str, kind: str) -> None:
    """Direct effects are linear: slope one, every sign right, logits included; a supernode is the sum of its parts."""
    model = tiny_model(family)
    graph = trace(model, features_of(model, kind), TOKENS, [7, (5, 60)], max_nodes=None)
    nodes = graph.find(kind="feature", layer=0)[:3]
    tested = predict_and_measure(
        model, features_of(model, kind), graph, [Case({nodes: -1.0}, "frozen"), Case({nodes[0]: 0.5}, "frozen")],
        pruned=graph.prune(), view=view_of(model),
    )  # fmt: skip
    for one in tested:
        assert np.allclose(one.full.predicted, one.full.measured, rtol=1e-3, atol=2e-4)
        assert one.full.is_direct.all()
        assert one.full.calibration("logits").slope == pytest.approx(1, abs=1e-2)
        features = one.full.calibration()
        assert features.slope == pytest.approx(1, abs=1e-3)
        assert features.spearman is None or features.spearman > 0.99
        assert one.pruned is not None
        assert len(one.pruned.nodes) < len(one.full.nodes)


def test_predictions_through_paths_are_attributions(tiny_model: Any) -> None:
    """Neurons: what taking one out does to the logit, summed over all paths upwards, is its signed attribution."""
    model = tiny_model("llama")
    graph = trace(model, None, TOKENS, [(5, 60)], max_nodes=24)
    table, expected = graph.nodes, attributions(graph).per_logit[0]
    logit = int(np.flatnonzero(table.is_kind("logit"))[0])
    for index in np.flatnonzero(table.is_kind("feature"))[::5]:
        node = graph.node(int(index))
        edit = ablation(node)
        found = predict(graph, [edit])
        assert found.change[logit] == pytest.approx(-expected[index], rel=1e-4, abs=1e-5)
        assert found.change[index] == -edit.before


def test_what_a_range_holds_passes_nothing_on(tiny_model: Any) -> None:
    """Constrained to all layers the prediction is the direct effect; free it has the knock-on effects too."""
    model = tiny_model("llama")
    graph = trace(model, features_of(model, "plt"), TOKENS, [7], max_nodes=None)
    node = graph.find(kind="feature", layer=0)[0]
    edit = ablation(node)
    direct = graph.edges[:, node.index]
    held = predict(graph, [edit], mode="constrained", layers=(0, 2)).change[graph.targets]
    frozen = predict(graph, [edit], mode="frozen").change[graph.targets]
    free = predict(graph, [edit]).change[graph.targets]
    others = graph.targets != node.index
    assert np.allclose(held[others], -direct[others], rtol=1e-5, atol=1e-7)
    assert np.array_equal(held, frozen)
    logit = graph.nodes.is_kind("logit")[graph.targets]
    assert not np.allclose(free[logit], held[logit])
    first = graph.nodes.layer[graph.targets] == 1
    assert np.allclose(free[first], held[first])
    rectified = predict(graph, [dataclasses.replace(edit, after=99.0)], is_rectified=True)
    features = graph.nodes.is_kind("feature")
    assert (rectified.change[features] >= -graph.nodes.activation[features] - 1e-6).all()


def test_small_free_changes_are_predicted_in_sign(tiny_model: Any) -> None:
    """Attention held and a small change: what is not frozen (norms, thresholds) bends the numbers, not their order."""
    model = tiny_model("llama")
    dictionary = features_of(model, "clt")
    graph = trace(model, dictionary, TOKENS, [7], max_nodes=None)
    nodes = graph.find(kind="feature", layer=0)
    cases = [Case({node: 0.98}, "iterative", (0, 2)) for node in nodes[:5]]
    tested = predict_and_measure(model, dictionary, graph, cases, view=view_of(model))
    ranks = [one.full.calibration().spearman for one in tested]
    assert np.mean([rank for rank in ranks if rank is not None]) > 0.5
    assert not any(one.full.is_direct.any() for one in tested)


def test_edits_outside_the_graph_are_said(tiny_model: Any) -> None:
    model = tiny_model("llama")
    dictionary = features_of(model, "clt")
    graph = trace(model, dictionary, TOKENS, [7], max_nodes=8)
    known = {(n.layer, n.position, n.feature) for n in graph.find(kind="feature")}
    place = next(p for p in active_places(model, "clt") if p not in known and p[0] == 0)
    one = predict_and_measure(model, dictionary, graph, [{place: 0.0}])[0]
    assert [(e.layer, e.position, e.feature) for e in one.full.missing] == [place]
    assert not one.full.predicted.any()
    assert one.full.calibration().count == 0
    with pytest.raises(InterventionError, match="same dictionary"):
        predict_and_measure(model, features_of(model, "plt"), graph, [{place: 0.0}])


def test_calibration_of_known_numbers() -> None:
    predicted = np.array([1.0, 2.0, -1.0, 0.0, 4.0])
    found = calibrate(predicted, 0.5 * predicted + np.array([0, 0, 0, 9, 0]))
    assert (found.count, found.slope, found.spearman, found.sign_agreement) == (4, 0.5, pytest.approx(1), 1)
    assert calibrate(predicted, -predicted).sign_agreement == 0
    assert calibrate(np.zeros(3), np.ones(3)).slope is None


def test_ranges_are_all_reported(tiny_model: Any) -> None:
    """Every last layer from the highest edited one up, each as a constrained run gives it; the best is the largest."""
    model = tiny_model("llama")
    dictionary = features_of(model, "clt")
    low, high = at_layer(model, "clt", 0)[0], at_layer(model, "clt", 1)[0]
    supernodes: dict[str, Any] = {"low": {low: -2.0}, "both": {low: 0.0, high: 0.0}}
    found = best_layers(model, dictionary, TOKENS, supernodes, kl)
    assert [[effect.layers for effect in one.effects] for one in found] == [
        [(0, 0), (0, 1), (0, 2)],
        [(0, 1), (0, 2)],
    ]
    expected = run(model, "clt", [Case(supernodes["low"], "constrained", (0, last)) for last in range(3)])
    for effect, outcome in zip(found[0].effects, expected, strict=True):
        assert effect.effect == pytest.approx(kl(outcome), rel=1e-3, abs=1e-7)
    assert found[0].best.effect == max(effect.effect for effect in found[0].effects)
    assert "selection" in found[0].note
    with pytest.raises(InterventionError, match="last layers"):
        best_layers(model, dictionary, TOKENS, supernodes, kl, last_layers=[0])


def test_a_picture_is_the_same_every_time(tiny_model: Any, tmp_path: Path) -> None:
    model = tiny_model("llama")
    graph = trace(model, features_of(model, "clt"), TOKENS, [7], max_nodes=None)
    place = at_layer(model, "clt", 0)[0]
    one = predict_and_measure(model, features_of(model, "clt"), graph, [Case({place: 0.0}, "constrained")])[0]
    for name in ("a.svg", "b.svg", "c.png"):
        draw_calibration([one.full], tmp_path / name, title="small_ $x$ <b>")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert (tmp_path / "c.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(LucidaError, match=r"\.svg or a \.png"):
        draw_calibration([one.full], tmp_path / "a.pdf")
    with pytest.raises(LucidaError, match="nothing to draw"):
        draw_calibration([], tmp_path / "a.svg")
