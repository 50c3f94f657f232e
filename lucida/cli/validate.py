"""`lucida validate`: how far a graph can be believed, measured on the model it is of."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lucida.cli.options import model_options, quiet
from lucida.cli.screen import progress, show_json, show_table

if TYPE_CHECKING:
    from lucida.validation import Validation

MARKS = {"holds": "holds", "partly": "in part", "fails": "does not hold"}


@click.command()
@click.argument("graphs", nargs=-1, required=True, metavar="GRAPH...", type=click.Path(path_type=Path))
@model_options
@click.option(
    "--ablations",
    type=click.IntRange(min=3),
    default=200,
    show_default=True,
    help="Features taken out, one at a time, on each graph.",
)
@click.option(
    "--targets", type=click.IntRange(min=0), default=128, show_default=True, help="Features watched on each graph."
)
@click.option(
    "--controls",
    type=click.IntRange(min=0),
    default=32,
    show_default=True,
    help="Features that pruning keeps, each beside a random one that writes as much at the same place.",
)
@click.option(
    "--pushes",
    type=click.IntRange(min=0),
    default=32,
    show_default=True,
    help="Features at which the stream is pushed, to compare the replacement model with the model.",
)
@click.option(
    "--reach",
    type=click.IntRange(min=0),
    help="How many layers above its own an ablation holds the MLPs.  [default: 2; neurons and skip connections: 0]",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of what is drawn, and of the intervals.")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
              help="Save everything as JSON; - prints it instead of the table.")  # fmt: skip
@click.option(
    "--html", "html_file", type=click.Path(path_type=Path, dir_okay=False), help="Save the report with plots (.html)."
)
@quiet
def validate(graphs: tuple[Path, ...], quiet: bool, **options: Any) -> None:
    """Say how far GRAPH can be believed: what it claims beside what the model does.

    Takes features out one at a time and compares with the graph's influence, edges and predictions; pushes
    the stream and compares the replacement model with the model. Several graphs of one model are taken
    together, with intervals over them. docs/validation.md explains every line.
    """
    _check_suffixes(options["json_file"], options["html_file"])
    with progress(quiet=quiet) as report:
        found = _validate(graphs, options, report)
    written = _write(found, options)
    if str(options["json_file"]) == "-":
        show_json(found.document())
        return
    _show(found, quiet=quiet)
    for path in written:
        click.echo(f"wrote {path}")


def _check_suffixes(json_file: Path | None, html_file: Path | None) -> None:
    """Refuse a file that could not be written before the work, not after it."""
    for option, path, suffix in (("--json", json_file, ".json"), ("--html", html_file, ".html")):
        if path is not None and str(path) != "-" and path.suffix.lower() != suffix:
            raise click.UsageError(f"{option} {path} must end in {suffix}")


def _validate(graphs: tuple[Path, ...], options: dict[str, Any], report: Any) -> "Validation":
    from lucida.cli.graphs import read_graph
    from lucida.microscope import Microscope
    from lucida.progress import silent
    from lucida.validation import validate as run

    found = [read_graph(path) for path in graphs]
    names = ("dtype", "device", "offline", "allow_unverified")
    scope = Microscope(
        options["model"], _features(found[0], options), progress=report, **{name: options[name] for name in names}
    )
    counts = ("ablations", "targets", "controls", "pushes", "reach", "seed")
    return run(
        scope.model, scope.dictionary, found, progress=report or silent, **{name: options[name] for name in counts}
    )


def _features(graph: Any, options: dict[str, Any]) -> str | None:
    """What --dictionaries says; left out, neurons for a graph of neurons."""
    if options["dictionaries"] is None and (graph.metadata.get("dictionary") or {}).get("kind") == "neurons":
        return "neurons"
    return options["dictionaries"]


def _write(found: "Validation", options: dict[str, Any]) -> list[Path]:
    written = []
    if options["json_file"] is not None and str(options["json_file"]) != "-":
        found.save(options["json_file"])
        written.append(options["json_file"])
    if options["html_file"] is not None:
        from lucida.validation.page import save_page

        save_page(found, options["html_file"])
        written.append(options["html_file"])
    return written


def _show(found: "Validation", *, quiet: bool) -> None:
    from lucida.validation import findings
    from lucida.validation.verdicts import in_short

    lines = findings(found)
    rows = [(line.name, line.value, MARKS.get(line.level, line.level), line.sentence) for line in lines]
    number = f"{len(found.prompts)} graphs of " if len(found.prompts) > 1 else ""
    title = f"How far to believe {number}{found.model} through {found.dictionary}"
    show_table(title, ("what the graph claims", "measured [95 %]", "", "what to trust"), rows, wrap=(0, 1, 3))
    click.echo(in_short(lines))
    if quiet:
        return
    for note in found.left_out:
        click.echo(note)
    click.echo(
        f"{len(found.ablations):,} of {found.features:,} features taken out; seed {found.seed}; {found.seconds:.1f} s"
    )
