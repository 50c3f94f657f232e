"""The rank test of Mann and Whitney (1947) for many features at once, exact where the texts are few."""

from dataclasses import dataclass
from itertools import chain, combinations
from math import comb, erfc, sqrt

import numpy as np
from numpy.typing import NDArray

EXACT = 200_000
"""Up to so many ways to part the texts, all of them are counted (10 and 10 texts: 184,756)."""


@dataclass(frozen=True, eq=False)
class RankTest:
    """For each column the chance `auc` that the first group's value is larger, and the two-sided `p`.

    `smallest_p` is the least p that groups of these sizes can give.
    """

    auc: NDArray[np.float64]
    p: NDArray[np.float64]
    smallest_p: float
    exact: bool


def mann_whitney(values: NDArray[np.floating], is_first: NDArray[np.bool_]) -> RankTest:
    """Test each column of `values` [text, feature] for a difference between the two groups of rows.

    Under the null hypothesis every way to part the rows into groups of these sizes is as likely. Up to EXACT of them
    p is the share that is at least as far from the middle; beyond, the normal approximation with its corrections for
    ties and continuity. Ties have their mean rank.
    """
    n, n_first = len(values), int(is_first.sum())
    n_second = n - n_first
    ranks = mean_ranks(values)
    rank_sum = ranks[is_first].sum(0)
    auc = (rank_sum - n_first * (n_first + 1) / 2) / (n_first * n_second)
    middle = n_first * (n + 1) / 2
    far = np.abs(rank_sum - middle)
    exact = comb(n, n_first) <= EXACT
    if exact:
        p = _exact_p(ranks, n_first, far)
    else:
        tied = (ranks**2).sum(0) / n - ((n + 1) / 2) ** 2  # variance of the ranks, ties included
        deviation = np.sqrt(np.maximum(n_first * n_second * tied / (n - 1), 0.0))
        z = np.maximum(far - 0.5, 0.0) / np.maximum(deviation, 1e-12)
        p = np.where(deviation > 0, [erfc(each / sqrt(2)) for each in z], 1.0)
    # Groups of equal size may always be exchanged; of unequal size, ties can leave the other end less far.
    smallest = min(1.0, (2 if n_first == n_second else 1) / comb(n, n_first))
    return RankTest(auc, np.minimum(p, 1.0), smallest, exact)


def mean_ranks(values: NDArray[np.floating]) -> NDArray[np.float64]:
    """Ranks from 1 down each column, ties at their mean."""
    ordered = np.sort(values, axis=0)
    ranks = np.empty(values.shape)
    for column in range(values.shape[1]):
        below = np.searchsorted(ordered[:, column], values[:, column], side="left")
        upto = np.searchsorted(ordered[:, column], values[:, column], side="right")
        ranks[:, column] = (below + upto + 1) / 2
    return ranks


def adjusted(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Benjamini and Hochberg's (1995) adjusted p: the false discovery rate at which each would be called."""
    n = len(p)
    order = np.argsort(p, kind="stable")
    steps = p[order] * n / np.arange(1, n + 1)
    q = np.empty(n)
    q[order] = np.minimum.accumulate(steps[::-1])[::-1]
    return np.minimum(q, 1.0)


def _exact_p(ranks: NDArray[np.float64], n_first: int, far: NDArray[np.float64]) -> NDArray[np.float64]:
    """The share of all partings whose rank sum is at least `far` from the middle.

    It depends on a column's ranks, not on their order: columns with the same ones (mostly those that are zero in as
    many texts) share one count.
    """
    n = len(ranks)
    chosen = np.fromiter(chain.from_iterable(combinations(range(n), n_first)), dtype=np.int64)
    chosen = chosen.reshape(-1, n_first)
    patterns, which = np.unique(np.sort(ranks, axis=0), axis=1, return_inverse=True)
    middle = n_first * (n + 1) / 2
    p = np.empty(ranks.shape[1])
    for i in range(patterns.shape[1]):
        distances = np.sort(np.abs(patterns[:, i][chosen].sum(1) - middle))
        columns = np.flatnonzero(which == i)
        # Rank sums are halves of whole numbers: the margin only absorbs rounding.
        p[columns] = 1 - np.searchsorted(distances, far[columns] - 1e-6) / len(distances)
    return p
