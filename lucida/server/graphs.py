"""What the page asks of one graph: a summary, the details, nodes, paths, prunings. No file and no request here."""

from dataclasses import asdict
from typing import Any

import numpy as np

from lucida.errors import GraphError
from lucida.graph import Graph
from lucida.graph.graph import KINDS
from lucida.graph.influence import measure_of, target_values
from lucida.graph.paths import strongest_paths
from lucida.graph.scores import Scores as GraphScores
from lucida.graph.view import MOST_NODES, name_of
from lucida.server.messages import (
    Answer,
    FoundNode,
    GraphDetail,
    GraphSummary,
    ModelState,
    PathStep,
    PrunedScores,
    Scores,
    StrongPath,
    Token,
    TokenProbability,
)
from lucida.server.problems import one_line, printable
from lucida.server.summary import describe

MUCH_UNEXPANDED = 0.05
MUCH_ERROR = 0.5
LONGEST_TITLE = 300


def summary_of(name: str, document: dict[str, Any]) -> GraphSummary:
    """The summary of a graph from the JSON of its file (`lucida.graph.files`)."""
    metadata, prompt = document["metadata"], document["prompt"]
    provenance = metadata.get("provenance")
    made = str(provenance.get("created") or "") if isinstance(provenance, dict) else ""
    count = len(metadata.get("target_weights") or ())
    # Logits stand last.
    answers = [text for text in document["text"][-count:] if text] if count else []
    title = prompt["text"] or " ".join(str(token) for token in prompt["tokens"])
    return GraphSummary(
        id=name,
        title=one_line(title, LONGEST_TITLE),
        answer=one_line(", ".join(answers[:3]) + (", …" if len(answers) > 3 else "")),
        model=one_line(name_of(metadata.get("model"))),
        dictionary=one_line(name_of(metadata.get("dictionary"))),
        n_nodes=len(document["text"]),
        made=one_line(made, 40),
    )


def detail(graph: Graph, summary: GraphSummary, why_not: str) -> GraphDetail:
    """Everything about a graph but its nodes and edges. `why_not` says why no experiment can be made here, or is ""."""
    prompt, metadata = graph.prompt, graph.metadata
    tokens = [Token(id=i, text=printable(text)) for i, text in zip(prompt.tokens, prompt.strings, strict=True)]
    scores, said = graph.scores(), describe(graph)
    return GraphDetail(
        **summary.model_dump(),
        tokens=tokens,
        answers=_answers(graph),
        top=_top(metadata.get("top_tokens")),
        n_layers=int(metadata.get("n_layers") or max(0, int(graph.nodes.layer.max(initial=0)))),
        n_edges=int(np.count_nonzero(graph.edges)),
        counts={kind: int((graph.nodes.kind == i).sum()) for i, kind in enumerate(KINDS)},
        scores=scores_of(scores),
        measure=measure_of(graph),  # pyright: ignore[reportArgumentType]
        can_intervene=not why_not,
        why_not=why_not,
        warnings=_warnings(graph, scores),
        summary=printable(said.short),
        account=printable(said.full),
    )


def scores_of(scores: GraphScores) -> Scores:
    """The scores as the page takes them."""
    known = asdict(scores)
    return Scores(**{name: known[name] for name in Scores.model_fields})


def _answers(graph: Graph) -> list[Answer]:
    logits = np.flatnonzero(graph.nodes.is_kind("logit")).tolist()
    found = []
    for index, value in zip(logits, target_values(graph).tolist(), strict=True):
        node = graph.node(index)
        found.append(Answer(node=index, text=printable(node.text), probability=node.probability, logit=value))
    return found


def _top(recorded: Any) -> list[TokenProbability]:
    """What the model said, as the graph's metadata records it; [] where that is no such record."""
    try:
        return [
            TokenProbability(id=entry["token"], text=printable(entry["text"]), probability=entry["probability"])
            for entry in recorded or []
        ]
    except (TypeError, KeyError, ValueError, AttributeError):
        return []


def _warnings(graph: Graph, scores: GraphScores) -> list[str]:
    found = []
    if scores.unexpanded > MUCH_UNEXPANDED:
        found.append(
            f"{scores.unexpanded:.0%} of the influence comes from features that were not expanded; trace with a larger "
            "budget to see what excites them"
        )
    if scores.error_share > MUCH_ERROR:
        found.append(
            f"{scores.error_share:.0%} of the influence is error: the features explain less than half of the answer"
        )
    if name_of(graph.metadata.get("dictionary")) == "neurons":
        found.append("these are the model's own neurons, which seldom mean one thing each")
    if "neuronpedia" in graph.metadata and not isinstance(graph.metadata.get("dictionary"), dict):
        found.append("this graph comes from another tool: its influences were computed anew from its edges")
    return found


def why_no_experiment(metadata: dict[str, Any], model: ModelState, fingerprint: str) -> str:
    """Why no experiment can be made with a graph here, "" if one can: as `interventions.plans.refuse_other`."""
    if model.status == "none":
        return "this server runs without a model; start lucida serve without --no-model"
    if model.status == "loading":
        return "the model is still loading"
    if model.status == "failed":
        return model.message
    record = metadata.get("dictionary")
    record = record if isinstance(record, dict) else {}
    is_neurons = record.get("kind") == "neurons" or record.get("name") == "neurons"
    source = record.get("source") if isinstance(record.get("source"), dict) else {}
    theirs = "neurons" if is_neurons else str((source or {}).get("fingerprint") or "")
    traced = name_of(metadata.get("model"))
    if traced and traced != model.name:
        return f"this graph is of the model {one_line(traced)}, here is {model.name}: lucida serve --model {traced}"
    if not theirs:
        return "this graph does not say which features it was traced with, so an experiment could use the wrong ones"
    if theirs != fingerprint:
        name = one_line(record.get("name") or "other features")
        which = f"another version of {name}" if name == model.dictionaries else f"{name}, not {model.dictionaries}"
        return f"this graph was traced with {which}; start lucida serve with the same dictionaries"
    return ""


# --- nodes, paths, prunings ---------------------------------------------------------------------------


def found_nodes(
    graph: Graph, cumulative: np.ndarray, labels: dict[int, str], *, query: str, node_share: float, limit: int
) -> list[FoundNode]:
    """The nodes of the whole graph that match `query`, most influential first.

    A query is part of a label (`labels` are a reader's own), a token's text or a kind, or a feature as layer/feature.
    `cumulative` is that of `pruning.rank_nodes`.
    """
    table = graph.nodes
    always = table.is_kind("embedding", "logit", "bias")
    order = np.argsort(np.where(always, np.inf, cumulative), kind="stable")
    rank = np.empty(len(table), int)
    rank[order] = np.arange(len(table))
    wanted = " ".join(query.casefold().split())
    found = []
    for index in [*np.flatnonzero(always).tolist(), *order[: len(table) - int(always.sum())].tolist()]:
        label = labels.get(index) or table.label[index]
        if wanted and not _matches(wanted, graph, index, label):
            continue
        node = graph.node(index)
        is_always = bool(always[index])
        threshold = 0.0 if is_always else float(cumulative[index])
        why = "" if is_always else _why(node.influence, threshold, int(rank[index]), node_share)
        found.append(
            FoundNode(
                node=index,
                kind=node.kind,
                layer=node.layer,
                position=node.position,
                feature=node.feature,
                text=printable(node.text),
                label=printable(label),
                influence=node.influence,
                threshold=min(threshold, 1.0),
                why=why,
            )
        )
    # A feature that was asked for matters more than a token of the prompt that reads the same.
    found.sort(key=lambda one: (one.kind not in ("feature", "logit"), -abs(one.influence)))
    return found[:limit]


def _matches(wanted: str, graph: Graph, index: int, label: str) -> bool:
    table = graph.nodes
    kind = KINDS[table.kind[index]]
    place = f"l{table.layer[index]}/{table.feature[index]}" if kind == "feature" else f"{kind} l{table.layer[index]}"
    if wanted in (place, place[1:]):
        return True
    return wanted in label.casefold() or wanted in table.text[index].casefold() or wanted == kind


def _why(influence: float, threshold: float, rank: int, node_share: float) -> str:
    if influence == 0:
        return "it has no influence on the answer: no path of edges leads from it to there"
    if rank >= MOST_NODES:
        return f"it is number {rank + 1:,} by influence, and the page draws the strongest {MOST_NODES:,}"
    if threshold > node_share:
        return f"it comes into view when nodes with {min(1.0, threshold):.1%} of the influence are shown"
    return ""


def paths_of(graph: Graph, count: int, through: int | None) -> list[StrongPath]:
    """The strongest paths from the prompt to the answer, through a node if one is given.

    Without one, paths that pass a feature: straight edges into the answer stand in its list of inputs.
    """
    found = strongest_paths(graph, count, through=through, direct=through is not None)
    return [
        StrongPath(
            steps=[
                PathStep(node=node.index, weight=float(weight) if weight is not None else None)
                for node, weight in zip(path.nodes, [*path.weights, None], strict=True)
            ],
            share=path.share,
        )
        for path in found
    ]


def pruned_scores(graph: Graph, nodes: float, edges: float) -> PrunedScores:
    """What a pruning leaves and how much of the answer that explains."""
    small = graph.prune(nodes, edges)
    after = small.metadata["pruning"]["after"]
    return PrunedScores(nodes=after["nodes"], edges=after["edges"], scores=scores_of(small.scores()))


def check_nodes(n_nodes: int, nodes: list[int]) -> None:
    """Raise GraphError, naming the first, when nodes are not in a graph of so many."""
    gone = next((node for node in nodes if not 0 <= node < n_nodes), None)
    if gone is not None:
        raise GraphError(f"node {gone} is not in this graph of {n_nodes:,} nodes; load the page again")
