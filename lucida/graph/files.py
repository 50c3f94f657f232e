"""One graph in one `.safetensors` file; `docs/graph-format.md` is the specification."""

import json
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from lucida.atomic import replacing
from lucida.errors import GraphError
from lucida.graph.graph import COLUMNS, KINDS, Graph, NodeTable
from lucida.prompt import Prompt

SCHEMA_VERSION = 1
METADATA_KEY = "lucida_graph"
# The safetensors library refuses headers above 100 MB; JSON in a header is escaped once more.
LARGEST_HEADER = 50_000_000
EDGE_TENSORS = {
    "targets": np.int64,
    "edge_offsets": np.int64,
    "edge_sources": np.int32,
    "edge_weights": np.float32,
}


def save(graph: Graph, path: str | PathLike[str]) -> None:
    """Write a graph to one file, exactly: loading gives the same nodes, edges and metadata to the bit.

    The same graph always gives the same bytes. The file is replaced whole or not at all.

    Raises GraphError when the graph breaks a rule of the format (an edge that is not finite,
    metadata that is not JSON), SaveError when the file cannot be written.
    """
    from safetensors.numpy import save as serialise

    sources = [np.flatnonzero(row) for row in graph.edges]
    rows = zip(graph.edges, sources, strict=True)
    tensors = {
        "targets": graph.targets,
        "edge_offsets": np.cumsum([0, *(len(s) for s in sources)], dtype=np.int64),
        "edge_sources": np.concatenate([np.zeros(0, np.int32), *(s.astype(np.int32) for s in sources)]),
        "edge_weights": np.concatenate([np.zeros(0, np.float32), *(row[s] for row, s in rows)]),
        **{name: getattr(graph.nodes, name) for name in COLUMNS},
    }
    document = {
        "schema_version": SCHEMA_VERSION,
        "prompt": {
            "tokens": list(graph.prompt.tokens),
            "strings": list(graph.prompt.strings),
            "text": graph.prompt.text,
        },
        "text": list(graph.nodes.text),
        "label": list(graph.nodes.label),
        "metadata": graph.metadata,
    }
    _check(tensors, document, f"the graph for {path}")
    header = _json(document)
    if len(header) > LARGEST_HEADER:
        tensors["json"] = np.frombuffer(header.encode(), np.uint8)
        header = _json({"schema_version": SCHEMA_VERSION})
    data = serialise(tensors, metadata={METADATA_KEY: header})
    with replacing(Path(path)) as temporary:
        temporary.write_bytes(data)


def _json(document: dict[str, Any]) -> str:
    try:
        # Escaped to ASCII, so that half a surrogate pair in a token's text survives.
        return json.dumps(document, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise GraphError(f"the graph's metadata cannot be saved as JSON: {error}") from error


def load(path: str | PathLike[str]) -> Graph:
    """Read a graph that `save` wrote. Reading runs no code from the file.

    Raises GraphError when the file is missing, truncated, no graph, of a newer version or breaks a
    rule of the format.
    """
    tensors, document = _read(Path(path))
    _check(tensors, document, str(path))
    offsets, sources, weights = (tensors[name] for name in ("edge_offsets", "edge_sources", "edge_weights"))
    try:
        edges = np.zeros((len(tensors["targets"]), len(tensors["kind"])), np.float32)
    except MemoryError as error:
        shape = f"{len(tensors['targets'])} x {len(tensors['kind'])}"
        raise GraphError(f"{path}: no memory for {shape} edges; prune it on a larger machine") from error
    for row, (first, last) in enumerate(pairwise(offsets)):
        edges[row, sources[first:last]] = weights[first:last]
    prompt = document["prompt"]
    return Graph(
        nodes=NodeTable(
            **{name: tensors[name] for name in COLUMNS},
            text=tuple(document["text"]),
            label=tuple(document["label"]),
        ),
        edges=edges,
        targets=tensors["targets"],
        prompt=Prompt(tuple(prompt["tokens"]), tuple(prompt["strings"]), prompt["text"]),
        metadata=document["metadata"],
    )


def _read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The tensors and the JSON document of a graph file of a version that we know."""
    from safetensors import SafetensorError
    from safetensors.numpy import load as deserialise

    if path.is_dir():
        raise GraphError(f"{path} is a folder, not a graph file; name the .safetensors file in it")
    try:
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise GraphError(f"no graph file {path}; write one with `lucida trace`") from error
    except OSError as error:
        raise GraphError(f"cannot read {path}: {error.strerror}") from error
    try:
        tensors = deserialise(data)
        length = int.from_bytes(data[:8], "little")
        header = json.loads(data[8 : 8 + length]).get("__metadata__") or {}
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise GraphError(f"{path} is not a graph file, or is cut off ({reason}); trace again") from error
    if METADATA_KEY not in header:
        raise GraphError(f"{path} holds no graph; name a file that `lucida trace` wrote")
    document = _parsed(header[METADATA_KEY], path)
    version = document.get("schema_version")
    if version != SCHEMA_VERSION:
        raise GraphError(f"{path} has graph version {version!r}, this program reads {SCHEMA_VERSION}; update lucida")
    return tensors, _parsed(tensors["json"].tobytes(), path) if "json" in tensors else document


def _parsed(text: str | bytes, path: Path) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise GraphError(f"{path} is damaged: its description is not JSON ({error}); trace again") from error
    return document if isinstance(document, dict) else {}


def _check(tensors: dict[str, np.ndarray], document: dict[str, Any], what: str) -> None:
    """Raise GraphError unless every MUST of the specification holds."""

    def must(holds: Any, problem: str) -> None:
        if not holds:
            raise GraphError(f"{what} is damaged: {problem}; trace again")

    for name, dtype in {**EDGE_TENSORS, **COLUMNS}.items():
        tensor = tensors.get(name)
        must(tensor is not None, f"it has no {name}")
        assert tensor is not None
        must(tensor.dtype == dtype, f"{name} has type {tensor.dtype}, not {np.dtype(dtype)}")
        must(tensor.ndim == 1, f"{name} has shape {tensor.shape}, not one axis")
    nodes = len(tensors["kind"])
    must(all(len(tensors[name]) == nodes for name in COLUMNS), "its node columns differ in length")
    _check_document(document, nodes, must)
    _check_edges(tensors, nodes, must)
    _check_nodes(tensors, document, must)


def _check_document(document: dict[str, Any], nodes: int, must: Any) -> None:
    must(isinstance(document.get("metadata"), dict), "it has no metadata")
    prompt = document.get("prompt")
    prompt = prompt if isinstance(prompt, dict) else {}
    tokens, strings = prompt.get("tokens"), prompt.get("strings")
    must(_list_of(tokens, int) and _list_of(strings, str), "it has no prompt")
    must(len(tokens or ()) == len(strings or ()), "its prompt does not have one string for each token")
    must(isinstance(prompt.get("text"), str), "its prompt has no text")
    for name in ("text", "label"):
        texts = document.get(name)
        must(_list_of(texts, str) and len(texts or ()) == nodes, f"it does not have one {name} for each node")


def _list_of(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(type(entry) is kind for entry in value)


def _check_nodes(tensors: dict[str, np.ndarray], document: dict[str, Any], must: Any) -> None:
    kind, position = tensors["kind"], tensors["position"]
    must(((kind >= 0) & (kind < len(KINDS))).all(), "it has nodes of an unknown kind")
    must((np.diff(kind) >= 0).all(), "its nodes are not in the order of their kinds")
    must((position < len(document["prompt"]["tokens"])).all(), "it has nodes beyond the prompt")
    active = tensors["activation"][kind == KINDS.index("feature")]
    must(np.isfinite(active).all(), "it has features whose activation is not a number")
    must(np.isfinite(tensors["influence"]).all(), "it has influences that are not numbers")
    logits = int((kind == KINDS.index("logit")).sum())
    for name in ("target_weights", "target_values"):
        values = document["metadata"].get(name)
        whole = isinstance(values, list | tuple) and len(values) == logits
        must(values is None or whole, f"it does not have one of {name} for each logit")


def _check_edges(tensors: dict[str, np.ndarray], nodes: int, must: Any) -> None:
    targets, offsets = tensors["targets"], tensors["edge_offsets"]
    sources, weights = tensors["edge_sources"], tensors["edge_weights"]
    in_range = len(targets) == 0 or (targets[0] >= 0 and targets[-1] < nodes)
    must(in_range and (np.diff(targets) > 0).all(), "its targets are not ascending nodes")
    must(len(offsets) == len(targets) + 1, "it does not have one edge offset for each target")
    whole = offsets[0] == 0 and offsets[-1] == len(sources) == len(weights)
    must(whole and (np.diff(offsets) >= 0).all(), "its edge offsets are out of range")
    must(
        len(sources) == 0 or (sources.min() >= 0 and sources.max() < nodes),
        "its edge sources are out of range",
    )
    # Sources ascend inside a row; where a new row begins they may fall.
    ascending = np.diff(sources) > 0
    begins = offsets[1:-1]
    ascending[begins[(begins > 0) & (begins < len(sources))] - 1] = True
    must(ascending.all(), "its edge sources do not ascend")
    must(np.isfinite(weights).all(), "it has edges that are not finite")
    must((weights != 0).all(), "it stores edges of weight zero")
    layer = tensors["layer"]
    into = np.repeat(layer[targets], np.diff(offsets))
    must((layer[sources] < into).all(), "it has an edge that does not come from a lower layer")
