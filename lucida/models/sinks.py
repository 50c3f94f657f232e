"""Attention sinks: tokens whose residual stream is far longer than that of others, and which are left out."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lucida.errors import LucidaError
from lucida.models.model import Model
from lucida.models.taps import MLPCall, run

SINK_NORM = 10.0
"""A token whose residual is longer than this many times the median of its layer is an attention sink."""
SAMPLE_TOKENS = 1024
"""The medians, and what a threshold for neurons is chosen on, come from this many tokens at the most."""


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


def check_rows(model: Model, rows: Int[Tensor, "row pos"], *, positions: int) -> None:
    """Raise LucidaError unless `rows` are rows of tokens that this model can read and of which some count."""
    if rows.numel() == 0:
        raise LucidaError("there is no text: no row of tokens was given")
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
