"""From the samples of one or more graphs to the measures of a validation."""

from collections.abc import Callable, Sequence

import numpy as np

from lucida.statistics import Interval, mean
from lucida.validation.agreement import STEPS
from lucida.validation.correlation import (
    Pooled,
    Statistic,
    average,
    difference,
    log_correlation,
    middle,
    per_graph,
    rank_correlation,
    ratio_of_sums,
)
from lucida.validation.measuring import NodeSamples, PairSamples, Samples
from lucida.validation.validation import (
    AttentionMeasures,
    ControlMeasures,
    ErrorMeasures,
    NodeMeasures,
    Pair,
    PairMeasures,
    PredictionMeasures,
    StepAgreement,
)

NEGLIGIBLE = 1e-4
"""A change of a feature below this share of its activation, or of a logit in logits, has no sign worth counting."""
SHOWN_PAIRS = 1200
"""Pairs that a validation keeps for its picture."""


def node_measures(samples: Sequence[Samples], seed: int) -> NodeMeasures:
    """Influence, activation and direct edge against the KL of an ablation."""

    def over(statistic: Callable[[NodeSamples], Statistic]) -> Interval | None:
        return per_graph([(len(s.nodes.kl), statistic(s.nodes)) for s in samples], seed=seed)

    def ranked(name: str) -> Callable[[NodeSamples], Statistic]:
        return lambda nodes: rank_correlation(getattr(nodes.claims, name), nodes.kl)

    def logged(name: str) -> Callable[[NodeSamples], Statistic]:
        return lambda nodes: log_correlation(getattr(nodes.claims, name), nodes.kl)

    def gain(name: str) -> Callable[[NodeSamples], Statistic]:
        return lambda nodes: difference(ranked("influence")(nodes), ranked(name)(nodes))

    return NodeMeasures(
        influence=over(ranked("influence")),
        activation=over(ranked("activation")),
        direct=over(ranked("direct")),
        log_influence=over(logged("influence")),
        log_activation=over(logged("activation")),
        log_direct=over(logged("direct")),
        over_activation=over(gain("activation")),
        over_direct=over(gain("direct")),
    )


def attention_measures(samples: Sequence[Samples], seed: int) -> AttentionMeasures:
    """The share of an effect that goes through attention patterns."""

    def share(live: str, held: str) -> Interval | None:
        columns = ((getattr(s.nodes, live), getattr(s.nodes, held)) for s in samples)
        return per_graph([(len(a), ratio_of_sums(np.abs(a - b), np.abs(a))) for a, b in columns], seed=seed)

    return AttentionMeasures(share("live_change", "change"), share("live_kl", "kl"))


def prediction_measures(samples: Sequence[Samples], seed: int) -> PredictionMeasures:
    """The graph's linear prediction for the leading target against what happened."""

    def over(statistic: Callable[[np.ndarray, np.ndarray], Statistic], by: str = "predicted") -> Interval | None:
        columns = ((getattr(s.nodes, by), s.nodes.change) for s in samples)
        return per_graph([(len(p), statistic(p, m)) for p, m in columns], seed=seed)

    def of_story(statistic: Callable[[np.ndarray, np.ndarray], Statistic]) -> Interval | None:
        columns = [(s.controls.predicted, s.controls.change) for s in samples if s.controls is not None]
        return per_graph([(len(p), statistic(p, m)) for p, m in columns], seed=seed) if columns else None

    def signs(predicted: np.ndarray, change: np.ndarray) -> Statistic:
        return _right_signs(predicted, change, np.ones_like(predicted))

    return PredictionMeasures(
        spearman=over(rank_correlation),
        slope=over(lambda p, m: ratio_of_sums(p * m, p * p)),
        signs=over(signs),
        signs_weighted=over(lambda p, m: _right_signs(p, m, np.abs(p))),
        direct_spearman=over(rank_correlation, by="predicted_direct"),
        direct_signs=over(signs, by="predicted_direct"),
        story_spearman=of_story(rank_correlation),
        story_signs=of_story(signs),
    )


def _right_signs(predicted: np.ndarray, change: np.ndarray, weight: np.ndarray) -> Statistic:
    """The share, by weight, of predictions with the sign of what happened; what hardly moved does not count."""
    counted = ((np.abs(change) >= NEGLIGIBLE) & (predicted != 0)) * weight
    return ratio_of_sums(counted * (np.sign(predicted) == np.sign(change)), counted)


def pair_measures(samples: Sequence[Samples], seed: int) -> PairMeasures | None:
    """Influence of feature on feature against measured change, and the signs of edges."""
    parts = [s.pairs for s in samples if s.pairs is not None]
    if not parts:
        return None
    group = _groups(parts)
    column = {name: np.concatenate([getattr(p, name) for p in parts]) for name in vars(parts[0])}
    influence = Pooled(group, column["influence"], np.abs(column["change"]))
    direct = column["is_direct"]
    moved = np.abs(column["change"]) >= NEGLIGIBLE
    counted = moved & (column["edge"] != 0)
    # Taking out what adds lowers, so an edge is right when the change has the other sign.
    right = np.sign(column["edge"]) == -np.sign(column["change"])

    def signs(which: np.ndarray, weight: np.ndarray) -> Interval | None:
        which = which & counted
        return Pooled(group[which], (right * weight)[which], weight[which]).share(seed=seed) if which.any() else None

    ones = np.ones(len(group))
    return PairMeasures(
        direct=influence.take(direct).spearman(seed=seed),
        knock_on=influence.take(~direct).spearman(seed=seed),
        direct_signs=signs(direct, ones),
        knock_on_signs=signs(~direct, ones),
        direct_signs_weighted=signs(direct, column["share"]),
        knock_on_signs_weighted=signs(~direct, column["share"]),
        too_small=float((~moved).mean()) if len(moved) else 0.0,
        everything=influence.spearman(seed=seed),
    )


def _groups(parts: Sequence[PairSamples]) -> np.ndarray:
    """What a draw takes or leaves as a whole: the pairs of one ablation, or of one graph where there are several."""
    if len(parts) == 1:
        return parts[0].source
    return np.concatenate([np.full(len(part.source), index) for index, part in enumerate(parts)])


def shown_pairs(samples: Sequence[Samples], seed: int) -> tuple[Pair, ...]:
    """A sample of the pairs, as many knock-on pairs as there are of the other kind."""
    parts = [s.pairs for s in samples if s.pairs is not None]
    if not parts:
        return ()
    column = {n: np.concatenate([getattr(p, n) for p in parts]) for n in ("influence", "change", "is_direct")}
    generator, picked = np.random.default_rng(seed), []
    for which in (True, False):
        of_kind = np.flatnonzero(column["is_direct"] == which)
        picked.append(generator.choice(of_kind, min(len(of_kind), SHOWN_PAIRS // 2), replace=False))
    return tuple(
        Pair(float(column["influence"][i]), abs(float(column["change"][i])), bool(column["is_direct"][i]))
        for i in np.concatenate(picked)
    )


def agreement_measures(samples: Sequence[Samples], seed: int) -> tuple[StepAgreement, ...]:
    """The local replacement model against the model, 1, 2 and 4 layers after a push."""
    parts = [s.agreement for s in samples if s.agreement is not None]
    if not parts:
        return ()

    def over(name: str, model: int, kind: int, step: int) -> Interval | None:
        # A few pushes to which the model hardly answers have errors of hundreds: the median is not theirs.
        statistic = average if name == "cosine" else middle
        columns = [getattr(part, name)[model, kind, :, step] for part in parts]
        return per_graph([(len(values), statistic(values)) for values in columns], seed=seed)

    found = []
    for step, layers in enumerate(STEPS):
        ways = ((name, model, kind) for model, kind in ((0, 0), (0, 1), (1, 0)) for name in ("cosine", "error"))
        found.append(StepAgreement(layers, *(over(*way, step) for way in ways)))
    return tuple(step for step in found if step.cosine is not None)


def error_measures(samples: Sequence[Samples], seed: int) -> ErrorMeasures | None:
    """The influence that ends in errors and unexpanded features."""
    parts = [s.errors for s in samples if s.errors is not None]
    if not parts:
        return None
    by_layer = np.mean([part.by_layer for part in parts], axis=0)
    error, unexpanded = (np.array([getattr(part, name) for part in parts]) for name in ("error", "unexpanded"))
    layers = tuple(float(share) for share in by_layer)
    return ErrorMeasures(mean(error, seed=seed), mean(unexpanded, seed=seed), layers)


def control_measures(samples: Sequence[Samples], seed: int) -> ControlMeasures | None:
    """Features of the story against matched controls."""
    parts = [s.controls for s in samples if s.controls is not None]
    if not parts:
        return None
    wins = [(len(p.kl), average((p.kl > p.control_kl).astype(np.float64))) for p in parts]
    ratios = [(len(p.kl), ratio_of_sums(p.kl, p.control_kl)) for p in parts]
    return ControlMeasures(
        pairs=sum(len(p.kl) for p in parts),
        wins=per_graph(wins, seed=seed),
        ratio=per_graph(ratios, seed=seed),
        size=float(np.median(np.concatenate([p.ratio for p in parts]))),
    )
