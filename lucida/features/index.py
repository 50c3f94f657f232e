"""A feature index on disk: look up what is known of one feature, in milliseconds, with no model present."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lucida.errors import FeatureError
from lucida.features.header import IndexHeader
from lucida.features.keyed import KeyedTable
from lucida.features.labels import Label, best_labels, write_labels
from lucida.features.space import FeatureSpace
from lucida.features.tables import EFFECTS, EXAMPLES, HISTOGRAM_BINS, STATS, TOP, VOCABULARY, read_table
from lucida.models.cache import sha256_of

if TYPE_CHECKING:
    from lucida.dictionaries import Dictionary
    from lucida.features.reading.card import FeatureCard
    from lucida.features.reading.search import Match, Similar

NEEDED = ("stats.parquet", "examples.parquet", "vocabulary.parquet")
"""Files without which an index cannot be read; the others come later or are not needed to read."""


@dataclass(frozen=True, eq=False)
class FeatureStats:
    """When a feature is active. `frequency` is `count` over the places looked at; `first`, `last` are places or -1.

    `histogram` counts activations in bins of a quarter octave (`lucida.features.tables`).
    """

    layer: int
    feature: int
    count: int
    frequency: float
    mean: float
    maximum: float
    first: int
    last: int
    histogram: NDArray[np.int64]

    @property
    def is_silent(self) -> bool:
        """Whether it never was active in the corpus."""
        return self.count == 0


@dataclass(frozen=True, eq=False)
class Example:
    """A place where a feature is active, with the text around it; `tokens[peak]` is the place itself.

    `kind` is "top" (the strongest of distinct documents) or "sample" (drawn uniformly within its octave `band`).
    """

    kind: str
    band: int
    rank: int
    value: float
    position: int
    document: int
    peak: int
    tokens: NDArray[np.int32]
    activations: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class FeatureEffects:
    """What a feature does and what drives it; arrays side by side, the strongest first (`lucida.features.tables`)."""

    promoted: NDArray[np.int32]
    promoted_by: NDArray[np.float32]
    suppressed: NDArray[np.int32]
    suppressed_by: NDArray[np.float32]
    excited_by_tokens: NDArray[np.int32]
    excited_by_tokens_weight: NDArray[np.float32]
    input_layers: NDArray[np.int16]
    input_features: NDArray[np.int32]
    input_weights: NDArray[np.float32]
    input_expected: NDArray[np.float32]
    nearest_layers: NDArray[np.int16]
    nearest_features: NDArray[np.int32]
    nearest_cosine: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class FeatureIndex:
    """What a corpus says of every feature of a dictionary. Open it with `FeatureIndex.open`.

    Every method raises FeatureError for a feature that does not exist and for damaged files.
    """

    folder: Path
    header: IndexHeader

    @classmethod
    def open(cls, folder: str | Path, *, check: bool = False) -> "FeatureIndex":
        """The index in `folder`, its files held against their recorded sizes (with `check` their sha256 too).

        Raises FeatureError when the folder is no index, one that is not finished, or a file of it is missing, cut
        short or altered.
        """
        folder = Path(folder).expanduser()
        header = IndexHeader.open(folder)
        if not header.complete:
            done, wanted = header.tiles
            raise FeatureError(
                f"the index {folder} is unfinished: it has seen {done:,} of {wanted:,} blocks of its text; give the "
                "lucida index command that made it once more, and it goes on from there"
            )
        for name in sorted({*NEEDED, *(name for name in header.files if not name.startswith("labels/"))}):
            path, record = folder / name, header.files.get(name)
            found = path.stat().st_size if path.is_file() else None
            if found is None:
                raise FeatureError(f"the index {folder} lacks {name}; index again")
            if record is not None and found != record.size:
                raise FeatureError(
                    f"{path} has {found:,} bytes, {record.size:,} were written: cut short or altered; index again"
                )
            if check and record is not None and sha256_of(path) != record.sha256:
                raise FeatureError(f"{path} is not what was written (its sha256 differs); index again")
        return cls(folder, header)

    def check(self, dictionary: "Dictionary | None") -> None:
        """Raise FeatureError, naming both, unless this index is of `dictionary` (None: the model's own neurons)."""
        name = "neurons" if dictionary is None else dictionary.name
        if dictionary is None:
            fits = self.header.dictionary == name
        else:
            shape = FeatureSpace.of(dictionary).n_features
            fits = dictionary.source.fingerprint == self.header.dictionary_digest and shape == self.space.n_features
        if not fits:
            found = f"{self.header.dictionary} ({_describe(self.space, self.header.dictionary_digest)})"
            digest = "" if dictionary is None else dictionary.source.fingerprint
            asked = name if dictionary is None else f"{name} ({_describe(FeatureSpace.of(dictionary), digest)})"
            raise FeatureError(f"the index {self.folder} is of {found}, not of {asked}; give the index of {name}")

    @cached_property
    def space(self) -> FeatureSpace:
        """The features, numbered."""
        return self.header.space

    # --- one feature ------------------------------------------------------------------------------

    def stats(self, layer: int, feature: int) -> FeatureStats:
        """When the feature is active, and how strongly."""
        number, columns = self.space.number(layer, feature), self._stats
        count = int(columns["count"][number])
        return FeatureStats(
            layer=layer, feature=feature, count=count, frequency=count / max(1, self.header.n_places),
            mean=float(columns["mean"][number]), maximum=float(columns["maximum"][number]),
            first=int(columns["first"][number]), last=int(columns["last"][number]),
            histogram=columns["histogram"][number],
        )  # fmt: skip

    def examples(self, layer: int, feature: int, kind: str | None = None) -> list[Example]:
        """The feature's examples: the top ones by rank, then samples, the strongest band first; [] when silent."""
        found = _examples(self.example_table.rows(self.space.number(layer, feature)))
        found = [example for example in found if kind is None or example.kind == kind]
        return sorted(found, key=_reading_order)

    def effects(self, layer: int, feature: int) -> FeatureEffects | None:
        """What the feature does and what drives it, or None when that was not computed."""
        number = self.space.number(layer, feature)
        if self.effect_table is None:
            return None
        rows = self.effect_table.rows(number)
        if len(rows) == 0:
            return None
        columns = {}
        for name in (field.name for field in fields(FeatureEffects)):
            column = rows.column(name).combine_chunks()
            columns[name] = column.flatten().to_numpy(zero_copy_only=False)
        return FeatureEffects(**columns)

    def label(self, layer: int, feature: int) -> Label | None:
        """The best label: a person's, else a language model's, else the automatic one, else None."""
        self.space.number(layer, feature)
        return self.labels.get((layer, feature))

    # --- all features -----------------------------------------------------------------------------

    @property
    def labels(self) -> dict[tuple[int, int], Label]:
        """The best label of every labelled feature; read again when a file of labels has changed."""
        stamp = []
        for path in sorted((self.folder / "labels").glob("*.parquet")):
            found = path.stat()
            stamp.append((path.name, found.st_mtime_ns, found.st_size))
        cached = self.__dict__.get("_labels")
        if cached is None or cached[0] != stamp:
            cached = (stamp, best_labels(self.folder))
            self.__dict__["_labels"] = cached
        return cached[1]

    @cached_property
    def frequencies(self) -> NDArray[np.float64]:
        """For the number of each feature, the share of places where it is active."""
        return self._stats["count"] / max(1, self.header.n_places)

    @cached_property
    def maxima(self) -> NDArray[np.float32]:
        """For the number of each feature, its largest activation; 0 where it is silent."""
        return self._stats["maximum"]

    def each(self, kind: str | None = None) -> Iterator[tuple[int, int, list[Example]]]:
        """Layer, feature and examples (as `examples` gives them) of every feature in turn, silent ones too."""
        step = 256
        for first in range(0, len(self.space), step):
            numbers = np.arange(first, min(first + step, len(self.space)))
            found = _examples(self.example_table.rows_between(first, int(numbers[-1]) + 1))
            starts = self.example_table.starts[first : int(numbers[-1]) + 2] - self.example_table.starts[first]
            layers, features = self.space.layer_and_feature(numbers)
            for i, (layer, feature) in enumerate(zip(layers.tolist(), features.tolist(), strict=True)):
                own = found[int(starts[i]) : int(starts[i + 1])]
                yield layer, feature, sorted((e for e in own if kind is None or e.kind == kind), key=_reading_order)

    def sql(self, query: str) -> pa.Table:
        """What a DuckDB query says of this index; its tables are views: stats, examples, active, effects, labels...

        Raises FeatureError, with DuckDB's words, for a query that cannot be run.
        """
        import duckdb

        with duckdb.connect() as connection:
            for path in sorted(self.folder.glob("*.parquet")):
                connection.from_parquet(str(path)).create_view(path.stem)
            if labels := [str(path) for path in sorted((self.folder / "labels").glob("*.parquet"))]:
                connection.from_parquet(labels).create_view("labels")
            try:
                return connection.sql(query).to_arrow_table()
            except (duckdb.Error, AttributeError) as error:
                raise FeatureError(f"DuckDB says: {str(error).splitlines()[0]}") from error

    # --- finding and naming -----------------------------------------------------------------------

    def search(self, text: str, *, count: int = 20) -> "list[Match]":
        """Features by full text: labels, the words they fire on and promote. See `lucida.features.reading.search`."""
        from lucida.features.reading.search import search

        return search(self, text, count=count)

    def similar(self, layer: int, feature: int) -> "list[Similar]":
        """The features whose decoders are nearest, the nearest first; [] when effects were not computed."""
        from lucida.features.reading.search import similar

        return similar(self, layer, feature)

    def card(self, layer: int, feature: int) -> "FeatureCard":
        """Everything about one feature, ready to read: ``print(index.card(12, 345).text())``."""
        from lucida.features.reading.card import card

        return card(self, layer, feature)

    def set_label(self, layer: int, feature: int, label: str, *, author: str) -> Label:
        """Keep a person's label, which is shown before any other; an empty one takes the person's label away.

        Raises FeatureError without an author, SaveError when the folder cannot be written.
        """
        self.space.number(layer, feature)
        if not author.strip():
            raise FeatureError("a person's label needs an author; say who gives it")
        date = datetime.now(UTC).isoformat(timespec="seconds")
        given = Label(layer, feature, " ".join(label.split()), author.strip(), "by hand", date=date)
        write_labels(self.folder, "human", [given])
        return given

    # --- text -------------------------------------------------------------------------------------

    def text(self, token_id: int) -> str:
        """How a token reads, with its leading space if it has one."""
        found = self.vocabulary.get(int(token_id))
        if found is None:
            raise FeatureError(f"token {int(token_id)} is not in the vocabulary of {self.folder}; index again")
        return found

    def texts(self, ids: Iterable[int] | NDArray[np.integer]) -> list[str]:
        """How tokens read, one by one."""
        return [self.text(int(token)) for token in ids]

    # --- files ------------------------------------------------------------------------------------

    @cached_property
    def vocabulary(self) -> dict[int, str]:
        """How every token reads."""
        table = read_table(self.folder / "vocabulary.parquet", VOCABULARY)
        return dict(zip(table["token"].to_pylist(), (text or "" for text in table["text"].to_pylist()), strict=True))

    @cached_property
    def _stats(self) -> dict[str, NDArray]:
        path = self.folder / "stats.parquet"
        table = read_table(path, STATS)
        expected = self.space.layer_and_feature(np.arange(len(self.space)))
        found = (table["layer"].to_numpy(), table["feature"].to_numpy())
        if not all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True)):
            raise FeatureError(
                f"{path} should have one row for each of {len(self.space):,} features, in order; index again"
            )
        unknown = {"count": 0, "mean": 0.0, "maximum": 0.0, "first": -1, "last": -1}
        columns = {name: table[name].fill_null(value).to_numpy() for name, value in unknown.items()}
        histogram = table["histogram"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        if len(histogram) != len(self.space) * HISTOGRAM_BINS:
            raise FeatureError(f"{path} has features without a histogram; index again")
        return columns | {"histogram": histogram.reshape(-1, HISTOGRAM_BINS)}

    @cached_property
    def example_table(self) -> KeyedTable:
        """The file of examples."""
        # What only merging needs is not read.
        read = pa.schema([field for field in EXAMPLES if field.name != "priority"])
        return KeyedTable(self.folder / "examples.parquet", read, self.space)

    @cached_property
    def effect_table(self) -> KeyedTable | None:
        """The file of effects; None when they were not computed."""
        path = self.folder / "effects.parquet"
        return KeyedTable(path, EFFECTS, self.space) if path.exists() else None


def _describe(space: FeatureSpace, digest: str) -> str:
    return f"{len(space):,} features, fingerprint {digest[:12]}"


def _reading_order(example: Example) -> tuple[bool, int, int]:
    return (True, -example.band, example.rank) if example.kind != TOP else (False, 0, example.rank)


def _examples(rows: pa.Table) -> list[Example]:
    """The rows of examples.parquet as they stand there."""
    # What an imported index does not know is null there.
    unknown = {"kind": TOP, "band": 0, "rank": 0, "value": 0.0, "position": -1, "document": -1, "peak": 0}
    plain = [rows[name].fill_null(value).to_pylist() for name, value in unknown.items()]
    tokens, activations = (_lists(rows, name) for name in ("tokens", "activations"))
    return [Example(*row) for row in zip(*plain, tokens, activations, strict=True)]


def _lists(rows: pa.Table, name: str) -> list[NDArray]:
    column = rows[name].combine_chunks()
    values, offsets = column.flatten().to_numpy(zero_copy_only=False), column.offsets.to_numpy()
    offsets = (offsets - offsets[0]).tolist() if len(offsets) else [0]
    return [values[a:b] for a, b in pairwise(offsets)]
