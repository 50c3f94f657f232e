"""The part of a graph that a page draws, as one block of bytes: nodes column by column, edges by target.

The block is a safetensors file (no code of a stranger runs when it is read), the same for the page, a notebook and an
exported file; docs/view-format.md specifies it and web/src/view/view.ts reads it.
"""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
from safetensors.numpy import save

from lucida.errors import GraphError
from lucida.graph.graph import KINDS, Graph
from lucida.graph.influence import carries_influence, measure_of, node_influence, normalised
from lucida.graph.pruning import edge_scores, rank_nodes

VERSION = 1
MOST_NODES = 5_000
MOST_EDGES = 100_000
NODE_SHARE = 0.95
EDGE_SHARE = 0.98


@dataclass(frozen=True, eq=False)
class View:
    """What a page draws of a graph.

    `node` are indices in the whole graph, ascending. `columns` hold one number for each of them: kind (index in
    KINDS), layer, position, feature, token, activation, influence, probability as in the graph, and `cumulative`, the
    share of influence in a node and all stronger ones: a page that shows the share s shows nodes with cumulative <= s.

    Edges are sorted by target, then by size. `source` and `target` count rows of `node`; `weight` is the edge as
    traced, `share` its part of the absolute inputs that its target has in the whole graph (signed; 0 for a bias),
    `edge_cumulative` the share of influence in an edge and all stronger ones of this view.
    """

    node: np.ndarray
    columns: dict[str, np.ndarray]
    source: np.ndarray
    target: np.ndarray
    weight: np.ndarray
    share: np.ndarray
    edge_cumulative: np.ndarray
    header: dict[str, Any]

    def to_bytes(self) -> bytes:
        """The view as a safetensors file whose metadata has one entry, "view": the header as JSON."""
        columns = {name: np.ascontiguousarray(column) for name, column in self.columns.items()}
        edges = {
            "edge_source": self.source,
            "edge_target": self.target,
            "edge_weight": self.weight,
            "edge_share": self.share,
            "edge_cumulative": self.edge_cumulative,
        }
        return save({"node": self.node, **columns, **edges}, {"view": json.dumps(self.header, allow_nan=False)})


def view(
    graph: Graph,
    *,
    node_share: float = NODE_SHARE,
    edge_share: float = EDGE_SHARE,
    most_nodes: int = MOST_NODES,
    most_edges: int = MOST_EDGES,
) -> View:
    """The strongest part of a graph: nodes that carry `node_share` of the influence, and the edges between them that
    carry `edge_share`, at most `most_nodes` and `most_edges`, strongest first.

    Tokens and targets are always there. The header says how much was left out. Raises GraphError for shares outside
    (0, 1] or bounds below 1.
    """
    if most_nodes < 1 or most_edges < 1:
        raise GraphError(f"a view of {most_nodes} nodes and {most_edges} edges shows nothing; ask for at least one")
    everywhere = rank_nodes(graph, node_share).cumulative
    kept = _strongest_nodes(graph, everywhere, node_share, most_nodes)
    part = graph.subgraph(kept)
    source, target, weight, share, cumulative, reached = _edges(graph, part, kept, edge_share, most_edges)
    table = part.nodes
    columns = {
        "kind": table.kind.astype(np.uint8),
        "layer": table.layer.astype(np.int32),
        "position": table.position.astype(np.int32),
        "feature": table.feature.astype(np.int32),
        "token": table.token.astype(np.int32),
        "activation": table.activation.astype(np.float32),
        "influence": table.influence.astype(np.float32),
        "probability": table.probability.astype(np.float32),
        "cumulative": everywhere[kept].astype(np.float32),
    }
    header = _header(graph, part, kept, reached, everywhere, len(weight))
    return View(kept.astype(np.int32), columns, source, target, weight, share, cumulative, header)


def _strongest_nodes(graph: Graph, cumulative: np.ndarray, share: float, most: int) -> np.ndarray:
    """Indices, ascending: tokens, targets and bias, and the strongest others."""
    always = graph.nodes.is_kind("embedding", "logit", "bias")
    # The node that passes the share belongs to the part that carries it.
    order = np.argsort(np.where(always, np.inf, cumulative), kind="stable")[: int((~always).sum())]
    wanted = int(np.searchsorted(cumulative[order], share)) + 1 if share < 1 else len(order)
    return np.sort(np.concatenate((np.flatnonzero(always), order[: min(wanted, most)])))


def _edges(graph: Graph, part: Graph, kept: np.ndarray, wanted: float, most: int) -> tuple:
    """Source, target (rows of the part), weight, share, cumulative share of each edge, and the share they reach."""
    measure = measure_of(graph)
    scores = edge_scores(part, measure, node_influence(graph, measure)[kept])
    rows, columns = np.nonzero(part.edges)
    value = scores[rows, columns].astype(np.float64)
    order = np.argsort(-value, kind="stable")
    total = float(value.sum())
    running = np.cumsum(value[order]) / (total or 1.0)
    count = len(order) if wanted >= 1 else int(np.searchsorted(running, wanted)) + 1
    chosen = order[: min(count, most)]
    cumulative = np.empty(len(order), np.float32)
    cumulative[order] = running
    reached = float(running[len(chosen) - 1]) if len(chosen) else 1.0
    # By target, then by size: a list of inputs can be read off as it stands.
    chosen = chosen[np.lexsort((-np.abs(part.edges[rows[chosen], columns[chosen]]), part.targets[rows[chosen]]))]
    row, source = rows[chosen], columns[chosen]
    weight = part.edges[row, source].astype(np.float32)
    share = np.sign(weight) * _input_shares(graph, part, kept, row, source)
    target = part.targets[row].astype(np.uint32)
    return source.astype(np.uint32), target, weight, share.astype(np.float32), cumulative[chosen], reached


def _input_shares(graph: Graph, part: Graph, kept: np.ndarray, row: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Absolute edges by all absolute inputs that their target has in the whole graph."""
    in_part = np.flatnonzero(np.isin(graph.targets, kept))
    counted = carries_influence(graph)
    shares = np.zeros(part.edges.shape, np.float32)
    for block in np.array_split(np.arange(len(in_part)), max(1, len(in_part) // 256)):
        shares[block] = normalised(graph.edges[in_part[block]], counted)[:, kept]
    return shares[row, source]


def name_of(record: Any) -> str:
    """The name in a graph's record of its model or dictionary; files of other tools hold a plain text, or nothing."""
    return str((record.get("name") if isinstance(record, dict) else record) or "")


def _header(
    graph: Graph, part: Graph, kept: np.ndarray, edge_reached: float, cumulative: np.ndarray, n_edges: int
) -> dict[str, Any]:
    ranked = ~part.nodes.is_kind("bias", "logit", "embedding")
    inner = cumulative[kept][ranked]
    metadata = graph.metadata
    return {
        "version": VERSION,
        "kinds": list(KINDS),
        "prompt": graph.prompt.text or "",
        "tokens": list(graph.prompt.strings),
        "n_layers": int(metadata.get("n_layers") or graph.nodes.layer.max()),
        "model": name_of(metadata.get("model")),
        "dictionary": name_of(metadata.get("dictionary")),
        "measure": measure_of(graph),
        "text": list(part.nodes.text),
        "label": list(part.nodes.label),
        "nodes_in_graph": len(graph.nodes),
        "edges_in_graph": int(np.count_nonzero(graph.edges)),
        "nodes": len(kept),
        "edges": n_edges,
        "node_share": float(inner.max()) if len(inner) else 1.0,
        "edge_share": edge_reached,
    }
