"""A first label for every important feature, from the trace alone: what excites it, what it says here.

No corpus and no judge. A feature reads the prompt tokens whose embeddings drive it most. What it promotes
is read only where it can speak (at the target's position, in the upper half of the model), and only among the
tokens that the model itself finds plausible there: over a whole vocabulary rare tokens with odd norms win
every plain ranking. Effects are centred over these candidates, so a feature that raises all of them alike says nothing.
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lucida.dictionaries import Dictionary
from lucida.graph import Graph
from lucida.models.model import Model

LABELLED = 256
"""How many features get a label, the most influential first."""
CANDIDATES = 48
"""How many of the most probable next tokens a feature may be said to promote."""
WORDS = 2
LATE = 0.5
"""Features in this upper part of the model may be labelled by what they say."""
CLEAR = 1.5
"""A token is named when its effect is this many standard deviations from the mean over the candidates."""


@torch.no_grad()
def label_features(
    model: Model,
    dictionary: Dictionary | None,
    graph: Graph,
    logits: Float[Tensor, " d_vocab"],
    *,
    count: int = LABELLED,
) -> Graph:
    """A copy of `graph` whose most influential features carry a label.

    ``small, opposite`` are the prompt tokens that excite it; ``say large, big`` or ``not small`` is what it
    does to the plausible next tokens, given by `logits` at the target's position. Without a tokenizer the graph
    is returned as it is.
    """
    table = graph.nodes
    features = np.flatnonzero(table.is_kind("feature"))
    features = features[np.argsort(-table.influence[features], kind="stable")][:count]
    if model.tokenizer is None or len(features) == 0:
        return graph
    read = _exciting_tokens(graph, features)
    at = table.position[table.is_kind("logit")][0]
    speaks = (table.position[features] == at) & (table.layer[features] >= LATE * model.n_layers)
    said = _spoken(model, _directions(model, dictionary, graph, features[speaks]), logits)
    labels = dict(zip(features.tolist(), read, strict=True))
    labels |= {index: words for index, words in zip(features[speaks].tolist(), said, strict=True) if words}
    return graph.with_labels(labels)


def _spoken(model: Model, directions: Float[Tensor, "feature d_model"], logits: Float[Tensor, " d_vocab"]) -> list[str]:
    """``say a, b`` or ``not a, b`` by the stronger side of each feature's centred effects; "" if unclear."""
    candidates = logits.topk(min(CANDIDATES, len(logits))).indices
    rows, _ = model.unembedding(candidates)
    effects = directions @ (rows * model.final_norm.weight).T
    effects = effects - effects.mean(1, keepdim=True)
    effects = effects / effects.std(1, correction=0, keepdim=True).clamp_min(1e-12)
    texts = [model.token_text(int(token)).strip() for token in candidates]
    # Pieces such as "l" are plausible after a quote and say nothing to a reader; CJK words are short.
    texts = ["" if text.isascii() and len(text) < 3 else text for text in texts]
    result = []
    for effect in effects:
        up = bool(effect.max() >= -effect.min())
        order = effect.argsort(descending=up).tolist()
        clear = [texts[i] for i in order[: 4 * WORDS] if abs(float(effect[i])) >= CLEAR and texts[i]]
        words = list(dict.fromkeys(clear))[:WORDS]
        result.append(f"{'say' if up else 'not'} {', '.join(words)}" if words else "")
    return result


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


def _exciting_tokens(graph: Graph, features: np.ndarray) -> list[str]:
    """For each feature the prompt tokens whose embeddings push it most in the direction it went."""
    columns = np.flatnonzero(graph.nodes.is_kind("embedding"))
    # The first token is an attention sink: its embedding says little about meaning.
    columns = columns[1:] if len(columns) > 1 else columns
    row_of = {int(t): r for r, t in enumerate(graph.targets)}
    result = []
    for index in features.tolist():
        pushed = graph.edges[row_of[index]][columns] * np.sign(graph.nodes.activation[index])
        best = [int(i) for i in np.argsort(-pushed)[:WORDS] if pushed[i] > 0.5 * pushed.max() > 0]
        texts = [graph.nodes.text[int(columns[i])].strip() for i in best]
        result.append(", ".join(dict.fromkeys(text for text in texts if text)) or graph.nodes.text[index].strip())
    return result
