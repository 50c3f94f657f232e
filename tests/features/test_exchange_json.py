"""The JSON of one feature: what front ends need is there, and what we wrote comes back to the last bit."""

import json
import math
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from exchange_bench import SILENT, described_index
from hypothesis import given
from hypothesis import strategies as st

from lucida.errors import FeatureError
from lucida.features.build.numbers import histogram_bins
from lucida.features.exchange import (
    feature_document,
    parse_feature,
    portable_feature,
    portable_features,
    read_feature_json,
    write_feature_json,
)
from lucida.features.exchange.histograms import linear_histogram, octave_histogram, percentiles
from lucida.features.exchange.portable import NOMINAL_PLACES, PortableFeature, shortest
from lucida.features.index import FeatureIndex
from lucida.features.tables import HISTOGRAM_BINS
from lucida.graph.neuronpedia.names import cantor_pair

NUMBERS = {"type": "array", "items": {"type": "number"}}
TEXTS = {"type": "array", "items": {"type": "string"}}
EXAMPLE = {
    "type": "object",
    "required": ["tokens", "tokens_acts_list", "train_token_ind", "is_repeated_datapoint"],
    "properties": {
        "tokens": TEXTS,
        "tokens_acts_list": NUMBERS,
        "train_token_ind": {"type": "integer"},
        "is_repeated_datapoint": {"type": "boolean"},
    },
}
SCHEMA = {
    "type": "object",
    "required": [
        "transcoder_id", "index", "examples_quantiles", "top_logits", "bottom_logits", "act_min", "act_max",
        "quantile_values", "histogram", "activation_frequency",
    ],
    "properties": {
        "transcoder_id": {"type": "string"},
        "index": {"type": "integer"},
        "top_logits": TEXTS,
        "bottom_logits": TEXTS,
        "act_min": {"type": "number"},
        "act_max": {"type": "number"},
        "quantile_values": NUMBERS,
        "histogram": NUMBERS,
        "activation_frequency": {"type": "number"},
        "examples_quantiles": {
            "type": "array",
            "minItems": 1,  # Neuronpedia's page looks into the first one without asking whether it is there
            "items": {
                "type": "object",
                "required": ["quantile_name", "examples"],
                "properties": {"quantile_name": {"type": "string"}, "examples": {"type": "array", "items": EXAMPLE}},
            },
        },
    },
}  # fmt: skip
"""What circuit-tracer's model and Neuronpedia's schema of a feature require, together."""


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> FeatureIndex:
    return described_index(tmp_path_factory.mktemp("exchange") / "index")


def same(one: PortableFeature, other: PortableFeature) -> None:
    for name, value in vars(one.stats).items():
        assert np.array_equal(value, vars(other.stats)[name]), name
    assert [vars(example).keys() for example in one.examples] == [vars(example).keys() for example in other.examples]
    for left, right in zip(one.examples, other.examples, strict=True):
        for name, value in vars(left).items():
            assert np.array_equal(value, vars(right)[name]), name
    assert one.labels == other.labels
    assert vars(one.promoted) == vars(other.promoted)
    assert vars(one.suppressed) == vars(other.suppressed)


@pytest.mark.parametrize("own_fields", [True, False])
def test_every_feature_is_a_document_that_both_front_ends_take(index: FeatureIndex, own_fields: bool) -> None:
    for feature in portable_features(index):
        document = feature_document(feature, transcoder="t", own_fields=own_fields)
        jsonschema.validate(json.loads(json.dumps(document, allow_nan=False)), SCHEMA)
        assert ("lucida" in document) == own_fields
        for group in document["examples_quantiles"]:
            for example in group["examples"]:
                assert len(example["tokens"]) == len(example["tokens_acts_list"])
                assert example["tokens_acts_list"][example["train_token_ind"]] > 0


def test_a_document_of_ours_gives_back_the_feature(index: FeatureIndex) -> None:
    features = list(portable_features(index))
    assert len(features) == len(index.space)
    for feature in features:
        document = json.loads(json.dumps(feature_document(feature, transcoder="t")))
        places = index.header.n_places
        back = parse_feature(document, "it", layer=feature.layer, feature=feature.feature, n_places=places)
        same(feature, back)
        assert back.is_exact


def test_one_feature_and_some_layers_are_the_same_as_in_the_whole_walk(index: FeatureIndex) -> None:
    whole = {(each.layer, each.feature): each for each in portable_features(index)}
    same(portable_feature(index, 0, 1), whole[0, 1])
    assert portable_feature(index, 0, 1).label == index.label(0, 1)
    some = list(portable_features(index, [1]))
    assert [(each.layer, each.feature) for each in some] == [key for key in whole if key[0] == 1]
    for each in some:
        same(each, whole[1, each.feature])
        assert each.nearest == whole[1, each.feature].nearest
    with pytest.raises(FeatureError, match="layers 7 were asked for"):
        list(portable_features(index, [1, 7]))


def test_a_silent_feature_has_one_empty_group_and_nothing_else(index: FeatureIndex) -> None:
    document = feature_document(portable_feature(index, *SILENT), transcoder="t")
    assert [group["examples"] for group in document["examples_quantiles"]] == [[]]
    assert document["activation_frequency"] == document["act_max"] == 0
    assert document["histogram"] == document["quantile_values"] == []


def test_a_place_that_was_shown_before_is_drawn_faintly(index: FeatureIndex) -> None:
    feature = portable_feature(index, 0, 1)
    document = feature_document(feature, transcoder="t")
    shown = [example for group in document["examples_quantiles"] for example in group["examples"]]
    places = [example["lucida"]["position"] for example in shown]
    assert [example["is_repeated_datapoint"] for example in shown] == [p in places[:i] for i, p in enumerate(places)]
    assert any(example["is_repeated_datapoint"] for example in shown)


def test_a_document_without_our_fields_keeps_what_the_format_has(index: FeatureIndex) -> None:
    feature = portable_feature(index, 0, 4)
    document = json.loads(json.dumps(feature_document(feature, transcoder="t", own_fields=False)))
    back = parse_feature(document, "it", layer=0, feature=4)
    assert not back.is_exact
    for left, right in zip(feature.examples, back.examples, strict=True):
        assert (left.kind, left.tokens, left.peak) == (right.kind, right.tokens, right.peak)
        assert (left.band, left.rank, left.value) == (right.band, right.rank, right.value)
        assert np.array_equal(left.activations, right.activations)
        assert (right.position, right.document, right.ids) == (-1, -1, None)
    assert back.promoted.tokens == feature.promoted.tokens
    assert back.promoted.weights == [0.0] * 3
    assert back.stats.maximum == feature.stats.maximum
    assert back.stats.frequency == feature.stats.frequency
    assert back.stats.count == round(feature.stats.frequency * NOMINAL_PLACES) == back.stats.histogram.sum()
    # Bars and bins overlap: most of the mass must be within one octave of where it was.
    moved = np.cumsum(back.stats.histogram / back.stats.count) - np.cumsum(
        feature.stats.histogram / feature.stats.count
    )
    assert np.abs(moved).max() < 0.25


def test_documents_of_others_are_read_as_far_as_they_say() -> None:
    document = {
        "examples_quantiles": [
            {
                "quantile_name": "Top activations",
                "examples": [
                    {"tokens": ["a", "b"], "tokens_acts_list": [0, 2.5], "train_token_ind": 9},
                    {"tokens": ["a", "b\ud800"], "tokens_acts_list": [1, 0], "train_token_ind": 0},
                ],
            },
            {
                "quantile_name": "Subsample interval 0",
                "examples": [
                    {"tokens": ["c", "d"], "tokens_acts_list": [0.5, 3], "train_token_ind": 0},
                    {"tokens": ["c"], "tokens_acts_list": [0.0], "train_token_ind": 0},  # not active: left out
                ],
            },
        ],
        "top_logits": [["x", 0.5], "y"],
    }
    feature = parse_feature(document, "it", layer=3, feature=9)
    found = [(e.kind, e.band, e.rank, e.peak, e.value, e.tokens) for e in feature.examples]
    assert found == [
        ("top", 1, 0, 1, 2.5, ["a", "b"]),
        ("top", 0, 1, 0, 1.0, ["a", "b?"]),
        ("sample", -1, 0, 0, 0.5, ["c", "d"]),
    ]
    assert (feature.promoted.tokens, feature.promoted.weights) == (["x", "y"], [0.5, 0.0])
    assert (feature.stats.maximum, feature.stats.count) == (2.5, 3)
    assert (feature.layer, feature.feature) == (3, 9)


def test_a_folder_of_features_is_numbered_as_graphs_number_them(index: FeatureIndex, tmp_path: Path) -> None:
    said: list[tuple[str, int, int | None]] = []
    folder = tmp_path / "features"
    assert write_feature_json(index, folder, progress=lambda *step: said.append(step)) == len(index.space)
    assert said[-1] == ("writing features", len(index.space), len(index.space))
    expected = {f"{cantor_pair(each.layer, each.feature)}.json" for each in portable_features(index)}
    assert {path.name for path in folder.iterdir()} == expected
    same(
        read_feature_json(folder / f"{cantor_pair(1, 3)}.json", n_places=index.header.n_places),
        portable_feature(index, 1, 3),
    )
    with pytest.raises(FeatureError, match="is there already"):
        write_feature_json(index, folder)


def test_a_file_of_others_says_by_its_name_which_feature_it_is(tmp_path: Path) -> None:
    path = tmp_path / f"{cantor_pair(4, 31)}.json"
    path.write_text('{"examples_quantiles": []}', "utf-8")
    feature = read_feature_json(path)
    assert (feature.layer, feature.feature, feature.stats.is_silent) == (4, 31, True)
    other = path.rename(tmp_path / "mine.json")
    with pytest.raises(FeatureError, match=r"mine\.json does not say its layer"):
        read_feature_json(other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"examples_quantiles": None}, "has no list 'examples_quantiles'"),
        ({"examples_quantiles": [3]}, "must be an object, found 3"),
        ({"act_max": "much"}, "'act_max' of it must be a number, found much"),
        ({"act_max": 1e39}, "'act_max' of it is no finite float32"),
        ({"top_logits": [7]}, "'top_logits' of it must be a text, found 7"),
        ({"histogram": {}}, "'histogram' of it must be a list"),
        (
            {"examples_quantiles": [{"examples": [{"tokens": ["a"], "tokens_acts_list": []}]}]},
            "1 tokens, 0 activations",
        ),
        ({"examples_quantiles": [{"examples": [{}] * 10_001}]}, "more than 10,000 examples"),
        ({"lucida": {"layer": 0, "feature": 8}}, "stands where feature 0:1 should"),
        ({"lucida": {"layer": 0, "feature": 1, "histogram": [[96, 1]]}}, "must lie between 0 and 95, found 96"),
    ],
)
def test_wrong_values_are_refused_by_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(FeatureError, match=message):
        parse_feature({"examples_quantiles": []} | change, "it", layer=0, feature=1)


def test_a_file_that_is_cut_short_or_not_finite_is_refused_by_name(index: FeatureIndex, tmp_path: Path) -> None:
    text = json.dumps(feature_document(portable_feature(index, 0, 1), transcoder="t"))
    path = tmp_path / "2.json"
    for damaged in (text[:-9], "[" * 100_000, text.replace("2.", "NaN, 2.", 1), "9" * 10_000, ""):
        path.write_text(damaged, "utf-8")
        with pytest.raises(FeatureError, match=r"2\.json"):
            read_feature_json(path)


@given(st.lists(st.floats(2.0**-20, 2.0**20, width=32), min_size=1, max_size=60))
def test_histograms_of_both_kinds_hold_the_same_number_of_activations(values: list[float]) -> None:
    numbers = np.array(values, dtype=np.float32)
    histogram = np.bincount(histogram_bins(numbers), minlength=HISTOGRAM_BINS)
    maximum = float(numbers.max())
    bars = linear_histogram(histogram, maximum)
    assert len(bars) == 50
    assert min(bars) >= 0
    assert math.isclose(sum(bars), len(values), rel_tol=1e-3, abs_tol=0.05)
    back = octave_histogram(bars, 0.0, maximum, len(values))
    assert back.sum() == len(values)
    assert back.min() >= 0
    # Nothing may stand above the bin of the maximum.
    assert not back[int(histogram_bins(np.array([maximum], dtype=np.float32))[0]) + 1 :].any()
    table = percentiles(histogram, maximum)
    assert table == sorted(table)
    assert table[-1] <= maximum * (1 + 1e-5)


@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_the_shortest_digits_give_back_the_same_float32(value: float) -> None:
    number = np.float32(value)
    assert np.float32(shortest([number])[0]) == number
