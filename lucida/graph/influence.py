"""How much each node of an attribution graph matters for the answer: influence, and signed attribution.

Both walk the graph once, from the logits down: every source lies in a lower layer than its target,
so what a node receives is final when its layer is reached. Nothing larger than one layer's rows is
copied. `docs/method.md` has the equations; the paper is "Circuit Tracing" (2025).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64

from lucida.errors import GraphError
from lucida.graph.graph import Graph

MEASURES = ("influence", "attribution")


@dataclass(frozen=True)
class Attributions:
    """Signed attributions of every node to the logits, summed over all paths.

    `per_logit` is T, in units of the logit (or logit difference); `magnitude` is
    M_s = sum_t w_t |T_ts|; `signed` is sum_t w_t T_ts. Logits themselves are 0.
    """

    per_logit: Float64[np.ndarray, "logit node"]
    magnitude: Float64[np.ndarray, " node"]
    signed: Float64[np.ndarray, " node"]


def target_weights(graph: Graph) -> Float64[np.ndarray, " node"]:
    """The weight w of every node as an output: its target weight for a logit, else 0.

    Raises GraphError when the metadata does not hold one finite weight for each logit node.
    """
    logits = np.flatnonzero(graph.nodes.is_kind("logit"))
    found = graph.metadata.get("target_weights")
    if not isinstance(found, list | tuple) or len(found) != len(logits):
        had = "none" if found is None else repr(found)[:60]
        raise GraphError(
            f"the graph's metadata must hold target_weights for its {len(logits)} logit nodes, found {had};"
            " trace the prompt again"
        )
    weights = np.zeros(len(graph.nodes))
    try:
        weights[logits] = np.asarray(found, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise GraphError(f"target_weights must be numbers, found {found!r:.60}") from error
    if not np.isfinite(weights).all() or (weights < 0).any():
        raise GraphError(f"target_weights must be finite and not negative, found {found!r:.60}")
    return weights


def target_values(graph: Graph) -> Float64[np.ndarray, " logit"]:
    """The value of each logit node: its incoming edges, bias included, added up.

    Pruning cuts edges, so a pruned graph carries the values of the graph it was made from.
    """
    recorded = graph.metadata.get("target_values")
    if recorded is not None:
        return np.asarray(recorded, dtype=np.float64)
    logits = np.flatnonzero(graph.nodes.is_kind("logit"))
    values = np.zeros(len(graph.nodes))
    values[graph.targets] = graph.edges.sum(axis=1, dtype=np.float64)
    return values[logits]


def carries_influence(graph: Graph) -> Bool[np.ndarray, " node"]:
    """The nodes that count as sources: all but bias, which only makes rows add up."""
    return ~graph.nodes.is_kind("bias")


def normalised(
    edges: Float32[np.ndarray, "target node"], counted: Bool[np.ndarray, " node"] | None = None
) -> Float32[np.ndarray, "target node"]:
    """|edges| with every row divided by its sum (the paper's A); a row without inputs stays zero.

    Columns that are not `counted` (bias nodes) are zero and are left out of the sum.
    """
    size = np.abs(edges)
    if counted is not None:
        size[:, ~counted] = 0
    total = size.sum(axis=1, dtype=np.float64, keepdims=True)
    size *= np.divide(1, total, out=np.zeros_like(total), where=total > 0).astype(np.float32)
    return size


def per_activation(graph: Graph, rows: np.ndarray) -> Float32[np.ndarray, "target node"]:
    """The signed edges of the given rows per unit of the target: a feature's divided by its activation.

    A feature with activation 0 passes nothing on, so its row is 0. Rows of logits are as they are.
    """
    here = graph.targets[rows]
    unit = np.where(graph.nodes.is_kind("feature")[here], graph.nodes.activation[here], np.float32(1))
    inverse = np.divide(1, unit, out=np.zeros_like(unit), where=unit != 0)
    return graph.edges[rows] * inverse[:, None]


def levels(graph: Graph) -> list[np.ndarray]:
    """The rows of `graph.edges` grouped by the layer of their target, logits first."""
    layer = graph.nodes.layer[graph.targets]
    return [np.flatnonzero(layer == wanted) for wanted in np.unique(layer)[::-1]]


def propagate(
    graph: Graph,
    start: Float64[np.ndarray, "start node"],
    factors: Callable[[np.ndarray], np.ndarray],
    *,
    by_length: bool = False,
) -> Float64[np.ndarray, "start node"]:
    """Start (I - F)^-1: what starts at the nodes in `start`, summed over all downward paths.

    `factors(rows)` gives the rows of F, [target, node]. With `by_length` row k of the result is
    start[0] F^k instead (`start` must then be zero below its first row).

    Raises GraphError when an edge comes from the same or a higher layer, or is not finite.
    """
    total = start.copy()
    for rows in levels(graph):
        here = graph.targets[rows]
        with np.errstate(invalid="ignore", over="ignore"):
            added = total[:, here].astype(np.float32) @ factors(rows)
        if not np.isfinite(added).all():
            raise GraphError("the graph has edges or activations that are not finite; trace again")
        if added[:, graph.nodes.layer >= graph.nodes.layer[here[0]]].any():
            raise GraphError("the graph has an edge that does not come from a lower layer; trace the prompt again")
        if by_length:
            total[1:] += added[:-1]
        else:
            total += added
    return total


def influence(graph: Graph, weights: Float64[np.ndarray, " node"] | None = None) -> Float64[np.ndarray, " node"]:
    """The influence of every node on the logits: I = w^T (A + A^2 + ...), A = normalised edges.

    `weights` is w over all nodes; by default the target weights of the graph. Logits and bias get 0.
    """
    w = target_weights(graph) if weights is None else weights
    counted = carries_influence(graph)
    total = propagate(graph, w[None], lambda rows: normalised(graph.edges[rows], counted))
    return total[0] - w


def influence_by_length(graph: Graph) -> Float64[np.ndarray, "length node"]:
    """Row k is w^T A^k, what reaches each node over paths of k edges (row 0: the weights themselves)."""
    counted = carries_influence(graph)
    start = np.zeros((len(levels(graph)) + 1, len(graph.nodes)))
    start[0] = target_weights(graph)
    return propagate(graph, start, lambda rows: normalised(graph.edges[rows], counted), by_length=True)


def attributions(graph: Graph) -> Attributions:
    """Signed attribution of every node to every logit, over all paths; exact where the model is linear.

    A feature's edges add up to its activation, so a path from s over u to logit t carries
    edge_tu * edge_us / activation_u. Meant for graphs with the measure "attribution" (neurons).
    """
    logits = np.flatnonzero(graph.nodes.is_kind("logit"))
    start = np.zeros((len(logits), len(graph.nodes)))
    start[np.arange(len(logits)), logits] = 1
    total = propagate(graph, start, lambda rows: per_activation(graph, rows)) - start
    weights = target_weights(graph)[logits]
    return Attributions(total, weights @ np.abs(total), weights @ total)


def measure_of(graph: Graph, measure: str | None = None) -> str:
    """`measure`, by default the graph's own. Raises GraphError for a measure that does not exist."""
    chosen = graph.metadata.get("measure", "influence") if measure is None else measure
    if chosen not in MEASURES:
        raise GraphError(f"no measure {chosen!r}; measures are {', '.join(MEASURES)}")
    return chosen


def node_influence(graph: Graph, measure: str | None = None) -> Float64[np.ndarray, " node"]:
    """What nodes are ranked by: influence, or the magnitude of the attribution; 0 for logits and bias."""
    if measure_of(graph, measure) == "influence":
        return influence(graph)
    return np.where(carries_influence(graph), attributions(graph).magnitude, 0)
