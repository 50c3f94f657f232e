"""Hold parts of a running model at what one recorded forward pass saw: attention patterns, norms."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from lucida.models.model import Model
from lucida.models.recording import Recording

ATTENTION = "lucida_frozen"


def _frozen_attention(
    module: nn.Module, query: Tensor, _key: Tensor, value: Tensor, _mask: Tensor | None, **_: Any
) -> tuple[Tensor, Tensor]:
    """What transformers' own eager attention does after the softmax, with the recorded pattern."""
    pattern: Tensor = module.lucida_pattern.to(value.dtype)  # pyright: ignore
    value = value.repeat_interleave(query.shape[1] // value.shape[1], dim=1)
    pattern = pattern.expand(len(value), *pattern.shape)
    return torch.matmul(pattern, value).transpose(1, 2).contiguous(), pattern


AttentionInterface.register(ATTENTION, _frozen_attention)
AttentionMaskInterface.register(ATTENTION, lambda *_, **__: None)


@contextmanager
def frozen_attention(model: Model, recording: Recording) -> Iterator[None]:
    """Run attention with the recorded patterns, whatever queries and keys would say."""
    before = model.hf.config._attn_implementation
    modules = [layer.attention for layer in model.layers]
    for module, pattern in zip(modules, recording.patterns, strict=True):
        module.lucida_pattern = pattern
    model.hf.set_attn_implementation(ATTENTION)
    try:
        yield
    finally:
        model.hf.set_attn_implementation(before)
        for module in modules:
            del module.lucida_pattern


@contextmanager
def frozen_norms(model: Model, recording: Recording) -> Iterator[None]:
    """Run every norm with its recorded denominator: ``recorded output + linear map (x - recorded input)``.

    In this form an input equal to the recorded one gives the recorded output, to the bit.
    """
    inputs = {model.final_norm_module: recording.residual_final}
    for index, layer in enumerate(model.layers):
        read = {
            layer.attention_norm: recording.residual_pre[index],
            layer.attention_post_norm: recording.attention_out[index],
            layer.mlp_norm: recording.residual_mid[index],
            layer.mlp_post_norm: recording.mlp_out[index],
        }
        inputs.update({module: x for module, x in read.items() if module is not None})
    with ExitStack() as stack:
        for module, x in inputs.items():
            handle = _freeze_norm(model, module, x)
            stack.callback(handle.remove)
        yield


def _freeze_norm(model: Model, module: nn.Module, recorded: Tensor) -> Any:
    norm = model.norm(module)
    assert norm is not None
    with torch.no_grad():
        output = module(recorded.to(model.dtype)).float()
    scale = norm.scale(recorded)

    def hook(_module: nn.Module, args: tuple, _output: Tensor) -> Tensor:
        x = args[0]
        return (output + norm.push(x.float() - recorded, scale.expand(x.shape[:-1]))).to(x.dtype)

    return module.register_forward_hook(hook)
