"""A Parquet file sorted by layer and feature, from which one feature's rows are read without the rest."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lucida.errors import FeatureError
from lucida.features.space import FeatureSpace


@dataclass(frozen=True, eq=False)
class KeyedTable:
    """The rows of a file by the number of their feature. Nothing is kept open, so that threads may share it.

    Raises FeatureError for a file that is damaged, not sorted, or holds features that the index does not have.
    """

    path: Path
    schema: pa.Schema
    space: FeatureSpace

    def __len__(self) -> int:
        return self.metadata.num_rows

    @cached_property
    def metadata(self) -> pq.FileMetaData:
        """What the file says of itself: row groups and columns."""
        try:
            found = pq.read_metadata(self.path)
            missing = sorted(set(self.schema.names) - set(found.schema.to_arrow_schema().names))
        except FileNotFoundError as error:
            raise FeatureError(f"there is no {self.path}; is {self.path.parent} a feature index?") from error
        except (pa.ArrowException, OSError) as error:
            raise self.damaged(error) from error
        if missing:
            raise FeatureError(
                f"{self.path} lacks the columns {', '.join(missing)}: another version wrote it; index again"
            )
        return found

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """The first row of each feature, and last the number of rows: feature n has rows starts[n] to starts[n + 1]."""
        keys = self._read(list(range(self.metadata.num_row_groups)), ["layer", "feature"])
        layers = keys["layer"].to_numpy().astype(np.int64)
        features = keys["feature"].to_numpy().astype(np.int64)
        sizes = np.asarray(self.space.n_features, dtype=np.int64)
        known = (layers >= 0) & (layers < len(sizes))
        known &= (features >= 0) & (features < sizes[np.where(known, layers, 0)])
        if not known.all():
            bad = int(np.flatnonzero(~known)[0])
            raise FeatureError(
                f"{self.path} holds feature {layers[bad]}:{features[bad]}, which this index does not have; index again"
            )
        numbers = np.asarray(self.space.offsets, dtype=np.int64)[layers] + features
        if len(numbers) and np.diff(numbers).min(initial=0) < 0:
            raise FeatureError(f"{self.path} is not sorted by layer and feature; index again")
        return np.searchsorted(numbers, np.arange(len(self.space) + 1))

    @cached_property
    def _group_starts(self) -> NDArray[np.int64]:
        counts = [self.metadata.row_group(i).num_rows for i in range(self.metadata.num_row_groups)]
        return np.concatenate([[0], np.cumsum(np.asarray(counts, dtype=np.int64))])

    def rows(self, number: int) -> pa.Table:
        """All rows of the feature with this number, in the order of the file; none where it has none."""
        return self.rows_between(number, number + 1)

    def rows_between(self, first: int, stop: int) -> pa.Table:
        """All rows of the features `first` to `stop - 1`."""
        begin, end = int(self.starts[first]), int(self.starts[stop])
        if begin == end:
            return self.schema.empty_table()
        low = int(np.searchsorted(self._group_starts, begin, side="right")) - 1
        high = int(np.searchsorted(self._group_starts, end, side="left"))
        table = self._read(list(range(low, high)), self.schema.names)
        return table.slice(begin - int(self._group_starts[low]), end - begin)

    def _read(self, groups: list[int], columns: list[str]) -> pa.Table:
        try:
            # Few rows: threads would cost more than they save.
            file = pq.ParquetFile(self.path, metadata=self.metadata)
            with file:
                return file.read_row_groups(groups, columns=columns, use_threads=len(groups) > 8)
        except (pa.ArrowException, OSError) as error:
            raise self.damaged(error) from error

    def damaged(self, error: Exception) -> FeatureError:
        """The error to raise when reading failed."""
        reason = " ".join(str(error).split())[:200]
        return FeatureError(f"{self.path} is damaged or cut short ({reason}); index again")
