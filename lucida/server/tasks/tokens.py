"""A prompt as it is being typed: its tokens, and what the model says next."""

from typing import TYPE_CHECKING, Any

from lucida.server.line import Line
from lucida.server.messages import Token, TokenProbability, TokensAnswer, TokensRequest

if TYPE_CHECKING:
    from lucida.microscope import Microscope

TOP = 5
LONGEST = 1024
"""Tokens up to which the model reads along: a longer prompt would keep it from other work."""


def run(scope: "Microscope", request: dict[str, Any], line: Line) -> dict[str, Any]:
    """The TokensAnswer of a TokensRequest."""
    asked = TokensRequest(**request)
    if not asked.prompt:
        return TokensAnswer(tokens=[], top=[]).model_dump()
    prompt = scope.model.tokenize([{"role": "user", "content": asked.prompt}] if asked.chat else asked.prompt)
    tokens = [Token(id=token, text=text) for token, text in zip(prompt.tokens, prompt.strings, strict=True)]
    found = scope.top_tokens(prompt, TOP) if len(tokens) <= LONGEST else []
    top = [TokenProbability(id=token.token, text=token.text, probability=token.probability) for token in found]
    return TokensAnswer(tokens=tokens, top=top).model_dump()
