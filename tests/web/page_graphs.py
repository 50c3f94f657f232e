"""A graph small enough to read off a screen, and one whose every text is an attack."""

import numpy as np

from lucida.graph.graph import COLUMNS, KINDS, Graph, NodeTable
from lucida.prompt import Prompt

TOKENS = ("The", " opposite", " of", " small", " is")
HOSTILE = '"><img src=x onerror="window.hacked=1"><script>window.hacked=1</script></script><!--<script>'


def small_graph(label: str = "small things", token: str = " small", answer: str = " large") -> Graph:
    """Two features per token in three layers, errors, embeddings and one answer. Nodes 0, 1, ... are features."""
    tokens = tuple(token if text == " small" else text for text in TOKENS)
    places = range(len(tokens))
    rows = [("feature", l, p, 10 * l + s, 1.5) for l in range(3) for p in places for s in range(2)]
    rows += [("error", l, p, -1, np.nan) for l in range(3) for p in places]
    rows += [("embedding", -1, p, -1, np.nan) for p in places]
    rows += [("logit", 3, len(tokens) - 1, -1, np.nan)]
    kind, layer, position, feature, activation = zip(*rows, strict=True)
    kinds = np.array([KINDS.index(name) for name in kind], np.int8)
    is_target = np.isin(kinds, [KINDS.index("feature"), KINDS.index("logit")])
    targets = np.flatnonzero(is_target)
    layers, places_of = np.array(layer), np.array(position)
    edges = np.random.default_rng(0).normal(size=(len(targets), len(rows))).astype(np.float32)
    is_below = (layers[None] < layers[targets][:, None]) & (places_of[None] <= places_of[targets][:, None])
    columns = {name: np.full(len(rows), -1, dtype) for name, dtype in COLUMNS.items()} | {
        "kind": kinds,
        "layer": layers.astype(np.int32),
        "position": places_of.astype(np.int32),
        "feature": np.array(feature, np.int64),
        "activation": np.array(activation, np.float32),
        "influence": np.linspace(1, 0.1, len(rows), dtype=np.float32),
        "probability": np.where(kinds == KINDS.index("logit"), 0.7, np.nan).astype(np.float32),
    }
    texts = tuple(answer if row[0] == "logit" else tokens[row[2]] for row in rows)
    labels = tuple(f"{label} {i}" if row[0] == "feature" and i % 2 == 0 else "" for i, row in enumerate(rows))
    table = NodeTable(**columns, text=texts, label=labels)
    metadata = {"target_weights": [0.7], "n_layers": 3, "measure": "influence"}
    prompt = Prompt(tuple(range(len(tokens))), tokens, "".join(tokens))
    return Graph(table, (edges * is_below).astype(np.float32), targets, prompt, metadata)


def hostile_graph() -> Graph:
    """A graph that would run a script if any of its texts were taken for markup."""
    return small_graph(label=HOSTILE, token=HOSTILE, answer=HOSTILE)
