"""Two graphs side by side."""

from lucida.server.messages.base import Message, NodeIndex, Token
from lucida.server.messages.graphs import GraphSummary


class ComparedFeature(Message):
    """A feature in two graphs; influences of 0 where it does not occur. `nodes_a` and `nodes_b` are its nodes."""

    layer: int
    feature: int
    position: int | None
    label: str
    influence_a: float
    influence_b: float
    nodes_a: list[NodeIndex]
    nodes_b: list[NodeIndex]


class ComparedEdge(Message):
    """An edge that both graphs could have, and its weight in either."""

    source: str
    target: str
    weight_a: float
    weight_b: float


class ComparedGraphs(Message):
    """Two graphs aligned by feature, and by position where the prompts line up (`by_position`)."""

    a: GraphSummary
    b: GraphSummary
    tokens_a: list[Token]
    tokens_b: list[Token]
    by_position: bool
    only_a: list[ComparedFeature]
    only_b: list[ComparedFeature]
    shared: list[ComparedFeature]
    edges: list[ComparedEdge]
    feature_jaccard: float
    influence_jaccard: float
    edge_jaccard: float
    n_only_a: int
    n_only_b: int
    n_shared: int
