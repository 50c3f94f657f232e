"""Prediction beside measurement: what a graph says an intervention will do, and what it did.

A graph is linear: with edge(s -> t) the contribution of s to t on this prompt, a source whose activation changes by d_s
moves t by ``d_t = sum_s edge(s -> t) d_s / a_s``. Carried up the graph this predicts every feature and every logit.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from lucida.dictionaries import Dictionary
from lucida.errors import InterventionError
from lucida.graph import Graph
from lucida.graph.influence import levels
from lucida.interventions.changes import Case, Edits, Place
from lucida.interventions.engine import sweep
from lucida.interventions.outcome import Outcome
from lucida.interventions.plans import Edit, refuse_other
from lucida.models.linear import FrozenModel
from lucida.models.model import Model
from lucida.progress import Progress, silent
from lucida.statistics import spearman


@dataclass(frozen=True, eq=False)
class Prediction:
    """The predicted change of every node: of a feature's activation, of a (demeaned) logit or logit difference.

    `missing` are edits of features that are no nodes of the graph, whose effect it cannot tell.
    """

    change: Float[np.ndarray, " node"]
    missing: tuple[Edit, ...]


@dataclass(frozen=True)
class Calibration:
    """How predictions agree with what happened, over `count` nodes with a prediction.

    `slope` is least squares through the origin, measured on predicted: 1 is right, below 1 the graph exaggerates.
    `sign_agreement` is the share of nodes that moved the way that was predicted. None: not defined.
    """

    count: int
    slope: float | None
    spearman: float | None
    sign_agreement: float | None


@dataclass(frozen=True, eq=False)
class Comparison:
    """Predicted and measured change of every node that is not edited itself: features as a share of their activation
    before (-1: put out), logits in logits.

    Where `is_direct`, every MLP between the edits and the node was held, so that the edge is confirmed by construction.
    """

    graph: str
    nodes: Int[np.ndarray, " node"]
    is_logit: Bool[np.ndarray, " node"]
    is_direct: Bool[np.ndarray, " node"]
    predicted: Float[np.ndarray, " node"]
    measured: Float[np.ndarray, " node"]
    missing: tuple[Edit, ...]

    def calibration(self, kind: str = "features", *, direct: bool | None = None) -> Calibration:
        """How well `kind` ("features" or "logits") was predicted; with `direct` only trivial or only other nodes."""
        which = self.is_logit if kind == "logits" else ~self.is_logit
        if direct is not None:
            which = which & (self.is_direct == direct)
        return calibrate(self.predicted[which], self.measured[which])


@dataclass(frozen=True, eq=False)
class Tested:
    """One intervention: what happened, and how the full graph and the pruned one had predicted it."""

    outcome: Outcome
    full: Comparison
    pruned: Comparison | None


def predict(
    graph: Graph,
    edits: Sequence[Edit],
    *,
    mode: str = "free",
    layers: tuple[int, int] | None = None,
    is_rectified: bool = False,
) -> Prediction:
    """The linear prediction of `edits` through the graph.

    Edited features are held at their new values. In a constrained run nothing that reads inside the range passes a
    change on, in a frozen one nothing does at all; else every feature does. An edge holds all layers that a
    cross-layer feature writes to below the target, also those outside a constrained range. With
    `is_rectified` no activation is predicted to fall below zero.
    """
    table = graph.nodes
    number = _numbers(graph)
    change, fixed = np.zeros(len(table)), np.zeros(len(table), dtype=bool)
    missing = []
    for edit in edits:
        index = number.get((edit.layer, edit.position, edit.feature))
        if index is None:
            missing.append(edit)
        else:
            change[index], fixed[index] = edit.after - edit.before, True
    held_to = {"frozen": int(table.layer.max()), "constrained": layers[1] if layers else -1}.get(mode, -1)
    is_feature = table.is_kind("feature")
    passes = is_feature & np.where(fixed, _writes_inside(graph, layers), table.layer > held_to)
    passes &= table.activation != 0
    inverse = np.divide(1.0, table.activation, out=np.zeros(len(table)), where=passes)
    for rows in levels(graph)[::-1]:
        here = graph.targets[rows]
        moved = graph.edges[rows].astype(np.float64) @ (change * inverse)
        if is_rectified:
            moved = np.where(is_feature[here], np.maximum(moved, -np.abs(table.activation[here])), moved)
        change[here] = np.where(fixed[here], change[here], moved)
    return Prediction(change, tuple(missing))


def _writes_inside(graph: Graph, layers: tuple[int, int] | None) -> Bool[np.ndarray, " node"]:
    """The nodes that write to some layer of the range; an edit of any other feature does nothing."""
    if layers is None:
        return np.ones(len(graph.nodes), dtype=bool)
    span = int((graph.metadata.get("dictionary") or {}).get("span") or 1)
    return (graph.nodes.layer <= layers[1]) & (graph.nodes.layer + span > layers[0])


def predict_and_measure(
    model: Model,
    dictionary: Dictionary | None,
    graph: Graph,
    cases: Sequence[Case | Edits],
    *,
    pruned: Graph | None = None,
    view: FrozenModel | None = None,
    progress: Progress = silent,
) -> list[Tested]:
    """Every case run on the graph's prompt, all in one batch, beside what the graph (and a pruned one) predicts of it.

    Raises InterventionError when a graph was traced with another dictionary, or is of another prompt than the other, or
    an edit moves a direction, which no graph predicts.
    """
    for given in (graph, pruned):
        if given is not None:
            refuse_other(given, dictionary)
            if given.prompt.tokens != graph.prompt.tokens:
                raise InterventionError("the pruned graph is of another prompt than the full one; prune the same graph")
    outcomes = sweep(
        model, dictionary, list(graph.prompt.tokens), cases, position=graph.answer_position,
        watch=feature_places(graph), view=view, progress=progress,
    )  # fmt: skip
    if any(outcome.moves for outcome in outcomes):
        raise InterventionError("a graph predicts changes of features; a direction of the stream is no node of it")
    return [
        Tested(
            outcome,
            compare(graph, outcome, name="full"),
            None if pruned is None else compare(pruned, outcome, name="pruned"),
        )
        for outcome in outcomes
    ]


def compare(graph: Graph, outcome: Outcome, *, name: str = "graph") -> Comparison:
    """What the graph predicts of an outcome's edits beside what was measured.

    The outcome must have watched the graph's features, and its answer be read where the graph's is. Raises
    InterventionError when not.
    """
    if outcome.position != graph.answer_position:
        raise InterventionError(
            f"the outcome was read at position {outcome.position}, the graph's answer stands at {graph.answer_position}"
        )
    table, number = graph.nodes, _numbers(graph)
    prediction = predict(graph, outcome.edits, mode=outcome.mode, layers=outcome.layers)
    edited = {number.get((edit.layer, edit.position, edit.feature)) for edit in outcome.edits}
    lowest = min((edit.layer for edit in outcome.edits), default=0)
    features = np.array(
        [i for i in number.values() if i not in edited and table.layer[i] > lowest and table.activation[i] != 0],
        dtype=np.int64,
    )
    logits = np.flatnonzero(table.is_kind("logit"))
    watched = {place: index for index, place in enumerate(outcome.watched.places)}
    try:
        which = [watched[_place(graph, int(i))] for i in features]
    except KeyError as error:
        raise InterventionError(f"the outcome did not watch feature {error.args[0]} of the graph") from error
    moved = outcome.watched.after[which] - outcome.watched.before[which]
    activation = table.activation[features].astype(np.float64)
    held_to = {"free": -1, "frozen": int(table.layer.max())}.get(outcome.mode, outcome.layers[1])
    direct = table.layer[features] <= held_to + 1 if outcome.mode != "iterative" else np.zeros(len(features), bool)
    return Comparison(
        graph=name,
        nodes=np.concatenate((features, logits)),
        is_logit=np.concatenate((np.zeros(len(features), bool), np.ones(len(logits), bool))),
        is_direct=np.concatenate((direct, np.full(len(logits), outcome.mode == "frozen"))),
        predicted=np.concatenate((prediction.change[features] / activation, prediction.change[logits])),
        measured=np.concatenate((moved / activation, logit_changes(graph, outcome))),
        missing=prediction.missing,
    )


def logit_changes(graph: Graph, outcome: Outcome) -> Float[np.ndarray, " logit"]:
    """The measured change of every logit node in the graph's units: demeaned or a difference, without soft-cap."""
    change = outcome.uncapped() - outcome.uncapped(before=True)
    logits = np.flatnonzero(graph.nodes.is_kind("logit"))
    differences = graph.metadata.get("differences") or [None] * len(logits)
    mean = change.mean()
    found = []
    for index, pair in zip(logits, differences, strict=True):
        if pair is not None:
            found.append(float(change[pair[0]] - change[pair[1]]))
        else:
            found.append(float(change[int(graph.nodes.token[index])] - mean))
    return np.array(found)


def calibrate(predicted: Float[np.ndarray, " node"], measured: Float[np.ndarray, " node"]) -> Calibration:
    """How predictions agree with measurements, over the nodes of which something other than zero was predicted."""
    which = predicted != 0
    x, y = predicted[which], measured[which]
    if not len(x):
        return Calibration(0, None, None, None)
    rank = spearman(x, y)
    tiny = 1e-6 * np.abs(y).max()
    moved = np.abs(y) > tiny
    agreement = float((np.sign(x) == np.sign(y))[moved].mean()) if moved.any() else None
    return Calibration(len(x), float(x @ y / (x @ x)), None if np.isnan(rank) else rank, agreement)


def feature_places(graph: Graph) -> list[Place]:
    """The features of a graph, for a sweep to watch."""
    return list(_numbers(graph))


def _numbers(graph: Graph) -> dict[Place, int]:
    """The index of every feature node by (layer, position, feature)."""
    return {_place(graph, int(i)): int(i) for i in np.flatnonzero(graph.nodes.is_kind("feature"))}


def _place(graph: Graph, index: int) -> Place:
    table = graph.nodes
    return int(table.layer[index]), int(table.position[index]), int(table.feature[index])
