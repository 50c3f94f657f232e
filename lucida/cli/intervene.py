"""`lucida intervene`: change features and see what the model says instead."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from lucida.cli.intervene_edits import donated_edits, given_edits, watched_places
from lucida.cli.intervene_screen import document, show
from lucida.cli.options import (
    Factors,
    FeatureNumber,
    FeaturePlace,
    FeatureSwap,
    LayerRange,
    PromptPositions,
    model_options,
    output_options,
    prompt_options,
    read_prompt,
)
from lucida.cli.screen import progress, show_json

if TYPE_CHECKING:
    from lucida.graph import Graph
    from lucida.interventions import Outcome
    from lucida.interventions.prediction import Comparison
    from lucida.microscope import Microscope


@dataclass(frozen=True)
class Result:
    """What the command found: the intervention, and what else was asked for."""

    main: "Outcome"
    watched: tuple[tuple[int, int, int], ...]
    factors: "tuple[tuple[float, Outcome], ...]"
    controls: "tuple[Outcome, ...]"
    comparisons: "tuple[Comparison, ...]"
    graphs: "tuple[Graph, ...]"


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
    "--inject",
    multiple=True,
    type=FeatureNumber(),
    help="Put a feature at this many times its largest activation on --donor, or on the prompt itself.",
)
@click.option(
    "--swap",
    multiple=True,
    type=FeatureSwap(),
    help="Remove the features OUT (a text in --graph, or a feature) and put IN, from --donor, in their place.",
)
@click.option(
    "--swap-strength",
    type=float,
    default=1.0,
    show_default=True,
    help="IN is put at this many times its activation on the donor's prompt.",
)
@click.option("--donor", metavar="PROMPT|GRAPH", help="Where --inject and --swap take activations from.")
@click.option(
    "--positions",
    type=PromptPositions(),
    help="Make the changes at these positions (3,5-7 or all) instead of where the features were found.",
)
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
    type=click.Choice(["free", "constrained", "iterative", "frozen"]),
    default="free",
    show_default=True,
    help="Let everything after the change run; hold the MLPs of --layers; hold them, but compute what features "
    "there read anew; or hold all but direct effects.",
)
@click.option("--layers", type=LayerRange(), help="The MLPs that a constrained or iterative run holds.")
@click.option(
    "--attention",
    type=click.Choice(["frozen", "live"]),
    help="Attention patterns: as recorded, or computed anew.  [default: live in mode free, else frozen]",
)
@click.option(
    "--position", type=int, default=-1, help="Where the answer is read.  [default: where --graph reads it, else -1]"
)
@click.option("--watch", multiple=True, type=FeaturePlace(), help="Show how active a feature is, before and after.")
@click.option("--sweep", "factors", type=Factors(), help="Scale the same features by each of these factors too.")
@click.option("--controls", type=click.IntRange(min=1), help="Do the same to N sets of other, matched features.")
@click.option("--predict", "is_predicted", is_flag=True, help="Show what --graph, whole and pruned, predicts of it.")
@click.option(
    "--picture",
    "pictures",
    multiple=True,
    type=click.Path(path_type=Path),
    help="With --predict: draw predicted against measured changes to an .svg or .png file.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Which --controls are drawn.")
@click.option("--count", type=int, default=10, show_default=True, help="How many tokens to show.")
@output_options
def intervene(prompt: str | None, quiet: bool, as_json: bool, **options: Any) -> None:
    """Run PROMPT with features changed; print the answer before and after.

    A feature is LAYER:POSITION:FEATURE as `lucida trace` shows it, or with --graph a text that its
    label or token holds.
    """
    _check(options)
    graph = None
    if options["graph"] is not None:
        from lucida.cli.graphs import read_graph

        graph = read_graph(options["graph"])
    use_graph = graph is not None and prompt is None and options["ids"] is None
    if options["is_predicted"] and not use_graph:
        raise click.UsageError("--predict is about the prompt of --graph; give no other prompt")
    asked = graph.prompt if graph and use_graph else read_prompt(prompt, options["ids"], chat=options["chat"])
    is_asked = click.get_current_context().get_parameter_source("position") != ParameterSource.DEFAULT
    if graph and use_graph and not is_asked:
        options["position"] = graph.answer_position
    with progress(quiet=quiet) as report:
        result = _intervene(asked, graph, options, report)
    if options["pictures"]:
        from lucida.interventions.picture import draw_calibration

        for picture in options["pictures"]:
            draw_calibration(result.comparisons[:1], picture, title="Predicted by the graph, and measured")
    if as_json:
        show_json(document(result, options["count"]))
    else:
        show(result, options["count"], quiet=quiet)


def _check(options: dict[str, Any]) -> None:
    changes = ("scale", "put", "inject", "swap")
    if not any(options[name] for name in changes) and options["ablate_top"] is None:
        raise click.UsageError("nothing to change; give --scale, --set, --inject, --swap or --ablate-top")
    if options["ablate_top"] is not None and options["graph"] is None:
        raise click.UsageError("--ablate-top takes its features from a graph; give --graph")
    if options["swap"] and options["donor"] is None:
        raise click.UsageError("--swap takes what it puts in from another prompt; give --donor")
    if options["donor"] is not None and not (options["swap"] or options["inject"]):
        raise click.UsageError("--donor is for --inject and --swap")
    if options["factors"] and not (options["scale"] or options["ablate_top"]):
        raise click.UsageError("--sweep scales features; name them with --scale or --ablate-top")
    if options["is_predicted"] and options["graph"] is None:
        raise click.UsageError("--predict needs a graph that predicts; give --graph")
    if options["pictures"] and not options["is_predicted"]:
        raise click.UsageError("--picture shows what --predict finds; give --predict")
    for picture in options["pictures"]:
        if picture.suffix.lower() not in (".svg", ".png"):
            raise click.UsageError(f"--picture {picture} must end in .svg or .png")


def _intervene(prompt: Any, graph: Any, options: dict[str, Any], report: Any) -> Result:
    from lucida.interventions import Case, Scale, refuse_other
    from lucida.microscope import Microscope

    given = given_edits(graph, options)
    scope = Microscope(
        options["model"],
        options["dictionaries"],
        dtype=options["dtype"],
        device=options["device"],
        offline=options["offline"],
        allow_unverified=options["allow_unverified"],
        progress=report,
    )
    if graph is not None:
        refuse_other(graph, scope.dictionary)
    settings = [options[name] for name in ("mode", "layers", "attention")]
    main = Case([given, *donated_edits(scope, prompt, graph, options)], *settings)
    scaled = [key for key, change in given.items() if isinstance(change, Scale)]
    factors = [(factor, Case({key: factor for key in scaled}, *settings)) for factor in options["factors"] or ()]
    return _run(scope, prompt, graph, main, factors, options)


def _run(scope: "Microscope", prompt: Any, graph: Any, main: Any, factors: Any, options: dict[str, Any]) -> Result:
    """Everything as one batch: the intervention, its factors and its controls."""
    from lucida.interventions import Case, matched_controls, resolve, sweep
    from lucida.interventions.prediction import compare, feature_places
    from lucida.interventions.probe import Probe
    from lucida.models.linear import FrozenModel
    from lucida.models.recording import record

    view = FrozenModel(scope.model, record(scope.model, scope.model.tokenize(prompt)))
    plan = resolve(Probe(view, scope.dictionary), [main])[0]
    controls = []
    if options["controls"]:
        drawn = matched_controls(view, scope.dictionary, plan.edits, draws=options["controls"], seed=options["seed"])
        layers = plan.layers if options["mode"] in ("constrained", "iterative") else None
        controls = [Case(control.edits, options["mode"], layers, options["attention"]) for control in drawn]  # pyright: ignore
    cases = [main, *(case for _, case in factors), *controls]
    shown = [place for where in options["watch"] for place in watched_places(where, graph)]
    watch = [*shown, *(feature_places(graph) if options["is_predicted"] else [])]
    outcomes = sweep(
        scope.model, scope.dictionary, prompt, cases, position=options["position"], watch=watch, view=view,
        progress=scope.progress,
    )  # fmt: skip
    swept, rest = outcomes[1 : 1 + len(factors)], outcomes[1 + len(factors) :]
    graphs = (graph, graph.prune()) if options["is_predicted"] else ()
    comparisons = [compare(g, outcomes[0], name=name) for g, name in zip(graphs, ("whole", "pruned"), strict=False)]
    with_factor = tuple((factor, outcome) for (factor, _), outcome in zip(factors, swept, strict=True))
    return Result(outcomes[0], tuple(dict.fromkeys(shown)), with_factor, tuple(rest), tuple(comparisons), graphs)
