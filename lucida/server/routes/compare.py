"""Two graphs side by side: what only one of them has, what both share, which edges changed."""

from collections.abc import Iterable
from typing import Annotated

from fastapi import APIRouter, Query, Request

from lucida.graph import Graph
from lucida.graph.compare import FeatureChange, compare
from lucida.server.messages import ComparedEdge, ComparedFeature, ComparedGraphs, GraphSummary, Problem, Token
from lucida.server.problems import printable

router = APIRouter()
MOST = 300
"""Entries of each list, those with the most influence or the largest change; counts are of all."""
Id = Annotated[str, Query(pattern=r"^[0-9a-f]{12}$")]


@router.get("/api/compare", operation_id="compare", responses={404: {"model": Problem}})
def compare_graphs(request: Request, a: Id, b: Id) -> ComparedGraphs:
    """Two graphs aligned by feature, and by position where their prompts have as many tokens."""
    workspace = request.app.state.workspace
    return compared(workspace.graph(a), workspace.graph(b), workspace.summary(a), workspace.summary(b))


def compared(a: Graph, b: Graph, summary_a: GraphSummary, summary_b: GraphSummary) -> ComparedGraphs:
    """The comparison of two graphs, its lists cut to MOST entries."""
    by_position = len(a.prompt) == len(b.prompt)
    found = compare(a, b, positions=by_position, edges=4 * MOST)
    nodes_a, nodes_b = _nodes(a, by_position), _nodes(b, by_position)

    def listed(changes: Iterable[FeatureChange]) -> list[ComparedFeature]:
        return [
            ComparedFeature(
                layer=each.layer, feature=each.feature, position=each.position, label=printable(each.label),
                influence_a=each.influence_a, influence_b=each.influence_b,
                nodes_a=nodes_a.get((each.layer, each.feature, each.position), []),
                nodes_b=nodes_b.get((each.layer, each.feature, each.position), []),
            )
            for each in list(changes)[:MOST]
        ]  # fmt: skip

    edges = [
        ComparedEdge(
            source=printable(edge.source), target=printable(edge.target), weight_a=edge.weight_a, weight_b=edge.weight_b
        )
        for edge in found.edges_changed
        # Bias only makes rows add up, and would crowd out all else.
        if edge.source != "bias"
    ][:MOST]
    return ComparedGraphs(
        a=summary_a, b=summary_b, tokens_a=_tokens(a), tokens_b=_tokens(b), by_position=by_position,
        only_a=listed(found.only_a), only_b=listed(found.only_b), shared=listed(found.shared), edges=edges,
        feature_jaccard=found.feature_jaccard, influence_jaccard=found.influence_jaccard,
        edge_jaccard=found.edge_jaccard, n_only_a=len(found.only_a), n_only_b=len(found.only_b),
        n_shared=len(found.shared),
    )  # fmt: skip


def _nodes(graph: Graph, by_position: bool) -> dict[tuple[int, int, int | None], list[int]]:
    """The feature nodes by layer, feature and, if wanted, position."""
    table = graph.nodes
    found: dict[tuple[int, int, int | None], list[int]] = {}
    for index in table.is_kind("feature").nonzero()[0].tolist():
        position = int(table.position[index]) if by_position else None
        found.setdefault((int(table.layer[index]), int(table.feature[index]), position), []).append(index)
    return found


def _tokens(graph: Graph) -> list[Token]:
    prompt = graph.prompt
    return [Token(id=i, text=printable(text)) for i, text in zip(prompt.tokens, prompt.strings, strict=True)]
