"""How much of the model's answers the graphs of a basis explain, on a set of prompts and with equal node budgets."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from lucida.attribution import assemble
from lucida.errors import LucidaError
from lucida.evaluation.basis import Basis
from lucida.evaluation.prompts import EvaluationPrompt
from lucida.graph import Graph
from lucida.graph.influence import influence
from lucida.models.linear import FrozenModel
from lucida.models.model import Model
from lucida.models.recording import record
from lucida.progress import Progress, silent
from lucida.selection import expand
from lucida.statistics import Interval, mean
from lucida.targets import LogitTarget, choose_targets, logit_targets

NODES = 1024
"""Default node budget: features of a graph that are expanded, the same for every basis."""


@dataclass(frozen=True)
class GraphOptions:
    """How every graph is made: as `lucida.attribution.trace` makes them (whose defaults these are)."""

    max_nodes: int | None = NODES
    max_targets: int = 10
    target_mass: float = 0.95
    sink_positions: int = 1

    def __post_init__(self) -> None:
        if self.max_nodes is not None and self.max_nodes < 1:
            raise LucidaError(f"a graph needs a budget of at least 1 node, got {self.max_nodes}; None expands all")


@dataclass(frozen=True)
class PromptScores:
    """The scores of one prompt's graph (see `lucida.graph.Scores`), and `by_position`: the influence of each prompt
    token's embedding, over all paths. `active` features of which `nodes` are expanded.
    """

    replacement: float
    completeness: float
    path_length: float
    unexpanded: float
    by_position: tuple[float, ...]
    path_mass: tuple[float, ...]
    active: int
    nodes: int
    seconds: float


@dataclass(frozen=True)
class GraphMeasures:
    """Means over prompts with 95 % intervals (bootstrap over prompts).

    `replacement`: share of the influence on the answer that starts at the prompt's tokens. `completeness` (strict):
    share of the inputs of nodes with inputs that is no error. `path_length`: edges from a token to the answer, None
    where no influence reaches a token. `unexpanded`: influence that ends in features without a row; it counts as not
    explained. `seconds` per graph.
    """

    replacement: Interval
    completeness: Interval
    path_length: Interval | None
    unexpanded: Interval
    active: float
    nodes: float
    seconds: float
    prompts: tuple[PromptScores, ...]


@dataclass(frozen=True)
class TracedPrompt:
    """One prompt, ready to be traced through any basis: the frozen view, and what is explained."""

    view: FrozenModel
    targets: list[LogitTarget]
    options: GraphOptions

    @staticmethod
    @torch.no_grad()
    def of(model: Model, prompt: EvaluationPrompt, options: GraphOptions) -> "TracedPrompt":
        """Record the model on a prompt; the targets are its top tokens at the last position."""
        view = FrozenModel(model, record(model, model.tokenize(list(prompt.tokens))))
        logits = model.logits(view.recording.residual_final[-1:])[0]
        mass, count = options.target_mass, options.max_targets
        return TracedPrompt(view, choose_targets(model, logits, None, max_targets=count, target_mass=mass), options)

    @torch.no_grad()
    def graph(self, basis: Basis) -> Graph:
        """The attribution graph through `basis`; through a dictionary the same as `trace` gives, without labels.

        Raises DictionaryError when no feature is active.
        """
        at = self.view.n_positions - 1
        replacement = basis.localise(self.view, sink_positions=self.options.sink_positions)
        weights = torch.tensor([t.weight for t in self.targets], device=self.view.recording.residual_final.device)
        outputs = logit_targets(self.view, self.targets, at)
        expansion = expand(replacement, outputs, weights, max_nodes=self.options.max_nodes, chunk_bytes=None)
        metadata = {
            "measure": "influence",
            "target_weights": [t.weight for t in self.targets],
            "n_layers": self.view.n_layers,
            "selection": {"active": len(replacement.active)},
        }
        return assemble(replacement, expansion, self.targets, at, metadata)


def score_graph(graph: Graph, seconds: float) -> PromptScores:
    """The scores of one graph."""
    scores = graph.scores()
    received = influence(graph)
    embeddings = np.flatnonzero(graph.nodes.is_kind("embedding"))
    return PromptScores(
        replacement=scores.replacement,
        completeness=scores.completeness,
        path_length=scores.average_path_length if scores.replacement > 0 else float("nan"),
        unexpanded=scores.unexpanded,
        by_position=tuple(float(value) for value in received[embeddings]),
        path_mass=scores.path_mass,
        active=int(graph.metadata["selection"]["active"]),
        nodes=int(graph.nodes.is_kind("feature").sum()),
        seconds=seconds,
    )


def measure_graphs(
    model: Model,
    bases: Mapping[str, Basis],
    prompts: Sequence[EvaluationPrompt],
    *,
    options: GraphOptions | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> dict[str, GraphMeasures]:
    """The scores of every basis's graphs of the same prompts, targets and node budget.

    Raises DictionaryError when a dictionary has no active feature on a prompt.
    """
    options = options or GraphOptions()
    found: dict[str, list[PromptScores]] = {name: [] for name in bases}
    done, total = 0, len(prompts) * len(bases)
    for prompt in prompts:
        traced = TracedPrompt.of(model, prompt, options)
        for name, basis in bases.items():
            progress("graphs", done, total)
            started = time.perf_counter()
            graph = traced.graph(basis)
            found[name].append(score_graph(graph, time.perf_counter() - started))
            done += 1
    progress("graphs", done, total)
    return {name: summarise(scores, seed=seed) for name, scores in found.items()}


def summarise(scores: Sequence[PromptScores], *, seed: int = 0) -> GraphMeasures:
    """Means and intervals of the scores of several prompts."""

    def interval(field: str) -> Interval | None:
        return mean(np.array([getattr(score, field) for score in scores], dtype=np.float64), seed=seed)

    def average(field: str) -> float:
        return float(np.mean([getattr(score, field) for score in scores]))

    replacement, completeness, unexpanded = (interval(f) for f in ("replacement", "completeness", "unexpanded"))
    assert replacement is not None
    assert completeness is not None
    assert unexpanded is not None
    return GraphMeasures(
        replacement, completeness, interval("path_length"), unexpanded,
        average("active"), average("nodes"), average("seconds"), tuple(scores),
    )  # fmt: skip
