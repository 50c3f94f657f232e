"""A model running on rows of text: what every MLP reads and writes, which tokens count, and a way to overwrite."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from lucida.errors import LucidaError, ModelError
from lucida.evaluation.basis import Basis
from lucida.models.frozen import frozen_attention
from lucida.models.linear import FrozenModel
from lucida.models.model import Model
from lucida.models.taps import fast_attention, run_body

BATCH_BYTES = 256 << 20
"""Bound on what one batch of rows keeps of a run; larger batches are no faster."""
SINK_NORM = 10.0
"""A token whose residual is longer than this many times the median of its layer is an attention sink."""
SAMPLE_TOKENS = 1024
"""The medians, and what a threshold for neurons is chosen on, come from this many tokens at the most."""


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
    final: list[Tensor] = []

    def keep(_module: nn.Module, args: tuple, kwargs: dict) -> None:
        final.append((args[0] if args else kwargs["hidden_states"]).float())

    handle = model.final_norm_module.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        with fast_attention(model), at_mlps(model, visit):
            run_body(model, rows)
    finally:
        handle.remove()
    return final[0]


@torch.no_grad()
def run_copies(view: FrozenModel, count: int, visit: Visit) -> None:
    """Run `count` copies of a recorded prompt at once with the recorded attention patterns, `visit` at every MLP."""
    rows = torch.tensor([view.recording.prompt.tokens]).repeat(count, 1)
    with frozen_attention(view.model, view.recording), at_mlps(view.model, visit):
        run_body(view.model, rows)


def contribution_site(model: Model) -> str:
    """Where a call's `written` is what enters the residual stream: behind the post-norm, if the family has one."""
    return "resid" if model.layers[0].mlp_post_norm is not None else "mlp_out"


@dataclass(frozen=True)
class Base:
    """The model's own run on some rows. `counted` are the tokens that are measured: not the first positions of a
    row, and no attention sinks. `sites[reads_at][layer]` and `outputs[writes_at][layer]` hold these tokens only.
    """

    rows: Int[Tensor, "row pos"]
    counted: Bool[Tensor, "row pos"]
    final: Float[Tensor, "row pos d_model"]
    sites: Mapping[str, list[Float[Tensor, "token d_model"]]]
    outputs: Mapping[str, list[Float[Tensor, "token d_model"]]]


@dataclass(frozen=True)
class Sinks:
    """Which tokens are left out: the first `positions` of each row, and those whose residual before some MLP is
    longer than `norm` times that layer's median (massive activations, which no dictionary is trained on).
    """

    positions: int
    medians: Float[Tensor, " layer"]
    norm: float = SINK_NORM

    def counted(self, lengths: Float[Tensor, "layer row pos"]) -> Bool[Tensor, "row pos"]:
        """The tokens that count, from the norms of the residual before every MLP."""
        counted = (lengths <= self.norm * self.medians[:, None, None]).all(0)
        counted[:, : self.positions] = False
        return counted


def find_sinks(model: Model, rows: Int[Tensor, "row pos"], *, positions: int = 1, norm: float = SINK_NORM) -> Sinks:
    """The rule for attention sinks, with the medians of a fixed sample of the first rows."""
    check_rows(model, rows, positions=positions)
    lengths = torch.empty(model.n_layers, *sample_rows(rows).shape, device=model.device)

    def visit(call: MLPCall) -> None:
        lengths[call.layer] = call.residual.float().norm(dim=-1)

    run(model, sample_rows(rows), visit)
    return Sinks(positions, lengths[:, :, positions:].flatten(1).median(1).values, norm)


def sample_rows(rows: Int[Tensor, "row pos"]) -> Int[Tensor, "_ pos"]:
    """The first rows, up to SAMPLE_TOKENS tokens: the same whatever the size of a batch."""
    return rows[: max(1, SAMPLE_TOKENS // rows.shape[1])]


def run_base(
    model: Model, rows: Int[Tensor, "row pos"], sinks: Sinks, *, reads_at: set[str], writes_at: set[str]
) -> Base:
    """The model's own run, with what bases that read and write at the given sites are measured on."""
    sites: dict[str, list[Tensor]] = {name: [] for name in sorted(reads_at)}
    outputs: dict[str, list[Tensor]] = {name: [] for name in sorted(writes_at)}
    lengths: list[Tensor] = []

    def visit(call: MLPCall) -> None:
        if call.at in outputs:
            outputs[call.at].append(call.written.float())
        if call.at == "resid":
            return
        lengths.append(call.residual.float().norm(dim=-1))
        for name, kept in sites.items():
            kept.append(call.site(model, name))

    final = run(model, rows, visit)
    if not torch.isfinite(final).all():
        raise ModelError(f"activations of {model.name or 'this model'} overflow on this text; try dtype float32")
    counted = sinks.counted(torch.stack(lengths))
    chosen = {name: [x[counted] for x in kept] for name, kept in sites.items()}
    return Base(rows, counted, final, chosen, {name: [y[counted] for y in kept] for name, kept in outputs.items()})


class Reconstructing:
    """What a basis puts in the place of one MLP after the other, in the order of the layers.

    What a cross-layer feature writes to later layers waits until they come.
    """

    def __init__(self, basis: Basis) -> None:
        self.basis, self._waiting = basis, dict[int, Tensor]()

    def layer(self, layer: int, x: Float[Tensor, "token d_model"], visit: Callable[..., None] | None = None) -> Any:
        """The output of `layer` where it reads `x` [token, d_model], or None where the basis does not replace it.

        `visit(layer, active)` is shown the active features.
        """
        basis = self.basis
        if layer in basis.layers:
            active = basis.encode(layer, x)
            if visit is not None:
                visit(layer, active)
            basis.write_(layer, active, self._waiting)
        if layer not in basis.targets:
            return None
        written = basis.constant(layer, x) + torch.zeros_like(x)
        return written + self._waiting.pop(layer) if layer in self._waiting else written


def batches(model: Model, rows: Int[Tensor, "row pos"]) -> list[Int[Tensor, "_ pos"]]:
    """`rows` in batches whose recorded activations fit BATCH_BYTES."""
    per_row = 4 * rows.shape[1] * model.d_model * model.n_layers * 3
    return list(rows.split(max(1, BATCH_BYTES // per_row)))


def check_rows(model: Model, rows: Int[Tensor, "row pos"], *, positions: int) -> None:
    """Raise LucidaError unless `rows` are rows of tokens that this model can read and of which some count."""
    if rows.numel() == 0:
        raise LucidaError("there is no held-out text to evaluate on; give some rows of tokens")
    if rows.shape[1] > model.context:
        raise LucidaError(
            f"the rows have {rows.shape[1]} tokens, the context of this model is {model.context}; give shorter rows"
        )
    if rows.shape[1] <= positions:
        raise LucidaError(
            f"the rows have {rows.shape[1]} tokens and the first {positions} of each are left out; give longer rows"
        )
    low, high = int(rows.min()), int(rows.max())
    if low < 0 or high >= model.d_vocab:
        bad = low if low < 0 else high
        raise LucidaError(
            f"token id {bad} is not in the vocabulary of {model.d_vocab}; was the text tokenised for another model?"
        )
