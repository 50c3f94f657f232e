"""A first label for every important feature, from the trace alone: what excites it, what it promotes.

No corpus and no judge: a feature reads the prompt token whose embedding drives it most, and says the
common words that its decoder promotes most. Rare tokens have odd norms and win any plain ranking (docs/method.md),
so effects are centred, divided by the token's norm, and only words early in the vocabulary count:
merge order is the one trace of frequency that every tokenizer carries.
"""

from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lucida.dictionaries import Dictionary
from lucida.graph import Graph
from lucida.models.model import Model

LABELLED = 256
"""How many features get a label, the most influential first."""
COMMON_SHARE = 0.4
"""Words count as common in this share of the vocabulary, by merge order."""
WORDS = 2
LATE = 0.5
"""Features in this upper part of the model are labelled by what they say first."""


@torch.no_grad()
def label_features(
    model: Model, dictionary: Dictionary | None, graph: Graph, *, count: int = LABELLED
) -> Graph:
    """A copy of `graph` whose most influential features carry a label such as ``small ⇒ large, big``.

    Left of the arrow stands the prompt token that excites the feature most, right of it the common
    words it promotes most at the output. Without a tokenizer the graph is returned as it is.
    """
    if model.tokenizer is None:
        return graph
    features = np.flatnonzero(graph.nodes.is_kind("feature"))
    features = features[np.argsort(-graph.nodes.influence[features], kind="stable")][:count]
    if len(features) == 0:
        return graph
    said = _promoted_words(model, _directions(model, dictionary, graph, features))
    read = _exciting_tokens(graph, features)
    labels = {}
    for index, tokens, words in zip(features.tolist(), read, said, strict=True):
        late = graph.nodes.layer[index] >= LATE * model.n_layers
        spoken = ", ".join(words)
        labels[index] = f"{tokens} ⇒ {spoken}" if not late else f"say {spoken} ({tokens})"
    return graph.with_labels(labels)


def _directions(
    model: Model, dictionary: Dictionary | None, graph: Graph, features: np.ndarray
) -> Float[Tensor, "feature d_model"]:
    """What each feature adds to the residual in all, with the sign it has on this prompt."""
    table = graph.nodes
    directions = torch.zeros(len(features), model.d_model, device=model.device)
    for layer in np.unique(table.layer[features]).tolist():
        here = np.flatnonzero(table.layer[features] == layer)
        which = torch.tensor(table.feature[features[here]])
        if dictionary is None:
            written = model.mlp_weights(layer).down.T[which.to(model.device)]
            targets = [(layer, written)]
        else:
            targets = [(t, dictionary.decoder_rows(layer, which, t)) for t in dictionary.writes_to(layer)]
        for target, rows in targets:
            norm = model.norm(model.layers[target].mlp_post_norm)
            inside = dictionary is None or dictionary.writes_at == "mlp_out"
            rows = rows.to(model.device)
            directions[torch.tensor(here)] += rows * norm.weight if norm is not None and inside else rows
    sign = torch.tensor(np.sign(table.activation[features]), device=model.device)
    return directions * sign[:, None]


def _promoted_words(model: Model, directions: Float[Tensor, "feature d_model"]) -> list[list[str]]:
    words, texts = _common_words(model)
    rows, _ = model.unembedding(words)
    rows = rows * model.final_norm.weight
    rows = rows / (rows.norm(dim=1, keepdim=True) + rows.norm(dim=1).median())
    result = []
    for best in (directions @ rows.T).topk(min(12, len(texts)), dim=1).indices.tolist():
        distinct: dict[str, str] = {}
        for i in best:
            distinct.setdefault(texts[i].casefold().rstrip("s"), texts[i])
        result.append(list(distinct.values())[:WORDS])
    return result


@lru_cache(maxsize=4)
def _common_words(model: Model) -> tuple[Tensor, list[str]]:
    """Ids of the words that may appear in a label, and how they read."""
    size = int(len(model.tokenizer) * COMMON_SHARE)
    raw = model.tokenizer.convert_ids_to_tokens(list(range(size)))
    special = set(model.tokenizer.all_special_ids)
    kept: list[int] = []
    texts: list[str] = []
    for token, piece in enumerate(raw):
        # Byte-level and SentencePiece vocabularies mark the start of a word by these two signs.
        word = (piece or "").lstrip("\u0120\u2581")
        starts = word != piece
        if token not in special and word.isascii() and word.isalpha() and (len(word) > 2 or starts) and len(word) > 1:
            kept.append(token)
            texts.append(word)
    if not kept:
        kept, texts = list(range(size)), [str(piece) for piece in raw]
    return torch.tensor(kept, device=model.device), texts


def _exciting_tokens(graph: Graph, features: np.ndarray) -> list[str]:
    """For each feature the prompt token whose embedding pushes it most in the direction it went."""
    columns = np.flatnonzero(graph.nodes.is_kind("embedding"))
    row_of = {int(t): r for r, t in enumerate(graph.targets)}
    result = []
    for index in features.tolist():
        edges = graph.edges[row_of[index]][columns] * np.sign(graph.nodes.activation[index])
        # The first token is an attention sink: its embedding says little about meaning.
        start = 1 if len(columns) > 1 else 0
        text = graph.nodes.text[int(columns[start + int(edges[start:].argmax())])].strip()
        result.append(text or "␣")
    return result
