import errno
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from example_graphs import golden, hand_made, linear_graph
from hypothesis import given, settings
from hypothesis import strategies as st
from interchange_graphs import assert_same, random_graph
from safetensors.numpy import load, save

from lucida.errors import GraphError, SaveError
from lucida.graph import files
from lucida.graph.graph import Graph
from lucida.prompt import Prompt

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.integers(0, 10_000),
    st.dictionaries(st.text().filter(lambda key: not key.startswith("target_")), json_values, max_size=4),
    st.text(st.characters(), max_size=8),
    st.floats(width=32, allow_nan=False, allow_infinity=False),
)
@settings(max_examples=30, deadline=None)
def test_saving_and_loading_is_exact(tmp_path_factory, seed, metadata, text, weight):
    graph = random_graph(seed, extras=seed % 2 == 0)
    graph.edges[-1, 0] = weight
    labels = {0: text, 3: "\ud800 half a pair"}
    prompt = replace(graph.prompt, text=text)
    graph = replace(graph.with_labels(labels), prompt=prompt, metadata={**metadata, **graph.metadata})
    path = tmp_path_factory.mktemp("graph") / "graph.safetensors"
    graph.save(path)
    found = Graph.load(path)
    assert_same(found, graph)
    for name in files.COLUMNS:
        assert getattr(found.nodes, name).tobytes() == getattr(graph.nodes, name).tobytes()
    assert np.array_equal(found.edges + 0.0, graph.edges + 0.0)
    assert json.dumps(found.metadata) == json.dumps(graph.metadata)


@pytest.mark.parametrize("make", [hand_made, lambda: golden("clt")[0], lambda: linear_graph(0).prune()])
def test_other_graphs_come_back_too(tmp_path, make):
    graph = make()
    graph.save(tmp_path / "graph.safetensors")
    found = Graph.load(str(tmp_path / "graph.safetensors"))
    assert_same(found, graph)
    assert found.scores() == graph.scores()


def test_a_graph_without_edges_or_targets_comes_back(tmp_path):
    graph = hand_made().subgraph([2, 3])
    graph.save(tmp_path / "graph.safetensors")
    assert_same(Graph.load(tmp_path / "graph.safetensors"), graph)


def test_the_same_graph_gives_the_same_bytes(tmp_path):
    for name in "ab":
        random_graph(1).save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_description_too_long_for_the_header_is_stored_as_a_tensor(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LARGEST_HEADER", 100)
    graph = random_graph(2)
    graph.save(tmp_path / "graph")
    assert "json" in load((tmp_path / "graph").read_bytes())
    assert_same(Graph.load(tmp_path / "graph"), graph)


def parts(graph, tmp_path):
    """The tensors and the description of a saved graph, to be spoilt."""
    graph.save(tmp_path / "whole")
    data = (tmp_path / "whole").read_bytes()
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    return load(data), json.loads(header["__metadata__"][files.METADATA_KEY])


def change(name, place, value):
    def apply(tensors, document):
        tensors[name] = tensors[name].copy()
        tensors[name][place] = value

    return apply


def retype(name, dtype):
    return lambda tensors, document: tensors.update({name: tensors[name].astype(dtype)})


def describe(**values):
    return lambda tensors, document: document.update(values)


SPOILT = {
    "offset beyond the edges": (change("edge_offsets", -1, 10_000), "offsets are out of range"),
    "offset that falls": (change("edge_offsets", 1, 10_000), "offsets are out of range"),
    "offset missing": (lambda t, d: t.update(edge_offsets=t["edge_offsets"][:-1]), "offset for each target"),
    "source beyond the nodes": (change("edge_sources", 0, 10_000), "sources are out of range"),
    "negative source": (change("edge_sources", 0, -1), "sources are out of range"),
    "source twice": (change("edge_sources", slice(0, 2), 2), "do not ascend"),
    "edge not a number": (change("edge_weights", 0, np.nan), "not finite"),
    "edge infinite": (change("edge_weights", 0, np.inf), "not finite"),
    "edge zero": (change("edge_weights", 0, 0), "weight zero"),
    "weights of another type": (retype("edge_weights", np.float64), "float64, not float32"),
    "sources of another type": (retype("edge_sources", np.int64), "int64, not int32"),
    "kind of another type": (retype("kind", np.int32), "int32, not int8"),
    "two axes": (lambda t, d: t.update(edge_weights=t["edge_weights"][None]), "not one axis"),
    "no targets": (lambda t, d: t.pop("targets"), "no targets"),
    "no layers": (lambda t, d: t.pop("layer"), "no layer"),
    "columns of different length": (lambda t, d: t.update(token=t["token"][:-1]), "differ in length"),
    "target beyond the nodes": (change("targets", -1, 10_000), "targets are not ascending"),
    "target twice": (change("targets", 1, 0), "targets are not ascending"),
    "unknown kind": (change("kind", -1, 6), "unknown kind"),
    "kinds out of order": (change("kind", 0, 2), "order of their kinds"),
    "position beyond the prompt": (change("position", 0, 9), "beyond the prompt"),
    "activation not a number": (change("activation", 0, np.nan), "activation is not a number"),
    "influence not a number": (change("influence", 0, np.nan), "influences that are not numbers"),
    "edge from above": (change("layer", 0, 2), "lower layer"),
    "one text too few": (describe(text=["a"]), "one text for each node"),
    "labels that are no texts": (describe(label=[1] * 7), "one label for each node"),
    "no prompt": (describe(prompt=None), "no prompt"),
    "tokens that are no numbers": (
        describe(prompt={"tokens": ["a"], "strings": ["a"], "text": ""}),
        "no prompt",
    ),
    "no metadata": (describe(metadata=3), "no metadata"),
    "one weight too few": (describe(metadata={"target_weights": [1.0]}), "target_weights for each logit"),
    "a newer version": (describe(schema_version=2), "graph version 2.*update"),
    "no version": (describe(schema_version=None), "graph version None"),
    "a description that is a list": (lambda t, d: d.clear(), "graph version None"),
}


@pytest.mark.parametrize("case", SPOILT)
def test_a_spoilt_file_is_refused_in_one_line(tmp_path, case):
    spoil, message = SPOILT[case]
    tensors, document = parts(hand_made(), tmp_path)
    spoil(tensors, document)
    path = tmp_path / "spoilt"
    path.write_bytes(save(tensors, metadata={files.METADATA_KEY: json.dumps(document)}))
    with pytest.raises(GraphError, match=message) as caught:
        Graph.load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "\x00", "3"])
def test_a_description_that_is_not_json_is_refused(tmp_path, text):
    tensors, _ = parts(hand_made(), tmp_path)
    (tmp_path / "spoilt").write_bytes(save(tensors, metadata={files.METADATA_KEY: text}))
    with pytest.raises(GraphError, match="spoilt"):
        Graph.load(tmp_path / "spoilt")


def test_a_truncated_file_is_refused_wherever_it_ends(tmp_path):
    hand_made().save(tmp_path / "whole")
    data = (tmp_path / "whole").read_bytes()
    for length in [0, 1, 7, 8, 9, 100, *range(200, len(data), 97), len(data) - 1]:
        (tmp_path / "short").write_bytes(data[:length])
        with pytest.raises(GraphError, match="cut off"):
            Graph.load(tmp_path / "short")


def test_what_is_no_graph_file_is_refused(tmp_path):
    with pytest.raises(GraphError, match="no graph file"):
        Graph.load(tmp_path / "missing")
    with pytest.raises(GraphError, match="is a folder"):
        Graph.load(tmp_path)
    (tmp_path / "text").write_text("not a graph " * 100)
    with pytest.raises(GraphError, match="not a graph file"):
        Graph.load(tmp_path / "text")
    (tmp_path / "weights").write_bytes(save({"weight": np.ones(3)}))
    with pytest.raises(GraphError, match="holds no graph"):
        Graph.load(tmp_path / "weights")


@pytest.mark.parametrize("metadata", [{"x": float("nan")}, {"x": {1, 2}}, {"x": np.float32(1)}])
def test_metadata_that_is_not_json_is_refused(tmp_path, metadata):
    graph = hand_made()
    with pytest.raises(GraphError, match="JSON"):
        replace(graph, metadata={**graph.metadata, **metadata}).save(tmp_path / "graph")
    assert not list(tmp_path.iterdir())


def test_a_graph_that_breaks_the_format_is_not_saved(tmp_path):
    graph = hand_made()
    edges = graph.edges.copy()
    edges[0, 3] = np.nan
    with pytest.raises(GraphError, match="not finite"):
        replace(graph, edges=edges).save(tmp_path / "graph")
    with pytest.raises(GraphError, match="beyond the prompt"):
        replace(graph, prompt=Prompt((1,), ("small",))).save(tmp_path / "graph")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "graph"
    hand_made().save(path)
    old = path.read_bytes()

    def full(self, data):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(SaveError, match="No space left"):
        random_graph(0).save(path)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]
