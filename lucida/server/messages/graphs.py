"""A saved graph: what it is, what it explains, its nodes and paths."""

from typing import Literal

from lucida.server.messages.base import GraphId, Message, NodeIndex, Token, TokenProbability


class GraphSummary(Message):
    """A saved graph in the list of recent ones."""

    id: GraphId
    title: str
    """Its prompt, or its token ids."""
    answer: str
    """What it explains: ``large - small``, or the top tokens."""
    model: str
    dictionary: str
    n_nodes: int
    made: str
    """When, in ISO 8601; "" where the file does not say."""


class Scores(Message):
    """How much of the answer a graph explains; see `lucida.graph.scores.Scores`."""

    replacement: float
    completeness: float
    error_share: float
    unexpanded: float
    average_path_length: float
    mediated: float | None
    pruned: float | None


class Answer(Message):
    """A target of a graph. `probability` is None for a difference."""

    node: NodeIndex
    text: str
    probability: float | None
    logit: float


class GraphDetail(GraphSummary):
    """A graph with everything but its nodes and edges."""

    tokens: list[Token]
    answers: list[Answer]
    top: list[TokenProbability]
    """What the model said."""
    n_layers: int
    n_edges: int
    counts: dict[str, int]
    """Nodes of each kind."""
    scores: Scores
    measure: Literal["influence", "attribution"]
    attention: Literal["frozen"] = "frozen"
    can_intervene: bool
    why_not: str
    """Why no experiment can be made with it here; "" if one can."""
    warnings: list[str]
    summary: str
    """The graph in one or two plain sentences."""
    account: str = ""
    """The same with the numbers behind it."""


class PrunedScores(Message):
    """A pruning of a graph: what stays, and its scores with all that is hidden counted as error."""

    nodes: int
    edges: int
    scores: Scores


class FoundNode(Message):
    """A node of the whole graph, also one that the view leaves out. `threshold` is the share of influence at which it
    comes into view; `why` says in words why it is hidden at the asked one, "" if it is not.
    """

    node: NodeIndex
    kind: str
    layer: int | None
    position: int | None
    feature: int | None
    text: str
    label: str
    influence: float
    threshold: float
    why: str


class PathStep(Message):
    """A node of a path, and the weight of the edge that leads on to the next."""

    node: NodeIndex
    weight: float | None


class StrongPath(Message):
    """One of the strongest paths from the prompt to the answer."""

    steps: list[PathStep]
    share: float


class GroupSuggestion(Message):
    """A supernode that the server proposes from nodes with the same label, near each other."""

    name: str
    nodes: list[NodeIndex]
    influence: float
