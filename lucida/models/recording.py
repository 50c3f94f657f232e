"""One recorded forward pass: everything the frozen linear view of one prompt needs."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lucida.errors import ModelError
from lucida.models.model import Model
from lucida.prompt import Prompt


@dataclass(frozen=True)
class Recording:
    """Activations of one prompt. The residual stream is x; outputs are what the modules return,
    before any post-norm.
    """

    prompt: Prompt
    residual_pre: Float[Tensor, "layer pos d_model"]
    attention_out: Float[Tensor, "layer pos d_model"]
    residual_mid: Float[Tensor, "layer pos d_model"]
    """What the MLP norm reads (in a parallel block the same as `residual_pre`)."""
    mlp_in: Float[Tensor, "layer pos d_model"]
    mlp_out: Float[Tensor, "layer pos d_model"]
    residual_final: Float[Tensor, "pos d_model"]
    patterns: tuple[Float[Tensor, "head pos pos"], ...]
    """Attention patterns of every layer, [query, key]."""


@torch.no_grad()
def record(model: Model, prompt: Prompt, *, keep_attention: bool = True) -> Recording:
    """Run the model once on `prompt` and keep what the linear view needs.

    With ``keep_attention=False`` attention runs as it is set up (frozen, say) instead of eagerly.

    Raises ModelError when an activation is not finite, naming the first damaged layer.
    """
    tokens = torch.tensor([prompt.tokens], device=model.device)
    with recording_rows(model) as row, eager_attention(model) if keep_attention else nullcontext():
        model.base(input_ids=tokens, use_cache=False)
    recording = row(prompt, 0)
    _refuse_damage(model, recording)
    return recording


@contextmanager
def recording_rows(model: Model) -> Iterator[Callable[[Prompt, int], Recording]]:
    """Keep the next forward pass; the function gives the recording of one row of its batch, once it has run."""
    kept: dict[str, list[Tensor]] = {}

    def row(prompt: Prompt, index: int) -> Recording:
        parts = {name: [part[index].float() for part in tensors] for name, tensors in kept.items()}
        final, patterns = parts.pop("final")[0], tuple(parts.pop("pattern"))
        stacked = {name: torch.stack(tensors) for name, tensors in parts.items()}
        return Recording(prompt=prompt, residual_final=final, patterns=patterns, **stacked)

    with _hooks(model, lambda name, tensor: kept.setdefault(name, []).append(tensor.detach())):
        yield row


@contextmanager
def eager_attention(model: Model) -> Iterator[None]:
    """Make attention modules return their patterns while the block runs."""
    before = model.hf.config._attn_implementation
    model.hf.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.hf.set_attn_implementation(before)


@contextmanager
def _hooks(model: Model, keep: Callable[[str, Tensor], None]) -> Iterator[None]:
    def entering(name: str) -> Callable[..., None]:
        return lambda _module, args, kwargs: keep(name, _first(args, kwargs))

    def leaving(name: str) -> Callable[..., None]:
        return lambda _module, _args, output: keep(name, output[0] if isinstance(output, tuple) else output)

    def attention(_module: nn.Module, _args: Any, output: tuple) -> None:
        keep("attention_out", output[0])
        keep("pattern", output[1])

    handles = [model.final_norm_module.register_forward_pre_hook(entering("final"), with_kwargs=True)]
    for layer in model.layers:
        mid = layer.block if model.is_parallel else layer.mlp_norm or layer.mlp
        handles += [
            layer.block.register_forward_pre_hook(entering("residual_pre"), with_kwargs=True),
            layer.attention.register_forward_hook(attention),
            mid.register_forward_pre_hook(entering("residual_mid"), with_kwargs=True),
            layer.mlp.register_forward_pre_hook(entering("mlp_in"), with_kwargs=True),
            layer.mlp.register_forward_hook(leaving("mlp_out")),
        ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _first(args: tuple, kwargs: dict) -> Tensor:
    return args[0] if args else kwargs["hidden_states"]


def _refuse_damage(model: Model, recording: Recording) -> None:
    if torch.isfinite(recording.residual_final).all():
        return
    for name, weight in model.hf.named_parameters():
        if not torch.isfinite(weight).all():
            raise ModelError(f"the weights of {model.name or 'this model'} hold NaN or infinity in {name}")
    for layer in range(model.n_layers):
        if not torch.isfinite(recording.mlp_out[layer]).all():
            raise ModelError(f"activations overflow in layer {layer}; try dtype float32")
    raise ModelError("the final residual overflows; try dtype float32")
