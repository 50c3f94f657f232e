from dataclasses import replace

import numpy as np
import pytest
from example_graphs import golden, hand_made, linear_graph
from hypothesis import given, settings
from hypothesis import strategies as st
from interchange_graphs import random_graph

from lucida.errors import GraphError
from lucida.graph.influence import attributions, influence, target_values
from lucida.graph.pruning import ALWAYS_KEPT, fold_into_errors, lowest_kept, prune_around, prune_masks
from lucida.graph.scores import compute_scores

seeds = st.integers(0, 10_000)
shares = st.floats(0.05, 1.0)
rules = st.sampled_from(sorted(ALWAYS_KEPT))
measures = st.sampled_from(["influence", "attribution"])


@pytest.mark.parametrize("name", ["clt", "plt_jumprelu"])
def test_masks_reproduce_circuit_tracer(name):
    graph, known = golden(name)
    masks = prune_masks(graph, 0.8, 0.98, "circuit-tracer")
    np.testing.assert_array_equal(masks.node_mask, known["node_mask"])
    np.testing.assert_array_equal(masks.edge_mask, known["edge_mask"][graph.targets])
    np.testing.assert_allclose(masks.cumulative, known["cumulative"], atol=1e-5)


def test_nodes_kept_in_the_graph_worked_out_on_paper():
    masks = prune_masks(hand_made(), 0.8, 1.0, "circuit-tracer")
    assert list(np.flatnonzero(masks.cumulative <= 0.85)) == [0, 1, 2, 3]
    assert masks.cumulative[1] == pytest.approx(0.47 / 1.745, abs=1e-6)


@given(seeds, st.floats(0.05, 0.99), measures)
@settings(max_examples=30, deadline=None)
def test_the_paper_keeps_the_shortest_list_that_exceeds_the_share(seed, share, measure):
    graph = linear_graph(seed)
    strength = influence(graph) if measure == "influence" else attributions(graph).magnitude
    ranked = np.flatnonzero(~graph.nodes.is_kind("bias", "logit"))
    order = ranked[np.argsort(-strength[ranked], kind="stable")]
    total, kept = 0.0, set()
    for node in order:
        if total > share * strength[ranked].sum():
            break
        total += strength[node]
        kept.add(int(node))
    masks = prune_masks(graph, share, 1.0, "paper", measure)
    features = graph.nodes.is_kind("feature")
    assert set(np.flatnonzero(masks.node_mask & features)) == {i for i in kept if features[i]}
    assert masks.node_mask[~features].all()


def test_a_share_that_is_met_exactly_is_reached_but_not_exceeded():
    scores = np.array([0.25, 0.5, 0.125, 0.125])
    assert lowest_kept(scores, 0.5, exceed=False) == 0.5
    assert lowest_kept(scores, 0.5, exceed=True) == 0.25


@pytest.mark.parametrize("share", [0.01, 0.3, 0.8, 0.98, 0.999])
@pytest.mark.parametrize("exceed", [True, False])
def test_the_share_is_found_across_blocks(share, exceed):
    scores = np.random.default_rng(0).random(200_000).astype(np.float32) ** 3
    ordered = np.sort(scores)[::-1]
    running = np.cumsum(ordered, dtype=np.float64)
    place = np.searchsorted(running, share * running[-1], "right" if exceed else "left")
    assert lowest_kept(scores, share, exceed=exceed) == ordered[place]


@given(seeds, st.floats(0.05, 0.99), measures)
@settings(max_examples=20, deadline=None)
def test_kept_edges_are_the_shortest_list_of_strongest(seed, share, measure):
    """Edge by edge from the definition, on the whole graph, where node pruning takes nothing away."""
    graph = linear_graph(seed)
    bias = graph.nodes.is_kind("bias")
    weights = np.zeros(len(graph.nodes))
    weights[graph.nodes.is_kind("logit")] = graph.metadata["target_weights"]
    edges = np.abs(np.where(bias, 0, graph.edges)).astype(np.float64)
    if measure == "influence":
        out = influence(graph) + weights
        edges /= edges.sum(axis=1, keepdims=True)
    else:
        out = attributions(graph).magnitude + weights
        feature = graph.nodes.is_kind("feature")[graph.targets]
        edges[feature] /= np.abs(graph.nodes.activation[graph.targets[feature], None])
    score = edges * out[graph.targets, None]
    kept = score[prune_masks(graph, 1.0, share, "paper", measure).edge_mask & ~bias]
    assert kept.sum() >= share * score.sum() * (1 - 1e-4)
    assert kept.sum() - kept.min() <= share * score.sum() * (1 + 1e-4)
    # Edges within rounding of the last one kept may stand on either side.
    assert (score > kept.min() * (1 + 1e-3)).sum() <= len(kept) <= (score >= kept.min() * (1 - 1e-3)).sum()


@given(seeds, shares, shares, rules, measures)
@settings(max_examples=40, deadline=None)
def test_stricter_edges_keep_a_subset(seed, one, other, rule, measure):
    graph = linear_graph(seed)
    strict, loose = sorted((one, other))
    small, large = (prune_masks(graph, 0.8, share, rule, measure) for share in (strict, loose))
    assert (small.node_mask <= large.node_mask).all()
    assert (small.edge_mask <= large.edge_mask).all()


@given(seeds, shares, shares, measures)
@settings(max_examples=40, deadline=None)
def test_stricter_nodes_keep_a_subset(seed, one, other, measure):
    graph = linear_graph(seed)
    strict, loose = sorted((one, other))
    small, large = (prune_masks(graph, share, 0.98, "paper", measure) for share in (strict, loose))
    assert (small.node_mask <= large.node_mask).all()


@given(seeds, rules, measures)
@settings(max_examples=20, deadline=None)
def test_edges_join_kept_nodes_and_bias_stays(seed, rule, measure):
    graph = linear_graph(seed)
    masks = prune_masks(graph, 0.6, 0.9, rule, measure)
    targets, sources = np.nonzero(masks.edge_mask)
    assert masks.node_mask[graph.targets[targets]].all()
    assert masks.node_mask[sources].all()
    assert (graph.edges[masks.edge_mask] != 0).all()
    bias = graph.nodes.is_kind("bias")
    assert masks.node_mask[bias].all()
    np.testing.assert_array_equal(
        masks.edge_mask[:, bias], (graph.edges[:, bias] != 0) & masks.node_mask[graph.targets, None]
    )


@given(seeds, measures)
@settings(max_examples=20, deadline=None)
def test_circuit_tracer_leaves_nothing_unconnected(seed, measure):
    graph = linear_graph(seed)
    masks = prune_masks(graph, 0.5, 0.7, "circuit-tracer", measure)
    bias = graph.nodes.is_kind("bias")
    inner = graph.nodes.is_kind("feature", "error", "unexpanded") & masks.node_mask
    assert masks.edge_mask.any(axis=0)[inner].all()
    rows = np.isin(graph.targets, np.flatnonzero(graph.nodes.is_kind("feature") & masks.node_mask))
    assert masks.edge_mask[rows][:, ~bias].any(axis=1).all()


@given(seeds, rules)
@settings(max_examples=10, deadline=None)
def test_a_share_of_one_keeps_every_connected_node_and_edge(seed, rule):
    graph = random_graph(seed)
    masks = prune_masks(graph, 1.0, 1.0, rule)
    if rule == "paper":
        assert masks.node_mask.all()
        np.testing.assert_array_equal(masks.edge_mask, graph.edges != 0)
    assert masks.node_mask[influence(graph) > 0].all()


@given(seeds, rules, measures)
@settings(max_examples=20, deadline=None)
def test_the_pruned_graph_keeps_its_numbers(seed, rule, measure):
    graph = linear_graph(seed)
    small = graph.prune(0.7, 0.9, rule, measure)
    masks = prune_masks(graph, 0.7, 0.9, rule, measure)
    kept = np.flatnonzero(masks.node_mask)
    np.testing.assert_array_equal(small.nodes.influence, graph.nodes.influence[kept])
    rows = np.isin(graph.targets, kept)
    np.testing.assert_array_equal(small.edges, (graph.edges * masks.edge_mask)[np.ix_(rows, kept)])
    record = small.metadata["pruning"]
    assert (record["rule"], record["measure"], record["nodes"], record["edges"]) == (rule, measure, 0.7, 0.9)
    assert record["before"] == {"nodes": len(graph.nodes), "edges": np.count_nonzero(graph.edges)}
    assert record["after"] == {"nodes": len(small.nodes), "edges": np.count_nonzero(small.edges)}
    assert small.metadata["target_values"] == pytest.approx(list(target_values(graph)))
    assert graph.metadata.get("pruning") is None


def test_scores_of_a_pruned_graph_count_pruned_nodes_as_error():
    graph = linear_graph(0)
    kept = prune_masks(graph, 0.5).node_mask
    assert not kept.all()
    small = graph.prune(nodes=0.5)
    found = small.scores()
    expected = compute_scores(fold_into_errors(graph, np.flatnonzero(kept)))
    assert found == replace(expected, pruned=found.pruned)
    strength = attributions(graph).magnitude * ~graph.nodes.is_kind("bias")
    assert found.pruned == pytest.approx(float(strength[~kept].sum() / strength.sum()))
    part = small.subgraph(np.arange(len(small.nodes) - 1))
    assert part.scores().pruned is None


def test_the_measure_is_the_graphs_own_unless_given():
    graph = linear_graph(1)
    np.testing.assert_array_equal(
        prune_masks(graph, 0.6).cumulative, prune_masks(graph, 0.6, measure="attribution").cumulative
    )
    other = prune_masks(graph, 0.6, measure="influence").cumulative
    assert np.abs(prune_masks(graph, 0.6).cumulative - other).max() > 0.01


@pytest.mark.parametrize("rule", sorted(ALWAYS_KEPT))
def test_a_pruned_graph_can_be_pruned(rule):
    graph = random_graph(5, n_features=30)
    once = graph.prune(0.8, 0.95, rule)
    twice = once.prune(0.6, 0.9, rule)
    assert len(twice.nodes) < len(once.nodes) < len(graph.nodes)
    assert twice.metadata["pruning"]["earlier"]["after"] == twice.metadata["pruning"]["before"]
    assert twice.metadata["target_values"] == once.metadata["target_values"]


@given(seeds, st.booleans())
@settings(max_examples=20, deadline=None)
def test_folding_keeps_the_sum_of_every_row(seed, with_errors):
    graph = random_graph(seed)
    if not with_errors:
        graph = graph.subgraph(np.flatnonzero(~graph.nodes.is_kind("error")))
    keep = np.flatnonzero(np.random.default_rng(seed).random(len(graph.nodes)) < 0.5)
    folded = fold_into_errors(graph, keep)
    stays = ~graph.nodes.is_kind("feature", "unexpanded")
    stays[keep] = True
    rows = stays[graph.targets]
    np.testing.assert_allclose(folded.edges.sum(axis=1), graph.edges[rows].sum(axis=1), atol=1e-4)
    assert (np.diff(folded.nodes.kind) >= 0).all()
    place = np.stack([folded.nodes.layer, folded.nodes.position], axis=1)[folded.nodes.is_kind("error")]
    assert len(np.unique(place, axis=0)) == len(place)
    # What is read off one removed node's place is what all removed nodes there gave, signs kept.
    gone = np.flatnonzero(~stays)
    where = (graph.nodes.layer == graph.nodes.layer[gone[0]]) & (graph.nodes.position == graph.nodes.position[gone[0]])
    expected = graph.edges[rows][:, where & (~stays | graph.nodes.is_kind("error"))].sum(axis=1)
    same = (folded.nodes.layer == graph.nodes.layer[gone[0]]) & (folded.nodes.position == graph.nodes.position[gone[0]])
    np.testing.assert_allclose(folded.edges[:, same & folded.nodes.is_kind("error")].sum(axis=1), expected, atol=1e-5)


def test_folding_nothing_away_changes_nothing():
    graph = random_graph(6)
    folded = fold_into_errors(graph, np.arange(len(graph.nodes)))
    np.testing.assert_array_equal(folded.edges, graph.edges)
    np.testing.assert_array_equal(folded.targets, graph.targets)


@pytest.mark.parametrize("share", [0.0, -0.1, 1.01, float("nan")])
def test_shares_outside_the_unit_interval_are_refused(share):
    for thresholds in ({"nodes": share}, {"edges": share}):
        with pytest.raises(GraphError, match="above 0, at most 1"):
            hand_made().prune(**thresholds)


def test_unknown_rules_and_measures_are_refused():
    with pytest.raises(GraphError, match="rules are paper, circuit-tracer"):
        hand_made().prune(rule="guess")
    with pytest.raises(GraphError, match="measures are"):
        hand_made().prune(measure="guess")


@given(seeds, shares, rules, st.data())
@settings(max_examples=30, deadline=None)
def test_nodes_to_keep_are_kept_with_their_edges_and_counted(seed, share, rule, data):
    graph = linear_graph(seed)
    features = np.flatnonzero(graph.nodes.is_kind("feature")).tolist()
    keep = data.draw(st.lists(st.sampled_from(features), max_size=4, unique=True))
    plain, more = graph.prune(share, 0.9, rule), prune_around(graph, keep, share, 0.9, rule)
    wanted = prune_masks(graph, share, 0.9, rule).node_mask
    wanted[keep] = True
    kept = np.flatnonzero(wanted)
    np.testing.assert_array_equal(more.nodes.feature, graph.nodes.feature[kept])
    before, after = graph.dense().matrix[np.ix_(kept, kept)], more.dense().matrix
    was_there = prune_masks(graph, share, 0.9, rule).node_mask
    for place in np.flatnonzero(~was_there[kept]):
        np.testing.assert_array_equal(after[place], before[place])
        np.testing.assert_array_equal(after[:, place], before[:, place])
    assert more.metadata["pruning"]["removed"] <= plain.metadata["pruning"]["removed"] + 1e-9
    assert more.metadata["pruning"]["after"]["nodes"] == len(kept)
    if was_there[keep].all():
        np.testing.assert_array_equal(more.edges, plain.edges)
