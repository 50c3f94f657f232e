"""`lucida evaluate`: how good the features are that a model is seen through, in one table and one picture."""

from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import click

from lucida.cli.options import NodeBudget, fetch_options, output_options
from lucida.cli.screen import progress, show_json, show_table

if TYPE_CHECKING:
    from lucida.evaluation import EvaluationReport, PromptSet
    from lucida.evaluation.disagreement import Disagreement
    from lucida.models.model import Model


class PromptChoice(click.ParamType):
    """A number of prompts, or a file of them."""

    name = "N|FILE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return an int or a Path."""
        if isinstance(value, int | Path):
            return value
        return int(value) if value.isdigit() else Path(value)


@click.command()
@click.option(
    "--model",
    default="smollm2-135m",
    show_default=True,
    metavar="NAME|FOLDER|ID",
    help="A name from `lucida models`, a folder, a .gguf file or a hub id.",
)
@click.option(
    "--dictionaries",
    multiple=True,
    metavar="[NAME=]FOLDER|neurons",
    help="Give several times to compare. Left out: the model's trained ones if there are any, and its neurons.",
)
@click.option(
    "--data",
    default="samples",
    show_default=True,
    metavar="CORPUS",
    help="Held-out text: new samples of the model itself, or the part of a corpus that training leaves out.",
)
@click.option("--column", help="The column of records that holds the text.")
@click.option(
    "--corpus-tokens", type=click.IntRange(min=1), help="Open the corpus as a training run with this option did."
)
@click.option("--tokens", type=click.IntRange(min=2), default=20_000, show_default=True, help="Tokens to read.")
@click.option("--context", type=click.IntRange(min=2), default=128, show_default=True, help="Tokens in a row of text.")
@click.option(
    "--prompts",
    type=PromptChoice(),
    default=40,
    show_default=True,
    help="Prompts to trace: how many to choose from the text (0: none), a stored set (.json), or a text on each "
    "line (.txt).",
)
@click.option("--save-prompts", type=click.Path(path_type=Path, dir_okay=False), help="Store the prompts (.json).")
@click.option(
    "--nodes",
    type=NodeBudget(),
    metavar="N|all|default",
    default="default",
    show_default=True,
    help="How many features of a graph are expanded, the same for all; default is 1024.",
)
@click.option(
    "--faithfulness",
    type=click.IntRange(min=0),
    default=4,
    show_default=True,
    metavar="N",
    help="Ablate features on the first N prompts; slow.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the prompts, samples and intervals.")
@click.option("--device", default="cpu", show_default=True, help="Where to run: cpu or cuda.")
@fetch_options
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Save the whole report (.json).")
@click.option(
    "--picture",
    "pictures",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Draw the report (.svg or .png); give several times for several.",
)
@output_options
def evaluate(quiet: bool, as_json: bool, **options: Any) -> None:
    """Measure dictionaries of a model, and its own neurons, in one table.

    How well and how sparsely they reconstruct the MLPs, what the model says when they replace them, how
    much of its answers their graphs explain, and whether ablations do what the graphs say. docs/evaluation.md
    explains every column.
    """
    started = perf_counter()
    _check_suffixes(options["out"], options["save_prompts"], options["pictures"])
    with progress(quiet=quiet) as report:
        found, prompts = _evaluate(options, report)
        written = _write(found, prompts, options)
    if as_json:
        import json

        show_json(json.loads(found.to_json()) | {"files": written, "seconds": round(perf_counter() - started, 3)})
        return
    _show(found, quiet=quiet)
    for path in written:
        click.echo(f"wrote {path}")
    if not quiet:
        click.echo(f"{found.tokens_given:,} tokens, {found.prompts} prompts; {perf_counter() - started:.1f} s")


def _check_suffixes(out: Path | None, prompts: Path | None, pictures: tuple[Path, ...]) -> None:
    """Refuse a file that could not be written before the work, not after it."""
    for option, path in (("--out", out), ("--save-prompts", prompts)):
        if path is not None and path.suffix.lower() != ".json":
            raise click.UsageError(f"{option} {path} must end in .json")
    for picture in pictures:
        if picture.suffix.lower() not in (".svg", ".png"):
            raise click.UsageError(f"--picture {picture} must end in .svg or .png")


def _evaluate(options: dict[str, Any], report: Any) -> "tuple[EvaluationReport, PromptSet | None]":
    from lucida.evaluation import evaluate
    from lucida.evaluation.graphs import NODES
    from lucida.evaluation.text import held_out_text
    from lucida.progress import silent

    tell = report or silent
    model, dictionaries = _open(options, report)
    text = held_out_text(
        model,
        options["data"],
        tokens=options["tokens"],
        context=options["context"],
        column=options["column"],
        corpus_tokens=options["corpus_tokens"],
        offline=options["offline"],
        progress=tell,
    )
    prompts = _prompts(model, text, options, tell)
    found = evaluate(
        model,
        dictionaries,
        text.rows,
        prompts or 0,
        nodes=NODES if options["nodes"] == "default" else options["nodes"],
        faithfulness=options["faithfulness"],
        data=text.name,
        seed=options["seed"],
        progress=tell,
    )
    return found, prompts


def _open(options: dict[str, Any], report: Any) -> "tuple[Model, dict[str, Any]]":
    """The model, and what it is seen through by the name of its row."""
    from lucida.microscope import Microscope

    wanted = [_named(place) for place in options["dictionaries"]] or [("", None), ("neurons", "neurons")]
    names = ("device", "offline", "allow_unverified")
    scope = Microscope(options["model"], wanted[0][1], progress=report, **{name: options[name] for name in names})
    found: dict[str, Any] = {}
    for index, (name, place) in enumerate(wanted):
        dictionary = Microscope(scope.model, place).dictionary if index else scope.dictionary
        if dictionary is None:
            found[name or "neurons"] = "neurons"
            continue
        name = name or dictionary.name
        found[name if name not in found else str(place)] = dictionary
    return scope.model, found


def _named(place: str) -> tuple[str, str]:
    """The name of a row and where its features are: ``NAME=FOLDER``, or a folder, whose name it takes."""
    name, equals, folder = place.partition("=")
    if equals and name and folder and not Path(place).exists():
        return name, folder
    return Path(place).name, place


def _prompts(model: "Model", text: Any, options: dict[str, Any], report: Any) -> "PromptSet | None":
    from lucida.evaluation import choose_prompts, read_prompts

    wanted = options["prompts"]
    if isinstance(wanted, Path):
        return read_prompts(model, wanted)
    if wanted == 0:
        return None
    return choose_prompts(model, text.rows, count=wanted, counts=text.counts, seed=options["seed"], progress=report)


def _write(found: "EvaluationReport", prompts: "PromptSet | None", options: dict[str, Any]) -> list[Path]:
    written = []
    if options["out"] is not None:
        found.save(options["out"])
        written.append(options["out"])
    if options["save_prompts"] is not None and prompts is not None:
        prompts.save(options["save_prompts"])
        written.append(options["save_prompts"])
    if options["pictures"]:
        from lucida.evaluation.picture import draw

        for picture in options["pictures"]:
            draw(found, picture)
        written += options["pictures"]
    return written


def _show(found: "EvaluationReport", *, quiet: bool) -> None:
    names, *rows = found.table()
    show_table(f"{found.model}, {found.data}", names, rows, right=range(1, len(names)))
    if quiet:
        return
    if found.model_loss is not None:
        click.echo(f"The model's own loss is {found.model_loss:.3f} nats per token; {found.sinks:.1%} of the tokens")
        click.echo("(first positions and attention sinks) do not count.")
    for pair in found.disagreements:
        click.echo(_story(pair))


def _story(pair: "Disagreement") -> str:
    """A disagreement in plain words."""
    text = f"{pair.cross_layer} against {pair.per_layer}: "
    text += f"the same tokens matter by rank correlation {pair.tokens}; " if pair.tokens is not None else ""
    text += f"paths shorter by {pair.path_gap} edges. " if pair.path_gap is not None else ""
    return text.rstrip()
