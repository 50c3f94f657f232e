"""What files of others say of a feature, put into our terms as far as it goes."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from lucida.features.exchange.histograms import octave_histogram
from lucida.features.exchange.own_fields import HIGHEST_BAND, LOWEST_BAND
from lucida.features.exchange.portable import PortableExample
from lucida.features.index import FeatureStats
from lucida.features.tables import SAMPLE, TOP


@dataclass(frozen=True)
class ForeignExample:
    """An example as others give it: `peak` is None where the file does not say which token is meant."""

    is_top: bool
    tokens: list[str]
    activations: list[float]
    peak: int | None = None


@dataclass(frozen=True)
class ForeignHistogram:
    """Bars of any unit, in equal bins between two activations."""

    heights: list[float]
    low: float = 0.0
    high: float = 0.0


def foreign_examples(found: Iterable[ForeignExample]) -> tuple[list[PortableExample], int]:
    """Examples in our order, and how many were left out because the feature is not active at the token they are of.

    Top ones keep their order; others become samples of their octave.
    """
    kept: list[PortableExample] = []
    ranks: dict[tuple[str, int], int] = {}
    left_out = 0
    for each in found:
        values = np.asarray(each.activations, dtype=np.float32)
        if not len(values) or not (peak := _peak(each, values)) >= 0:
            left_out += 1
            continue
        value = float(values[peak])
        band = int(np.clip(np.floor(np.log2(value)), LOWEST_BAND, HIGHEST_BAND))
        kind = TOP if each.is_top else SAMPLE
        group = (kind, 0 if each.is_top else band)
        rank = ranks[group] = ranks.get(group, -1) + 1
        kept.append(PortableExample(kind, band, rank, value, -1, -1, peak, each.tokens, values))
    return kept, left_out


def foreign_stats(
    layer: int,
    feature: int,
    *,
    n_examples: int,
    strongest: float,
    frequency: float,
    maximum: float,
    histogram: ForeignHistogram,
    n_places: int,
) -> FeatureStats:
    """Statistics from what a file says; a feature with examples is never silent, whatever its frequency.

    `strongest` is the largest activation that an example shows: the maximum is not below it.
    """
    count = max(round(min(max(frequency, 0.0), 1.0) * n_places), n_examples)
    maximum = float(np.float32(max(maximum, strongest, 0.0))) if count else 0.0
    return FeatureStats(
        layer=layer, feature=feature, count=count, frequency=count / max(1, n_places), mean=0.0,
        maximum=maximum, first=-1, last=-1,
        histogram=octave_histogram(histogram.heights, histogram.low, histogram.high or maximum, count),
    )  # fmt: skip


def _peak(example: ForeignExample, values: np.ndarray) -> int:
    """The token that is meant, the strongest where the file does not say; -1 when the feature is not active there."""
    inside = example.peak is not None and 0 <= example.peak < len(values)
    peak = int(example.peak) if inside and example.peak is not None else int(values.argmax())
    return peak if values[peak] > 0 else -1
