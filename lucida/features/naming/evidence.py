"""The examples of features as flat arrays, half of them to find a rule in and half to test it on."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lucida.features.index import FeatureIndex
from lucida.features.keyed import KeyedTable
from lucida.features.naming.lexicon import TOPICS, Lexicon
from lucida.features.tables import EXAMPLES, TOP

BLOCK = 256
"""Features whose examples are read at once."""
BEFORE, AFTER = 3, 2
"""Tokens of context before and after a place that rules may look at."""
FAR = 1 << 20


@dataclass(frozen=True, eq=False)
class Places:
    """The tokens of some examples' windows, one after another; the arrays are views and stand side by side.

    `before[k]` is the token k + 1 places earlier and `after[k]` that k + 1 places later, -1 outside the window.
    `index` counts from the beginning of the text as the model saw it, FAR where that is out of sight. `weight` is
    each place's share of the activation: 0 where it is not active, 1 in all; top examples and samples count half each.
    """

    token: NDArray[np.int32]
    before: tuple[NDArray[np.int32], ...]
    after: tuple[NDArray[np.int32], ...]
    index: NDArray[np.int32]
    weight: NDArray[np.float64]
    active: NDArray[np.bool_]
    topics: NDArray[np.uint64]
    """One entry for each window: bit i says that it is clearly in TOPICS[i]."""

    def __len__(self) -> int:
        return len(self.token)


@dataclass(frozen=True, eq=False)
class Evidence:
    """The examples of one feature: rules are found in `shown` and tested on `held`, texts of other documents."""

    shown: Places
    held: Places

    @property
    def suffices(self) -> bool:
        """Whether there is enough to test a rule on: at least two windows on both sides."""
        return min(len(self.shown.topics), len(self.held.topics)) >= 2


def each_evidence(index: FeatureIndex, lexicon: Lexicon, *, every: int = 1) -> Iterator[tuple[int, Evidence | None]]:
    """The number and the evidence of every feature in turn; None for silent ones.

    With `every` = n only one in n blocks of neighbouring features is read.
    """
    table = KeyedTable(index.folder / "examples.parquet", EXAMPLES, index.space)
    for first in range(0, len(index.space), BLOCK * every):
        stop = min(first + BLOCK, len(index.space))
        counts = np.diff(table.starts[first : stop + 1])
        found = evidence_of(table.rows_between(first, stop), counts, lexicon, index.header.window)
        yield from zip(range(first, stop), found, strict=True)


def evidence_of(rows: pa.Table, counts: NDArray[np.int64], lexicon: Lexicon, window: int) -> Iterator[Evidence | None]:
    """The evidence of neighbouring features with `counts` rows of examples each; a place counts once."""
    owner = np.repeat(np.arange(len(counts)), counts)
    once = _first_of_each_place(owner, rows["position"].fill_null(-1).to_numpy())
    rows, owner = rows.take(once), owner[once]
    held = _alternating_documents(owner, rows["document"].fill_null(-1).to_numpy())
    # Shown windows first, then held ones: both sides of a feature are slices.
    order = np.lexsort((held, owner))
    lengths, (tokens, activations) = _lists(rows, ("tokens", "activations"), order)
    top = np.array([kind == TOP for kind in rows["kind"].to_pylist()], dtype=np.bool_)[order]
    peak = rows["peak"].fill_null(0).to_numpy()[order]
    side = (owner * 2 + held)[order]
    every = _places(tokens, activations, lengths, side, top, peak < window, lexicon)
    windows = np.searchsorted(side, np.arange(2 * len(counts) + 1))
    ends = np.append(0, lengths.cumsum())[windows]
    for feature in range(len(counts)):
        if counts[feature] == 0:
            yield None
            continue
        sides = [_slice(every, windows[s : s + 2], ends[s : s + 2]) for s in (2 * feature, 2 * feature + 1)]
        yield Evidence(*sides)


def _first_of_each_place(owner: NDArray[np.int64], position: NDArray[np.int64]) -> NDArray[np.int64]:
    """The rows without repetitions: a sample may be a top example too. Unknown places (-1) are all kept."""
    order = np.lexsort((np.arange(len(owner)), position, owner))
    fresh = np.ones(len(order), dtype=np.bool_)
    fresh[1:] = (np.diff(owner[order]) != 0) | (np.diff(position[order]) != 0) | (position[order][1:] < 0)
    return np.sort(order[fresh])


def _alternating_documents(owner: NDArray[np.int64], document: NDArray[np.int64]) -> NDArray[np.int64]:
    """0 and 1 in turn over the distinct documents of each owner, so that no text stands on both sides."""
    order = np.lexsort((document, owner))
    fresh = np.ones(len(order), np.int64)
    fresh[1:] = (np.diff(owner[order]) != 0) | (np.diff(document[order]) != 0)
    held = np.empty(len(order), np.int64)
    rank = fresh.cumsum()
    first = rank[np.searchsorted(owner[order], owner[order])]
    held[order] = (rank - first) % 2
    return held


def _lists(rows: pa.Table, names: tuple[str, ...], order: NDArray[np.int64]) -> tuple[NDArray, list[NDArray]]:
    """The lengths of list columns in a new order, and the members of each column one after another."""
    columns = [rows[name].combine_chunks() for name in names]
    if not len(rows):
        return np.zeros(0, np.int64), [np.zeros(0, np.float32) for _ in names]
    offsets = columns[0].offsets.to_numpy().astype(np.int64)
    offsets -= offsets[0]
    lengths = np.diff(offsets)[order]
    inside = np.arange(lengths.sum()) - np.repeat(lengths.cumsum() - lengths, lengths)
    take = np.repeat(offsets[:-1][order], lengths) + inside
    return lengths, [column.flatten().to_numpy(zero_copy_only=False)[take] for column in columns]


def _places(
    token: NDArray, activation: NDArray, lengths: NDArray, side: NDArray, top: NDArray, near: NDArray, lexicon: Lexicon
) -> Places:
    window = np.repeat(np.arange(len(lengths)), lengths)
    inside = np.arange(len(token)) - np.repeat(lengths.cumsum() - lengths, lengths)
    token = token.astype(np.int32)
    left = np.repeat(lengths, lengths) - 1 - inside
    before = tuple(np.where(inside >= k, np.roll(token, k), -1).astype(np.int32) for k in range(1, BEFORE + 1))
    after = tuple(np.where(left >= k, np.roll(token, -k), -1).astype(np.int32) for k in range(1, AFTER + 1))
    # The activation of each side and kind adds up to one; then the kinds share equally.
    group = (side * 2 + top)[window] if len(window) else window
    size = int(group.max(initial=-1)) + 2 & ~1
    total = np.bincount(group, activation, minlength=size).reshape(-1, 2)
    kinds = (total > 0).sum(1)
    scale = (total * np.maximum(kinds, 1)[:, None]).ravel()
    weight = activation / np.where(scale > 0, scale, 1.0)[group]
    index = np.where(near[window], inside, FAR).astype(np.int32)
    topics = _window_topics(lexicon.topics[token], lengths)
    return Places(token, before, after, index, weight, activation > 0, topics)


def _window_topics(bits: NDArray[np.uint64], lengths: NDArray[np.int64]) -> NDArray[np.uint64]:
    """For each window the topics that it is clearly in: three tokens and more speak for it, twice as many as for any
    other, and a sixth of all.
    """
    if not len(lengths):
        return np.zeros(0, np.uint64)
    window = np.repeat(np.arange(len(lengths)), lengths)
    votes = np.stack(
        [np.bincount(window, (bits >> np.uint64(i)) & np.uint64(1), len(lengths)) for i in range(len(TOPICS))], axis=1
    )
    ranked = np.sort(votes, axis=1)
    best = votes.argmax(1)
    clear = (ranked[:, -1] >= 3) & (ranked[:, -1] >= 2 * ranked[:, -2]) & (6 * ranked[:, -1] >= lengths)
    return np.where(clear, np.uint64(1) << best.astype(np.uint64), np.uint64(0))


def _slice(every: Places, windows: NDArray[np.int64], ends: NDArray[np.int64]) -> Places:
    a, b = int(ends[0]), int(ends[1])
    before, after = (tuple(row[a:b] for row in rows) for rows in (every.before, every.after))
    return Places(
        every.token[a:b], before, after, every.index[a:b], every.weight[a:b], every.active[a:b],
        every.topics[int(windows[0]) : int(windows[1])],
    )  # fmt: skip
