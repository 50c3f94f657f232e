"""Settings: what cannot work is refused at once, in one line; a plan follows the budget."""

from typing import Any

import pytest
from synthetic import random_transcoder, tiny_config

from lucida.errors import TrainingError
from lucida.training import TrainingConfig


@pytest.mark.parametrize(
    ("knobs", "words"),
    [
        ({"n_features": 0}, "n_features is 0"),
        ({"span": 4}, "span is 4, the model has 3 layers"),
        ({"context": 1}, "context is 1"),
        ({"k": 49.0}, "k is 49.0"),
        ({"k": float("nan")}, "k is nan"),
        ({"batch_tokens": 62}, "a multiple of streams"),
        ({"batch_tokens": 512}, "does not fit a block of 256"),
        ({"activation": "relu", "penalty": "quadratic"}, "needs thresholds"),
        ({"bandwidth": 0.0}, "bandwidth is 0.0; it must be above 0"),
        ({"aux_share": 0.0}, "aux_share is 0.0"),
        ({"warmup": 1.5}, "between 0 and 1"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"normalise_tokens": 0}, "normalise_tokens is 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(knobs: dict[str, Any], words: str) -> None:
    with pytest.raises(TrainingError, match=words) as caught:
        tiny_config(**knobs)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["activation", "penalty", "products"])
def test_a_name_that_is_not_known_is_refused(name: str) -> None:
    """As the command line gives it: without the type checker that the tests run under."""
    config = tiny_config()
    object.__setattr__(config, name, "topk")
    with pytest.raises(TrainingError, match=f"{name} is 'topk'; known are "):
        config.__post_init__()


def test_settings_survive_json() -> None:
    config = tiny_config(aux_weight=1 / 3, checkpoint_minutes=0.1)
    assert TrainingConfig.from_json(config.to_json()) == config
    assert config.differences(tiny_config(k=5.0, aux_weight=1 / 3)) == ["k: 4.0, 5.0"]
    for text in ("{}", "[]", "nonsense", '{"n_layers": 1, "mystery": 2}'):
        with pytest.raises(TrainingError, match="not a training configuration"):
            TrainingConfig.from_json(text)


def test_a_plan_follows_the_budget() -> None:
    shape = {"n_layers": 3, "d_model": 32, "n_features": 4096}
    short, long = (TrainingConfig.plan(n_tokens=n, **shape) for n in (100_000, 50_000_000))
    assert short.batch_tokens < long.batch_tokens
    assert TrainingConfig.plan(n_tokens=100_000, **shape | {"n_features": 65536}).learning_rate < short.learning_rate
    assert TrainingConfig.plan(n_tokens=100_000, batch_tokens=1024, **shape).batch_tokens == 1024
    with pytest.raises(TrainingError, match="no training knob mystery"):
        TrainingConfig.plan(n_tokens=100_000, mystery=1, **shape)


def test_parameters_are_counted() -> None:
    for span in (1, 2, 3):
        config = tiny_config(span=span, activation="jumprelu")
        assert config.n_parameters == sum(tensor.numel() for _, tensor in random_transcoder(config).named())
