"""`lucida prune`, `score`, `export`: what can be done with a saved graph, without its model."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lucida.cli.options import as_json, output_options, pruning_options, quiet
from lucida.cli.screen import show_json
from lucida.cli.trace import answers, show_answer, show_scores

if TYPE_CHECKING:
    from lucida.graph import Graph

FORMATS = {".json": "neuronpedia", ".svg": "svg", ".png": "png", ".html": "html", ".safetensors": "lucida"}
"""The format to export to, by the suffix of the file."""

graph_argument = click.argument("graph", type=click.Path(path_type=Path))


def read_graph(path: Path) -> "Graph":
    """Return the graph in a file: ours, Neuronpedia's .json, or circuit-tracer's .pt, by the suffix."""
    if path.suffix == ".json":
        from lucida.graph.neuronpedia import read_neuronpedia

        return read_neuronpedia(path)
    if path.suffix == ".pt":
        from lucida.graph.circuit_tracer import read_circuit_tracer

        return read_circuit_tracer(path)
    from lucida.graph import Graph

    return Graph.load(path)


@click.command()
@graph_argument
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="The file to write (.safetensors).",
)
@pruning_options
@output_options
def prune(graph: Path, out: Path, nodes: float, edges: float, rule: str, quiet: bool, as_json: bool) -> None:
    """Keep the nodes and edges of GRAPH that carry most of the influence.

    GRAPH is a file of ours, Neuronpedia JSON (.json) or a circuit-tracer graph (.pt).
    """
    whole = read_graph(graph)
    small = whole.prune(nodes, edges, rule)
    small.save(out)
    record = small.metadata["pruning"]
    if as_json:
        show_json({"file": out, **record})
        return
    show_scores(whole.scores(), small.scores(), quiet=quiet)
    for what in ("nodes", "edges"):
        click.echo(f"{what}: {record['before'][what]:,} to {record['after'][what]:,}")
    click.echo(f"wrote {out}")


@click.command()
@graph_argument
@output_options
def score(graph: Path, quiet: bool, as_json: bool) -> None:
    """Print how much of the answer GRAPH explains.

    GRAPH is a file of ours, Neuronpedia JSON (.json) or a circuit-tracer graph (.pt).
    """
    from dataclasses import asdict

    found = read_graph(graph)
    if as_json:
        show_json({"answer": answers(found), "scores": asdict(found.scores()), "metadata": found.metadata})
        return
    show_answer(found)
    show_scores(found.scores(), quiet=quiet)


@click.command()
@graph_argument
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="The file to write.")
@click.option(
    "--html",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Short for --out FILE --format html: one file to mail, to be clicked in with any browser, offline.",
)
@click.option(
    "--format",
    type=click.Choice([*FORMATS.values(), "json"]),
    help="Left out: by the suffix of --out (.json is neuronpedia). json: plain lists of nodes and edges.",
)
@click.option("--slug", help="neuronpedia: the graph's name.  [default: the name of the file]")
@click.option("--scan", help="neuronpedia: the model's name there.  [default: the graph's model]")
@quiet
@as_json
def export(
    graph: Path,
    out: Path | None,
    html: Path | None,
    format: str | None,
    slug: str | None,
    scan: str | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Write GRAPH in another format: one HTML file, Neuronpedia JSON, a picture, plain JSON, or our own file.

    GRAPH is a file of ours, Neuronpedia JSON (.json) or a circuit-tracer graph (.pt).
    """
    if html is not None:
        if out is not None or format not in (None, "html"):
            raise click.UsageError("--html FILE says both the file and the format; leave out --out and --format")
        out, format = html, "html"
    if out is None:
        raise click.UsageError("say which file to write: --out FILE, or --html FILE")
    form = format or FORMATS.get(out.suffix.lower())
    if form is None:
        raise click.UsageError(f"the suffix of {out} says no format; give --format")
    if form in ("svg", "png") and out.suffix.lower() != f".{form}":
        raise click.UsageError(f"a picture in {form} goes to a file that ends in .{form}, not to {out}")
    found = read_graph(graph)
    warnings = _export(found, out, form, slug, scan)
    if as_json:
        show_json({"file": out, "format": form, "nodes": len(found.nodes), "warnings": warnings})
        return
    for warning in () if quiet else warnings:
        click.echo(f"note: {warning}", err=True)
    click.echo(f"wrote {out}")


def _export(graph: "Graph", out: Path, form: str, slug: str | None, scan: str | None) -> tuple[str, ...]:
    if form == "neuronpedia":
        from lucida.graph.neuronpedia import write_neuronpedia

        model = graph.metadata.get("model") or {}
        model = model.get("name") if isinstance(model, dict) else model
        name = slug or re.sub(r"[^A-Za-z0-9_.-]+", "-", out.stem)
        written = write_neuronpedia(graph, out, slug=name, scan=scan or _plain_name(str(model or "unknown")))
        return written.warnings
    if form == "lucida":
        graph.save(out)
    elif form == "json":
        _write_json(graph, out)
    elif form == "html":
        from lucida.graph.html import export_html

        export_html(graph, out)
    else:
        from lucida.graph.picture import draw

        draw(graph, out)
    return ()


def _plain_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name)


def _write_json(graph: "Graph", out: Path) -> None:
    """Nodes with all their fields, and edges as [source, target, weight], for scripts in any language."""
    import json
    from dataclasses import asdict

    import numpy as np

    from lucida.atomic import replacing

    rows, columns = np.nonzero(graph.edges)
    edges = [[int(s), int(graph.targets[r]), float(graph.edges[r, s])] for r, s in zip(rows, columns, strict=True)]
    document: dict[str, Any] = {
        "prompt": asdict(graph.prompt),
        "nodes": [asdict(graph.node(index)) for index in range(len(graph.nodes))],
        "edges": edges,
        "metadata": graph.metadata,
    }
    with replacing(out) as temporary:
        temporary.write_text(json.dumps(document, allow_nan=False), "utf-8")
