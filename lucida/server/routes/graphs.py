"""Saved graphs: read, searched, noted on, sent in, exported. None of it needs the model.

These are plain functions, which the server runs in threads: the sums of one graph do not stop the others' pages.
"""

import shutil
import tempfile
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import FileResponse
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool

from lucida.graph.pruning import rank_nodes
from lucida.graph.view import EDGE_SHARE, MOST_EDGES, MOST_NODES, NODE_SHARE, view
from lucida.server import graphs, suggest
from lucida.server.exports import FORMATS, ExportFormat, export
from lucida.server.graph_file import showing
from lucida.server.messages import (
    FoundNode,
    GraphDetail,
    GraphId,
    GraphSummary,
    GroupSuggestion,
    Notes,
    PrunedScores,
    StrongPath,
)
from lucida.server.workspace import Workspace

router = APIRouter(prefix="/api/graphs")
Share = Annotated[float, Query(gt=0, le=1)]
GraphName = GraphId


class Bytes(Response):
    """The bytes of a graph's view."""

    media_type = "application/octet-stream"


def _workspace(request: Request) -> Workspace:
    return request.app.state.workspace


Graphs = Annotated[Workspace, Depends(_workspace)]


@router.get("")
def list_graphs(workspace: Graphs) -> list[GraphSummary]:
    """All graphs, newest first."""
    return workspace.summaries()


@router.post(
    "", openapi_extra={"requestBody": {"content": {"application/octet-stream": {"schema": {"type": "string"}}}}}
)
async def send_graph(
    request: Request, workspace: Graphs, name: Annotated[str, Query(max_length=1000)] = ""
) -> GraphSummary:
    """Take a graph file of ours, or Neuronpedia or circuit-tracer JSON. `name` is what a refusal calls the file."""
    folder = Path(tempfile.mkdtemp(prefix=".incoming-", dir=workspace.folder))
    try:
        # A name of ours, which no text in the file holds; the sender's becomes no part of a path.
        path = folder / folder.name.lstrip(".")
        with path.open("wb") as file:
            async for block in request.stream():
                file.write(block)
        return await run_in_threadpool(workspace.take, path, name)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@router.get("/{graph}")
def get_graph(request: Request, workspace: Graphs, graph: GraphName) -> GraphDetail:
    """A graph with everything but its nodes and edges."""
    jobs = request.app.state.jobs
    why_not = graphs.why_no_experiment(workspace.header(graph)["metadata"], jobs.model, jobs.fingerprint)
    summary = workspace.summary(graph)
    found = workspace.computed(graph, "detail", lambda whole: graphs.detail(whole, summary, ""))
    return found.model_copy(update={"can_intervene": not why_not, "why_not": why_not})


@router.delete("/{graph}", status_code=204)
def delete_graph(workspace: Graphs, graph: GraphName) -> None:
    """Delete a graph and its notes; a file that was opened in place stays where it is."""
    workspace.delete(graph)


@router.get("/{graph}/view", response_class=Bytes)
def get_view(
    workspace: Graphs,
    graph: GraphName,
    node_share: Share = NODE_SHARE,
    edge_share: Share = EDGE_SHARE,
    most_nodes: Annotated[int, Query(ge=1, le=20_000)] = MOST_NODES,
    most_edges: Annotated[int, Query(ge=1, le=1_000_000)] = MOST_EDGES,
) -> Response:
    """The nodes and edges that a page draws; docs/view-format.md."""
    settings = {
        "node_share": node_share, "edge_share": edge_share, "most_nodes": most_nodes, "most_edges": most_edges
    }  # fmt: skip
    key = ("view", *settings.values())
    return Bytes(workspace.computed(graph, key, lambda whole: view(whole, **settings).to_bytes()))


@router.get("/{graph}/scores")
def get_scores(workspace: Graphs, graph: GraphName, nodes: Share = 0.8, edges: Share = EDGE_SHARE) -> PrunedScores:
    """What a pruning leaves, and how much of the answer that explains."""
    key = ("scores", nodes, edges)
    return workspace.computed(graph, key, lambda whole: graphs.pruned_scores(whole, nodes, edges))


@router.get("/{graph}/nodes")
def find_nodes(
    workspace: Graphs,
    graph: GraphName,
    query: Annotated[str, Query(max_length=200)] = "",
    node_share: Share = NODE_SHARE,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
) -> list[FoundNode]:
    """Nodes of the whole graph, and why one is not in view."""
    cumulative = workspace.computed(graph, "cumulative", lambda whole: rank_nodes(whole).cumulative)
    labels = {int(node): label for node, label in workspace.notes(graph).labels.items()}
    settings = {"query": query, "node_share": node_share, "limit": limit}
    return graphs.found_nodes(workspace.graph(graph), cumulative, labels, **settings)


@router.get("/{graph}/paths")
def get_paths(
    workspace: Graphs,
    graph: GraphName,
    count: Annotated[int, Query(ge=1, le=100)] = 10,
    through: Annotated[int | None, Query(ge=0)] = None,
) -> list[StrongPath]:
    """The strongest paths from the prompt to the answer, all or those through a node."""
    return workspace.computed(graph, ("paths", count, through), lambda whole: graphs.paths_of(whole, count, through))


@router.get("/{graph}/groups")
def get_groups(workspace: Graphs, graph: GraphName) -> list[GroupSuggestion]:
    """Supernodes that the server proposes."""
    return workspace.computed(graph, "groups", suggest.groups)


@router.get("/{graph}/notes")
def get_notes(workspace: Graphs, graph: GraphName) -> Notes:
    """What a reader added to the graph."""
    return workspace.notes(graph)


@router.put("/{graph}/notes")
def put_notes(workspace: Graphs, graph: GraphName, notes: Notes) -> Notes:
    """Keep notes; refused (409) when they were changed elsewhere since they were read."""
    return workspace.save_notes(graph, notes)


@router.get("/{graph}/export", response_class=FileResponse)
def export_graph(
    workspace: Graphs, graph: GraphName, format: ExportFormat, nodes: Share = 0.8, edges: Share = 0.98
) -> FileResponse:
    """The graph as a file for others, with the reader's labels, pins and supernodes; Neuronpedia's JSON pruned to the
    shares `nodes` and `edges` of the influence.
    """
    folder = Path(tempfile.mkdtemp(prefix=".incoming-", dir=workspace.folder))
    try:
        with showing(workspace.file(graph).name):
            path = export(workspace, graph, format, folder, nodes=nodes, edges=edges)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    clean = BackgroundTask(shutil.rmtree, folder, ignore_errors=True)
    return FileResponse(path, media_type=FORMATS[format], filename=path.name, background=clean)
