"""A conversation: what goes into its history, and what its commands do to the dial."""

from typing import Any

import pytest
from test_generate import dictionary_for
from tiny_models import word_model

from lucida.errors import InterventionError, PromptError
from lucida.models.model import Model
from lucida.steering import Dial, Features, Sampling, Steer
from lucida.steering.chat import Conversation


@pytest.fixture(scope="module")
def model() -> Model:
    return word_model()


def talk(model: Model, steers: Any = ()) -> Conversation:
    return Conversation(model, Features(model, dictionary_for(model)), Dial(steers), Sampling(6))


def said(conversation: Conversation, message: str) -> str:
    return "".join(t.text for t in conversation.reply(message) if t.condition == "steered")


def test_history_is_read_again(model: Model) -> None:
    conversation = talk(model)
    first = said(conversation, "w5 w6")
    assert conversation.messages == [
        {"role": "user", "content": "w5 w6"}, {"role": "assistant", "content": first},
    ]  # fmt: skip
    second = said(conversation, "w7")
    fresh = talk(model)
    assert said(fresh, "w7") != second
    fresh.messages = conversation.messages[:2]
    assert said(fresh, "w7") == second
    conversation.command("/reset")
    assert said(conversation, "w5 w6") == first


def test_a_reply_that_is_left_is_kept_as_far_as_it_went(model: Model) -> None:
    conversation = talk(model)
    reply = conversation.reply("w5 w6")
    shown = next(reply).text + next(reply).text
    reply.close()  # pyright: ignore
    assert conversation.messages[-1] == {"role": "assistant", "content": shown}
    assert all(not module._forward_hooks for module in model.hf.modules())


def test_commands_turn_the_dial(model: Model) -> None:
    conversation = talk(model, [Steer(1, 3, maximum=2.0)])
    plain = said(talk(model), "w5 w6")
    assert conversation.command("/strength 40") == "1:3 add 40"
    assert said(conversation, "w5 w6") != plain
    conversation.command("/reset")
    assert conversation.command("/off") == "the dial is off"
    assert said(conversation, "w5 w6") == plain
    assert conversation.command("/on") == "1:3 add 40"
    assert conversation.command("/feature 2:7") == "2:7 add 40"
    assert conversation.command("/feature +0:1") == "2:7 add 40, 0:1 add 40"
    assert conversation.command("/strength 0:1 -3") == "2:7 add 40, 0:1 add -3"
    assert conversation.command("/variant clamp") == "2:7 clamp 40, 0:1 clamp -3"
    assert conversation.command("/dial") == conversation.dial_says()
    assert conversation.command("/seed 4") == "seed 4"
    assert conversation.sampling.seed == 4
    assert "/strength" in conversation.command("/help")


def test_baseline_beside_the_reply(model: Model) -> None:
    conversation = talk(model, [Steer(1, 3, 40.0, maximum=2.0)])
    conversation.command("/baseline")
    tokens = list(conversation.reply("w5 w6"))
    own = "".join(token.text for token in tokens if token.condition == "baseline")
    assert own == said(talk(model), "w5 w6")
    assert conversation.messages[-1]["content"] != own


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("/twist 4", "not a command"),
        ("/strength", "needs a number"),
        ("/strength much", "not a number"),
        ("/strength nan", "finite"),
        ("/strength 2:2 4", "not on it"),
        ("/feature", "needs one"),
        ("/feature 12", "LAYER:FEATURE"),
        ("/feature 9:1", "layers 0 to 2"),
        ("/feature 1:999", "has 40 features"),
        ("/variant twist", "use add, clamp"),
        ("/variant", "use add, clamp"),
        ("/seed x", "whole number"),
    ],
)
def test_bad_commands_change_nothing(model: Model, line: str, says: str) -> None:
    conversation = talk(model, [Steer(1, 3, 2.0, maximum=2.0)])
    with pytest.raises(InterventionError, match=says):
        conversation.command(line)
    assert conversation.dial_says() == "1:3 add 2"


def test_a_full_context_and_no_template(model: Model, tiny_model: Any) -> None:
    conversation = talk(model)
    with pytest.raises(InterventionError, match="past the context"):
        list(conversation.reply(" ".join(["w5"] * 60)))
    assert conversation.messages == []
    bare = tiny_model("llama")
    with pytest.raises(PromptError, match="no chat template"):
        list(Conversation(bare, Features(bare, None), Dial(), Sampling(4)).reply("hello"))
