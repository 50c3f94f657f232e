"""How long work tells its caller how far it is: one callable, no bars and no prints."""

from collections.abc import Callable

Progress = Callable[[str, int, int | None], None]
"""Called as ``progress(stage, done, total)``: a short phrase, and a count of steps or bytes.

`total` is None while it is not known. A stage ends when `done == total` or another stage begins.
"""


def silent(stage: str, done: int, total: int | None) -> None:
    """Ignore all progress: the default everywhere."""
