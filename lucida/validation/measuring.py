"""Everything that is measured on one graph, before any statistics."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Bool, Float

from lucida.evaluation.ablation import ablate_features, graph_features, watched_activations
from lucida.graph.influence import influence, measure_of
from lucida.interventions import Outcome
from lucida.progress import Progress, silent
from lucida.validation.agreement import Agreement, measure_agreement
from lucida.validation.answer import effects
from lucida.validation.claims import NodeClaims, linear_effects, node_claims, pair_claims
from lucida.validation.controls import matched_controls
from lucida.validation.subject import Subject


@dataclass(frozen=True)
class Counts:
    """How much is drawn on each graph."""

    ablations: int
    targets: int
    controls: int
    pushes: int


@dataclass(frozen=True)
class NodeSamples:
    """Ablated features: what the graph claims, and what happened with attention held and live.

    KL in nats; `change` and `live_change` are of the leading target, in logits.
    """

    nodes: np.ndarray
    claims: NodeClaims
    kl: Float[np.ndarray, " source"]
    live_kl: Float[np.ndarray, " source"]
    change: Float[np.ndarray, " source"]
    live_change: Float[np.ndarray, " source"]
    predicted: Float[np.ndarray, " source"]
    predicted_direct: Float[np.ndarray, " source"]


@dataclass(frozen=True)
class PairSamples:
    """Pairs of an ablated and a watched feature between which the graph has a path. `source` numbers the ablation;
    `change` is the signed change of the watched feature as a share of its activation.
    """

    source: np.ndarray
    influence: Float[np.ndarray, " pair"]
    edge: Float[np.ndarray, " pair"]
    share: Float[np.ndarray, " pair"]
    change: Float[np.ndarray, " pair"]
    is_direct: Bool[np.ndarray, " pair"]


@dataclass(frozen=True)
class ControlSamples:
    """Features of the graph's story: KL of their ablation and of their matched controls' (which write `ratio` times as
    much), predicted and measured change of the leading target.
    """

    kl: Float[np.ndarray, " feature"]
    control_kl: Float[np.ndarray, " feature"]
    ratio: Float[np.ndarray, " feature"]
    predicted: Float[np.ndarray, " feature"]
    change: Float[np.ndarray, " feature"]


@dataclass(frozen=True)
class ErrorShares:
    """Where the influence on the answer ends without explanation: shares of all of it. `by_layer` is of errors."""

    error: float
    unexpanded: float
    by_layer: Float[np.ndarray, " layer"]


@dataclass(frozen=True)
class Samples:
    """All that was measured on one graph; None for what its kind does not have."""

    nodes: NodeSamples
    pairs: PairSamples | None
    controls: ControlSamples | None
    agreement: Agreement | None
    errors: ErrorShares | None


def measure(subject: Subject, counts: Counts, seed: int, *, progress: Progress = silent) -> Samples:
    """Ablate, watch, push and compare on one graph. Everything that is drawn follows from `seed`."""

    def draws(which: int) -> np.random.Generator:
        return np.random.default_rng((seed, which))

    nodes, pairs = _ablations(subject, counts, draws(0), progress)
    is_exact = str(subject.view.model.dtype) == "torch.float32"
    pushed = subject.basis is not None and counts.pushes and is_exact
    return Samples(
        nodes=nodes,
        pairs=pairs,
        controls=_controls(subject, counts.controls, draws(1), progress) if counts.controls else None,
        agreement=measure_agreement(subject, counts.pushes, draws(2), progress=progress) if pushed else None,
        errors=error_shares(subject) if measure_of(subject.graph) == "influence" else None,
    )


def _ablations(
    subject: Subject, counts: Counts, generator: np.random.Generator, progress: Progress
) -> tuple[NodeSamples, PairSamples | None]:
    graph, features = subject.graph, subject.features

    def draw(count: int) -> np.ndarray:
        return np.sort(generator.choice(features, min(count, len(features)), replace=False))

    sources = draw(counts.ablations)
    targets = draw(counts.targets) if subject.basis is not None else np.zeros(0, np.int64)
    ablate = _ablating(subject, progress)
    table, watched = graph_features(graph, sources), graph_features(graph, targets)
    held = ablate(table, watched, attention="frozen")
    live = ablate(table, attention="live")
    claims = node_claims(graph, sources, subject.reach)
    frozen_effects, live_effects = effects(subject, held), effects(subject, live)
    samples = NodeSamples(
        sources, claims, frozen_effects.kl, live_effects.kl, frozen_effects.change[:, 0], live_effects.change[:, 0],
        claims.predicted[:, 0], claims.predicted_direct[:, 0],
    )  # fmt: skip
    return samples, _pairs(subject, sources, targets, watched_activations(held, len(targets))) if len(targets) else None


def _ablating(subject: Subject, progress: Progress) -> Callable[..., list[Outcome]]:
    """`ablate_features` on this graph."""
    where = {"reach": subject.reach, "at": subject.at, "progress": progress}
    dictionary = None if subject.basis is None else subject.basis.dictionary
    return partial(ablate_features, subject.view, dictionary, **where)


def _pairs(subject: Subject, sources: np.ndarray, targets: np.ndarray, found: np.ndarray) -> PairSamples:
    graph = subject.graph
    claims = pair_claims(graph, sources, targets, subject.reach)
    before = graph.nodes.activation[targets].astype(np.float64)
    change = (found - before) / np.abs(before)
    above = graph.nodes.layer[targets][None] > graph.nodes.layer[sources][:, None]
    kept = np.nonzero((claims.influence > 0) & above)
    return PairSamples(
        kept[0], claims.influence[kept], claims.edge[kept], claims.share[kept], change[kept], claims.is_direct[kept]
    )


def _controls(
    subject: Subject, count: int, generator: np.random.Generator, progress: Progress
) -> ControlSamples | None:
    matched = matched_controls(subject, count, generator)
    if matched is None:
        return None
    ablate = _ablating(subject, progress)
    own, control = (effects(subject, ablate(table, attention="frozen")) for table in (matched.chosen, matched.controls))
    predicted = -linear_effects(subject.graph, matched.nodes, subject.reach)[:, 0]
    return ControlSamples(own.kl, control.kl, matched.ratio, predicted, own.change[:, 0])


def error_shares(subject: Subject) -> ErrorShares:
    """The influence that ends in error and unexpanded nodes, as a share of all that ends anywhere."""
    graph = subject.graph
    scores, received, table = graph.scores(), influence(graph), graph.nodes
    error = table.is_kind("error")
    by_layer = np.bincount(table.layer[error], weights=received[error], minlength=subject.view.n_layers)
    total = by_layer.sum()
    own = scores.error_share - scores.unexpanded
    return ErrorShares(own, scores.unexpanded, by_layer * (own / total if total else 0.0))
