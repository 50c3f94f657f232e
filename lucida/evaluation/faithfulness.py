"""Does an edge of a graph say what happens? Influence of feature on feature against measured ablation.

"Circuit Tracing" (2025), section "Evaluating mechanistic faithfulness": ablate a feature over its own layer and the
next two with attention held, and see by what share other features change.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from lucida.evaluation.ablation import ablate_features, graph_features, watched_activations
from lucida.evaluation.basis import DictionaryBasis
from lucida.evaluation.graphs import GraphOptions, TracedPrompt
from lucida.evaluation.prompts import EvaluationPrompt
from lucida.graph import Graph
from lucida.graph.influence import carries_influence, normalised, propagate
from lucida.models.linear import FrozenModel
from lucida.models.model import Model
from lucida.progress import Progress, silent
from lucida.statistics import Interval, bootstrap, spearman

REACH = 2
"""An ablation holds the MLPs up to this many layers above the ablated feature."""
ABLATIONS = 24
"""Features ablated on each prompt."""
TARGETS = 96
"""Features watched on each prompt."""


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation over `pairs` pairs, with its interval (bootstrap over ablations)."""

    spearman: Interval | None
    pairs: int


@dataclass(frozen=True)
class Faithfulness:
    """Influence B_ts of feature s on feature t against the measured |change of a_t| / a_t when s is ablated.

    `everything` holds all pairs. In a `direct` pair every MLP between source and target is held, so a direct edge is
    confirmed by construction; a `knock_on` pair has live MLPs between, and only it is evidence. `inactive` is the
    share of pairs in which the ablation put the target out.
    """

    prompts: int
    ablations: int
    everything: Correlation
    direct: Correlation
    knock_on: Correlation
    inactive: float


@dataclass(frozen=True)
class _Pairs:
    """Pairs of sampled sources and targets; `ablation` numbers the source."""

    ablation: np.ndarray
    influence: np.ndarray
    measured: np.ndarray
    is_direct: np.ndarray

    @staticmethod
    def join(parts: "Sequence[_Pairs]") -> "_Pairs":
        offsets = np.cumsum([0, *(int(p.ablation.max(initial=-1)) + 1 for p in parts[:-1])])
        ablation = np.concatenate([p.ablation + o for p, o in zip(parts, offsets, strict=True)])
        rest = (np.concatenate([getattr(p, name) for p in parts]) for name in ("influence", "measured", "is_direct"))
        return _Pairs(ablation, *rest)

    def correlation(self, which: np.ndarray, seed: int) -> Correlation:
        """Spearman over the pairs in the mask `which`; what is drawn anew are ablations, with all their pairs."""
        groups = [np.flatnonzero(which & (self.ablation == a)) for a in np.unique(self.ablation[which])]

        def statistic(drawn: Int[np.ndarray, "draw ablation"]) -> Float[np.ndarray, " draw"]:
            picks = (np.concatenate([groups[group] for group in row]) for row in drawn)
            return np.array([spearman(self.influence[picked], self.measured[picked]) for picked in picks])

        return Correlation(bootstrap(statistic, len(groups), seed=seed), int(which.sum()))


def measure_faithfulness(
    model: Model,
    basis: DictionaryBasis,
    prompts: Sequence[EvaluationPrompt],
    *,
    options: GraphOptions | None = None,
    ablations: int = ABLATIONS,
    targets: int = TARGETS,
    reach: int = REACH,
    seed: int = 0,
    progress: Progress = silent,
) -> Faithfulness:
    """Ablate sampled features of each prompt's graph and compare with the graph's influence.

    Sources and targets are drawn from the expanded features; a pair counts when the graph has any path between the
    two. Norms run live, attention is held, MLPs up to layer i + `reach` are held at their recording but for the ablated
    feature's own writes. Costs a forward pass of the prompt for each ablation, many at once.
    """
    options = options or GraphOptions()
    generator = np.random.default_rng(seed)
    parts = []
    for index, prompt in enumerate(prompts):
        progress("ablations", index, len(prompts))
        traced = TracedPrompt.of(model, prompt, options)
        graph = traced.graph(basis)
        features = np.flatnonzero(graph.nodes.is_kind("feature"))
        sources, watched = (
            np.sort(generator.choice(features, min(count, len(features)), replace=False))
            for count in (ablations, targets)
        )
        parts.append(_prompt_pairs(traced.view, basis, graph, sources, watched, reach))
    progress("ablations", len(prompts), len(prompts))
    pairs = _Pairs.join(parts)
    everything = np.ones(len(pairs.influence), dtype=bool)
    return Faithfulness(
        prompts=len(prompts),
        ablations=len(np.unique(pairs.ablation)),
        everything=pairs.correlation(everything, seed),
        direct=pairs.correlation(pairs.is_direct, seed),
        knock_on=pairs.correlation(~pairs.is_direct, seed),
        inactive=float((pairs.measured == 1).mean()) if len(pairs.measured) else 0.0,
    )


def _prompt_pairs(
    view: FrozenModel, basis: DictionaryBasis, graph: Graph, sources: np.ndarray, targets: np.ndarray, reach: int
) -> _Pairs:
    claimed = influence_between(graph, sources, targets)
    measured = ablate(view, basis, graph, sources, targets, reach=reach)
    table = graph.nodes
    layers = table.layer[sources][:, None], table.layer[targets][None]
    # Up to layer i + reach every MLP is held, so what reads at the next layer sees only direct effects.
    is_direct = layers[1] <= layers[0] + reach + 1
    kept = np.nonzero(claimed > 0)
    return _Pairs(kept[0], claimed[kept], measured[kept], is_direct[kept])


def influence_between(
    graph: Graph, sources: Int[np.ndarray, " source"], targets: Int[np.ndarray, " target"]
) -> Float[np.ndarray, "source target"]:
    """B[t, s] of B = A + A^2 + ..., A = |edges| with rows divided by their sum: influence of nodes on nodes."""
    counted = carries_influence(graph)
    start = np.zeros((len(targets), len(graph.nodes)))
    start[np.arange(len(targets)), targets] = 1
    total = propagate(graph, start, lambda rows: normalised(graph.edges[rows], counted)) - start
    return total[:, sources].T


def ablate(
    view: FrozenModel,
    basis: DictionaryBasis,
    graph: Graph,
    sources: Int[np.ndarray, " source"],
    targets: Int[np.ndarray, " target"],
    *,
    reach: int = REACH,
    rows: int | None = None,
) -> Float[np.ndarray, "source target"]:
    """|change of a_t| / a_t for every target node when each source node is ablated alone.

    The source's writes to its own layer and the next `reach` are taken out; see `measure_faithfulness`.
    """
    table, before = graph.nodes, graph.nodes.activation[targets].astype(np.float64)
    parts = (graph_features(graph, nodes) for nodes in (sources, targets))
    outcomes = ablate_features(view, basis.dictionary, *parts, reach=reach, rows=rows)
    found = watched_activations(outcomes, len(targets))
    above = table.layer[targets][None] > table.layer[sources][:, None]
    return np.where(above, np.abs(found - before) / before, 0.0)
