"""A state on disk: the Parquet tables of an index, whether it has seen the whole corpus or a part."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lucida.atomic import replacing
from lucida.corpus import TokenStore
from lucida.errors import FeatureError
from lucida.features.build.examples import Examples
from lucida.features.build.numbers import OCTAVES, UNIT
from lucida.features.build.state import IndexState, Limits
from lucida.features.header import IndexHeader, record_files
from lucida.features.labels import read_labels, write_labels
from lucida.features.space import FeatureSpace, numbers_of
from lucida.features.tables import (
    ACTIVE,
    BINS_PER_OCTAVE,
    EXAMPLES,
    FIRST_OCTAVE,
    HISTOGRAM_BINS,
    SAMPLE,
    STATS,
    TOP,
    VOCABULARY,
    read_table,
    write_batches,
    write_table,
)
from lucida.models.cache import sha256_of
from lucida.models.model import Model

CHUNK = 65_536
"""Examples whose texts are cut at once."""
TABLES = ("stats.parquet", "examples.parquet", "active.parquet")


def save_state(
    state: IndexState, header: IndexHeader, store: TokenStore, folder: Path, *, model: Model | None = None
) -> IndexHeader:
    """Write an index; the folder appears whole or not at all. With `model` its vocabulary is written too.

    Labels by people and by language models that the folder already has are kept.

    Raises SaveError when the disk is full.
    """
    state.settle()
    with replacing(folder, folder=True) as temporary:
        _write_stats(state, header.space, temporary / "stats.parquet")
        write_batches(temporary / "examples.parquet", _example_batches(state, header, store), EXAMPLES)
        place, number, value = state.active_sets()
        layer, feature = header.space.layer_and_feature(number)
        columns = {"position": place, "layer": layer, "feature": feature, "value": value}
        # It is always read whole: large groups are a third of the work.
        write_table(temporary / "active.parquet", _typed(columns, ACTIVE), ACTIVE, row_group=1 << 17)
        if model is not None:
            texts = [model.token_text(token) for token in range(model.d_vocab)]
            write_table(temporary / "vocabulary.parquet", {"token": range(model.d_vocab), "text": texts}, VOCABULARY)
        names = [path.name for path in sorted(temporary.iterdir())]
        for kind in ("human", "llm"):
            if labels := read_labels(folder, kind):
                write_labels(temporary, kind, labels)
        settings = header.settings | {"tiles_done": state.tiles_done}
        header = replace(
            header,
            n_places=state.n_places,
            settings=settings,
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            files=record_files(temporary, names),
        )
        header.save(temporary)
    return header


def load_state(folder: Path, header: IndexHeader, limits: Limits) -> IndexState:
    """What `save_state` wrote. Raises FeatureError when a file is missing, damaged or cut short."""
    for name in TABLES:
        path, record = folder / name, header.files.get(name)
        if record is None or not path.is_file() or path.stat().st_size != record.size:
            raise FeatureError(f"{path} is missing or cut short; delete {folder}, index it again")
        if sha256_of(path) != record.sha256:
            raise FeatureError(
                f"{path} is damaged: its sha256 is not the recorded one; delete {folder}, index it again"
            )
    state = IndexState(len(header.space), limits, header.n_places, int(header.settings["tiles_done"]))
    stats = read_table(folder / "stats.parquet", STATS)
    for name in ("count", "total", "maximum", "last"):
        setattr(state, name, stats[name].to_numpy().copy())
    first = stats["first"].to_numpy()
    state.first = np.where(first < 0, np.iinfo(np.int64).max, first)
    flat = stats["histogram"].combine_chunks().flatten().to_numpy()
    state.histogram = flat.reshape(-1, HISTOGRAM_BINS).copy()
    state.top, state.sample = _load_examples(folder / "examples.parquet", header, limits)
    active = read_table(folder / "active.parquet", ACTIVE)
    numbers = numbers_of(header.space, active["layer"].to_numpy(), active["feature"].to_numpy())
    state.active.append(active["position"].to_numpy(), numbers, active["value"].to_numpy())
    state.settle()
    return state


def _typed(columns: dict[str, NDArray], schema: pa.Schema) -> dict[str, pa.Array]:
    return {name: pa.array(columns[name]).cast(schema.field(name).type) for name in schema.names}


def _write_stats(state: IndexState, space: FeatureSpace, path: Path) -> None:
    layer, feature = space.layer_and_feature(np.arange(len(space)))
    columns = {
        "layer": layer, "feature": feature, "count": state.count, "total": state.total,
        "mean": state.total * UNIT / np.maximum(state.count, 1), "maximum": state.maximum,
        "first": np.where(state.count > 0, state.first, -1), "last": state.last,
    }  # fmt: skip
    table = {name: pa.array(column).cast(STATS.field(name).type) for name, column in columns.items()}
    table["histogram"] = pa.FixedSizeListArray.from_arrays(pa.array(state.histogram.reshape(-1)), HISTOGRAM_BINS)
    write_table(path, table, STATS)


def _example_batches(state: IndexState, header: IndexHeader, store: TokenStore) -> Iterator[pa.RecordBatch]:
    """All examples, sorted by feature, top first; a chunk of features at a time."""
    n_features = len(header.space)
    rows = max(1, len(state.top) + len(state.sample))
    step = max(1, CHUNK * n_features // rows)
    for low in range(0, n_features, step):
        high = min(low + step, n_features)
        top = state.top[slice(*np.searchsorted(state.top.group, (low, high)))]
        sample = state.sample[slice(*np.searchsorted(state.sample.group, (low * OCTAVES, high * OCTAVES)))]
        if len(top) + len(sample):
            yield _example_batch(top, sample, header, store)


def _example_batch(top: Examples, sample: Examples, header: IndexHeader, store: TokenStore) -> pa.RecordBatch:
    both = Examples.joined([top, sample])
    is_sample = np.arange(len(both)) >= len(top)
    number = np.concatenate([top.group, sample.group // OCTAVES])
    rank = np.concatenate([_rank_of(top.group), _rank_of(sample.group)])
    order = np.lexsort((rank, np.where(is_sample, both.group, 0), is_sample, number))
    both, is_sample, number, rank = both[order], is_sample[order], number[order], rank[order]
    layer, feature = header.space.layer_and_feature(number)
    band = np.frexp(both.value)[1] - 1
    columns = {
        "layer": layer, "feature": feature, "kind": np.where(is_sample, SAMPLE, TOP), "rank": rank,
        "band": np.clip(band, FIRST_OCTAVE, FIRST_OCTAVE + HISTOGRAM_BINS // BINS_PER_OCTAVE - 1),
        "priority": both.draw, "value": both.value, "position": both.place, "document": both.document,
    }  # fmt: skip
    start, stop = _spans(both.place, both.document, header, store)
    columns["peak"] = both.place - start
    arrays = {name: pa.array(column).cast(EXAMPLES.field(name).type) for name, column in columns.items()}
    offsets = np.concatenate([[0], np.cumsum(stop - start)]).astype(np.int32)
    entry = np.repeat(np.arange(len(both)), stop - start)
    place = np.arange(offsets[-1]) - offsets[entry] + start[entry]
    tokens = np.asarray(store.tokens[place]).astype(np.int32)
    values = both.window[entry, place - both.place[entry] + header.window].astype(np.float32)
    arrays["tokens"] = pa.ListArray.from_arrays(pa.array(offsets), pa.array(tokens))
    arrays["activations"] = pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))
    return pa.record_batch([arrays[name] for name in EXAMPLES.names], schema=EXAMPLES)


def _spans(
    place: NDArray[np.int64], document: NDArray[np.int64], header: IndexHeader, store: TokenStore
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """First and last-plus-one place of the text around each: within its window, its row and its document."""
    width = header.context - 1
    row = place // width
    start = np.maximum.reduce([place - header.window, row * width, store.documents[document]])
    stop = np.minimum.reduce([place + header.window + 1, (row + 1) * width, store.documents[document + 1]])
    return start, stop


def _rank_of(group: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.arange(len(group)) - np.searchsorted(group, group)


def _load_examples(path: Path, header: IndexHeader, limits: Limits) -> tuple[Examples, Examples]:
    """Top examples and samples; some thousands at a time, as what is computed on the way is larger than they are."""
    top, sample = [Examples.none(limits.radius)], [Examples.none(limits.radius)]
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(CHUNK, columns=EXAMPLES.names):
            every, is_sample = _examples_of(batch, header, limits.radius)
            top.append(every[~is_sample])
            sample.append(every[is_sample])
    return Examples.joined(top), Examples.joined(sample)


def _examples_of(rows: pa.RecordBatch, header: IndexHeader, radius: int) -> tuple[Examples, NDArray[np.bool_]]:
    """Rows of examples.parquet, and which of them are samples."""
    number = numbers_of(header.space, rows["layer"].to_numpy(), rows["feature"].to_numpy())
    is_sample = rows["kind"].to_numpy(zero_copy_only=False) == SAMPLE
    offsets = rows["activations"].offsets.to_numpy()
    entry = np.repeat(np.arange(len(rows)), np.diff(offsets))
    column = np.arange(len(entry)) - (offsets[:-1] - offsets[0])[entry] - rows["peak"].to_numpy()[entry]
    window = np.zeros((len(rows), 2 * radius + 1), np.float16)
    window[entry, column + radius] = rows["activations"].flatten().to_numpy()
    band = rows["band"].to_numpy().astype(np.int64) - FIRST_OCTAVE
    every = Examples(
        np.where(is_sample, number * OCTAVES + band, number), rows["value"].to_numpy(), rows["position"].to_numpy(),
        rows["document"].to_numpy(), rows["priority"].to_numpy(), window,
    )  # fmt: skip
    return every, is_sample
