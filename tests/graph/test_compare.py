from dataclasses import replace

import numpy as np
import pytest
from example_graphs import hand_made
from hypothesis import given, settings
from hypothesis import strategies as st
from interchange_graphs import random_graph

from lucida.graph.compare import compare

seeds = st.integers(0, 10_000)


@given(seeds, st.booleans())
@settings(max_examples=10, deadline=None)
def test_a_graph_equals_itself(seed, positions):
    graph = random_graph(seed)
    found = compare(graph, graph, positions=positions)
    assert found.only_a == found.only_b == found.edges_changed == ()
    assert found.feature_jaccard == found.influence_jaccard == found.edge_jaccard == 1


@given(seeds, seeds, st.booleans())
@settings(max_examples=20, deadline=None)
def test_swapping_the_graphs_swaps_the_result(one, other, positions):
    a, b = random_graph(one, n_features=40), random_graph(other, n_features=40)
    there, back = compare(a, b, positions=positions), compare(b, a, positions=positions)
    assert [(f.layer, f.feature) for f in there.only_a] == [(f.layer, f.feature) for f in back.only_b]
    assert there.feature_jaccard == back.feature_jaccard
    assert there.edge_jaccard == back.edge_jaccard
    assert there.influence_jaccard == pytest.approx(back.influence_jaccard)
    assert {(f.influence_a, f.influence_b) for f in there.shared} == {
        (f.influence_b, f.influence_a) for f in back.shared
    }


@given(seeds, seeds)
@settings(max_examples=20, deadline=None)
def test_features_are_split_by_set_algebra(one, other):
    a, b = random_graph(one, n_features=60), random_graph(other, n_features=60)
    keys = [{(n.layer, n.feature, n.position) for n in g.find(kind="feature")} for g in (a, b)]
    found = compare(a, b)
    for features, expected in (
        (found.only_a, keys[0] - keys[1]),
        (found.only_b, keys[1] - keys[0]),
        (found.shared, keys[0] & keys[1]),
    ):
        assert {(f.layer, f.feature, f.position) for f in features} == expected
    assert found.feature_jaccard == len(keys[0] & keys[1]) / len(keys[0] | keys[1])


def test_a_pruned_graph_has_nothing_new():
    graph = random_graph(3, n_features=40)
    small = graph.prune(nodes=0.5, edges=0.8)
    found = graph.compare(small)
    assert found.only_b == ()
    assert len(found.shared) == int(small.nodes.is_kind("feature").sum())
    assert all(change.weight_b == 0 for change in found.edges_changed)
    assert found.edge_jaccard == np.count_nonzero(small.edges) / np.count_nonzero(graph.edges)


def test_a_changed_edge_is_found():
    a = hand_made()
    edges = a.edges.copy()
    edges[1, 0] = -1.5
    edges[2, 1] = 0
    found = compare(a, replace(a, edges=edges))
    assert [str(change) for change in found.edges_changed] == [
        "[L1/7@0 small] → [L2/8@1 say large]: 1.5 → -1.5",
        '[L2/8@1 say large] → logit "large"@1: 3 → 0',
    ]


def test_without_positions_influence_and_edges_are_added_up():
    a = random_graph(0)
    shifted = a.nodes.feature.copy()
    shifted[a.nodes.is_kind("feature")] = 5
    graph = replace(a, nodes=replace(a.nodes, feature=shifted))
    found = compare(graph, graph, positions=False)
    layers = a.nodes.layer[a.nodes.is_kind("feature")]
    assert [f.layer for f in sorted(found.shared, key=lambda f: f.layer)] == sorted(set(layers.tolist()))
    total = float(a.nodes.influence[a.nodes.is_kind("feature")].sum())
    assert sum(f.influence_a for f in found.shared) == pytest.approx(total)
    silent = replace(graph, edges=np.zeros_like(graph.edges))
    changes = compare(graph, silent, positions=False, edges=10_000).edges_changed
    rows = graph.nodes.is_kind("logit")[graph.targets]
    columns = graph.nodes.is_kind("feature") & (graph.nodes.layer == 0)
    expected = graph.edges[rows][:, columns].sum(axis=1)
    found_edges = {c.target: c.weight_a for c in changes if c.source.startswith("[L0/5") and "logit" in c.target}
    assert sorted(found_edges.values()) == pytest.approx(sorted(expected[expected != 0]), rel=1e-4)


def test_a_comparison_reads_as_lines():
    found = compare(random_graph(0), random_graph(1))
    assert len(str(found).splitlines()) == len(found.rows())
    assert ("features in both", str(len(found.shared))) in found.rows()
