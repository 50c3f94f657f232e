"""What a page needs to begin: the model, its jobs, and the tokens of a prompt as it is typed."""

from typing import Annotated, Literal

from pydantic import Field

from lucida.server.messages.base import LONGEST_PROMPT, Message, Token, TokenProbability
from lucida.server.messages.jobs import Job


class ModelState(Message):
    """The model that traces and intervenes. `status` "none": the server runs without one, graphs can only be read."""

    name: str
    dictionaries: str
    status: Literal["none", "loading", "ready", "failed"]
    message: str = ""
    n_layers: int = 0
    context: int = 0
    is_chat: bool = False
    has_index: bool = False
    widths: list[int] = []
    """Features of each layer."""


class AppState(Message):
    """What a page needs to begin."""

    version: str
    model: ModelState
    jobs: list[Job]
    example: str
    """A prompt to begin with."""


class TokensRequest(Message):
    """A prompt as it is being typed."""

    prompt: Annotated[str, Field(max_length=LONGEST_PROMPT)]
    chat: bool = False


class TokensAnswer(Message):
    """Its tokens and what the model says next. `top` is empty while the model is busy with a job."""

    tokens: list[Token]
    top: list[TokenProbability]
    is_busy: bool = False
