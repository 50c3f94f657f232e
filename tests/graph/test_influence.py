from dataclasses import replace

import numpy as np
import pytest
from example_graphs import golden, hand_made, linear_graph
from hypothesis import given, settings
from hypothesis import strategies as st
from interchange_graphs import random_graph

from lucida.errors import GraphError
from lucida.graph.influence import (
    attributions,
    influence,
    influence_by_length,
    node_influence,
    normalised,
    target_values,
    target_weights,
)

seeds = st.integers(0, 10_000)


def sum_of_powers(start, matrix):
    """The slow twin: start (F + F^2 + ...) on the square matrix, in float64."""
    total, power = np.zeros_like(start @ matrix), start @ matrix
    while power.any():
        total += power
        power = power @ matrix
    return total


def literal_influence(graph):
    size = np.abs(graph.dense().matrix.astype(np.float64))
    size[:, graph.nodes.is_kind("bias")] = 0
    total = size.sum(axis=1, keepdims=True)
    return sum_of_powers(target_weights(graph), size / np.where(total == 0, 1, total))


def literal_attributions(graph):
    matrix = graph.dense().matrix.astype(np.float64)
    feature = graph.nodes.is_kind("feature")
    matrix[feature] /= graph.nodes.activation[feature, None]
    return sum_of_powers(np.eye(len(matrix))[graph.nodes.is_kind("logit")], matrix)


def test_influence_of_the_graph_worked_out_on_paper():
    expected = [0.375, 0.47, 0.310833, 0.32, 0.269167, 0, 0]
    np.testing.assert_allclose(influence(hand_made()), expected, atol=1e-6)


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_influence_equals_the_sum_of_powers(seed):
    graph = random_graph(seed)
    np.testing.assert_allclose(influence(graph), literal_influence(graph), atol=1e-5)
    np.testing.assert_allclose(influence_by_length(graph)[1:].sum(axis=0), influence(graph), atol=1e-6)


def test_influence_reproduces_circuit_tracers_order():
    graph, known = golden("clt")
    strength = influence(graph)
    order = np.argsort(known["cumulative"], kind="stable")
    assert (np.diff(strength[order]) < 1e-6).all()


@given(seeds)
@settings(max_examples=10, deadline=None)
def test_all_influence_ends_in_nodes_without_inputs(seed):
    graph = random_graph(seed, density=1.0)
    ends = graph.nodes.is_kind("embedding", "error", "unexpanded")
    assert influence(graph)[ends].sum() == pytest.approx(sum(graph.metadata["target_weights"]), rel=1e-5)


def test_bias_carries_no_influence_and_takes_none_away():
    graph = random_graph(1)
    bias = graph.nodes.is_kind("bias")
    louder = replace(graph, edges=np.where(bias, graph.edges * 100, graph.edges))
    assert np.abs(graph.edges[:, bias]).max() > 0
    np.testing.assert_array_equal(influence(graph), influence(louder))
    assert influence(graph)[bias] == 0
    assert node_influence(graph, "attribution")[bias] == 0


def test_unexpanded_nodes_take_influence():
    graph = random_graph(1)
    unexpanded = graph.nodes.is_kind("unexpanded")
    assert influence(graph)[unexpanded].sum() > 0


def test_order_of_rows_does_not_matter():
    graph = random_graph(2)
    order = np.random.default_rng(0).permutation(len(graph.targets))
    shuffled = replace(graph, edges=graph.edges[order], targets=graph.targets[order])
    np.testing.assert_allclose(influence(graph), influence(shuffled), atol=1e-6)


def test_given_weights_replace_those_of_the_graph():
    graph = hand_made()
    only = np.zeros(len(graph.nodes))
    only[0] = 1
    np.testing.assert_allclose(influence(graph, only), [0, 0, 1 / 6, 4 / 6, 1 / 6, 0, 0], atol=1e-6)


def test_rows_are_normalised_and_empty_rows_stay_zero():
    edges = np.array([[1, -3, 4], [0, 0, 0]], np.float32)
    np.testing.assert_allclose(normalised(edges), [[0.125, 0.375, 0.5], [0, 0, 0]])
    counted = np.array([True, True, False])
    np.testing.assert_allclose(normalised(edges, counted), [[0.25, 0.75, 0], [0, 0, 0]])
    assert edges[0, 1] == -3


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_attributions_equal_the_sum_of_powers_and_add_up_to_the_logits(seed):
    graph = linear_graph(seed)
    found = attributions(graph)
    expected = literal_attributions(graph)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(found.per_logit / scale, expected / scale, atol=1e-4)
    sources = ~graph.nodes.is_kind("feature", "logit")
    np.testing.assert_allclose(found.per_logit[:, sources].sum(axis=1) / scale, target_values(graph) / scale, atol=1e-4)
    weights = np.array(graph.metadata["target_weights"])
    np.testing.assert_allclose(found.magnitude, weights @ np.abs(found.per_logit))
    np.testing.assert_allclose(found.signed, weights @ found.per_logit)


def test_a_feature_of_activation_zero_passes_nothing_on():
    graph = hand_made()
    activation = graph.nodes.activation.copy()
    activation[0] = 0
    still = replace(graph, nodes=replace(graph.nodes, activation=activation))
    assert np.isfinite(attributions(still).per_logit).all()
    assert attributions(still).per_logit[0, 3] == pytest.approx(0.5)


@pytest.mark.parametrize("weights", [None, [0.5], [0.5, float("nan")], [0.5, "a"], "ab", [0.5, -1]])
def test_target_weights_that_do_not_fit_are_refused(weights):
    graph = replace(hand_made(), metadata={} if weights is None else {"target_weights": weights})
    with pytest.raises(GraphError, match="target_weights"):
        influence(graph)


def test_an_edge_from_above_is_refused():
    graph = hand_made()
    edges = graph.edges.copy()
    edges[0, 1] = 1
    with pytest.raises(GraphError, match="lower layer"):
        influence(replace(graph, edges=edges))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_edge_that_is_not_finite_is_refused(bad):
    graph = hand_made()
    edges = graph.edges.copy()
    edges[0, 3] = bad
    with pytest.raises(GraphError, match="finite"):
        attributions(replace(graph, edges=edges))


def test_an_unknown_measure_is_refused():
    with pytest.raises(GraphError, match="influence, attribution"):
        node_influence(hand_made(), "fame")
