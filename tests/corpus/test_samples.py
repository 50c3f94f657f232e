"""A model's own samples: drawn from its probabilities, and the same however they are made."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_text import BOS, EOS, reading_model

from lucida.corpus import TokenRows, open_corpus, sample_block, sample_tokens, samples
from lucida.errors import DataError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LUCIDA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def sample_literally(model, block: int, *, context: int, batch: int, temperature: float, seed: int) -> torch.Tensor:
    """The same samples by recomputing the whole row at every token, and adding up all probabilities."""
    uniform = samples._uniform(context - 1, batch, seed=seed, block=block)
    rows = torch.full((batch, 1), BOS)
    for draw in uniform:
        logits = model.hf(input_ids=rows, use_cache=False).logits[:, -1].double()
        cumulated = torch.softmax(logits / temperature, -1).cumsum(-1)
        token = (cumulated <= draw[:, None]).sum(-1)
        rows = torch.cat([rows, torch.where(rows[:, -1] == EOS, BOS, token)[:, None]], 1)
    return rows


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2", "gemma3", "gpt2", "gpt_neox"])
def test_a_block_is_what_plain_recomputation_gives(family: str, tiny_model) -> None:
    settings = {"context": 24, "batch": 5, "temperature": 0.8, "seed": 3}
    model = tiny_model(family)
    found = sample_block(model, 2, **settings)
    assert torch.equal(found, sample_literally(model, 2, **settings))
    assert model.hf.config._attn_implementation == "eager"  # as it was before


def test_a_sample_begins_again_after_the_end_of_text(tiny_model) -> None:
    rows = sample_block(tiny_model("llama"), 0, context=60, batch=16)
    ends = rows[:, :-1] == EOS
    assert ends.sum() >= 3
    assert (rows[:, 1:][ends] == BOS).all()
    assert (rows[:, 0] == BOS).all()


def test_a_model_that_writes_no_bos_goes_on_by_itself() -> None:
    """A chat model's end of turn is followed by a line end, not by the token its samples begin with."""
    rows = sample_block(reading_model(adds_bos=False), 0, context=60, batch=16)
    ends = rows[:, :-1] == EOS
    assert ends.any()
    assert not (rows[:, 1:][ends] == BOS).all()


@given(
    st.integers(1, 400).flatmap(
        lambda n: st.tuples(
            st.lists(st.floats(-30, 30, width=32) | st.just(float("-inf")), min_size=n, max_size=n), st.just(n)
        )
    ),
    st.floats(0, 1, exclude_max=True),
)
def test_only_possible_tokens_are_drawn(drawn: tuple[list[float], int], uniform: float) -> None:
    logits = torch.tensor([drawn[0]])
    if logits.isinf().all():
        logits[0, -1] = 0.0
    token = int(samples.draw_tokens(logits, torch.tensor([uniform], dtype=torch.float64))[0])
    probabilities = torch.softmax(logits[0].double(), -1)
    assert probabilities[token] > 0
    # It is the token whose stretch of the cumulated probabilities holds the number, up to rounding.
    end = float(probabilities[: token + 1].sum())
    assert end - float(probabilities[token]) - 1e-6 <= uniform <= end + 1e-6


def test_tokens_are_drawn_as_often_as_they_are_probable() -> None:
    logits = torch.randn(300, generator=torch.Generator().manual_seed(0)) * 2
    n = 20_000
    uniform = torch.rand(n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    counts = torch.bincount(samples.draw_tokens(logits.expand(n, -1), uniform), minlength=300)
    expected = torch.softmax(logits, -1) * n
    # Chi-square with 299 degrees of freedom: 400 is beyond the 0.0001 quantile.
    assert ((counts - expected) ** 2 / expected).sum() < 400


def test_a_block_does_not_depend_on_what_was_made_before(tiny_model) -> None:
    model = tiny_model("llama")
    first, second = (sample_block(model, block, context=16, batch=4) for block in (0, 1))
    assert torch.equal(sample_block(model, 1, context=16, batch=4), second)
    assert torch.equal(sample_block(model, 0, context=16, batch=4), first)
    assert not torch.equal(first, second)
    assert not torch.equal(sample_block(model, 0, context=16, batch=4, seed=1), first)


def test_the_rows_of_a_sample_store_are_the_samples(tiny_model) -> None:
    model = tiny_model("llama")
    store = sample_tokens(model, 7 * 15 - 3, context=16, batch=4)
    assert (store.n_documents, store.n_tokens, store.header.prefix) == (7, 7 * 15, BOS)
    blocks = torch.cat([sample_block(model, block, context=16, batch=4) for block in (0, 1)])[:7]
    rows = TokenRows(store, 16, split="all").rows(0, 7)
    assert sorted(rows.tolist()) == sorted(blocks.tolist())


def test_an_interrupted_run_goes_on_and_gives_the_same(
    tiny_model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_model("llama")
    whole = sample_tokens(model, 12 * 15, context=16, batch=4)
    monkeypatch.setenv("LUCIDA_CACHE", str(tmp_path / "other"))
    made: list[int] = []
    sample = samples.sample_block

    def counting(model, block: int, **settings) -> torch.Tensor:
        made.append(block)
        if made == [0, 1]:
            raise KeyboardInterrupt
        return sample(model, block, **settings)

    monkeypatch.setattr(samples, "sample_block", counting)
    with pytest.raises(KeyboardInterrupt):
        sample_tokens(model, 12 * 15, context=16, batch=4)
    again = sample_tokens(model, 12 * 15, context=16, batch=4)
    assert made == [0, 1, 1, 2]
    assert again.fingerprint == whole.fingerprint
    # More tokens: the same ones first, and only the new block is made. The same number: nothing is made.
    more = sample_tokens(model, 16 * 15, context=16, batch=4)
    assert sample_tokens(model, 12 * 15, context=16, batch=4).fingerprint == whole.fingerprint
    assert made == [0, 1, 1, 2, 3]
    assert np.array_equal(more.tokens[: whole.n_tokens], whole.tokens)


def test_the_weights_decide_and_not_their_dtype(tiny_model) -> None:
    llama = reading_model()
    narrow = reading_model()
    narrow.hf.bfloat16()
    wide = reading_model()
    wide.hf.load_state_dict({name: weights.float() for name, weights in narrow.hf.state_dict().items()})
    assert samples.weights_fingerprint(narrow) == samples.weights_fingerprint(wide)
    assert samples.weights_fingerprint(narrow) != samples.weights_fingerprint(llama)
    assert sample_block(narrow, 0, context=8, batch=2).shape == (2, 8)


def test_samples_are_a_corpus(tiny_model) -> None:
    model = tiny_model("llama")
    store = open_corpus("samples", model, max_tokens=500, context=16, seed=4)
    assert store.header.source["context"] == 16
    assert store.header.source["seed"] == 4
    with pytest.raises(DataError, match="max_tokens"):
        open_corpus("samples", model)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"context": 65}, "takes 2 to 64"),
        ({"context": 1}, "takes 2 to 64"),
        ({"n_tokens": 0}, "above 0"),
        ({"temperature": 0.0}, "above 0"),
    ],
)
def test_impossible_samples_are_refused(settings: dict, message: str, tiny_model) -> None:
    with pytest.raises(DataError, match=message):
        sample_tokens(tiny_model("llama"), **{"n_tokens": 100, "context": 16, **settings})


def test_a_model_without_special_tokens_cannot_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    model = reading_model()
    model.tokenizer = None
    monkeypatch.setattr(model.hf.config, "bos_token_id", None)
    # Without BOS a sample begins with the end of text; the config of some models lists several.
    monkeypatch.setattr(model.hf.config, "eos_token_id", [7, 8])
    assert (sample_block(model, 0, context=8, batch=2)[:, 0] == 7).all()
    monkeypatch.setattr(model.hf.config, "eos_token_id", None)
    with pytest.raises(DataError, match="neither a BOS nor an end-of-text"):
        sample_block(model, 0, context=8, batch=2)


@pytest.mark.parametrize("damage", ["cut", "another shape"])
def test_a_damaged_block_is_named(damage: str, tiny_model, cache: Path) -> None:
    model = tiny_model("llama")
    sample_tokens(model, 4 * 15, context=16, batch=4)
    (block,) = cache.glob("corpora/samples-*/block-000000.npy")
    if damage == "cut":
        block.write_bytes(block.read_bytes()[:40])
    else:
        np.save(block, np.zeros((4, 8), dtype="<u4"))
    with pytest.raises(DataError, match=r"block-000000\.npy .*delete it"):
        sample_tokens(model, 8 * 15, context=16, batch=4)
