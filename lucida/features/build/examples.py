"""Examples of features as flat arrays: kept, merged and thinned by rules that do not depend on the order.

Two rules (TRAINING 4). *Top*: for each feature the largest activation of each document, and of those the K largest;
equal ones go to the lower place. *Sample*: for each feature and octave of activation the M lowest draws. Both are
associative, commutative and idempotent, so shards may be merged in any grouping.
"""

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Examples:
    """Examples of features, one entry each: `group` is what the rule is applied to (a feature, or a feature's octave).

    `window` holds the activations of the feature from `radius` places before to `radius` after, in float16.
    """

    group: NDArray[np.int64]
    value: NDArray[np.float32]
    place: NDArray[np.int64]
    document: NDArray[np.int64]
    draw: NDArray[np.uint64]
    window: NDArray[np.float16]

    def __len__(self) -> int:
        return len(self.group)

    def __getitem__(self, which: NDArray | slice) -> "Examples":
        """The entries at indices, where a mask is true, or in a slice."""
        return Examples(*(getattr(self, f.name)[which] for f in fields(self)))

    def columns(self) -> "tuple[NDArray, ...]":
        """The arrays, in the order of the fields."""
        return tuple(getattr(self, f.name) for f in fields(self))

    @classmethod
    def none(cls, radius: int) -> "Examples":
        """No example."""
        empty = np.zeros(0, np.int64)
        return cls(
            empty, empty.astype(np.float32), empty, empty, empty.astype(np.uint64),
            np.zeros((0, 2 * radius + 1), np.float16),
        )  # fmt: skip

    @classmethod
    def joined(cls, parts: "list[Examples]") -> "Examples":
        """All entries of all parts."""
        return cls(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(cls)))


def keep_top(examples: Examples, k: int) -> Examples:
    """The `k` strongest of distinct documents for each group, the strongest first."""
    order = _strongest_first(examples.group, examples.value, examples.place)
    order = order[_firsts_of(examples.group[order], examples.document[order])]
    return examples[order[_rank(examples.group[order]) < k]]


def keep_sample(examples: Examples, m: int) -> Examples:
    """The `m` lowest draws of each group, the lowest first; the same place counts once."""
    order = np.lexsort((examples.place, examples.draw, examples.group))
    group, place = examples.group[order], examples.place[order]
    again = np.zeros(len(order), dtype=bool)
    again[1:] = (group[1:] == group[:-1]) & (place[1:] == place[:-1])
    order = order[~again]
    return examples[order[_rank(examples.group[order]) < m]]


def best_of_documents(
    group: NDArray[np.int64], value: NDArray[np.float32], place: NDArray[np.int64], document: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Which entries are the strongest of their group in their document, as indices."""
    order = _strongest_first(group, value, place)
    return order[_firsts_of(group[order], document[order])]


def least_kept(examples: Examples, count: int, n_groups: int) -> NDArray[np.float32]:
    """By group, the value of the last of `count` kept by `keep_top`; -inf while there are fewer."""
    limit = np.full(n_groups, -np.inf, dtype=np.float32)
    last = _rank(examples.group) == count - 1
    limit[examples.group[last]] = examples.value[last]
    return limit


def highest_draw(examples: Examples, count: int, n_groups: int) -> NDArray[np.uint64]:
    """By group, the draw of the last of `count` kept by `keep_sample`; the largest number while there are fewer."""
    limit = np.full(n_groups, np.iinfo(np.uint64).max, dtype=np.uint64)
    last = _rank(examples.group) == count - 1
    limit[examples.group[last]] = examples.draw[last]
    return limit


def _strongest_first(
    group: NDArray[np.int64], value: NDArray[np.float32], place: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Order by group, then by falling value, then by place."""
    # Bits of positive floats order as the floats do: one integer holds group and value, and one sort does both.
    bits = np.ascontiguousarray(value, dtype=np.float32).view(np.uint32).astype(np.uint64)
    key = (group.astype(np.uint64) << np.uint64(32)) | (np.uint64(0xFFFFFFFF) - bits)
    order = np.argsort(place, kind="stable")
    return order[np.argsort(key[order], kind="stable")]


def _firsts_of(group: NDArray[np.int64], document: NDArray[np.int64]) -> NDArray[np.int64]:
    """Indices, ascending, of the first entry of each pair."""
    order = np.lexsort((document, group))  # stable: equal pairs stay in their order
    first = np.ones(len(order), dtype=bool)
    g, d = group[order], document[order]
    first[1:] = (g[1:] != g[:-1]) | (d[1:] != d[:-1])
    return np.sort(order[first])


def _rank(group: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many entries of the same group stand before each (`group` ascending)."""
    if len(group) == 0:
        return np.zeros(0, np.int64)
    begins = np.concatenate([[0], np.flatnonzero(np.diff(group)) + 1])
    lengths = np.diff(np.concatenate([begins, [len(group)]]))
    return np.arange(len(group)) - np.repeat(begins, lengths)
