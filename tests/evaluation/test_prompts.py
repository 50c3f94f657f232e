"""Every chosen prompt keeps the rules, the choice is the seed's, and a set that is stored comes back."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from relu_models import greedy_rows, random_rows

from lucida.errors import PromptError
from lucida.evaluation import PromptRules, PromptSet, choose_prompts, given_prompts, read_prompts, token_counts
from lucida.evaluation.prompts import RULES

EASY = PromptRules(max_density=0.05, min_loss=0.2, min_tokens=5, max_tokens=16)


def test_every_prompt_keeps_the_rules(tiny_model: Any) -> None:
    model = tiny_model("llama")
    rows = greedy_rows(model, 40, 18)
    counts = token_counts(rows, model.d_vocab)
    chosen = choose_prompts(model, rows, count=8, rules=EASY)
    assert 1 <= len(chosen) <= 8
    starts = {tuple(row[: len(p.tokens)].tolist()): int(row[len(p.tokens)]) for p in chosen.prompts for row in rows}
    for prompt in chosen.prompts:
        logits = model.hf(input_ids=torch.tensor([prompt.tokens])).logits[0, -1]
        loss = -float(logits.log_softmax(-1)[prompt.target])
        assert int(logits.argmax()) == prompt.target == starts[prompt.tokens]
        assert prompt.loss == pytest.approx(loss, abs=1e-4)
        assert loss > EASY.min_loss
        assert prompt.density == float(counts[prompt.target]) / rows.numel()
        assert prompt.density < EASY.max_density
        assert prompt.target not in prompt.tokens
        assert EASY.min_tokens <= len(prompt.tokens) <= EASY.max_tokens


def test_every_position_is_accounted_for(tiny_model: Any) -> None:
    """With a row for every prompt asked for, those seen are those removed and those that passed."""
    model = tiny_model("llama")
    rows = greedy_rows(model, 12, 18)
    chosen = choose_prompts(model, rows, count=13, rules=EASY)
    assert len(chosen) <= 12
    assert chosen.seen == 12 * (16 - 5 + 1)
    assert [rule for rule, _ in chosen.removed] == list(RULES)
    passed = chosen.seen - sum(count for _, count in chosen.removed)
    assert passed >= len(chosen)
    generous = PromptRules(max_density=1.1, min_loss=-1.0, min_tokens=5, max_tokens=16)
    assert choose_prompts(model, rows, count=13, rules=generous).seen == chosen.seen


def test_the_seed_decides(tiny_model: Any) -> None:
    model = tiny_model("llama")
    rows = greedy_rows(model, 40, 18)
    first, again, other = (choose_prompts(model, rows, count=3, rules=EASY, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first.prompts != other.prompts


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        (PromptRules(max_density=1.1, min_tokens=5), "'right' removed most"),
        (PromptRules(max_density=0.0, min_tokens=5), "raise max_density"),
        (PromptRules(max_density=1.1, min_tokens=40), "rows are too short for prompts of 40 tokens"),
    ],
)
def test_when_nothing_passes_it_says_why(tiny_model: Any, rules: PromptRules, says: str) -> None:
    model = tiny_model("llama")
    rows = greedy_rows(model, 4, 18, least="right" in says)
    with pytest.raises(PromptError, match=says) as caught:
        choose_prompts(model, rows, count=3, rules=rules)
    assert "\n" not in str(caught.value)


def test_a_set_comes_back(tiny_model: Any, tmp_path: Path) -> None:
    model = tiny_model("llama")
    chosen = choose_prompts(model, greedy_rows(model, 20, 18), count=4, rules=EASY)
    chosen.save(tmp_path / "prompts.json")
    assert PromptSet.load(tmp_path / "prompts.json") == chosen
    assert read_prompts(model, tmp_path / "prompts.json") == chosen


def test_given_prompts_take_what_the_model_says(tiny_model: Any) -> None:
    model = tiny_model("gpt2")
    found = given_prompts(model, [[5, 17, 3], [8, 9]])
    for prompt, tokens in zip(found.prompts, ([5, 17, 3], [8, 9]), strict=True):
        logits = model.hf(input_ids=torch.tensor([tokens])).logits[0, -1]
        assert prompt.tokens == tuple(tokens)
        assert prompt.target == int(logits.argmax())
    assert found.rules is None


def test_bad_sets_are_refused(tiny_model: Any, tmp_path: Path) -> None:
    model = tiny_model("gpt2")
    path = tmp_path / "p.json"
    with pytest.raises(PromptError, match="cannot read"):
        read_prompts(model, path)
    for text in ("{", "[]", '{"schema": 1}', '{"schema": 9}', json.dumps({"schema": 1, "prompts": [{"tokens": 3}]})):
        path.write_text(text, "utf-8")
        with pytest.raises(PromptError, match="is not a set of prompts"):
            read_prompts(model, path)
    found = given_prompts(model, [[5, 17, 3]])
    import dataclasses

    dataclasses.replace(found, d_vocab=50).save(path)
    with pytest.raises(PromptError, match="this model has 97"):
        read_prompts(model, path)
    with pytest.raises(PromptError, match="is empty"):
        given_prompts(model, [])
    with pytest.raises(PromptError, match="has one token"):
        given_prompts(model, [[5]])
    with pytest.raises(PromptError, match="at least 1"):
        choose_prompts(model, random_rows(model), count=0)


def test_texts_need_a_tokenizer(tiny_model: Any, tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_text("a cat\n\na dog\n", "utf-8")
    with pytest.raises(PromptError, match="no tokenizer"):
        read_prompts(tiny_model("gpt2"), path)
