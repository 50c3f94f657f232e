"""A graph and a reader's notes as one file for others."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Literal

from lucida.atomic import replacing
from lucida.graph import Graph
from lucida.graph.html import export_html
from lucida.graph.neuronpedia import write_neuronpedia
from lucida.graph.pruning import prune_around
from lucida.graph.view import name_of
from lucida.server.messages import Notes
from lucida.server.notes import interchange, labelled
from lucida.server.script import view_script
from lucida.server.workspace import Workspace

ExportFormat = Literal["neuronpedia", "html", "safetensors", "python"]
FORMATS: dict[str, str] = {
    "neuronpedia": "application/json",
    "html": "text/html",
    "safetensors": "application/octet-stream",
    "python": "text/x-python",
}
"""The content type of each format."""
SUFFIXES = {"neuronpedia": ".json", "html": ".html", "safetensors": ".graph.safetensors", "python": ".py"}


def export(
    workspace: Workspace, name: str, form: ExportFormat, folder: Path, *, nodes: float = 0.8, edges: float = 0.98
) -> Path:
    """Write a graph into a folder, in one of FORMATS, and return the file, named after the prompt.

    Neuronpedia's JSON holds the nodes and edges that carry these shares of the influence, and all that is pinned: the
    whole graph would be hundreds of megabytes, more than other pages take.

    Raises GraphError for what the format cannot hold.
    """
    summary, notes = workspace.summary(name), workspace.notes(name)
    slug = slug_of(summary.title)
    path = folder / f"{slug}{SUFFIXES[form]}"
    if form == "python":
        with replacing(path) as temporary:
            temporary.write_text(view_script(summary, notes), "utf-8")
        return path
    graph = labelled(workspace.graph(name), notes)
    if form == "safetensors":
        _with_notes(graph, notes).save(path)
    elif form == "neuronpedia":
        scan = re.sub(r"[^A-Za-z0-9_.-]+", "-", name_of(graph.metadata.get("model"))) or "unknown"
        given = interchange(graph, notes)
        kept = _without_notes(part_of(graph, notes, nodes, edges))
        write_neuronpedia(kept, path, slug=slug, scan=scan, pinned=given.pinned, supernodes=given.supernodes)
    else:
        export_html(graph, path, notes=notes.model_dump())
    return path


def part_of(graph: Graph, notes: Notes, nodes: float, edges: float) -> Graph:
    """The pruned graph, and what is pinned or in a supernode, however weak."""
    if nodes >= 1 and edges >= 1:
        return graph
    noted = [*notes.pinned, *(node for group in notes.supernodes for node in group.nodes)]
    return prune_around(graph, noted, nodes, edges)


def _with_notes(graph: Graph, notes: Notes) -> Graph:
    """The graph with pins and supernodes in its metadata, where `imported_notes` finds them again."""
    if not notes.pinned and not notes.supernodes and "neuronpedia" not in graph.metadata:
        return graph
    given = interchange(graph, notes)
    known = graph.metadata.get("neuronpedia") or {}
    kept = {**known, "pinnedIds": given.pinned, "supernodes": given.supernodes}
    return replace(graph, metadata={**graph.metadata, "neuronpedia": kept})


def _without_notes(graph: Graph) -> Graph:
    """The graph without the pins it came with: the reader may have taken them away."""
    kept = graph.metadata.get("neuronpedia")
    if not isinstance(kept, dict):
        return graph
    return replace(graph, metadata={**graph.metadata, "neuronpedia": {**kept, "pinnedIds": [], "supernodes": []}})


def slug_of(title: str) -> str:
    """A title as the name of a file: letters, digits and dashes of ASCII, at most 60."""
    return re.sub(r"[^A-Za-z0-9]+", "-", title).strip("-").lower()[:60].strip("-") or "graph"
