"""What the page asks of a feature index: cards, lists, labels. No request and no model here."""

import os
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lucida.errors import FeatureError
from lucida.features.index import FeatureIndex
from lucida.features.labels import Label, read_labels, write_labels
from lucida.features.reading import card as cards
from lucida.features.reading.search_table import build_search, has_search
from lucida.features.tables import BINS_PER_OCTAVE, FIRST_OCTAVE
from lucida.server.messages import (
    FeatureCard,
    FeatureExample,
    FeatureLabel,
    FeatureList,
    FeatureRow,
    HistogramBar,
    Span,
    WeightedFeature,
    WeightedToken,
)

AUTHOR = "you"
"""Who gave the labels that are typed on the page."""
BARS = 32
MOST_FOUND = 5_000
"""A search looks no further than this many features."""
PATIENCE = 4.0
"""Seconds that a first search waits for its table to be made; it is then made further behind the page's back."""
_NAMING = threading.RLock()
"""Names are read, changed and written back one at a time, and not read while their file is being replaced."""


@dataclass(frozen=True, eq=False)
class ReadersIndex(FeatureIndex):
    """An index with the labels of the reader, which are kept in `own` where the index itself is not to be written."""

    own: Path | None = None

    @property
    def labels(self) -> dict[tuple[int, int], Label]:
        """The best label of every labelled feature; the reader's before all others."""
        with _NAMING:
            return self._read_labels()

    def _read_labels(self) -> dict[tuple[int, int], Label]:
        known = FeatureIndex.labels.fget(self)  # pyright: ignore[reportOptionalCall]
        path = None if self.own is None else self.own / "labels" / "human.parquet"
        if path is None or not path.exists():
            return known
        found = path.stat()
        stamp = (id(known), found.st_mtime_ns, found.st_size)
        kept = self.__dict__.get("_own_labels")
        if kept is None or kept[0] != stamp:
            given = {(label.layer, label.feature): label for label in read_labels(path.parents[1], "human")}
            kept = (stamp, known | given, known)
            self.__dict__["_own_labels"] = kept
        return kept[1]

    def set_label(self, layer: int, feature: int, label: str, *, author: str) -> Label:
        """Keep a person's label; an empty one takes it away. Raises FeatureError, SaveError as `FeatureIndex` does."""
        self.space.number(layer, feature)
        with _NAMING:
            if self.own is None:
                return super().set_label(layer, feature, label, author=author)
            given = Label(layer, feature, " ".join(label.split()), author, "by hand")
            write_labels(self.own, "human", [given])
            return given


def readers_index(index: FeatureIndex, folder: Path) -> ReadersIndex:
    """The index as the page reads it. Labels go to `folder` where the index ships with a dictionary or may not be
    written, so that an installed package and a checkout stay as they are.
    """
    is_shipped = "thin" in index.header.settings or not _can_write(index.folder)
    own = folder / "labels" / index.header.dictionary_digest[:12] if is_shipped else None
    return ReadersIndex(index.folder, index.header, own)


def _can_write(folder: Path) -> bool:
    labels = folder / "labels"
    return os.access(folder, os.W_OK) and (not labels.exists() or os.access(labels, os.W_OK))


# --- one feature ----------------------------------------------------------------------------------------


def read_card(index: FeatureIndex, layer: int, feature: int) -> FeatureCard:
    """Everything the index knows of a feature. Raises FeatureError for one that does not exist."""
    found = cards.card(index, layer, feature)
    stats = found.stats
    bands = sorted({example.band for example in found.samples if example.band is not None}, reverse=True)
    return FeatureCard(
        layer=layer,
        feature=feature,
        label=_label(found.label),
        frequency=stats.frequency,
        mean=stats.mean,
        maximum=stats.maximum,
        count=stats.count,
        n_places=found.n_places,
        corpus=found.corpus,
        histogram=histogram_bars(stats.histogram),
        bands=[f"{band}|{2.0**band:.3g} to {2.0 ** (band + 1):.3g}" for band in bands],
        top=[_example(example) for example in found.top],
        samples=[_example(example) for example in found.samples],
        promoted=_tokens(found.promoted),
        suppressed=_tokens(found.suppressed),
        excited_by_tokens=_tokens(found.excited_by_tokens),
        driven_by=_features(found.driven_by),
        nearest=_features(found.nearest),
        missing=_missing(index, found),
    )


def empty_card(layer: int, feature: int, missing: str) -> FeatureCard:
    """The card of a feature of which nothing is known, and why."""
    nothing: dict[str, Any] = dict.fromkeys(("label", "frequency", "mean", "maximum", "count", "n_places"))
    lists: dict[str, Any] = {
        name: []
        for name in (
            "histogram", "bands", "top", "samples", "promoted", "suppressed", "excited_by_tokens", "driven_by",
            "nearest",
        )
    }  # fmt: skip
    return FeatureCard(layer=layer, feature=feature, corpus="", missing=missing, **nothing, **lists)


def histogram_bars(histogram: NDArray[np.int64], most: int = BARS) -> list[HistogramBar]:
    """The bins that hold something, and those between, neighbours joined to at most `most` bars."""
    used = np.flatnonzero(histogram)
    if len(used) == 0:
        return []
    first, stop = int(used[0]), int(used[-1]) + 1
    # A thin index counts whole octaves, each in its first bin: bars are whole octaves then.
    if (used % BINS_PER_OCTAVE == 0).all():
        first, stop = first, -(-stop // BINS_PER_OCTAVE) * BINS_PER_OCTAVE
        joined = BINS_PER_OCTAVE
    else:
        joined = -(-(stop - first) // most)
    return [
        HistogramBar(
            low=_edge(low), high=_edge(min(low + joined, stop)), count=int(histogram[low : low + joined].sum())
        )
        for low in range(first, stop, joined)
    ]


def _edge(number: int) -> float:
    return 2.0 ** (FIRST_OCTAVE + number / BINS_PER_OCTAVE)


def _missing(index: FeatureIndex, found: cards.FeatureCard) -> str:
    if found.stats.is_silent:
        return found.silence
    lacking = []
    if found.effects is None:
        lacking.append("what it promotes and what drives it was not computed")
    if not found.samples:
        lacking.append("only its strongest examples are here, none of its weaker bands")
    if not lacking:
        return ""
    said = "; ".join(lacking)
    return f"{said[0].upper()}{said[1:]}. {making(index.header.model, index.header.dictionary)}"


def making(model: str, dictionary: str) -> str:
    """How an index of one's own is made and shown."""
    return (
        f"A full index brings them: lucida index --model {model or 'MODEL'} --dictionaries {dictionary or 'NAME'} "
        "--out FOLDER, then lucida serve --index FOLDER."
    )


def _label(label: Label | None) -> FeatureLabel | None:
    if label is None:
        return None
    return FeatureLabel(text=label.label, author=label.author, method=label.method, score=label.score)


def _example(example: cards.ShownExample) -> FeatureExample:
    spans = [Span(text=span.text, share=span.share, is_peak=span.is_peak) for span in example.spans]
    return FeatureExample(value=example.value, band=example.band, spans=spans)


def _tokens(pairs: Sequence[tuple[str, float]]) -> list[WeightedToken]:
    return [WeightedToken(text=text, weight=weight) for text, weight in pairs]


def _features(others: Sequence[cards.Neighbour]) -> list[WeightedFeature]:
    return [
        WeightedFeature(layer=each.layer, feature=each.feature, weight=each.weight, label=each.label) for each in others
    ]


# --- lists ----------------------------------------------------------------------------------------------


def browse(index: FeatureIndex, *, layer: int | None, sort: str, start: int, count: int) -> FeatureList:
    """A page of all features, or of those of one layer: by frequency, the most frequent first, or by number.

    Raises FeatureError for a layer that does not exist.
    """
    space = index.space
    if layer is not None and not 0 <= layer < space.n_layers:
        raise FeatureError(f"layer {layer} was asked for; the layers are 0 to {space.n_layers - 1}")
    first, stop = (0, len(space)) if layer is None else (space.offsets[layer], space.offsets[layer + 1])
    numbers = np.arange(first, stop)
    if sort == "frequency":
        numbers = numbers[np.argsort(-index.frequencies[first:stop], kind="stable")]
    shown = numbers[start : start + count]
    layers, features = space.layer_and_feature(shown)
    rows = [_row(index, *place) for place in zip(layers.tolist(), features.tolist(), strict=True)]
    return FeatureList(rows=rows, total=stop - first, missing="")


def search(index: FeatureIndex, query: str, *, layer: int | None, start: int, count: int) -> FeatureList:
    """The features that go best with the words of a query; ``12:345`` finds that feature."""
    place = re.fullmatch(r"\s*[lL]?(\d+)\s*[:/]\s*(\d+)\s*", query)
    try:
        if place:
            return FeatureList(rows=[_row(index, int(place[1]), int(place[2]))], total=1, missing="")
        waiting = _prepare(index)
        if waiting:
            return FeatureList(rows=[], total=None, missing=waiting[0], is_preparing=waiting[1])
        wanted = start + count if layer is None else MOST_FOUND
        found = index.search(query, count=min(wanted, MOST_FOUND))
    except FeatureError as error:
        return FeatureList(rows=[], total=0, missing=str(error))
    found = [match for match in found if layer is None or match.layer == layer]
    rows = [
        _row(index, match.layer, match.feature, score=match.score, words=match.words)
        for match in found[start : start + count]
    ]
    missing = "" if found else f"no feature goes with {query.strip()!r}; try another form of the word"
    return FeatureList(rows=rows, total=None, missing=missing)


def _row(
    index: FeatureIndex, layer: int, feature: int, *, score: float | None = None, words: Sequence[str] = ()
) -> FeatureRow:
    number = index.space.number(layer, feature)
    label = index.labels.get((layer, feature))
    return FeatureRow(
        layer=layer, feature=feature, label=label.label if label else "", frequency=float(index.frequencies[number]),
        maximum=float(index.maxima[number]), score=score, words=list(words),
    )  # fmt: skip


_BUILDING: dict[Path, "_Building"] = {}
_LOCK = threading.Lock()


class _Building(threading.Thread):
    """Makes the search table of an index that has none, once."""

    def __init__(self, index: FeatureIndex) -> None:
        super().__init__(daemon=True)
        self.index, self.share, self.error = index, 0.0, ""

    def run(self) -> None:
        try:
            build_search(self.index.folder, progress=self._report)
        except Exception as error:
            self.error = str(error)

    def _report(self, _stage: str, done: int, total: int | None) -> None:
        self.share = done / total if total else 0.0


def _prepare(index: FeatureIndex) -> tuple[str, bool] | None:
    """Make the search table of an index that has none yet. None when it is there, else how far it is or why it
    cannot be made, and whether asking again helps.
    """
    if has_search(index):
        return None
    with _LOCK:
        building = _BUILDING.get(index.folder)
        if building is None:
            building = _BUILDING[index.folder] = _Building(index)
            building.start()
    building.join(PATIENCE)
    if building.is_alive():
        return f"the words of all features are being gathered, {building.share:.0%} so far; search again soon", True
    with _LOCK:
        _BUILDING.pop(index.folder, None)
    if building.error:
        return f"the features cannot be searched: {building.error}", False
    return None
