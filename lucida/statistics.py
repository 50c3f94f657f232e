"""Averages with their uncertainty: bootstrap intervals, and a rank correlation."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

RESAMPLES = 1000
SHARE = 0.95
CONFIDENCE_Z = 1.959963984540054
"""Intervals hold 95 % of a normal distribution."""


@dataclass(frozen=True)
class Interval:
    """A number measured on `count` samples, and where it lies in 95 % of the samples drawn anew from these.

    `low` and `high` are None for a single sample: it says nothing about its spread.
    """

    value: float
    low: float | None
    high: float | None
    count: int

    def __str__(self) -> str:
        spread = "" if self.low is None else f" [{self.low:.3g}, {self.high:.3g}]"
        return f"{self.value:.3g}{spread}"


Statistic = Callable[[Int[np.ndarray, "draw sample"]], Float[np.ndarray, " draw"]]


def bootstrap(statistic: Statistic, count: int, *, seed: int = 0) -> Interval | None:
    """The statistic of all `count` samples, with its percentile interval over samples drawn with replacement.

    `statistic(indices)` gives one number for each row of indices. The samples must be independent: rows of text,
    prompts or ablations, never single tokens of one row. Draws on which the statistic is not defined (NaN) are left
    out; None when it is not defined on the samples themselves.
    """
    whole = float(statistic(np.arange(count)[None])[0]) if count else float("nan")
    if not np.isfinite(whole):
        return None
    if count < 2:
        return Interval(whole, None, None, count)
    drawn = statistic(np.random.default_rng(seed).integers(0, count, (RESAMPLES, count)))
    low, high = np.nanquantile(drawn, ((1 - SHARE) / 2, (1 + SHARE) / 2))
    return Interval(whole, float(low), float(high), count)


def mean(samples: Float[np.ndarray, " sample"], *, seed: int = 0) -> Interval | None:
    """The mean of independent samples; those that are NaN were not defined and do not count."""
    kept = samples[np.isfinite(samples)]
    return bootstrap(lambda drawn: kept[drawn].mean(1), len(kept), seed=seed)


def ratio(
    parts: Float[np.ndarray, " sample"], wholes: Float[np.ndarray, " sample"], *, seed: int = 0
) -> Interval | None:
    """sum(parts) / sum(wholes) over independent samples of unequal size, such as rows of text."""

    def share(drawn: Int[np.ndarray, "draw sample"]) -> Float[np.ndarray, " draw"]:
        part, whole = parts[drawn].sum(1), wholes[drawn].sum(1)
        return np.divide(part, whole, out=np.full_like(part, np.nan), where=whole != 0)

    return bootstrap(share, len(parts), seed=seed)


def spearman(a: Float[np.ndarray, " sample"], b: Float[np.ndarray, " sample"]) -> float:
    """Spearman's rank correlation, ties at their mean rank; NaN for fewer than three samples or constant ones."""
    if len(a) < 3:
        return float("nan")
    ranks = []
    for values in (a, b):
        _, back, counts = np.unique(values, return_inverse=True, return_counts=True)
        ranks.append((counts.cumsum() - (counts - 1) / 2)[back])
    x, y = (rank - rank.mean() for rank in ranks)
    scale = float(np.sqrt((x * x).sum() * (y * y).sum()))
    return float((x * y).sum() / scale) if scale > 0 else float("nan")


def wilson(successes: float | int, total: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share (1927); (0, 1) when nothing was counted."""
    if total == 0:
        return (0.0, 1.0)
    share, z2 = successes / total, CONFIDENCE_Z**2
    middle = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = CONFIDENCE_Z * np.sqrt(share * (1 - share) / total + z2 / (4 * total**2)) / (1 + z2 / total)
    # Rounding must not push an end past what was seen.
    return (max(0.0, min(float(middle - half), share)), min(1.0, max(float(middle + half), share)))
