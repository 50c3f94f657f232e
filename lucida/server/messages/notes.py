"""What a reader adds to a graph."""

from typing import Annotated

from pydantic import Field, FiniteFloat

from lucida.server.messages.base import MOST_NODES, Message, Name, NodeIndex
from lucida.server.messages.interventions import Experiment


class Supernode(Message):
    """Nodes that stand for one concept."""

    id: Annotated[str, Field(max_length=40)]
    name: Name
    nodes: Annotated[list[NodeIndex], Field(min_length=1, max_length=MOST_NODES)]


class Notes(Message):
    """What a reader added to a graph. A save must carry the revision that it was read at, else it is refused (409)."""

    revision: int = 0
    pinned: Annotated[list[NodeIndex], Field(max_length=MOST_NODES)] = []
    supernodes: Annotated[list[Supernode], Field(max_length=500)] = []
    labels: dict[str, Name] = {}
    """Own names of single nodes, by node index."""
    positions: dict[str, tuple[FiniteFloat, FiniteFloat]] = {}
    """Where boxes of the circuit were dragged to, by supernode id or node index."""
    experiments: Annotated[list[Experiment], Field(max_length=200)] = []
