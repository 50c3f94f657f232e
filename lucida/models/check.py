"""Proof, on the loaded weights, that a family's row of the table is right for this model."""

import torch

from lucida.errors import ModelError
from lucida.models.linear import FrozenModel
from lucida.models.model import Model, linear
from lucida.models.recording import record

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 6e-2, torch.float16: 2e-2}


@torch.no_grad()
def check_model(model: Model, *, tokens: tuple[int, ...] | None = None) -> None:
    """Check that the frozen view reproduces every attention block, MLP, residual and logit of the model.

    Cheap (one short forward pass): runs whenever a model is loaded. Raises ModelError naming the
    first part that differs by more than the type's rounding; such a model would give wrong graphs.
    """
    tokens = tokens or tuple(int(i) for i in torch.linspace(1, model.d_vocab - 1, 6).long())
    view = FrozenModel(model, record(model, model.tokenize(list(tokens))))
    recording = view.recording
    for layer in range(model.n_layers):
        after = recording.residual_pre[layer + 1] if layer + 1 < model.n_layers else recording.residual_final
        attention = _attention_contribution(view, layer)
        if model.family.mlp_layout != "mixture":
            _same(
                model,
                f"MLP of layer {layer}",
                _mlp_output(model, layer, recording.mlp_in[layer]),
                recording.mlp_out[layer],
            )
        _same(model, f"attention of layer {layer}", attention, view.attention_contribution(layer))
        added = recording.residual_pre[layer] + attention + view.mlp_contribution(layer)
        _same(model, f"output of layer {layer}", added, after)
    ids = torch.tensor([tokens], device=model.device)
    expected = model.hf(input_ids=ids, use_cache=False).logits[0].float()
    _same(model, "logits", model.logits(recording.residual_final), expected)


def _attention_contribution(view: FrozenModel, layer: int) -> torch.Tensor:
    """The frozen block applied forwards to the recorded residual (the sweep applies it backwards)."""
    frozen, model, recording = view.attention(layer), view.model, view.recording
    x = recording.residual_pre[layer]
    values = (x @ frozen.value.T).view(len(x), model.n_kv_heads, model.d_head)
    heads = torch.einsum("hkq,khd->hqd", frozen.mixing, values)
    heads = heads.view(model.n_kv_heads, -1, len(x), model.d_head).permute(2, 0, 1, 3)
    added = heads.reshape(len(x), -1) @ frozen.output.T
    return added if frozen.constant is None else added + frozen.constant


def _mlp_output(model: Model, layer: int, x: torch.Tensor) -> torch.Tensor:
    """The MLP from the weights that neurons are read from."""
    weights, act = model.mlp_weights(layer), model.activation(layer)
    up = linear(x, weights.up, weights.up_bias)
    hidden = act(up) if weights.gate is None else act(linear(x, weights.gate, weights.gate_bias)) * up
    return linear(hidden, weights.down, weights.down_bias)


def _same(model: Model, part: str, found: torch.Tensor, expected: torch.Tensor) -> None:
    scale = expected.abs().max().clamp_min(1e-3)
    difference = float((found - expected).abs().max() / scale)
    if not difference < TOLERANCE[model.dtype]:
        raise ModelError(
            f"the linear view of {model.name or 'this model'} ({model.family.name}) does not reproduce its "
            f"{part} (relative difference {difference:.1e}); it cannot be traced exactly"
        )
