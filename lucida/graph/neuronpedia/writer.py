"""Write a graph as attribution-graph JSON, for Neuronpedia and the circuit-tracer front end."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata as distributions
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from lucida.atomic import replacing
from lucida.errors import GraphError
from lucida.graph.graph import KINDS, Graph
from lucida.graph.neuronpedia.names import (
    FEATURE_TYPES,
    LARGEST_EXACT,
    cantor_pair,
    displayed,
    logit_tokens,
    node_ids,
)

UPLOAD_LIMIT = 100 * 2**20
"""The largest file, in bytes, that Neuronpedia takes."""

_NAME = re.compile(r"[A-Za-z0-9_.-]+")


@dataclass(frozen=True)
class NeuronpediaExport:
    """What was written: the file, its size in bytes, and what a reader of it should be told."""

    path: Path
    size: int
    nodes: int
    links: int
    warnings: tuple[str, ...]


def write_neuronpedia(
    graph: Graph,
    path: str | Path,
    *,
    slug: str,
    scan: str,
    source_set: str | None = None,
    feature_url: str | None = None,
    node_threshold: float = 1.0,
    description: str = "",
    pinned: Sequence[str] = (),
    supernodes: Sequence[Sequence[str]] = (),
    size_limit: int | None = None,
) -> NeuronpediaExport:
    """Write the graph as attribution-graph JSON (schema version 1) and return what was written.

    `slug` names the graph and `scan` the model as Neuronpedia knows it. `source_set` is
    Neuronpedia's name of the dictionary; `feature_url` a folder of feature files that a browser can
    reach. `node_threshold` is where the pruning slider starts: 1 shows every node in the file.
    `pinned` holds node ids (see `node_ids`), `supernodes` lists of a label and node ids; without
    them those of a graph that was read from such a file are kept. A file above `size_limit` bytes
    is refused, if given.

    Every node and every edge other than 0 is written. Our own fields stand under the key "lucida",
    so that `read_neuronpedia` gives back the same graph. docs/interchange.md has the details.

    Raises GraphError for what the format cannot hold, SaveError when the file cannot be written.
    """
    _check_name("slug", slug)
    _check_name("scan", scan)
    _check_loadable(graph)
    ids = node_ids(graph)
    kept = graph.metadata.get("neuronpedia", {})
    head = {
        "metadata": _metadata(graph, slug, scan, source_set, feature_url, node_threshold, description),
        "qParams": {
            "pinnedIds": list(pinned or kept.get("pinnedIds", [])),
            "supernodes": [list(group) for group in supernodes or kept.get("supernodes", [])],
            "linkType": "both",
            "clickedId": "",
            "sg_pos": kept.get("sg_pos", ""),
        },
    }
    size = 0
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        for piece in _pieces(graph, head, ids):
            size += len(piece)  # ASCII only
            if size_limit is not None and size > size_limit:
                raise GraphError(f"the JSON of these {len(ids)} nodes is larger than {size_limit:,} bytes: prune more")
            file.write(piece)
    links = int(np.count_nonzero(graph.edges))
    return NeuronpediaExport(Path(path), size, len(ids), links, _warnings(graph, size))


def _check_name(what: str, name: str) -> None:
    if not _NAME.fullmatch(name):
        raise GraphError(f"{what} {name!r} may hold only letters, digits, '.', '_' and '-'")


def _check_loadable(graph: Graph) -> None:
    """Refuse what would be written well and then fail in the browser."""
    table = graph.nodes
    if not table.is_kind("logit").any():
        raise GraphError("a graph without a logit node cannot be shown: keep at least one")
    inner = table.layer[table.is_kind("feature", "error", "unexpanded")]
    if not inner.size or inner.max() < 1:
        raise GraphError("Neuronpedia cannot load a graph with no node above layer 0: prune less")
    if not np.isfinite(graph.edges).all() or not np.isfinite(table.influence).all():
        raise GraphError("this graph holds numbers that are not finite: trace it again in float32")
    features = table.is_kind("feature")
    if features.any():
        layer, feature = int(table.layer[features].max()), int(table.feature[features].max())
        if cantor_pair(layer, feature) > LARGEST_EXACT:
            raise GraphError(f"feature numbers up to {feature} are too large for a browser to hold exactly")


def _metadata(
    graph: Graph,
    slug: str,
    scan: str,
    source_set: str | None,
    feature_url: str | None,
    node_threshold: float,
    description: str,
) -> dict[str, Any]:
    details = {"feature_json_base_url": feature_url, "neuronpedia_source_set": source_set}
    info = {
        "description": description,
        "generator": {"name": "Camera Lucida", "version": _version()},
        # Neuronpedia files a graph by this one and shows it by the one in feature_details.
        "neuronpedia_source_set": source_set,
    }
    prompt = graph.prompt
    fields = {
        "slug": slug,
        "scan": scan,
        "transcoder_list": [],
        "prompt_tokens": [displayed(token) for token in prompt.strings],
        "prompt": prompt.text or " ".join(prompt.strings),
        "node_threshold": node_threshold,
        "schema_version": 1,
        "info": {key: value for key, value in info.items() if value},
        "lucida": {
            "format": 1,
            "prompt": {"tokens": prompt.tokens, "strings": prompt.strings, "text": prompt.text},
            "metadata": graph.metadata,
        },
    }
    if known := {key: value for key, value in details.items() if value}:
        fields["feature_details"] = known
    if isinstance(settings := graph.metadata.get("settings"), Mapping):
        fields["generation_settings"] = settings
    if isinstance(pruning := graph.metadata.get("pruning"), Mapping):
        fields["pruning_settings"] = {"node_threshold": pruning["nodes"], "edge_threshold": pruning["edges"]}
    return fields


def _version() -> str:
    try:
        return distributions.version("camera-lucida")
    except distributions.PackageNotFoundError:
        return "not installed"


def _pieces(graph: Graph, head: dict[str, Any], ids: list[str]) -> Iterator[str]:
    """The file piece by piece: a graph of many edges never stands in memory as text."""
    yield _encode(head)[:-1] + ',"nodes":['
    shares = cumulative_shares(graph)
    tokens = logit_tokens(graph.nodes)
    targets = set(graph.targets.tolist())
    first = min(tokens)
    for index, name in enumerate(ids):
        node = _node(graph, index, name, tokens.get(index))
        node["influence"] = None if index in tokens else float(shares[index])
        node["is_target_logit"] = index == first
        node["lucida"]["target"] = index in targets
        yield (",\n" if index else "\n") + _encode(node)
    yield '\n],"links":['
    separator = "\n"
    for target, row in zip(graph.targets.tolist(), graph.edges, strict=True):
        sources = np.flatnonzero(row).tolist()
        # float32's own shortest text: half the size, and it reads back to the same float32.
        weights = [float(text) for text in row[sources].astype(str)]
        if sources:
            links = [
                {"source": ids[source], "target": ids[target], "weight": weight}
                for source, weight in zip(sources, weights, strict=True)
            ]
            yield separator + _encode(links)[1:-1]
            separator = ",\n"
    yield "\n]}\n"


def _encode(value: Any) -> str:
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise GraphError(f"the metadata of this graph cannot be written as JSON: {error}") from error


def _node(graph: Graph, index: int, name: str, logit_token: int | None) -> dict[str, Any]:
    node = graph.node(index)
    ours = {
        key: getattr(node, key)
        for key in ("kind", "layer", "position", "feature", "token", "activation", "influence", "probability")
        if getattr(node, key) is not None
    } | {key: getattr(node, key) for key in ("text", "label") if getattr(node, key)}
    level = "E" if node.layer is None else str(node.layer)
    number, inner = None, "bias"
    probability = 0.0
    if node.kind == "feature":
        assert node.layer is not None
        assert node.feature is not None
        number, inner = cantor_pair(node.layer, node.feature), str(node.feature)
    elif node.kind == "embedding":
        number, inner = node.position, str(node.token)
    elif node.kind == "logit":
        assert node.layer is not None
        number, inner, level = logit_token, str(logit_token), str(node.layer + 1)
        probability = _weight(graph, index)
    elif node.kind in ("error", "unexpanded"):
        inner = node.kind
    return {
        "node_id": name,
        "feature": number,
        "layer": level,
        "ctx_idx": node.position or 0,
        "feature_type": FEATURE_TYPES[node.kind],
        "token_prob": probability,
        "run_idx": 0,
        "reverse_ctx_idx": 0,
        "jsNodeId": f"{'L' if node.kind == 'logit' else level}_{inner}-"
        + (str(node.position) if node.kind in ("embedding", "logit") else "0"),
        "clerp": _clerp(graph, index, probability),
        "activation": node.activation,
        "lucida": ours,
    }


def _weight(graph: Graph, index: int) -> float:
    """How much a logit counts in the scores: its probability, or the weight of a difference."""
    probability = float(graph.nodes.probability[index])
    if not np.isnan(probability):
        return probability
    weights = graph.metadata.get("target_weights")
    logits = np.flatnonzero(graph.nodes.is_kind("logit")).tolist()
    return float(weights[logits.index(index)]) if weights and len(weights) == len(logits) else 1.0


def _clerp(graph: Graph, index: int, probability: float) -> str:
    table = graph.nodes
    kind = KINDS[table.kind[index]]
    if kind == "logit":
        # Front ends take the number after the first "(p=", so a token must not hold that itself.
        text = displayed(table.text[index]).replace("(p=", "(p =")
        number = f"{probability:.3f}" if probability >= 0.0005 else f"{probability:.1e}"
        return f'Output "{text}" (p={number})'
    if table.label[index]:
        return table.label[index]
    if kind == "embedding":
        return f'Emb: "{displayed(table.text[index])}"'
    return "" if kind == "feature" else kind


def cumulative_shares(graph: Graph) -> Float64[np.ndarray, " node"]:
    """For each node the share, in [0, 1], of all influence that it and the more influential ones hold.

    Low is important: a front end shows a node when this is at most its pruning threshold. Only the
    nodes in the graph count; signed attributions count by size. Bias nodes have no influence and
    always stay: 0.
    """
    influence = np.abs(graph.nodes.influence.astype(np.float64))
    influence[graph.nodes.is_kind("logit")] = 0.0
    order = np.argsort(-influence, kind="stable")
    total = influence.sum()
    shares = np.ones(len(influence))
    if total > 0:
        shares[order] = np.minimum(np.cumsum(influence[order]) / total, 1.0)
    shares[graph.nodes.is_kind("bias")] = 0.0
    return shares


def _warnings(graph: Graph, size: int) -> tuple[str, ...]:
    found = []
    if size > UPLOAD_LIMIT:
        found.append(f"{size / 2**20:.0f} MiB is more than Neuronpedia takes (100): prune more to upload")
    table = graph.nodes
    expected = int(table.layer[table.is_kind("logit")].max()) * len(graph.prompt)
    errors = int(table.is_kind("error").sum())
    if errors < expected and graph.metadata.get("measure") != "attribution":
        found.append(
            f"{expected - errors} of {expected} error nodes are not in this graph: "
            "Neuronpedia's scores will count only the others"
        )
    if table.is_kind("embedding").sum() < len(graph.prompt):
        found.append("not every prompt token has its node: Neuronpedia's scores will be too low")
    return tuple(found)
