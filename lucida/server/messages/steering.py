"""A text that is written with features on a dial, beside the same without."""

from typing import Annotated, Literal

from pydantic import Field, FiniteFloat

from lucida.server.messages.base import LONGEST_PROMPT, Message, Name


class ChatMessage(Message):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: Annotated[str, Field(max_length=LONGEST_PROMPT)]


class SteerSetting(Message):
    """One feature on the dial. Units are multiples of the feature's maximum, but for "scale"."""

    layer: Annotated[int, Field(ge=0)]
    feature: Annotated[int, Field(ge=0)]
    strength: FiniteFloat
    variant: Literal["add", "clamp", "scale", "orthogonal"] = "add"
    label: Name = ""


class SteerRequest(Message):
    """A reply, or a continuation, under steering and as the model is, side by side.

    `steered` and `baseline` are the two conversations so far (they differ once replies differ); for a plain prompt
    each holds one user message and `chat` is False.
    """

    steered: Annotated[list[ChatMessage], Field(min_length=1, max_length=200)]
    baseline: list[ChatMessage] | None = None
    chat: bool = True
    steers: Annotated[list[SteerSetting], Field(max_length=50)] = []
    max_tokens: Annotated[int, Field(ge=1, le=2048)] = 64
    temperature: Annotated[FiniteFloat, Field(ge=0, le=5)] = 0.0
    seed: int = 0


class DialRequest(Message):
    """Other steers for a reply that is being written."""

    steers: Annotated[list[SteerSetting], Field(max_length=50)]


class SteerToken(Message):
    """An event of a steer job: a piece of one of the two texts."""

    side: Literal["steered", "baseline"]
    text: str
    log_probability: float
    ended: str | None = None


class SteerResult(Message):
    """Both texts, and why each ended."""

    steered: str
    baseline: str | None
    steered_ended: str
    baseline_ended: str | None
