"""SmolLM2 under steering: nothing turned is `transformers`; a feature turned up visibly turns the text."""

import re
from typing import Any

import pytest
import torch

from lucida import Microscope
from lucida.dictionaries.shipped import default_dictionary
from lucida.errors import FetchError
from lucida.steering import Steer, generate

pytestmark = pytest.mark.real

PROMPT = "The best thing about my weekend was"

TOPICS = {
    "sea": r"\b(sea|ships?|boats?|sail\w*|ocean|beach|harbou?r|navy)\b",
    "food": r"\b(food|salad|burgers?|cake|cheese|lasagn?[ae]|vegan|cook\w*|delicious)\b",
}


@pytest.fixture(scope="module")
def smollm() -> Microscope:
    try:
        return Microscope("smollm2-135m", None if default_dictionary("smollm2-135m") else "neurons")
    except FetchError as error:
        pytest.skip(f"no source of SmolLM2 can be reached: {error}")


def plain(model: Any, ids: torch.Tensor, count: int) -> list[int]:
    out = model.hf.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False)
    return out[0, ids.shape[1] :].tolist()


@pytest.mark.parametrize("prompt", [PROMPT, [{"role": "user", "content": "What is the capital of France?"}]])
def test_no_steers_are_transformers_greedy(smollm: Microscope, prompt: Any) -> None:
    """Alone, in a batch of null steers, with and without cache, for a text and for a chat."""
    model = smollm.model
    expected = plain(model, torch.tensor([model.tokenize(prompt).tokens]), 24)
    null = {"add": [Steer(9, 5, 0.0, maximum=1.0)], "scale": [Steer(9, f, 1.0, "scale") for f in range(20)]}
    batch = generate(model, smollm.dictionary, prompt, null, max_tokens=24)
    assert [list(sample.tokens) for sample in batch.samples] == [expected] * 3
    for use_cache in (True, False):
        alone = generate(model, None, prompt, max_tokens=24, use_cache=use_cache).samples[0]
        assert list(alone.tokens) == expected
        assert alone.text == model.tokenizer.decode(expected, skip_special_tokens=True)


def test_a_feature_turns_the_text(smollm: Microscope) -> None:
    """The examples of docs/steering.md: feature 20:604 writes of the sea, 4:857 of food, the model of neither."""
    if smollm.dictionary is None:
        pytest.skip("no dictionary of SmolLM2 is shipped here")
    steers = {"sea": [Steer(20, 604, 4.0)], "food": [Steer(4, 857, 4.0)]}
    found = generate(smollm.model, smollm.dictionary, PROMPT, steers, max_tokens=24)
    assert {unit.source for unit in found.units} == {"index"}
    topics = {
        name: [topic for topic, words in TOPICS.items() if re.search(words, found.of(name)[0].text)]
        for name in found.conditions
    }
    assert topics == {"baseline": [], "sea": ["sea"], "food": ["food"]}
