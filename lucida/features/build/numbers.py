"""Arithmetic that gives the same result in any order and on any machine."""

import numpy as np
from numpy.typing import NDArray

from lucida.corpus.hashing import scramble
from lucida.features.tables import BINS_PER_OCTAVE, FIRST_OCTAVE, HISTOGRAM_BINS

UNIT = 2.0**-20
"""Sums of activations are kept as whole numbers of this unit: adding integers is associative."""
OCTAVES = HISTOGRAM_BINS // BINS_PER_OCTAVE
_QUARTERS = np.array([2**0.25, 2**0.5, 2**0.75], dtype=np.float32).view(np.int32) & 0x7FFFFF


def histogram_bins(values: NDArray[np.float32]) -> NDArray[np.int64]:
    """The histogram's bin of each positive value, from its bits: a library's logarithm may round either way."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.int32)
    octave = (bits >> 23) - 127 - FIRST_OCTAVE
    mantissa = bits & 0x7FFFFF
    quarter = sum((mantissa >= edge).astype(np.int32) for edge in _QUARTERS)
    bins = octave.astype(np.int64) * BINS_PER_OCTAVE + quarter
    return np.clip(bins, 0, HISTOGRAM_BINS - 1)


def whole(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Values in whole units, as float64 numbers that `bincount` adds exactly (below 2^53)."""
    return np.rint(values.astype(np.float64) / UNIT)


def priorities(places: NDArray[np.int64], numbers: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A fixed draw for each (place, feature): the lowest of a set are a uniform sample of it, whoever counted."""
    return scramble(scramble(places.astype(np.uint64)) + numbers.astype(np.uint64) * np.uint64(0xD1342543DE82EF95))
