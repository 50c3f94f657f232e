"""Scores of an attribution graph: how much of the answer it explains, and how much it does not."""

from dataclasses import dataclass

import numpy as np

from lucida.graph.graph import Graph
from lucida.graph.influence import (
    carries_influence,
    influence_by_length,
    measure_of,
    normalised,
    target_values,
    target_weights,
)


@dataclass(frozen=True)
class Scores:
    """How much of the answer a graph explains. Shares lie in [0, 1]; a share of nothing is 0.

    Error and unexpanded nodes count alike as not explained; bias nodes count nowhere.

    `replacement`: share of the end-to-end influence that starts at embeddings.
    `completeness`: share of the inputs of nodes, weighted by the nodes' output, that is not error;
    `completeness_all_rows` counts as circuit-tracer and Neuronpedia do, where nodes without inputs
    pass as fully explained. `error_share`, `unexpanded`: share of the end-to-end influence that ends
    in error or unexpanded nodes, and in the latter alone. `average_path_length`: edges from an
    embedding to a logit. `path_mass`: influence of the embeddings over paths of 1, 2, ... edges, in
    units of the target weights. `mediated` (measure "attribution" only): signed share of the logits'
    values that comes directly from feature nodes. `pruned`: share of the influence of all nodes
    that lay on nodes pruned away; None for a graph that was not pruned.
    """

    replacement: float
    completeness: float
    completeness_all_rows: float
    error_share: float
    unexpanded: float
    average_path_length: float
    path_mass: tuple[float, ...]
    mediated: float | None = None
    pruned: float | None = None

    def rows(self) -> list[tuple[str, str]]:
        """Name and value of every score that applies, ready to show."""
        rows = [
            ("replacement", f"{self.replacement:.3f}"),
            ("completeness (nodes with inputs)", f"{self.completeness:.3f}"),
            ("completeness (all rows, as published)", f"{self.completeness_all_rows:.3f}"),
            ("error share", f"{self.error_share:.3f}"),
            ("unexpanded", f"{self.unexpanded:.3f}"),
            ("average path length", f"{self.average_path_length:.2f}"),
            ("influence by path length", " ".join(f"{mass:.3f}" for mass in self.path_mass)),
        ]
        if self.mediated is not None:
            rows.append(("logit mediated by features", f"{self.mediated:.3f}"))
        if self.pruned is not None:
            rows.append(("influence pruned away", f"{self.pruned:.3f}"))
        return rows

    def __str__(self) -> str:
        rows = self.rows()
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def scores(graph: Graph) -> Scores:
    """The scores of a graph; of a pruned graph those with pruned nodes counted as error.

    The latter were computed when it was pruned, on the whole graph, and are read from its metadata.
    """
    recorded = (graph.metadata.get("pruning") or {}).get("scores")
    if recorded is None:
        return compute_scores(graph)
    return Scores(**{**recorded, "path_mass": tuple(recorded["path_mass"])})


def compute_scores(graph: Graph) -> Scores:
    """The scores of the nodes and edges as they stand ("Circuit Tracing", 2025; `docs/method.md`)."""
    weights = target_weights(graph)
    by_length = influence_by_length(graph)
    received = by_length[1:].sum(axis=0)
    embedding = graph.nodes.is_kind("embedding")
    unexplained = graph.nodes.is_kind("error", "unexpanded")
    # A feature without inputs ends a path like an error, though it is neither.
    ends = np.ones(len(graph.nodes), bool)
    explained, with_inputs = _explained_inputs(graph, unexplained)
    ends[with_inputs] = False
    ended = float(received[ends].sum())

    output = received + weights
    mass = by_length[1:, embedding].sum(axis=1)
    lengths = np.arange(1, len(mass) + 1)
    last = int(np.flatnonzero(mass)[-1]) + 1 if mass.any() else 0
    return Scores(
        replacement=_share(received[embedding].sum(), ended),
        completeness=_share((explained * output)[with_inputs].sum(), output[with_inputs].sum()),
        completeness_all_rows=_share((explained * output).sum(), output.sum()),
        error_share=_share(received[unexplained].sum(), ended),
        unexpanded=_share(received[graph.nodes.is_kind("unexpanded")].sum(), ended),
        average_path_length=_share((lengths * mass).sum(), mass.sum()),
        path_mass=tuple(float(m) for m in mass[:last]),
        mediated=_mediated(graph, weights) if measure_of(graph) == "attribution" else None,
    )


def _explained_inputs(graph: Graph, unexplained: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each node the share of its inputs that is no error (1 without inputs), and a mask of those with."""
    size = normalised(graph.edges, carries_influence(graph))
    explained = np.ones(len(graph.nodes))
    explained[graph.targets] = 1 - size[:, unexplained].sum(axis=1, dtype=np.float64)
    with_inputs = np.zeros(len(graph.nodes), bool)
    with_inputs[graph.targets] = size.any(axis=1)
    return explained, with_inputs


def _mediated(graph: Graph, weights: np.ndarray) -> float:
    from_features = graph.edges[:, graph.nodes.is_kind("feature")].sum(axis=1, dtype=np.float64)
    direct = float(weights[graph.targets] @ from_features)
    logits = graph.nodes.is_kind("logit")
    return _share(direct, float(weights[logits] @ target_values(graph)))


def _share(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0
