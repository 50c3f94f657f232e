from itertools import pairwise

import numpy as np
import pytest
from example_graphs import hand_made, linear_graph
from hypothesis import given, settings
from hypothesis import strategies as st
from interchange_graphs import random_graph

from lucida.errors import GraphError
from lucida.graph.influence import (
    attributions,
    carries_influence,
    influence,
    normalised,
    per_activation,
    target_values,
    target_weights,
)
from lucida.graph.paths import describe, strongest_paths


def every_path(graph, measure):
    """The slow twin: all paths by walking, as {node indices: signed weighted product}."""
    if measure == "influence":
        factors = normalised(graph.edges, carries_influence(graph)) * np.sign(graph.edges)
    else:
        factors = per_activation(graph, np.arange(len(graph.targets))) * carries_influence(graph)
    row_of = {int(t): r for r, t in enumerate(graph.targets)}
    weights, found = target_weights(graph), {}
    starts = graph.nodes.is_kind("embedding", "error", "unexpanded")

    def walk(path, product):
        node = path[0]
        if starts[node]:
            found[path] = product
        elif node in row_of:
            for source in np.flatnonzero(factors[row_of[node]]):
                walk((int(source), *path), product * factors[row_of[node], source])

    for logit in np.flatnonzero(graph.nodes.is_kind("logit")):
        walk((int(logit),), weights[logit])
    return found


@given(st.integers(0, 10_000), st.integers(1, 12), st.booleans())
@settings(max_examples=12, deadline=None)
def test_paths_are_the_strongest_of_all(seed, count, linear):
    graph = linear_graph(seed, n_features=6) if linear else random_graph(seed, n_features=8, tokens=("a", "b"))
    every = every_path(graph, "attribution" if linear else "influence")
    found = strongest_paths(graph, count)
    sizes = sorted((abs(p) for p in every.values()), reverse=True)[:count]
    whole = sum(graph.metadata["target_weights"])
    if linear:
        whole = abs(np.array(graph.metadata["target_weights"]) @ target_values(graph))
    assert [abs(path.share) * whole for path in found] == pytest.approx(sizes, rel=1e-4)
    assert len({tuple(node.index for node in path.nodes) for path in found}) == len(found)
    for path in found:
        signed = every[tuple(node.index for node in path.nodes)]
        assert path.share * whole == pytest.approx(signed, rel=1e-4)
        weight = target_weights(graph)[path.nodes[-1].index]
        assert np.prod(path.weights) * weight == pytest.approx(signed, rel=1e-4)
        assert all((a.layer or -1) < (b.layer or 99) for a, b in pairwise(path.nodes))


@pytest.mark.parametrize("linear", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_paths_through_a_node_and_longer_paths_are_the_strongest_of_those(seed, linear):
    graph = linear_graph(seed, n_features=6) if linear else random_graph(seed, n_features=8, tokens=("a", "b"))
    every = every_path(graph, "attribution" if linear else "influence")

    def strongest(passes):
        sizes = sorted((abs(p) for nodes, p in every.items() if passes(nodes)), reverse=True)[:4]
        return [size / abs(scale) for size in sizes]

    first = strongest_paths(graph, 1)[0]
    scale = every[tuple(node.index for node in first.nodes)] / first.share
    for node in range(len(graph.nodes)):
        found = strongest_paths(graph, 4, through=node)
        assert [abs(path.share) for path in found] == pytest.approx(strongest(lambda nodes: node in nodes), rel=1e-4)  # noqa: B023
        assert all(node in [step.index for step in path.nodes] for path in found)
    found = strongest_paths(graph, 4, direct=False)
    assert [abs(path.share) for path in found] == pytest.approx(strongest(lambda nodes: len(nodes) > 2), rel=1e-4)
    with pytest.raises(GraphError, match="is not in this graph"):
        strongest_paths(graph, 4, through=10_000)


def test_all_paths_together_carry_all_influence():
    graph = hand_made()
    found = strongest_paths(graph, 1000)
    assert sum(abs(path.share) for path in found) == pytest.approx(1)
    from_token = sum(abs(path.share) for path in found if path.nodes[0].index == 3) * 0.9
    assert from_token == pytest.approx(float(influence(graph)[3]))


def test_all_paths_of_a_linear_graph_add_up_to_the_attribution():
    graph = linear_graph(7, n_features=5, tokens=("a", "b"))
    found = strongest_paths(graph, 500)
    assert len(found) < 500
    source = found[0].nodes[0].index
    weights = np.array(graph.metadata["target_weights"])
    whole = abs(float(weights @ target_values(graph)))
    total = sum(path.share for path in found if path.nodes[0].index == source) * whole
    assert total == pytest.approx(float(attributions(graph).signed[source]), rel=1e-3)


def test_shares_of_a_pruned_linear_graph_are_those_of_the_whole():
    graph = linear_graph(8, n_features=5, tokens=("a", "b"))
    whole = {str(path): path.share for path in strongest_paths(graph, 500)}
    small = strongest_paths(graph.prune(nodes=0.6), 3)
    for path in small:
        assert whole[str(path)] == pytest.approx(path.share, rel=1e-5)


def test_a_path_reads_as_a_line():
    best = strongest_paths(hand_made(), 1000)
    lines = [str(path) for path in best]
    expected = '"small" → [L1/7 small] → [L2/8 say large] → large'
    (line,) = [line for line in lines if line.startswith(expected)]
    assert line == f"{expected}  (+{100 * 0.7 * 0.6 * 0.5 * 2 / 3 / 0.9:.1f} %)"


def test_nodes_read_as_a_few_words():
    graph = random_graph(0)
    words = {describe(graph.node(i)) for i in range(len(graph.nodes))}
    assert "[error L0 at “The”]" in words
    assert '"⏎"' in words
    assert all(word.strip() for word in words)


def test_fewer_paths_than_asked_for_and_none_at_all():
    graph = hand_made()
    assert len(strongest_paths(graph, 1000)) < 20
    empty = graph.subgraph([5, 6])
    assert strongest_paths(empty) == ()
    with pytest.raises(GraphError, match="ask for 1 or more"):
        graph.paths(0)
