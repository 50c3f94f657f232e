"""A model running on rows of text: what every MLP reads and writes, which tokens count, and a way to overwrite."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lucida.errors import ModelError
from lucida.evaluation.basis import Basis
from lucida.models.frozen import frozen_attention
from lucida.models.linear import FrozenModel
from lucida.models.model import Model
from lucida.models.recording import eager_attention
from lucida.models.sinks import Sinks
from lucida.models.taps import MLPCall, Visit, at_mlps, final_residual, run, run_body

BATCH_BYTES = 256 << 20
"""Bound on what one batch of rows keeps of a run; larger batches are no faster."""


@torch.no_grad()
def run_copies(
    view: FrozenModel, count: int, visit: Visit, *, attention: Literal["frozen", "live"] = "frozen"
) -> Float[Tensor, "row pos d_model"]:
    """Run `count` copies of a recorded prompt at once, `visit` at every MLP; the residual before the final norm.

    `attention` keeps the recorded patterns, or computes them anew as the recording did.
    """
    model, rows = view.model, torch.tensor([view.recording.prompt.tokens]).repeat(count, 1)
    attending = frozen_attention(model, view.recording) if attention == "frozen" else eager_attention(model)
    with attending, at_mlps(model, visit), final_residual(model) as final:
        run_body(model, rows)
    return final[0]


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
