"""Where a graph is exact its validation says so; where it was shuffled it says that; and what cannot be validated is
refused in one line.
"""

import json
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from steady_models import own_features, steady_model
from tiny_models import DICTIONARY_KINDS, build_hf, dictionary_of_kind

from lucida.attribution import trace
from lucida.errors import GraphError, LucidaError
from lucida.evaluation.ablation import ablate_features, graph_features
from lucida.evaluation.running import run_copies
from lucida.graph import Graph
from lucida.models.linear import FrozenModel
from lucida.models.model import Model
from lucida.models.recording import record
from lucida.validation import findings, validate
from lucida.validation.agreement import RISE, choose_pushes
from lucida.validation.answer import effects
from lucida.validation.claims import linear_effects, story
from lucida.validation.controls import matched_controls
from lucida.validation.measuring import error_shares
from lucida.validation.subject import activations, open_subject
from lucida.validation.verdicts import LEVELS

TOKENS = [5, 17, 3, 48, 41, 17, 9, 22]
FEW = {"ablations": 24, "targets": 24, "controls": 6, "pushes": 4}


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals are not the matter here."""
    monkeypatch.setattr("lucida.statistics.RESAMPLES", 12)


@cache
def traced(model: Model, kind: str) -> tuple[Any, Graph]:
    """A dictionary of a kind that fits the model (None: neurons), and a graph through it."""
    if kind == "neurons":
        return None, trace(model, None, TOKENS, max_nodes=40)
    if kind == "own":
        dictionary = own_features(model)
    else:
        dictionary = dictionary_of_kind(FrozenModel(model, record(model, model.tokenize(TOKENS))), kind)
    return dictionary, trace(model, dictionary, TOKENS, max_nodes=None)


CASES = [("llama", kind) for kind in (*DICTIONARY_KINDS, "neurons")]
CASES += [("gemma2", "clt"), ("gpt_neox", "plt"), ("olmo2", "windowed"), ("gpt2", "neurons")]


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_every_kind_of_graph_gets_a_report(tiny_model: Any, family: str, kind: str) -> None:
    """Shares are shares, every level is known, the JSON is JSON, and the same seed gives the same."""
    model = tiny_model(family)
    dictionary, graph = traced(model, kind)
    found = validate(model, dictionary, graph, **FEW)
    assert len(found.ablations) == min(24, int(graph.nodes.is_kind("feature").sum()))
    assert all(a.kl >= 0 and a.live_kl >= 0 and a.influence >= 0 for a in found.ablations)
    assert (found.pairs is None) == (found.errors is None) == (kind == "neurons")
    assert found.reach == (0 if kind in ("neurons", "plt_skip") else 2)
    assert bool(found.left_out) == (kind != "plt_skip")
    shares = [found.prediction.signs, found.prediction.signs_weighted, found.controls and found.controls.wins]
    assert all(0 <= share.value <= 1 for share in shares if share is not None)
    assert {line.level for line in findings(found)} <= set(LEVELS)
    document = json.loads(json.dumps(found.document(), allow_nan=False))
    assert [line["name"] for line in document["findings"]] == [line.name for line in findings(found)]
    if kind in ("plt", "neurons"):
        again = validate(model, dictionary, graph, **FEW)
        assert replace(again, seconds=found.seconds) == found


def test_an_exact_graph_predicts_what_happens() -> None:
    """Norms that do not react, all MLPs held: each effect is the edge, so slope, signs and rank are 1."""
    model = steady_model()
    dictionary, graph = traced(model, "own")
    found = validate(model, dictionary, graph, reach=4, ablations=60, targets=30, controls=0, pushes=0)
    assert found.prediction.slope is not None
    assert found.prediction.slope.value == pytest.approx(1, abs=0.02)
    assert found.prediction.spearman is not None
    assert found.prediction.spearman.value > 0.999
    assert found.prediction.signs is not None
    assert found.prediction.signs.value > 0.98
    assert found.pairs is not None
    assert found.pairs.direct_signs is not None
    assert found.pairs.direct_signs.value > 0.98
    assert found.pairs.knock_on.pairs == 0


@pytest.mark.parametrize("reach", [0, 1])
def test_prediction_follows_the_paths_that_an_ablation_leaves_open(reach: int) -> None:
    """Above the held layers the own ReLU features are the live MLPs: exact unless a gate moves."""
    model = steady_model()
    dictionary, graph = traced(model, "own")
    subject = open_subject(model, dictionary, graph, reach=reach)
    low = subject.features[graph.nodes.layer[subject.features] <= 1]
    # A feature that is nearly off moves no gate.
    sources = low[np.argsort(graph.nodes.activation[low])][:16]
    found = ablate_features(subject.view, dictionary, graph_features(graph, sources), reach=reach, at=subject.at)
    change = effects(subject, found).change
    predicted = -linear_effects(graph, sources, reach)
    scale = np.abs(predicted).max()
    assert np.median(np.abs(change - predicted)) < 0.01 * scale
    every = -linear_effects(graph, sources, 0)
    if reach:
        assert np.median(np.abs(change - every)) > np.median(np.abs(change - predicted))


def test_shuffled_claims_are_found_out() -> None:
    """Influence dealt out at random ranks nothing, and edges dealt out at random predict nothing."""
    model = steady_model()
    dictionary, graph = traced(model, "own")
    settings = {"ablations": 120, "targets": 60, "controls": 0, "pushes": 0, "reach": 0}
    honest = validate(model, dictionary, graph, **settings)
    generator = np.random.default_rng(1)
    features = np.flatnonzero(graph.nodes.is_kind("feature"))
    shuffled, edges = graph.nodes.influence.copy(), graph.edges.copy()
    shuffled[features] = generator.permutation(shuffled[features])
    for layer in range(model.n_layers):
        here = features[graph.nodes.layer[features] == layer]
        edges[:, here] = edges[:, generator.permutation(here)] * generator.choice([-1, 1], len(here))
    liar = replace(graph, nodes=replace(graph.nodes, influence=shuffled), edges=edges)
    found = validate(model, dictionary, liar, **settings)
    for whole, broken in (
        (honest.nodes.influence, found.nodes.influence),
        (honest.prediction.spearman, found.prediction.spearman),
    ):
        assert whole is not None
        assert broken is not None
        assert whole.value > 0.6
        assert abs(broken.value) < 0.3
    assert found.pairs is not None
    assert found.pairs.direct_signs is not None
    assert abs(found.pairs.direct_signs.value - 0.5) < 0.15


def test_nothing_goes_through_attention_that_cannot_change() -> None:
    """Without queries every pattern is flat, live or held."""
    hf = build_hf("llama")
    for layer in hf.model.layers:
        layer.self_attn.q_proj.weight.zero_()
    model = Model(hf, name="flat")
    dictionary, graph = traced(model, "plt")
    found = validate(model, dictionary, graph, **FEW | {"pushes": 0})
    assert found.attention.logit is not None
    assert found.attention.logit.value < 1e-3
    model = Model(build_hf("llama"), name="looking")
    found = validate(model, *traced(model, "plt"), **FEW | {"pushes": 0})
    assert found.attention.logit is not None
    assert found.attention.logit.value > 0.01


def test_a_perfect_dictionary_answers_pushes_as_the_model_does() -> None:
    model = steady_model()
    dictionary, graph = traced(model, "own")
    found = validate(model, dictionary, graph, ablations=3, targets=0, controls=0, pushes=12)
    assert [step.layers for step in found.agreement] == [1, 2, 4]
    for step in found.agreement:
        assert step.cosine is not None
        assert step.cosine.value > 0.995
        assert step.error is not None
        assert step.error.value < 0.01
        assert step.idle_cosine is not None
        assert step.idle_cosine.value < step.cosine.value


def test_a_push_raises_its_feature_and_a_random_one_is_as_long() -> None:
    model = steady_model()
    dictionary, graph = traced(model, "own")
    subject = open_subject(model, dictionary, graph, reach=2)
    pushes = choose_pushes(subject, 6, np.random.default_rng(0))
    half = len(pushes) // 2
    torch.testing.assert_close(pushes.vector[:half].norm(dim=1), pushes.vector[half:].norm(dim=1))
    for layer, position, vector in zip(pushes.layer[:half], pushes.position[:half], pushes.vector[:half], strict=True):
        x = subject.view.recording.residual_mid[layer, position]
        norm = model.norm(model.layers[layer].mlp_norm)
        assert norm is not None
        read = norm.push(torch.stack((x, x + vector)), norm.scale(x).expand(2))
        before, after = dictionary.encode(int(layer), read)
        raised = (after / before)[before > 0]
        assert ((raised - 1 - RISE).abs() < 1e-3).any()


@pytest.mark.parametrize("kind", ["plt", "neurons"])
def test_the_story_is_what_pruning_keeps(tiny_model: Any, kind: str) -> None:
    graph = traced(tiny_model("llama"), kind)[1]
    small = graph.prune(nodes=0.8, edges=1.0)
    assert len(story(graph)) == int(small.nodes.is_kind("feature").sum()) > 0


@pytest.mark.parametrize("kind", ["plt", "clt", "neurons"])
def test_controls_are_never_of_the_story(tiny_model: Any, kind: str) -> None:
    """They stand at the same position, each is used once, and they are active."""
    model = tiny_model("llama")
    dictionary, graph = traced(model, kind)
    subject = open_subject(model, dictionary, graph, reach=2)
    matched = matched_controls(subject, 10, np.random.default_rng(0))
    assert matched is not None
    table = graph.nodes
    places = {(int(table.layer[n]), int(table.position[n]), int(table.feature[n])) for n in story(graph)}
    columns = (matched.controls.layer, matched.controls.position, matched.controls.feature)
    drawn = list(zip(*(column.tolist() for column in columns), strict=True))
    assert len(set(drawn)) == len(drawn) > 0
    assert not places & set(drawn)
    assert matched.controls.position.tolist() == matched.chosen.position.tolist()
    for (layer, position, feature), activation in zip(drawn, matched.controls.activation.tolist(), strict=True):
        values = activations(subject, layer)
        assert values is not None
        assert float(values[position, feature]) == pytest.approx(activation)
        assert activation != 0


def test_errors_by_layer_are_all_errors(tiny_model: Any) -> None:
    model = tiny_model("llama")
    dictionary, graph = traced(model, "clt")
    shares = error_shares(open_subject(model, dictionary, graph, reach=2))
    assert shares.by_layer.sum() == pytest.approx(shares.error)
    assert shares.error + shares.unexpanded == pytest.approx(graph.scores().error_share)
    assert shares.error > 0


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox"])
def test_copies_with_live_attention_are_the_recording(tiny_model: Any, family: str) -> None:
    model = tiny_model(family)
    view = FrozenModel(model, record(model, model.tokenize(TOKENS)))
    final = run_copies(view, 2, lambda call: None, attention="live")
    torch.testing.assert_close(final, view.recording.residual_final.expand(2, -1, -1), atol=1e-4, rtol=1e-4)


def test_several_graphs_have_intervals_over_graphs(tiny_model: Any) -> None:
    model = tiny_model("llama")
    dictionary, graph = traced(model, "plt")
    other = trace(model, dictionary, [8, 30, 2, 11, 60, 7], max_nodes=None)
    found = validate(model, dictionary, [graph, other], **FEW)
    assert found.nodes.influence is not None
    assert found.nodes.influence.count == 2
    assert {ablation.graph for ablation in found.ablations} == {0, 1}
    assert found.pairs is not None
    assert found.pairs.direct.spearman is not None
    assert found.pairs.direct.spearman.count == 2
    single = validate(model, dictionary, graph, **FEW)
    assert single.nodes.influence is not None
    assert single.nodes.influence.count == 24


def other_weights(model: Model) -> Model:
    """The same shapes, other numbers."""
    return Model(build_hf("llama", seed=9), name=model.name)


def test_graphs_that_cannot_be_validated_are_refused(tiny_model: Any, tiny_features: Any) -> None:
    model = tiny_model("llama")
    dictionary, graph = traced(model, "plt")
    neurons = traced(model, "neurons")[1]
    small = graph.subgraph(np.concatenate((np.arange(4), np.flatnonzero(~graph.nodes.is_kind("feature")))))
    nameless = replace(graph, metadata=graph.metadata | {"dictionary": {"kind": "features", "name": "x"}})
    past = replace(graph, nodes=replace(graph.nodes, position=graph.nodes.position + 5))
    cases = [
        (model, dictionary, graph.prune(), "pruned"),
        (model, tiny_features(model), graph, "--dictionaries"),
        (model, tiny_features(model), nameless, "activations|has feature"),
        (model, None, graph, "neurons"),
        (model, dictionary, neurons, "neurons"),
        (other_weights(model), dictionary, graph, "activations"),
        (tiny_model("qwen2"), dictionary, graph, "family"),
        (model, dictionary, small, "4 features"),
        (model, dictionary, past, "position"),
        (model, dictionary, [], "no graph"),
    ]
    for loaded, features, asked, says in cases:
        with pytest.raises(GraphError, match=says) as error:
            validate(loaded, features, asked, **FEW)
        assert "\n" not in str(error.value)
    for settings in ({"ablations": 2}, {"targets": -1}, {"reach": -1}):
        with pytest.raises(LucidaError, match="must be"):
            validate(model, dictionary, graph, **FEW | settings)
