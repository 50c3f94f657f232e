"""A card says everything that an index knows of a feature, with colours or without."""

from pathlib import Path

import numpy as np
import pytest
from made_up_index import made_up_index
from test_index import add_effects

from lucida.features.index import Example, FeatureIndex
from lucida.features.labels import Label, write_labels
from lucida.features.reading.card import TOP_SHOWN, Span, histogram_bar, mark, often, shown
from lucida.features.tables import BINS_PER_OCTAVE, FIRST_OCTAVE, HISTOGRAM_BINS


@pytest.fixture
def index(tmp_path: Path) -> FeatureIndex:
    folder = made_up_index(tmp_path / "index")
    add_effects(folder)
    write_labels(folder, "automatic", [Label(0, 4, "the word x", "automatic", "peak tokens", 0.75)])
    write_labels(folder, "human", [Label(1, 0, "size words", "Ada", "by hand")])
    return FeatureIndex.open(folder)


def test_a_card_says_it_all(index: FeatureIndex) -> None:
    card, stats = index.card(0, 4), index.stats(0, 4)
    text = card.text()
    assert text.splitlines()[0] == "0:4  the word x"
    assert "by automatic (peak tokens, score 0.75)" in text
    assert f"at {stats.count} of 400 places" in text
    assert f"maximum {stats.maximum:.3g}" in text
    assert "promotes   ' a'" not in text  # feature 4 promotes token 4
    assert "promotes   ' of' +4.00" in text
    assert "size words [1:0] +4.00" in text  # its nearest feature goes by its label
    assert "strongest, each in another document" in text
    for example in index.examples(0, 4, "top"):
        assert f"«{index.text(int(example.tokens[example.peak])).strip()}»".replace("«»", "«⏎»") in text


def test_top_ones_come_first_and_samples_by_band(index: FeatureIndex) -> None:
    card = index.card(0, 4)
    values = [example.value for example in card.top]
    assert values == sorted(values, reverse=True)
    assert len(values) <= TOP_SHOWN
    bands = [example.band for example in card.samples]
    assert bands == sorted(bands, reverse=True)
    shown_places = [example.text() for example in (*card.top, *card.samples)]
    assert len(card.sections()) == 1 + len(set(bands))
    assert all(2.0**example.band <= example.value < 2.0 ** (example.band + 1) for example in card.samples)
    assert shown_places


def test_a_silent_feature_has_a_card(index: FeatureIndex) -> None:
    text = index.card(1, 4).text()
    assert text.startswith("1:4  no label")
    assert "never active at any of the 400 places of made-up-text" in text
    assert "strongest" not in text


def example_of(index: FeatureIndex, activations: list[float], peak: int) -> Example:
    tokens = np.arange(len(activations), dtype=np.int32)
    value = activations[peak]
    return Example("top", 0, 0, value, 0, 0, peak, tokens, np.float32(activations))


def test_marks_need_no_colour(index: FeatureIndex) -> None:
    found = shown(index, example_of(index, [0.0, 3.0, 1.9, 4.0, 2.0], 3), 8.0)
    assert found.text() == " small ‹tiny› large «the» ‹of›"
    assert [span.share for span in found.spans] == pytest.approx([0, 0.375, 0.2375, 0.5, 0.25])
    assert [span.is_peak for span in found.spans] == [False, False, False, True, False]
    assert mark(Span("\n", 1.0, True), 1.0) == "«\n»"
    assert mark(Span(" word", 0.0), 0.0) == " word"


def test_long_examples_are_cut_around_their_peak(index: FeatureIndex) -> None:
    activations = [0.0] * 14
    activations[6] = 1.0
    found = shown(index, example_of(index, activations, 6), 1.0, width=20)
    text = found.text()
    assert text.startswith("…")
    assert text.endswith("…")
    assert "«capital»" in text
    assert len(text) <= 20 + len("«»……") + len(" opposite")
    assert "⏎" in shown(index, example_of(index, activations, 6), 1.0, width=200).text()


def test_the_histogram_in_a_line() -> None:
    histogram = np.zeros(HISTOGRAM_BINS, dtype=np.int64)
    assert histogram_bar(histogram) == (0.0, "", 0.0)
    first = -FIRST_OCTAVE * BINS_PER_OCTAVE
    histogram[first : first + 4] = [1, 100, 0, 10000]
    low, bars, high = histogram_bar(histogram)
    assert (low, high) == (1.0, 2.0)
    assert bars == "▁▁ █"
    histogram[:] = 1
    low, bars, high = histogram_bar(histogram)
    assert bars == "█" * 32
    assert (low, high) == (2.0**FIRST_OCTAVE, 2.0 ** (FIRST_OCTAVE + HISTOGRAM_BINS / BINS_PER_OCTAVE))


def test_how_often() -> None:
    assert [often(share) for share in (0.0, 0.25, 0.01, 0.0008)] == ["never", "25.0 %", "1.0 %", "one in 1,250"]
