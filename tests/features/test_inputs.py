"""Virtual weights, ERA and TWERA against the formulas of METHODS 5.1, pair by pair."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch

from lucida.dictionaries import Dictionary
from lucida.dictionaries.random import random_dictionary
from lucida.features.effects import inputs
from lucida.features.effects.inputs import ActivePlaces, Inputs, feature_inputs
from lucida.features.space import FeatureSpace

LAYERS, WIDTH, SIZE, SAMPLED = 3, 32, 6, 40
SPACE = FeatureSpace((SIZE,) * LAYERS)


def dictionary(span: int = 3, reads_at: str = "mlp_in") -> Dictionary:
    return random_dictionary(LAYERS, WIDTH, SIZE, span=span, reads_at=reads_at, seed=4)


def activity(seed: int = 0) -> np.ndarray:
    """Activations [place, feature number], most of them 0; feature 7 is silent."""
    generator = np.random.default_rng(seed)
    dense = generator.lognormal(size=(SAMPLED, len(SPACE))) * (generator.random((SAMPLED, len(SPACE))) < 0.3)
    dense[:, 7] = 0
    return dense.astype(np.float32)


def places_of(dense: np.ndarray) -> ActivePlaces:
    place, number = np.nonzero(dense)
    shuffled = np.random.default_rng(1).permutation(len(place))
    place, number = place[shuffled], number[shuffled]
    return ActivePlaces.of(place * 100 + 3, number, dense[place, number], SPACE)


def virtual_weight(model: Any, features: Dictionary, source: int, reader: int) -> float:
    """V between two numbers, from the rows one by one."""
    (low, i), (high, j) = divmod(source, SIZE), divmod(reader, SIZE)
    read = features.encoder_rows(high, torch.tensor([j]))[0]
    if features.reads_at == "mlp_in":
        norm = model.norm(model.layers[high].mlp_norm)
        read = read * norm.weight
        read = read - read.mean() if norm.centred else read
    total = torch.zeros(WIDTH)
    for target in (t for t in features.writes_to(low) if t < high):
        row = features.decoder_rows(low, torch.tensor([i]), target)[0]
        post = model.norm(model.layers[target].mlp_post_norm)
        total += row if post is None else row * post.weight
    return float(total @ read)


CASES = [("llama", 3, "mlp_in"), ("gemma2", 1, "resid_mid"), ("gpt2", 2, "mlp_in")]


@pytest.mark.parametrize(("family", "span", "reads_at"), CASES)
def test_equals_the_formulas_pair_by_pair(tiny_model: Any, family: str, span: int, reads_at: str) -> None:
    model, features, dense = tiny_model(family), dictionary(span, reads_at), activity()
    found = list(feature_inputs(model, features, places_of(dense), len(SPACE), n_places=SAMPLED))
    assert len(found) == len(SPACE)
    for reader, got in enumerate(found):
        sources = [s for s in range(len(SPACE)) if s // SIZE < reader // SIZE]
        assert sorted(got.numbers.tolist()) == sources
        for n, source in enumerate(got.numbers.tolist()):
            weight = virtual_weight(model, features, source, reader)
            a_i, a_j = dense[:, source].astype(float), dense[:, reader].astype(float)
            twera = (a_i * a_j).mean() / a_j.mean() * weight if a_j.any() else 0.0
            era = ((a_j > 0) * a_i).mean() * weight
            assert got.weights[n] == pytest.approx(weight, abs=1e-4)
            assert got.expected[n] == pytest.approx(twera, abs=1e-4)
            assert got.active[n] == pytest.approx(era, abs=1e-4)


def test_keeps_the_strongest_by_expectation_and_by_weight(tiny_model: Any) -> None:
    model, features, places = tiny_model("llama"), dictionary(), places_of(activity())
    everything = list(feature_inputs(model, features, places, len(SPACE)))
    for all_of, few in zip(everything, feature_inputs(model, features, places, 2), strict=True):
        kept = few.numbers.tolist()
        assert len(kept) == len(set(kept)) <= 4
        for of in (np.abs(all_of.expected), np.abs(all_of.weights)):
            best = of.argsort()[::-1][:2]
            assert {int(all_of.numbers[n]) for n in best if of[n] > 0} <= set(kept)
        ranked = np.abs(few.expected[: min(2, len(kept))]).tolist()
        assert all(a >= b for a, b in pairwise(ranked))


def test_blocks_do_not_change_the_numbers(tiny_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, features, places = tiny_model("llama"), dictionary(), places_of(activity())
    whole = list(feature_inputs(model, features, places, 3))
    monkeypatch.setattr(inputs, "BLOCK", 2)
    for a, b in zip(whole, feature_inputs(model, features, places, 3), strict=True):
        assert _same(a, b)


def _same(a: Inputs, b: Inputs) -> bool:
    return np.array_equal(a.numbers, b.numbers) and bool(np.allclose(a.expected, b.expected, atol=1e-5))


def test_a_choice_of_places_estimates_the_mean_over_all(tiny_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where activity repeats itself, half of the places say the same as all of them."""
    model, features = tiny_model("llama"), dictionary()
    places = places_of(np.tile(np.where(activity()[:1] > 0, 2.0, 0.0), (SAMPLED, 1)).astype(np.float32))
    whole = list(feature_inputs(model, features, places, 3))
    monkeypatch.setattr(inputs, "PLACES", SAMPLED // 2)
    for a, b in zip(whole, feature_inputs(model, features, places, 3), strict=True):
        assert _same(a, b)
        assert np.allclose(a.active, b.active, atol=1e-5)


def test_without_places_only_weights_are_known(tiny_model: Any) -> None:
    found = list(feature_inputs(tiny_model("llama"), dictionary(), None, 3))
    assert all(not got.expected.any() for got in found)
    assert [len(got.numbers) for got in found] == [0] * SIZE + [3] * (2 * SIZE)
    assert all(np.all(np.diff(np.abs(got.weights)) <= 0) for got in found)
