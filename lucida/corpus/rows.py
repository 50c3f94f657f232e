"""Rows of a corpus by number: the whole state of reading it is one integer."""

from typing import Literal, get_args

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from lucida.corpus.hashing import scramble
from lucida.corpus.store import PIECE, TokenStore
from lucida.errors import DataError

Split = Literal["train", "held-out", "all"]

HELD_OUT = 0.02
"""The share of a corpus that is never trained on."""


class TokenRows:
    """Rows of exactly `context` tokens: the prefix, then consecutive tokens of the documents one after the other.

    Row numbers go on for ever: every `per_epoch` of them are all rows of the split, each once, in an order that
    depends on `seed` and the epoch alone. So a run that was stopped after n rows goes on with number n, and
    ``shard=(i, n)``, which gets the numbers i, i + n, ..., sees its part of what one process would see.

    Which text is held out is decided by the hash of each document (each 1,024 tokens of a longer one): about 2 %, at
    least one row and the smaller of 1,024 tokens and a tenth. It is the same whatever the seed, and for two copies of
    a document; with 10,240 tokens of text or more it is the same for every context up to 1,024.
    """

    def __init__(
        self,
        store: TokenStore,
        context: int,
        *,
        prefix: int | Literal["of the store"] | None = "of the store",
        split: Split = "train",
        shard: tuple[int, int] = (0, 1),
        seed: int = 0,
    ) -> None:
        """`prefix` is the token that every row begins with, None for none; by default what the store says.

        Raises DataError for a split without one whole row, an impossible context or shard.
        """
        self.store, self.context, self.split, self.shard, self.seed = store, context, split, shard, seed
        self.prefix: int | None = store.header.prefix if isinstance(prefix, str) else prefix
        self.tokens_per_row = context - (self.prefix is not None)
        self._check()
        self._starts, self._before = self._runs()
        self.n_tokens = int(self._before[-1])
        self.per_epoch = self.n_tokens // self.tokens_per_row
        self._orders: dict[int, NDArray[np.int64]] = {}
        if not self.per_epoch:
            raise DataError(
                f"the corpus {store.header.name} has {self.n_tokens:,} tokens ({split}), a row takes "
                f"{self.tokens_per_row:,}; give more text or a shorter context"
            )

    def __len__(self) -> int:
        """Rows of the split, over all shards."""
        return self.per_epoch

    @property
    def fingerprint(self) -> str:
        """What decides the rows, in one string: two readers with the same one give the same rows."""
        return f"{self.store.fingerprint}/{self.context}/{self.prefix}/{self.split}/{self.seed}"

    def rows(self, start: int, count: int) -> Int[Tensor, "row context"]:
        """The rows with numbers `start` to `start + count - 1` (of these, the shard's own), as int64 ids."""
        if start < 0 or count < 0:
            raise DataError(f"rows {start} to {start + count} were asked for; numbers begin at 0")
        index, shards = self.shard
        numbers = np.arange(start + (index - start) % shards, start + count, shards)
        rows = np.empty((len(numbers), self.context), dtype=np.int64)
        if self.prefix is not None:
            rows[:, 0] = self.prefix
        width = self.tokens_per_row
        places = self._shuffled(numbers)[:, None] * width + np.arange(width)
        run = np.searchsorted(self._before, places, side="right") - 1
        rows[:, self.context - width :] = self.store.tokens[self._starts[run] + places - self._before[run]]
        return torch.from_numpy(rows)

    def _shuffled(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Which rows of the text the numbers stand for."""
        epochs, offsets = np.divmod(numbers, self.per_epoch)
        rows = np.empty_like(numbers)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            rows[here] = self._order(int(epoch))[offsets[here]]
        return rows

    def _order(self, epoch: int) -> NDArray[np.int64]:
        """The order of an epoch: rows sorted by a hash of (seed, epoch, row), the same in every version of numpy."""
        if epoch not in self._orders:
            if len(self._orders) > 1:  # a block of rows may lie in two epochs, never usefully in more
                self._orders.pop(min(self._orders))
            key = scramble(scramble(np.array([self.seed], dtype=np.int64).view(np.uint64)) + np.uint64(epoch))
            keys = scramble(np.arange(self.per_epoch, dtype=np.uint64) + key)
            self._orders[epoch] = np.argsort(keys, kind="stable")
        return self._orders[epoch]

    def _runs(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Stretches of neighbouring pieces of the split: their starts, and how many tokens come before each."""
        starts, hashes = self.store.pieces[:, 0].astype(np.int64), self.store.pieces[:, 1]
        lengths = np.diff(starts, append=self.store.n_tokens)
        # Not only one row: unless the text is tiny, what is held out does not depend on the context.
        held = held_out(hashes, lengths, at_least=max(self.tokens_per_row, min(PIECE, self.store.n_tokens // 10)))
        wanted = {"train": ~held, "held-out": held, "all": np.ones_like(held)}[self.split]
        begins = wanted & ~np.concatenate([[False], wanted[:-1]])
        run = np.cumsum(begins) - 1
        tokens = np.bincount(run[wanted], weights=lengths[wanted], minlength=int(begins.sum())).astype(np.int64)
        return starts[begins], np.concatenate([[0], np.cumsum(tokens)])

    def _check(self) -> None:
        index, shards = self.shard
        if self.split not in get_args(Split):
            raise DataError(f"split {self.split!r} is not known; use {', '.join(get_args(Split))}")
        if not 0 <= index < shards:
            raise DataError(f"shard {index} of {shards} was asked for; shards are numbered from 0")
        if self.tokens_per_row < 1:
            raise DataError(f"a context of {self.context} leaves no room for text; take a longer one")
        if self.prefix is not None and not 0 <= self.prefix < self.store.header.d_vocab:
            raise DataError(f"prefix {self.prefix} is not in the vocabulary of {self.store.header.d_vocab}")


def held_out(hashes: NDArray[np.uint64], lengths: NDArray[np.int64], *, at_least: int) -> NDArray[np.bool_]:
    """Which pieces are held out: those with the lowest 2 % of hashes, and more until they have `at_least` tokens."""
    order = np.argsort(hashes, kind="stable")
    enough = min(int(np.searchsorted(np.cumsum(lengths[order]), at_least)), len(order) - 1)
    return hashes <= max(hashes[order[enough]], np.uint64(int(HELD_OUT * 2**64)))
