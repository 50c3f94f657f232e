"""The replacement model, nothing frozen: features computed from its own residual stream overwrite every MLP.

"Circuit Tracing" (2025), section "From cross-layer transcoder to replacement model": attention and norms run live,
so errors compound from layer to layer and from token to token. Compared with the model on the same text.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lucida.evaluation.basis import Basis
from lucida.evaluation.running import Base, Reconstructing, batches, run_base
from lucida.models.frozen import frozen_attention, frozen_norms
from lucida.models.model import Model
from lucida.models.recording import record
from lucida.models.sinks import Sinks, find_sinks
from lucida.models.taps import MLPCall, at_mlps, contribution_site, run
from lucida.progress import Progress, silent
from lucida.replacement import Replacement
from lucida.statistics import Interval, ratio

CHUNK_LOGITS = 1 << 21
"""Logits compared at once (8 MiB in float32): they stay in the cache of a CPU."""


@dataclass(frozen=True)
class ReplacementModel:
    """The replacement model beside the model, per token, with intervals over rows of text.

    `agreement` is the share of tokens on which both have the same most probable next token, `kl` the divergence
    KL(model || replacement) in nats, `model_loss` and `loss` the cross-entropies of the next token in nats.
    """

    tokens: int
    agreement: Interval
    kl: Interval
    model_loss: Interval
    loss: Interval


def replaced_residual(
    model: Model, basis: Basis, rows: Int[Tensor, "row pos"], kept: Bool[Tensor, "row pos"]
) -> Float[Tensor, "row pos d_model"]:
    """The replacement model's residual stream before the final norm; the MLPs of tokens in `kept` stay the model's.

    Layers that `basis` does not write to keep their MLP.
    """
    reconstructing = Reconstructing(basis)
    replaced = ~kept.to(model.device)

    def visit(call: MLPCall) -> Tensor | None:
        if call.at != basis.writes_at:
            return None
        found = reconstructing.layer(call.layer, call.site(model, basis.reads_at)[replaced])
        if found is None:
            return None
        written = call.written.clone()
        written[replaced] = found.to(written.dtype)
        return written

    return run(model, rows, visit)


class ReplacementTally:
    """Sums per row for several bases; `update` with run after run, then `results`."""

    def __init__(self, model: Model, bases: Sequence[Basis]) -> None:
        self.model, self.bases = model, bases
        self._rows: list[np.ndarray] = []

    def update(self, base: Base) -> None:
        """Run every replacement model on the rows of `base` and compare."""
        finals = [replaced_residual(self.model, basis, base.rows, ~base.counted) for basis in self.bases]
        for row, tokens in enumerate(base.rows.to(base.final.device)):
            # The token after the last one is not known: nothing is counted there.
            where = torch.nonzero(base.counted[row, :-1]).squeeze(1)
            total = np.zeros((len(self.bases), 5))
            for part in where.split(max(1, CHUNK_LOGITS // self.model.d_vocab)):
                others = [final[row, part] for final in finals]
                total += _compare(self.model, base.final[row, part], others, tokens[part + 1]).cpu().numpy()
            self._rows.append(total)

    def results(self, *, seed: int = 0) -> list[ReplacementModel | None]:
        """The measures of all rows so far, for every basis; None when no token counts."""
        found = []
        for rows in np.stack(self._rows, 1) if self._rows else [np.zeros((0, 5))] * len(self.bases):
            tokens, *sums = rows.T
            intervals = [ratio(part, tokens, seed=seed) for part in sums]
            complete = [interval for interval in intervals if interval is not None]
            whole = len(complete) == len(intervals)
            found.append(ReplacementModel(int(tokens.sum()), *complete) if whole else None)
        return found


def _compare(
    model: Model, own: Tensor, others: Sequence[Float[Tensor, "token d_model"]], following: Int[Tensor, " token"]
) -> Float[Tensor, "basis 5"]:
    """Sums over tokens for each basis: tokens, agreements, KL, loss of the model and of the replacement."""
    z = model.logits(own)
    said, log_z = z.max(-1).indices, z.logsumexp(-1)
    p = (z - log_z[:, None]).exp_()
    loss = log_z - z.gather(1, following[:, None])[:, 0]
    sums = []
    for residual in others:
        y = model.logits(residual)
        log_y = y.logsumexp(-1)
        agree = y.max(-1).indices == said
        other_loss = log_y - y.gather(1, following[:, None])[:, 0]
        # KL(p || q) = p . (z - y) - (log_z - log_y); two equal distributions may come out a rounding below zero.
        kl = (log_y - log_z - y.sub_(z).mul_(p).sum(-1)).clamp_min(0)
        sums.append(torch.stack([part.double().sum() for part in (torch.ones_like(loss), agree, kl, loss, other_loss)]))
    return torch.stack(sums)


@torch.no_grad()
def measure_replacement(
    model: Model,
    bases: Sequence[Basis],
    rows: Int[Tensor, "row pos"],
    *,
    sinks: Sinks | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> list[ReplacementModel | None]:
    """The replacement model of each basis beside the model on held-out `rows`.

    First positions of a row and attention sinks keep the model's own MLP and do not count. Raises LucidaError for
    rows that the model cannot read.
    """
    sinks = sinks or find_sinks(model, rows)
    tally = ReplacementTally(model, bases)
    done = 0
    for batch in batches(model, rows):
        progress("replacement model", done, rows.numel())
        tally.update(run_base(model, batch, sinks, reads_at=set(), writes_at=set()))
        done += batch.numel()
    progress("replacement model", done, rows.numel())
    return tally.results(seed=seed)


@torch.no_grad()
def local_logits(replacement: Replacement) -> Float[Tensor, "pos d_vocab"]:
    """The logits of a local replacement model: features, bypass, constants and errors in the place of every MLP.

    Attention and norms are held at the recording, and the errors make up for what the features miss, so these are
    the model's logits up to rounding: the check that a graph is one of this model.
    """
    view = replacement.view
    model, recording = view.model, view.recording

    def visit(call: MLPCall) -> Tensor | None:
        if call.at != contribution_site(model):
            return None
        layer = call.layer
        rebuilt = replacement.error[layer] + replacement.constant[layer] + replacement.sources.bypassed(layer)
        return (rebuilt + replacement.writes(layer).vectors[:, 2:].float().sum(1))[None]

    with frozen_attention(model, recording), frozen_norms(model, recording), at_mlps(model, visit):
        after = record(model, recording.prompt, keep_attention=False)
    return model.logits(after.residual_final)
