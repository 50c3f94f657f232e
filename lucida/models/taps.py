"""What every MLP reads and writes while a model runs, for many prompts at once and without the unembedding."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from lucida.errors import ModelError
from lucida.models.model import Model

Receive = Callable[[int, Tensor], None]
"""Called as ``receive(layer, values)`` with [row, position, d_model]."""


@contextmanager
def tap_mlps(model: Model, reads_at: str, *, read: Receive, write: Receive) -> Iterator[None]:
    """While the block runs, hand over what features at `reads_at` would read, and what MLPs add to the residual.

    `reads_at` is ``resid_mid`` or ``mlp_in``; what is added is the MLP's output after its post-norm, if it has one.
    Raises ModelError for another site.
    """
    if reads_at not in ("resid_mid", "mlp_in"):
        raise ModelError(f"activations can be taken at resid_mid or mlp_in, not at {reads_at!r}")

    def entering(layer: int) -> Callable[..., None]:
        def hook(_module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
            read(layer, (args[0] if args else kwargs["hidden_states"]).detach())

        return hook

    def leaving(layer: int) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            write(layer, (output[0] if isinstance(output, tuple) else output).detach())

        return hook

    handles = []
    for index, layer in enumerate(model.layers):
        before = layer.block if model.is_parallel else layer.mlp_norm or layer.mlp
        reader = layer.mlp if reads_at == "mlp_in" else before
        handles.append(reader.register_forward_pre_hook(entering(index), with_kwargs=True))
        handles.append((layer.mlp_post_norm or layer.mlp).register_forward_hook(leaving(index)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def fast_attention(model: Model) -> Iterator[None]:
    """Run attention by the library's fused kernel, which gives no patterns; families that cap scores keep theirs."""
    before = model.hf.config._attn_implementation
    capped = getattr(model.hf.config, "attn_logit_softcapping", None) is not None
    model.hf.set_attn_implementation("eager" if capped else "sdpa")
    try:
        yield
    finally:
        model.hf.set_attn_implementation(before)


@torch.no_grad()
def run_body(model: Model, tokens: Int[Tensor, "row pos"]) -> None:
    """Run the model on rows of tokens up to the unembedding, for what hooks see."""
    model.base(input_ids=tokens.to(model.device), use_cache=False)
