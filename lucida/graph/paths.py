"""The strongest paths of an attribution graph, from the prompt to the answer."""

from dataclasses import dataclass

import numpy as np

from lucida.errors import GraphError
from lucida.graph.graph import Graph, Node
from lucida.graph.influence import (
    carries_influence,
    levels,
    measure_of,
    normalised,
    per_activation,
    target_values,
    target_weights,
)

# Numbers ranked at once, in float64: bounds the memory, whatever the count.
CHUNK = 2_000_000


@dataclass(frozen=True)
class Path:
    """One path, source first, logit last.

    `weights` has one signed factor for each edge: the share of the target's inputs (measure
    "influence"), or the part of the target's activation, of the logit in its own units for the last
    edge ("attribution"). `share` is the signed product, times the logit's target weight, as a
    fraction of all influence (of the weighted logit values, in absolute terms).
    """

    nodes: tuple[Node, ...]
    weights: tuple[float, ...]
    share: float

    def __str__(self) -> str:
        return f"{' → '.join(describe(node) for node in self.nodes)}  ({100 * self.share:+.1f} %)"


def describe(node: Node) -> str:
    """A node in a few readable words, such as `[L3/17 small]`."""
    text = " ".join(node.text.replace("\n", "⏎").split()) or repr(node.text)
    if node.kind == "embedding":
        return f'"{text}"'
    if node.kind == "feature":
        return f"[L{node.layer}/{node.feature} {node.label or f'at “{text}”'}]"
    if node.kind in ("error", "unexpanded"):
        return f"[{node.kind} L{node.layer} at “{text}”]"
    return text


@dataclass(frozen=True)
class _Best:
    """For every node its `count` best paths, [node, count]: strength, and how each goes on.

    The path of rank r into a node continues at `source[node, r]` (-1: it starts here) with that
    node's path of rank `rank[node, r]`.
    """

    strength: np.ndarray
    source: np.ndarray
    rank: np.ndarray


def strongest_paths(
    graph: Graph, count: int = 5, measure: str | None = None, *, through: int | None = None, direct: bool = True
) -> tuple[Path, ...]:
    """The `count` strongest distinct paths from an embedding, error or unexpanded node to a logit.

    With `through`, the index of a node, only paths that pass it; without `direct` none of a single edge.

    Strength is the product of the edges' factors (see `Path`) in absolute terms, times the logit's
    target weight. Exact: the best few paths into a node come from the best few of its sources, so
    one pass from the lowest layer up finds them. There may be fewer than `count`.

    Raises GraphError for a count below 1, an unknown measure or a node that is not in the graph.
    """
    if count < 1:
        raise GraphError(f"{count} paths were asked for; ask for 1 or more")
    if through is not None:
        graph.node(through)
    measure = measure_of(graph, measure)
    best = _best(graph, count, measure, through, direct=direct)
    weights = target_weights(graph)
    logits = np.flatnonzero(graph.nodes.is_kind("logit"))
    whole = float(weights.sum())
    if measure == "attribution":
        whole = abs(float(weights[logits] @ target_values(graph)))
    total = best.strength[logits] * weights[logits, None]
    found = []
    for flat in np.argsort(-total, axis=None, kind="stable")[:count]:
        row, place = np.unravel_index(flat, total.shape)
        if total[row, place] > 0:
            nodes, factors = _walk(graph, int(logits[row]), int(place), best, measure)
            share = float(weights[logits[row]] * np.prod(factors)) / whole if whole else 0.0
            found.append(Path(nodes, factors, share))
    return tuple(found)


def _best(graph: Graph, count: int, measure: str, through: int | None = None, *, direct: bool = True) -> _Best:
    nodes = len(graph.nodes)
    strength = np.zeros((nodes, count))
    source = np.full((nodes, count), -1)
    rank = np.zeros((nodes, count), int)
    begins = graph.nodes.is_kind("embedding", "error", "unexpanded")
    is_logit = graph.nodes.is_kind("logit")
    strength[begins, 0] = 1
    width = min(count, nodes)
    step = max(1, CHUNK // max(1, nodes, width * count))
    above = None if through is None else int(graph.nodes.layer[through])
    for level in reversed(levels(graph)):
        if above is not None and graph.nodes.layer[graph.targets[level[0]]] > above:
            # From here up, the one way on from below is the node that paths must pass.
            _keep_only(strength, through)
            above = None
        for rows in np.split(level, range(step, len(level), step)):
            size = np.abs(_factors(graph, rows, measure)).astype(np.float64)
            if not direct:
                size[np.ix_(is_logit[graph.targets[rows]], begins)] = 0
            first = np.argpartition(-size * strength[:, 0], width - 1, axis=1)[:, :width]
            each = np.take_along_axis(size, first, axis=1)[:, :, None] * strength[first]
            flat = each.reshape(len(rows), -1)
            chosen = np.argsort(-flat, axis=1, kind="stable")[:, :count]
            here = graph.targets[rows]
            strength[here] = np.take_along_axis(flat, chosen, axis=1)
            source[here] = np.take_along_axis(first, chosen // count, axis=1)
            rank[here] = chosen % count
    if above is not None:
        _keep_only(strength, through)
    return _Best(strength, source, rank)


def _keep_only(strength: np.ndarray, node: int | None) -> None:
    """Make, in place, every path weak that does not end in this node."""
    kept = strength[node].copy()
    strength[:] = 0
    strength[node] = kept


def _factors(graph: Graph, rows: np.ndarray, measure: str) -> np.ndarray:
    """The factors of all edges into the targets of these rows, [target, node]; 0 from bias."""
    if measure == "influence":
        return normalised(graph.edges[rows], carries_influence(graph))
    factors = per_activation(graph, rows)
    factors[:, ~carries_influence(graph)] = 0
    return factors


def _walk(graph: Graph, node: int, place: int, best: _Best, measure: str) -> tuple[tuple[Node, ...], tuple[float, ...]]:
    """The nodes and signed factors of the path of the given rank into a logit, source first."""
    visited, factors = [graph.node(node)], []
    while best.source[node, place] >= 0:
        row = np.flatnonzero(graph.targets == node)
        node, place = int(best.source[node, place]), int(best.rank[node, place])
        factor = float(_factors(graph, row, measure)[0, node])
        # Normalised edges have lost their sign.
        lost = measure == "influence" and graph.edges[row[0], node] < 0
        factors.append(-factor if lost else factor)
        visited.append(graph.node(node))
    return tuple(visited[::-1]), tuple(factors[::-1])
