"""The scan of a text shows what is on at each token, as the dictionary says it is."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from made_up_index import made_up_index

from lucida.dictionaries import Dictionary, random_dictionary
from lucida.errors import FeatureError, PromptError
from lucida.features.header import IndexHeader
from lucida.features.index import FeatureIndex
from lucida.features.labels import Label, write_labels
from lucida.features.reading.read_text import read_text
from lucida.features.reading.watch import watch
from lucida.features.space import FeatureSpace
from lucida.models.taps import run

TOKENS = [1, 5, 17, 3, 42, 5]


def dictionary_of(**more: Any) -> Dictionary:
    return random_dictionary(3, 32, 24, l0=6, seed=3, **more)


@pytest.fixture
def dictionary() -> Dictionary:
    return dictionary_of()


def index_of(folder: Path, dictionary: Dictionary) -> FeatureIndex:
    """A made-up index that says to be of the dictionary."""
    from dataclasses import replace

    made_up_index(folder, n_features=(24, 24, 24))
    header = IndexHeader.open(folder)
    replace(header, dictionary=dictionary.name, dictionary_digest=dictionary.source.fingerprint).save(folder)
    return FeatureIndex.open(folder)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox"])
@pytest.mark.parametrize("reads_at", ["mlp_in", "resid_mid", "mlp_norm"])
def test_what_is_read_is_what_the_layers_read(tiny_model, family: str, reads_at: str) -> None:
    model, dictionary = tiny_model(family), dictionary_of(reads_at=reads_at)
    reading = read_text(model, dictionary, TOKENS)
    inputs: dict[int, torch.Tensor] = {}

    def visit(call) -> None:
        if call.at == "mlp_out":
            # Dictionaries that read what a LayerNorm gives read the MLP's own input.
            site = "mlp_in" if family == "gpt_neox" and reads_at == "mlp_norm" else reads_at
            inputs[call.layer] = call.site(model, site)[0]

    run(model, torch.tensor([TOKENS]), visit)
    assert sorted(reading.layers) == [0, 1, 2]
    for layer, active in reading.layers.items():
        expected = dictionary.encode(layer, inputs[layer])
        expected[0] = 0
        assert torch.equal(active.dense(), expected)
    assert sum(map(len, reading.layers.values())) > 0


def test_strongest_is_the_maximum_over_positions(tiny_model, dictionary: Dictionary) -> None:
    reading, space = read_text(tiny_model("llama"), dictionary, TOKENS), FeatureSpace.of(dictionary)
    numbers, values = reading.strongest(space)
    dense = torch.cat([reading.layers[layer].dense() for layer in range(3)], 1).max(0).values.numpy()
    np.testing.assert_array_equal(numbers, np.flatnonzero(dense))
    np.testing.assert_array_equal(values, dense[numbers])


def test_without_an_index_the_strongest_of_each_layer_is_one(tiny_model, dictionary: Dictionary) -> None:
    model = tiny_model("llama")
    found = watch(model, dictionary, TOKENS, count=3)
    reading = read_text(model, dictionary, TOKENS)
    assert [token.position for token in found.tokens] == [1, 2, 3, 4, 5]
    for token in found.tokens:
        active = {layer: a.dense()[token.position] for layer, a in reading.layers.items()}
        assert token.n_active == sum(int((a > 0).sum()) for a in active.values())
        assert (token.n_dense, len(token.features)) == (0, min(3, token.n_active))
        strengths = [feature.strength for feature in token.features]
        assert strengths == sorted(strengths, reverse=True)
        for feature in token.features:
            largest = reading.layers[feature.layer].activation.max()
            assert feature.activation == float(active[feature.layer][feature.feature])
            assert feature.strength == pytest.approx(float(feature.activation / largest))
            assert (feature.label, feature.frequency) == ("", None)
    # Nothing that is on is stronger than what is shown.
    assert max(f.strength for token in found.tokens for f in token.features) == pytest.approx(1.0)


def test_with_an_index_strength_is_relative_and_dense_ones_are_left_out(
    tiny_model, dictionary: Dictionary, tmp_path: Path
) -> None:
    model, index = tiny_model("llama"), index_of(tmp_path, dictionary)
    whole = watch(model, dictionary, TOKENS, index, count=99, densest=1.0)
    sparse = watch(model, dictionary, TOKENS, index, count=99, densest=0.2)
    n_left_out = 0
    for all_, some in zip(whole.tokens, sparse.tokens, strict=True):
        assert len(all_.features) == all_.n_active == some.n_active
        assert all_.n_dense == 0
        kept = [f for f in all_.features if index.stats(f.layer, f.feature).frequency <= 0.2]
        assert list(some.features) == kept
        assert some.n_dense == len(all_.features) - len(kept)
        n_left_out += some.n_dense
        for feature in all_.features:
            stats = index.stats(feature.layer, feature.feature)
            assert feature.frequency == stats.frequency
            expected = 1.0 if stats.is_silent else feature.activation / stats.maximum
            assert feature.strength == pytest.approx(expected, rel=1e-5)
    assert n_left_out > 0


def test_features_with_one_label_are_one_group(tiny_model, dictionary: Dictionary, tmp_path: Path) -> None:
    model, index = tiny_model("llama"), index_of(tmp_path, dictionary)
    everything = watch(model, dictionary, TOKENS, index, count=99, densest=1.0)
    places = sorted({(f.layer, f.feature) for token in everything.tokens for f in token.features})
    first, second = places[:2]
    write_labels(
        tmp_path, "automatic", [Label(*first, "tea", "automatic", "x"), Label(*second, "tea", "automatic", "x")]
    )
    found = watch(model, dictionary, TOKENS, index, count=99, densest=1.0)
    (group,) = [group for group in found.groups if group.name == "tea"]
    assert group.features == (first, second)
    on = [token.position for token in found.tokens if any(f.label == "tea" for f in token.features)]
    assert group.positions == tuple(on)
    strengths = [group.strength for group in found.groups]
    assert strengths == sorted(strengths, reverse=True)
    text = found.text()
    assert "tea [" in text
    assert len(text.splitlines()) == len(TOKENS) - 1


def test_what_cannot_be_watched(tiny_model, dictionary: Dictionary, tmp_path: Path) -> None:
    model = tiny_model("llama")
    with pytest.raises(PromptError, match="longer"):
        watch(model, dictionary, [5])
    with pytest.raises(PromptError, match="empty"):
        watch(model, dictionary, [])
    with pytest.raises(FeatureError, match="never off"):
        watch(model, None, TOKENS)
    with pytest.raises(FeatureError, match="at least one"):
        watch(model, dictionary, TOKENS, count=0)
    other = random_dictionary(3, 32, 24, l0=6, seed=9, name="other")
    with pytest.raises(FeatureError, match="not of other"):
        watch(model, other, TOKENS, index_of(tmp_path, dictionary))
