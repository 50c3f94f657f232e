"""The skip test tells a chain that is drawn as one hop from two readers of the same input."""

from typing import Any

import numpy as np
import pytest
import torch
from relu_models import (
    fitting_dictionary,
    perfect_dictionary,
    planted_model,
    random_rows,
    relu_model,
    skipping_dictionary,
)

from lucida.dictionaries import Dictionary
from lucida.errors import DictionaryError
from lucida.evaluation import (
    DictionaryBasis,
    GraphOptions,
    NeuronBasis,
    compare_stories,
    given_prompts,
    measure_graphs,
    measure_reconstruction,
    measure_skips,
)


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Intervals are not the matter here."""
    monkeypatch.setattr("lucida.statistics.RESAMPLES", 50)


PROMPT = [0, 4, 1]
"""The last token writes A."""


@pytest.mark.parametrize("chained", [True, False])
def test_the_skip_test_finds_the_planted_chain(chained: bool) -> None:
    """The same dictionary, equally good, on two models: B then C by a chain, or B and C from the same input."""
    model = planted_model(chained=chained)
    basis = DictionaryBasis(model, skipping_dictionary(model))
    (fit,) = measure_reconstruction(model, [basis], torch.tensor([PROMPT, [0, 1, 4], [0, 1, 1]]))
    assert fit.nmse < 0.01
    found = measure_skips(model, basis, given_prompts(model, [PROMPT]).prompts)
    assert found.features == 1
    assert found.own is not None
    assert found.followed is not None
    assert found.one_hop is not None
    assert found.new is not None
    assert found.own.value == pytest.approx(1, abs=0.1)
    assert found.new.value == pytest.approx(1)
    assert found.followed.value == pytest.approx(1, abs=0.1)
    assert found.one_hop.value == pytest.approx(0 if chained else 1, abs=0.1)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_neox", "olmo2", "phi", "mixtral"])
def test_every_family_can_be_tested(tiny_model: Any, family: str) -> None:
    """Norms before, behind or nowhere, parallel blocks, experts: the test runs, and the seed decides."""
    model = tiny_model(family)
    rows = random_rows(model)
    basis = DictionaryBasis(model, fitting_dictionary(model, rows, span=3, reads_at="resid_mid"))
    prompts = given_prompts(model, [rows[0, :8].tolist(), rows[1, :7].tolist()]).prompts
    found = measure_skips(model, basis, prompts, options=GraphOptions(max_nodes=None), features=6)
    again = measure_skips(model, basis, prompts, options=GraphOptions(max_nodes=None), features=6)
    assert found == again
    assert 6 <= found.features <= 12
    assert found.own is not None
    assert found.new is not None
    assert 0.5 < found.new.value <= 1
    assert np.isfinite([found.own.value, found.followed.value, found.one_hop.value]).all()  # type: ignore[union-attr]


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox"])
def test_removing_a_neurons_input_removes_the_neuron(family: str) -> None:
    """In an exact dictionary the own layer answers by the feature itself, whatever the batch."""
    model = relu_model(family)
    exact = perfect_dictionary(model)
    padded = Dictionary.from_tensors(
        encoders={layer: w.encoder for layer, w in exact.weights.items()},
        encoder_biases={layer: w.encoder_bias for layer, w in exact.weights.items()},
        decoders={
            layer: torch.stack([w.decoders[0], *([torch.zeros_like(w.decoders[0])] if layer < 2 else [])], 1)
            for layer, w in exact.weights.items()
        },
        decoder_biases=exact.decoder_biases,
        activation="relu",
    )
    prompts = given_prompts(model, [random_rows(model)[0].tolist()]).prompts
    found = measure_skips(model, DictionaryBasis(model, padded), prompts)
    assert found.own is not None
    assert found.own.value > 0.5
    # It claims to write nothing to later layers.
    assert found.new is None
    assert found.followed is None
    assert found.one_hop is None


def test_what_is_only_made_longer_is_not_new() -> None:
    """A feature that writes one direction to both layers: nothing of it is new, so there is nothing to test."""
    model = planted_model(chained=True)
    dictionary = skipping_dictionary(model)
    dictionary.weights[0].decoders[1][:] = 0.5 * dictionary.weights[0].decoders[0]
    found = measure_skips(model, DictionaryBasis(model, dictionary), given_prompts(model, [PROMPT]).prompts)
    assert found.new is not None
    assert found.new.value == 0
    assert found.followed is None


def test_batches_do_not_matter(tiny_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("gemma2")
    rows = random_rows(model)
    basis = DictionaryBasis(model, fitting_dictionary(model, rows, span=3))
    prompts = given_prompts(model, [rows[0, :8].tolist()]).prompts
    whole = measure_skips(model, basis, prompts)
    monkeypatch.setattr("lucida.evaluation.disagreement.BATCH", 1)
    small = measure_skips(model, basis, prompts)
    for name in ("own", "followed", "one_hop"):
        assert getattr(small, name).value == pytest.approx(getattr(whole, name).value, abs=1e-3)


def test_a_per_layer_dictionary_skips_nothing(tiny_model: Any) -> None:
    model = tiny_model("llama")
    basis = DictionaryBasis(model, fitting_dictionary(model, random_rows(model)))
    with pytest.raises(DictionaryError, match="per-layer"):
        measure_skips(model, basis, given_prompts(model, [[5, 6, 7]]).prompts)


def test_two_equal_stories_agree(tiny_model: Any) -> None:
    model = tiny_model("llama")
    rows = random_rows(model)
    clt = DictionaryBasis(model, fitting_dictionary(model, rows, span=3))
    plt = DictionaryBasis(model, fitting_dictionary(model, rows))
    prompts = given_prompts(model, [row[:9].tolist() for row in rows[:3]]).prompts
    graphs = measure_graphs(model, {"clt": clt, "plt": plt, "neurons": NeuronBasis(model, 0.3)}, prompts)
    same = compare_stories(graphs["clt"], graphs["clt"], ("clt", "clt"))
    assert same.tokens is not None
    assert same.path_gap is not None
    assert same.tokens.value == pytest.approx(1)
    assert same.path_gap.value == 0
    other = compare_stories(graphs["clt"], graphs["plt"], ("clt", "plt"))
    assert other.path_gap is not None
    assert graphs["plt"].path_length is not None
    assert graphs["clt"].path_length is not None
    gap = graphs["plt"].path_length.value - graphs["clt"].path_length.value
    assert other.path_gap.value == pytest.approx(gap)
    assert other.short_cross is not None
    assert 0 <= other.short_cross.value <= 1
    with pytest.raises(DictionaryError, match="not of the same prompts"):
        compare_stories(graphs["clt"], measure_graphs(model, {"x": plt}, prompts[:2])["x"], ("a", "b"))
