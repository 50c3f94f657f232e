"""Which steers can be meant, what strength 1 of them is, and every bad one in one line."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_generate import TOKENS, dictionary_for

from lucida.errors import DictionaryError, FeatureError, InterventionError, LucidaError, ModelError, PromptError
from lucida.features.header import IndexHeader
from lucida.models.recording import record
from lucida.steering import Dial, Features, Steer, generate, sweep

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"feature": None}, "either a feature or a direction"),
        ({"direction": torch.ones(32)}, "either a feature or a direction"),
        ({"strength": NAN}, "steered by nan; give a finite"),
        ({"strength": INF}, "steered by inf"),
        ({"variant": "twist"}, "use add, clamp, scale, orthogonal"),
        ({"where": "nowhere"}, "use all, prompt, generated, answer"),
        ({"where": ()}, "no position"),
        ({"maximum": 0.0}, "above 0"),
        ({"maximum": NAN}, "above 0"),
        ({"feature": None, "direction": torch.zeros(32)}, "zero or not finite"),
        ({"feature": None, "direction": torch.full((32,), NAN)}, "zero or not finite"),
        ({"feature": None, "direction": torch.ones(32), "variant": "clamp"}, "no activation to clamp"),
    ],
)
def test_steers_that_cannot_be_meant(settings: Any, says: str) -> None:
    # As a caller without a type checker makes it: past the checks of the tests' own.
    made = object.__new__(Steer)
    for name, value in (Steer(1, 3).__dict__ | settings).items():
        object.__setattr__(made, name, value)
    with pytest.raises(InterventionError, match=says) as caught:
        made.__post_init__()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("steers", "says"),
    [
        ([Steer(7, 0, maximum=1.0)], "layers 0 to 2"),
        ([Steer(-1, 0, maximum=1.0)], "layers 0 to 2"),
        ([Steer(1, 40, maximum=1.0)], "layer 1 has 40 features"),
        ([Steer(1, -1, maximum=1.0)], "layer 1 has 40 features"),
        ([Steer(1, None, direction=torch.ones(31))], "has 32 dimensions"),
        ([Steer(1, 3, where=(5,), maximum=1.0)], "outside the prompt of 5"),
        ([Steer(1, 3, where=(-6,), maximum=1.0)], "outside the prompt of 5"),
        ([Steer(1, 3, 2.0, maximum=1.0), Steer(1, 3, 3.0, maximum=1.0)], "steered twice"),
        ([Steer(1, 3, 2.0, where="answer", maximum=1.0), Steer(1, 3, 3.0, "scale", where=(4,))], "steered twice"),
    ],
)
def test_steers_that_do_not_fit(tiny_model: Any, steers: Any, says: str) -> None:
    model = tiny_model("llama")
    with pytest.raises(InterventionError, match=says) as caught:
        generate(model, dictionary_for(model), TOKENS, steers, max_tokens=2)
    assert "\n" not in str(caught.value)


def test_one_feature_may_be_steered_at_different_tokens(tiny_model: Any) -> None:
    model = tiny_model("llama")
    steers = [Steer(1, 3, 2.0, where="prompt", maximum=1.0), Steer(1, 3, -2.0, where="generated", maximum=1.0)]
    generate(model, dictionary_for(model), TOKENS, steers, max_tokens=2)


def test_a_repeated_steer_counts_once(tiny_model: Any) -> None:
    model = tiny_model("llama")
    one = Steer(2, 3, 7.0, maximum=3.0)
    found = generate(model, dictionary_for(model), TOKENS, {"a": [one], "b": [one, one]}, max_tokens=8)
    assert found.of("a")[0].tokens == found.of("b")[0].tokens


@pytest.mark.parametrize(
    ("prompt", "settings", "error", "says"),
    [
        ([], {}, PromptError, "empty"),
        ([1] * 60, {"max_tokens": 5}, InterventionError, "past the context of 64; ask for at most 4"),
        ([1] * 64, {"max_tokens": 1}, InterventionError, "give a shorter prompt"),
        ([1] * 65, {}, PromptError, "context"),
        ([200], {}, PromptError, "vocabulary"),
        ("text", {}, PromptError, "tokenizer"),
        (TOKENS, {"steers": (), "baseline": False}, InterventionError, "nothing to generate"),
        (
            TOKENS,
            {"steers": {"baseline": [Steer(1, 3, maximum=1.0)]}},
            InterventionError,
            "cannot be called 'baseline'",
        ),
        (TOKENS, {"steers": Dial(), "use_cache": False}, InterventionError, "needs the cache"),
        (TOKENS, {"index": "/nowhere"}, FeatureError, "not a feature index"),
        (TOKENS, {"steers": [Steer(2, 3, 1e30, maximum=1e30)]}, InterventionError, "smaller strength"),
    ],
)
def test_bad_input(tiny_model: Any, prompt: Any, settings: Any, error: type[LucidaError], says: str) -> None:
    model = tiny_model("llama")
    settings = {"steers": [Steer(1, 3, maximum=1.0)], "max_tokens": 4} | settings
    with pytest.raises(error, match=says) as caught:
        generate(model, dictionary_for(model), prompt, **settings)
    assert "\n" not in str(caught.value)


def test_overflow_is_said(tiny_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lucida.steering.reading.LARGEST", INF)
    model = tiny_model("llama")
    with pytest.raises(InterventionError, match="overflows"):
        generate(model, None, TOKENS, [Steer(2, None, 3e38, direction=torch.full((32,), 2.0))], max_tokens=2)


def test_the_last_place_of_the_context_can_be_filled(tiny_model: Any) -> None:
    found = generate(tiny_model("llama"), None, [1] * 60, max_tokens=4)
    assert len(found.samples[0].tokens) == 4


def test_a_mixture_has_no_neurons_to_steer(tiny_model: Any) -> None:
    with pytest.raises(ModelError, match="mixture"):
        generate(tiny_model("mixtral"), None, TOKENS, [Steer(1, 3, maximum=1.0)], max_tokens=4)


def test_layer_without_features(tiny_model: Any) -> None:
    model = tiny_model("llama")
    dictionary = dictionary_for(model)
    thin = replace(dictionary, weights={0: dictionary.weights[0]})
    with pytest.raises((InterventionError, DictionaryError), match="layer 1 has 0"):
        generate(model, thin, TOKENS, [Steer(1, 3, maximum=1.0)], max_tokens=4)


def test_maximum_of_the_prompt(tiny_model: Any) -> None:
    """Without an index strength 1 is the feature's largest activation on the prompt, its first token left out."""
    model = tiny_model("llama")
    dictionary = dictionary_for(model)
    sites = []
    handle = model.layers[1].mlp.register_forward_pre_hook(lambda _m, args: sites.append(args[0][0]))
    model.hf(input_ids=torch.tensor([TOKENS]))
    handle.remove()
    activations = dictionary.encode(1, sites[0])[1:]
    features = Features(model, dictionary)
    prompt = model.tokenize(TOKENS)
    for feature in range(40):
        largest = float(activations[:, feature].max())
        steer = Steer(1, feature, 2.0)
        if largest > 0:
            unit = features.units([steer], prompt)[steer]
            assert (unit.maximum, unit.source) == (pytest.approx(largest, rel=1e-5), "prompt")
        else:
            with pytest.raises(InterventionError, match="inactive on the prompt"):
                features.units([steer], prompt)
    assert 0 < int((activations.amax(0) > 0).sum()) < 40


def test_maximum_of_the_index(tiny_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The index beside a dictionary is believed before the prompt; a feature silent in it is measured on the prompt."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "features"))
    from made_up_index import made_up_index  # pyright: ignore

    model = tiny_model("llama")
    dictionary = dictionary_for(model)
    made_up_index(tmp_path / "index", n_features=(40, 40, 40), n_places=600)
    header = IndexHeader.open(tmp_path / "index")
    replace(header, dictionary_digest=dictionary.source.fingerprint).save(tmp_path / "index")
    beside = replace(dictionary, source=replace(dictionary.source, path=str(tmp_path)))
    prompt = model.tokenize(TOKENS)
    for features in (Features(model, beside), Features(model, dictionary, tmp_path / "index")):
        assert features.index is not None
        steers = [Steer(1, f) for f in range(39)]
        units = features.units(steers, prompt)
        assert {unit.source for unit in units.values()} == {"index"}
        expected = [features.index.stats(1, f).maximum for f in range(39)]
        assert [units[steer].maximum for steer in steers] == expected
    active = [Features(model, beside).units([Steer(layer, 39)], prompt) for layer in _active_in(model, dictionary, 39)]
    assert active
    assert [unit.source for units in active for unit in units.values()] == ["prompt"] * len(active)
    other = replace(beside, source=replace(beside.source, fingerprint="f" * 64))
    with pytest.raises(FeatureError, match="not of"):
        Features(model, other)


def _active_in(model: Any, dictionary: Any, feature: int) -> list[int]:
    """The layers in which a feature is active on the prompt, behind its first token."""
    recording = record(model, model.tokenize(TOKENS))
    return [i for i in range(3) if dictionary.encode(i, recording.mlp_in[i])[1:, feature].any()]


def test_given_maximum_and_none(tiny_model: Any) -> None:
    model = tiny_model("llama")
    features, prompt = Features(model, dictionary_for(model)), model.tokenize(TOKENS)
    given, scaled = Steer(1, 3, maximum=4.0), Steer(1, 3, 2.0, "scale")
    raw = Steer(1, direction=torch.ones(32))
    units = features.units([given, scaled, raw], prompt)
    assert [(units[s].maximum, units[s].source) for s in (given, scaled, raw)] == [
        (4.0, "given"), (1.0, "none"), (1.0, "none"),
    ]  # fmt: skip


def test_dial() -> None:
    dial = Dial([Steer(1, 3), Steer(2, 4)])
    dial.turn(5)
    dial.turn(-2.0, (2, 4))
    assert [s.strength for s in dial.current] == [5, -2.0]
    dial.off()
    assert dial.current == ()
    dial.on()
    with pytest.raises(InterventionError, match="3:4 is not on it"):
        dial.turn(1.0, (3, 4))
    with pytest.raises(InterventionError, match="finite"):
        dial.turn(INF)
    dial.set([])
    with pytest.raises(InterventionError, match="no feature on the dial"):
        dial.turn(1.0)


def test_sweep_names_its_strengths() -> None:
    assert {name: [s.strength for s in steers] for name, steers in sweep([Steer(1, 3)], [0, 2.5]).items()} == {
        "0": [0], "2.5": [2.5],
    }  # fmt: skip
