from dataclasses import replace

import numpy as np
import pytest
from example_graphs import golden, hand_made, linear_graph
from hypothesis import given, settings
from hypothesis import strategies as st
from interchange_graphs import random_graph

from lucida.graph.graph import KINDS
from lucida.graph.scores import Scores, scores


def test_scores_of_the_graph_worked_out_on_paper():
    found = scores(hand_made())
    assert found.replacement == pytest.approx(0.654630, abs=1e-6)
    assert found.completeness_all_rows == pytest.approx(0.882483, abs=1e-6)
    assert found.completeness == pytest.approx(0.821872, abs=1e-6)
    assert found.average_path_length == pytest.approx(2.128713, abs=1e-6)
    np.testing.assert_allclose(found.path_mass, (0.12, 0.273333, 0.195833), atol=1e-6)
    assert found.error_share == pytest.approx(1 - 0.654630, abs=1e-6)
    assert found.unexpanded == 0
    assert found.mediated is None
    assert found.pruned is None


@pytest.mark.parametrize("name", ["clt", "plt_jumprelu"])
def test_scores_reproduce_circuit_tracer(name):
    graph, known = golden(name)
    found = scores(graph)
    assert found.replacement == pytest.approx(float(known["replacement"]), abs=1e-5)
    assert found.completeness_all_rows == pytest.approx(float(known["completeness"]), abs=1e-5)
    assert found.completeness < found.completeness_all_rows


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_scores_are_shares(seed):
    found = scores(random_graph(seed))
    for value in (found.replacement, found.completeness, found.completeness_all_rows, found.error_share):
        assert -1e-6 <= value <= 1 + 1e-6
    assert 0 < found.unexpanded < found.error_share
    assert found.completeness <= found.completeness_all_rows + 1e-6


@given(st.integers(0, 10_000))
@settings(max_examples=10, deadline=None)
def test_unexpanded_counts_as_error(seed):
    """Calling unexpanded nodes errors changes no score but `unexpanded` itself."""
    graph = random_graph(seed)
    kind = graph.nodes.kind.copy()
    kind[graph.nodes.is_kind("unexpanded")] = KINDS.index("error")
    renamed = scores(replace(graph, nodes=replace(graph.nodes, kind=kind)))
    assert renamed == replace(scores(graph), unexpanded=0.0)


def test_without_error_everything_is_explained():
    graph = random_graph(3, density=1.0)
    keep = np.flatnonzero(~graph.nodes.is_kind("error", "unexpanded"))
    found = scores(graph.subgraph(keep))
    assert found.replacement == pytest.approx(1)
    assert found.completeness == pytest.approx(1)
    assert found.error_share == 0


def test_a_feature_without_inputs_ends_paths_but_is_neither_explained_nor_error():
    graph = hand_made()
    edges = graph.edges.copy()
    edges[0] = 0
    found = scores(replace(graph, edges=edges))
    # What reaches f0: from l0 directly and over f1, from l1 over f1.
    through = 0.7 * (0.2 + 0.6 * 0.5) + 0.2 * 0.25 * 0.5
    assert found.replacement + found.error_share == pytest.approx(1 - through / 0.9, abs=1e-6)


def test_mediated_is_the_signed_share_that_features_bring():
    graph = linear_graph(4)
    rows = graph.nodes.is_kind("logit")[graph.targets]
    weights = np.array(graph.metadata["target_weights"])
    direct = weights @ graph.edges[rows][:, graph.nodes.is_kind("feature")].sum(axis=1)
    whole = weights @ graph.edges[rows].sum(axis=1)
    assert scores(graph).mediated == pytest.approx(float(direct / whole), rel=1e-4)


def test_a_graph_in_which_nothing_is_connected_scores_zero():
    graph = hand_made()
    found = scores(replace(graph, edges=np.zeros_like(graph.edges)))
    assert found.replacement == found.completeness == found.average_path_length == 0
    assert found.path_mass == ()


def test_scores_read_as_lines():
    found = replace(scores(hand_made()), mediated=0.5, pruned=0.25)
    text = str(found)
    assert len(text.splitlines()) == len(found.rows()) == 9
    assert "0.655" in text
    assert Scores(*([0.0] * 6), path_mass=()).rows()[0] == ("replacement", "0.000")
