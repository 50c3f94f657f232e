"""A corpus cut into tiles: the fixed blocks of rows in which the model reads it, whoever reads and in whatever order.

A product of matrices may round a row differently when other rows stand beside it. So what the model sees at once is a
function of the corpus alone, and every share of it, on any number of machines, has the same activations to the bit.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from lucida.corpus import TokenStore
from lucida.errors import FeatureError

TILE_ROWS = 8
"""Rows of a tile. On a CPU smaller forward batches are faster (docs/LOG.md)."""


@dataclass(frozen=True, eq=False)
class Tile:
    """Rows of tokens, and the place in the corpus of each; -1 where a token only gives context, or pads."""

    tokens: Int[Tensor, "row context"]
    places: NDArray[np.int64]
    document: NDArray[np.int64]
    """Of each place; -1 where there is none."""


@dataclass(frozen=True, eq=False)
class Tiles:
    """All tokens of a store in order, in rows of `context`: one token that gives context only, then the row's own.

    The first is the store's prefix (such as BOS); where there is none, the last token of the row before. It is left
    out because what a model writes at the first position says little about the token. Raises FeatureError for a
    context below 2.
    """

    store: TokenStore
    context: int
    n_rows_at_once: int = TILE_ROWS

    def __post_init__(self) -> None:
        if self.context < 2:
            raise FeatureError(f"a context of {self.context} leaves no room for text; take a longer one")

    @property
    def width(self) -> int:
        """Tokens of the corpus in a row."""
        return self.context - 1

    @property
    def n_rows(self) -> int:
        """Rows that hold the whole corpus; the last one may be padded."""
        return -(-self.store.n_tokens // self.width)

    def __len__(self) -> int:
        """Tiles that hold the whole corpus."""
        return -(-self.n_rows // self.n_rows_at_once)

    def shard(self, index: int, count: int) -> range:
        """The tiles of one of `count` shards: neighbours, and nearly equally many for each."""
        if not 0 <= index < count:
            raise FeatureError(f"shard {index} of {count} was asked for; shards are numbered from 0")
        return range(index * len(self) // count, (index + 1) * len(self) // count)

    def tile(self, number: int) -> Tile:
        """One tile; rows beyond the corpus repeat its first token and have no places."""
        first = number * self.n_rows_at_once
        starts = np.arange(first, first + self.n_rows_at_once, dtype=np.int64) * self.width
        places = starts[:, None] + np.arange(-1, self.width)
        prefix = self.store.header.prefix
        inside = (places >= 0) & (places < self.store.n_tokens)
        tokens = np.asarray(self.store.tokens[np.where(inside, places, 0)]).astype(np.int64)
        if prefix is not None:
            tokens[:, 0] = prefix
        counted = inside.copy()
        counted[:, 0] = False
        document = np.searchsorted(self.store.documents, np.where(counted, places, 0), side="right") - 1
        return Tile(torch.from_numpy(tokens), np.where(counted, places, -1), np.where(counted, document, -1))
