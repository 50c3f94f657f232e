"""Write features that came from elsewhere as an index of ours, with a vocabulary of the texts that occur."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lucida.atomic import replacing
from lucida.errors import FeatureError
from lucida.features.build.numbers import UNIT
from lucida.features.exchange.feature_json import refuse_existing
from lucida.features.exchange.own_fields import MOST_FEATURES
from lucida.features.exchange.packs import FeaturePack, silent_stats
from lucida.features.exchange.portable import PortableExample, PortableFeature, TokenEffects
from lucida.features.exchange.untrusted import INT64_END, short
from lucida.features.header import IndexHeader, record_files
from lucida.features.labels import KINDS, Kind, Label, write_labels
from lucida.features.tables import (
    ACTIVE,
    EFFECTS,
    EXAMPLES,
    HISTOGRAM_BINS,
    ROW_GROUP,
    STATS,
    TOP,
    VOCABULARY,
    write_table,
)
from lucida.progress import Progress, silent

MOST_TOKENS = 1 << 22
"""Different tokens of an import."""
UNKNOWN_ELSEWHERE = (
    "places, documents, mean, first and last are unknown; histograms and the numbers of samples are approximate"
)


class Vocabulary:
    """Numbers for the texts of tokens: the model's own where a file gives them, else counted as they come."""

    def __init__(self, *, has_ids: bool) -> None:
        self.has_ids = has_ids
        self.texts: dict[int, str] = {}
        self._numbers: dict[str, int] = {}

    def ids(self, tokens: list[str], ids: list[int] | None) -> list[int]:
        """The numbers of some tokens. Raises FeatureError when a number already stands for another text."""
        if len(self.texts) + len(tokens) > MOST_TOKENS:
            raise FeatureError(f"more than {MOST_TOKENS:,} different tokens: no model has so many")
        if not self.has_ids or ids is None:
            found = [self._numbers.setdefault(token, len(self._numbers)) for token in tokens]
            self.texts.update(zip(found, tokens, strict=True))
            return found
        for number, token in zip(ids, tokens, strict=True):
            if self.texts.setdefault(number, token) != token:
                known = self.texts[number]
                raise FeatureError(f"token {number} is {short(token)!r} in one place and {short(known)!r} in another")
        return ids

    def table(self) -> dict[str, list[Any]]:
        """The columns of vocabulary.parquet."""
        numbers = sorted(self.texts)
        return {"token": numbers, "text": [self.texts[number] for number in numbers]}


class IndexWriter:
    """Takes features layer by layer and writes them to the files of an index; memory holds one layer.

    `labels_left_out` counts labels that are empty or the second of their feature and kind.
    """

    def __init__(self, folder: Path, *, has_ids: bool) -> None:
        self.folder = folder
        self.vocabulary = Vocabulary(has_ids=has_ids)
        self.n_features: list[int] = []
        self.labels: dict[Kind, dict[tuple[int, int], Label]] = {kind: {} for kind in KINDS}
        self.labels_left_out = 0
        self._files: dict[str, pq.ParquetWriter] = {}
        self._rows: list[dict[str, Any]] = []
        self._last, self._is_sorted = (-1, -1), True

    def add_layer(self, features: dict[int, PortableFeature], n_features: int) -> None:
        """Add the next layer; features that are not given are silent."""
        if n_features > MOST_FEATURES:
            raise FeatureError(f"layer {len(self.n_features)} has {n_features:,} features, more than {MOST_FEATURES:,}")
        layer = len(self.n_features)
        self.n_features.append(n_features)
        for first in range(0, n_features, ROW_GROUP):
            part = range(first, min(first + ROW_GROUP, n_features))
            self._write("stats", STATS, _stats_columns(features, layer, part))
        for feature in features.values():
            self._add_labels(feature)
        in_order = [features[feature] for feature in sorted(features)]
        for feature in in_order:
            self.add_examples(layer, feature.feature, feature.examples)
        rows = [row for feature in in_order for row in self._effect_rows(feature)]
        if rows:
            self._write("effects", EFFECTS, {column: [row[column] for row in rows] for column in EFFECTS.names})

    def finish(self, header: IndexHeader) -> None:
        """Write the vocabulary, the labels and, last, the header."""
        self._flush()
        self.close()
        if not self._is_sorted:
            _sort(self.folder / "examples.parquet")
        write_table(self.folder / "active.parquet", {column: [] for column in ACTIVE.names}, ACTIVE)
        write_table(self.folder / "vocabulary.parquet", self.vocabulary.table(), VOCABULARY)
        for kind, labels in self.labels.items():
            if labels:
                write_labels(self.folder, kind, labels.values())
        files = record_files(self.folder, sorted(path.name for path in self.folder.glob("*.parquet")))
        replace(header, n_features=tuple(self.n_features), files=files).save(self.folder)

    def close(self) -> None:
        """Let go of the files, whatever happened."""
        for file in self._files.values():
            file.close()

    def _add_labels(self, feature: PortableFeature) -> None:
        for kind, label in feature.labels:
            key = (feature.layer, feature.feature)
            if not label.label or key in self.labels[kind]:
                self.labels_left_out += 1
            else:
                self.labels[kind][key] = label

    def add_examples(self, layer: int, feature: int, examples: list[PortableExample]) -> None:
        """Add examples of a feature, in any order of features: those of a layer may come before the layer itself."""
        self._is_sorted &= (layer, feature) >= self._last or not examples
        self._last = max(self._last, (layer, feature))
        for example in sorted(examples, key=_order):
            self._rows.append({
                "layer": layer, "feature": feature, "kind": example.kind, "band": example.band, "rank": example.rank,
                "priority": None, "value": example.value, "position": example.position, "peak": example.peak,
                "document": example.document, "activations": example.activations,
                "tokens": self.vocabulary.ids(example.tokens, example.ids),
            })  # fmt: skip
        if len(self._rows) >= ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        self._write("examples", EXAMPLES, {name: [row[name] for row in self._rows] for name in EXAMPLES.names})
        self._rows = []

    def _effect_rows(self, feature: PortableFeature) -> Iterator[dict[str, Any]]:
        if feature.promoted.tokens or feature.suppressed.tokens or feature.nearest:
            row: dict[str, Any] = {name: [] for name in EFFECTS.names}
            row |= {"layer": feature.layer, "feature": feature.feature}
            row |= self._token_effects("promoted", feature.promoted)
            row |= self._token_effects("suppressed", feature.suppressed)
            row["nearest_layers"] = [feature.layer] * len(feature.nearest)
            row["nearest_features"] = [other for other, _ in feature.nearest]
            row["nearest_cosine"] = [cosine for _, cosine in feature.nearest]
            yield row

    def _token_effects(self, name: str, effects: TokenEffects) -> dict[str, list[Any]]:
        return {name: self.vocabulary.ids(effects.tokens, effects.ids), f"{name}_by": effects.weights}

    def _write(self, name: str, schema: pa.Schema, columns: dict[str, Any]) -> None:
        if name not in self._files:
            path = self.folder / f"{name}.parquet"
            self._files[name] = pq.ParquetWriter(path, schema, compression="zstd", write_statistics=True)
        self._files[name].write_table(pa.table(columns, schema=schema), row_group_size=ROW_GROUP)


def _sort(path: Path) -> None:
    """Put the examples in order; what does not fit into memory is sorted on disk."""
    import duckdb

    order = f"layer, feature, kind <> '{TOP}', CASE WHEN kind = '{TOP}' THEN 0 ELSE band END, rank"
    with replacing(path) as temporary, duckdb.connect() as database:
        ordered = temporary.with_name("ordered.parquet")
        database.execute("SET memory_limit = '1GB'; SET threads = 1")
        database.execute(f"SET temp_directory = {_quoted(temporary.parent)}")
        query = f"SELECT * FROM read_parquet({_quoted(path)}) ORDER BY {order}"
        database.execute(f"COPY ({query}) TO {_quoted(ordered)} (FORMAT parquet, ROW_GROUP_SIZE {ROW_GROUP})")
        with pq.ParquetFile(ordered) as rows, pq.ParquetWriter(temporary, EXAMPLES, compression="zstd") as file:
            for batch in rows.iter_batches(ROW_GROUP, columns=EXAMPLES.names):
                file.write_table(pa.Table.from_batches([batch]).cast(EXAMPLES), row_group_size=ROW_GROUP)


def _quoted(path: Path) -> str:
    return "'" + str(path).replace("'", "''") + "'"


@contextmanager
def writing_index(folder: str | Path, *, has_ids: bool) -> Iterator[IndexWriter]:
    """An `IndexWriter` for a new folder, which appears when the block ends well, or not at all."""
    with replacing(refuse_existing(folder), folder=True) as temporary:
        writer = IndexWriter(temporary, has_ids=has_ids)
        try:
            yield writer
        finally:
            writer.close()


def import_pack(folder: str | Path, out: str | Path, *, progress: Progress = silent) -> int:
    """Turn a feature pack of anybody's into an index in the new folder `out`; return how many features it has.

    A pack of ours comes back as the index it was written from, without active places, effects other than tokens, and
    tokens that no example shows. Packs of others have no token numbers and no places: see docs/feature-formats.md.
    Raises FeatureError, naming the file, for whatever is damaged; then nothing is written.
    """
    pack = FeaturePack.open(folder)
    total, done = sum(pack.n_features), 0
    with writing_index(out, has_ids=pack.header is not None) as writer:
        found: dict[int, PortableFeature] = {}
        features = pack.each()
        for n_features in pack.n_features:
            for _ in range(n_features):
                feature = next(features)
                writer.add_examples(feature.layer, feature.feature, feature.examples)
                found[feature.feature] = replace(feature, examples=[])
                progress("reading features", done := done + 1, total)
            writer.add_layer(found, n_features)
            found = {}
        name = pack.folder.parent.name if pack.folder.name == "features" else pack.folder.name
        writer.finish(pack.header or foreign_header(name, "circuit-tracer feature pack", pack.n_places))
    return total


def foreign_header(dictionary: str, source: str, n_places: int, **known: Any) -> IndexHeader:
    """A header that says no more than is known; `settings` say where the numbers come from."""
    texts = {"model": "", "corpus": "", **{name: value for name, value in known.items() if name != "settings"}}
    settings = {"imported_from": source, "unknown": UNKNOWN_ELSEWHERE, **known.get("settings", {})}
    return IndexHeader(
        dictionary=dictionary, dictionary_digest="", n_features=(), corpus_fingerprint="", tokenizer="", context=0,
        k=0, samples=0, window=0, sampled_places=0, n_places=n_places, n_documents=0, settings=settings,
        date=datetime.now(UTC).date().isoformat(), **texts,
    )  # fmt: skip


def _order(example: PortableExample) -> tuple[bool, int, int]:
    """The order of examples.parquet: top ones first, then samples by octave."""
    return (False, 0, example.rank) if example.kind == TOP else (True, example.band, example.rank)


def _total(feature: PortableFeature) -> int | None:
    """The sum of all activations in whole units, which only an exact mean gives back; shards are merged by it."""
    total = round(feature.stats.mean * feature.stats.count / UNIT) if feature.is_exact else -1
    return total if 0 <= total < INT64_END else None


def _stats_columns(features: dict[int, PortableFeature], layer: int, part: range) -> dict[str, Any]:
    nothing = silent_stats(layer, 0)
    stats = [features[number].stats if number in features else nothing for number in part]
    histograms = np.stack([each.histogram for each in stats]) if stats else np.zeros((0, HISTOGRAM_BINS), np.int64)
    columns = {name: [getattr(each, name) for each in stats] for name in ("count", "mean", "maximum", "first", "last")}
    flat = pa.array(histograms.reshape(-1))
    return {
        "layer": [layer] * len(part),
        "feature": list(part),
        **columns,
        "total": [_total(features[number]) if number in features else None for number in part],
        "histogram": pa.FixedSizeListArray.from_arrays(flat, HISTOGRAM_BINS),
    }
