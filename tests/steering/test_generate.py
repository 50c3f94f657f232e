"""Generation under steering: nothing turned is `transformers` itself; cache, batch and seed change nothing."""

from typing import Any

import pytest
import torch
from tiny_models import DENSE_FAMILIES

from lucida.dictionaries import random_dictionary
from lucida.models.linear import FrozenModel
from lucida.models.recording import record
from lucida.steering import Dial, Sampling, Steer, Stream, generate, sweep

TOKENS = [5, 17, 3, 88, 41]
KINDS: dict[str, dict[str, Any]] = {
    "plt": {},
    "clt": {"span": 3},
    "windowed": {"span": 2},
    "skip": {"skip": True},
    "topk": {"activation": "topk"},
    "relu": {"activation": "relu"},
    "resid_mid": {"reads_at": "resid_mid", "writes_at": "resid"},
    "mlp_norm": {"reads_at": "mlp_norm"},
}


def dictionary_for(model: Any, kind: str = "plt") -> Any:
    settings: dict[str, Any] = {"reads_at": "mlp_in", "writes_at": "mlp_out"} | KINDS[kind]
    view = FrozenModel(model, record(model, model.tokenize(TOKENS)))
    samples = {layer: view.site(layer, settings["reads_at"])[1:] for layer in range(view.n_layers)}
    return random_dictionary(3, 32, 40, l0=6.0, samples=samples, seed=2, **settings)


def plain(model: Any, max_tokens: int, **settings: Any) -> list[int]:
    """What `transformers` writes greedily."""
    ids = torch.tensor([TOKENS])
    out = model.hf.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=max_tokens, do_sample=False, pad_token_id=0, **settings
    )
    return out[0, len(TOKENS) :].tolist()


@pytest.mark.parametrize("family", [*DENSE_FAMILIES, "mixtral"])
def test_no_steers_are_transformers_greedy(tiny_model: Any, family: str) -> None:
    """Token for token, with and without cache, alone and in a batch of steers that change nothing."""
    model = tiny_model(family)
    expected = plain(model, 12)
    for use_cache in (True, False):
        assert list(generate(model, None, TOKENS, max_tokens=12, use_cache=use_cache).samples[0].tokens) == expected
    dictionary = dictionary_for(model)
    null = {
        "add": [Steer(0, 3, 0.0, maximum=2.0), Steer(2, 5, 0.0, maximum=2.0)],
        "scale": [Steer(1, f, 1.0, "scale") for f in range(8)],
    }
    found = generate(model, dictionary, TOKENS, null, max_tokens=12)
    assert [list(sample.tokens) for sample in found.samples] == [expected] * 3
    assert found.conditions == ("baseline", "add", "scale")


def test_end_of_text_ends_a_row(tiny_model: Any) -> None:
    """A row that ends leaves the batch, and the others are written on as if it had not been there."""
    model = tiny_model("llama")
    alone = [list(s.tokens) for s in generate(model, None, TOKENS, max_tokens=12).samples]
    strong = {str(f): [Steer(2, f, 30.0, maximum=1.0)] for f in range(6)}
    dictionary = dictionary_for(model)
    free = generate(model, dictionary, TOKENS, strong, max_tokens=12)
    ended_by = free.samples[1].tokens[5]
    before = model.hf.generation_config.eos_token_id
    model.hf.generation_config.eos_token_id = [2, ended_by]
    try:
        cut = generate(model, dictionary, TOKENS, strong, max_tokens=12)
    finally:
        model.hf.generation_config.eos_token_id = before
    lengths = set()
    for whole, sample in zip(free.samples, cut.samples, strict=True):
        stop = next((i for i, token in enumerate(whole.tokens) if token in (2, ended_by)), 11)
        assert sample.tokens == whole.tokens[: stop + 1]
        assert sample.ended == ("end of text" if sample.tokens[-1] in (2, ended_by) else "max_tokens")
        lengths.add(len(sample.tokens))
    assert len(lengths) > 1
    assert [list(free.samples[0].tokens)] == alone


@pytest.mark.parametrize(
    ("family", "variant"),
    [
        *[("llama", variant) for variant in ("add", "clamp", "scale", "orthogonal")],
        ("gemma2", "orthogonal"), ("gpt_neox", "clamp"), ("gpt2", "clamp"), ("olmo2", "add"), ("mistral", "clamp"),
        ("phi", "orthogonal"),
    ],
)  # fmt: skip
def test_cache_and_batch_change_nothing(tiny_model: Any, family: str, variant: Any) -> None:
    model = tiny_model(family)
    dictionary = dictionary_for(model, "clt")
    steers = [Steer(0, 7, 3.0, variant, maximum=2.0), Steer(1, 9, -2.0, variant, "generated", maximum=2.0)]
    options: Any = {"max_tokens": 10, "temperature": 0.9, "seed": 4}
    conditions = {"a": steers, "b": steers[:1]}
    together = generate(model, dictionary, TOKENS, conditions, samples=2, **options)
    uncached = generate(model, dictionary, TOKENS, conditions, samples=2, use_cache=False, **options)
    assert [s.tokens for s in together.samples] == [s.tokens for s in uncached.samples]
    alone = generate(model, dictionary, TOKENS, steers, baseline=False, **(options | {"seed": 5}))
    assert alone.samples[0].tokens == together.of("a")[1].tokens
    assert together.of("a")[0].tokens != together.baseline[0].tokens


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_dictionary_steers(tiny_model: Any, kind: str) -> None:
    model = tiny_model("gemma3")
    dictionary = dictionary_for(model, kind)
    for variant in ("add", "clamp"):
        steers = [Steer(0, f, 9.0, variant, maximum=3.0) for f in range(10)]
        found = generate(model, dictionary, TOKENS, steers, max_tokens=8)
        assert found.steered[0].tokens != found.baseline[0].tokens


def test_neurons_steer(tiny_model: Any) -> None:
    model = tiny_model("qwen2")
    found = generate(model, None, TOKENS, [Steer(1, f, 20.0, "clamp") for f in range(6)], max_tokens=8)
    assert found.steered[0].tokens != found.baseline[0].tokens
    assert {unit.source for unit in found.units} == {"prompt"}


def test_first_token_under_generated_is_the_baselines(tiny_model: Any) -> None:
    """The last prompt token predicts it; `answer` is the place to name when that is to be steered too."""
    model = tiny_model("llama")
    dictionary = dictionary_for(model)
    conditions = {
        where: [Steer(2, f, 40.0, where=where, maximum=1.0) for f in range(5)] for where in ("generated", "answer")
    }
    found = generate(model, dictionary, TOKENS, conditions, max_tokens=6)
    first = {name: found.of(name)[0].tokens[0] for name in found.conditions}
    assert first["generated"] == first["baseline"]
    assert first["answer"] != first["baseline"]
    assert found.of("generated")[0].tokens[1:] != found.baseline[0].tokens[1:]


def test_seeds(tiny_model: Any) -> None:
    model = tiny_model("llama")
    options: Any = {"max_tokens": 12, "temperature": 1.0, "samples": 4}
    once = generate(model, None, TOKENS, seed=3, **options)
    again = generate(model, None, TOKENS, seed=3, **options)
    later = generate(model, None, TOKENS, seed=4, **options)
    assert once == again
    assert [s.tokens for s in once.samples[1:]] == [s.tokens for s in later.samples[:3]]
    assert len({s.tokens for s in once.samples}) == 4


def test_sweep_is_one_batch(tiny_model: Any) -> None:
    model = tiny_model("llama")
    dictionary = dictionary_for(model)
    conditions = sweep([Steer(1, 4, maximum=2.0), Steer(2, 8, maximum=1.0)], [0, 4.5, 20])
    found = generate(model, dictionary, TOKENS, conditions, max_tokens=8)
    assert found.conditions == ("baseline", "0", "4.5", "20")
    for name, steers in conditions.items():
        alone = generate(model, dictionary, TOKENS, steers, max_tokens=8, baseline=False)
        assert alone.samples[0].tokens == found.of(name)[0].tokens


def test_dial_is_turned_between_tokens(tiny_model: Any) -> None:
    """Off from the start is the baseline; turned on in mid-text it changes what comes after, and only that."""
    model = tiny_model("llama")
    dictionary = dictionary_for(model)
    steers = [Steer(layer, f, 30.0, maximum=1.0) for layer in (1, 2) for f in range(3)]
    dial = Dial(steers)
    dial.off()
    quiet = generate(model, dictionary, TOKENS, dial, max_tokens=12)
    assert quiet.of("steered")[0].tokens == quiet.baseline[0].tokens
    seen = []

    def turn(token: Any) -> None:
        seen.append(token)
        if token.condition == "steered" and len([t for t in seen if t.condition == "steered"]) == 5:
            dial.on()

    found = generate(model, dictionary, TOKENS, dial, max_tokens=12, on_token=turn)
    steered, baseline = found.of("steered")[0].tokens, found.baseline[0].tokens
    assert steered[:5] == baseline[:5]
    assert steered[5:] != baseline[5:]
    late = [Steer(s.layer, s.feature, 30.0, where="generated", maximum=1.0) for s in steers]
    again = generate(model, dictionary, [*TOKENS, *steered[:4]], late, max_tokens=8, baseline=False)
    assert again.samples[0].tokens[0] == steered[4]
    assert again.samples[0].tokens[1:] == steered[5:]


def test_model_is_untouched_between_tokens_and_after(tiny_model: Any) -> None:
    model = tiny_model("llama")
    ids = torch.tensor([TOKENS])
    before = model.hf(input_ids=ids).logits
    steers = [Steer(1, 4, 50.0, maximum=2.0), Steer(1, 5, 3.0, "orthogonal", maximum=2.0)]
    stream = Stream(model, dictionary_for(model), TOKENS, steers, sampling=Sampling(8))
    for _ in zip(range(5), stream, strict=False):
        assert torch.allclose(model.hf(input_ids=ids).logits, before, atol=1e-5)
    stream.close()
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.hf.modules())
    assert torch.equal(model.hf(input_ids=ids).logits, before)
    assert {sample.ended for sample in stream.generation().samples} == {"left"}


def test_one_token_prompt(tiny_model: Any) -> None:
    """The only prompt token is a sink, which is spared; what is generated is steered."""
    model = tiny_model("llama")
    dictionary = dictionary_for(model)
    found = generate(model, dictionary, [7], [Steer(2, 3, 60.0, maximum=1.0)], max_tokens=6)
    assert found.steered[0].tokens[0] == found.baseline[0].tokens[0]
    assert found.steered[0].tokens != found.baseline[0].tokens
