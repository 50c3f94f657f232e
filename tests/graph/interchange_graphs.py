"""Random graphs with every kind of node, and the equality that a lossless format must keep."""

import numpy as np

from lucida.graph.graph import KINDS, Graph, NodeTable
from lucida.prompt import Prompt

TOKENS = ("<s>", "The", " opposite", "\n", ' "quoted', " →", "(p=")


def random_graph(
    seed: int = 0, *, n_layers: int = 3, n_features: int = 12, tokens: tuple[str, ...] = TOKENS,
    difference: bool = False, extras: bool = True, density: float = 0.6,
) -> Graph:  # fmt: skip
    """A graph with features, errors, embeddings, (unexpanded and bias) nodes, and three logits."""
    rng = np.random.default_rng(seed)
    places = np.arange(len(tokens))
    spots = [(l, p, f) for l in range(n_layers) for p in places for f in range(40)]
    chosen = sorted(spots[i] for i in rng.choice(len(spots), min(n_features, len(spots)), replace=False))
    rows = [("feature", l, p, f, 100 + p) for l, p, f in chosen]
    rows += [("error", l, p, -1, -1) for l in range(n_layers) for p in places]
    rows += [("embedding", -1, p, -1, 100 + p) for p in places]
    if extras:
        rows += [("unexpanded", l, p, -1, -1) for l in range(n_layers) for p in places]
        rows += [("bias", -1, -1, -1, -1)]
    last = len(tokens) - 1
    logits = [("logit", n_layers, last, -1, t) for t in ((-1,) if difference else (7, 0, 31999))]
    rows += logits
    kind = np.array([KINDS.index(r[0]) for r in rows], np.int8)
    layer, position = np.array([r[1] for r in rows], np.int32), np.array([r[2] for r in rows], np.int32)
    is_feature, is_logit = kind == KINDS.index("feature"), kind == KINDS.index("logit")
    targets = np.flatnonzero(is_feature | is_logit)
    edges = rng.normal(size=(len(targets), len(rows))).astype(np.float32)
    edges *= rng.random(edges.shape) < density
    edges[layer[None, :] >= layer[targets][:, None]] = 0
    probability = np.full(len(rows), np.nan, np.float32)
    weights = [1.0] if difference else [0.6, 0.25, 0.0001]
    if not difference:
        probability[is_logit] = weights
    texts = {"logit": iter([" large - small"] if difference else [' "big"', "\t", "(p=0.9)"])}
    text = [next(texts["logit"]) if r[0] == "logit" else tokens[r[2]] if r[2] >= 0 else "" for r in rows]
    label = [f"about {r[3]}" if r[0] == "feature" and r[3] % 3 == 0 else "" for r in rows]
    table = NodeTable(
        kind=kind,
        layer=layer,
        position=position,
        feature=np.array([r[3] for r in rows], np.int64),
        token=np.array([r[4] for r in rows], np.int64),
        activation=np.where(is_feature, rng.normal(size=len(rows)), np.nan).astype(np.float32),
        influence=np.where(is_logit, 0, rng.random(len(rows))).astype(np.float32),
        probability=probability,
        text=tuple(text),
        label=tuple(label),
    )
    metadata = {"target_weights": weights, "n_layers": n_layers, "measure": "influence", "model": "tiny"}
    prompt = Prompt(tuple(100 + int(p) for p in places), tokens, "".join(tokens))
    return Graph(table, edges, targets.astype(np.int64), prompt, metadata)


def assert_same(found: Graph, expected: Graph) -> None:
    """Every node column, every edge, the prompt and the metadata are equal, bit for bit."""
    for name in ("kind", "layer", "position", "feature", "token", "activation", "influence", "probability"):
        a, b = getattr(found.nodes, name), getattr(expected.nodes, name)
        assert a.dtype == b.dtype, name
        np.testing.assert_array_equal(a, b, err_msg=name)
    assert found.nodes.text == expected.nodes.text
    assert found.nodes.label == expected.nodes.label
    np.testing.assert_array_equal(found.targets, expected.targets)
    np.testing.assert_array_equal(found.edges, expected.edges)
    assert found.edges.dtype == np.float32
    assert found.prompt == expected.prompt
    assert found.metadata == expected.metadata
