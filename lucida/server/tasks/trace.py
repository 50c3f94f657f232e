"""Trace a prompt and save its graph."""

from typing import TYPE_CHECKING, Any

from lucida.server.line import Line
from lucida.server.messages import TraceRequest, TraceResult

if TYPE_CHECKING:
    from lucida.microscope import Microscope


def run(scope: "Microscope", request: dict[str, Any], line: Line) -> dict[str, Any]:
    """The TraceResult of a TraceRequest; `graph` is the id and `graph_path` the file of the new graph."""
    name, path = request.pop("graph"), request.pop("graph_path")
    asked = TraceRequest(**request)
    prompt = [{"role": "user", "content": asked.prompt}] if asked.chat else asked.prompt
    graph = scope.trace(
        prompt,
        _targets(asked),
        max_nodes="default" if asked.max_nodes is None else asked.max_nodes,
        # The products in the type of the weights, as `lucida trace --dtype` has it.
        dtype=str(scope.model.dtype).removeprefix("torch."),
        progress=line.progress,
    )
    line.progress("saving the graph", 0, 1)
    graph.save(path)
    line.progress("saving the graph", 1, 1)
    return TraceResult(graph=name).model_dump()


def _targets(asked: TraceRequest) -> Any:
    if not asked.target:
        return None
    return (asked.target, asked.minus) if asked.minus else [asked.target]
