"""A text read with the features' index at hand."""

from typing import Annotated

from pydantic import Field

from lucida.server.messages.base import Message, Prompt


class WatchRequest(Message):
    """A text to read with the features' index at hand."""

    text: Prompt
    count: Annotated[int, Field(ge=1, le=20)] = 4
    densest: Annotated[float, Field(gt=0, le=1)] = 0.05


class WatchedFeature(Message):
    """A feature that is on at a token; `strength` is its activation by the largest of the corpus."""

    layer: int
    feature: int
    activation: float
    strength: float
    label: str


class WatchedToken(Message):
    """A token of a text and the strongest features there; `n_dense` of the `n_active` were left out as too common."""

    position: int
    text: str
    features: list[WatchedFeature]
    n_active: int
    n_dense: int


class WatchedGroup(Message):
    """Shown features of the same label."""

    name: str
    features: list[tuple[int, int]]
    positions: list[int]
    strength: float


class WatchResult(Message):
    """The scan of a text."""

    tokens: list[WatchedToken]
    groups: list[WatchedGroup]
