import subprocess
import sys

import numpy as np
import pytest
from example_graphs import hand_made
from hypothesis import given, settings
from hypothesis import strategies as st
from interchange_graphs import random_graph

from lucida.errors import GraphError
from lucida.graph import pruning
from lucida.graph.graph import KINDS


def test_the_square_matrix_has_the_rows_where_the_targets_are():
    graph = random_graph(0)
    nodes, matrix = graph.dense()
    assert [node.index for node in nodes] == list(range(len(graph.nodes)))
    np.testing.assert_array_equal(matrix[graph.targets], graph.edges)
    assert not np.delete(matrix, graph.targets, axis=0).any()


@given(st.integers(0, 10_000), st.floats(0.1, 0.9))
@settings(max_examples=20, deadline=None)
def test_a_subgraph_is_the_submatrix(seed, share):
    graph = random_graph(seed)
    keep = np.flatnonzero(np.random.default_rng(seed).random(len(graph.nodes)) < share)
    part = graph.subgraph(keep)
    np.testing.assert_array_equal(part.dense().matrix, graph.dense().matrix[np.ix_(keep, keep)])
    assert part.nodes.text == tuple(graph.nodes.text[i] for i in keep)


def test_a_subgraph_keeps_the_weights_of_the_logits_that_stay():
    graph = hand_made().prune()
    last = len(graph.nodes) - 1
    part = graph.subgraph([i for i in range(len(graph.nodes)) if i != last - 1])
    assert part.metadata["target_weights"] == graph.metadata["target_weights"][1:]
    assert part.metadata["target_values"] == graph.metadata["target_values"][1:]
    assert "scores" not in part.metadata["pruning"]
    assert "scores" in graph.metadata["pruning"]


def test_find_looks_for_features_first_and_says_what_there_is():
    graph = hand_made()
    (small,) = graph.find("SMALL")
    assert (small.kind, small.layer, small.feature, small.name) == ("feature", 1, 7, "small")
    assert [node.kind for node in graph.find("small", kind="embedding")] == ["embedding"]
    assert [node.index for node in graph.find(layer=2, position=1)] == [1]
    with pytest.raises(GraphError, match=r"no node with text 'tiny'.*its tokens are 'small', 'is'"):
        graph.find("tiny")
    with pytest.raises(GraphError, match=", ".join(KINDS)):
        graph.find(kind="neuron")
    with pytest.raises(GraphError, match="node 7 is not in this graph"):
        graph.node(7)


def test_joined_tables_take_apart_again():
    nodes = random_graph(0).nodes
    joined = nodes.take(np.arange(5)).join(nodes.take(np.arange(5, len(nodes))))
    for name in ("kind", "layer", "position", "feature", "token", "influence"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(nodes, name))
    assert joined.text == nodes.text
    assert joined.label == nodes.label


def test_methods_are_the_functions_with_the_same_defaults():
    import inspect

    from lucida.graph.graph import Graph

    function = inspect.signature(pruning.prune).parameters
    method = inspect.signature(Graph.prune).parameters
    assert {n: p.default for n, p in function.items() if n != "graph"} == {
        n: p.default for n, p in method.items() if n != "self"
    }


def test_the_graph_needs_no_torch():
    code = "import sys, lucida.graph, lucida.graph.files; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
