"""Find features: by words (BM25 over what they fire on, what they promote and their labels), and by likeness."""

from collections import Counter
from dataclasses import dataclass
from math import log

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from lucida.errors import FeatureError
from lucida.features.index import FeatureIndex
from lucida.features.reading.search_table import has_search, search_path
from lucida.features.reading.words import stem, words_of

OTHER_FORM = 0.6
"""What another form of the word counts (smallness for small), beside 1 for the very word."""
LABEL = 2.0
"""What a word in a label counts, beside 1 for a word that the feature always fires on."""
SATURATION = 0.5
"""BM25's k1 for labels."""


@dataclass(frozen=True)
class Match:
    """A feature that a search found: its label ("" without one), its score, and the words that were found."""

    layer: int
    feature: int
    score: float
    label: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Similar:
    """A feature whose decoder points the same way, with the cosine and its label ("" without one)."""

    layer: int
    feature: int
    cosine: float
    label: str


def search(index: FeatureIndex, text: str, *, count: int = 20) -> list[Match]:
    """The features that go best with the words of `text`, the best first; [] when no word is known.

    The score is the sum over the words of idf (by stem) times BM25's weight of the feature's examples and promoted
    tokens, plus the same for its label (Robertson and Zaragoza, 2009). Forms of a word meet ("smallness" finds
    small), the very word counts more. Raises FeatureError when `text` has no word, or the index no search table.
    """
    asked = list(dict.fromkeys(words_of(text)))
    if not asked:
        raise FeatureError(f"{text!r} has no word to search for; give a word such as small")
    if count < 1:
        raise FeatureError(f"{count} features were asked for; ask for at least one")
    found = [*_in_examples(index, asked), *_in_labels(index, asked)]
    scores = np.zeros(len(index.space))
    for each in found:
        scores[each.number] += each.score
    top = np.argpartition(-scores, min(count, len(scores)) - 1)[:count] if len(scores) else np.zeros(0, dtype=np.int64)
    best = sorted((number for number in top.tolist() if scores[number] > 0), key=lambda n: (-scores[n], n))
    layers, features = index.space.layer_and_feature(np.asarray(best, dtype=np.int64))
    labels, result = index.labels, []
    for number, layer, feature in zip(best, layers.tolist(), features.tolist(), strict=True):
        label = labels.get((layer, feature))
        words = dict.fromkeys(word for each in found if (word := each.word_of(number)))
        result.append(Match(layer, feature, float(scores[number]), label.label if label else "", tuple(words)))
    return result


def similar(index: FeatureIndex, layer: int, feature: int) -> list[Similar]:
    """The features whose decoders are nearest by cosine, the nearest first; [] when effects were not computed."""
    effects = index.effects(layer, feature)
    if effects is None:
        return []
    found = []
    columns = (effects.nearest_layers, effects.nearest_features, effects.nearest_cosine)
    for other_layer, other, cosine in zip(*(column.tolist() for column in columns), strict=True):
        label = index.label(other_layer, other)
        found.append(Similar(other_layer, other, cosine, label.label if label else ""))
    return found


@dataclass(frozen=True, eq=False)
class _Found:
    """What one asked word adds to the scores of features (ascending, each once), and the form it has in each."""

    number: NDArray[np.int64]
    form: NDArray[np.int64]
    score: NDArray[np.float64]
    forms: list[str]

    def word_of(self, number: int) -> str | None:
        """The form of the word that one feature goes with, None when it does not."""
        at = int(np.searchsorted(self.number, number))
        return self.forms[self.form[at]] if at < len(self.number) and self.number[at] == number else None


def _found(
    number: NDArray[np.int64],
    form: NDArray[np.int64],
    weight: NDArray[np.float64],
    forms: list[str],
    *,
    asked: str,
    n_all: int,
) -> _Found:
    """Score the rows of one stem: of several forms of the word in one feature the best one counts."""  # fmt: skip
    weight = weight * np.asarray([1.0 if text == asked else OTHER_FORM for text in forms])[form]
    order = np.lexsort((-weight, number))
    distinct, first = np.unique(number[order], return_index=True)
    chosen = order[first]
    # A stem that half of all features go with still tells a little.
    idf = log(1 + (n_all - len(distinct) + 0.5) / (len(distinct) + 0.5))
    return _Found(distinct, form[chosen], idf * weight[chosen], forms)


def _in_examples(index: FeatureIndex, asked: list[str]) -> list[_Found]:
    table = _postings(index, {stem(word) for word in asked})
    parts = []
    for word in asked:
        rows = table.filter(pc.field("stem") == stem(word)).combine_chunks()
        if len(rows) == 0:
            continue
        form = rows["word"].cast(pa.string()).dictionary_encode().combine_chunks()
        numbers, weights = rows["number"].to_numpy().astype(np.int64), rows["weight"].to_numpy().astype(np.float64)
        codes = form.indices.to_numpy().astype(np.int64)
        parts.append(_found(numbers, codes, weights, form.dictionary.to_pylist(), asked=word, n_all=len(index.space)))
    return parts


def _postings(index: FeatureIndex, stems: set[str]) -> pa.Table:
    """The row groups of the search table that may hold one of these stems."""
    path = search_path(index)
    try:
        metadata, bounds = _bounds(index)
        groups = [i for i, (low, high) in enumerate(bounds) if any(low <= wanted <= high for wanted in stems)]
        with pq.ParquetFile(path, metadata=metadata, read_dictionary=["stem", "word"]) as file:
            return file.read_row_groups(groups, use_threads=False)
    except (pa.ArrowException, OSError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise FeatureError(f"{path} is damaged ({reason}); make it again with build_search") from error


def _bounds(index: FeatureIndex) -> tuple[pq.FileMetaData, list[tuple[str, str]]]:
    """First and last stem of each row group; kept with the index."""
    kept = index.__dict__.get("_search_bounds")
    if kept is None:
        if not has_search(index):
            raise FeatureError(
                f"the index {index.folder} has no search table, or one of other files; make it with build_search"
            )
        metadata = pq.read_metadata(search_path(index))
        statistics = [metadata.row_group(i).column(0).statistics for i in range(metadata.num_row_groups)]
        # A group that does not say may hold anything.
        kept = (metadata, [(s.min, s.max) if s and s.has_min_max else ("", chr(0x10FFFF)) for s in statistics])
        index.__dict__["_search_bounds"] = kept
    return kept


def _in_labels(index: FeatureIndex, asked: list[str]) -> list[_Found]:
    words_in, average = _label_words(index)
    parts = []
    for word in asked:
        rows = words_in.get(stem(word), [])
        if not rows:
            continue
        numbers, words, times, lengths = zip(*rows, strict=True)
        forms = list(dict.fromkeys(words))
        code_of = {form: code for code, form in enumerate(forms)}
        count = np.asarray(times, dtype=np.float64)
        weight = LABEL * count / (count + SATURATION * (0.25 + 0.75 * np.asarray(lengths) / average))
        codes = np.asarray([code_of[form] for form in words], dtype=np.int64)
        number = np.asarray(numbers, dtype=np.int64)
        parts.append(_found(number, codes, weight, forms, asked=word, n_all=len(index.labels)))
    return parts


_LabelWords = dict[str, list[tuple[int, str, int, int]]]


def _label_words(index: FeatureIndex) -> tuple[_LabelWords, float]:
    """For each stem the features whose label has it (form, times, words of the label), and the words of a mean label.

    Kept with the index until its labels change.
    """
    labels = index.labels
    kept = index.__dict__.get("_label_words")
    if kept is None or kept[0] is not labels:
        made: _LabelWords = {}
        total = 0
        for (layer, feature), label in labels.items():
            words = words_of(label.label)
            total += len(words)
            number = index.space.number(layer, feature)
            for word, times in Counter(words).items():
                made.setdefault(stem(word), []).append((number, word, times, len(words)))
        kept = (labels, (made, max(1.0, total / max(1, len(labels)))))
        index.__dict__["_label_words"] = kept
    return kept[1]
