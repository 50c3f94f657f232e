"""The statistics of generated text against numbers worked out by hand and by the model itself."""

from typing import Any

import numpy as np
import pytest
import torch
from test_generate import TOKENS, dictionary_for

from lucida.errors import InterventionError
from lucida.steering import Steer, generate
from lucida.steering.outcome import distinct, log_probabilities, text_statistics


def test_distinct() -> None:
    assert distinct([1, 2, 1, 2, 1], 1) == pytest.approx(2 / 5)
    assert distinct([1, 2, 1, 2, 1], 2) == pytest.approx(2 / 4)
    assert distinct([4, 4, 4], 3) == 1
    assert np.isnan(distinct([4], 2))


def test_unsteered_log_probabilities_are_those_of_the_run(tiny_model: Any) -> None:
    """The baseline was written by the unsteered model; a steered text is likely to it only as it reads it."""
    model = tiny_model("gemma2")
    steers = [Steer(1, f, 20.0, maximum=1.0) for f in range(4)]
    found = generate(model, dictionary_for(model), TOKENS, steers, max_tokens=10, temperature=1.0, samples=3)
    scores = log_probabilities(model, found)
    for sample, score in zip(found.samples, scores, strict=True):
        if sample.condition == "baseline":
            assert torch.allclose(score, torch.tensor(sample.log_probabilities), atol=1e-4)
        ids = torch.tensor([[*TOKENS, *sample.tokens]])
        logits = torch.log_softmax(model.hf(input_ids=ids).logits[0].double(), -1)
        expected = [float(logits[len(TOKENS) - 1 + i, token]) for i, token in enumerate(sample.tokens)]
        assert score.tolist() == pytest.approx(expected, abs=1e-4)


def test_statistics_of_conditions(tiny_model: Any) -> None:
    model = tiny_model("llama")
    dictionary = dictionary_for(model)
    steers = {"null": [Steer(1, 3, 0.0, maximum=1.0)], "strong": [Steer(2, f, 40.0, maximum=1.0) for f in range(5)]}
    found = generate(model, dictionary, TOKENS, steers, max_tokens=10, temperature=1.0, samples=4)
    word = found.baseline[0].text.split()[0]
    rows: Any = text_statistics(model, found, [rf"\b{word}\b", "x"])
    base, null, strong = rows
    assert [row.condition for row in (base, null, strong)] == ["baseline", "null", "strong"]
    share = np.mean([word in sample.text.split() for sample in found.baseline])
    assert base.containing[rf"\b{word}\b"].value == pytest.approx(share)
    assert base.containing["x"].value == 0
    assert (base.changed.value, null.changed.value, strong.changed.value) == (0, 0, 1)
    assert null.log_probability.value == pytest.approx(base.log_probability.value, abs=1e-5)
    assert strong.log_probability.value < base.log_probability.value
    assert base.length.value == np.mean([len(sample.tokens) for sample in found.baseline])
    assert base.distinct[1].low <= base.distinct[1].value <= base.distinct[1].high


def test_a_single_sample_has_no_interval(tiny_model: Any) -> None:
    model = tiny_model("llama")
    (row,) = text_statistics(model, generate(model, None, TOKENS, max_tokens=4))
    assert row.log_probability is not None
    assert row.log_probability.low is None


def test_bad_pattern(tiny_model: Any) -> None:
    model = tiny_model("llama")
    found = generate(model, None, TOKENS, max_tokens=2)
    with pytest.raises(InterventionError, match="not a regular expression"):
        text_statistics(model, found, ["("])
