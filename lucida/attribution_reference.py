"""The sweep's slow literal twin: autograd through the model's own modules, one target at a time.

For tests and for readers. Attention patterns and norm denominators are held at their recorded values, every MLP output
is a leaf (or, for neurons, its linearisation), and an edge is gradient times what the source wrote (Circuit Tracing
2025, "Constructing an attribution graph"). How gradients travel owes nothing to lucida/models/linear.py; what each
source wrote is taken from the Replacement, and the bias column is what the other columns leave over.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lucida.models.frozen import frozen_attention, frozen_norms
from lucida.models.model import linear
from lucida.neurons import NeuronSources
from lucida.replacement import FeatureSources, Replacement
from lucida.sweep import Layout


@dataclass
class _Tape:
    """The tensors of one differentiable forward pass: what was read, and the leaves that were written."""

    embedding: Tensor = field(default_factory=lambda: torch.empty(0))
    read: dict[int, Tensor] = field(default_factory=dict)
    leaves: list[Tensor] = field(default_factory=list)
    final: Tensor = field(default_factory=lambda: torch.empty(0))


def reference_rows(
    replacement: Replacement,
    unembedding: Float[Tensor, "logit d_model"],
    biases: Float[Tensor, " logit"],
    position: int,
    features: Int[Tensor, " target"],
) -> Float[Tensor, "row source"]:
    """Every edge into the given logit directions (read at `position`) and into the given active features.

    Rows: logits, then features; columns: `Layout`.
    """
    view = replacement.view
    model, recording = view.model, view.recording
    with ExitStack() as stack:
        stack.enter_context(frozen_attention(model, recording))
        stack.enter_context(frozen_norms(model, recording))
        tape = stack.enter_context(_taped(replacement))
        model.base(input_ids=torch.tensor([recording.prompt.tokens], device=view.model.device), use_cache=False)
        values = [(tape.final[position] @ w + b) for w, b in zip(unembedding, biases, strict=True)]
        values += _preactivations(replacement, tape, features)
        rows = [_row(replacement, tape, value) for value in values]
    return torch.stack(rows)


@contextmanager
def _taped(replacement: Replacement) -> Iterator[_Tape]:
    """Make every MLP's contribution to the residual a leaf plus what passes the MLP linearly."""
    tape, model = _Tape(), replacement.view.model

    def enter_model(_module: nn.Module, args: tuple, kwargs: dict) -> Any:
        x = (args[0] if args else kwargs["hidden_states"]).detach().requires_grad_()
        tape.embedding = x
        return ((x, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": x})

    def read(layer: int) -> Any:
        # Norm modules are called again to read features: only the first call is the model's own.
        def hook(_module: nn.Module, args: tuple, kwargs: dict) -> None:
            tape.read.setdefault(layer, args[0] if args else kwargs["hidden_states"])

        return hook

    def written(layer: int) -> Any:
        def hook(_module: nn.Module, _args: tuple, output: Tensor) -> Tensor:
            leaf = replacement.view.mlp_contribution(layer)[None].detach().requires_grad_()
            tape.leaves.append(leaf)
            passing = _passing(replacement, layer, tape.read[layer])
            return leaf if passing is None else leaf + passing - passing.detach()

        return hook

    def finish(_module: nn.Module, _args: tuple, output: Tensor) -> None:
        tape.final = output[0]

    handles = [model.layers[0].block.register_forward_pre_hook(enter_model, with_kwargs=True)]
    for index, layer in enumerate(model.layers):
        mid = layer.block if model.is_parallel else layer.mlp_norm or layer.mlp
        handles.append(mid.register_forward_pre_hook(read(index), with_kwargs=True))
        handles.append((layer.mlp_post_norm or layer.mlp).register_forward_hook(written(index)))
    handles.append(model.final_norm_module.register_forward_hook(finish))
    try:
        yield tape
    finally:
        for handle in handles:
            handle.remove()


def _site(replacement: Replacement, layer: int, x: Tensor, reads_at: str) -> Tensor:
    """What a dictionary reads, from the residual, by the (frozen) norm module itself."""
    model = replacement.view.model
    module = model.layers[layer].mlp_norm
    if reads_at == "resid_mid" or module is None:
        return x
    normed = module(x)
    if reads_at == "mlp_in":
        return normed
    norm = model.norm(module)
    assert norm is not None
    return normed / norm.weight


def _passing(replacement: Replacement, layer: int, x: Tensor) -> Tensor | None:
    """What passes the MLP linearly: a skip connection, or the neurons that are not nodes."""
    sources, model = replacement.sources, replacement.view.model
    if isinstance(sources, FeatureSources):
        skip = sources.dictionary.skip(layer)
        if skip is None:
            return None
        out = _site(replacement, layer, x, sources.reads_at) @ skip.T
        out = out if sources.dictionary.writes_at == "resid" else _push(replacement, layer, out)
    else:
        assert isinstance(sources, NeuronSources)
        hidden = _hidden(replacement, layer, x) * sources.passing[layer]
        out = _push(replacement, layer, hidden @ model.mlp_weights(layer).down.T)
    alive = torch.ones(out.shape[1], 1)
    alive[: replacement.sink_positions] = 0
    return out * alive


def _push(replacement: Replacement, layer: int, out: Tensor) -> Tensor:
    """MLP output through the frozen post-norm, without its bias."""
    model, recorded = replacement.view.model, replacement.view.recording.mlp_out[layer]
    module = model.layers[layer].mlp_post_norm
    if module is None:
        return out
    norm = model.norm(module)
    assert norm is not None
    return out * norm.scale(recorded)[:, None] * norm.weight


def _hidden(replacement: Replacement, layer: int, x: Tensor) -> Tensor:
    """Neuron activations as linear functions of the residual, nonlinearities frozen on this prompt."""
    model = replacement.view.model
    weights, act = model.mlp_weights(layer), model.activation(layer)
    x = _site(replacement, layer, x, "mlp_in")
    up = linear(x, weights.up, weights.up_bias)
    if weights.gate is None:
        return up * (act(up) / up).detach()
    gate = linear(x, weights.gate, weights.gate_bias)
    slope = (act(gate) / gate).detach()
    return 0.5 * slope * (gate * up.detach() + gate.detach() * up)


def _preactivations(replacement: Replacement, tape: _Tape, features: Tensor) -> list[Tensor]:
    active, sources = replacement.active.take(features), replacement.sources
    values = []
    for layer, position, feature in zip(
        active.layer.tolist(), active.position.tolist(), active.feature.tolist(), strict=True
    ):
        x = tape.read[layer]
        if isinstance(sources, FeatureSources):
            which = torch.tensor([feature])
            site = _site(replacement, layer, x, sources.reads_at)[0, position]
            bias = sources.dictionary.encoder_bias(layer, which)[0]
            values.append(site @ sources.dictionary.encoder_rows(layer, which)[0] + bias)
        else:
            values.append(_hidden(replacement, layer, x)[0, position, feature])
    return values


def _row(replacement: Replacement, tape: _Tape, value: Tensor) -> Tensor:
    """One row: gradient of `value` times what every source wrote; what no source explains is bias."""
    layout = Layout.of(replacement)
    leaves = [tape.embedding, *tape.leaves]
    gradients = [
        torch.zeros_like(leaf) if g is None else g
        for leaf, g in zip(leaves, torch.autograd.grad(value, leaves, None, True, allow_unused=True), strict=True)
    ]  # fmt: skip
    row = torch.zeros(layout.width)
    explained = (gradients[0] * tape.embedding).sum()
    row[layout.embeddings] = (gradients[0][0] * tape.embedding[0]).sum(-1)
    active = replacement.active
    for layer, gradient in enumerate(gradients[1:]):
        explained = explained + (gradient * tape.leaves[layer]).sum()
        writers = replacement.sources.writers(layer)
        here = torch.nonzero((active.layer >= writers.start) & (active.layer < writers.stop)).squeeze(1)
        written = replacement.sources.write_vectors(layer, active.take(here))
        row[here] += (gradient[0][active.position[here]] * written).sum(-1)
        start = layout.errors.start + layer * layout.n_positions
        row[start : start + layout.n_positions] = (gradient[0] * replacement.error[layer]).sum(-1)
        row[layout.bias] += (gradient[0] * replacement.constant[layer]).sum()
        # The bypass is inside the leaf's value but flows through its own gradient path.
        explained = explained - (gradient[0] * replacement.sources.bypassed(layer)).sum()
    row[layout.bias] += (value - explained).detach()
    return row.detach()
