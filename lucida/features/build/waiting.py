"""Rows that wait to be merged, in memory that is used again."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


class Waiting:
    """Columns of one length that grow by appending and are taken all at once.

    A list of the appended arrays would hold the same. But small arrays that live long, among large ones that do not,
    leave holes in the heap that nothing large fits into, and late in a corpus more and more of them wait: an index of 4
    million tokens grew from 1.0 to 2.4 GB that way.
    """

    def __init__(self, *columns: NDArray[Any]) -> None:
        """Columns of the types, and shapes behind the first axis, of these arrays."""
        self._columns = [np.empty((0, *column.shape[1:]), column.dtype) for column in columns]
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def append(self, *parts: NDArray[Any]) -> None:
        """Copy one part to the end of each column."""
        length = self._length + len(parts[0])
        if length > len(self._columns[0]):
            self._grow(max(length, 2 * len(self._columns[0])))
        for column, part in zip(self._columns, parts, strict=True):
            column[self._length : length] = part
        self._length = length

    def rows(self) -> tuple[NDArray[Any], ...]:
        """What waits, as views that the next `append` after `clear` overwrites."""
        return tuple(column[: self._length] for column in self._columns)

    def clear(self) -> None:
        """Let nothing wait; the memory stays."""
        self._length = 0

    def _grow(self, capacity: int) -> None:
        for index, old in enumerate(self._columns):
            self._columns[index] = np.empty((capacity, *old.shape[1:]), old.dtype)
            self._columns[index][: self._length] = old[: self._length]
