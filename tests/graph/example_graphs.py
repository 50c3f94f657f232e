"""Graphs whose numbers are known: by hand, from circuit-tracer, or because the model is linear."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from interchange_graphs import random_graph

from lucida.graph.graph import COLUMNS, KINDS, Graph, NodeTable
from lucida.prompt import Prompt

GOLDEN = Path(__file__).parent.parent / "golden"


def table(kinds: list[str], **columns: object) -> NodeTable:
    """A node table with the given columns, the rest missing."""
    missing = {"activation": np.nan, "probability": np.nan, "influence": 0}
    filled = {
        name: np.full(len(kinds), missing.get(name, -1), dtype)
        if columns.get(name) is None
        else np.asarray(columns[name], dtype)
        for name, dtype in COLUMNS.items()
    }
    filled["kind"] = np.array([KINDS.index(kind) for kind in kinds], np.int8)
    text = columns.get("text") or [""] * len(kinds)
    return NodeTable(**filled, text=tuple(text), label=("",) * len(kinds))


def hand_made() -> Graph:
    """Two features, an error, two tokens, two logits: small enough to work out on paper."""
    kinds = ["feature", "feature", "error", "embedding", "embedding", "logit", "logit"]
    nodes = table(
        kinds,
        layer=[1, 2, 0, -1, -1, 3, 3],
        position=[0, 1, 0, 0, 1, 1, 1],
        feature=[7, 8, -1, -1, -1, -1, -1],
        activation=[2.0, 1.0] + [np.nan] * 5,
        text=["small", "say large", "", "small", "is", "large", "big"],
    )
    nodes = replace(nodes, label=("small", "say large", "", "", "", "", ""))
    edges = np.array(
        [
            [0, 0, -0.5, 2.0, 0.5, 0, 0],
            [1.5, 0, 0.5, 0, -1.0, 0, 0],
            [1, 3, 0.5, 0.5, 0, 0, 0],
            [0, -1, 2, 0, 1, 0, 0],
        ],
        np.float32,
    )
    targets = np.array([0, 1, 5, 6])
    return Graph(nodes, edges, targets, Prompt((1, 2), ("small", "is")), {"target_weights": [0.7, 0.2]})


def golden(name: str) -> tuple[Graph, dict[str, np.ndarray]]:
    """One of circuit-tracer's graphs as ours, and what circuit-tracer says about it."""
    known = dict(np.load(GOLDEN / f"{name}_graph.npz"))
    active = known["active_features"][known["selected_features"]]
    tokens, logits = known["input_tokens"], known["logit_ids"]
    total, layers = len(known["adjacency"]), int(known["active_features"][:, 0].max()) + 1
    pos, n = np.arange(len(tokens)), len(logits)
    counts = (len(active), layers * len(pos), len(pos), n)
    kinds = list(np.repeat(["feature", "error", "embedding", "logit"], counts))
    nodes = table(
        kinds,
        layer=np.concatenate([active[:, 0], np.repeat(range(layers), len(pos)), pos * 0 - 1, [layers] * n]),
        position=np.concatenate([active[:, 1], np.tile(pos, layers), pos, [pos[-1]] * n]),
        feature=np.concatenate([active[:, 2], np.full(total - len(active), -1)]),
        activation=np.concatenate(
            [known["activation_values"][known["selected_features"]], [np.nan] * (total - len(active))]
        ),
    )
    targets = np.flatnonzero(nodes.is_kind("feature", "logit"))
    weights = {"target_weights": [float(p) for p in known["logit_probs"]]}
    prompt = Prompt(tuple(int(t) for t in tokens), tuple(str(t) for t in tokens))
    return Graph(nodes, known["adjacency"][targets], targets, prompt, weights), known


def linear_graph(seed: int, **size: Any) -> Graph:
    """A graph as of neurons: a feature's incoming edges, bias included, add up to its activation."""
    graph = random_graph(seed, density=1.0, **size)
    activation = graph.nodes.activation.copy()
    is_feature = graph.nodes.is_kind("feature")
    row = np.zeros(len(graph.nodes), np.float32)
    row[graph.targets] = graph.edges.sum(axis=1)
    activation[is_feature] = row[is_feature]
    metadata = {**graph.metadata, "measure": "attribution"}
    return replace(graph, nodes=replace(graph.nodes, activation=activation), metadata=metadata)
