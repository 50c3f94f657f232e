"""What every message is made of: its base, bounded texts, nodes and tokens."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

LONGEST_PROMPT = 100_000
"""Characters of a prompt; the model's context is checked besides."""
LONGEST_NAME = 200
"""Characters of a label or the name of a supernode."""
MOST_NODES = 5_000
"""Nodes that a request may name."""

Prompt = Annotated[str, Field(min_length=1, max_length=LONGEST_PROMPT)]
Name = Annotated[str, Field(max_length=LONGEST_NAME)]
GraphId = Annotated[str, Field(pattern=r"^[0-9a-f]{12}$")]
NodeIndex = Annotated[int, Field(ge=0)]


class Message(BaseModel):
    """The base of all: unknown fields are refused, NaN and infinity too."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Problem(Message):
    """The answer to a request that could not be met: one line, ready to show."""

    error: str


class Token(Message):
    """A token of the vocabulary as it reads."""

    id: int
    text: str


class TokenProbability(Token):
    """A token and how probable it is next."""

    probability: float
