"""`Graph.show`: traits that a notebook reads and sets."""

import sys

import pytest
from example_graphs import hand_made

from lucida.errors import GraphError
from lucida.graph import page as built
from lucida.graph.view import view


@pytest.fixture(autouse=True)
def _a_script(tmp_path, monkeypatch):
    (tmp_path / "widget.js").write_text("export default {}")
    monkeypatch.setattr(built, "STATIC", tmp_path)


def test_it_sends_the_view_and_the_script():
    widget = hand_made().show()
    assert widget.view == view(hand_made()).to_bytes()
    assert widget._esm == "export default {}"
    assert widget.about["title"] == "smallis"


def test_what_is_selected_and_pinned_are_nodes():
    widget = hand_made().show()
    assert widget.node is None
    widget.selected, widget.pinned = 1, [1, 0]
    assert widget.node.label == "say large"
    assert [node.index for node in widget.pinned_nodes] == [1, 0]


@pytest.mark.parametrize("trait", ["selected", "pinned"])
def test_a_node_that_is_not_there_is_refused(trait):
    widget = hand_made().show()
    with pytest.raises(GraphError, match="node 99 is not in this graph of 7 nodes"):
        setattr(widget, trait, 99 if trait == "selected" else [0, 99])


def test_without_anywidget_it_says_what_to_install(monkeypatch):
    monkeypatch.delitem(sys.modules, "lucida.graph.widget", raising=False)
    monkeypatch.setitem(sys.modules, "anywidget", None)
    with pytest.raises(GraphError, match=r"pip install 'camera-lucida\[notebook\]'"):
        hand_made().show()


def test_without_the_built_page_it_says_how_to_build(tmp_path):
    (tmp_path / "widget.js").unlink()
    with pytest.raises(GraphError, match="make page"):
        hand_made().show()


def test_supernodes_get_what_they_lack_and_pin_their_nodes():
    widget = hand_made().show()
    widget.pinned = [0]
    widget.supernodes = [{"nodes": [1, 0]}, {"id": "0", "name": "mine", "nodes": [2]}]
    assert [(group["id"], group["nodes"]) for group in widget.supernodes] == [("1", [1, 0]), ("0", [2])]
    assert [group["name"] for group in widget.supernodes] == ["say large", "mine"]
    assert widget.pinned == [0, 1, 2]


@pytest.mark.parametrize("groups", [[{"name": "none"}], [{"nodes": []}], [{"nodes": "12"}], [{"nodes": [99]}]])
def test_a_supernode_without_nodes_of_the_graph_is_refused(groups):
    widget = hand_made().show()
    with pytest.raises(GraphError, match=r"a supernode needs nodes|node 99 is not in this graph"):
        widget.supernodes = groups
    assert widget.supernodes == []


def test_labels_are_given_by_index():
    widget = hand_made().show()
    widget.labels = {1: "mine"}
    assert widget.labels == {"1": "mine"}
    with pytest.raises(GraphError, match="by its index"):
        widget.labels = {"small": "mine"}
    with pytest.raises(GraphError, match="node 99"):
        widget.labels = {99: "mine"}


def test_where_no_widget_is_drawn_a_line_says_what_it_is():
    assert repr(hand_made().show()) == "<graph of 'smallis', 7 nodes; run the cell to see it>"
