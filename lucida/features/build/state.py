"""What has been seen of every feature so far: sums, extremes, histograms, examples, and the sets active at some places.

Everything in here can be merged with what another process saw of other tiles, in any order, to the bit.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lucida.features.build.examples import (
    Examples,
    best_of_documents,
    highest_draw,
    keep_sample,
    keep_top,
    least_kept,
)
from lucida.features.build.numbers import OCTAVES, histogram_bins, priorities, whole
from lucida.features.build.waiting import Waiting
from lucida.features.build.windows import Cut, Windows
from lucida.features.tables import BINS_PER_OCTAVE, HISTOGRAM_BINS

PENDING = 400_000
"""Admitted examples that wait before they are merged with those that are kept."""
HISTOGRAM_EVENTS = 1 << 23
"""Events that wait before they are counted into histograms."""


@dataclass(frozen=True)
class Limits:
    """How much is kept: top examples `k` per feature, `samples` per feature and octave, `radius` tokens on each side,
    and the active sets of places whose draw is at most `place_draw`.
    """

    k: int
    samples: int
    radius: int
    place_draw: np.uint64


@dataclass(frozen=True, eq=False)
class Events:
    """The active features of one layer in one tile: number of the feature (`first_number` is the layer's first),
    activation, place, document, and cell: row of the tile times `context` plus column; ordered by cell.
    """

    number: NDArray[np.int64]
    value: NDArray[np.float32]
    place: NDArray[np.int64]
    document: NDArray[np.int64]
    cell: NDArray[np.int64]
    first_number: int
    context: int


@dataclass(eq=False)
class IndexState:
    """Statistics and examples of `n_features` features.

    `total` is in units of 2^-20; `first` and `last` are -1 where a feature has not fired.
    """

    n_features: int
    limits: Limits
    n_places: int = 0
    tiles_done: int = 0
    count: NDArray[np.int64] = field(init=False)
    total: NDArray[np.int64] = field(init=False)
    maximum: NDArray[np.float32] = field(init=False)
    first: NDArray[np.int64] = field(init=False)
    last: NDArray[np.int64] = field(init=False)
    histogram: NDArray[np.int64] = field(init=False)
    top: Examples = field(init=False)
    sample: Examples = field(init=False)
    active: Waiting = field(init=False)

    def __post_init__(self) -> None:
        n = self.n_features
        self.count, self.total = np.zeros(n, np.int64), np.zeros(n, np.int64)
        self.maximum = np.zeros(n, np.float32)
        self.first, self.last = np.full(n, np.iinfo(np.int64).max), np.full(n, -1, np.int64)
        self.histogram = np.zeros((n, HISTOGRAM_BINS), np.int64)
        self.top, self.sample = Examples.none(self.limits.radius), Examples.none(self.limits.radius)
        self._windows = Windows(self.limits.radius)
        self._pending_top, self._pending_sample = Waiting(*self.top.columns()), Waiting(*self.top.columns())
        self.active = Waiting(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
        self._bins, self._bin_cuts = Waiting(np.zeros(0, np.int64)), list[int]()
        self._find_thresholds()

    def add(self, events: Events) -> None:
        """Take in the events of one layer of one tile."""
        number, value = events.number, events.value
        if len(number) == 0:
            return
        low, high = int(number.min()), int(number.max()) + 1
        near = number - low
        self.count[low:high] += np.bincount(near)
        self.total[low:high] += np.bincount(near, weights=whole(value)).astype(np.int64)
        np.maximum.at(self.maximum, number, value)
        np.minimum.at(self.first, number, events.place)
        np.maximum.at(self.last, number, events.place)
        bins = histogram_bins(value)
        self._bin_cuts.append(len(self._bins))
        self._bins.append(number * HISTOGRAM_BINS + bins)
        if len(self._bins) > HISTOGRAM_EVENTS:
            self._count_bins()
        with self._windows.of(number - events.first_number, events.cell, value, events.context) as cut:
            self._admit_top(events, cut)
            self._admit_sample(events, number * OCTAVES + bins // BINS_PER_OCTAVE, cut)
        self._keep_active(events)

    def settle(self) -> None:
        """Merge what waits: after this the fields hold all that was added."""
        self._count_bins()
        if len(self._pending_top):
            self.top = keep_top(Examples.joined([self.top, Examples(*self._pending_top.rows())]), self.limits.k)
        if len(self._pending_sample):
            waiting = Examples(*self._pending_sample.rows())
            self.sample = keep_sample(Examples.joined([self.sample, waiting]), self.limits.samples)
        self._pending_top.clear()
        self._pending_sample.clear()
        self._find_thresholds()

    def merge(self, other: "IndexState") -> None:
        """Add what another state saw of other tiles."""
        self.settle()
        other.settle()
        self.n_places += other.n_places
        self.count += other.count
        self.total += other.total
        self.histogram += other.histogram
        self.maximum = np.maximum(self.maximum, other.maximum)
        self.first, self.last = np.minimum(self.first, other.first), np.maximum(self.last, other.last)
        self.top = keep_top(Examples.joined([self.top, other.top]), self.limits.k)
        self.sample = keep_sample(Examples.joined([self.sample, other.sample]), self.limits.samples)
        self.active.append(*other.active.rows())
        self._find_thresholds()

    def active_sets(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        """Place, number and activation of everything active at the sampled places, sorted by place, then number."""
        place, number, value = self.active.rows()
        order = np.lexsort((number, place))
        return place[order], number[order], value[order]

    def _find_thresholds(self) -> None:
        self._least = least_kept(self.top, self.limits.k, self.n_features)
        self._highest = highest_draw(self.sample, self.limits.samples, self.n_features * OCTAVES)

    def _count_bins(self) -> None:
        (every,) = self._bins.rows()
        for bins in np.split(every, self._bin_cuts[1:]) if len(every) else ():
            # A layer's numbers lie together: only its part of the histograms is touched.
            low = int(bins.min()) // HISTOGRAM_BINS
            counted = np.bincount(bins - low * HISTOGRAM_BINS)
            flat = self.histogram.reshape(-1)[low * HISTOGRAM_BINS :]
            flat[: len(counted)] += counted
        self._bins.clear()
        self._bin_cuts.clear()

    def _admit_top(self, events: Events, cut: Cut) -> None:
        """Events that may be among the strongest; most are not, once a feature has been seen often."""
        which = np.flatnonzero(events.value >= self._least[events.number])
        if len(which) == 0:
            return
        best = best_of_documents(events.number[which], events.value[which], events.place[which], events.document[which])
        which = which[best]
        self._wait(self._pending_top, events, which, events.number[which], np.zeros(len(which), np.uint64), cut)

    def _admit_sample(self, events: Events, group: NDArray[np.int64], cut: Cut) -> None:
        draw = priorities(events.place, events.number)
        which = np.flatnonzero(draw <= self._highest[group])
        if len(which):
            self._wait(self._pending_sample, events, which, group[which], draw[which], cut)

    def _wait(
        self,
        pending: Waiting,
        events: Events,
        which: NDArray[np.int64],
        group: NDArray[np.int64],
        draw: NDArray[np.uint64],
        cut: Cut,
    ) -> None:
        """Let the events at `which` wait; `group` and `draw` are theirs."""
        value, place, document = events.value[which], events.place[which], events.document[which]
        pending.append(*Examples(group, value, place, document, draw, cut(which)).columns())
        if len(self._pending_top) + len(self._pending_sample) > PENDING:
            self.settle()

    def _keep_active(self, events: Events) -> None:
        chosen = place_draws(events.place) <= self.limits.place_draw
        if chosen.any():
            self.active.append(events.place[chosen], events.number[chosen], events.value[chosen])


def place_draws(places: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A fixed draw for each place."""
    return priorities(places, np.full(len(places), -1, np.int64))


def draw_of_share(n_places: int, wanted: int) -> np.uint64:
    """The draw that `wanted` of the places 0 to n_places - 1 do not exceed."""
    lowest = np.zeros(0, np.uint64)
    for start in range(0, n_places, 1 << 22):
        draws = place_draws(np.arange(start, min(start + (1 << 22), n_places)))
        lowest = np.concatenate([lowest, draws])
        if len(lowest) > wanted:
            lowest = np.partition(lowest, wanted - 1)[:wanted]
    return lowest.max() if len(lowest) else np.uint64(0)
