"""What can be done to a running model: to features, to sets of them, and to directions of its residual stream."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from lucida.errors import InterventionError
from lucida.graph import Graph, Node

Mode = Literal["free", "constrained", "iterative", "frozen"]
Attention = Literal["frozen", "live"]
Positions = int | range | tuple[int, ...] | slice | None
"""One position, several, or all of the prompt (None). A slice can be a key from Python 3.12 on."""
Place = tuple[int, int, int]
"""A feature where it is read: (layer, position, feature)."""


@dataclass(frozen=True)
class Scale:
    """Multiply a feature's own activation: 0 ablates, 1 changes nothing, -1 inhibits once.

    A feature that is inactive cannot be scaled. At several positions (a range, a tuple, None) those where it is
    inactive are left alone, as long as it is active at one of them.
    """

    factor: float | int


def Inhibit(strength: float | int = 1.0) -> Scale:
    """Steer a feature to `strength` times its activation in the opposite direction (the papers' "-1x")."""
    return Scale(-strength)


@dataclass(frozen=True)
class Set:
    """Put a feature at a value, whether it is active or not."""

    value: float | int


@dataclass(frozen=True)
class Inject:
    """Put a feature at `strength` times a reference: its activation on a donor prompt, or its maximum."""

    reference: float | int
    strength: float | int = 1.0


@dataclass(frozen=True, eq=False)
class Direction:
    """Move the residual stream x: ``x + strength v``, or with `project_out` ``x - strength (x . v) v / (v . v)``."""

    vector: Float[Tensor, " d_model"]
    strength: float | int = 1.0
    project_out: bool = False


@dataclass(frozen=True)
class Stream:
    """The residual stream as it enters the block of `layer`; the number of layers means before the final norm."""

    layer: int
    positions: int | tuple[int, ...] | None = None


@dataclass(frozen=True)
class Donated:
    """A feature and how active it was on the donor's prompt."""

    layer: int
    feature: int
    activation: float


@dataclass(frozen=True)
class Donor:
    """Features of another prompt, and the fingerprint of the dictionary they are of ("neurons": the model's own)."""

    features: tuple[Donated, ...]
    dictionary: str
    prompt: str = ""


@dataclass(frozen=True)
class Swap:
    """Take one supernode out and put another prompt's in: ``out`` at `suppress` times its own activation, `into` at
    `strength` times what it was on its donor's prompt.

    `into` is put at `positions`, left out: wherever `out` stands. A feature of both gets the donor's value.
    """

    out: "Key | tuple[Key, ...]"
    into: Donor
    strength: float | int = 1.0
    suppress: float | int = 0.0
    positions: int | tuple[int, ...] | None = None


Change = Scale | Set | Inject | Direction | float | int
Key = Node | tuple[Node, ...] | tuple[int, Positions, int] | Stream
"""A node, the nodes of a supernode, (layer, positions, feature), or the stream for a Direction."""
Mapped = Mapping[Key, Change] | Mapping[Place, Change] | Mapping[Node, Change] | Mapping[tuple[Node, ...], Change]
"""A change for each key. Mappings of one kind of key are named because a type checker takes keys for invariant."""
Edits = Mapped | Swap | Sequence[Mapped | Swap]


@dataclass(frozen=True)
class Case:
    """One intervention of a sweep. See `lucida.interventions.intervene` for what the fields mean."""

    edits: Edits
    mode: Mode = "free"
    layers: tuple[int, int] | None = None
    attention: Attention | None = None


def parts_of(edits: Edits) -> list[Mapped | Swap]:
    """The edits as a list of mappings and swaps."""
    return [edits] if isinstance(edits, Mapping | Swap) else list(edits)


def donor_of(graph: Graph, nodes: Iterable[Node]) -> Donor:
    """What feature nodes of a graph were, to be put into another prompt: at several positions, the largest.

    Raises InterventionError for a node that is no feature.
    """
    found: dict[tuple[int, int], list[float]] = {}
    for node in nodes:
        if node.kind != "feature" or node.layer is None or node.feature is None or node.activation is None:
            raise InterventionError(f"{node.name} is a node of kind {node.kind}; only features can be donated")
        found.setdefault((node.layer, node.feature), []).append(node.activation)
    return Donor(largest(found), fingerprint_of(graph), graph.prompt.text)


def largest(found: Mapping[tuple[int, int], Sequence[float]]) -> tuple[Donated, ...]:
    """Each (layer, feature) with the largest of its activations; a neuron's may be negative."""
    return tuple(Donated(*place, max(values, key=abs)) for place, values in sorted(found.items()))


def fingerprint_of(graph: Graph) -> str:
    """The fingerprint of the dictionary a graph was traced with; "neurons", or "" when it does not say."""
    record = graph.metadata.get("dictionary") or {}
    if record.get("kind") == "neurons" or record.get("name") == "neurons":
        return "neurons"
    return str((record.get("source") or {}).get("fingerprint") or "")
