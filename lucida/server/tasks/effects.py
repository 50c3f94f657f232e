"""What an experiment did, in the page's words: predicted by the graph, measured in the model, and by its controls."""

import math
from collections.abc import Sequence

import numpy as np

from lucida.errors import GraphError, InterventionError
from lucida.graph import Graph
from lucida.interventions import Outcome
from lucida.interventions.prediction import Comparison, Prediction, logit_changes
from lucida.server.messages import Agreement, NodeEffect, SupernodeEffect, TargetEffect, TokenChange, Watched

TOP_TOKENS = 8
"""Of the most probable tokens before and of those after so many are shown."""
MOST_EFFECTS = 400
"""Features whose predicted and measured change is told, those that change most."""
DIGITS = 6
"""Of these shares: hundreds of them are kept with every experiment of a graph."""
LOW, HIGH = 0.1, 0.9
"""The middle 80 % of the controls."""


def token_changes(outcome: Outcome) -> list[TokenChange]:
    """The most probable tokens before or after, the most probable first. Logits are told apart from their mean."""
    change = outcome.uncapped() - outcome.uncapped(before=True)
    change = change - change.mean()
    shown = {
        token.token: token.text for before in (True, False) for token in outcome.top_tokens(TOP_TOKENS, before=before)
    }
    found = [
        TokenChange(
            id=token, text=text, before=outcome.probability(token, before=True), after=outcome.probability(token),
            logit_change=float(change[token]),
        )
        for token, text in shown.items()
    ]  # fmt: skip
    return sorted(found, key=lambda token: -max(token.before, token.after))


def target_effects(
    graph: Graph, outcome: Outcome, prediction: Prediction, controls: Sequence[Outcome]
) -> list[TargetEffect]:
    """The change of every target of the graph, in logits (a difference of two, or apart from the mean logit)."""
    logits = np.flatnonzero(graph.nodes.is_kind("logit")).tolist()
    measured = logit_changes(graph, outcome)
    drawn = np.array([logit_changes(graph, control) for control in controls])
    is_silent = len(prediction.missing) == len(outcome.edits)
    found = []
    for number, index in enumerate(logits):
        column = drawn[:, number] if len(controls) else None
        low, high = (None, None) if column is None else np.quantile(column, [LOW, HIGH]).tolist()
        found.append(
            TargetEffect(
                text=graph.nodes.text[index],
                predicted=None if is_silent else float(prediction.change[index]),
                measured=float(measured[number]),
                control=None if column is None else float(column.mean()),
                control_low=low,
                control_high=high,
            )
        )
    return found


def node_effects(comparison: Comparison) -> list[NodeEffect]:
    """The features above the change that moved most, or were predicted to."""
    features = np.flatnonzero(~comparison.is_logit)
    size = np.maximum(np.abs(comparison.predicted), np.abs(comparison.measured))[features]
    order = np.argsort(-size, kind="stable")[:MOST_EFFECTS]
    return [
        NodeEffect(
            node=int(comparison.nodes[i]), predicted=round(float(comparison.predicted[i]), DIGITS),
            measured=round(float(comparison.measured[i]), DIGITS), is_direct=bool(comparison.is_direct[i]),
        )
        for i in features[order[size[order] > 0]]
    ]  # fmt: skip


def supernode_effects(
    graph: Graph, outcome: Outcome, prediction: Prediction, watch: Sequence[Watched]
) -> list[SupernodeEffect]:
    """What every watched supernode is afterwards, as a share of its activation before (1: unchanged).

    A member that was changed itself is what it was put at, whatever its encoder reads then. Members count by their
    activation; those that are no features (errors, tokens) cannot be watched and do not count.
    Raises InterventionError for a node that is gone.
    """
    table = graph.nodes
    number = {place: index for index, place in enumerate(outcome.watched.places)}
    is_silent = len(prediction.missing) == len(outcome.edits)
    after = outcome.watched.after.copy()
    for edit in outcome.edits:
        index = number.get((edit.layer, edit.position, edit.feature))
        if index is not None:
            after[index] = edit.after
    found = []
    for group in watch:
        members = [i for i in dict.fromkeys(group.nodes) if _is_feature(graph, i)]
        before = table.activation[members].astype(np.float64)
        rows = [number[int(table.layer[i]), int(table.position[i]), int(table.feature[i])] for i in members]
        moved = after[rows] - outcome.watched.before[rows]
        found.append(
            SupernodeEffect(
                name=group.name,
                predicted=None if is_silent else _share(before, prediction.change[members]),
                measured=_share(outcome.watched.before[rows], moved),
            )
        )
    return found


def _is_feature(graph: Graph, index: int) -> bool:
    try:
        return graph.node(index).kind == "feature"
    except GraphError as error:
        raise InterventionError(
            f"node {index} of a watched group is not in the graph any more; it has {len(graph.nodes):,} nodes"
        ) from error


def _share(before: np.ndarray, moved: np.ndarray) -> float | None:
    """1 + the change along the activations before (neurons may be negative) by their size; None for nothing."""
    size = float(np.abs(before).sum())
    return 1 + float((np.sign(before) * moved).sum()) / size if size else None


def agreement(comparison: Comparison) -> Agreement:
    """How the predictions for features agree with what was measured."""
    found = comparison.calibration()
    numbers = {
        name: value if value is not None and math.isfinite(value) else None
        for name in ("slope", "spearman", "sign_agreement")
        for value in [getattr(found, name)]
    }
    return Agreement(count=found.count, **numbers)
