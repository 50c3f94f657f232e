"""Which features a budgeted trace expands: the most influential ones, and never worse than the greedy rule."""

from typing import Any

import numpy as np
import pytest
import torch

from lucida.attribution import trace
from lucida.dictionaries import random_dictionary
from lucida.graph import Graph
from lucida.graph.influence import influence
from lucida.models.linear import FrozenModel
from lucida.models.recording import record

TOKENS = [5, 17, 3, 88, 41, 17, 9, 60, 2, 33]


def full_graph(model: Any, seed: int, span: int) -> tuple[Any, Graph]:
    view = FrozenModel(model, record(model, model.tokenize(TOKENS)))
    samples = {layer: view.site(layer, "resid_mid")[1:] for layer in range(view.n_layers)}
    dictionary = random_dictionary(
        view.n_layers, view.model.d_model, 120, l0=12.0, span=span, samples=samples, seed=seed,
        reads_at="resid_mid", writes_at="resid",
    )  # fmt: skip
    return dictionary, trace(model, dictionary, TOKENS, max_nodes=None)


def normal(graph: Graph) -> tuple[np.ndarray, np.ndarray, int]:
    """Row-normalised |edges| without bias, target weights, number of features."""
    edges = np.abs(graph.edges.astype(np.float64))
    edges[:, graph.nodes.is_kind("bias")] = 0
    edges /= np.maximum(edges.sum(1, keepdims=True), 1e-300)
    return edges, np.array(graph.metadata["target_weights"]), int(graph.nodes.is_kind("feature").sum())


def kept(graph: Graph, expanded: np.ndarray) -> float:
    """Influence that does not end in an unexpanded feature, when only `expanded` pass theirs on."""
    edges, weights, n = normal(graph)
    rows = edges[:n].copy()
    rows[~expanded] = 0
    mass = weights @ edges[n:]
    left = 0.0
    while mass.max() > 1e-14:
        left += mass[:n][~expanded].sum()
        mass = mass[:n] @ rows
    return float(weights.sum() - left)


def greedy(graph: Graph, budget: int, batch: int) -> np.ndarray:
    """circuit-tracer's rule: rank by influence through what is expanded so far, expand the next batch."""
    edges, weights, n = normal(graph)
    expanded = np.zeros(n, bool)
    while expanded.sum() < budget:
        rows = edges[:n].copy()
        rows[~expanded] = 0
        total, mass = np.zeros(n), weights @ edges[n:]
        while mass.max() > 1e-14:
            total += mass[:n]
            mass = mass[:n] @ rows
        total[expanded] = -1
        expanded[np.argsort(-total)[: min(batch, budget - int(expanded.sum()))]] = True
    return expanded


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("share", [0.08, 0.25])
@pytest.mark.parametrize("span", [1, 3])
def test_as_good_as_greedy(tiny_model: Any, seed: int, share: float, span: int) -> None:
    model = tiny_model("llama")
    dictionary, graph = full_graph(model, seed, span)
    n = int(graph.nodes.is_kind("feature").sum())
    budget = int(share * n)
    ours = trace(model, dictionary, TOKENS, max_nodes=budget)
    places = {key: i for i, key in enumerate(keys(graph))}
    expanded = np.zeros(n, bool)
    expanded[[places[key] for key in keys(ours)]] = True
    assert expanded.sum() == budget
    mine = kept(graph, expanded)
    # circuit-tracer ranks anew every 4 batches of 256 rows: once for 1,000 nodes, four times for 4,096. Influence order
    # is not quite the order of what is kept, so on graphs this small it may lose a trace (docs/LOG.md); on 1,000 of
    # 13,000 features tests/test_real.py allows none.
    for batch in (budget, -(-budget // 4), 4):
        assert mine >= 0.998 * kept(graph, greedy(graph, budget, batch))
    reported = ours.metadata["selection"]["unexpanded_influence"]
    weights = np.array(graph.metadata["target_weights"])
    assert reported == pytest.approx(1 - mine / weights.sum(), abs=1e-5)


def keys(graph: Graph) -> list[tuple[int, int, int]]:
    table = graph.nodes
    features = np.flatnonzero(table.is_kind("feature"))
    return [(int(table.layer[i]), int(table.position[i]), int(table.feature[i])) for i in features]


def test_budgeted_rows_are_the_full_graphs_rows(tiny_model: Any) -> None:
    """Every edge between kept nodes is unchanged, and every row still adds up (`unexpanded` holds the rest)."""
    model = tiny_model("qwen2")
    dictionary, graph = full_graph(model, 0, 1)
    small = trace(model, dictionary, TOKENS, max_nodes=30)
    index = {key: i for i, key in enumerate(keys(graph))}
    where = [index[key] for key in keys(small)]
    n, m, logits = len(index), 30, len(graph.metadata["target_weights"])
    rows = [*where, *range(n, n + logits)]
    assert np.allclose(small.edges[:, :m], graph.edges[rows][:, where], atol=1e-6)
    errors, errors_all = small.nodes.is_kind("error"), graph.nodes.is_kind("error")
    assert np.allclose(small.edges[:, errors], graph.edges[rows][:, errors_all], atol=1e-6)
    assert np.allclose(small.edges.sum(1), graph.edges[rows].sum(1), atol=1e-4)
    assert np.allclose(small.edges[:m].sum(1), small.nodes.activation[:m], rtol=1e-3, atol=1e-4)
    assert small.nodes.is_kind("unexpanded").any()
    assert not graph.nodes.is_kind("unexpanded").any()
    assert influence(small)[small.nodes.is_kind("unexpanded")].sum() > 0


def test_selection_is_its_own_top(tiny_model: Any) -> None:
    model = tiny_model("llama")
    dictionary, _ = full_graph(model, 1, 3)
    graph = trace(model, dictionary, TOKENS, max_nodes=40)
    assert graph.metadata["selection"]["is_consistent"]
    assert graph.metadata["selection"]["threshold"] > 0
    assert torch.is_tensor(torch.tensor(graph.metadata["selection"]["unexpanded_influence"]))
