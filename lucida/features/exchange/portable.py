"""A feature with its texts as texts: what leaves an index for other tools, and what comes back."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lucida.errors import FeatureError
from lucida.features.index import Example, FeatureIndex, FeatureStats
from lucida.features.keyed import KeyedTable
from lucida.features.labels import KINDS, Kind, Label, read_labels
from lucida.features.tables import EFFECTS

NOMINAL_PLACES = 1_000_000_000
"""Stands for the number of places where only shares are known: a count is then a share of this many."""
_STEP = 256
_LISTS = (
    "promoted", "promoted_by", "suppressed", "suppressed_by", "nearest_layers", "nearest_features", "nearest_cosine",
)  # fmt: skip
_EFFECTS = pa.schema([EFFECTS.field(name) for name in ("layer", "feature", *_LISTS)])


@dataclass(frozen=True, eq=False)
class PortableExample:
    """A place where a feature is active; `tokens[peak]` is the place itself.

    `ids` are the model's numbers of the tokens, None in files of others. A `position` or `document` of -1 is unknown.
    """

    kind: str
    band: int
    rank: int
    value: float
    position: int
    document: int
    peak: int
    tokens: list[str]
    activations: NDArray[np.float32]
    ids: list[int] | None = None


@dataclass(frozen=True, eq=False)
class TokenEffects:
    """Tokens whose logits a feature raises or lowers, the strongest first; `weights` are 0 where they are unknown."""

    tokens: list[str]
    weights: list[float]
    ids: list[int] | None = None


NO_EFFECTS = TokenEffects([], [])


@dataclass(frozen=True, eq=False)
class PortableFeature:
    """All that is exchanged of one feature.

    `is_exact` is False when it came from a file without our own fields: then counts, histogram and kinds of examples
    are read from what other tools say, and places, documents, mean, first and last are unknown (-1 or 0).
    `nearest` are pairs (feature of the same layer, cosine).
    """

    stats: FeatureStats
    examples: list[PortableExample]
    promoted: TokenEffects = NO_EFFECTS
    suppressed: TokenEffects = NO_EFFECTS
    labels: tuple[tuple[Kind, Label], ...] = ()
    nearest: tuple[tuple[int, float], ...] = ()
    is_exact: bool = True

    @property
    def layer(self) -> int:
        """The layer it reads at."""
        return self.stats.layer

    @property
    def feature(self) -> int:
        """Its number within the layer."""
        return self.stats.feature

    @property
    def label(self) -> Label | None:
        """The best label: a person's, else a language model's, else the automatic one."""
        return next((label for kind in KINDS for found, label in self.labels if found == kind), None)


def portable_feature(index: FeatureIndex, layer: int, feature: int) -> PortableFeature:
    """One feature of an index. Raises FeatureError when there is no such feature."""
    index.space.number(layer, feature)
    labels = _labels(index).get((layer, feature), ())
    return _Reader(index).feature(layer, feature, index.examples(layer, feature), labels)


def portable_features(index: FeatureIndex, layers: Iterable[int] | None = None) -> Iterator[PortableFeature]:
    """The features of an index in order, silent ones too, of all layers or of some; a few hundred in memory at once.

    Raises FeatureError for a layer that the model does not have.
    """
    asked = wanted_layers(index, layers)
    reader, labels = _Reader(index), _labels(index)
    if asked == [layer for layer in range(index.space.n_layers) if index.space.n_features[layer]]:
        for layer, feature, examples in index.each():
            yield reader.feature(layer, feature, examples, labels.get((layer, feature), ()))
        return
    for layer in asked:
        for feature in range(index.space.n_features[layer]):
            examples = index.examples(layer, feature)
            yield reader.feature(layer, feature, examples, labels.get((layer, feature), ()))


def wanted_layers(index: FeatureIndex, layers: Iterable[int] | None) -> list[int]:
    """The layers that were asked for and have features, in order; all such layers for None."""
    known = [layer for layer, count in enumerate(index.space.n_features) if count]
    asked = sorted(set(known if layers is None else layers))
    missing = [layer for layer in asked if layer not in known]
    if missing or not asked:
        span = f"{known[0]} to {known[-1]}" if known else "none"
        raise FeatureError(
            f"layers {', '.join(map(str, missing)) or 'none'} were asked for; {index.folder} has features at {span}"
        )
    return asked


def _labels(index: FeatureIndex) -> dict[tuple[int, int], tuple[tuple[Kind, Label], ...]]:
    found: dict[tuple[int, int], tuple[tuple[Kind, Label], ...]] = {}
    for kind in KINDS:
        for label in read_labels(index.folder, kind):
            key = (label.layer, label.feature)
            found[key] = (*found.get(key, ()), (kind, label))
    return found


class _Reader:
    """Features of one index, with the effects of a few hundred neighbours kept: one by one they are slow to read."""

    def __init__(self, index: FeatureIndex) -> None:
        path = index.folder / "effects.parquet"
        self.index = index
        self.table = KeyedTable(path, _EFFECTS, index.space) if path.exists() else None
        self.first, self.rows = -1, {}

    def feature(
        self, layer: int, feature: int, examples: list[Example], labels: tuple[tuple[Kind, Label], ...]
    ) -> PortableFeature:
        effects = self.effects(self.index.space.number(layer, feature))
        beside = zip(effects["nearest_layers"], effects["nearest_features"], effects["nearest_cosine"], strict=True)
        return PortableFeature(
            stats=self.index.stats(layer, feature),
            examples=[self.example(example) for example in examples],
            promoted=self.tokens(effects["promoted"], effects["promoted_by"]),
            suppressed=self.tokens(effects["suppressed"], effects["suppressed_by"]),
            labels=labels,
            nearest=tuple((other, cosine) for other_layer, other, cosine in beside if other_layer == layer),
        )

    def example(self, example: Example) -> PortableExample:
        ids = example.tokens.tolist()
        return PortableExample(
            kind=example.kind, band=example.band, rank=example.rank, value=example.value, position=example.position,
            document=example.document, peak=example.peak, tokens=self.index.texts(ids), ids=ids,
            activations=example.activations,
        )  # fmt: skip

    def tokens(self, ids: list[int], weights: list[float]) -> TokenEffects:
        return TokenEffects(self.index.texts(ids), weights, ids)

    def effects(self, number: int) -> dict[str, list]:
        if self.table is None:
            return {name: [] for name in _LISTS}
        first = number - number % _STEP
        if first != self.first:
            stop = min(first + _STEP, len(self.index.space))
            rows = self.table.rows_between(first, stop).to_pylist()
            at = {self.index.space.number(row["layer"], row["feature"]): row for row in rows}
            self.first, self.rows = first, at
        row = self.rows.get(number, {})
        return {name: row.get(name) or [] for name in _LISTS}


def shortest(values: Iterable[np.float32]) -> list[float]:
    """The numbers with as few digits as still give back the same float32."""
    return [float(str(value)) if value else 0.0 for value in values]
