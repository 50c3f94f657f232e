"""`lucida steer`: let the model write while features are turned up or down, its own text beside it."""

import re
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from lucida.cli.feature_index import index_option
from lucida.cli.options import TokenIds, model_options, output_options, read_prompt
from lucida.cli.screen import console, percent, progress, show_json, show_table

if TYPE_CHECKING:
    from lucida.microscope import Microscope
    from lucida.steering import Generation, Steer

LINES = "  "
SHOWN_PATTERN = 16


class Turned(NamedTuple):
    """A feature, and the strength given with it."""

    layer: int
    feature: int
    strength: float | None


class TurnedFeature(click.ParamType):
    """A feature, ``LAYER:FEATURE``, perhaps with its own strength, ``LAYER:FEATURE=STRENGTH``."""

    name = "LAYER:FEATURE[=STRENGTH]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return a Turned."""
        if isinstance(value, Turned):
            return value
        place, equals, strength = value.partition("=")
        found = re.fullmatch(r"(\d+):(\d+)", place)
        try:
            amount = float(strength) if equals else None
        except ValueError:
            found = None
        if found is None:
            self.fail(f"{value!r} is not LAYER:FEATURE or LAYER:FEATURE=STRENGTH, such as 12:345=8", param, ctx)
        return Turned(int(found[1]), int(found[2]), amount)


class Where(click.ParamType):
    """Which tokens are steered: a word, or positions of the prompt with commas between them."""

    name = "all|prompt|generated|answer|POSITIONS"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the word, or a tuple of positions."""
        if isinstance(value, tuple) or value in ("all", "prompt", "generated", "answer"):
            return value
        if not re.fullmatch(r"-?\d+(,-?\d+)*", value):
            self.fail(f"{value!r} is not all, prompt, generated, answer or positions such as 3,5,-1", param, ctx)
        return tuple(int(part) for part in value.split(","))


@click.command()
@click.argument("prompt", required=False)
@click.option("--feature", "features", multiple=True, type=TurnedFeature(), help="What to turn; may be given again.")
@click.option(
    "--strength",
    "strengths",
    multiple=True,
    type=float,
    help="How far, in units of the feature's maximum; given again, each strength is tried, all in one batch.  "
    "[default: 1]",
)
@click.option(
    "--variant",
    type=click.Choice(["add", "clamp", "scale", "orthogonal"]),
    default="add",
    show_default=True,
    help="Add to the feature, hold it at a value, multiply it, or replace its direction in the residual stream.",
)
@click.option("--where", type=Where(), default="all", show_default=True, help="Which tokens are steered.")
@click.option(
    "--maximum", type=float, help="The features' maximum.  [default: from the feature index, else the prompt]"
)
@click.option("--max-tokens", type=int, default=64, show_default=True, help="How many tokens to write.")
@click.option("--temperature", type=float, default=0.0, show_default=True, help="0: always the most probable token.")
@click.option("--top-k", type=int, help="Draw from the K most probable tokens only.")
@click.option("--top-p", type=float, help="Draw from the tokens that make up this share of the probability.")
@click.option("--samples", type=int, default=1, show_default=True, help="How many texts of each kind.")
@click.option("--seed", type=int, default=0, show_default=True, help="The first sample's seed; the next has one more.")
@click.option("--stop", multiple=True, metavar="TEXT", help="End a text before this one.")
@click.option("--contains", multiple=True, metavar="REGEX", help="Count the texts in which this is found.")
@click.option("--no-baseline", is_flag=True, help="Leave out what the model writes by itself.")
@click.option("--ids", type=TokenIds(), help="The prompt as token ids.")
@click.option("--message", is_flag=True, help="PROMPT is a user's message to a chat model; one reply.")
@click.option("--chat", is_flag=True, help="A conversation with a live dial; lines from standard input. Type /help.")
@index_option
@model_options
@output_options
def steer(prompt: str | None, quiet: bool, as_json: bool, **options: Any) -> None:
    """Write on from PROMPT with features turned up or down; the model's own text stands beside it."""
    options["quiet"] = quiet
    if options["chat"]:
        from lucida.cli.steer_chat import chat

        if as_json or options["ids"] is not None or len(options["strengths"]) > 1 or options["samples"] > 1:
            raise click.UsageError("--chat is one conversation: leave out --json, --ids, --samples, other strengths")
        chat(prompt, options)
        return
    asked = read_prompt(prompt, options["ids"], chat=options["message"])
    steers = read_steers(options)
    if not steers and options["no_baseline"]:
        raise click.UsageError("nothing to steer; give --feature LAYER:FEATURE")
    with progress(quiet=quiet) as report:
        scope = open_scope(options, report)
        found, statistics = _generate(scope, asked, steers, options, report)
    if as_json:
        show_json(_document(found, statistics))
        return
    _show(found, steers, quiet=quiet)
    if statistics:
        _show_statistics(statistics)


def read_steers(options: dict[str, Any], strength: float | None = None) -> "list[Steer]":
    """The steers that the options ask for, at `strength` where none is given with the feature."""
    from lucida.steering import Steer

    given = options["strengths"][0] if options["strengths"] else 1.0
    default = given if strength is None else strength
    names = ("variant", "where", "maximum")
    return [
        Steer(t.layer, t.feature, default if t.strength is None else t.strength, **{n: options[n] for n in names})
        for t in options["features"]
    ]


def open_scope(options: dict[str, Any], report: Any) -> "Microscope":
    """The microscope that the options ask for."""
    from lucida.microscope import Microscope

    names = ("dtype", "device", "offline", "allow_unverified")
    settings = {name: options[name] for name in names}
    return Microscope(options["model"], options["dictionaries"], **settings, progress=report)


def sampling_options(options: dict[str, Any]) -> dict[str, Any]:
    """The options of `lucida.steering.Sampling`."""
    names = ("max_tokens", "temperature", "top_k", "top_p", "seed", "samples")
    return {name: options[name] for name in names} | {"stop": tuple(options["stop"])}


def _generate(scope: "Microscope", asked: Any, steers: "list[Steer]", options: dict[str, Any], report: Any) -> Any:
    from lucida.steering import generate
    from lucida.steering.outcome import text_statistics

    conditions: Any = {"steered": steers} if steers else {}
    if len(options["strengths"]) > 1 and steers:
        conditions = {f"{s:g}": read_steers(options, s) for s in options["strengths"]}
    rows = options["samples"] * (len(conditions) + (not options["no_baseline"]))
    done, total = [0], options["max_tokens"] * rows

    def count(_token: Any) -> None:
        done[0] += 1
        if report is not None:
            report("writing", done[0], total)

    found = generate(
        scope.model, scope.dictionary, asked, conditions, baseline=not options["no_baseline"],
        index=options["index"], on_token=count, **sampling_options(options),
    )  # fmt: skip
    wanted = options["samples"] > 1 or options["contains"]
    return found, text_statistics(scope.model, found, options["contains"]) if wanted else ()


def _show(found: "Generation", steers: "list[Steer]", *, quiet: bool) -> None:
    screen = console()
    if steers and not quiet:
        for unit in found.units:
            source = {"index": "from the feature index", "prompt": "on this prompt", "given": "as given"}
            if unit.source != "none":
                click.echo(
                    f"maximum of {unit.layer}:{unit.feature}: {unit.maximum:.4g} {source[unit.source]}", err=True
                )
    for sample in found.samples:
        screen.print(f"{_title(sample.condition, steers)}{f', sample {sample.sample}' if sample.sample else ''}")
        text = sample.text.strip(" ") + ("" if sample.ended in ("end of text", "stop") else " …")
        for line in text.splitlines() or [""]:
            screen.print(LINES + line)
        screen.print()


def _title(condition: str, steers: "list[Steer]") -> str:
    if condition == "baseline":
        return "The model by itself"
    said = {f"{s.place} {s.variant} {s.strength if condition == 'steered' else float(condition):g}" for s in steers}
    return f"Steered: {', '.join(sorted(said))}"


def _show_statistics(statistics: Any) -> None:
    patterns = list(statistics[0].containing)
    columns = (
        "texts",
        "samples",
        *(f"with {_short(p)}" for p in patterns),
        "nats a token",
        "distinct 3-grams",
        "changed",
    )
    rows = []
    for row in statistics:
        shares = [row.containing[pattern] for pattern in patterns] + [row.distinct[3], row.changed]
        shown = [_share(share) for share in shares]
        likely = "-" if row.log_probability is None else f"{row.log_probability.value:.2f}"
        rows.append((row.condition, row.samples, *shown[:-2], likely, *shown[-2:]))
    title = "Nats: mean log-probability of the text under the model by itself"
    show_table(title, columns, rows, right=range(1, len(columns)))


def _short(pattern: str) -> str:
    return pattern if len(pattern) <= SHOWN_PATTERN else f"{pattern[:SHOWN_PATTERN]}…"


def _share(interval: Any) -> str:
    if interval is None:
        return "-"
    if interval.low is None:
        return percent(interval.value)
    return f"{100 * interval.value:.0f} % [{100 * interval.low:.0f}, {100 * interval.high:.0f}]"


def _document(found: "Generation", statistics: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "prompt": {"tokens": found.prompt.tokens, "text": found.prompt.text},
        "units": [asdict(unit) for unit in found.units],
        "samples": [asdict(sample) for sample in found.samples],
        "statistics": [asdict(row) for row in statistics],
    }
