"""`lucida features explain`: labels by a language model behind an endpoint, with their cost told first."""

import re
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lucida.cli.feature_index import dictionary_option, index_option, open_index
from lucida.cli.options import output_options
from lucida.cli.screen import progress, show_json, show_table

if TYPE_CHECKING:
    from lucida.features.index import FeatureIndex
    from lucida.features.llm import Estimate, LabelRun

LISTED = 20
"""Labels that are shown after a run, the best first."""


class FeatureName(click.ParamType):
    """A layer and the number of a feature in it, ``12:345``."""

    name = "LAYER:FEATURE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return (layer, feature)."""
        if isinstance(value, tuple):
            return value
        found = re.fullmatch(r"(\d+)[:/](\d+)", value)
        if not found:
            self.fail(f"{value!r} is not a feature such as 12:345", param, ctx)
        return int(found[1]), int(found[2])


@click.command()
@index_option
@dictionary_option
@click.option(
    "--endpoint",
    required=True,
    metavar="URL",
    help="An OpenAI-compatible server, such as http://localhost:8080/v1 (llama.cpp, vLLM, Ollama, a hosted one).",
)
@click.option("--model", required=True, metavar="NAME", help="The model to ask, by the endpoint's name for it.")
@click.option(
    "--key-variable",
    default="LUCIDA_API_KEY",
    show_default=True,
    metavar="NAME",
    help="The environment variable that holds the API key, if one is needed.",
)
@click.option("--features", multiple=True, type=FeatureName(), help="A feature, such as 12:345; give several times.")
@click.option("--top", type=click.IntRange(min=1), metavar="N", help="The N first features by --by.")
@click.option(
    "--by",
    type=click.Choice(["frequency", "influence"]),
    default="frequency",
    show_default=True,
    help="What --top goes by; influence needs --graph.",
)
@click.option("--graph", type=click.Path(path_type=Path), help="The graph whose most influential features --top takes.")
@click.option("--all", "all_", is_flag=True, help="All features that fire.")
@click.option("--no-score", is_flag=True, help="Do not test the labels: a fifth of the requests, no scores.")
@click.option("--held-out", type=click.IntRange(min=1), default=10, show_default=True, help="Examples to test with.")
@click.option(
    "--per-request", type=click.IntRange(min=1), default=10, show_default=True, help="Texts to judge in one request."
)
@click.option("--again", is_flag=True, help="Also features that this model labelled before.")
@click.option("--budget-tokens", type=click.IntRange(min=1), metavar="N", help="Stop before more tokens than this.")
@click.option("--price-in", type=click.FloatRange(min=0), help="Price of a million prompt tokens.")
@click.option("--price-out", type=click.FloatRange(min=0), help="Price of a million answer tokens.")
@click.option("--parallel", type=click.IntRange(min=1), default=4, show_default=True, help="Requests at the same time.")
@click.option("--timeout", type=float, default=120.0, show_default=True, help="Seconds to wait for an answer.")
@click.option("--tries", type=click.IntRange(min=1), default=5, show_default=True, help="Tries for each request.")
@click.option(
    "--answer-tokens",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    help="The longest answer; models that think aloud need some thousands.",
)
@click.option("--yes", is_flag=True, help="Do not ask before it starts.")
@output_options
def explain(quiet: bool, as_json: bool, **options: Any) -> None:
    """Let a language model name features from their examples, and test each name on examples it has not seen.

    The index is not sent, only some excerpts of each feature. Labels are kept in the index as they come: after a
    stop of any kind the same command goes on where it was. A score of 1 means that by the label alone the
    model can tell where the feature fires, 0.5 that it does no better than a coin.
    """
    from lucida.features.llm import Endpoint, estimate, llm_labels
    from lucida.progress import silent

    _check(options)
    names = ("model", "key_variable", "timeout", "tries", "parallel", "answer_tokens")
    endpoint = Endpoint(options["endpoint"], **{name: options[name] for name in names})
    index = open_index(options["index"], options["dictionaries"])
    wanted = _wanted(index, options)
    settings: dict[str, Any] = {name: options[name] for name in ("held_out", "per_request", "again")}
    settings["score"] = not options["no_score"]
    expected = estimate(index, wanted, model=endpoint.model, **settings)
    if not (as_json or quiet) or not options["yes"]:
        _show_estimate(expected, endpoint.address, options)
    if expected.plan.todo and not options["yes"]:
        click.confirm("start?", abort=True, err=True)
    with progress(quiet=quiet) as report:
        budget = options["budget_tokens"]
        run = llm_labels(index, endpoint, wanted, budget_tokens=budget, progress=report or silent, **settings)
    if as_json:
        show_json(_record(expected, run, options))
    else:
        _show_run(run, options, quiet=quiet)


def register(group: click.Group) -> None:
    """Add the command to the group `lucida features`."""
    group.add_command(explain)


def _check(options: dict[str, Any]) -> None:
    ways = [bool(options["features"]), options["top"] is not None, options["all_"]]
    if sum(ways) != 1:
        raise click.UsageError("say which features: --features, --top or --all")
    if (options["by"] == "influence") != (options["graph"] is not None):
        raise click.UsageError("--by influence and --graph go together")
    if (options["price_in"] is None) != (options["price_out"] is None):
        raise click.UsageError("give both prices, --price-in and --price-out, or none")


def _wanted(index: "FeatureIndex", options: dict[str, Any]) -> list[tuple[int, int]]:
    from lucida.features.llm.choose import all_features, most_frequent, most_influential

    if options["features"]:
        return list(options["features"])
    if options["all_"]:
        return all_features(index)
    if options["by"] == "frequency":
        return most_frequent(index, options["top"])
    from lucida.cli.graphs import read_graph

    return most_influential(index, read_graph(options["graph"]), options["top"])


def _show_estimate(expected: "Estimate", address: str, options: dict[str, Any]) -> None:
    """What it will take, on standard error: standard output is for results."""
    plan = expected.plan
    lines = [f"{len(plan.todo):,} features to label with {options['model']} at {address}"]
    lines += [f"  {plan.labelled:,} more have a label by this model"] if plan.labelled else []
    lines += [f"  {plan.silent:,} more never fire"] if plan.silent else []
    lines += [f"  {plan.other_models:,} labels by other models will be replaced"] if plan.other_models else []
    tokens = f"{expected.prompt_tokens:,} prompt and {expected.completion_tokens:,} answer tokens"
    lines += [f"  about {expected.requests:,} requests, {tokens}"]
    lines += [f"  (by the length of the prompts, which were written for {expected.measured_on:,} features)"]
    if options["budget_tokens"]:
        lines += [f"  stopping at {options['budget_tokens']:,} tokens"]
    money = _money(expected.prompt_tokens, expected.completion_tokens, options)
    lines += [f"  cost about {money:,.2f}" if money is not None else "  for the cost give --price-in and --price-out"]
    for line in lines:
        click.echo(line, err=True)


def _money(prompt_tokens: int, completion_tokens: int, options: dict[str, Any]) -> float | None:
    from lucida.features.llm.cost import cost

    if options["price_in"] is None:
        return None
    return cost(prompt_tokens, completion_tokens, price_in=options["price_in"], price_out=options["price_out"])


def _record(expected: "Estimate", run: "LabelRun", options: dict[str, Any]) -> dict[str, Any]:
    used = run.used
    return {
        "labels": [asdict(label) for label in run.labels],
        "failed": [{"layer": layer, "feature": f, "why": why} for (layer, f), why in run.failed.items()],
        "labelled_before": run.labelled_before,
        "silent": run.silent,
        "left": run.left,
        "expected": {name: getattr(expected, name) for name in ("requests", "prompt_tokens", "completion_tokens")},
        "used": asdict(used),
        "cost": _money(used.prompt_tokens, used.completion_tokens, options),
    }


def _show_run(run: "LabelRun", options: dict[str, Any], *, quiet: bool) -> None:
    best = sorted(run.labels, key=lambda label: -1.0 if label.score is None else label.score, reverse=True)
    if best:
        rows = [(f"{x.layer}:{x.feature}", "" if x.score is None else f"{x.score:.2f}", x.label) for x in best[:LISTED]]
        show_table("", ("feature", "score", "label"), rows, right=(1,))
    if quiet:
        return
    if len(best) > LISTED:
        click.echo(f"and {len(best) - LISTED:,} more")
    for (layer, feature), why in list(run.failed.items())[:LISTED]:
        click.echo(f"{layer}:{feature} got no label: {why}")
    used = run.used
    guessed = f" ({used.guessed:,} requests by length)" if used.guessed else ""
    money = _money(used.prompt_tokens, used.completion_tokens, options)
    cost = "" if money is None else f", cost {money:,.2f}"
    click.echo(f"{len(run.labels):,} labelled, {len(run.failed):,} failed, {run.labelled_before:,} labelled before")
    tokens = f"{used.prompt_tokens:,} prompt and {used.completion_tokens:,} answer tokens"
    click.echo(f"{used.requests:,} requests, {tokens}{guessed}{cost}")
    if run.left:
        click.echo(f"{run.left:,} features are left: the budget is spent; the same command goes on with them")
