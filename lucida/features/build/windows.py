"""Activations around events, cut out of a tile."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Cut = Callable[[NDArray[np.int64]], NDArray[np.float16]]
"""From indices of events to the activations of each one's feature around it [event, 2 radius + 1]."""


class Windows:
    """Cuts windows of `radius` places on each side; what lies beyond a row of the tile is 0.

    A feature's activations in a row stand in one piece of memory, with `radius` zeros on both sides, so that a window
    is one copy. The matrix is kept, and zero between tiles: fresh pages for each would cost more than what is written.
    """

    def __init__(self, radius: int) -> None:
        self.radius = radius
        self._zeros = np.zeros(0, np.float16)

    @contextmanager
    def of(
        self, near: NDArray[np.int64], cell: NDArray[np.int64], value: NDArray[np.float32], context: int
    ) -> Iterator[Cut]:
        """While the block runs, cuts windows out of one layer of a tile, whose events these are.

        `near` is the number of the feature in its layer, `cell` counts through the rows of `context` places.
        """
        wide = context + 2 * self.radius
        row = cell // context
        place = near * (wide * (int(row.max()) + 1)) + cell + row * (2 * self.radius)
        needed = int(place.max()) + 2 * self.radius + 1
        if len(self._zeros) < needed:
            self._zeros = np.zeros(needed, np.float16)
        around = sliding_window_view(self._zeros, 2 * self.radius + 1)
        self._zeros[place + self.radius] = np.minimum(value, np.finfo(np.float16).max)
        try:
            yield lambda which: around[place[which]]
        finally:
            self._zeros[place + self.radius] = 0
