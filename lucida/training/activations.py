"""Activations made while they are needed: the model runs on a block of rows, which is shuffled and served.

Nothing is stored: a token's activations take d_model x layers x 4 bytes, 7 TB for 100 million tokens of a
135M model, and cost less to compute than to train on. The batch of a step is a function of the step's
number alone, so a resumed run sees what an unbroken one sees.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import BFloat16, Bool, Float, Int
from torch import Tensor

from lucida.errors import TrainingError
from lucida.models.model import Model
from lucida.models.taps import fast_attention, run_body, tap_mlps
from lucida.training.config import TrainingConfig
from lucida.training.mesh import Mesh
from lucida.training.normalise import Moments, Normalisation


@runtime_checkable
class Rows(Protocol):
    """Rows of text: `lucida.corpus.TokenRows`, or anything that gives the same rows for the same numbers."""

    def rows(self, start: int, count: int) -> Int[Tensor, "row context"]:
        """`count` rows from number `start`, over as many epochs as it takes."""
        ...


@dataclass(frozen=True, eq=False)
class Batch:
    """What one step sees: by layer, [token, d_model] as the model computed it."""

    reads: list[Tensor]
    writes: list[Tensor]


@dataclass(frozen=True, eq=False)
class _Stream:
    """One stream's part of a block, and the tokens that may be served."""

    reads: BFloat16[Tensor, "layer token d_model"] | Float[Tensor, "layer token d_model"]
    writes: BFloat16[Tensor, "layer token d_model"] | Float[Tensor, "layer token d_model"]
    usable: Int[Tensor, " usable"]


class Activations:
    """The batches of a run, by the number of the step."""

    def __init__(self, model: Model, rows: Rows, config: TrainingConfig, *, mesh: Mesh | None = None) -> None:
        """Raises TrainingError when the context is longer than the model's, or streams do not divide."""
        self.model, self.rows, self.config, self.mesh = model, rows, config, mesh or Mesh()
        if config.context > model.context:
            raise TrainingError(
                f"context is {config.context}, that of {model.name} is {model.context}; take a shorter one"
            )
        if (config.n_layers, config.d_model) != (model.n_layers, model.d_model):
            found = f"{model.n_layers} layers of width {model.d_model}"
            raise TrainingError(f"{model.name} has {found}, the configuration {config.n_layers} of {config.d_model}")
        if config.streams % self.mesh.data_size:
            raise TrainingError(f"{config.streams} streams do not divide among {self.mesh.data_size} processes")
        self._block: tuple[int, list[_Stream]] | None = None

    @property
    def steps_per_block(self) -> int:
        """Steps until the next block is computed."""
        return max(1, self.config.block_tokens * self.config.reuse // self.config.batch_tokens)

    @property
    def own_streams(self) -> range:
        """The streams that this process serves."""
        return range(self.mesh.data_rank, self.config.streams, self.mesh.data_size)

    def batch(self, step: int) -> Batch:
        """What this process sees of the batch of a step; computes the block first if another one is held."""
        block, turn = divmod(step, self.steps_per_block)
        if self._block is None or self._block[0] != block:
            self._block = None
            self._block = (block, [self.compute(block, stream) for stream in self.own_streams])
        share = self.config.batch_tokens // self.config.streams
        picks = [
            held.usable[self._order(block, stream, len(held.usable), turn * share, share)]
            for stream, held in zip(self.own_streams, self._block[1], strict=True)
        ]
        held = self._block[1]
        return Batch(_picked([s.reads for s in held], picks), _picked([s.writes for s in held], picks))

    def _order(self, block: int, stream: int, usable: int, start: int, count: int) -> Int[Tensor, " token"]:
        """Which usable tokens of a stream a batch takes: a fresh permutation for each pass over the block."""
        picks = []
        while count:
            again, offset = divmod(start, usable)
            seed = hash((self.config.seed, block, stream, again)) & 0x7FFFFFFFFFFF
            order = torch.randperm(usable, generator=torch.Generator().manual_seed(seed))
            picks.append(order[offset : offset + count])
            start, count = start + len(picks[-1]), count - len(picks[-1])
        return torch.cat(picks)

    def compute(self, block: int, stream: int) -> _Stream:
        """Run the model on a stream's rows of a block. Raises TrainingError when no token is usable."""
        config = self.config
        n_rows = config.block_rows // config.streams
        rows = self.rows.rows(block * config.block_rows + stream * n_rows, n_rows)
        shared = n_rows % self.mesh.feature_size == 0
        if shared:
            rows = rows.chunk(self.mesh.feature_size)[self.mesh.feature_rank]
        shape = (config.n_layers, len(rows) * (config.context - 1), config.d_model)
        reads = torch.empty(shape, dtype=self.model.dtype, device=self.model.device)
        writes = torch.empty_like(reads)

        self._fill(rows, reads, writes)
        if shared:
            reads, writes = (
                self.mesh.share_rows(t.transpose(0, 1).contiguous()).transpose(0, 1) for t in (reads, writes)
            )
        usable = (~_sinks(reads, config.sink_norm)).nonzero().squeeze(1)
        if not len(usable):
            raise TrainingError(f"every token of block {block} looks like an attention sink; raise sink_norm")
        return _Stream(reads, writes, usable)

    def _fill(self, rows: Tensor, reads: Tensor, writes: Tensor) -> None:
        """Run the model on rows, a few at a time, and keep all positions but the first."""
        d_model, width = self.config.d_model, self.config.context - 1
        # On a CPU small batches stay in its cache: 2,570 tokens per CPU-second against 2,100 for 4,096 at once.
        at_once = max(1, (16384 if reads.is_cuda else 1024) // self.config.context)
        for first in range(0, len(rows), at_once):
            part = rows[first : first + at_once]
            place = slice(first * width, (first + len(part)) * width)

            def keep(into: Tensor, layer: int, values: Tensor, place: slice = place) -> None:
                into[layer, place] = values[:, 1:].reshape(-1, d_model)

            with (
                fast_attention(self.model),
                tap_mlps(
                    self.model,
                    self.config.reads_at,
                    read=lambda layer, x, keep=keep: keep(reads, layer, x),
                    write=lambda layer, y, keep=keep: keep(writes, layer, y),
                ),
            ):
                run_body(self.model, part)

    def normalisation(self) -> Normalisation:
        """Means and scales over the first `normalise_tokens` usable activations (at least one block's streams)."""
        moments, block, seen = Moments(self.config.n_layers, self.config.d_model), 0, 0
        while seen < self.config.normalise_tokens:
            for stream in self.own_streams:
                part = self.compute(block, stream)
                moments.add(part.reads[:, part.usable], part.writes[:, part.usable])
            seen += self.config.block_tokens
            block += 1
        return moments.normalisation(self.mesh)


def _picked(streams: Sequence[Tensor], picks: Sequence[Tensor]) -> list[Tensor]:
    """By layer, the picked tokens of each stream [layer, token, d_model], one stream after the other."""
    shape = (len(streams[0]), sum(len(pick) for pick in picks), streams[0].shape[-1])
    joined, start = streams[0].new_empty(shape), 0
    for values, pick in zip(streams, picks, strict=True):
        torch.index_select(values, 1, pick, out=joined[:, start : start + len(pick)])
        start += len(pick)
    return list(joined)


def _sinks(reads: Tensor, limit: float) -> Bool[Tensor, " token"]:
    """Tokens whose residual is, at some layer, longer than `limit` times the median there."""
    norms = torch.stack([layer.float().norm(dim=1) for layer in reads])
    return (norms > limit * norms.median(dim=1, keepdim=True).values).any(0)
