"""From what was asked to single features with a value before and after; what cannot be done is refused here."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lucida.dictionaries import Dictionary
from lucida.errors import InterventionError
from lucida.graph import Graph, Node
from lucida.interventions.changes import (
    Case,
    Change,
    Direction,
    Donor,
    Inject,
    Place,
    Scale,
    Set,
    Stream,
    Swap,
    fingerprint_of,
    parts_of,
)
from lucida.interventions.probe import Probe

MODES = ("free", "constrained", "iterative", "frozen")


@dataclass(frozen=True)
class Edit:
    """One feature at one position, before and after."""

    layer: int
    position: int
    feature: int
    before: float
    after: float


@dataclass(frozen=True, eq=False)
class Move:
    """One direction of the residual stream that enters `layer`, at one position."""

    layer: int
    position: int
    vector: Float[Tensor, " d_model"]
    strength: float
    project_out: bool


@dataclass(frozen=True)
class Plan:
    """A case, resolved: single features and directions, and what the run holds."""

    edits: tuple[Edit, ...]
    moves: tuple[Move, ...]
    mode: str
    layers: tuple[int, int]
    attention: str


@dataclass(frozen=True)
class _Wanted:
    """A change of one feature; `is_optional` where it is one of several positions and may be inactive there."""

    change: Change
    is_optional: bool


def resolve(probe: Probe, cases: Sequence[Case]) -> list[Plan]:
    """Every case as values of single features before and after.

    Raises InterventionError: a layer, position or feature that does not exist, a feature that is scaled where it is
    inactive or changed twice, a strength that is not finite, a donor of another dictionary, a mode, range or attention
    that does not fit.
    """
    wanted = [_collect(probe, case) for case in cases]
    before = probe.recorded(place for features, _ in wanted for place in features)
    plans = []
    for case, (features, moves) in zip(cases, wanted, strict=True):
        edits = _edits(features, before)
        edited = [edit.layer for edit in edits] + [min(m.layer, probe.view.n_layers - 1) for m in moves]
        attention, span = settings(case.mode, case.attention, case.layers, edited, probe.view.n_layers)
        plans.append(Plan(edits, moves, case.mode, span, attention))
    return plans


def places_of(key: Any, n_positions: int) -> list[Place]:
    """The single features a key names. Raises InterventionError for what is no key of features."""
    if isinstance(key, Node):
        if key.kind != "feature" or key.layer is None or key.position is None or key.feature is None:
            raise InterventionError(f"{key.name} is a node of kind {key.kind}; only features can be changed")
        return [(key.layer, key.position, key.feature)]
    if isinstance(key, tuple) and key and all(isinstance(node, Node) for node in key):
        return [place for node in key for place in places_of(node, n_positions)]
    if isinstance(key, tuple) and len(key) == 3 and isinstance(key[0], int) and isinstance(key[2], int):
        return [(key[0], position, key[2]) for position in _positions(key[1], n_positions)]
    raise InterventionError(f"{key!r} is not a node, a tuple of nodes or (layer, position, feature)")


def refuse_other(graph: Graph, dictionary: Dictionary | None, *, model: str = "") -> None:
    """Raise InterventionError when a graph was traced with other features than these, or (where named) another model.

    Fingerprints are compared; a graph of another tool has none, and there only neurons and features are told apart.
    """
    record = graph.metadata.get("dictionary") or {}
    theirs, ours = fingerprint_of(graph), "neurons" if dictionary is None else dictionary.source.fingerprint
    is_other = theirs != ours if theirs else bool(record) and ours == "neurons"
    if is_other:
        names = str(record.get("name") or "other features"), "neurons" if dictionary is None else dictionary.name
        which = f"{names[0]}, not with {names[1]}" if names[0] != names[1] else f"another version of {names[0]} than"
        raise InterventionError(f"the graph was traced with {which} as loaded here; load the same dictionary")
    traced = str((graph.metadata.get("model") or {}).get("name") or "")
    if model and traced and traced != model:
        raise InterventionError(f"the graph is of the model {traced}, not of {model}; load the model it was traced on")


def refuse_other_donor(donor: Donor, probe: Probe) -> None:
    """Raise InterventionError when the donated features are not of the probe's dictionary."""
    if donor.dictionary != probe.fingerprint:
        ours = "the model's neurons" if probe.dictionary is None else probe.dictionary.name
        raise InterventionError(
            f"the donor's features are of another dictionary than {ours}; read them with the same one"
        )


# --- from keys to features ----------------------------------------------------------------------------


def _collect(probe: Probe, case: Case) -> tuple[dict[Place, _Wanted], tuple[Move, ...]]:
    """What is wanted of every feature, and the moves of the stream in the order given."""
    features: dict[Place, _Wanted] = {}
    moves: list[Move] = []
    for part in parts_of(case.edits):
        for key, change in _expanded(part, probe).items():
            if isinstance(key, Stream) or isinstance(change, Direction):
                moves += _moves(key, change, probe)
            else:
                _add(features, places_of(key, probe.view.n_positions), change, is_single=_is_single(key))
    for place in features:
        probe.refuse_missing(place)
    return features, tuple(moves)


def _expanded(part: Mapping[Any, Any] | Swap, probe: Probe) -> Mapping[Any, Any]:
    """A swap as a mapping of single features; a mapping as it is."""
    if not isinstance(part, Swap):
        return part
    refuse_other_donor(part.into, probe)
    n_positions = probe.view.n_positions
    is_one = isinstance(part.out, Node) or _is_place(part.out) or all(isinstance(n, Node) for n in part.out)  # pyright: ignore
    keys: Iterable[Any] = (part.out,) if is_one else part.out  # pyright: ignore
    out = [place for key in keys for place in places_of(key, n_positions)]
    if part.positions is None:
        where = sorted({position for _, position, _ in out})
    else:
        where = _positions(part.positions, n_positions)
    edits: dict[Place, Change] = {place: Scale(part.suppress) for place in out}
    for donated in part.into.features:
        for position in where:
            edits[donated.layer, position, donated.feature] = Inject(donated.activation, part.strength)
    return edits


def _is_place(key: Any) -> bool:
    return isinstance(key, tuple) and len(key) == 3 and isinstance(key[0], int)


def _is_single(key: Any) -> bool:
    return not _is_place(key) or isinstance(key[1], int)


def _positions(wanted: Any, n_positions: int) -> list[int]:
    if wanted is None:
        return list(range(n_positions))
    if isinstance(wanted, slice):
        found = list(range(n_positions))[wanted]
        if not found:
            raise InterventionError(f"positions {wanted.start} to {wanted.stop} hold none of the {n_positions} tokens")
        return found
    many = [wanted] if isinstance(wanted, int) else list(wanted)
    if not many or not all(isinstance(p, int) for p in many):
        raise InterventionError(f"{wanted!r} is not a position, a list of positions, a slice or None for all")
    outside = next((p for p in many if not 0 <= p < n_positions), None)
    if outside is not None:
        raise InterventionError(f"position {outside} is outside the prompt of {n_positions} tokens")
    return many


def _add(features: dict[Place, _Wanted], places: list[Place], change: Change, *, is_single: bool) -> None:
    for place in places:
        known = features.get(place)
        if known is not None and known.change != change:
            raise InterventionError(f"{_name(place)} is changed twice, to {known.change} and {change}")
        features[place] = _Wanted(change, not is_single and (known is None or known.is_optional))


def _name(place: Place) -> str:
    return "feature {2} of layer {0} at position {1}".format(*place)


# --- values -------------------------------------------------------------------------------------------


def _edits(features: Mapping[Place, _Wanted], before: Mapping[Place, float]) -> tuple[Edit, ...]:
    edits, left_out = [], {}
    for place, wanted in sorted(features.items()):
        now = before[place]
        factor = factor_of(wanted.change)
        if factor is not None and now == 0 and wanted.is_optional and math.isfinite(factor):
            left_out[place[0], place[2]] = place
            continue
        edits.append(Edit(*place, now, _after(place, now, wanted.change)))
    found = {(edit.layer, edit.feature) for edit in edits}
    for (layer, feature), _ in left_out.items():
        if (layer, feature) not in found:
            raise InterventionError(
                f"feature {feature} of layer {layer} is inactive at all of these positions: scaling it changes nothing;"
                " use Set or Inject to give it a value"
            )
    return tuple(edits)


def factor_of(change: Any) -> float | None:
    """The factor of a change that multiplies, else None."""
    if isinstance(change, Scale):
        return change.factor
    return float(change) if isinstance(change, int | float) else None


def _after(place: Place, before: float, change: Change) -> float:
    factor = factor_of(change)
    if isinstance(change, Set):
        after = change.value
    elif isinstance(change, Inject):
        after = change.strength * change.reference
    elif factor is not None:
        if before == 0 and math.isfinite(factor) and factor != 1:
            raise InterventionError(
                f"{_name(place)} is inactive: scaling it changes nothing; use Set or Inject to give it a value"
            )
        after = factor * before
    else:
        raise InterventionError(f"{change!r} is not a change; use a factor, Scale, Set, Inhibit, Inject or Direction")
    if not math.isfinite(after):
        raise InterventionError(f"{_name(place)} cannot be put at {after}; give a finite number")
    return after


def _moves(key: Any, change: Any, probe: Probe) -> list[Move]:
    if not isinstance(key, Stream) or not isinstance(change, Direction):
        raise InterventionError(f"a Direction moves a Stream(layer, positions), features take other changes: {key!r}")
    n_layers, d_model = probe.view.n_layers, probe.view.model.d_model
    if not 0 <= key.layer <= n_layers:
        raise InterventionError(f"layer {key.layer} does not exist; a stream enters layers 0 to {n_layers}")
    vector = change.vector.detach().to(probe.device, torch.float32)
    if vector.shape != (d_model,):
        raise InterventionError(f"a direction has {tuple(vector.shape)} numbers, the model's stream {d_model}")
    if not torch.isfinite(vector).all() or not math.isfinite(change.strength):
        raise InterventionError("a direction and its strength must be finite numbers")
    if change.project_out and not vector.any():
        raise InterventionError("a direction of length zero cannot be projected out")
    positions = _positions(key.positions, probe.view.n_positions)
    return [Move(key.layer, p, vector, float(change.strength), change.project_out) for p in positions]


# --- what the run holds -------------------------------------------------------------------------------


def settings(
    mode: str, attention: str | None, layers: tuple[int, int] | None, edited: Sequence[int], n_layers: int
) -> tuple[str, tuple[int, int]]:
    """Attention and range of layers of a run, defaults filled in. Raises InterventionError for what does not fit."""
    if mode not in MODES:
        raise InterventionError(f"mode {mode!r} is not known; use {', '.join(MODES[:-1])} or {MODES[-1]}")
    attention = attention or ("live" if mode == "free" else "frozen")
    if attention not in ("frozen", "live") or (mode == "frozen" and attention == "live"):
        raise InterventionError(f"attention {attention!r} does not go with mode {mode}")
    if mode in ("free", "frozen"):
        if layers is not None:
            raise InterventionError(f"layers are for the modes constrained and iterative; mode is {mode}")
        return attention, (0, n_layers - 1)
    lowest, highest = min(edited, default=0), max(edited, default=0)
    first, last = layers or (lowest, highest if mode == "constrained" else n_layers - 1)
    if not (first >= 0 and last < n_layers and first <= last + 1):
        raise InterventionError(f"layers {first} to {last} is not a range of layers 0 to {n_layers - 1}")
    return attention, (first, last)
