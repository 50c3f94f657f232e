"""``search.parquet``: which features go with which word, made once at the end of indexing.

A word counts for a feature by how strongly the feature is active on it over its examples, a little when it only
stands near by, and when it is among the tokens that the feature promotes. Tokens are joined to words first: "pet"
and "it" are "petit". Text in scripts without spaces (from U+2E80) keeps its tokens as words.
"""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lucida.atomic import replacing
from lucida.features.index import FeatureIndex
from lucida.features.keyed import KeyedTable
from lucida.features.reading.words import stem, words_of
from lucida.models.cache import cache_root
from lucida.progress import Progress, silent

NAME = "search.parquet"
SCHEMA = pa.schema([("stem", pa.string()), ("word", pa.string()), ("number", pa.int32()), ("weight", pa.float32())])
"""Sorted by stem, word and feature number. `weight` is BM25's part for one word, between 0 and 1."""

NEAR = 0.15
"""What a word near by counts, by the strength of its example, beside 1 for one on which the feature is as active as it
ever is: enough to find a feature of full stops after somebody cried by "cry", behind those of the word itself."""
PROMOTED = 2.0
"""What a promoted token counts for the strongest of them; the others less, by their effect."""
WORDS_KEPT = 64
"""Words kept of each feature, those with the largest weight."""
SATURATION = 2.0
"""BM25's k1: a word that counts this much, in a feature with the average number of examples, weighs a half."""
FEATURES_AT_ONCE = 256
_ROW_GROUP = 1 << 15
_MIX = np.uint64(0x9E3779B97F4A7C15)
_SPACELESS = 0x2E80


def build_search(folder: str | Path, *, progress: Progress = silent) -> Path:
    """Write the search table of an index, from its examples and, where computed, its effects; return `search_path`.

    Labels are not in it: they change, and are searched as they are. Raises FeatureError for a damaged index.
    """
    index = FeatureIndex.open(folder)
    words = _Words(index)
    found = [np.zeros(0, dtype=_COUNTED)]
    for first in range(0, len(index.space), FEATURES_AT_ONCE):
        progress("search table", first, len(index.space))
        found.append(_strongest(np.concatenate(list(_counted(index, words, first)))))
    table = _table(np.concatenate(found), words)
    path = search_path(index)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        pq.write_table(
            table.replace_schema_metadata({"made_from": made_from(index)}), temporary,
            compression="zstd", row_group_size=_ROW_GROUP, write_statistics=True,
        )  # fmt: skip
    progress("search table", len(index.space), len(index.space))
    return path


def search_path(index: FeatureIndex) -> Path:
    """Where the search table of an index is kept: in its folder, or in the cache if nothing may be written there, as in
    an installed package; that of a thin index, which ships in one, always.
    """
    if "thin" not in index.header.settings and os.access(index.folder, os.W_OK):
        return index.folder / NAME
    digest = hashlib.sha256(made_from(index).encode()).hexdigest()
    return cache_root() / "search" / f"{digest[:16]}.parquet"


def made_from(index: FeatureIndex) -> str:
    """What the search table of an index follows from: it is made again when this has changed."""
    names = ("examples.parquet", "effects.parquet", "vocabulary.parquet")
    return " ".join(index.header.files[name].sha256 for name in names if name in index.header.files)


def has_search(index: FeatureIndex) -> bool:
    """Whether an index has a search table that is not older than its other files."""
    try:
        metadata = pq.read_schema(search_path(index)).metadata or {}
    except (pa.ArrowException, OSError):
        return False
    return metadata.get(b"made_from", b"").decode() == made_from(index)


_COUNTED = np.dtype([("number", np.int64), ("word", np.int64), ("weight", np.float64)])


@dataclass
class _Words:
    """All words met so far, and which of them each token, and each run of tokens, is made of."""

    index: FeatureIndex
    ids: dict[str, int] = field(default_factory=dict)
    runs: dict[int, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        vocabulary = self.index.vocabulary
        size = max(vocabulary, default=-1) + 1
        self.begins, self.ends = np.ones(size, dtype=bool), np.ones(size, dtype=bool)
        for token, text in vocabulary.items():
            self.begins[token], self.ends[token] = not _joins(text[:1]), not _joins(text[-1:])

    def of_text(self, text: str) -> list[int]:
        """The numbers of the words in a text."""
        return [self.ids.setdefault(word, len(self.ids)) for word in words_of(text)]

    def of_run(self, key: int, tokens: NDArray[np.int32]) -> list[int]:
        """The numbers of the words in a run of tokens, whose hash is `key`."""
        if key not in self.runs:
            self.runs[key] = self.of_text("".join(self.index.texts(tokens.tolist())))
        return self.runs[key]


def _joins(letter: str) -> bool:
    """Whether a word may go on across the border of a token here."""
    return letter.isalnum() and ord(letter) < _SPACELESS


def _counted(index: FeatureIndex, words: _Words, first: int) -> Iterator[NDArray]:
    """What every word counts for every feature of a block, as rows of `_COUNTED`; the same pair may come twice."""
    stop = min(first + FEATURES_AT_ONCE, len(index.space))
    examples = index.example_table
    rows = examples.rows_between(first, stop)
    per_feature = np.diff(examples.starts[first : stop + 1])
    average = max(1.0, len(examples) / max(1, int((np.diff(examples.starts) > 0).sum())))
    length = np.maximum(per_feature, 1) / average
    read = _words_read(index, words, rows, np.repeat(np.arange(first, stop), per_feature))
    promoted = _words_promoted(words, index.effect_table, first, stop)
    for part, norm in ((read, length), (promoted, np.ones_like(length))):
        part["weight"] /= norm[part["number"] - first]
        yield part


def _words_read(index: FeatureIndex, words: _Words, rows: pa.Table, number: NDArray[np.int64]) -> NDArray:
    """A row for each word of each example."""
    tokens, lengths = _flat(rows, "tokens")
    activations, _ = _flat(rows, "activations")
    if len(tokens) == 0:
        return np.zeros(0, dtype=_COUNTED)
    example = np.repeat(np.arange(len(rows)), lengths)
    begins = words.begins[tokens]
    begins[1:] |= words.ends[tokens[:-1]] | (example[1:] != example[:-1])
    begins[0] = True
    starts = np.flatnonzero(begins)
    # A hash of the tokens of each run, in their order: equal runs are looked up once.
    place = np.arange(len(tokens)) - np.repeat(starts, np.diff(np.append(starts, len(tokens))))
    mixed = (tokens.astype(np.uint64) + np.uint64(1)) * _MIX
    mixed = (mixed ^ (mixed >> np.uint64(29))) * (np.uint64(2) * place.astype(np.uint64) + np.uint64(1))
    keys, at, which = np.unique(np.add.reduceat(mixed, starts), return_index=True, return_inverse=True)
    ends = np.append(starts, len(tokens))[1:]
    made_of = [words.of_run(int(key), tokens[starts[i] : ends[i]]) for key, i in zip(keys, at, strict=True)]
    owner = number[example[starts]]
    strongest = np.minimum(np.maximum.reduceat(np.abs(activations), starts) / np.maximum(index.maxima[owner], 1e-12), 1)
    of_example = np.zeros(len(rows))
    np.maximum.at(of_example, example[starts], strongest)
    weight = np.maximum(strongest, NEAR * of_example[example[starts]])
    counts = np.asarray([len(ids) for ids in made_of])
    flat = np.asarray([word for ids in made_of for word in ids], dtype=np.int64)
    firsts = np.cumsum(counts) - counts
    repeat = counts[which]
    source = np.repeat(np.arange(len(which)), repeat)
    within = np.arange(len(source)) - np.repeat(np.cumsum(repeat) - repeat, repeat)
    found = np.zeros(len(source), dtype=_COUNTED)
    found["number"], found["weight"] = owner[source], weight[source]
    found["word"] = flat[firsts[which[source]] + within]
    return found


def _words_promoted(words: _Words, effects: KeyedTable | None, first: int, stop: int) -> NDArray:
    if effects is None:
        return np.zeros(0, dtype=_COUNTED)
    rows = effects.rows_between(first, stop)
    owners = np.repeat(np.arange(first, stop), np.diff(effects.starts[first : stop + 1]))
    found = []
    columns = (rows["promoted"].to_pylist(), rows["promoted_by"].to_pylist())
    for number, tokens, by in zip(owners.tolist(), *columns, strict=True):
        for token, effect in zip(tokens or (), by or (), strict=False):
            weight = PROMOTED * max(effect, 0.0) / max(by[0], 1e-12)
            found += [(number, word, weight) for word in words.of_run(-1 - token, np.asarray([token], dtype=np.int32))]
    return np.asarray(found, dtype=_COUNTED)


def _strongest(counted: NDArray) -> NDArray:
    """Each pair once, with the sum of what it counts; of each feature the `WORDS_KEPT` that count most."""
    if len(counted) == 0:
        return counted
    n_words = int(counted["word"].max()) + 1
    pairs, which = np.unique(counted["number"] * n_words + counted["word"], return_inverse=True)
    found = np.zeros(len(pairs), dtype=_COUNTED)
    found["number"], found["word"] = pairs // n_words, pairs % n_words
    found["weight"] = np.bincount(which, counted["weight"])
    found = found[np.lexsort((found["word"], -found["weight"], found["number"]))]
    rank = np.arange(len(found)) - np.searchsorted(found["number"], found["number"])
    return found[rank < WORDS_KEPT]


def _table(found: NDArray, words: _Words) -> pa.Table:
    texts = list(words.ids)
    stems = [stem(word) for word in texts]
    order_of = np.empty(len(texts), dtype=np.int64)
    order_of[sorted(range(len(texts)), key=lambda i: (stems[i], texts[i]))] = np.arange(len(texts))
    found = found[np.lexsort((found["number"], order_of[found["word"]]))]
    which = pa.array(found["word"].astype(np.int32))
    weight = found["weight"] / (found["weight"] + SATURATION)
    columns = [
        pa.DictionaryArray.from_arrays(which, pa.array(stems, pa.string())).cast(pa.string()),
        pa.DictionaryArray.from_arrays(which, pa.array(texts, pa.string())).cast(pa.string()),
        pa.array(found["number"].astype(np.int32)),
        pa.array(weight.astype(np.float32)),
    ]
    return pa.table(columns, schema=SCHEMA)


def _flat(rows: pa.Table, name: str) -> tuple[NDArray, NDArray[np.int64]]:
    column = rows[name].combine_chunks()
    return column.flatten().to_numpy(zero_copy_only=False), np.diff(column.offsets.to_numpy()).astype(np.int64)
