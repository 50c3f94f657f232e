"""The type checker of the suite: beartype at the first call of a function, once for all that the same line defines.

`--jaxtyping-packages` decorates every function of lucida, those too that are defined anew at each call of another
one (hooks, mostly), and beartype writes a checker for each: that took a fifth of the suite. jaxtyping hands over
stand-ins that have the signature of the function and give back what they are given, so two with the same
annotations check the same, and one checker serves both.
"""

from collections.abc import Callable
from typing import Any

from beartype import beartype

_checkers: dict[object, Callable[..., Any]] = {}


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function`, which raises when it is called with what its annotations do not allow."""
    checker: Callable[..., Any] | None = None

    def call(*arguments: Any, **named: Any) -> Any:
        nonlocal checker
        if checker is None:
            checker = _checker(function)
        return checker(*arguments, **named)

    return call


def _checker(function: Callable[..., Any]) -> Callable[..., Any]:
    code = function.__code__
    counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags)
    key = (function.__module__, function.__qualname__, code.co_varnames, counts, *function.__annotations__.items())
    try:
        found = _checkers.get(key)
    except TypeError:  # an annotation that cannot be hashed
        return beartype(function)
    if found is None:
        found = _checkers[key] = beartype(function)
    return found
