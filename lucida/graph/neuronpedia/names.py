"""How the attribution-graph JSON names nodes, features and tokens.

docs/interchange.md lists what is read and written, and which traps of the format this avoids.
"""

import math
from typing import NamedTuple

import numpy as np

from lucida.errors import GraphError
from lucida.graph.graph import KINDS, Graph, NodeTable

FEATURE_TYPES = {
    "feature": "cross layer transcoder",
    "error": "mlp reconstruction error",
    "embedding": "embedding",
    "unexpanded": "unknown",
    "bias": "bias",
    "logit": "logit",
}
"""The `feature_type` of each of our node kinds. Per-layer transcoders carry the first one too."""

KINDS_OF_TYPES = {name: kind for kind, name in FEATURE_TYPES.items()} | {"unexplored node": "unexpanded"}
"""The kind of each `feature_type` we read; the last one stands in old files only."""

LARGEST_EXACT = 2**53
"""Browsers hold every number as a double: whole numbers above this are not exact."""

VIRTUAL_TOKEN = 1 << 24
"""A target without a token (a difference of two) is numbered from here, above any vocabulary."""

# Both front ends show white space with these marks, and Neuronpedia turns them back.
_MARKS = {"\n": "⏎", "\t": "→", "\r": "↵"}


class LayerFeature(NamedTuple):
    """A feature of a layer."""

    layer: int
    feature: int


def cantor_pair(layer: int, feature: int) -> int:
    """One whole number for (layer, feature): (l + f)(l + f + 1) / 2 + f, exact at any size."""
    diagonal = layer + feature
    return diagonal * (diagonal + 1) // 2 + feature


def cantor_unpair(number: int) -> LayerFeature:
    """The (layer, feature) that `cantor_pair` made this number of."""
    diagonal = (math.isqrt(8 * number + 1) - 1) // 2
    feature = number - diagonal * (diagonal + 1) // 2
    return LayerFeature(diagonal - feature, feature)


def displayed(token: str) -> str:
    """The token with line breaks and tabs as visible marks."""
    for plain, mark in _MARKS.items():
        token = token.replace(plain, mark)
    return token


def undisplayed(token: str, prompt: str) -> str:
    """The token as the model read it; a mark that the prompt itself holds is left alone."""
    for plain, mark in _MARKS.items():
        if mark not in prompt:
            token = token.replace(mark, plain)
    return token


def node_ids(graph: Graph) -> list[str]:
    """The id of each node, unique in the graph, in node order.

    Features `{layer}_{feature}_{position}`, errors `{layer}_error_mlp_{position}` (circuit-tracer's
    `0_{layer}_{position}` is also the id of a feature of layer 0), embeddings `E_{token}_{position}`,
    logits `{n_layers + 1}_{token}_{position}`.

    Raises GraphError when two nodes are the same.
    """
    tokens = logit_tokens(graph.nodes)
    ids = [_node_id(graph.nodes, i, tokens) for i in range(len(graph.nodes))]
    if len(set(ids)) < len(ids):
        twice = next(name for i, name in enumerate(ids) if name in ids[:i])
        raise GraphError(f"two nodes of this graph are the same ({twice}): it cannot be written")
    return ids


def _node_id(table: NodeTable, index: int, tokens: dict[int, int]) -> str:
    kind = KINDS[table.kind[index]]
    layer, position = int(table.layer[index]), int(table.position[index])
    match kind:
        case "feature":
            return f"{layer}_{table.feature[index]}_{position}"
        case "error":
            return f"{layer}_error_mlp_{position}"
        case "unexpanded":
            return f"{layer}_unexpanded_{position}"
        case "embedding":
            return f"E_{table.token[index]}_{position}"
        case "bias":
            return f"E_bias_{index}"
        case _:
            return f"{layer + 1}_{tokens[index]}_{position}"


def logit_tokens(table: NodeTable) -> dict[int, int]:
    """The token number of each logit node; targets that are no single token count from VIRTUAL_TOKEN."""
    logits = [int(i) for i in np.flatnonzero(table.is_kind("logit"))]
    return {
        index: int(table.token[index]) if table.token[index] >= 0 else VIRTUAL_TOKEN + rank
        for rank, index in enumerate(logits)
    }
