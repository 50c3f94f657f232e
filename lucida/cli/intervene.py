"""`lucida intervene`: change features and see what the model says instead."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lucida.cli.options import (
    FeatureChange,
    FeatureNumber,
    LayerRange,
    model_options,
    output_options,
    prompt_options,
    read_prompt,
)
from lucida.cli.screen import bar, percent, progress, show_json, show_table

if TYPE_CHECKING:
    from lucida.interventions import Outcome

SHOWN_EDITS = 12


@click.command()
@click.argument("prompt", required=False)
@model_options
@prompt_options
@click.option(
    "--scale",
    multiple=True,
    type=FeatureNumber(),
    help="Multiply a feature's activation: 0 removes it, -1 turns it against itself, 1 changes nothing.",
)
@click.option("--set", "put", multiple=True, type=FeatureNumber(), help="Put a feature at this activation.")
@click.option(
    "--graph",
    type=click.Path(path_type=Path),
    help="A graph of the same model: takes its prompt, and finds features by text (--scale small=-2).",
)
@click.option(
    "--ablate-top",
    type=click.IntRange(min=1),
    help="Remove the N features of --graph that push hardest towards its answer.",
)
@click.option(
    "--mode",
    type=click.Choice(["free", "constrained", "frozen"]),
    default="free",
    show_default=True,
    help="Let everything after the change run, hold the MLPs of --layers, or hold all but direct effects.",
)
@click.option("--layers", type=LayerRange(), help="The MLPs that a constrained run holds.")
@click.option(
    "--attention",
    type=click.Choice(["frozen", "live"]),
    help="Attention patterns: as recorded, or computed anew.  [default: live in mode free, else frozen]",
)
@click.option("--count", type=int, default=10, show_default=True, help="How many tokens to show.")
@output_options
def intervene(prompt: str | None, quiet: bool, as_json: bool, **options: Any) -> None:
    """Run PROMPT with features changed; print the answer before and after.

    A feature is LAYER:POSITION:FEATURE as `lucida trace` shows it, or with --graph a text that its
    label or token holds.
    """
    if not options["scale"] and not options["put"] and options["ablate_top"] is None:
        raise click.UsageError("nothing to change; give --scale, --set or --ablate-top")
    if options["ablate_top"] is not None and options["graph"] is None:
        raise click.UsageError("--ablate-top takes its features from a graph; give --graph")
    graph = None
    if options["graph"] is not None:
        from lucida.cli.graphs import read_graph

        graph = read_graph(options["graph"])
    use_graph = graph is not None and prompt is None and options["ids"] is None
    asked = graph.prompt if graph and use_graph else read_prompt(prompt, options["ids"], chat=options["chat"])
    with progress(quiet=quiet) as report:
        outcome = _intervene(asked, graph, options, report)
    if as_json:
        show_json(_document(outcome, options["count"]))
        return
    if not quiet:
        _show_edits(outcome)
    _show_tokens("Before", outcome.top_tokens(options["count"], before=True))
    _show_tokens("After", outcome.top_tokens(options["count"]))


def _intervene(prompt: Any, graph: Any, options: dict[str, Any], report: Any) -> "Outcome":
    from lucida.interventions import Scale, Set
    from lucida.microscope import Microscope

    edits: dict[Any, Any] = {}
    if options["ablate_top"] is not None:
        edits[graph.strongest(options["ablate_top"])] = Scale(0.0)
    for verb, changes in ((Scale, options["scale"]), (Set, options["put"])):
        for change in changes:
            key = _key(change, graph)
            if key in edits:
                raise click.UsageError(f"{change.where} is changed twice")
            edits[key] = verb(change.number)
    scope = Microscope(
        options["model"],
        options["dictionaries"],
        dtype=options["dtype"],
        device=options["device"],
        offline=options["offline"],
        allow_unverified=options["allow_unverified"],
        progress=report,
    )
    names = ("mode", "layers", "attention")
    return scope.intervene(prompt, edits, **{name: options[name] for name in names})


def _key(change: FeatureChange, graph: Any) -> Any:
    if not isinstance(change.where, str):
        return change.where
    if graph is None:
        raise click.UsageError(f"{change.where!r} is not LAYER:POSITION:FEATURE; to find features by text give --graph")
    return graph.find(change.where)


def _show_edits(outcome: "Outcome") -> None:
    shown = outcome.edits[:SHOWN_EDITS]
    rows = [(f"{e.layer}:{e.position}:{e.feature}", f"{e.before:.4g}", f"{e.after:.4g}") for e in shown]
    if len(shown) < len(outcome.edits):
        rows.append((f"and {len(outcome.edits) - len(shown)} more", "", ""))
    title = f"Changed (mode {outcome.mode}, attention {outcome.attention})"
    show_table(title, ("feature", "before", "after"), rows, right=(1, 2))


def _show_tokens(title: str, tokens: Any) -> None:
    rows = [(repr(t.text), percent(t.probability), bar(t.probability)) for t in tokens]
    show_table(title, ("token", "probability", ""), rows, right=(1,))


def _document(outcome: "Outcome", count: int) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "mode": outcome.mode,
        "layers": outcome.layers,
        "attention": outcome.attention,
        "edits": [asdict(edit) for edit in outcome.edits],
        "before": [asdict(token) for token in outcome.top_tokens(count, before=True)],
        "after": [asdict(token) for token in outcome.top_tokens(count)],
    }
