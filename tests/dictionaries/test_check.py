"""check_dictionary passes what is right and names what is wrong."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from lucida.dictionaries import (
    Dictionary,
    SparseActivations,
    check_dictionary,
    check_fits,
    load_dictionary,
    random_dictionary,
    write_circuit_tracer,
)
from lucida.errors import DictionaryError


@pytest.mark.parametrize("activation", ["relu", "jumprelu", "topk"])
@pytest.mark.parametrize(("span", "full"), [(1, False), (2, True), (3, False)])
def test_a_good_dictionary_passes(activation: str, span: int, full: bool) -> None:
    dictionary = random_dictionary(3, 16, 300, span=span, activation=activation, skip=True)
    report = check_dictionary(dictionary, full=full)
    assert report.name == dictionary.name
    assert len(report.passed) == 7


def test_a_loaded_dictionary_passes(tmp_path: Path) -> None:
    folder = write_circuit_tracer(random_dictionary(3, 16, 300, span=3), tmp_path / "clt")
    assert check_dictionary(load_dictionary(folder), full=True).full


class Unfaithful(Dictionary):
    """Encodes something else than its weights say."""

    def encode_sparse(
        self, layer: int, x: Float[Tensor, "pos d_model"], *, dtype: torch.dtype = torch.float32
    ) -> SparseActivations:
        found = super().encode_sparse(layer, x, dtype=dtype)
        return replace(found, activation=found.activation * 1.01)


class Unordered(Dictionary):
    """Lists its active features backwards."""

    def encode_sparse(
        self, layer: int, x: Float[Tensor, "pos d_model"], *, dtype: torch.dtype = torch.float32
    ) -> SparseActivations:
        found = super().encode_sparse(layer, x, dtype=dtype)
        return replace(found, position=found.position.flip(0), feature=found.feature.flip(0))


class Forgetful(Dictionary):
    """Leaves the decoder biases out."""

    def reconstruct(self, activations, inputs=None):  # type: ignore[override]
        return super().reconstruct(activations, inputs) - self.decoder_biases[:, None]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Unfaithful, "encode differs"),
        (Unordered, "not ordered|encode differs"),
        (Forgetful, "reconstruct differs"),
    ],
)
def test_a_breach_is_named(kind: type[Dictionary], message: str) -> None:
    good = random_dictionary(2, 16, 100)
    bad = kind(**{name: getattr(good, name) for name in good.__dataclass_fields__})
    with pytest.raises(DictionaryError, match=message):
        check_dictionary(bad)


@pytest.mark.parametrize("activation", ["relu", "jumprelu", "topk"])
def test_an_unfaithful_encoder_is_caught_for_every_activation(activation: str) -> None:
    good = random_dictionary(2, 16, 100, activation=activation)
    with pytest.raises(DictionaryError, match="encode differs"):
        check_dictionary(Unfaithful(**{name: getattr(good, name) for name in good.__dataclass_fields__}))


def test_a_negative_threshold_is_a_breach() -> None:
    dictionary = random_dictionary(2, 16, 100)
    assert dictionary.weights[1].threshold is not None
    dictionary.weights[1].threshold[7] = -0.5
    with pytest.raises(DictionaryError, match="layer 1: a threshold is negative"):
        check_dictionary(dictionary)


def test_nan_hidden_in_one_row_is_found_by_the_full_check() -> None:
    dictionary = random_dictionary(1, 8, 5000)
    dictionary.weights[0].decoders[0][4321, 2] = torch.nan
    with pytest.raises(DictionaryError, match="decoder"):
        check_dictionary(dictionary, full=True)


def test_fits() -> None:
    dictionary = random_dictionary(2, 16, 50, model_name="Org/Tiny-1B")
    check_fits(dictionary, 2, 16)
    check_fits(dictionary, 2, 16, "other-org/tiny-1b")
    for arguments, message in (
        ((2, 32), "d_model 16, this model 32; it was made for Org/Tiny-1B"),
        ((3, 16), "has 2 layers, this model 3.*load it with n_layers"),
        ((1, 16), "has 2 layers, this model 1"),
        ((2, 16, "huge"), "is of Org/Tiny-1B, this model is huge"),
    ):
        with pytest.raises(DictionaryError, match=message) as caught:
            check_fits(dictionary, *arguments)
        assert "\n" not in str(caught.value)
