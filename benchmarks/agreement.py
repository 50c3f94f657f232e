"""How far our graph and circuit-tracer's agree on the nodes that both have."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lucida.graph import Graph


@dataclass(frozen=True)
class Agreement:
    """Differences of edges between shared nodes, and the sizes of what is shared."""

    features_ours: int
    features_theirs: int
    features_shared: int
    edges_compared: int
    max_difference: float
    max_edge: float
    """The largest absolute edge among those compared."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def compare_with_circuit_tracer(graph: Graph, arrays: Path) -> Agreement:
    """Compare a graph with the arrays that peer_circuit_tracer.py wrote for the same prompt.

    Bias and unexpanded nodes have no counterpart there and are left out.
    """
    with np.load(arrays) as saved:
        theirs = {name: saved[name] for name in saved.files}
    column = _their_columns(graph, theirs)
    known = np.flatnonzero(column >= 0)
    rows = np.flatnonzero(column[graph.targets] >= 0)
    worst, largest = 0.0, 0.0
    for part in np.array_split(rows, max(1, len(rows) // 256)):
        ours = graph.edges[np.ix_(part, known)]
        other = theirs["adjacency"][np.ix_(column[graph.targets[part]], column[known])]
        worst = max(worst, float(np.abs(ours - other).max(initial=0)))
        largest = max(largest, float(np.abs(other).max(initial=0)))
    is_feature = graph.nodes.is_kind("feature")
    return Agreement(
        features_ours=int(is_feature.sum()),
        features_theirs=len(theirs["selected"]),
        features_shared=int((is_feature & (column >= 0)).sum()),
        edges_compared=len(rows) * len(known),
        max_difference=worst,
        max_edge=largest,
    )


def _their_columns(graph: Graph, theirs: dict[str, np.ndarray]) -> np.ndarray:
    """For every node of ours its number in their matrix (features, errors, tokens, logits), or -1."""
    nodes, n_positions = graph.nodes, len(graph.prompt.tokens)
    n_layers = int(graph.metadata["n_layers"])
    features = theirs["active"][theirs["selected"]].tolist()
    first_error = len(features)
    first_token = first_error + n_layers * n_positions
    number: dict[tuple, int] = {("feature", *map(int, key)): i for i, key in enumerate(features)}
    number |= {
        ("error", layer, position): first_error + layer * n_positions + position
        for layer in range(n_layers)
        for position in range(n_positions)
    }
    number |= {("embedding", position): first_token + position for position in range(n_positions)}
    first_logit = first_token + n_positions
    number |= {("logit", int(token)): first_logit + i for i, token in enumerate(theirs["logits"])}
    keys = {
        "feature": lambda i: (int(nodes.layer[i]), int(nodes.position[i]), int(nodes.feature[i])),
        "error": lambda i: (int(nodes.layer[i]), int(nodes.position[i])),
        "embedding": lambda i: (int(nodes.position[i]),),
        "logit": lambda i: (int(nodes.token[i]),),
    }
    column = np.full(len(nodes), -1, np.int64)
    for kind, key in keys.items():
        for index in np.flatnonzero(nodes.is_kind(kind)).tolist():
            column[index] = number.get((kind, *key(index)), -1)
    return column
