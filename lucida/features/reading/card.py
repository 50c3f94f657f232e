"""Everything about one feature on a page: what it is called, when it fires, what it does, with examples."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lucida.features.index import Example, FeatureEffects, FeatureIndex, FeatureStats
from lucida.features.labels import Label
from lucida.features.tables import BINS_PER_OCTAVE, FIRST_OCTAVE, SAMPLE, TOP

TOP_SHOWN, PER_BAND, LISTED = 10, 2, 8
"""Top examples, samples of each band, and tokens or features of a list that a card shows."""
WIDTH = 100
"""Letters of text that an example shows, the peak in the middle."""
BARS = " ▁▂▃▄▅▆▇█"
VISIBLE = str.maketrans({"\n": "⏎", "\t": "⇥", "\r": "", "\u2581": " "})
"""How what has no shape is shown; U+2581 is the space of SentencePiece tokenizers."""
STRONG = 0.5
"""Tokens with this share of the peak's activation are marked too."""


@dataclass(frozen=True)
class Span:
    """A piece of an example. `share` is its activation by the feature's maximum; 0 where the feature is off."""

    text: str
    share: float
    is_peak: bool = False


@dataclass(frozen=True)
class Neighbour:
    """Another feature, how it is tied to this one (a cosine, or an expected weight), and its label or ""."""

    layer: int
    feature: int
    weight: float
    label: str

    def __str__(self) -> str:
        name = f"{self.label} [{self.layer}:{self.feature}]" if self.label else f"{self.layer}:{self.feature}"
        return f"{name} {self.weight:+.2f}"


@dataclass(frozen=True)
class ShownExample:
    """An example as it is shown: its activation, its band or None for a top one, and its text in pieces."""

    value: float
    band: int | None
    spans: tuple[Span, ...]

    def text(self) -> str:
        """The example without colours: the peak in «», other tokens of at least half its activation in ‹›."""
        return "".join(mark(span, self.peak_share) for span in self.spans)

    @property
    def peak_share(self) -> float:
        """The activation of its peak by the feature's maximum."""
        return max((span.share for span in self.spans if span.is_peak), default=0.0)


@dataclass(frozen=True, eq=False)
class FeatureCard:
    """What the index knows of one feature, texts instead of token ids. `text()` is it as a page."""

    stats: FeatureStats
    label: Label | None
    effects: FeatureEffects | None
    top: tuple[ShownExample, ...]
    samples: tuple[ShownExample, ...]
    n_places: int
    corpus: str
    promoted: tuple[tuple[str, float], ...] = ()
    suppressed: tuple[tuple[str, float], ...] = ()
    excited_by_tokens: tuple[tuple[str, float], ...] = ()
    driven_by: tuple[Neighbour, ...] = ()
    nearest: tuple[Neighbour, ...] = ()

    def text(self) -> str:
        """The card as plain text, without colours."""
        lines = [self.title, *self.facts()]
        if self.stats.is_silent:
            return "\n".join([*lines, self.silence])
        for heading, examples in self.sections():
            lines += ["", heading]
            lines += [f"{example.value:>8.3g}  {example.text()}" for example in examples]
        return "\n".join(lines)

    @property
    def title(self) -> str:
        """``12:345  the word "small"``."""
        name = self.label.label if self.label else "no label"
        return f"{self.stats.layer}:{self.stats.feature}  {name}"

    @property
    def silence(self) -> str:
        """What to say of a feature that was never active."""
        return f"It was never active at any of the {self.n_places:,} places of {self.corpus}: nothing is known of it."

    def facts(self) -> list[str]:
        """Everything but the examples, a line each; what is not known is left out."""
        lines = []
        if self.label:
            score = "" if self.label.score is None else f", score {self.label.score:.2f}"
            lines.append(f"label      by {self.label.author} ({self.label.method}{score})")
        if not self.stats.is_silent:
            lines.append(
                f"fires      at {self.stats.count:,} of {self.n_places:,} places: {often(self.stats.frequency)}"
            )
            low, bars, high = histogram_bar(self.stats.histogram)
            mean = f"mean {self.stats.mean:.3g}, maximum {self.stats.maximum:.3g}"
            lines.append(f"strength   {mean};  {low:.2g} {bars} {high:.2g}")
        for name, tokens in (
            ("promotes", self.promoted), ("suppresses", self.suppressed), ("excited by", self.excited_by_tokens),
        ):  # fmt: skip
            if tokens:
                lines.append(f"{name:<10} " + "  ".join(f"{text!r} {value:+.2f}" for text, value in tokens))
        for name, others in (("driven by", self.driven_by), ("nearest", self.nearest)):
            if others:
                lines.append(f"{name:<10} " + "; ".join(map(str, others)))
        return lines

    def sections(self) -> list[tuple[str, tuple[ShownExample, ...]]]:
        """The examples under their headings: the strongest, then samples from strong to weak."""
        found = [("strongest, each in another document", self.top)] if self.top else []
        bands = sorted({example.band for example in self.samples if example.band is not None}, reverse=True)
        for band in bands:
            own = tuple(example for example in self.samples if example.band == band)
            found.append((f"drawn between {2.0**band:.3g} and {2.0 ** (band + 1):.3g}", own))
        return found


def card(index: FeatureIndex, layer: int, feature: int) -> FeatureCard:
    """The card of one feature. A feature that never was active has one too, and it says so."""
    stats, effects = index.stats(layer, feature), index.effects(layer, feature)
    examples = index.examples(layer, feature)
    top = [example for example in examples if example.kind == TOP][:TOP_SHOWN]
    seen = {example.position for example in top if example.position >= 0}
    samples = [e for e in examples if e.kind == SAMPLE and e.rank < PER_BAND and e.position not in seen]
    largest = max(stats.maximum, max((example.value for example in examples), default=0.0))
    facts: dict[str, Any] = {"stats": stats, "label": index.label(layer, feature), "effects": effects}
    if effects is not None:
        facts |= {
            "promoted": _tokens(index, effects.promoted, effects.promoted_by),
            "suppressed": _tokens(index, effects.suppressed, effects.suppressed_by),
            "excited_by_tokens": _tokens(index, effects.excited_by_tokens, effects.excited_by_tokens_weight),
            "driven_by": _neighbours(index, effects.input_layers, effects.input_features, effects.input_expected),
            "nearest": _neighbours(index, effects.nearest_layers, effects.nearest_features, effects.nearest_cosine),
        }
    return FeatureCard(
        **facts,
        top=tuple(shown(index, example, largest) for example in top),
        samples=tuple(shown(index, example, largest) for example in samples),
        n_places=index.header.n_places,
        corpus=index.header.corpus,
    )


def shown(index: FeatureIndex, example: Example, largest: float, *, width: int = WIDTH) -> ShownExample:
    """An example as text in pieces, cut to about `width` letters around its peak; line breaks are shown as ⏎."""
    texts = [text.translate(VISIBLE) for text in index.texts(example.tokens)]
    first = stop = example.peak
    room = width - len(texts[first]) if texts else 0
    while room > 0 and (first > 0 or stop < len(texts) - 1):
        left = len(texts[first - 1]) if first > 0 else None
        right = len(texts[stop + 1]) if stop < len(texts) - 1 else None
        take_left = right is None or (left is not None and example.peak - first <= stop - example.peak)
        first, stop = (first - 1, stop) if take_left else (first, stop + 1)
        room -= (left if take_left else right) or 0
    scale = max(largest, 1e-12)
    spans = [
        Span(texts[i], float(abs(example.activations[i])) / scale, i == example.peak)
        for i in range(first, stop + 1 if texts else first)
    ]
    if first > 0:
        spans.insert(0, Span("…", 0.0))
    if stop < len(texts) - 1:
        spans.append(Span("…", 0.0))
    return ShownExample(example.value, None if example.kind == TOP else example.band, tuple(spans))


def mark(span: Span, peak_share: float) -> str:
    """A piece with marks that need no colour; a leading space stays outside them."""
    pair = "«»" if span.is_peak else "‹›" if span.share >= STRONG * peak_share > 0 else ""
    if not pair:
        return span.text
    body = span.text.lstrip(" ")
    return f"{span.text[: len(span.text) - len(body)]}{pair[0]}{body}{pair[1]}"


def histogram_bar(histogram: NDArray[np.int64], width: int = 32) -> tuple[float, str, float]:
    """The histogram as a line of bars, with the activations where it begins and ends; heights are square roots.

    Empty bins at both ends are left out, and neighbours are joined to at most `width` bars. (0, "", 0) when empty.
    """
    used = np.flatnonzero(histogram)
    if len(used) == 0:
        return 0.0, "", 0.0
    first, stop = int(used[0]), int(used[-1]) + 1
    joined = -(-(stop - first) // width)
    counts = [int(histogram[i : min(i + joined, stop)].sum()) for i in range(first, stop, joined)]
    tallest = max(counts)
    # A bin that holds anything shows at least the lowest bar.
    bars = "".join(BARS[max(int(n > 0), round(8 * (n / tallest) ** 0.5))] for n in counts)
    low, high = (2.0 ** (FIRST_OCTAVE + edge / BINS_PER_OCTAVE) for edge in (first, stop))
    return low, bars, high


def often(frequency: float) -> str:
    """A frequency in words: ``one in 1,250``, or a percentage from 1 %."""
    if frequency <= 0:
        return "never"
    return f"{100 * frequency:.1f} %" if frequency >= 0.01 else f"one in {round(1 / frequency):,}"


def _tokens(index: FeatureIndex, tokens: NDArray, weights: NDArray) -> tuple[tuple[str, float], ...]:
    return tuple(zip(index.texts(tokens[:LISTED]), weights[:LISTED].tolist(), strict=True))


def _neighbours(index: FeatureIndex, layers: NDArray, features: NDArray, weights: NDArray) -> tuple[Neighbour, ...]:
    found = []
    columns = (column[:LISTED].tolist() for column in (layers, features, weights))
    for layer, feature, weight in zip(*columns, strict=True):
        label = index.label(layer, feature)
        found.append(Neighbour(layer, feature, weight, label.label if label else ""))
    return tuple(found)
