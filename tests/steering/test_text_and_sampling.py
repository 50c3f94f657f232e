"""Text as it streams is the text as it is; draws follow the probabilities and belong to their seed."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lucida.errors import InterventionError
from lucida.steering.sampling import Sampling, choose, generator_of
from lucida.steering.text import TextStream


def byte_tokenizer() -> Any:
    """A token for each byte: characters beyond ASCII take two to four."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


BYTES = byte_tokenizer()


def ids(text: str) -> list[int]:
    return list(BYTES(text)["input_ids"])


@given(st.text(alphabet="aé√😀 \n", max_size=12), st.text(alphabet="aé√😀 ", min_size=1, max_size=30))
def test_pieces_make_the_text(prompt: str, text: str) -> None:
    """Every piece is whole characters, and together they are the text."""
    stream = TextStream(BYTES, ids(prompt))
    pieces = [stream.push(token) for token in ids(text)]
    assert "".join(pieces) == text == stream.text
    assert not any("\ufffd" in piece for piece in pieces)
    assert stream.finish() == ""


def test_a_prompt_may_end_within_a_character() -> None:
    before, after = ids("ab😀c")[:4], ids("ab😀c")[4:]
    stream = TextStream(BYTES, before)
    assert "".join(stream.push(token) for token in after) + stream.finish() == "😀c"


def test_bytes_that_never_become_a_character() -> None:
    stream = TextStream(BYTES, ids("x"))
    assert [stream.push(token) for token in ids("a😀")[:3]] == ["a", "", ""]
    assert stream.finish() == "\ufffd"


@given(st.text(alphabet="abS", max_size=20), st.sampled_from(["S", "ab", "abS", "aab", "SS"]))
def test_nothing_of_a_stop_string_is_shown(text: str, stop: str) -> None:
    stream = TextStream(BYTES, [], stop=[stop])
    shown = ""
    for token in ids(text):
        shown += stream.push(token)
        assert text.startswith(shown)
        if stream.stopped:
            break
    shown += stream.finish()
    assert shown == stream.text == text.split(stop)[0]
    assert stream.stopped == (stop in text)


def test_ids_without_a_tokenizer() -> None:
    stream = TextStream(None, [1, 2])
    assert [stream.push(7), stream.push(8), stream.finish()] == ["7", " 8", ""]


def draws(sampling: Sampling, logits: torch.Tensor, count: int = 1500) -> torch.Tensor:
    generator = generator_of(0, 0)
    found = [choose(logits[None], sampling, [generator])[0][0] for _ in range(count)]
    return torch.bincount(torch.tensor(found), minlength=len(logits)) / count


def test_draws_follow_the_probabilities() -> None:
    logits = torch.tensor([1.0, 0.0, 2.0, -1.0])
    for temperature in (0.5, 2.0):
        expected = torch.softmax(logits / temperature, 0)
        assert torch.allclose(draws(Sampling(temperature=temperature), logits), expected, atol=0.04)


def test_cuts() -> None:
    logits = torch.tensor([1.0, 0.0, 2.0, -1.0])
    assert draws(Sampling(temperature=1.0, top_k=2), logits, 500).nonzero()[:, 0].tolist() == [0, 2]
    # Probabilities .64 .24 .09 .03: 0.65 needs the second, 0.64 does not.
    assert draws(Sampling(temperature=1.0, top_p=0.65), logits, 500).nonzero()[:, 0].tolist() == [0, 2]
    assert draws(Sampling(temperature=1.0, top_p=0.6), logits, 50).nonzero()[:, 0].tolist() == [2]
    assert draws(Sampling(temperature=1.0, top_k=1), logits, 50).nonzero()[:, 0].tolist() == [2]


def test_log_probability_is_the_models_own() -> None:
    logits = torch.tensor([[1.0, 0.0, 2.0, -1.0]])
    tokens, found = choose(logits, Sampling(temperature=0.3, top_k=1), [generator_of(0, 0)])
    assert tokens == [2]
    assert found[0] == pytest.approx(float(torch.log_softmax(logits, -1)[0, 2]))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"samples": 0}, "samples is 0"),
        ({"temperature": -1.0}, "temperature is -1"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"samples": 2}, "all the same"),
        ({"top_k": 0}, "top_k is 0"),
        ({"top_p": 0.0}, "top_p is 0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"stop": ("",)}, "stop string is empty"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_numbers_that_cannot_be_meant(settings: Any, says: str) -> None:
    with pytest.raises(InterventionError, match=says) as caught:
        Sampling(**settings)
    assert "\n" not in str(caught.value)
