"""Pruning: the smallest part of a graph that carries a given share of the influence.

Two rules by name, "paper" ("Circuit Tracing", 2025) and "circuit-tracer" (the program's variant);
`docs/method.md` says where they differ.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
from jaxtyping import Bool, Float32, Float64

from lucida.errors import GraphError
from lucida.graph.graph import KINDS, Graph, NodeTable
from lucida.graph.influence import (
    carries_influence,
    influence,
    measure_of,
    node_influence,
    normalised,
    per_activation,
    target_values,
    target_weights,
)
from lucida.graph.scores import compute_scores

ALWAYS_KEPT = {
    "paper": ("error", "embedding", "unexpanded", "bias", "logit"),
    "circuit-tracer": ("embedding", "bias", "logit"),
}
"""The pruning rules, and the kinds of nodes that each never prunes."""


@dataclass(frozen=True)
class PruneMasks:
    """What a pruning keeps. `cumulative` is the share of influence in a node and all stronger ones.

    Low is important. It is 0 for bias nodes, which have no influence and always stay, and 1 for logits.
    """

    node_mask: Bool[np.ndarray, " node"]
    edge_mask: Bool[np.ndarray, "target node"]
    cumulative: Float32[np.ndarray, " node"]


@dataclass(frozen=True)
class RankedNodes:
    """The nodes that carry a share of the influence, and `cumulative` as in `PruneMasks`."""

    mask: Bool[np.ndarray, " node"]
    cumulative: Float32[np.ndarray, " node"]


def lowest_kept(scores: np.ndarray, share: float, *, exceed: bool) -> float:
    """The smallest score in the shortest list of largest `scores` that adds up to `share` of all.

    With `exceed` the list must add up to more than `share`. A share of 1 keeps everything.
    """
    ordered = np.sort(scores[scores > 0])[::-1]
    if share >= 1 or not len(ordered):
        return -np.inf
    # Sums of blocks first: a running sum of every edge in float64 would be twice the graph.
    starts = np.arange(0, len(ordered), 1 << 16)
    before = np.cumsum(np.add.reduceat(ordered, starts, dtype=np.float64))
    side = "right" if exceed else "left"
    block = min(int(np.searchsorted(before, share * before[-1], side)), len(starts) - 1)
    inside = ordered[starts[block] : starts[block] + (1 << 16)].astype(np.float64)
    running = np.cumsum(inside) + (before[block - 1] if block else 0)
    place = int(np.searchsorted(running, share * before[-1], side))
    return float(inside[min(place, len(inside) - 1)])


def prune_masks(
    graph: Graph, nodes: float = 0.8, edges: float = 0.98, rule: str = "paper", measure: str | None = None
) -> PruneMasks:
    """Which nodes and edges carry the shares `nodes` and `edges` of the influence.

    "paper": the shortest list of strongest nodes whose share exceeds `nodes`; embeddings, errors
    (and unexpanded) always stay. "circuit-tracer": the shortest that reaches it; only embeddings and
    logits always stay, and features and errors that no longer lead anywhere, and features that
    nothing leads to, are dropped until none is left. Edges are ranked inside the kept nodes by
    A_ts (I_t + w_t), by either rule. With the measure "attribution" nodes are ranked by magnitude
    M and edges by M_t |edge / activation_t| (w_t |edge| into a logit).

    Raises GraphError for a share outside (0, 1], an unknown rule or measure.
    """
    _check_share("edges", edges)
    found = rank_nodes(graph, nodes, rule, measure)
    measure, kept = measure_of(graph, measure), found.mask
    strength = node_influence(graph, measure)
    edge_mask = _strong_edges(graph, kept, edges, measure, strength, exceed=rule == "paper")
    if rule == "circuit-tracer":
        _drop_unconnected(graph, kept, edge_mask)
    bias = graph.nodes.is_kind("bias")
    edge_mask[:, bias] = (graph.edges[:, bias] != 0) & kept[graph.targets, None]
    return PruneMasks(kept, edge_mask, found.cumulative)


def rank_nodes(graph: Graph, nodes: float = 0.8, rule: str = "paper", measure: str | None = None) -> RankedNodes:
    """The nodes of `prune_masks` without its edges, which take most of its time.

    By the rule "circuit-tracer" those that are unconnected are still there. Raises GraphError as `prune_masks` does.
    """
    _check_share("nodes", nodes)
    if rule not in ALWAYS_KEPT:
        raise GraphError(f"no pruning rule {rule!r}; rules are {', '.join(ALWAYS_KEPT)}")
    strength = node_influence(graph, measure_of(graph, measure))
    ranked = ~graph.nodes.is_kind("bias", "logit")
    kept = (strength >= lowest_kept(strength[ranked], nodes, exceed=rule == "paper")) & ranked
    kept |= graph.nodes.is_kind(*ALWAYS_KEPT[rule])
    return RankedNodes(kept, _cumulative(graph, strength, ranked))


def _check_share(name: str, share: float) -> None:
    if not 0 < share <= 1:
        raise GraphError(f"{name}={share} is not a share of the influence; choose one above 0, at most 1")


def edge_scores(
    graph: Graph, measure: str, strength: Float64[np.ndarray, " node"]
) -> Float32[np.ndarray, "target node"]:
    """How much of the influence every edge carries: A_ts (I_t + w_t), or with "attribution" M_t |edge / activation_t|.

    `strength` is the magnitude M of every node in the whole graph, of which this one may be a part. 0 for bias edges.
    """
    weights = target_weights(graph)
    counted = carries_influence(graph)
    if measure == "influence":
        score = normalised(graph.edges, counted)
        out = influence(graph) + weights
    else:
        # Attributions are exact sums over all paths, so those of the whole graph hold inside a part.
        score = np.abs(per_activation(graph, np.arange(len(graph.targets))))
        score[:, ~counted] = 0
        out = strength + weights
    score *= out[graph.targets, None].astype(np.float32)
    return score


def _strong_edges(
    graph: Graph, kept: np.ndarray, share: float, measure: str, strength: np.ndarray, *, exceed: bool
) -> np.ndarray:
    """A mask [target, node] of the strongest edges between kept nodes, bias edges left out."""
    part = graph.subgraph(np.flatnonzero(kept))
    score = edge_scores(part, measure, strength[kept])
    strong = (score >= lowest_kept(score, share, exceed=exceed)) & (part.edges != 0)
    strong[:, ~carries_influence(part)] = False
    mask = np.zeros(graph.edges.shape, bool)
    mask[np.ix_(kept[graph.targets], kept)] = strong
    return mask


def _drop_unconnected(graph: Graph, kept: np.ndarray, edge_mask: np.ndarray) -> None:
    """Drop, in place, nodes that lead nowhere and features that nothing leads to, until all are connected."""
    inner = graph.nodes.is_kind("feature", "error", "unexpanded")
    feature = graph.nodes.is_kind("feature")
    while True:
        before = int(kept.sum())
        reached = np.zeros(len(kept), bool)
        reached[graph.targets] = edge_mask.any(axis=1)
        kept &= (edge_mask.any(axis=0) | ~inner) & (reached | ~feature)
        if int(kept.sum()) == before:
            return
        edge_mask[~kept[graph.targets]] = False
        edge_mask[:, ~kept] = False


def _cumulative(graph: Graph, strength: np.ndarray, ranked: np.ndarray) -> np.ndarray:
    order = np.argsort(np.where(ranked, -strength, np.inf), kind="stable")
    running = np.cumsum(strength[order])
    share = np.ones(len(order), np.float32)
    if running[-1] > 0:
        share[order] = running / running[-1]
    share[graph.nodes.is_kind("bias")] = 0
    return share


def prune(
    graph: Graph, nodes: float = 0.8, edges: float = 0.98, rule: str = "paper", measure: str | None = None
) -> Graph:
    """The graph of the nodes and edges that `prune_masks` keeps.

    Edges, activations and the influence column stay what they were. `metadata["pruning"]` records
    the settings, the share of influence removed, counts before and after, and the scores with
    pruned nodes counted as error; pruning a pruned graph puts the record of the first under
    "earlier", and its scores are relative to what the first one left. `metadata["target_values"]`
    keeps the logit values of the whole graph.

    Raises GraphError as `prune_masks` does.
    """
    return prune_around(graph, (), nodes, edges, rule, measure)


def prune_around(
    graph: Graph,
    keep: Sequence[int],
    nodes: float = 0.8,
    edges: float = 0.98,
    rule: str = "paper",
    measure: str | None = None,
) -> Graph:
    """As `prune`, and the nodes `keep` with all their edges to what stays, however weak they are."""
    masks = prune_masks(graph, nodes, edges, rule, measure)
    added = np.isin(np.arange(len(graph.nodes)), keep) & ~masks.node_mask
    node_mask = masks.node_mask | added
    edge_mask = masks.edge_mask | added | added[graph.targets, None]
    measure = measure_of(graph, measure)
    kept = np.flatnonzero(node_mask)
    strength = node_influence(graph, measure)
    total = float(strength.sum())
    removed = float(strength[~node_mask].sum()) / total if total > 0 else 0.0
    small = graph.subgraph(kept)
    small.edges[~edge_mask[np.ix_(np.isin(graph.targets, kept), kept)]] = 0
    scores = asdict(replace(compute_scores(fold_into_errors(graph, kept)), pruned=removed))
    record = {
        "nodes": nodes,
        "edges": edges,
        "rule": rule,
        "measure": measure,
        "removed": removed,
        "before": {"nodes": len(graph.nodes), "edges": int(np.count_nonzero(graph.edges))},
        "after": {"nodes": len(small.nodes), "edges": int(np.count_nonzero(small.edges))},
        "scores": {**scores, "path_mass": list(scores["path_mass"])},
        "earlier": graph.metadata.get("pruning"),
    }
    values = [float(v) for v in target_values(graph)]
    return replace(small, metadata={**small.metadata, "pruning": record, "target_values": values})


def fold_into_errors(graph: Graph, keep: np.ndarray) -> Graph:
    """The graph of the nodes `keep`, in which what the others contributed is counted as error.

    The edges out of a removed feature or unexpanded node are added, with their sign, to those of
    the error node at its layer and position (made if there is none), so rows still add up to the
    same. Errors, embeddings, bias and logits are always kept.
    """
    table = graph.nodes
    kept = ~table.is_kind("feature", "unexpanded")
    kept[keep] = True
    removed = np.flatnonzero(~kept)
    place = np.stack([table.layer[removed], table.position[removed]], axis=1)
    places, group = np.unique(place, axis=0, return_inverse=True)
    errors = np.flatnonzero(table.is_kind("error"))
    known = {(int(table.layer[i]), int(table.position[i])) for i in errors}
    fresh = [(int(l), int(p)) for l, p in places if (int(l), int(p)) not in known]

    part = graph.subgraph(np.flatnonzero(kept))
    joined = part.nodes.join(_error_nodes(fresh, graph.prompt.strings))
    order = np.lexsort((joined.feature, joined.position, joined.layer, joined.kind))
    order = order if fresh else np.arange(len(joined))
    renumber = np.argsort(order)
    edges = np.zeros((len(part.targets), len(joined)), np.float32)
    edges[:, renumber[: len(part.nodes)]] = part.edges
    if len(removed):
        is_error = joined.is_kind("error")
        at = {(int(joined.layer[i]), int(joined.position[i])): renumber[i] for i in np.flatnonzero(is_error)}
        column = [at[int(l), int(p)] for l, p in places]
        by_place = np.argsort(group.ravel(), kind="stable")
        rows = np.flatnonzero(kept[graph.targets])
        starts = np.searchsorted(group.ravel()[by_place], np.arange(len(places)))
        edges[:, column] += np.add.reduceat(graph.edges[np.ix_(rows, removed[by_place])], starts, axis=1)
    return replace(part, nodes=joined.take(order), edges=edges, targets=renumber[part.targets])


def _error_nodes(places: list[tuple[int, int]], strings: tuple[str, ...]) -> NodeTable:
    """New error nodes at the given (layer, position)s."""
    n = len(places)
    return NodeTable(
        kind=np.full(n, KINDS.index("error"), np.int8),
        layer=np.array([l for l, _ in places], np.int32),
        position=np.array([p for _, p in places], np.int32),
        feature=np.full(n, -1, np.int64),
        token=np.full(n, -1, np.int64),
        activation=np.full(n, np.nan, np.float32),
        influence=np.zeros(n, np.float32),
        probability=np.full(n, np.nan, np.float32),
        text=tuple(strings[p] if 0 <= p < len(strings) else "" for _, p in places),
        label=("",) * n,
    )
