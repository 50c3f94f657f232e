"""A graph in a notebook: Jupyter, marimo, VS Code and others that show anywidgets."""

from typing import Any

import anywidget
import traitlets

from lucida.graph.graph import Graph, Node
from lucida.graph.html import about
from lucida.graph.page import widget_script
from lucida.graph.view import EDGE_SHARE, NODE_SHARE, view


class GraphWidget(anywidget.AnyWidget):
    """A graph to click in. `selected`, `pinned`, `supernodes` and `labels` can be read and set from Python.

    Nodes are named by their index in `graph`. `selected` is one or None, `pinned` a list. `supernodes` is a list of
    ``{"id": "a", "name": "small", "nodes": [3, 5]}``, `labels` a dictionary of own names by node index as text.
    """

    view = traitlets.Bytes(help="The nodes and edges that are drawn; lucida.graph.view wrote them.").tag(sync=True)
    about = traitlets.Dict(help="What is said above the graph.").tag(sync=True)
    height = traitlets.Int(640, min=200, help="Height in pixels.").tag(sync=True)
    selected = traitlets.Int(None, allow_none=True).tag(sync=True)
    pinned = traitlets.List(traitlets.Int()).tag(sync=True)
    supernodes = traitlets.List(traitlets.Dict()).tag(sync=True)
    labels = traitlets.Dict(value_trait=traitlets.Unicode(), key_trait=traitlets.Unicode()).tag(sync=True)
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

    @traitlets.validate("selected", "pinned")
    def _in_graph(self, proposal: Any) -> Any:
        value = proposal["value"]
        for index in [value] if isinstance(value, int) else value or ():
            self.graph.node(index)
        return value


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
