"""Replies on the page's steer panel are those of the library; the dial turns, and a cancelled reply stays."""

from typing import Any

import pytest
from tiny_models import word_model
from tiny_page import StandIn, scope_of

from lucida.errors import PromptError
from lucida.microscope import Microscope
from lucida.server.messages import SteerResult, SteerToken
from lucida.server.tasks import steer
from lucida.steering import Steer, generate

HELLO = [{"role": "user", "content": "w5 w6"}]
STRONG = {"layer": 1, "feature": 3, "strength": 40.0, "variant": "clamp"}


@pytest.fixture(scope="module")
def scope() -> Microscope:
    return scope_of(word_model())


@pytest.fixture(autouse=True)
def known_maxima(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an index a feature that is silent on the prompt has no maximum; here each has 1."""
    from lucida.steering.reading import Features

    monkeypatch.setattr(Features, "_prompt_maxima", lambda _self, steers, _prompt: [1.0] * len(steers))


def asked(scope: Microscope, line: StandIn | None = None, **request: Any) -> tuple[SteerResult, StandIn]:
    line = line or StandIn()
    document = {"steered": HELLO, "max_tokens": 8, **request}
    return SteerResult.model_validate(steer.run(scope, document, line)), line


def text_of(line: StandIn, side: str) -> str:
    tokens = [SteerToken.model_validate(sent) for sent in line.sent if "side" in sent]
    return "".join(token.text for token in tokens if token.side == side)


def test_equal_conversations_are_one_batch(scope: Microscope) -> None:
    found, line = asked(scope, baseline=HELLO, steers=[STRONG])
    expected = generate(scope.model, scope.dictionary, HELLO, [Steer(1, 3, 40.0, "clamp")], max_tokens=8)
    assert (found.steered, found.baseline) == (expected.steered[0].text, expected.baseline[0].text)
    assert found.steered != found.baseline
    assert (text_of(line, "steered"), text_of(line, "baseline")) == (found.steered, found.baseline)
    assert line.stages[-1] == ("writing", 16, 16)


def test_conversations_that_parted_are_written_in_turns(scope: Microscope) -> None:
    """Each side is what it would be alone, and attention is left as it was found."""
    other = [*HELLO, {"role": "assistant", "content": "w9"}, {"role": "user", "content": "w7 w7 w8"}]
    before = scope.model.hf.config._attn_implementation
    found, line = asked(scope, baseline=other, steers=[STRONG], temperature=0.8, seed=3)
    assert scope.model.hf.config._attn_implementation == before
    steered = asked(scope, steers=[STRONG], temperature=0.8, seed=3)[0]
    own = asked(scope, steered=other, temperature=0.8, seed=3)[0]
    assert (found.steered, found.baseline) == (steered.steered, own.steered)
    assert steered.baseline is None
    assert steered.baseline_ended is None
    assert [sent["side"] for sent in line.sent[:4]] == ["steered", "baseline"] * 2


def test_a_plain_prompt_is_written_on_from(scope: Microscope) -> None:
    plain = asked(scope, steered=[{"role": "user", "content": "w5 w6 w7"}], chat=False)[0]
    assert plain.steered == generate(scope.model, None, "w5 w6 w7", max_tokens=8).baseline[0].text
    assert plain.steered != asked(scope, steered=[{"role": "user", "content": "w5 w6 w7"}])[0].steered


def test_the_dial_turns_while_it_writes(scope: Microscope) -> None:
    """Turned off after three tokens: the same three, then others; what is set again changes nothing."""
    whole, line = asked(scope, steers=[STRONG])
    turned, turned_line = asked(scope, StandIn({3: {"steers": []}}), steers=[STRONG])
    first = [sent["text"] for sent in line.sent]
    assert [sent["text"] for sent in turned_line.sent[:3]] == first[:3]
    assert turned.steered != whole.steered
    same = asked(scope, StandIn({3: {"steers": [STRONG]}}), steers=[STRONG])[0]
    assert same.steered == whole.steered
    late = asked(scope, StandIn({1: {"steers": [STRONG]}}))[0]
    assert late.steered != asked(scope)[0].steered


def test_a_turn_that_cannot_be_is_told_and_changes_nothing(scope: Microscope) -> None:
    whole = asked(scope, steers=[STRONG])[0]
    for wrong in ({"layer": 99, "feature": 1, "strength": 1.0}, {"layer": 1, "feature": 10**6, "strength": 1.0}):
        found, line = asked(scope, StandIn({2: {"steers": [wrong]}}), steers=[STRONG])
        assert found == whole
        assert ["does not exist" in sent["problem"] for sent in line.sent if "problem" in sent] == [True]
    twice = {"steers": [STRONG, {**STRONG, "strength": 1.0}]}
    found, line = asked(scope, StandIn({2: twice}), steers=[STRONG])
    assert found == whole
    assert any("twice" in sent.get("problem", "") for sent in line.sent)


def test_a_cancelled_reply_keeps_what_was_written(scope: Microscope) -> None:
    whole = asked(scope, baseline=HELLO, steers=[STRONG])[0]
    cut, line = asked(scope, StandIn(cancel_at=5), baseline=HELLO, steers=[STRONG])
    assert (cut.steered_ended, cut.baseline_ended) == ("left", "left")
    assert whole.steered.startswith(cut.steered)
    assert 0 < len(cut.steered) < len(whole.steered)
    assert cut.steered.startswith(text_of(line, "steered"))
    # No hook stays behind.
    assert asked(scope, baseline=HELLO, steers=[STRONG])[0] == whole


def test_a_full_context_gives_a_shorter_reply_then_a_refusal(scope: Microscope) -> None:
    room = scope.model.context
    nearly = [{"role": "user", "content": " ".join(["w5"] * (room - 6))}]
    found, line = asked(scope, steered=nearly, max_tokens=50)
    assert len(line.sent) == room - len(scope.model.tokenize(nearly)) < 50
    assert found.steered_ended == "max_tokens"
    with pytest.raises(PromptError, match="the context of this model"):
        asked(scope, steered=[{"role": "user", "content": " ".join(["w5"] * (room + 6))}])


@pytest.mark.real
def test_smollm_writes_of_the_sea() -> None:
    import re

    scope = Microscope("smollm2-135m")
    weekend = [{"role": "user", "content": "The best thing about my weekend was"}]
    sea = {"layer": 20, "feature": 604, "strength": 4.0}
    found = asked(scope, steered=weekend, baseline=weekend, chat=False, steers=[sea], max_tokens=24)[0]
    assert re.search(r"\b(sea|ships?|boats?|sail\w*|ocean|navy)\b", found.steered)
    assert not re.search(r"\b(sea|ships?|boats?|sail\w*|ocean|navy)\b", found.baseline or "")
