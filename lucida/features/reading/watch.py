"""The brain scan: which features are on at each token while the model reads a text."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lucida.dictionaries import Dictionary
from lucida.errors import FeatureError
from lucida.features.build.events import Units, space_of
from lucida.features.index import FeatureIndex
from lucida.features.reading.read_text import Reading, read_text
from lucida.models.model import Model, PromptLike
from lucida.prompt import Prompt

COUNT = 4
"""Features shown of each token."""
DENSEST = 0.05
"""A feature that is active at more than this share of all places says little about one token and is left out."""


@dataclass(frozen=True)
class WatchedFeature:
    """A feature that is on at a token.

    `strength` is its activation relative to its largest in the index's corpus, so that features can be compared; above
    1 it is stronger than ever seen there. Without an index it is relative to the strongest feature of the same layer
    in this text. `label` is "" and `frequency` None where the index does not say.
    """

    layer: int
    feature: int
    activation: float
    strength: float
    frequency: float | None
    label: str

    @property
    def name(self) -> str:
        """The label, or ``layer:feature`` without one."""
        return self.label or f"{self.layer}:{self.feature}"


@dataclass(frozen=True)
class WatchedToken:
    """A token and the strongest features that are on there; `n_active` are on in all, `n_dense` of them left out."""

    position: int
    text: str
    features: tuple[WatchedFeature, ...]
    n_active: int
    n_dense: int


@dataclass(frozen=True)
class WatchedGroup:
    """Shown features with the same label: which they are, where they are on, how strong they get."""

    name: str
    features: tuple[tuple[int, int], ...]
    positions: tuple[int, ...]
    strength: float


@dataclass(frozen=True)
class Watch:
    """What a model's features do on a text, token by token. The first position is left out."""

    prompt: Prompt
    tokens: tuple[WatchedToken, ...]

    @property
    def groups(self) -> tuple[WatchedGroup, ...]:
        """The shown features by label, the strongest first."""
        found: dict[str, list[tuple[int, WatchedFeature]]] = {}
        for token in self.tokens:
            for feature in token.features:
                found.setdefault(feature.name, []).append((token.position, feature))
        groups = []
        for name, members in found.items():
            features = tuple(sorted({(feature.layer, feature.feature) for _, feature in members}))
            positions = tuple(sorted({position for position, _ in members}))
            strongest = max(feature.strength for _, feature in members)
            groups.append(WatchedGroup(name, features, positions, strongest))
        return tuple(sorted(groups, key=lambda group: (-group.strength, group.name)))

    def text(self) -> str:
        """The scan as plain text, a line for each token."""
        lines = []
        for token in self.tokens:
            shown = "; ".join(describe(merged) for merged in by_label(token.features)) or "-"
            lines.append(f"{token.position:>3}  {token.text!r:<16} {shown}")
        return "\n".join(lines)


def watch(
    model: Model,
    features: Dictionary | Units | None,
    text: PromptLike,
    index: FeatureIndex | None = None,
    *,
    count: int = COUNT,
    densest: float = DENSEST,
) -> Watch:
    """For each token of a text the `count` strongest active features; see `WatchedFeature` for their strength.

    With an index features carry labels, and those active at more than the share `densest` of its places are left
    out; without one nothing is known of density and none is. Raises PromptError for a text that cannot be read,
    FeatureError for an index of other features, and without any features.
    """
    if count < 1:
        raise FeatureError(f"{count} features of each token were asked for; ask for at least one")
    if index is not None:
        _check(index, model, features)
    reading = read_text(model, features, text)
    places = _places(reading, index)
    tokens = []
    for position in range(1, len(reading.prompt)):
        found = places.at(position)
        is_dense = places.frequency[found] > densest if index is not None else np.zeros(len(found), dtype=bool)
        order = found[~is_dense][np.argsort(-places.strength[found[~is_dense]], kind="stable")][:count]
        shown = tuple(places.feature(int(i), index) for i in order)
        text_there = reading.prompt.strings[position]
        tokens.append(WatchedToken(position, text_there, shown, len(found), int(is_dense.sum())))
    return Watch(reading.prompt, tuple(tokens))


def _check(index: FeatureIndex, model: Model, features: Dictionary | Units | None) -> None:
    index.check(features if isinstance(features, Dictionary) else None)
    if features is None or isinstance(features, Dictionary):
        return
    same = index.header.settings.get("units", {}) == features.settings
    if not same or index.space != space_of(features, model.n_layers):
        raise FeatureError(f"the index {index.folder} is of other neurons or another threshold; take those it names")


@dataclass(frozen=True, eq=False)
class _Places:
    """All active features of a text, one row each, sorted by position."""

    position: np.ndarray
    layer: np.ndarray
    index: np.ndarray
    activation: np.ndarray
    strength: np.ndarray
    frequency: np.ndarray

    def at(self, position: int) -> np.ndarray:
        """The rows of one position."""
        first, stop = np.searchsorted(self.position, [position, position + 1])
        return np.arange(first, stop)

    def feature(self, row: int, index: FeatureIndex | None) -> WatchedFeature:
        """One row as its reader sees it."""
        layer, feature = int(self.layer[row]), int(self.index[row])
        label = None if index is None else index.label(layer, feature)
        return WatchedFeature(
            layer, feature, float(self.activation[row]), float(self.strength[row]),
            None if index is None else float(self.frequency[row]), label.label if label else "",
        )  # fmt: skip


def _places(reading: Reading, index: FeatureIndex | None) -> _Places:
    parts = []
    for layer, active in sorted(reading.layers.items()):
        feature, activation = active.feature.cpu().numpy(), active.activation.float().cpu().numpy()
        if index is None:
            largest, frequency = np.full(len(feature), activation.max(initial=0.0)), np.full(len(feature), np.nan)
        else:
            number = feature + index.space.offsets[layer]
            largest, frequency = index.maxima[number], index.frequencies[number]
        # A feature that the corpus never saw active is at its strongest here.
        strength = activation / np.where(largest > 0, largest, activation)
        layers = np.full(len(feature), layer)
        parts.append((active.position.cpu().numpy(), layers, feature, activation, strength, frequency))
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    order = np.argsort(columns[0], kind="stable")
    return _Places(*(column[order] for column in columns))


def by_label(features: Sequence[WatchedFeature]) -> list[list[WatchedFeature]]:
    """Features of one token with the same name together, in the order of each group's strongest."""
    groups: dict[str, list[WatchedFeature]] = {}
    for feature in features:
        groups.setdefault(feature.name, []).append(feature)
    return list(groups.values())


def describe(features: Sequence[WatchedFeature]) -> str:
    """One group in a few words: ``small [12:345 3:7] 81 %``."""
    first = features[0]
    places = " ".join(f"{feature.layer}:{feature.feature}" for feature in features)
    name = f"{first.label} [{places}]" if first.label else places
    return f"{name} {100 * first.strength:.0f} %"
