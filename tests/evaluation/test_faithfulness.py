"""Influence between features is that of the matrix, and an ablation is what `intervene` does one at a time."""

from typing import Any

import numpy as np
import pytest
from relu_models import fitting_dictionary, random_rows

from lucida.evaluation import DictionaryBasis, GraphOptions, given_prompts, measure_faithfulness
from lucida.evaluation.faithfulness import REACH, ablate, influence_between
from lucida.evaluation.graphs import TracedPrompt
from lucida.graph.influence import carries_influence, normalised
from lucida.interventions import Scale, intervene
from lucida.models.linear import FrozenModel


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals are not the matter here."""
    monkeypatch.setattr("lucida.statistics.RESAMPLES", 50)


KINDS: dict[str, dict[str, Any]] = {
    "plt": {"reads_at": "resid_mid"},
    "topk": {"activation": "topk", "reads_at": "mlp_in"},
    "clt": {"span": 3, "reads_at": "resid_mid", "writes_at": "resid"},
}


def traced_graph(model: Any, kind: str) -> tuple[TracedPrompt, DictionaryBasis, Any]:
    rows = random_rows(model)
    basis = DictionaryBasis(model, fitting_dictionary(model, rows, **KINDS[kind]))
    prompt = given_prompts(model, [rows[0, :8].tolist()]).prompts[0]
    traced = TracedPrompt.of(model, prompt, GraphOptions(max_nodes=None))
    return traced, basis, traced.graph(basis)


def test_influence_between_features_is_that_of_the_matrix(tiny_model: Any) -> None:
    """B = (I - A)^-1 - I with A the normalised edges, [target, source]."""
    _, _, graph = traced_graph(tiny_model("llama"), "clt")
    features = np.flatnonzero(graph.nodes.is_kind("feature"))
    a = np.zeros((len(graph.nodes), len(graph.nodes)))
    a[graph.targets] = normalised(graph.edges, carries_influence(graph))
    b = np.linalg.inv(np.eye(len(a)) - a) - np.eye(len(a))
    found = influence_between(graph, features[:5], features)
    assert found.max() > 0.01
    np.testing.assert_allclose(found, b[np.ix_(features, features[:5])].T, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "kind"), [*(("llama", kind) for kind in KINDS), ("gemma2", "clt"), ("gpt_neox", "clt"), ("olmo2", "plt")]
)
def test_an_ablation_is_a_constrained_intervention(tiny_model: Any, family: str, kind: str) -> None:
    """All sources in one batch give what the interventions of the library give one by one."""
    model, reach = tiny_model(family), 1
    traced, basis, graph = traced_graph(model, kind)
    table = graph.nodes
    features = np.flatnonzero(table.is_kind("feature"))
    low, high = features[table.layer[features] == 0], features[table.layer[features] > 0]
    sources, targets = np.concatenate((low[:2], high[:1])), high[::3]
    found = ablate(traced.view, basis, graph, sources, targets, reach=reach)
    for index, source in enumerate(sources):
        node = graph.node(int(source))
        layers = (node.layer, min(node.layer + reach, model.n_layers - 1))
        place = (node.layer, node.position, node.feature)
        tokens = list(traced.view.recording.prompt.tokens)
        outcome = intervene(model, basis.dictionary, tokens, {place: Scale(0.0)}, mode="constrained", layers=layers)
        after = FrozenModel(model, outcome.recording)
        for target, change in zip(targets, found[index], strict=True):
            layer, position, feature = (int(getattr(table, c)[target]) for c in ("layer", "position", "feature"))
            value = basis.dictionary.encode(layer, after.site(layer, basis.reads_at))[position, feature]
            before = float(table.activation[target])
            expected = abs(float(value) - before) / before if layer > node.layer else 0.0
            assert change == pytest.approx(expected, abs=2e-3)
    assert found.max() > 1e-3


def test_batches_of_ablations_do_not_matter(tiny_model: Any) -> None:
    traced, basis, graph = traced_graph(tiny_model("llama"), "clt")
    features = np.flatnonzero(graph.nodes.is_kind("feature"))
    whole = ablate(traced.view, basis, graph, features[:7], features)
    single = ablate(traced.view, basis, graph, features[:7], features, rows=1)
    np.testing.assert_allclose(single, whole, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_direct_and_knock_on_pairs_are_all_pairs(tiny_model: Any, kind: str) -> None:
    """Three layers have no knock-on pair at the usual reach; with none held beyond the own layer they do."""
    model = tiny_model("llama")
    basis = DictionaryBasis(model, fitting_dictionary(model, random_rows(model), **KINDS[kind]))
    prompts = given_prompts(model, [row.tolist() for row in random_rows(model, 2, 8)]).prompts
    whole = measure_faithfulness(model, basis, prompts)
    assert whole.knock_on.pairs == 0
    assert whole.knock_on.spearman is None
    assert REACH == 2
    found = measure_faithfulness(model, basis, prompts, reach=0)
    assert found.direct.pairs + found.knock_on.pairs == found.everything.pairs
    assert found.knock_on.pairs > 0
    assert found.everything.spearman is not None
    assert 0.3 < found.everything.spearman.value <= 1
    assert found == measure_faithfulness(model, basis, prompts, reach=0)
    assert 0 <= found.inactive <= 1
