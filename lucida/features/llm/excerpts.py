"""What a language model is shown of a feature: excerpts with marks, and which of them it must not see."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from lucida.features.index import Example, FeatureIndex
from lucida.features.tables import SAMPLE, TOP

SHOWN_TOP, SHOWN_SAMPLES = 8, 4
"""Examples that are shown to explain a feature: of the strongest, and of all strengths."""
HELD_OUT = 10
"""Examples that are kept to test a label."""
REACH = 20
"""Tokens shown before and after the place that an excerpt is about."""
MARKED = 0.3
"""Tokens with at least this share of an excerpt's strongest activation are marked."""
POOL = 256
"""Other features whose examples serve as contrast."""
OPEN, CLOSE = "<<", ">>"


@dataclass(frozen=True, eq=False)
class Excerpt:
    """A piece of text and what a feature does in it. `first` is the place of its first token, -1 if unknown."""

    texts: tuple[str, ...]
    activations: Float[np.ndarray, " pos"]
    document: int
    first: int

    @property
    def marks(self) -> Bool[np.ndarray, " pos"]:
        """The tokens where the feature is clearly active."""
        return (self.activations > 0) & (self.activations >= MARKED * self.activations.max(initial=0.0))

    @property
    def text(self) -> str:
        """The text with no marks, on one line."""
        return marked(self.texts, np.zeros(len(self.texts), dtype=bool))

    def overlaps(self, other: "Excerpt") -> bool:
        """Whether both hold the same words, or share a place of the corpus."""
        if self.texts == other.texts:
            return True
        if min(self.first, other.first) < 0:
            return False
        return self.first < other.first + len(other.texts) and other.first < self.first + len(self.texts)


@dataclass(frozen=True, eq=False)
class Evidence:
    """The examples of one feature, divided: what is shown to explain it, and what tests the explanation.

    `contrast` are excerpts from examples of other features. `frequency` is the feature's share of all places.
    """

    layer: int
    feature: int
    frequency: float
    strongest: tuple[Excerpt, ...]
    others: tuple[Excerpt, ...]
    held_out: tuple[Excerpt, ...]
    contrast: tuple[Excerpt, ...]
    promoted: tuple[str, ...]

    @property
    def is_silent(self) -> bool:
        """Whether there is nothing to explain."""
        return not self.strongest and not self.others


@dataclass(frozen=True, eq=False)
class ContrastPool:
    """Excerpts of many features, and whose they are."""

    excerpts: tuple[Excerpt, ...]
    owners: tuple[tuple[int, int], ...]

    @classmethod
    def draw(cls, index: FeatureIndex, *, seed: int = 0, size: int = POOL) -> "ContrastPool":
        """One example of each of `size` random features that are not silent."""
        generator = np.random.default_rng(seed)
        numbers = np.flatnonzero(index.frequencies)
        chosen = generator.permutation(numbers)[:size]
        excerpts, owners = [], []
        for layer, feature in zip(*(a.tolist() for a in index.space.layer_and_feature(chosen)), strict=True):
            examples = index.examples(layer, feature)
            if examples:
                excerpts.append(_excerpt(index, examples[int(generator.integers(len(examples)))]))
                owners.append((layer, feature))
        return cls(tuple(excerpts), tuple(owners))


def gather(
    index: FeatureIndex,
    layer: int,
    feature: int,
    pool: ContrastPool,
    *,
    held_out: int = HELD_OUT,
    seed: int = 0,
) -> Evidence:
    """The evidence of a feature: every second example is shown, the others are held out.

    An example is not held out when it shares a place or all its words with a shown one. Contrast excerpts share none
    with any known example of the feature; that it is inactive in them is likely but not known (`expected_overlap`).
    """
    generator = np.random.default_rng((seed, layer, feature))
    top = [_excerpt(index, example) for example in index.examples(layer, feature, TOP)]
    samples = [_excerpt(index, example) for example in index.examples(layer, feature, SAMPLE)]
    samples = [samples[i] for i in generator.permutation(len(samples))]
    strongest = _distinct(top[::2])[:SHOWN_TOP]
    others = _distinct(samples[::2], besides=strongest)[:SHOWN_SAMPLES]
    # The held-out ones: as many strong as others, as far as they reach.
    rest = [excerpt for pair in _in_turn(top[1::2], samples[1::2]) for excerpt in pair]
    kept = _distinct(rest, besides=[*strongest, *others])[:held_out]
    known = [*top, *samples]
    order = generator.permutation(len(pool.excerpts)).tolist()
    foreign = [pool.excerpts[i] for i in order if pool.owners[i] != (layer, feature)]
    contrast = _distinct(foreign, besides=known, limit=len(kept))
    effects = index.effects(layer, feature)
    promoted = () if effects is None else tuple(index.texts(effects.promoted[:8].tolist()))
    frequency = index.stats(layer, feature).frequency
    return Evidence(layer, feature, frequency, tuple(strongest), tuple(others), tuple(kept), tuple(contrast), promoted)


def expected_overlap(evidence: Evidence) -> float:
    """At most this share of the contrast excerpts is expected to hold a place where the feature fires.

    1 - (1 - frequency)^length, as if places were independent; activations come in clusters, so it is less.
    """
    lengths = [len(excerpt.texts) for excerpt in evidence.contrast]
    return float(np.mean([1 - (1 - evidence.frequency) ** n for n in lengths])) if lengths else 0.0


def marked(texts: Sequence[str], marks: Bool[np.ndarray, " pos"]) -> str:
    """The text on one line with ``<<these>>`` around marked tokens; neighbours share one pair."""
    parts, is_open = [], False
    for text, mark in zip(texts, marks.tolist(), strict=True):
        plain = text.replace(OPEN, "< <").replace(CLOSE, "> >")
        if mark and not is_open:
            word = plain.lstrip(" ")
            plain = plain[: len(plain) - len(word)] + OPEN + word
        elif is_open and not mark:
            plain = CLOSE + plain
        is_open = mark
        parts.append(plain)
    line = "".join(parts) + (CLOSE if is_open else "")
    line = line.replace("\r", "").replace("\n", "\\n").replace("\t", "\\t")
    return "".join(sign if sign.isprintable() else "�" for sign in line).strip()


def _excerpt(index: FeatureIndex, example: Example) -> Excerpt:
    start = max(0, example.peak - REACH)
    stop = example.peak + REACH + 1
    tokens, activations = example.tokens[start:stop], example.activations[start:stop]
    first = example.position - example.peak + start if example.position >= 0 else -1
    return Excerpt(tuple(index.texts(tokens.tolist())), activations, example.document, first)


def _distinct(excerpts: Sequence[Excerpt], besides: Sequence[Excerpt] = (), limit: int | None = None) -> list[Excerpt]:
    """Those that overlap neither one another nor any of `besides`."""
    found: list[Excerpt] = []
    for excerpt in excerpts:
        if limit is not None and len(found) >= limit:
            break
        if not any(excerpt.overlaps(other) for other in (*besides, *found)):
            found.append(excerpt)
    return found


def _in_turn(first: Sequence[Excerpt], second: Sequence[Excerpt]) -> list[tuple[Excerpt, ...]]:
    longest = max(len(first), len(second))
    return [(*first[i : i + 1], *second[i : i + 1]) for i in range(longest)]
