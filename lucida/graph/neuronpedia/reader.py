"""Read attribution-graph JSON: ours without loss, anyone else's as far as it says."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from jaxtyping import Float32

from lucida.errors import GraphError
from lucida.graph.graph import KINDS, Graph, NodeTable
from lucida.graph.influence import influence
from lucida.graph.neuronpedia.names import KINDS_OF_TYPES, cantor_unpair, node_ids, undisplayed
from lucida.prompt import Prompt

MOST_NODES = 1_000_000
MOST_EDGE_BYTES = 4 * 2**30
"""Above this the edge matrix would not fit in the memory of a usual machine."""
FLOAT32_END = 2.0**128 - 2.0**103
"""From here on a number rounds to infinity in float32."""


@dataclass(frozen=True)
class _Entry:
    """One node as read; whole numbers that do not apply are -1, other numbers NaN."""

    id: str
    kind: str
    layer: int = -1
    position: int = -1
    feature: int = -1
    token: int = -1
    activation: float = math.nan
    influence: float = math.nan
    probability: float = math.nan
    text: str = ""
    label: str = ""
    has_inputs: bool = False


def read_neuronpedia(path: str | Path) -> Graph:
    """Read attribution-graph JSON, of Neuronpedia, circuit-tracer or this library.

    A file of ours gives back the same graph. In a file of others the influence is computed anew from
    the edges (the file holds only cumulative shares), without a `schema_version` the feature number
    comes from the node id, and pins and supernodes are kept in ``metadata["neuronpedia"]`` with our
    node ids.

    Raises GraphError, naming what is wrong, for a file that is no such JSON.
    """
    document = _parse(Path(path))
    about = _get(document, "metadata", dict, "the file")
    nodes = _get(document, "nodes", list, "the file")
    if len(nodes) > MOST_NODES:
        raise GraphError(f"{path} has {len(nodes):,} nodes, more than {MOST_NODES:,}: prune it first")
    if not all(isinstance(node, dict) for node in nodes):
        raise GraphError(f"'nodes' of {path} must be a list of objects")
    ours = about.get("lucida") if all("lucida" in node for node in nodes) else None
    prompt_text = _get(about, "prompt", str, "metadata")
    strings = tuple(undisplayed(token, prompt_text) for token in _texts(about, "prompt_tokens", "metadata"))
    if ours is None:
        cantor = about.get("schema_version") == 1
        entries = [_foreign_entry(node, strings, cantor) for node in nodes]
    else:
        entries = [_own_entry(node, len(strings)) for node in nodes]
    entries = _ordered(entries, is_ours=ours is not None)
    edges = _edges(entries, _get(document, "links", list, "the file"), is_ours=ours is not None)
    prompt = _prompt(entries, strings, prompt_text) if ours is None else _own_prompt(about)
    graph = _assemble(entries, edges, prompt)
    details = _parameters(document, about, dict(zip([e.id for e in entries], node_ids(graph), strict=True)))
    if ours is not None:
        metadata = _get(ours, "metadata", dict, "metadata.lucida")
        changed = any(details[key] for key in ("pinnedIds", "supernodes")) or "neuronpedia" in metadata
        return replace(graph, metadata=metadata | ({"neuronpedia": details} if changed else {}))
    return _completed(graph, details)


def _parse(path: Path) -> dict[str, Any]:
    def refuse(constant: str) -> NoReturn:
        raise GraphError(f"{path} holds {constant}, which is not a number: export it again")

    try:
        document = json.loads(path.read_bytes(), parse_constant=refuse)
    except OSError as error:
        raise GraphError(f"cannot read {path}: {error.strerror}") from error
    except GraphError:
        raise
    except (ValueError, RecursionError) as error:
        raise GraphError(f"{path} is not JSON ({_short(str(error))}): is it truncated?") from error
    if not isinstance(document, dict):
        raise GraphError(f"{path} is not an attribution graph: it holds no object with nodes and links")
    return document


def _short(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    text = " ".join(text.encode("utf-8", "replace").decode().split())
    return text if len(text) <= 60 else text[:57] + "..."


_NAMES = {dict: "an object", list: "a list", str: "a text", int: "a whole number", float: "a number"}


def _get(mapping: Mapping[str, Any], key: str, kind: type, where: str, default: Any = ...) -> Any:
    """The value of a key, of the given type; null and a missing key give the default, if there is one."""
    if mapping.get(key) is None and default is not ...:
        return default
    if key not in mapping:
        raise GraphError(f"{where} has no {key!r}: this is not a complete attribution graph")
    value = mapping[key]
    fits = isinstance(value, kind) if kind is not float else isinstance(value, int | float)
    if not fits or (kind in (int, float) and isinstance(value, bool)):
        raise GraphError(f"{key!r} of {where} must be {_NAMES[kind]}, found {_short(value)}")
    if kind is int and not -(2**63) <= value < 2**63:
        raise GraphError(f"{key!r} of {where} is too large: {_short(value)}")
    if kind is float and not abs(value) < FLOAT32_END:
        raise GraphError(f"{key!r} of {where} is no finite float32: {_short(value)}")
    return value


def _texts(mapping: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    values = _get(mapping, key, list, where)
    if not all(isinstance(value, str) for value in values):
        raise GraphError(f"{key!r} of {where} must be a list of texts")
    return tuple(values)


def _foreign_entry(node: dict[str, Any], strings: tuple[str, ...], cantor: bool) -> _Entry:
    name = _get(node, "node_id", str, "a node")
    where = f"node {_short(name)!r}"
    type_name = _get(node, "feature_type", str, where)
    if type_name not in KINDS_OF_TYPES:
        known = ", ".join(KINDS_OF_TYPES)
        raise GraphError(f"{where} is of feature_type {_short(type_name)!r}; what can be read is {known}")
    kind = KINDS_OF_TYPES[type_name]
    entry = _Entry(
        id=name,
        kind=kind,
        layer=-1 if kind in ("embedding", "bias") else _layer(node, where),
        position=-1 if kind == "bias" else _position(_get(node, "ctx_idx", int, where), where, len(strings)),
        activation=float(_get(node, "activation", float, where, math.nan)),
    )
    clerp = _get(node, "clerp", str, where, "")
    if kind == "feature":
        feature = _feature(node, name, entry.layer, cantor, where)
        return replace(entry, feature=feature, token=-1, text=strings[entry.position], label=clerp)
    if kind == "logit":
        return _logit(entry, node, clerp, where)
    if kind == "embedding":
        found = re.fullmatch(r"E_(\d{1,18})_\d+", name)
        return replace(entry, token=int(found[1]) if found else -1, text=strings[entry.position])
    return replace(entry, activation=math.nan)


def _own_entry(node: dict[str, Any], length: int) -> _Entry:
    name = _get(node, "node_id", str, "a node")
    where = f"node {_short(name)!r}"
    ours = _get(node, "lucida", dict, where)
    kind = _get(ours, "kind", str, where)
    if kind not in KINDS:
        raise GraphError(f"{where} is of kind {_short(kind)!r}; kinds are {', '.join(KINDS)}")
    label = _get(ours, "label", str, where, "")
    position = _get(ours, "position", int, where, -1)
    return _Entry(
        id=name,
        kind=kind,
        layer=_within_int32(_get(ours, "layer", int, where, -1), where),
        position=position if position == -1 else _position(position, where, length),
        feature=_get(ours, "feature", int, where, -1),
        token=_get(ours, "token", int, where, -1),
        activation=_get(ours, "activation", float, where, math.nan),
        influence=_get(ours, "influence", float, where),
        probability=_get(ours, "probability", float, where, math.nan),
        text=_get(ours, "text", str, where, ""),
        # A label may have been mended in the front end: what is shown wins.
        label=_get(node, "clerp", str, where, "") if kind == "feature" else label,
        has_inputs=ours.get("target") is True,
    )


def _layer(node: dict[str, Any], where: str) -> int:
    value = node.get("layer")
    if isinstance(value, str) and re.fullmatch(r"\d{1,9}", value):
        value = int(value)
    layer = _get({"layer": value} if "layer" in node else {}, "layer", int, where)
    return _within_int32(layer, where)


def _within_int32(layer: int, where: str) -> int:
    if not -1 <= layer < 2**31 - 1:
        raise GraphError(f"'layer' of {where} is not the number of a layer: {layer}")
    return layer


def _position(position: int, where: str, length: int) -> int:
    if not 0 <= position < length:
        raise GraphError(f"{where} stands at position {position}, but the prompt has {length} tokens")
    return position


def _feature(node: dict[str, Any], name: str, layer: int, cantor: bool, where: str) -> int:
    if cantor:
        number = _get(node, "feature", int, where)
        found = cantor_unpair(number) if number >= 0 else None
        if found is None or found.layer != layer:
            raise GraphError(f"'feature' of {where} is {number}, which is no feature of layer {layer}")
        return found.feature
    # Before schema version 1 every model had its own numbering; node ids did not change.
    in_name = re.fullmatch(r"\d+_(\d{1,18})_\d+", name)
    feature = int(in_name[1]) if in_name else _get(node, "feature", int, where)
    if feature < 0:
        raise GraphError(f"'feature' of {where} is {feature}; feature numbers start at 0")
    return feature


def _logit(entry: _Entry, node: dict[str, Any], clerp: str, where: str) -> _Entry:
    shown = re.fullmatch(r'Output "(.*)" \(p=([^()]*)\)', clerp, re.DOTALL)
    probability = _get(node, "token_prob", float, where, math.nan)
    if math.isnan(probability) and shown:
        try:
            probability = float(shown[2])
        except ValueError:
            probability = math.nan
    if not probability >= 0:
        raise GraphError(f"{where} has no probability: 'token_prob' is {probability}")
    token = _get(node, "feature", int, where, -1)
    text = shown[1] if shown else clerp
    return replace(entry, token=max(token, -1), text=text, probability=probability, activation=math.nan)


def _ordered(entries: list[_Entry], *, is_ours: bool) -> list[_Entry]:
    """The entries in the order of a graph; features and embeddings know the token they stand on."""
    logits = [entry for entry in entries if entry.kind == "logit"]
    if not logits:
        raise GraphError("no node is a logit: there is no answer to explain")
    n_layers = min(entry.layer for entry in logits)
    if not is_ours:
        # Most files number logits one layer above the layer that follows the last.
        inner = [entry.layer for entry in entries if entry.kind not in ("logit", "embedding", "bias")]
        n_layers = max(n_layers - 1, max(inner, default=-1) + 1)
    tokens = {entry.position: entry.token for entry in entries if entry.kind == "embedding"}

    def rank(entry: _Entry) -> tuple[int, ...]:
        place = (entry.layer, entry.position, entry.feature)
        return (KINDS.index(entry.kind), *(place if entry.kind != "logit" else (0, 0, 0)))

    done = []
    for entry in sorted(entries, key=rank):
        if entry.kind == "logit":
            entry = replace(entry, layer=n_layers)
        elif entry.kind == "feature" and entry.token < 0:
            entry = replace(entry, token=tokens.get(entry.position, -1))
        done.append(entry)
    return done


@dataclass(frozen=True)
class _Edges:
    targets: np.ndarray
    matrix: Float32[np.ndarray, "target node"]


def _edges(entries: list[_Entry], links: list[Any], *, is_ours: bool) -> _Edges:
    places: dict[str, int] = {}
    for index, entry in enumerate(entries):
        if places.setdefault(entry.id, index) != index:
            raise GraphError(
                f"node id {_short(entry.id)!r} stands for two nodes, so its links cannot be told apart"
                " (a known fault of circuit-tracer's error ids)"
            )
    targets = [i for i, e in enumerate(entries) if (e.has_inputs if is_ours else e.kind in ("feature", "logit"))]
    if 4 * len(targets) * len(entries) > MOST_EDGE_BYTES:
        raise GraphError(f"a graph of {len(entries):,} nodes does not fit in memory: prune it before reading")
    rows = {target: row for row, target in enumerate(targets)}
    matrix = np.zeros((len(targets), len(entries)), np.float32)
    seen = np.zeros(matrix.shape, bool)
    for link in links:
        if not isinstance(link, dict):
            raise GraphError(f"a link must be an object, found {_short(link)}")
        names = [_get(link, key, str, "a link") for key in ("source", "target")]
        where = f"the link {_short(names[0])!r} -> {_short(names[1])!r}"
        for name in names:
            if name not in places:
                raise GraphError(f"{where} names a node that is not in the file: {_short(name)!r}")
        source, target = (places[name] for name in names)
        if target not in rows:
            raise GraphError(f"{where} ends at a node of kind {entries[target].kind}, which has no inputs")
        if entries[source].layer >= entries[target].layer:
            raise GraphError(f"{where} does not lead to a higher layer: the graph would have a cycle")
        if seen[rows[target], source]:
            raise GraphError(f"{where} is in the file twice")
        seen[rows[target], source] = True
        matrix[rows[target], source] = _get(link, "weight", float, where)
    return _Edges(np.array(targets, np.int64), matrix)


def _assemble(entries: list[_Entry], edges: _Edges, prompt: Prompt) -> Graph:
    def column(name: str, kind: Any) -> np.ndarray:
        return np.array([getattr(entry, name) for entry in entries], dtype=kind)

    table = NodeTable(
        kind=np.array([KINDS.index(entry.kind) for entry in entries], np.int8),
        layer=column("layer", np.int32),
        position=column("position", np.int32),
        feature=column("feature", np.int64),
        token=column("token", np.int64),
        activation=column("activation", np.float32),
        influence=column("influence", np.float32),
        probability=column("probability", np.float32),
        text=tuple(entry.text for entry in entries),
        label=tuple(entry.label for entry in entries),
    )
    return Graph(nodes=table, edges=edges.matrix, targets=edges.targets, prompt=prompt)


def _own_prompt(about: dict[str, Any]) -> Prompt:
    prompt = _get(_get(about, "lucida", dict, "metadata"), "prompt", dict, "metadata.lucida")
    where = "metadata.lucida.prompt"
    tokens, strings = _get(prompt, "tokens", list, where), _texts(prompt, "strings", where)
    if not all(isinstance(token, int) for token in tokens) or len(tokens) != len(strings):
        raise GraphError(f"'tokens' of {where} must be whole numbers, one for each of 'strings'")
    return Prompt(tuple(tokens), strings, _get(prompt, "text", str, where))


def _prompt(entries: list[_Entry], strings: tuple[str, ...], text: str) -> Prompt:
    tokens = {entry.position: entry.token for entry in entries if entry.kind == "embedding"}
    return Prompt(tuple(tokens.get(place, -1) for place in range(len(strings))), strings, text)


def _parameters(document: dict[str, Any], about: dict[str, Any], ids: dict[str, str]) -> dict[str, Any]:
    """What the front end keeps beside the graph; a server's save turns its lists into texts."""
    given = _get(document, "qParams", dict, "the file", {})
    pinned = given.get("pinnedIds") or []
    if isinstance(pinned, str):
        pinned = [name for name in pinned.split(",") if name]
    groups = given.get("supernodes") or []
    if isinstance(groups, str):
        try:
            groups = json.loads(groups)
        except (ValueError, RecursionError) as error:
            raise GraphError(f"'supernodes' of qParams is not JSON: {_short(groups)}") from error
    fits = isinstance(groups, list) and all(isinstance(group, list) for group in groups)
    if not fits or not isinstance(pinned, list) or not all(isinstance(n, str) for g in [pinned, *groups] for n in g):
        raise GraphError("'pinnedIds' of qParams must be a list of texts, 'supernodes' a list of such lists")
    kept = {
        "slug": _get(about, "slug", str, "metadata"),
        "scan": _get(about, "scan", str, "metadata"),
        "pinnedIds": [ids.get(name, name) for name in pinned],
        "supernodes": [[*group[:1], *(ids.get(name, name) for name in group[1:])] for group in groups],
    }
    return kept | {key: given[key] for key in ("sg_pos", "clerps", "pruningThreshold") if given.get(key)}


def _completed(graph: Graph, details: dict[str, Any]) -> Graph:
    """A graph from elsewhere with the metadata and the influence that ours carry."""
    logits = graph.nodes.is_kind("logit")
    metadata = {
        "model": details["scan"],
        "measure": "influence",
        "target_weights": [float(p) for p in graph.nodes.probability[logits]],
        "n_layers": int(graph.nodes.layer[logits][0]),
        "provenance": "read from attribution-graph JSON",
        "neuronpedia": details,
    }
    graph = replace(graph, metadata=metadata)
    shares = influence(graph).astype(np.float32)
    return replace(graph, nodes=replace(graph.nodes, influence=shares))
