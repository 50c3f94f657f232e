"""A small copy of an index, to ship with a dictionary: names, a few tokens and the strongest examples, and no more."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lucida.atomic import replacing
from lucida.errors import FeatureError
from lucida.features.header import HEADER, IndexHeader, record_files
from lucida.features.tables import (
    BINS_PER_OCTAVE,
    EFFECTS,
    EXAMPLES,
    HISTOGRAM_BINS,
    LABELS,
    STATS,
    TOP,
    VOCABULARY,
    read_table,
)
from lucida.progress import Progress, silent

LEVEL = 19
"""Of zstd: slow to write, as fast to read."""
ROWS = 8192
"""In a row group: what is read to look one feature up."""
_RISING, _BYTEWISE = "DELTA_BINARY_PACKED", "BYTE_STREAM_SPLIT"
ENCODINGS = dict.fromkeys(("layer", "feature", "token"), _RISING) | dict.fromkeys(
    ("count", "first", "last", "position", "document", "peak", "input_features", "nearest_features"), _BYTEWISE
)
"""Parquet encodings of columns of whole numbers; numbers with a point are split bytewise, the rest is a dictionary."""
KEPT = {"promoted": 4, "suppressed": 2, "excited_by": 3, "input": 2, "nearest": 3}
"""Entries kept of each list of effects."""


def thin_index(
    folder: str | Path,
    out: str | Path,
    *,
    top: int = 2,
    before: int = 8,
    after: int = 3,
    progress: Progress | None = None,
) -> IndexHeader:
    """Copy the index in `folder` to `out` with `top` examples a feature of `before` and `after` tokens, no samples.

    Activations and effects are right to 0.4 %, histograms count whole octaves, each in its first bin; totals are left
    out, and so are the active places and the search table: search then goes by labels. Raises FeatureError when the
    index is unfinished, SaveError when the disk is full.
    """
    progress, folder = progress or silent, Path(folder)
    header = IndexHeader.open(folder)
    if not header.complete:
        raise FeatureError(f"{folder} is unfinished; run lucida index on it again first")
    with replacing(out, folder=True) as temporary:
        tables = {
            "stats.parquet": _stats(folder),
            "examples.parquet": _examples(folder, top=top, before=before, after=after),
            "vocabulary.parquet": read_table(folder / "vocabulary.parquet", VOCABULARY),
        }
        if (folder / "effects.parquet").exists():
            tables["effects.parquet"] = _effects(folder)
        for done, (name, table) in enumerate(tables.items()):
            progress("writing", done, len(tables))
            _write(temporary / name, table)
        for path in sorted((folder / "labels").glob("*.parquet")):
            (temporary / "labels").mkdir(exist_ok=True)
            _write(temporary / "labels" / path.name, _labels(path))
        settings = {**header.settings, "thin": {"top": top, "before": before, "after": after}}
        header = replace(
            header, k=top, samples=0, window=max(before, after), settings=settings,
            files=record_files(temporary, sorted(tables)),
        )  # fmt: skip
        header.save(temporary)
        assert (temporary / HEADER).exists()
    return header


def _stats(folder: Path) -> pa.Table:
    table = read_table(folder / "stats.parquet", STATS)
    nothing = pa.nulls(len(table), pa.int64())
    mean = pa.array(_rounded(table["mean"].to_numpy()).astype(np.float64))
    bins = table["histogram"].combine_chunks().flatten().to_numpy().reshape(-1, BINS_PER_OCTAVE)
    octaves = np.zeros_like(bins)
    octaves[:, 0] = bins.sum(1)
    histogram = pa.FixedSizeListArray.from_arrays(pa.array(octaves.reshape(-1)), HISTOGRAM_BINS)
    for name, column in (("total", nothing), ("mean", mean), ("histogram", histogram)):
        table = table.set_column(table.schema.get_field_index(name), STATS.field(name), column)
    return table


def _examples(folder: Path, *, top: int, before: int, after: int) -> pa.Table:
    table = read_table(folder / "examples.parquet", EXAMPLES)
    table = table.filter(pc.and_(pc.equal(table["kind"], TOP), pc.less(table["rank"], top)))  # pyright: ignore
    peak = table["peak"].to_numpy().astype(np.int64)
    lists = table["tokens"].combine_chunks()
    offsets = lists.offsets.to_numpy().astype(np.int64)
    start = offsets[:-1] + np.maximum(peak - before, 0)
    stop = np.minimum(offsets[:-1] + peak + after + 1, offsets[1:])
    entry = np.repeat(np.arange(len(table)), stop - start)
    cut = np.concatenate([[0], np.cumsum(stop - start)])
    place = np.arange(cut[-1]) - cut[entry] + start[entry]
    base = int(offsets[0])
    tokens = lists.flatten().to_numpy()[place - base]
    values = table["activations"].combine_chunks().flatten().to_numpy()[place - base]
    bounds = pa.array(cut.astype(np.int32))
    columns = {
        "peak": pa.array((peak - (start - offsets[:-1])).astype(np.int16)),
        "value": pa.array(_rounded(table["value"].to_numpy())),
        "priority": pa.nulls(len(table), pa.uint64()),
        "tokens": pa.ListArray.from_arrays(bounds, pa.array(tokens)),
        "activations": pa.ListArray.from_arrays(bounds, pa.array(_rounded(values))),
    }
    for name, column in columns.items():
        table = table.set_column(table.schema.get_field_index(name), EXAMPLES.field(name), column)
    return table


def _effects(folder: Path) -> pa.Table:
    table = read_table(folder / "effects.parquet", EFFECTS)
    for name in EFFECTS.names[2:]:
        kept = next(count for key, count in KEPT.items() if name.startswith(key))
        column = pc.list_slice(table[name].combine_chunks(), 0, kept)  # pyright: ignore
        if pa.types.is_floating(EFFECTS.field(name).type.value_type):
            values = _rounded(column.flatten().to_numpy(zero_copy_only=False))
            column = pa.ListArray.from_arrays(column.offsets, pa.array(values), mask=column.is_null())
        table = table.set_column(table.schema.get_field_index(name), EFFECTS.field(name), column)
    return table


def _labels(path: Path) -> pa.Table:
    """Labels without what their method noted."""
    table = read_table(path, LABELS)
    nothing = pa.array(["{}"] * len(table))
    return table.set_column(table.schema.get_field_index("details"), LABELS.field("details"), nothing)


def _rounded(values: np.ndarray) -> np.ndarray:
    """Float32 numbers with seven bits of mantissa: right to 0.4 %, and a third of the size when compressed."""
    bits = np.ascontiguousarray(values, dtype=np.float32).view(np.uint32)
    return ((bits + np.uint32(1 << 15)) & np.uint32(0xFFFF0000)).view(np.float32)


def _write(path: Path, table: pa.Table) -> None:
    encodings, plain = {}, []
    for field in table.schema:
        is_list = pa.types.is_list(field.type) or pa.types.is_fixed_size_list(field.type)
        leaf = field.type.value_type if is_list else field.type
        encoding = _BYTEWISE if pa.types.is_floating(leaf) else ENCODINGS.get(field.name)
        name = f"{field.name}.list.element" if is_list else field.name
        if encoding is None:
            plain.append(name)
        else:
            encodings[name] = encoding
    pq.write_table(
        table, path, compression="zstd", compression_level=LEVEL, row_group_size=ROWS,
        use_dictionary=plain, column_encoding=encodings,  # pyright: ignore[reportArgumentType]
    )  # fmt: skip
