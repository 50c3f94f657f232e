"""Which features tell texts with a concept from texts without it, and how sure that is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lucida.dictionaries import Dictionary
from lucida.errors import FeatureError
from lucida.features.build.events import Units, space_of
from lucida.features.reading.rank_test import adjusted, mann_whitney
from lucida.features.reading.read_text import read_texts, sparse_units
from lucida.features.space import FeatureSpace
from lucida.models.model import Model
from lucida.progress import Progress, silent
from lucida.statistics import wilson

UNEVEN = 1.5
"""Longer texts give features more chances to fire: above this ratio of mean lengths the result says so."""


@dataclass(frozen=True)
class Separation:
    """How well one feature, by its largest activation in a text, separates texts with a concept from those without.

    `auc` is the chance that it is larger in a text with than in one without (ties count half): 0.5 says nothing,
    above means that it goes with the concept. `p` is Mann-Whitney's, two-sided, `q` is p after Benjamini and
    Hochberg (1995) over all features that were tested. `fires_with` and `fires_without` are shares of texts,
    `mean_with` and `mean_without` mean largest activations. `threshold` is the activation that best parts these very
    texts.
    """

    layer: int
    feature: int
    auc: float
    p: float
    q: float
    fires_with: float
    fires_without: float
    mean_with: float
    mean_without: float
    threshold: float

    @property
    def effect(self) -> float:
        """The rank-biserial correlation 2 auc - 1, from -1 to 1."""
        return 2 * self.auc - 1


@dataclass(frozen=True)
class Contrast:
    """The features of a contrast, the surest first; at equal p the stronger, then the one with the wider gap.

    `n_fired` features fired in some text. The `n_tested` of them that fired in at least half as many texts as the
    smaller side has were tested: rarer ones cannot tell the sides apart, and leaving them out without looking at the
    sides keeps p and q right (Bourgon, Gentleman and Huber, 2010). `smallest_p` is the least p that so few texts can
    give at all; `warnings` say what the numbers cannot.
    """

    separations: tuple[Separation, ...]
    n_with: int
    n_without: int
    n_fired: int
    n_tested: int
    smallest_p: float
    exact: bool
    warnings: tuple[str, ...]

    def significant(self, level: float = 0.05) -> tuple[Separation, ...]:
        """Those with q at most `level`, the share of false ones to be expected among them."""
        return tuple(found for found in self.separations if found.q <= level)


def contrast(
    model: Model,
    features: Dictionary | Units | None,
    with_texts: Sequence[str | Sequence[int]],
    without_texts: Sequence[str | Sequence[int]],
    *,
    progress: Progress = silent,
) -> Contrast:
    """Which features separate texts with a concept from texts without, by each feature's largest activation in a text.

    Texts are strings or token ids; a text given twice counts once. With few texts p is exact (every way to part them
    is counted), otherwise by the normal approximation with ties. Choose a feature here, and measure it on other texts
    with `precision_recall`: the best of thousands looks better on the texts that chose it. Raises FeatureError
    for an empty side, or a text on both; PromptError for a text that cannot be read.
    """
    with_texts, without_texts = _checked(with_texts, without_texts)
    texts = [*with_texts, *without_texts]
    is_with = np.arange(len(texts)) < len(with_texts)
    units = sparse_units(model, features)
    space = space_of(units, model.n_layers)
    numbers, values, lengths = _largest(model, units, space, texts, progress)
    n_fired = len(numbers)
    kept = (values > 0).sum(0) >= min(len(with_texts), len(without_texts)) / 2
    numbers, values = numbers[kept], values[:, kept]
    test = mann_whitney(values, is_with)
    q = adjusted(test.p)
    gap = np.abs(values[is_with].mean(0) - values[~is_with].mean(0)) / np.maximum(values.max(0, initial=0.0), 1e-12)
    order = np.lexsort((numbers, -gap, -np.abs(test.auc - 0.5), test.p))
    layers, within = space.layer_and_feature(numbers)
    found = []
    for i in order.tolist():
        inside, outside = values[is_with, i], values[~is_with, i]
        auc, threshold = float(test.auc[i]), best_threshold(inside, outside, above=bool(test.auc[i] >= 0.5))
        shares = (float((inside > 0).mean()), float((outside > 0).mean()))
        means = (float(inside.mean()), float(outside.mean()))
        place = (int(layers[i]), int(within[i]))
        found.append(Separation(*place, auc, float(test.p[i]), float(q[i]), *shares, *means, threshold))
    notes = _warnings(lengths, is_with, test.smallest_p, len(numbers))
    n_with, n_without = len(with_texts), len(without_texts)
    return Contrast(tuple(found), n_with, n_without, n_fired, len(numbers), test.smallest_p, test.exact, notes)


@dataclass(frozen=True)
class PrecisionRecall:
    """How well "the feature exceeds `threshold` somewhere in the text" says that a text has the concept.

    Intervals are Wilson's at 95 %. Precision is None when no text exceeds; it holds for this mix of texts.
    """

    layer: int
    feature: int
    threshold: float
    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int

    @property
    def precision(self) -> float | None:
        """The share with the concept of the texts that the feature picks."""
        picked = self.true_positives + self.false_positives
        return self.true_positives / picked if picked else None

    @property
    def recall(self) -> float:
        """The share that the feature picks of the texts with the concept."""
        return self.true_positives / (self.true_positives + self.false_negatives)

    @property
    def precision_interval(self) -> tuple[float, float]:
        """Where precision lies, with 95 % confidence."""
        return wilson(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall_interval(self) -> tuple[float, float]:
        """Where recall lies, with 95 % confidence."""
        return wilson(self.true_positives, self.true_positives + self.false_negatives)


def precision_recall(
    model: Model,
    features: Dictionary | Units | None,
    layer: int,
    feature: int,
    with_texts: Sequence[str | Sequence[int]],
    without_texts: Sequence[str | Sequence[int]],
    *,
    threshold: float | int = 0.0,
    progress: Progress = silent,
) -> PrecisionRecall:
    """Precision and recall of one feature on texts that did not choose it; at 0 it counts as soon as it fires.

    Raises FeatureError for a feature that does not exist, a negative threshold, an empty side, or a text on both.
    """
    place = (layer, feature, threshold)
    return precision_recalls(model, features, [place], with_texts, without_texts, progress=progress)[0]


def precision_recalls(
    model: Model,
    features: Dictionary | Units | None,
    places: Sequence[tuple[int, int, float | int]],
    with_texts: Sequence[str | Sequence[int]],
    without_texts: Sequence[str | Sequence[int]],
    *,
    progress: Progress = silent,
) -> list[PrecisionRecall]:
    """`precision_recall` of every (layer, feature, threshold) of `places`, the texts read once for all."""
    for _, _, threshold in places:
        if not threshold >= 0:
            raise FeatureError(f"the threshold {threshold} is not a number from 0; activations are positive")
    with_texts, without_texts = _checked(with_texts, without_texts)
    units = sparse_units(model, features)
    space = space_of(units, model.n_layers)
    wanted = [space.number(layer, feature) for layer, feature, _ in places]
    numbers, values, _ = _largest(model, units, space, [*with_texts, *without_texts], progress)
    n_with, found = len(with_texts), []
    for (layer, feature, threshold), number in zip(places, wanted, strict=True):
        at = int(np.searchsorted(numbers, number))
        known = at < len(numbers) and numbers[at] == number
        exceeds = values[:, at] > threshold if known else np.zeros(len(values), dtype=bool)
        inside, outside = exceeds[:n_with], exceeds[n_with:]
        counts = (int(inside.sum()), int(outside.sum()), int((~inside).sum()), int((~outside).sum()))
        found.append(PrecisionRecall(layer, feature, float(threshold), *counts))
    return found


def best_threshold(inside: NDArray[np.float32], outside: NDArray[np.float32], *, above: bool = True) -> float:
    """The activation that best parts two groups (the largest balanced accuracy), between two values that occur.

    0 when firing at all does as well. With `above` the first group is to exceed it, else the second.
    """
    if not above:
        inside, outside = outside, inside
    values = np.unique(np.concatenate([[0.0], inside, outside]))
    cuts = np.concatenate([[0.0], (values[:-1] + values[1:]) / 2])
    upto = [np.searchsorted(np.sort(group), cuts, side="right") / len(group) for group in (outside, inside)]
    return float(cuts[int(np.argmax(upto[0] - upto[1]))])


def _checked(with_texts: Sequence, without_texts: Sequence) -> tuple[list, list]:
    """Each text once. Raises FeatureError when a side is empty or a text stands on both."""
    sides: list[list] = []
    for name, texts in (("with", with_texts), ("without", without_texts)):
        if isinstance(texts, str):
            raise FeatureError(f"the texts {name} the concept are one string; give a list of texts")
        distinct = {text if isinstance(text, str) else tuple(text): text for text in texts}
        if not distinct:
            raise FeatureError(f"there is no text {name} the concept; give at least one on each side, better ten")
        sides.append(list(distinct.values()))
    keys = [{text if isinstance(text, str) else tuple(text) for text in side} for side in sides]
    if both := sorted(map(str, keys[0] & keys[1])):
        raise FeatureError(f"the text {both[0][:60]!r} stands among those with and those without the concept")
    return sides[0], sides[1]


def _largest(
    model: Model, units: Units, space: FeatureSpace, texts: list, progress: Progress
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """Numbers of the features that fire in some text, their largest activation [text, feature], and text lengths."""
    readings = read_texts(model, units, texts, progress=progress)
    lengths = np.array([len(reading.prompt) for reading in readings], dtype=np.int64)
    found = [reading.strongest(space) for reading in readings]
    numbers = np.unique(np.concatenate([each for each, _ in found]))
    values = np.zeros((len(texts), len(numbers)), dtype=np.float32)
    for i, (own, strongest) in enumerate(found):
        values[i, np.searchsorted(numbers, own)] = strongest
    return numbers, values, lengths


def _warnings(
    lengths: NDArray[np.int64], is_with: NDArray[np.bool_], smallest_p: float, n_tested: int
) -> tuple[str, ...]:
    notes = []
    if smallest_p * n_tested > 0.05:
        few = f"{int(is_with.sum())} texts with and {int((~is_with).sum())} without"
        notes.append(
            f"{few}: even a perfect feature has p = {smallest_p:.2g}, so one alone among {n_tested:,} tested could not "
            "be told from chance; q says what is left, more texts would help"
        )
    long, short = float(lengths[is_with].mean()), float(lengths[~is_with].mean())
    if max(long, short) > UNEVEN * min(long, short):
        notes.append(
            f"texts with the concept have {long:.0f} tokens on average, those without {short:.0f}: longer texts give "
            "every feature more chances to fire"
        )
    return tuple(notes)
