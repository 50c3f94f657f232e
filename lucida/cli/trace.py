"""`lucida trace`: from a prompt to a graph, its scores, its strongest paths and a picture."""

from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import click

from lucida.cli.options import (
    NodeBudget,
    model_options,
    output_options,
    prompt_options,
    pruning_options,
    read_prompt,
)
from lucida.cli.screen import bar, console, percent, progress, show_json, show_table

if TYPE_CHECKING:
    from lucida.graph import Graph, Scores

PATHS = 8
"""How many of the strongest paths are shown."""


@click.command()
@click.argument("prompt", required=False)
@model_options
@prompt_options
@click.option("--target", multiple=True, metavar="TOKEN", help="A token to explain; give several times for several.")
@click.option("--minus", metavar="TOKEN", help="Explain the difference between --target and this token.")
@click.option("--position", type=int, default=-1, show_default=True, help="Where the answer is read.")
@click.option("--max-targets", type=int, default=10, show_default=True, help="At most so many top tokens.")
@click.option("--target-mass", type=float, default=0.95, show_default=True, help="Top tokens up to this probability.")
@click.option(
    "--max-nodes",
    type=NodeBudget(),
    metavar="N|all|default",
    default="default",
    show_default=True,
    help="How many features are expanded; default is 4096, or 256 neurons.",
)
@click.option(
    "--sink-positions",
    type=int,
    default=1,
    show_default=True,
    help="First positions whose MLPs count as constants.",
)
@pruning_options
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Save the whole graph (.safetensors).")
@click.option(
    "--picture",
    "pictures",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Draw the pruned graph (.svg or .png); give several times for several.",
)
@output_options
def trace(prompt: str | None, quiet: bool, as_json: bool, **options: Any) -> None:
    """Trace PROMPT: which features led the model to its answer.

    Prints the answer, how much of it the graph explains and the strongest paths to it. The graph is
    pruned for the paths and the picture; --out saves all of it.
    """
    started = perf_counter()
    asked = read_prompt(prompt, options["ids"], chat=options["chat"])
    targets = _targets(options["target"], options["minus"], as_ids=options["ids"] is not None)
    _check_suffixes(options["out"], options["pictures"])
    with progress(quiet=quiet) as report:
        graph = _trace(asked, targets, options, report)
        small = graph.prune(options["nodes"], options["edges"], options["rule"])
        paths = _telling_paths(small)
        written = _write(graph, small, options["out"], options["pictures"])
    seconds = perf_counter() - started
    if as_json:
        show_json(_document(graph, small, paths, written, seconds))
        return
    show_answer(graph)
    show_scores(graph.scores(), small.scores(), quiet=quiet)
    _show_paths(paths)
    for path in written:
        click.echo(f"wrote {path}")
    if not quiet:
        click.echo(f"{_size(graph)}; pruned to {_size(small)}; {seconds:.1f} s")


def _telling_paths(small: "Graph") -> list[Any]:
    """The strongest paths that pass a feature; straight ones from a token only where there is no other."""
    paths = small.paths(8 * PATHS)
    return [path for path in paths if len(path.nodes) > 2][:PATHS] or list(paths[:PATHS])


def _targets(target: tuple[str, ...], minus: str | None, *, as_ids: bool) -> Any:
    if minus is not None and len(target) != 1:
        raise click.UsageError("--minus needs exactly one --target")
    tokens: list[Any] = [*target, *([] if minus is None else [minus])]
    if as_ids:
        if not all(token.isdigit() for token in tokens):
            raise click.UsageError("with --ids the targets are token ids too")
        tokens = [int(token) for token in tokens]
    return tuple(tokens) if minus is not None else tokens or None


def _check_suffixes(out: Path | None, pictures: tuple[Path, ...]) -> None:
    """Refuse a file that could not be written before the work, not after it."""
    if out is not None and out.suffix != ".safetensors":
        raise click.UsageError(f"--out {out} must end in .safetensors (`lucida export` writes other formats)")
    for picture in pictures:
        if picture.suffix.lower() not in (".svg", ".png"):
            raise click.UsageError(f"--picture {picture} must end in .svg or .png")


def _trace(prompt: Any, targets: Any, options: dict[str, Any], report: Any) -> "Graph":
    from lucida.microscope import Microscope

    scope = Microscope(
        options["model"],
        options["dictionaries"],
        dtype=options["dtype"],
        device=options["device"],
        offline=options["offline"],
        allow_unverified=options["allow_unverified"],
        progress=report,
    )
    names = ("position", "max_targets", "target_mass", "max_nodes", "sink_positions", "dtype")
    return scope.trace(prompt, targets, **{name: options[name] for name in names}, progress=report)


def _write(graph: "Graph", small: "Graph", out: Path | None, pictures: tuple[Path, ...]) -> list[Path]:
    if out is not None:
        graph.save(out)
    if pictures:
        from lucida.graph.picture import draw

        for picture in pictures:
            draw(small, picture)
    return [*([] if out is None else [out]), *pictures]


def answers(graph: "Graph") -> list[dict[str, Any]]:
    """The logit nodes of a graph: text, token, probability (None for a difference), value."""
    import numpy as np

    from lucida.graph.influence import target_values

    logits = np.flatnonzero(graph.nodes.is_kind("logit")).tolist()
    found = []
    for index, value in zip(logits, target_values(graph), strict=True):
        node = graph.node(index)
        found.append({"text": node.text, "token": node.token, "probability": node.probability, "logit": float(value)})
    return found


def show_answer(graph: "Graph") -> None:
    """Print what the graph explains: tokens with their probabilities, or differences with their size."""
    said = graph.metadata.get("top_tokens", [])
    if said:
        rows = [(repr(token["text"]), percent(token["probability"]), bar(token["probability"])) for token in said]
        show_table("The answer", ("token", "probability", ""), rows, right=(1,))
    rows = []
    for answer in answers(graph):
        share = answer["probability"]
        shown = ("", "") if share is None else (percent(share), bar(share))
        rows.append((repr(answer["text"]), f"{answer['logit']:+.3f}", *shown))
    title = "What is explained" if graph.prompt.text else "What is explained (token ids)"
    show_table(title, ("token", "logit", "probability", ""), rows, right=(1, 2))


def show_scores(whole: "Scores", pruned: "Scores | None" = None, *, quiet: bool = False) -> None:
    """Print the scores of a graph, beside those of its pruned copy, and what they mean."""
    columns = ["score", "graph"]
    rows = _narrow_rows(whole)
    table = {name: [value] for name, value in rows.items()}
    if pruned is not None:
        columns.append("pruned")
        later = _narrow_rows(pruned)
        table = {name: [rows.get(name, "-"), later.get(name, "-")] for name in {**rows, **later}}
    show_table("How much it explains", columns, [(n, *v) for n, v in table.items()], right=(1, 2))
    if not quiet:
        console().print(f"{meaning(whole)}\n")


def _narrow_rows(scores: "Scores") -> dict[str, str]:
    # Influence by path length is too wide for a table of two graphs; --json has it.
    return {name: value for name, value in scores.rows() if name != "influence by path length"}


def meaning(scores: "Scores") -> str:
    """The scores of a graph in one plain sentence."""
    if scores.mediated is not None:
        return (
            f"The neurons shown give {scores.mediated:.0%} of the explained logit; tokens, constants and the neurons "
            f"left out give the other {1 - scores.mediated:.0%}."
        )
    left = f", {percent(scores.unexpanded)} from features that were not expanded" if scores.unexpanded else ""
    return (
        f"Of the influence on the answer {percent(scores.replacement)} can be followed back to the "
        f"prompt's tokens; {percent(scores.error_share)} comes from what this graph does not explain{left}."
    )


def _show_paths(paths: Any) -> None:
    screen = console()
    screen.print("The strongest paths", style="bold")
    for path in paths:
        screen.print(f"  {path}")
    screen.print()


def _size(graph: "Graph") -> str:
    import numpy as np

    return f"{len(graph.nodes):,} nodes, {int(np.count_nonzero(graph.edges)):,} edges"


def _document(graph: "Graph", small: "Graph", paths: Any, written: list[Path], seconds: float) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "prompt": {"tokens": graph.prompt.tokens, "strings": graph.prompt.strings, "text": graph.prompt.text},
        "answer": answers(graph),
        "scores": asdict(graph.scores()),
        "pruned_scores": asdict(small.scores()),
        "paths": [
            {"text": str(path), "nodes": [node.index for node in path.nodes], "share": path.share} for path in paths
        ],
        "nodes": len(graph.nodes),
        "pruned_nodes": len(small.nodes),
        "metadata": graph.metadata,
        "files": written,
        "seconds": round(seconds, 3),
    }
