"""The view is what a page draws: it must be a faithful part of the graph, and say what it leaves out."""

import json

import numpy as np
import pytest
from example_graphs import golden, hand_made, linear_graph
from hypothesis import given, settings
from hypothesis import strategies as st
from interchange_graphs import random_graph
from safetensors.numpy import load

from lucida.errors import GraphError
from lucida.graph.graph import KINDS
from lucida.graph.influence import carries_influence
from lucida.graph.pruning import prune_masks
from lucida.graph.view import view

seeds = st.integers(0, 10_000)
shares = st.floats(0.05, 1.0)


@given(seeds, shares, shares)
@settings(max_examples=30, deadline=None)
def test_every_number_of_a_view_is_the_graphs(seed, node_share, edge_share):
    graph = random_graph(seed)
    seen = view(graph, node_share=node_share, edge_share=edge_share)
    dense = graph.dense().matrix
    source, target = seen.node[seen.source], seen.node[seen.target]
    np.testing.assert_array_equal(seen.weight, dense[target, source])
    for name in ("kind", "layer", "position", "activation", "influence"):
        np.testing.assert_array_equal(seen.columns[name], getattr(graph.nodes, name)[seen.node])
    assert seen.header["text"] == [graph.nodes.text[i] for i in seen.node]
    assert (np.diff(seen.node) > 0).all()


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_a_whole_view_has_every_node_and_edge(seed):
    graph = linear_graph(seed)
    seen = view(graph, node_share=1.0, edge_share=1.0)
    assert len(seen.node) == len(graph.nodes) == seen.header["nodes_in_graph"]
    assert len(seen.weight) == np.count_nonzero(graph.edges) == seen.header["edges"]


@given(seeds, st.floats(0.1, 0.95))
@settings(max_examples=30, deadline=None)
def test_a_page_that_filters_by_cumulative_shows_what_pruning_keeps(seed, share):
    """But for the one node that passes the share, which pruning keeps: a page shows it once its slider reaches it."""
    graph = linear_graph(seed)
    seen = view(graph, node_share=1.0, edge_share=1.0)
    features = seen.node[(seen.columns["kind"] == KINDS.index("feature")) & (seen.columns["cumulative"] <= share)]
    kept = np.flatnonzero(prune_masks(graph, share, 1.0).node_mask & graph.nodes.is_kind("feature"))
    assert set(features) <= set(kept)
    assert len(kept) - len(features) <= 1


@given(seeds, st.integers(1, 12), st.integers(1, 40))
@settings(max_examples=30, deadline=None)
def test_bounds_keep_the_strongest(seed, most_nodes, most_edges):
    graph = linear_graph(seed)
    all_of_it = view(graph, node_share=1.0, edge_share=1.0)
    seen = view(graph, node_share=1.0, edge_share=1.0, most_nodes=most_nodes, most_edges=most_edges)
    ranked = ~graph.nodes.is_kind("embedding", "logit", "bias")
    kept = np.intersect1d(seen.node, np.flatnonzero(ranked))
    assert len(kept) == min(most_nodes, int(ranked.sum()))
    left = np.setdiff1d(np.flatnonzero(ranked), kept)
    cumulative = dict(zip(all_of_it.node.tolist(), all_of_it.columns["cumulative"].tolist(), strict=True))
    if len(left) and len(kept):
        assert max(cumulative[i] for i in kept) <= min(cumulative[i] for i in left)
    assert len(seen.weight) <= most_edges


@pytest.mark.parametrize("name", ["clt", "plt_jumprelu"])
def test_shares_are_of_all_inputs_of_the_whole_graph(name):
    graph, _ = golden(name)
    seen = view(graph, node_share=0.8, edge_share=1.0)
    dense, counted = np.abs(graph.dense().matrix), carries_influence(graph)
    inputs = dense[:, counted].sum(1)
    is_counted = counted[seen.node[seen.source]]
    expected = seen.weight / inputs[seen.node[seen.target]]
    np.testing.assert_allclose(seen.share[is_counted], expected[is_counted], rtol=1e-4)
    assert not seen.share[~is_counted].any()


def test_edges_stand_by_target_and_then_by_size():
    graph, _ = golden("clt")
    seen = view(graph)
    assert (np.diff(seen.target.astype(int)) >= 0).all()
    same = np.diff(seen.target.astype(int)) == 0
    assert (np.diff(np.abs(seen.weight))[same] <= 0).all()


def test_the_bytes_hold_all_of_it():
    graph, _ = golden("clt")
    seen = view(graph)
    data = seen.to_bytes()
    tensors = load(data)
    assert set(tensors) == {
        "node", *seen.columns, "edge_source", "edge_target", "edge_weight", "edge_share", "edge_cumulative",
    }  # fmt: skip
    assert {str(t.dtype) for t in tensors.values()} <= {"uint8", "int32", "uint32", "float32"}, "what view.ts reads"
    np.testing.assert_array_equal(tensors["edge_weight"], seen.weight)
    length = int.from_bytes(data[:8], "little")
    header = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["view"])
    assert header == json.loads(json.dumps(seen.header))


def test_neurons_are_ranked_by_attribution():
    graph = linear_graph(0)
    graph.metadata["measure"] = "attribution"
    assert view(graph).header["measure"] == "attribution"


def test_a_view_of_nothing_is_refused():
    with pytest.raises(GraphError, match="at least one"):
        view(hand_made(), most_nodes=0)
    with pytest.raises(GraphError, match="share"):
        view(hand_made(), node_share=0.0)
