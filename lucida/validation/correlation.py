"""Statistics of what was measured: over one graph with intervals over its ablations, over several with intervals over
graphs.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from lucida.evaluation.faithfulness import Correlation
from lucida.statistics import Interval, bootstrap, mean, spearman

Statistic = Callable[[Int[np.ndarray, " sample"]], float]
"""A number from the samples with the given indices."""


def per_graph(samples: Sequence[tuple[int, Statistic]], *, seed: int) -> Interval | None:
    """A statistic of one graph's samples (how many, and the statistic), its interval over these; of several graphs the
    mean of their statistics, with the interval over graphs.
    """
    if len(samples) == 1:
        count, statistic = samples[0]
        return bootstrap(lambda drawn: np.array([statistic(row) for row in drawn]), count, seed=seed)
    return mean(np.array([statistic(np.arange(count)) if count else np.nan for count, statistic in samples]), seed=seed)


def rank_correlation(a: np.ndarray, b: np.ndarray) -> Statistic:
    """Spearman's correlation of two columns."""
    return lambda drawn: spearman(a[drawn], b[drawn])


def log_correlation(a: np.ndarray, b: np.ndarray) -> Statistic:
    """Pearson's correlation of the logarithms, of the samples in which both are positive."""
    positive = (a > 0) & (b > 0)
    x, y = (np.log(np.where(positive, values, 1.0)) for values in (a, b))

    def statistic(drawn: np.ndarray) -> float:
        drawn = drawn[positive[drawn]]
        return pearson(x[drawn], y[drawn])

    return statistic


def difference(first: Statistic, second: Statistic) -> Statistic:
    """First minus second, of the same samples."""
    return lambda drawn: first(drawn) - second(drawn)


def ratio_of_sums(part: np.ndarray, whole: np.ndarray) -> Statistic:
    """sum(part) / sum(whole): a mean of ratios in which large effects count for more."""

    def statistic(drawn: np.ndarray) -> float:
        total = whole[drawn].sum()
        return float(part[drawn].sum() / total) if total else float("nan")

    return statistic


def average(values: np.ndarray) -> Statistic:
    """The mean of the values that are defined."""
    return lambda drawn: _of_defined(values[drawn], np.mean)


def middle(values: np.ndarray) -> Statistic:
    """The median of the values that are defined."""
    return lambda drawn: _of_defined(values[drawn], np.median)


def _of_defined(values: np.ndarray, statistic: Callable[[np.ndarray], np.floating]) -> float:
    kept = values[np.isfinite(values)]
    return float(statistic(kept)) if len(kept) else float("nan")


def pearson(x: Float[np.ndarray, " sample"], y: Float[np.ndarray, " sample"]) -> float:
    """Pearson's correlation; NaN for fewer than three samples or constant ones."""
    if len(x) < 3:
        return float("nan")
    x, y = x - x.mean(), y - y.mean()
    scale = float(np.sqrt((x * x).sum() * (y * y).sum()))
    return float((x * y).sum() / scale) if scale > 0 else float("nan")


@dataclass(frozen=True)
class Pooled:
    """Pairs of all graphs in one table. What is drawn anew are `group`s: ablations of one graph, or whole graphs."""

    group: np.ndarray
    first: Float[np.ndarray, " pair"]
    second: Float[np.ndarray, " pair"]

    def take(self, which: np.ndarray) -> "Pooled":
        """The pairs in a mask."""
        return Pooled(self.group[which], self.first[which], self.second[which])

    def spearman(self, *, seed: int) -> Correlation:
        """Spearman's correlation over all pairs, with its interval over groups."""
        first, second = (_Ranks.of(values) for values in (self.first, self.second))
        return Correlation(
            self._drawn(lambda weights: weighted_spearman(first, second, weights), seed), len(self.group)
        )

    def share(self, *, seed: int) -> Interval | None:
        """sum(first) / sum(second) over all pairs, with its interval over groups."""
        names = np.unique(self.group, return_inverse=True)[1]
        part, whole = (np.bincount(names, weights=values) for values in (self.first, self.second))
        statistic = ratio_of_sums(part, whole)
        return bootstrap(lambda drawn: np.array([statistic(row) for row in drawn]), len(part), seed=seed)

    def _drawn(self, statistic: Callable[[np.ndarray], float], seed: int) -> Interval | None:
        names, member = np.unique(self.group, return_inverse=True)

        def over(drawn: np.ndarray) -> np.ndarray:
            times = (np.bincount(row, minlength=len(names)) for row in drawn)
            return np.array([statistic(count[member].astype(np.float64)) for count in times])

        return bootstrap(over, len(names), seed=seed)


@dataclass(frozen=True)
class _Ranks:
    """Which of the distinct values, in ascending order, each sample has."""

    place: np.ndarray
    count: int

    @staticmethod
    def of(values: np.ndarray) -> "_Ranks":
        distinct, place = np.unique(values, return_inverse=True)
        return _Ranks(place, len(distinct))

    def weighted(self, weights: np.ndarray) -> np.ndarray:
        """The mean rank of each sample where it is there `weights` times."""
        times = np.bincount(self.place, weights=weights, minlength=self.count)
        return (times.cumsum() - (times - 1) / 2)[self.place]


def weighted_spearman(first: _Ranks, second: _Ranks, weights: Float[np.ndarray, " sample"]) -> float:
    """Spearman's correlation where each sample is there `weights` times, without making the copies."""
    total = weights.sum()
    if total < 3:
        return float("nan")
    x, y = (ranks.weighted(weights) for ranks in (first, second))
    x, y = (values - (weights * values).sum() / total for values in (x, y))
    scale = float(np.sqrt((weights * x * x).sum() * (weights * y * y).sum()))
    return float((weights * x * y).sum() / scale) if scale > 0 else float("nan")
