"""A graph in a notebook: Jupyter, marimo, VS Code and others that show anywidgets."""

import itertools
from collections.abc import Iterator
from typing import Any

import anywidget
import traitlets

from lucida.errors import GraphError
from lucida.graph.graph import Graph, Node
from lucida.graph.html import about
from lucida.graph.page import widget_script
from lucida.graph.view import EDGE_SHARE, NODE_SHARE, view


class GraphWidget(anywidget.AnyWidget):
    """A graph to click in. `selected`, `pinned`, `supernodes` and `labels` can be read and set from Python.

    Nodes are named by their index in `graph`. `selected` is one or None, `pinned` a list. `supernodes` is a list of
    ``{"name": "small", "nodes": [3, 5]}`` (each gets an "id", and its nodes are pinned), `labels` a dictionary of own
    names by node index, which is kept as text. A node that is not in the graph raises GraphError.
    """

    view = traitlets.Bytes(help="The nodes and edges that are drawn; lucida.graph.view wrote them.").tag(sync=True)
    about = traitlets.Dict(help="What is said above the graph.").tag(sync=True)
    height = traitlets.Int(640, min=200, help="Height in pixels.").tag(sync=True)
    selected = traitlets.Int(None, allow_none=True).tag(sync=True)
    pinned = traitlets.List(traitlets.Int()).tag(sync=True)
    supernodes = traitlets.List(traitlets.Dict()).tag(sync=True)
    labels = traitlets.Dict(value_trait=traitlets.Unicode()).tag(sync=True)
    _esm = traitlets.Unicode().tag(sync=True)

    def __init__(self, graph: Graph, **traits: Any) -> None:
        self.graph = graph
        super().__init__(_esm=widget_script(), **traits)

    @property
    def node(self) -> Node | None:
        """The selected node."""
        return None if self.selected is None else self.graph.node(self.selected)

    @property
    def pinned_nodes(self) -> tuple[Node, ...]:
        """The pinned nodes, in the order in which they were pinned."""
        return tuple(self.graph.node(index) for index in self.pinned)

    def __repr__(self) -> str:
        """What stands where no widget can be drawn, such as a notebook on a web site."""
        return f"<graph of {self.about['title']!r}, {len(self.graph.nodes)} nodes; run the cell to see it>"

    @traitlets.validate("selected", "pinned")
    def _in_graph(self, proposal: Any) -> Any:
        value = proposal["value"]
        for index in [value] if isinstance(value, int) else value or ():
            self.graph.node(index)
        return value

    @traitlets.validate("labels")
    def _by_text(self, proposal: Any) -> dict[str, str]:
        labels = {str(index): text for index, text in proposal["value"].items()}
        for index in labels:
            self.graph.node(_number(index))
        return labels

    @traitlets.validate("supernodes")
    def _named(self, proposal: Any) -> list[dict[str, Any]]:
        taken = {str(group["id"]) for group in proposal["value"] if group.get("id")}
        free = (str(number) for number in itertools.count() if str(number) not in taken)
        return [self._supernode(group, free) for group in proposal["value"]]

    def _supernode(self, group: dict[str, Any], free: Iterator[str]) -> dict[str, Any]:
        nodes = group.get("nodes")
        if not isinstance(nodes, (list, tuple)) or not nodes:
            raise GraphError('a supernode needs nodes, such as {"name": "small", "nodes": [3, 5]}')
        names = [self.graph.node(index).name for index in nodes]
        name = group.get("name") or names[0]
        # The order of the fields stays: the page compares what comes back with what it sent.
        return group | {"id": str(group.get("id") or next(free)), "name": str(name), "nodes": list(nodes)}

    @traitlets.observe("supernodes")
    def _pin_members(self, change: Any) -> None:
        missing = [index for group in change["new"] for index in group["nodes"] if index not in self.pinned]
        if missing:
            self.pinned = [*self.pinned, *dict.fromkeys(missing)]


def _number(index: str) -> int:
    try:
        return int(index)
    except ValueError:
        raise GraphError(f"a label is given to a node by its index, not to {index!r}; try {{3: 'small'}}") from None


def show(
    graph: Graph,
    *,
    height: int = 640,
    node_share: float = NODE_SHARE,
    edge_share: float = EDGE_SHARE,
) -> GraphWidget:
    """A widget that shows the graph: the last line of a notebook's cell draws it.

    Select, pin and group in the picture, read `selected`, `pinned` and `supernodes` in the next cell, or set them there
    and see the picture follow. The shares of influence that are sent to the browser are those of `view`.

    Raises GraphError when the page was not built.
    """
    sent = view(graph, node_share=node_share, edge_share=edge_share)
    return GraphWidget(graph, view=sent.to_bytes(), about=about(graph), height=height)
