"""What every MLP reads and writes while a model runs, for many prompts at once and without the unembedding."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lucida.errors import ModelError
from lucida.models.model import Model


@dataclass(frozen=True)
class MLPCall:
    """One MLP at work on a batch of rows. `written` is the MLP's output, or with `at` "resid" what a norm behind it
    lets into the residual stream.
    """

    layer: int
    at: str
    residual: Float[Tensor, "row pos d_model"]
    mlp_in: Float[Tensor, "row pos d_model"]
    written: Float[Tensor, "row pos d_model"]

    def site(self, model: Model, reads_at: str) -> Float[Tensor, "row pos d_model"]:
        """What a dictionary reads at `reads_at`, in float32."""
        if reads_at == "mlp_in":
            return self.mlp_in.float()
        x = self.residual.float()
        norm = model.norm(model.layers[self.layer].mlp_norm)
        return x * norm.scale(x).unsqueeze(-1) if reads_at == "mlp_norm" and norm is not None else x


Visit = Callable[[MLPCall], Tensor | None]
"""Called at every MLP; what it returns, if anything, takes the place of the output."""
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


@contextmanager
def at_mlps(model: Model, visit: Visit) -> Iterator[None]:
    """Call `visit` at every MLP, and again behind its post-norm, if there is one; what it returns, if anything, takes
    the place of the output.
    """
    seen: dict[str, Tensor] = {}

    def note(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, args: tuple, kwargs: dict) -> None:
            seen[name] = args[0] if args else kwargs["hidden_states"]

        return hook

    def call(layer: int, at: str) -> Callable[..., Any]:
        def hook(_module: nn.Module, _args: tuple, output: Any) -> Any:
            first = output[0] if isinstance(output, tuple) else output
            value = visit(MLPCall(layer, at, seen["residual"], seen["mlp_in"], first))
            if value is None:
                return output
            value = value.to(first.dtype)
            return (value, *output[1:]) if isinstance(output, tuple) else value

        return hook

    handles = []
    for index, layer in enumerate(model.layers):
        before = layer.block if model.is_parallel else layer.mlp_norm or layer.mlp
        handles.append(before.register_forward_pre_hook(note("residual"), with_kwargs=True))
        handles.append(layer.mlp.register_forward_pre_hook(note("mlp_in"), with_kwargs=True))
        handles.append(layer.mlp.register_forward_hook(call(index, "mlp_out")))
        if layer.mlp_post_norm is not None:
            handles.append(layer.mlp_post_norm.register_forward_hook(call(index, "resid")))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def run(model: Model, rows: Int[Tensor, "row pos"], visit: Visit) -> Float[Tensor, "row pos d_model"]:
    """Run `rows`, `visit` every MLP, and return the residual stream before the final norm, in float32."""
    with fast_attention(model), at_mlps(model, visit), final_residual(model) as final:
        run_body(model, rows)
    return final[0]


@contextmanager
def final_residual(model: Model) -> Iterator[list[Float[Tensor, "row pos d_model"]]]:
    """Keep the residual stream before the final norm of every run in the block, in float32."""
    final: list[Tensor] = []

    def keep(_module: nn.Module, args: tuple, kwargs: dict) -> None:
        final.append((args[0] if args else kwargs["hidden_states"]).float())

    handle = model.final_norm_module.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        yield final
    finally:
        handle.remove()


def contribution_site(model: Model) -> str:
    """Where a call's `written` is what enters the residual stream: behind the post-norm, if the family has one."""
    return "resid" if model.layers[0].mlp_post_norm is not None else "mlp_out"
