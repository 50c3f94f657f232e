"""Our histogram (bins of a quarter octave) as others draw it (equal bins from 0 to the maximum), and back.

Bins are split in proportion to how they overlap, so both ways are approximate; counts keep their sum.
"""

import numpy as np
from numpy.typing import NDArray

from lucida.features.tables import BINS_PER_OCTAVE, FIRST_OCTAVE, HISTOGRAM_BINS

LINEAR_BINS = 50
"""As many bars as both front ends were drawn for."""


def edges_of(maximum: float) -> NDArray[np.float64]:
    """The edges of our bins, [97]: the first bin begins at 0, the last that is in use ends at the maximum."""
    edges = 2.0 ** (np.arange(HISTOGRAM_BINS + 1) / BINS_PER_OCTAVE + FIRST_OCTAVE)
    edges[0] = 0.0
    edges[-1] = max(edges[-1], maximum)
    return np.minimum(edges, maximum)


def linear_histogram(histogram: NDArray[np.int64], maximum: float, bins: int = LINEAR_BINS) -> list[float]:
    """Counts in `bins` equal bins from 0 to `maximum`; [] for a feature that never is active."""
    if maximum <= 0 or not histogram.any():
        return []
    counts = _overlap(edges_of(maximum), np.linspace(0.0, maximum, bins + 1), histogram.astype(np.float64))
    return [round(float(count), 3) for count in counts]


def octave_histogram(heights: list[float], low: float, high: float, total: int) -> NDArray[np.int64]:
    """Our 96 counts, which add up to `total`, from bars of any unit in equal bins from `low` to `high`.

    All 0 when there is nothing to go by: no bar, no range, or no positive height.
    """
    found = np.zeros(HISTOGRAM_BINS, dtype=np.int64)
    bars = np.maximum(np.asarray(heights, dtype=np.float64), 0.0)
    if total <= 0 or not bars.sum() > 0 or not high > max(low, 0.0):
        return found
    edges = np.maximum(np.linspace(low, high, len(bars) + 1), 0.0)
    shares = _overlap(edges, edges_of(high), bars)
    if not shares.sum() > 0:
        return found
    # Largest remainders: whole numbers that add up.
    exact = shares / shares.sum() * total
    found = np.floor(exact).astype(np.int64)
    order = np.argsort(found - exact, kind="stable")
    found[order[: max(0, total - int(found.sum()))]] += 1
    return found


def percentiles(histogram: NDArray[np.int64], maximum: float) -> list[float]:
    """The activations below which 1, 2 ... 99 per cent of the activations lie; [] for a silent feature."""
    total = int(histogram.sum())
    if maximum <= 0 or total == 0:
        return []
    below = np.concatenate([[0.0], np.cumsum(histogram, dtype=np.float64)]) / total
    values = np.interp(np.arange(1, 100) / 100, below, edges_of(maximum))
    return [float(f"{value:.6g}") for value in values]


def _overlap(edges: NDArray[np.float64], into: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Counts between `edges` shared out to the bins between `into`; what lies beyond them goes to the outer bins."""
    total = np.concatenate([[0.0], np.cumsum(counts)])
    # Equal edges (bins above the maximum) hold nothing to interpolate: keep the last of each.
    keep = np.append(np.diff(edges) > 0, True)
    positions, heights = edges[keep], total[np.flatnonzero(keep)]
    heights[-1] = total[-1]
    at = np.interp(into, positions, heights, left=0.0, right=total[-1])
    at[0], at[-1] = 0.0, total[-1]
    return np.diff(at)
