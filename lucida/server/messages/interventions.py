"""An experiment with a graph: what to change, and what came of it."""

from typing import Annotated, Literal

from pydantic import Field, FiniteFloat

from lucida.server.messages.base import MOST_NODES, GraphId, Message, Name, NodeIndex, Token


class Change(Message):
    """One change of the nodes of a supernode (or of single nodes): ``scale`` their own activation by `value` (0: off,
    -1: inhibit once), ``set`` them to it, or ``inject`` `value` times their largest activation known.
    """

    nodes: Annotated[list[NodeIndex], Field(min_length=1, max_length=MOST_NODES)]
    kind: Literal["scale", "set", "inject"] = "scale"
    value: FiniteFloat = 0.0
    name: Name = ""
    """How the page calls them."""


class SwapRequest(Message):
    """Take `out` of this graph down to `suppress` of itself and put the features of nodes of another graph in, at
    `strength` times their activation there, at the position where `out` stands (its most common one).
    """

    out: Annotated[list[NodeIndex], Field(min_length=1, max_length=MOST_NODES)]
    donor: GraphId
    nodes: Annotated[list[NodeIndex], Field(min_length=1, max_length=MOST_NODES)]
    strength: FiniteFloat = 1.0
    suppress: FiniteFloat = 0.0
    name: Name = ""


class Watched(Message):
    """A supernode whose activation is measured before and after."""

    name: Name
    nodes: Annotated[list[NodeIndex], Field(min_length=1, max_length=MOST_NODES)]


class InterventionRequest(Message):
    """An experiment on the prompt of a graph."""

    graph: GraphId
    changes: list[Change] = []
    swaps: list[SwapRequest] = []
    mode: Literal["free", "constrained", "iterative", "frozen"] = "free"
    attention: Literal["live", "frozen"] | None = None
    watch: list[Watched] = []
    controls: Annotated[int, Field(ge=0, le=50)] = 10
    """How many draws of matched random features get the same change."""
    generate: Annotated[int, Field(ge=0, le=256)] = 20
    """Tokens of text to write before and after."""
    seed: int = 0


class TokenChange(Token):
    """A token's probability and logit before and after."""

    before: float
    after: float
    logit_change: float


class TargetEffect(Message):
    """What an experiment did to one target of the graph, in logits: predicted, measured, and by the controls.

    `predicted` is None where the graph cannot predict (none of the changed features is in it). `control_low` and
    `control_high` bound the middle 80 % of `control` over the draws; None without controls.
    """

    text: str
    predicted: float | None
    measured: float
    control: float | None
    control_low: float | None
    control_high: float | None


class NodeEffect(Message):
    """Predicted and measured change of one feature, as a share of its activation before (-1: put out)."""

    node: NodeIndex
    predicted: float
    measured: float
    is_direct: bool


class SupernodeEffect(Message):
    """A watched supernode after the change, as a share of what it was: 1 is unchanged."""

    name: str
    predicted: float | None
    measured: float | None


class Agreement(Message):
    """How predictions agree with measurements over the features of the graph; None: not defined."""

    count: int
    slope: float | None
    spearman: float | None
    sign_agreement: float | None


class InterventionResult(Message):
    """What an experiment did. `python` is a script that does the same with the library."""

    tokens: list[TokenChange]
    targets: list[TargetEffect]
    nodes: list[NodeEffect]
    supernodes: list[SupernodeEffect]
    agreement: Agreement
    kl: float
    n_changed: int
    """Single features that were changed."""
    n_unpredicted: int
    """Changed features that the graph does not hold."""
    text_before: str
    text_after: str
    notes: list[str]
    """What a reader should know: controls that could not be drawn, attention live, ..."""
    python: str


class Experiment(Message):
    """An experiment of the history of a graph."""

    id: str
    made: str
    request: InterventionRequest
    result: InterventionResult
