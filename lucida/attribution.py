"""trace(): the attribution graph of one prompt, from recorded forward pass to finished graph."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lucida.dictionaries import Dictionary
from lucida.errors import LucidaError
from lucida.graph import KINDS, Graph, NodeTable, node_influence
from lucida.labels import label_features
from lucida.models.linear import FrozenModel
from lucida.models.model import Model, PromptLike
from lucida.models.recording import record
from lucida.neurons import replace_neurons
from lucida.progress import Progress, silent
from lucida.replacement import Replacement, replace_features
from lucida.selection import Expansion, expand
from lucida.sweep import Layout, Targets
from lucida.targets import LogitTarget, TargetLike, choose_targets, logit_targets, prompt_position

FEATURE_NODES = 4096
"""Default node budget with a dictionary."""
TOP_TOKENS = 5
"""How many of the answer's tokens a graph's metadata names."""
NEURON_NODES = 256
"""Default number of neurons that are nodes."""


@dataclass(frozen=True)
class Settings:
    """What was asked of a trace; kept in the graph's metadata."""

    position: int
    max_targets: int
    target_mass: float
    max_nodes: int | None
    sink_positions: int
    dtype: str


@torch.no_grad()
def trace(
    model: Model,
    dictionary: Dictionary | None,
    prompt: PromptLike,
    targets: Sequence[TargetLike] | TargetLike | None = None,
    *,
    position: int = -1,
    max_targets: int = 10,
    target_mass: float = 0.95,
    max_nodes: int | str | None = "default",
    sink_positions: int = 1,
    dtype: str = "float32",
    chunk_bytes: int | None = None,
    progress: Progress = silent,
) -> Graph:
    """The attribution graph of what `model` says at `position` of `prompt` (docs/method.md).

    Nodes are the active features of `dictionary` (None: the model's own neurons), errors, embeddings,
    a bias, and the targets. With `max_nodes` only that many features are expanded, the most
    influential ones; None expands all. Edges of a row add up to its target's value. `dtype` is the
    type of the products ("float32" or "bfloat16"); sums are always float32.

    With neurons, `max_nodes` is how many are nodes; all others pass the signal on.

    Raises PromptError for a prompt or target that cannot be traced, DictionaryError when no feature is active,
    ModelError for the neurons of a mixture of experts, LucidaError when no neuron reaches the target.
    """
    started = time.perf_counter()
    if max_nodes == "default":
        max_nodes = NEURON_NODES if dictionary is None else FEATURE_NODES
    if sink_positions < 0:
        raise LucidaError(f"sink_positions must be 0 or more, got {sink_positions}")
    settings = Settings(position, max_targets, target_mass, _budget(max_nodes), sink_positions, dtype)
    tokens = model.tokenize(prompt)
    at = prompt_position(position, len(tokens))
    progress("forward pass", 0, 1)
    view = FrozenModel(model, record(model, tokens), dtype=_product_type(dtype))
    logits = model.logits(view.recording.residual_final[at : at + 1])[0]
    chosen = choose_targets(model, logits, targets, max_targets=max_targets, target_mass=target_mass)
    progress("forward pass", 1, 1)
    outputs = logit_targets(view, chosen, at)
    weights = torch.tensor([t.weight for t in chosen], device=logits.device)
    progress("active features", 0, None)
    replacement = _replace(view, dictionary, outputs, weights, settings)
    # Neurons are chosen before the sweep: every one of them is expanded.
    budget = None if dictionary is None else settings.max_nodes
    expansion = expand(replacement, outputs, weights, max_nodes=budget, chunk_bytes=chunk_bytes, progress=progress)
    metadata = _metadata(model, dictionary, settings, chosen, replacement, expansion)
    metadata["top_tokens"] = _top_tokens(model, logits)
    graph = assemble(replacement, expansion, chosen, at, metadata)
    graph = label_features(model, dictionary, graph, logits)
    graph.metadata["provenance"]["seconds"] = round(time.perf_counter() - started, 3)
    return graph


def _replace(
    view: FrozenModel, dictionary: Dictionary | None, outputs: Targets, weights: Tensor, settings: Settings
) -> Replacement:
    """The local replacement model: a dictionary's features, or the neurons that matter most for the targets."""
    if dictionary is not None:
        return replace_features(view, dictionary, sink_positions=settings.sink_positions)
    everything = view.n_layers * view.n_positions * view.model.mlp_weights(0).up.shape[0]
    count = everything if settings.max_nodes is None else settings.max_nodes
    return replace_neurons(view, outputs, weights, max_nodes=count, sink_positions=settings.sink_positions)


def _top_tokens(model: Model, logits: Tensor) -> list[dict[str, Any]]:
    """What the model says at the target's position, whatever the targets are."""
    top = torch.softmax(logits.double(), -1).topk(min(TOP_TOKENS, len(logits)))
    return [
        {"token": int(token), "text": model.token_text(int(token)), "probability": float(probability)}
        for probability, token in zip(top.values, top.indices, strict=True)
    ]


def _budget(max_nodes: Any) -> int | None:
    if max_nodes is None:
        return None
    if not isinstance(max_nodes, int) or isinstance(max_nodes, bool) or max_nodes < 1:
        raise LucidaError(f"max_nodes must be a whole number from 1 or None for all, got {max_nodes!r}")
    return max_nodes


def _product_type(dtype: str) -> torch.dtype:
    known = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if dtype not in known:
        raise LucidaError(f"dtype {dtype!r} is not known; use float32 or bfloat16")
    return known[dtype]


def _metadata(
    model: Model,
    dictionary: Dictionary | None,
    settings: Settings,
    targets: list[LogitTarget],
    replacement: Replacement,
    expansion: Expansion,
) -> dict[str, Any]:
    import transformers

    from lucida import __version__

    selection = {
        "active": len(replacement.active),
        "expanded": len(expansion.nodes),
        "unexpanded_influence": expansion.unexpanded,
        "threshold": expansion.threshold,
        "is_consistent": expansion.is_consistent,
    }
    return {
        "model": {
            "name": model.name,
            "family": model.family.name,
            "dtype": str(model.dtype).removeprefix("torch."),
            "source": model.source,
        },
        "dictionary": _describe(dictionary),
        "settings": vars(settings),
        "measure": "attribution" if dictionary is None else "influence",
        "target_weights": [t.weight for t in targets],
        "differences": [[t.token, t.minus] if t.minus is not None else None for t in targets],
        "n_layers": model.n_layers,
        "attention": "frozen",
        "selection": selection,
        "provenance": {
            "generator": f"camera-lucida {__version__}",
            "torch": str(torch.__version__),
            "transformers": transformers.__version__,
            "device": str(model.device),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        },
    }


def _describe(dictionary: Dictionary | None) -> dict[str, Any]:
    if dictionary is None:
        return {"name": "neurons", "kind": "neurons"}
    return {
        "name": dictionary.name,
        "kind": "features",
        "span": dictionary.span,
        "activation": dictionary.activation,
        "reads_at": dictionary.reads_at,
        "writes_at": dictionary.writes_at,
        "source": {
            "folder": Path(dictionary.source.path).name if dictionary.source.path else None,
            "format": dictionary.source.format,
            "fingerprint": dictionary.source.fingerprint,
        },
    }


# --- from rows to a graph -----------------------------------------------------------------------------


def assemble(
    replacement: Replacement,
    expansion: Expansion,
    targets: list[LogitTarget],
    at: int,
    metadata: dict[str, Any],
) -> Graph:
    """The graph of an expansion whose targets stand at position `at`, nodes in the order of KINDS."""
    prompt = replacement.view.recording.prompt
    layout, active = Layout.of(replacement), replacement.active
    # Expanded features by layer, position, feature; the rows hold them by position first.
    chosen = expansion.nodes
    layer, position = active.layer.cpu()[chosen], active.position.cpu()[chosen]
    order = torch.argsort(layer * layout.n_positions + position, stable=True)
    chosen = chosen[order]
    rows = torch.cat((len(targets) + order, torch.arange(len(targets))))
    rest = ["error"] if not replacement.is_exact else []
    rest += ["unexpanded"] if len(chosen) < len(active) else []
    edges = _edges(replacement, expansion, chosen, rows, len(targets), rest)
    nodes = _node_table(replacement, chosen, targets, at, rest)
    features = np.arange(len(chosen), dtype=np.int64)
    logits = np.arange(len(nodes) - len(targets), len(nodes), dtype=np.int64)
    graph = Graph(nodes, edges.numpy(), np.concatenate((features, logits)), prompt, metadata)
    nodes.influence[:] = node_influence(graph)
    return graph


def _edges(
    replacement: Replacement,
    expansion: Expansion,
    chosen: Tensor,
    rows: Tensor,
    n_targets: int,
    rest: list[str],
) -> Tensor:
    layout = Layout.of(replacement)
    n_sites = layout.n_layers * layout.n_positions
    width = len(chosen) + n_sites * len(rest) + layout.n_positions + 1 + n_targets
    edges = torch.zeros(len(rows), width)
    site = (replacement.active.layer * layout.n_positions + replacement.active.position).cpu()
    outside = torch.ones(layout.n_active, dtype=torch.bool)
    outside[chosen] = False
    left = torch.nonzero(outside).squeeze(1)
    for part in torch.arange(len(rows)).split(256):
        block, source = edges[part], expansion.rows[rows[part]]
        at = len(chosen)
        block[:, :at] = source[:, chosen]
        if "error" in rest:
            block[:, at : at + n_sites] = source[:, layout.errors]
            at += n_sites
        block[:, at : at + layout.n_positions] = source[:, layout.embeddings]
        at += layout.n_positions
        if "unexpanded" in rest:
            block[:, at : at + n_sites].index_add_(1, site[left], source[:, left])
            at += n_sites
        block[:, at] = source[:, layout.bias]
        edges[part] = block
    return edges


def _node_table(
    replacement: Replacement,
    chosen: Tensor,
    targets: list[LogitTarget],
    at: int,
    rest: list[str],
) -> NodeTable:
    active, layout, prompt = replacement.active, Layout.of(replacement), replacement.view.recording.prompt
    sites = np.arange(layout.n_layers * layout.n_positions)
    site_layer, site_position = sites // layout.n_positions, sites % layout.n_positions
    positions = np.arange(layout.n_positions)
    tokens = np.array(prompt.tokens)
    feature_position = active.position.cpu()[chosen].numpy()
    parts = [  # kind, layer, position, feature, token, activation, probability
        _part("feature", active.layer.cpu()[chosen].numpy(), feature_position,
              active.feature.cpu()[chosen].numpy(), tokens[feature_position], active.activation.cpu()[chosen].numpy()),
        *([_part("error", site_layer, site_position)] if "error" in rest else []),
        _part("embedding", -1, positions, token=tokens),
        *([_part("unexpanded", site_layer, site_position)] if "unexpanded" in rest else []),
        _part("bias", -1, np.array([-1])),
        _part("logit", layout.n_layers, np.full(len(targets), at),
              token=np.array([-1 if t.minus is not None else t.token for t in targets]),
              probability=np.array([np.nan if t.probability is None else t.probability for t in targets])),
    ]  # fmt: skip
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    texts = [prompt.strings[p] for p in columns["position"][columns["kind"] != KINDS.index("logit")]]
    bias = [kind == KINDS.index("bias") for kind in columns["kind"]]
    texts = ["" if is_bias else text for text, is_bias in zip(texts, bias, strict=False)]
    texts += [t.text for t in targets]
    return NodeTable(
        **columns,
        influence=np.zeros(len(texts), np.float32),
        text=tuple(texts),
        label=("",) * len(texts),
    )


def _part(
    kind: str,
    layer: Any,
    position: np.ndarray,
    feature: Any = -1,
    token: Any = -1,
    activation: Any = np.nan,
    probability: Any = np.nan,
) -> dict[str, np.ndarray]:
    def column(value: Any, dtype: type) -> np.ndarray:
        return np.broadcast_to(np.asarray(value, dtype=dtype), position.shape).copy()

    return {
        "kind": column(KINDS.index(kind), np.int8),
        "layer": column(layer, np.int32),
        "position": column(position, np.int32),
        "feature": column(feature, np.int64),
        "token": column(token, np.int64),
        "activation": column(activation, np.float32),
        "probability": column(probability, np.float32),
    }
