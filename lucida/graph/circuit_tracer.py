"""Read the attribution graphs that circuit-tracer saves as `.pt` files, without running them."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lucida.errors import GraphError
from lucida.graph.graph import KINDS, Graph, NodeTable
from lucida.graph.influence import influence
from lucida.graph.torch_archive import Record, read_torch_archive
from lucida.prompt import Prompt


class _Targets(NamedTuple):
    """The logit nodes: token numbers (-1: no single token), how they read, and their weights."""

    tokens: np.ndarray
    texts: list[str]
    weights: np.ndarray


class _Contents(NamedTuple):
    """What a file holds, checked. Nodes of the matrix: features, errors, tokens, logits."""

    features: np.ndarray  # int64 [feature 3]: layer, position, index
    activations: np.ndarray  # float32 [feature]
    tokens: np.ndarray  # int64 [pos]
    targets: _Targets
    matrix: np.ndarray  # float32 [target source]
    n_layers: int


def read_circuit_tracer(path: str | Path) -> Graph:
    """Read a graph that circuit-tracer saved (`Graph.to_pt`), old variants included.

    The file is a pickle, which could run any program: here only tensors and the two record types of
    such files are understood, and everything else is refused (docs/interchange.md). The graph has
    no bias node, so its rows do not add up; targets that are no single token have token None. The
    influence is computed from the edges.

    Raises GraphError for a file that is no such graph, is damaged, or names anything else.
    """
    saved = read_torch_archive(path, _is_record)
    if not isinstance(saved, dict):
        raise GraphError(f"{path} is not a circuit-tracer graph: it holds no dictionary")
    try:
        contents = _contents(saved)
    except GraphError as error:
        raise GraphError(f"{path} is not a complete circuit-tracer graph: {error}") from error
    return _graph(contents, saved)


def _is_record(module: str, name: str) -> bool:
    if name in ("LogitTarget", "UnifiedConfig"):
        return module.split(".")[0] == "circuit_tracer"
    return name == "HookedTransformerConfig" and module.split(".")[0] == "transformer_lens"


def _tensor(saved: dict[Any, Any], name: str, axes: int, kinds: str) -> np.ndarray:
    """The tensor with this name: `kinds` are numpy's letters, "f" for reals and "iu" for whole numbers."""
    value = saved.get(name)
    if isinstance(value, list):
        value = np.array(value)
    if not isinstance(value, np.ndarray) or value.ndim != axes or value.dtype.kind not in kinds:
        found = f"{value.dtype} {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
        what = "numbers" if "f" in kinds else "whole numbers"
        raise GraphError(f"{name!r} must be a tensor of {what} with {axes} axes, found {found}")
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise GraphError(f"{name!r} holds numbers that are not finite")
    return value


def _contents(saved: dict[Any, Any]) -> _Contents:
    active = _tensor(saved, "active_features", 2, "iu").astype(np.int64)
    activations = _tensor(saved, "activation_values", 1, "f").astype(np.float32)
    tokens = np.atleast_1d(_tensor(saved, "input_tokens", 1, "iu")).astype(np.int64)
    chosen = np.arange(len(active))
    if saved.get("selected_features") is not None:
        chosen = _tensor(saved, "selected_features", 1, "iu").astype(np.int64)
    if active.shape[1:] != (3,) or (chosen.size and not 0 <= chosen.min() <= chosen.max() < len(active)):
        raise GraphError("'selected_features' must number rows (layer, position, index) of 'active_features'")
    if len(activations) == len(active):
        activations = activations[chosen]
    features = active[chosen]
    targets = _targets(saved)
    matrix = _tensor(saved, "adjacency_matrix", 2, "f")
    n_layers = _n_layers(saved, len(matrix) - len(features) - len(tokens) - len(targets.tokens), len(tokens))
    expected = len(features) + (n_layers + 1) * len(tokens) + len(targets.tokens)
    if matrix.shape != (expected, expected) or len(activations) != len(features):
        raise GraphError(f"'adjacency_matrix' is {matrix.shape}, but its nodes are {expected}")
    bounds = np.array([n_layers, len(tokens), np.iinfo(np.int64).max])
    if (features < 0).any() or (features >= bounds).any() or (tokens < 0).any():
        raise GraphError(f"a feature or token lies outside {n_layers} layers x {len(tokens)} positions")
    return _Contents(features, activations, tokens, targets, matrix, n_layers)


def _n_layers(saved: dict[Any, Any], n_errors: int, n_tokens: int) -> int:
    """The number of layers that the configuration says, else the one that the size of the matrix does."""
    found = _configured(saved, "n_layers")
    if found is None and n_tokens and n_errors % n_tokens == 0:
        found = n_errors // n_tokens
    if type(found) is not int or found < 1:
        raise GraphError(f"'cfg' has no number of layers, and the matrix does not tell: found {found!r:.40}")
    return found


def _configured(saved: dict[Any, Any], name: str) -> Any:
    cfg = saved.get("cfg")
    return cfg.attributes.get(name) if isinstance(cfg, Record) else None


def _targets(saved: dict[Any, Any]) -> _Targets:
    weights = _tensor(saved, "logit_probabilities", 1, "f").astype(np.float64)
    listed = saved.get("logit_targets", saved.get("logit_tokens"))
    if isinstance(listed, list):
        pairs = [item.arguments if isinstance(item, Record) else item for item in listed]
        if not all(
            isinstance(pair, tuple) and len(pair) == 2 and type(pair[0]) is str and type(pair[1]) is int
            for pair in pairs
        ):
            raise GraphError("'logit_targets' must hold pairs of a text and a token number")
    else:
        name = "logit_targets" if "logit_targets" in saved else "logit_tokens"
        pairs = [("", int(token)) for token in _tensor({name: listed}, name, 1, "iu")]
    if not pairs or len(pairs) != len(weights) or (weights < 0).any():
        raise GraphError(f"{len(pairs)} logit targets have {len(weights)} probabilities")
    vocabulary = saved.get("vocab_size") or _configured(saved, "d_vocab")
    # Targets that are no single token are numbered above the vocabulary.
    virtual = [type(vocabulary) is int and token >= vocabulary for _, token in pairs]
    tokens = [-1 if is_virtual else token for (_, token), is_virtual in zip(pairs, virtual, strict=True)]
    if any(not -1 <= token < 2**63 for token in tokens):
        raise GraphError("a logit target has an impossible token number")
    return _Targets(np.array(tokens, np.int64), [text or str(token) for text, token in pairs], weights)


def _graph(contents: _Contents, saved: dict[Any, Any]) -> Graph:
    features, n_errors = contents.features, contents.n_layers * len(contents.tokens)
    order = np.lexsort((features[:, 2], features[:, 1], features[:, 0]))
    order = np.concatenate([order, np.arange(len(order), len(contents.matrix))])
    n_features, n_targets = len(features), len(contents.targets.tokens)
    inner = order[n_features:-n_targets]
    if contents.matrix[inner].any():
        raise GraphError("an error or token of the circuit-tracer graph has inputs, which it cannot have")
    targets = np.concatenate([np.arange(n_features), np.arange(n_targets) + n_features + len(inner)])
    strings = tuple(str(token) for token in contents.tokens)
    text = saved.get("input_string")
    virtual = contents.targets.tokens < 0
    graph = Graph(
        nodes=_table(contents, order[:n_features], n_errors, strings),
        edges=contents.matrix[np.ix_(order[targets], order)].astype(np.float32),
        targets=targets.astype(np.int64),
        prompt=Prompt(tuple(contents.tokens.tolist()), strings, text if isinstance(text, str) else ""),
        metadata={
            "model": _plain(_configured(saved, "model_name")),
            "dictionary": _plain(saved.get("scan_name", saved.get("scan"))),
            "measure": "influence",
            "target_weights": contents.targets.weights.tolist(),
            "n_layers": contents.n_layers,
            "provenance": "read from a circuit-tracer graph",
        },
    )
    probability = graph.nodes.probability.copy()
    probability[-n_targets:] = np.where(virtual, np.nan, contents.targets.weights)
    nodes = replace(graph.nodes, probability=probability, influence=influence(graph).astype(np.float32))
    return replace(graph, nodes=nodes)


def _plain(value: Any) -> str | list[str] | None:
    """A name, or a list of names (one dictionary for each layer); anything else is None."""
    if isinstance(value, list):
        return [item for item in value if isinstance(item, str)]
    return value if isinstance(value, str) else None


def _table(contents: _Contents, order: np.ndarray, n_errors: int, strings: tuple[str, ...]) -> NodeTable:
    """The nodes, without probability and influence. `order` sorts the features."""
    features, targets = contents.features[order], contents.targets
    n_pos, n_targets, n_features = len(strings), len(targets.tokens), len(order)
    total = n_features + n_errors + n_pos + n_targets
    places = np.arange(n_pos)
    here = contents.tokens[features[:, 1]]

    def column(of_features: Any, of_errors: Any, of_embeddings: Any, of_logits: Any, kind: Any) -> np.ndarray:
        sizes = (n_features, n_errors, n_pos, n_targets)
        parts = (of_features, of_errors, of_embeddings, of_logits)
        return np.concatenate([np.broadcast_to(p, n) for p, n in zip(parts, sizes, strict=True)]).astype(kind)

    feature, error, embedding, logit = (KINDS.index(k) for k in ("feature", "error", "embedding", "logit"))
    error_positions = np.tile(places, contents.n_layers)
    position = column(features[:, 1], error_positions, places, n_pos - 1, np.int32)
    texts = [strings[p] for p in position[: total - n_targets]]
    return NodeTable(
        kind=column(feature, error, embedding, logit, np.int8),
        layer=column(features[:, 0], np.repeat(np.arange(contents.n_layers), n_pos), -1, contents.n_layers, np.int32),
        position=position,
        feature=column(features[:, 2], -1, -1, -1, np.int64),
        token=column(here, -1, contents.tokens, targets.tokens, np.int64),
        activation=column(contents.activations[order], np.nan, np.nan, np.nan, np.float32),
        influence=np.zeros(total, np.float32),
        probability=np.full(total, np.nan, np.float32),
        text=(*texts, *targets.texts),
        label=("",) * total,
    )
