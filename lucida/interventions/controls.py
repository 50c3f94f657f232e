"""Matched random controls: what the same change does to other features that write as much at the same position."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool

from lucida.dictionaries import Dictionary
from lucida.errors import InterventionError
from lucida.interventions.changes import Place, Set
from lucida.interventions.plans import Edit
from lucida.interventions.probe import Probe
from lucida.models.linear import FrozenModel

DRAWS = 10
NEAREST = 8
"""A control is drawn from this many candidates of the nearest activation x decoder norm."""


@dataclass(frozen=True)
class Control:
    """One draw: for each edit, in their order, another feature and its new value.

    `ratios` compare what the controls write, activation x decoder norm, with what the edited features write.
    """

    edits: dict[Place, Set]
    ratios: tuple[float, ...]
    same_layer: int
    """How many stand in the layer of the feature they are drawn for; the others are of its position only."""


@dataclass(frozen=True, eq=False)
class _Candidates:
    """The active features at one position that are not edited, by layer, feature and what they write."""

    layer: np.ndarray
    feature: np.ndarray
    activation: np.ndarray
    written: np.ndarray


@torch.no_grad()
def matched_controls(
    view: FrozenModel,
    dictionary: Dictionary | None,
    edits: Sequence[Edit],
    *,
    draws: int = DRAWS,
    nearest: int = NEAREST,
    seed: int = 0,
) -> list[Control]:
    """`draws` random sets of other active features, each matched to the edited ones (METHODS 4.6).

    Each edited feature gets one of the `nearest` active features of its position with the closest activation x decoder
    norm, of its own layer where enough are active there. No feature of `edits` is drawn, and none twice in a
    draw. A control is multiplied by the same factor; where the edited feature was inactive, it is moved by as much in
    units of what it writes.

    Raises InterventionError when a position has too few other active features.
    """
    if draws < 1 or nearest < 1:
        raise InterventionError(f"controls need one draw or more, from one candidate or more; got {draws}, {nearest}")
    probe, generator = Probe(view, dictionary), np.random.default_rng(seed)
    taken = {(edit.layer, edit.position, edit.feature) for edit in edits}
    by_position = {position: _candidates(probe, position, taken) for position in {edit.position for edit in edits}}
    norms = [_norm(probe, edit) for edit in edits]
    return [_draw(edits, norms, by_position, nearest, generator) for _ in range(draws)]


def _norm(probe: Probe, edit: Edit) -> float:
    return float(probe.strengths(edit.layer, torch.tensor([edit.feature], device=probe.device))[0])


def _candidates(probe: Probe, position: int, taken: set[Place]) -> _Candidates:
    columns: list[list[np.ndarray]] = [[], [], [], []]
    layers = range(probe.view.n_layers) if probe.dictionary is None else probe.dictionary.layers
    for layer in layers:
        x = probe.view.site(layer, probe.reads_at)[position : position + 1]
        activations = probe.all_activations(layer, x)[0]
        features = torch.nonzero(activations).flatten()
        free = torch.tensor([(layer, position, f) not in taken for f in features.tolist()], dtype=torch.bool)
        features = features[free.to(features.device)]
        written = activations[features].abs() * probe.strengths(layer, features)
        parts = (torch.full_like(features, layer), features, activations[features], written)
        for column, part in zip(columns, parts, strict=True):
            column.append(part.cpu().numpy())
    return _Candidates(*(np.concatenate(column) for column in columns))


def _draw(
    edits: Sequence[Edit],
    norms: Sequence[float],
    by_position: dict[int, _Candidates],
    nearest: int,
    generator: np.random.Generator,
) -> Control:
    free = {position: np.ones(len(c.layer), dtype=bool) for position, c in by_position.items()}
    found: dict[Place, Set] = {}
    ratios, same_layer = [], 0
    for edit, norm in zip(edits, norms, strict=True):
        candidates = by_position[edit.position]
        index = _pick(edit, norm, candidates, free[edit.position], nearest, generator)
        free[edit.position][index] = False
        layer, feature = int(candidates.layer[index]), int(candidates.feature[index])
        place = layer, edit.position, feature
        now, written = float(candidates.activation[index]), float(candidates.written[index])
        size = _size(edit) * norm
        if edit.before:
            after = now * edit.after / edit.before
        else:
            after = now + edit.after * norm * abs(now) / written if written else now
        found[place] = Set(after)
        ratios.append(written / size if size else 1.0)
        same_layer += layer == edit.layer
    return Control(found, tuple(ratios), same_layer)


def _pick(
    edit: Edit,
    norm: float,
    candidates: _Candidates,
    is_free: Bool[np.ndarray, " candidate"],
    nearest: int,
    generator: np.random.Generator,
) -> int:
    """One of the nearest candidates that is not used: of the edit's layer, where `nearest` of them are there."""
    here = np.flatnonzero(is_free & (candidates.layer == edit.layer))
    pool = here if len(here) >= nearest else np.flatnonzero(is_free)
    if not len(pool):
        raise InterventionError(
            f"no other active feature at position {edit.position} is left to be a control for feature {edit.feature} "
            f"of layer {edit.layer}; edit fewer features there"
        )
    tiny = 1e-12
    distance = np.abs(np.log(np.maximum(candidates.written[pool], tiny) / max(_size(edit) * norm, tiny)))
    return int(generator.choice(pool[np.argsort(distance, kind="stable")[:nearest]]))


def _size(edit: Edit) -> float:
    """How strongly the edited feature is there: its activation, or where it has none what it is put at."""
    return abs(edit.before) or abs(edit.after)
