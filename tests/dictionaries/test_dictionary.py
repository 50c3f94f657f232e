"""The laws of a dictionary, whatever its span, activation and storage."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lucida.dictionaries import Dictionary, encoding, random_dictionary
from lucida.errors import DictionaryError

KINDS = ("relu", "jumprelu", "topk")


def literal_activations(dictionary: Dictionary, layer: int, x: torch.Tensor) -> torch.Tensor:
    """The definition, one position and one feature at a time."""
    weights = dictionary.weights[layer]
    out = torch.zeros(len(x), len(weights.encoder))
    for position in range(len(x)):
        h = [float(x[position] @ weights.encoder[f] + weights.encoder_bias[f]) for f in range(len(weights.encoder))]
        if dictionary.activation == "topk":
            kept = sorted(range(len(h)), key=lambda f: (-h[f], f))[: weights.k]
        elif weights.threshold is not None:
            kept = [f for f in range(len(h)) if h[f] > float(weights.threshold[f])]
        else:
            kept = list(range(len(h)))
        for f in kept:
            if h[f] > 0:
                out[position, f] = h[f]
    return out


def literal_reconstruction(dictionary: Dictionary, x: dict[int, torch.Tensor]) -> torch.Tensor:
    """Dense sums over sources and targets."""
    out = dictionary.decoder_biases[:, None].repeat(1, len(x[0]), 1)
    for layer, weights in dictionary.weights.items():
        activations = dictionary.encode(layer, x[layer])
        for offset, decoder in enumerate(weights.decoders):
            out[layer + offset] += activations @ decoder
        if weights.skip is not None:
            out[layer] += x[layer] @ weights.skip.T
    return out


@pytest.mark.parametrize("activation", KINDS)
def test_encode_is_its_definition(activation: str) -> None:
    dictionary = random_dictionary(2, 16, 40, activation=activation, l0=6, seed=3)
    x = torch.randn(7, 16, generator=torch.Generator().manual_seed(0))
    for layer in dictionary.layers:
        expected = literal_activations(dictionary, layer, x)
        torch.testing.assert_close(dictionary.encode(layer, x), expected, rtol=1e-5, atol=1e-5)
        assert 0 < (expected != 0).sum() < expected.numel()


@settings(deadline=None, max_examples=15)
@given(
    activation=st.sampled_from(KINDS),
    block=st.integers(8, 400),
    positions=st.integers(1, 9),
    seed=st.integers(0, 1000),
)
def test_block_size_does_not_matter(activation: str, block: int, positions: int, seed: int) -> None:
    dictionary = random_dictionary(1, 8, 50, activation=activation, l0=5, seed=seed)
    x = torch.randn(positions, 8, generator=torch.Generator().manual_seed(seed))
    whole = dictionary.encode_sparse(0, x)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoding, "BLOCK_ELEMENTS", block)
        patch.setattr(encoding, "_BLOCK_POSITIONS", max(1, block % 5))
        parts = dictionary.encode_sparse(0, x)
    torch.testing.assert_close(parts.dense(), whole.dense())
    key = parts.position * 50 + parts.feature
    assert (key.diff() > 0).all()
    assert (parts.activation > 0).all()


@pytest.mark.parametrize("block", [1, 9, 1 << 20])
def test_topk_gives_ties_to_the_lower_feature(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(encoding, "BLOCK_ELEMENTS", block)
    encoder = torch.tensor([[1.0], [3.0], [2.0], [2.0], [2.0], [-1.0]])
    dictionary = Dictionary.from_tensors(
        encoders={0: encoder}, encoder_biases={0: torch.zeros(6)}, decoders={0: torch.zeros(6, 1, 1)},
        decoder_biases=torch.zeros(1, 1), activation="topk", k=3,
    )  # fmt: skip
    found = dictionary.encode_sparse(0, torch.tensor([[1.0], [-1.0], [0.0]]))
    assert found.position.tolist() == [0, 0, 0, 1]
    assert found.feature.tolist() == [1, 2, 3, 5]
    assert found.activation.tolist() == [3.0, 2.0, 2.0, 1.0]


def test_jumprelu_is_strict() -> None:
    dictionary = Dictionary.from_tensors(
        encoders={0: torch.ones(2, 1)}, encoder_biases={0: torch.zeros(2)}, decoders={0: torch.ones(2, 1, 1)},
        decoder_biases=torch.zeros(1, 1), activation="jumprelu", thresholds={0: torch.tensor([1.0, 0.5])},
    )  # fmt: skip
    assert dictionary.encode(0, torch.ones(1, 1)).tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize("activation", KINDS)
@pytest.mark.parametrize(("span", "skip"), [(1, True), (2, False), (4, True)])
def test_reconstruct_is_its_definition(activation: str, span: int, skip: bool) -> None:
    dictionary = random_dictionary(4, 12, 30, span=span, activation=activation, skip=skip, l0=5)
    generator = torch.Generator().manual_seed(1)
    x = {layer: torch.randn(5, 12, generator=generator) for layer in range(4)}
    sparse = {layer: dictionary.encode_sparse(layer, x[layer]) for layer in range(4)}
    found = dictionary.reconstruct(sparse, x if skip else None)
    torch.testing.assert_close(found, literal_reconstruction(dictionary, x), rtol=1e-4, atol=1e-4)
    assert dictionary.span == span
    assert dictionary.has_skip == skip
    assert [list(dictionary.writes_to(layer)) for layer in (0, 3)] == [list(range(span)), [3]]
    if skip:
        with pytest.raises(DictionaryError, match="give reconstruct"):
            dictionary.reconstruct(sparse)


def test_rows_are_those_asked_in_the_order_asked() -> None:
    dictionary = random_dictionary(3, 8, 20, span=2)
    features = torch.tensor([7, 0, 7, 19])
    weights = dictionary.weights[1]
    assert torch.equal(dictionary.encoder_rows(1, features), weights.encoder[features])
    assert torch.equal(dictionary.encoder_bias(1, features), weights.encoder_bias[features])
    assert torch.equal(dictionary.decoder_rows(1, features, 2), weights.decoders[1][features])
    thresholds = dictionary.thresholds(1, features)
    assert thresholds is not None
    assert weights.threshold is not None
    assert torch.equal(thresholds, weights.threshold[features])
    assert dictionary.decoder_rows(1, features, 1, dtype=torch.bfloat16).dtype == torch.bfloat16
    assert dictionary.encoder_rows(1, features[:0]).shape == (0, 8)


def test_a_layer_without_dictionary_is_allowed() -> None:
    full = random_dictionary(3, 8, 20, span=2)
    partial = Dictionary.from_tensors(
        encoders={1: full.weights[1].encoder}, encoder_biases={1: full.weights[1].encoder_bias},
        decoders={1: torch.stack(full.weights[1].decoders, 1)}, decoder_biases=full.decoder_biases,
        activation="relu",
    )  # fmt: skip
    assert partial.layers == (1,)
    assert partial.targets == (1, 2)
    assert partial.n_features(0) == 0
    assert list(partial.writes_to(0)) == []
    assert partial.skip(0) is None
    with pytest.raises(DictionaryError, match="no features at layer 0"):
        partial.encode(0, torch.zeros(1, 8))


@pytest.mark.parametrize("feature", [-1, 20])
def test_a_feature_that_does_not_exist_is_named(feature: int) -> None:
    dictionary = random_dictionary(2, 8, 20)
    with pytest.raises(DictionaryError, match=f"feature {feature} does not exist at layer 1"):
        dictionary.decoder_rows(1, torch.tensor([3, feature]), 1)


def test_a_layer_it_does_not_write_to_is_named() -> None:
    with pytest.raises(DictionaryError, match="not to 2"):
        random_dictionary(3, 8, 20, span=2).decoder_rows(0, torch.tensor([0]), 2)


def test_nan_is_refused_wherever_it_sits() -> None:
    dictionary = random_dictionary(1, 8, 20)
    x = torch.ones(2, 8)
    dictionary.weights[0].decoders[0][3, 1] = np.nan
    assert len(dictionary.decoder_rows(0, torch.tensor([2]), 0)) == 1
    with pytest.raises(DictionaryError, match="decoder"):
        dictionary.decoder_rows(0, torch.tensor([3]), 0)
    dictionary.weights[0].encoder[5, 0] = np.nan
    with pytest.raises(DictionaryError, match="encoder of layer 0"):
        dictionary.encode(0, x)
    with pytest.raises(DictionaryError, match="inputs of layer 0"):
        dictionary.encode(0, x * np.inf)
    dictionary.weights[0].encoder_bias[5] = np.nan
    with pytest.raises(DictionaryError, match="encoder biases"):
        dictionary.to("cpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"activation": "gelu"}, "activation of in-memory is 'gelu'"),
        ({"reads_at": "somewhere"}, "reads_at"),
        ({"writes_at": "somewhere"}, "writes_at"),
        ({"activation": "topk"}, "k belongs to topk"),
        ({"activation": "jumprelu"}, "thresholds belong to jumprelu"),
        ({"activation": "topk", "k": 0}, "at least 1"),
        ({"encoder_biases": {0: torch.zeros(5)}}, "encoder bias"),
        ({"decoders": {0: torch.zeros(4, 2, 3)}}, "writes up to layer 1 of 1"),
        ({"decoders": {0: torch.zeros(5, 1, 3)}}, "decoder 0 of layer 0 of in-memory has shape"),
        ({"decoder_biases": torch.full((1, 3), torch.nan)}, "NaN"),
        ({"encoders": {}}, "holds no layer"),
    ],
)
def test_parts_that_do_not_fit_are_refused(change: dict, message: str) -> None:
    parts = {
        "encoders": {0: torch.zeros(4, 3)}, "encoder_biases": {0: torch.zeros(4)},
        "decoders": {0: torch.zeros(4, 1, 3)}, "decoder_biases": torch.zeros(1, 3), "activation": "relu",
    }  # fmt: skip
    assert Dictionary.from_tensors(**parts).n_features(0) == 4
    with pytest.raises(DictionaryError, match=message) as caught:
        Dictionary.from_tensors(**(parts | change))
    assert "\n" not in str(caught.value)


def test_inputs_of_another_model_are_refused() -> None:
    with pytest.raises(DictionaryError, match="reads 8 dimensions"):
        random_dictionary(1, 8, 20).encode(0, torch.zeros(1, 9))


@pytest.mark.parametrize("activation", KINDS)
def test_random_dictionary_is_as_sparse_as_asked_and_seeded(activation: str) -> None:
    samples = {layer: 3 * torch.rand(400, 32) - 1 for layer in range(2)}
    dictionary = random_dictionary(2, 32, 300, activation=activation, l0=12, samples=samples)
    for layer in range(2):
        assert len(dictionary.encode_sparse(layer, samples[layer])) / 400 == pytest.approx(12, rel=0.05)
    again = random_dictionary(2, 32, 300, activation=activation, l0=12, samples=samples)
    assert torch.equal(again.weights[1].encoder, dictionary.weights[1].encoder)
    assert again.source == dictionary.source
    assert random_dictionary(2, 32, 300, seed=1).source != random_dictionary(2, 32, 300).source
    with pytest.raises(DictionaryError, match="l0"):
        random_dictionary(2, 32, 300, l0=301)
