"""Graph files as a server reads them: from strangers, so with bounds before anything is made of their numbers."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lucida.errors import GraphError, LucidaError
from lucida.graph import Graph
from lucida.graph.files import METADATA_KEY
from lucida.server.problems import one_line

logger = logging.getLogger(__name__)

LARGEST_HEADER = 100_000_000
LARGEST_EDGES = 4 * 2**30
"""Bytes of the edge matrix in memory, above which a graph is not opened."""
LARGEST_JSON = 100 * 2**20
"""Neuronpedia takes no larger files either."""
LONGEST_NAME = 80
"""Letters of a file's name that are said."""


def read_header(path: Path) -> dict[str, Any]:
    """The description of a graph file (prompt, text, label, metadata), read without its edges.

    Raises GraphError when the file is no graph file, or its edges would not fit in memory.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= LARGEST_HEADER:
                raise GraphError(f"{path.name} is not a graph file; give a file that lucida trace wrote")
            header = json.loads(file.read(length))
            described = header["__metadata__"][METADATA_KEY]
            document = json.loads(described)
            if "json" in header:
                first, last = header["json"]["data_offsets"]
                file.seek(8 + length + first)
                document = json.loads(file.read(min(last - first, 10 * LARGEST_HEADER)))
            _check(path, header, document)
    except FileNotFoundError as error:
        raise GraphError(f"no graph file {path}; write one with lucida trace") from error
    except OSError as error:
        raise GraphError(f"cannot read {path}: {error.strerror}") from error
    except GraphError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise GraphError(f"{path.name} is not a graph file, or is cut off ({one_line(error, 80)})") from error
    return document


def _check(path: Path, header: dict[str, Any], document: dict[str, Any]) -> None:
    rows, nodes = header["targets"]["shape"][0], header["kind"]["shape"][0]
    if 4 * rows * nodes > LARGEST_EDGES:
        size = 4 * rows * nodes / 2**30
        raise GraphError(f"{path.name} has {nodes:,} nodes: its edges take {size:,.0f} GiB; prune it with lucida prune")
    prompt, text, metadata = document["prompt"], document["text"], document["metadata"]
    is_described = isinstance(prompt, dict) and isinstance(text, list) and isinstance(metadata, dict)
    weights = metadata.get("target_weights") if is_described else None
    is_listed = weights is None or isinstance(weights, list)
    if (
        not is_described
        or not is_listed
        or not isinstance(prompt["text"], str)
        or not isinstance(prompt["tokens"], list)
    ):
        raise GraphError(f"{path.name} is damaged: its description is not that of a graph; trace again")


def read_foreign(path: Path) -> Graph:
    """The graph in a file of ours or in Neuronpedia or circuit-tracer JSON, told apart by how it begins.

    A file that is opened by its name may also be circuit-tracer's ``.pt``. Raises GraphError.
    """
    if path.suffix == ".pt":
        from lucida.graph.circuit_tracer import read_circuit_tracer

        return read_circuit_tracer(path)
    if not _is_json(path):
        read_header(path)
        return Graph.load(path)
    if path.stat().st_size > LARGEST_JSON:
        raise GraphError(f"JSON of more than {LARGEST_JSON // 2**20} MiB is not read; prune the graph and export again")
    from lucida.graph.neuronpedia import read_neuronpedia

    try:
        graph = read_neuronpedia(path)
        # What cannot be ranked cannot be shown: say so now.
        graph.scores()
    except (MemoryError, RecursionError, OverflowError) as error:
        raise GraphError(f"this graph cannot be read ({type(error).__name__}); prune it and export again") from error
    return graph


def _is_json(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            begin = file.read(64)
            size = path.stat().st_size
    except OSError as error:
        raise GraphError(f"cannot read {path}: {error.strerror}") from error
    # A file of ours begins with the length of its header; as such a length, text would be far beyond the file.
    is_ours = int.from_bytes(begin[:8], "little") <= size and begin[8:9] == b"{"
    return not is_ours and begin.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{"


@contextmanager
def showing(called: str) -> Iterator[None]:
    """Say in words, as a GraphError, that what a stranger wrote into the graph file `called` so cannot be shown."""
    try:
        yield
    except LucidaError:
        raise
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError) as error:
        # Of a healthy file this would be a bug of ours: the log says where.
        name = one_line(called, LONGEST_NAME)
        logger.warning("%s cannot be shown", name, exc_info=True)
        line = f"{name} is damaged: its description cannot be shown ({one_line(error, 80)})"
        raise GraphError(f"{line}; trace again") from error
