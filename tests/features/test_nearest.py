"""Nearest features against cosines of whole decoders, laid out layer by layer."""

from typing import Any

import pytest
import torch

from lucida.dictionaries import Dictionary
from lucida.dictionaries.random import random_dictionary
from lucida.features.effects import nearest
from lucida.features.effects.directions import decoders
from lucida.features.effects.nearest import nearest_features

LAYERS, WIDTH, SIZE = 3, 32, 9


def literal_cosines(model: Any, features: Dictionary) -> torch.Tensor:
    """All cosines: every decoder as one long vector with a part for each layer (one part only for span 1)."""
    vectors = []
    for layer in range(LAYERS):
        for feature in range(SIZE):
            parts = torch.zeros(LAYERS, WIDTH)
            for target in features.writes_to(layer):
                parts[0 if features.span == 1 else target] = decoders(model, features, layer, target)[feature]
            vectors.append(parts.flatten())
    rows = torch.nn.functional.normalize(torch.stack(vectors), dim=1)
    return (rows @ rows.T).fill_diagonal_(-2)


@pytest.mark.parametrize(("family", "span"), [("llama", 1), ("llama", 2), ("gemma2", 3)])
def test_equals_cosines_of_whole_decoders(tiny_model: Any, family: str, span: int, monkeypatch: Any) -> None:
    model, features = tiny_model(family), random_dictionary(LAYERS, WIDTH, SIZE, span=span, seed=2)
    expected = literal_cosines(model, features)
    monkeypatch.setattr(nearest, "BLOCK", 5)
    found = nearest_features(model, features, 4)
    best = expected.topk(4, dim=1)
    assert torch.allclose(found.cosines, best.values, atol=1e-5)
    assert torch.allclose(expected.gather(1, found.numbers), best.values, atol=1e-5)


def test_a_copy_of_a_feature_is_nearest_across_layers(tiny_model: Any) -> None:
    features = random_dictionary(LAYERS, WIDTH, SIZE, span=1, writes_at="resid", seed=2)
    rows = {layer: decoders(tiny_model("llama"), features, layer, layer)[:, None].clone() for layer in range(LAYERS)}
    rows[2][3] = 5.0 * rows[0][1]
    copied = Dictionary.from_tensors(
        encoders={layer: features.weights[layer].encoder for layer in range(LAYERS)},
        encoder_biases={layer: features.weights[layer].encoder_bias for layer in range(LAYERS)},
        thresholds={layer: torch.zeros(SIZE) for layer in range(LAYERS)},
        decoders=rows, decoder_biases=torch.zeros(LAYERS, WIDTH), activation="jumprelu", writes_at="resid",
    )  # fmt: skip
    found = nearest_features(tiny_model("llama"), copied, 1)
    assert found.numbers[1].item() == 2 * SIZE + 3
    assert found.numbers[2 * SIZE + 3].item() == 1
    assert found.cosines[1].item() == pytest.approx(1.0, abs=1e-5)
