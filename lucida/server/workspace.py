"""The graphs that a server has: a folder of its own, and files opened where they lie.

A request names a graph by its id; which file that is stands in a table, which is made by listing the folder. Nothing
that comes from a request becomes part of a path.
"""

import hashlib
import json
import logging
import re
import secrets
import shutil
import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from lucida.atomic import replacing
from lucida.errors import GraphError, LucidaError
from lucida.features.index import FeatureIndex
from lucida.graph import Graph
from lucida.graph.view import view
from lucida.server.graph_file import LONGEST_NAME, read_foreign, read_header, showing
from lucida.server.graphs import detail, summary_of
from lucida.server.messages import GraphSummary, Notes
from lucida.server.notes import check_notes, imported_notes
from lucida.server.problems import Conflict, NotFound, one_line

logger = logging.getLogger(__name__)

GRAPH = ".graph.safetensors"
NOTES = ".notes.json"
OLD = 3600.0
"""Seconds after which nobody writes any more to what is half-written."""
MOST_GRAPHS = 50
MOST_BYTES = 5_000_000_000
MOST_LOADED = 4
MOST_LOADED_BYTES = 2_000_000_000
MOST_COMPUTED = 200
"""Answers that are remembered of one graph."""
NAME = re.compile(r"[0-9a-f]{12}")
T = TypeVar("T")


@dataclass
class _Loaded:
    """A graph in memory and what was computed from it; `stamp` says of which state of its file."""

    graph: Graph
    stamp: Any
    memo: dict[Any, Any] = field(default_factory=dict)
    locks: defaultdict[Any, threading.Lock] = field(default_factory=lambda: defaultdict(threading.Lock))


class Workspace:
    """Graphs by id, loaded when they are asked for; notes beside them. Its methods may be called from any thread.

    `index` and `dictionary_name` are those of the features that new graphs are traced with. Every method that takes
    an id raises NotFound for one that is not here.
    """

    def __init__(self, folder: Path, *, index: FeatureIndex | None = None, dictionary_name: str = "") -> None:
        self.folder = folder
        self.index, self.dictionary_name = index, dictionary_name
        self._files: dict[str, Path] = {}
        self._in_place: set[str] = set()
        self._headers: dict[str, tuple[Any, dict[str, Any]]] = {}
        self._loaded: OrderedDict[str, _Loaded] = OrderedDict()
        self._lock, self._loading = threading.RLock(), threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob(f"*{GRAPH}"):
            name = path.name.removesuffix(GRAPH)
            if NAME.fullmatch(name):
                self._files[name] = path

    # --- what is here -----------------------------------------------------------------------------

    def file(self, name: str) -> Path:
        """The file of a graph."""
        with self._lock:
            if name not in self._files:
                raise NotFound(f"there is no graph {name} here: it was deleted, or belongs to another lucida serve")
            return self._files[name]

    def header(self, name: str) -> dict[str, Any]:
        """Prompt, texts, labels and metadata of a graph, without its edges."""
        return self._described(name)[1]

    def _described(self, name: str) -> tuple[Any, dict[str, Any]]:
        """The state of a graph's file, and its header."""
        path = self.file(name)
        try:
            found = path.stat()
        except OSError as error:
            raise NotFound(f"the file of graph {name} is gone ({error.strerror})") from error
        stamp = (found.st_mtime_ns, found.st_size)
        known = self._headers.get(name)
        if known is None or known[0] != stamp:
            known = (stamp, read_header(path))
            self._headers[name] = known
        return known

    def summary(self, name: str) -> GraphSummary:
        """A graph in one row of a list."""
        described = self.header(name)
        with showing(self.file(name).name):
            return summary_of(name, described)

    def summaries(self) -> list[GraphSummary]:
        """All graphs, newest first; those whose file cannot be read are left out, with a line in the log."""
        found = []
        for name in self._by_age():
            try:
                found.append(self.summary(name))
            except LucidaError as error:
                logger.warning("left out of the list: %s", error)
        return found

    def _by_age(self) -> list[str]:
        with self._lock:
            files = dict(self._files)
        ages = {name: _modified(path) for name, path in files.items()}
        return sorted((name for name, age in ages.items() if age is not None), key=lambda name: -(ages[name] or 0))

    # --- graphs in memory -------------------------------------------------------------------------

    def graph(self, name: str) -> Graph:
        """The graph, from memory or from its file."""
        return self._load(name).graph

    def computed(self, name: str, key: Any, compute: Callable[[Graph], T]) -> T:
        """What `compute` makes of a graph, remembered as long as the graph is in memory."""
        entry = self._load(name)
        with self._lock:
            lock = entry.locks[key]
        # Two pages that ask for the same wait for one answer; other questions go on beside it.
        with lock:
            if (known := entry.memo.get(key)) is not None:
                return known
            with showing(self.file(name).name):
                found = compute(entry.graph)
            if len(entry.memo) >= MOST_COMPUTED:
                entry.memo.clear()
            entry.memo[key] = found
            return found

    def _load(self, name: str) -> _Loaded:
        path = self.file(name)
        # One at a time: two large graphs that are read at once could take more memory than there is.
        with self._loading:
            stamp = self._described(name)[0]
            with self._lock:
                known = self._loaded.get(name)
                if known is not None and known.stamp == stamp:
                    self._loaded.move_to_end(name)
                    return known
            entry = _Loaded(Graph.load(path), stamp)
            with self._lock:
                self._loaded[name] = entry
                self._loaded.move_to_end(name)
                held = sum(one.graph.edges.nbytes for one in self._loaded.values())
                while len(self._loaded) > 1 and (len(self._loaded) > MOST_LOADED or held > MOST_LOADED_BYTES):
                    held -= self._loaded.popitem(last=False)[1].graph.edges.nbytes
            return entry

    # --- coming and going -------------------------------------------------------------------------

    def new_file(self) -> tuple[str, Path]:
        """An id that is free, and the file that a new graph of this id goes to."""
        name = secrets.token_hex(6)
        return name, self.folder / f"{name}{GRAPH}"

    def added(self, name: str) -> GraphSummary:
        """Take a graph that was written to `new_file` into the table."""
        path = self.folder / f"{name}{GRAPH}"
        with self._lock:
            self._files[name] = path
            self.tidy(keep=name)
        return self.summary(name)

    def open_file(self, path: Path) -> str:
        """Take a file into the table where it lies: ours as it is, other tools' formats as a converted copy.

        The id follows from the place, so that addresses and notes outlive the server. Raises GraphError.
        """
        path = path.expanduser().resolve()
        name = hashlib.sha256(str(path).encode("utf-8", "surrogateescape")).hexdigest()[:12]
        if path.suffix in (".json", ".pt"):
            own = self.folder / f"{name}{GRAPH}"
            read_foreign(path).save(own)
            path = own
        else:
            described = read_header(path)
            with showing(path.name):
                summary_of(name, described)
            self._in_place.add(name)
        with self._lock:
            self._files[name] = path
            self._loaded.pop(name, None)
        return name

    def take(self, upload: Path, called: str = "") -> GraphSummary:
        """Take a file that was sent: one of ours, or Neuronpedia or circuit-tracer JSON.

        Raises GraphError, which names the file as its sender `called` it.
        """
        name, path = self.new_file()
        shown = one_line(called, LONGEST_NAME) or "this file"
        try:
            graph = read_foreign(upload)
        except GraphError as error:
            # Where it lies here for a moment is nobody's business.
            line = str(error).replace(str(upload), upload.name)
            named = line if upload.name in line else f"{upload.name}: {line}"
            raise GraphError(named.replace(upload.name, shown)) from error
        graph.save(path)
        try:
            with showing(shown):
                detail(graph, summary_of(name, read_header(path)), "")
                view(graph).to_bytes()
                imported_notes(graph)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        return self.added(name)

    def delete(self, name: str) -> None:
        """Delete a graph and its notes; a file opened in place only leaves the table."""
        path = self.file(name)
        with self._lock:
            if name not in self._in_place:
                try:
                    path.unlink(missing_ok=True)
                    self._notes_file(name).unlink(missing_ok=True)
                except OSError as error:
                    raise GraphError(f"the graph cannot be deleted: {error.strerror}") from error
            self._in_place.discard(name)
            self._files.pop(name, None)
            self._loaded.pop(name, None)
            self._headers.pop(name, None)

    def tidy(self, keep: str = "") -> None:
        """Delete the oldest graphs without notes beyond 50 graphs or 5 GB; files opened in place are no part of it."""
        with self._lock:
            own = [name for name in self._by_age() if name not in self._in_place]
            held = 0
            for rank, name in enumerate(own):
                try:
                    held += self._files[name].stat().st_size
                except OSError:
                    continue
                is_beyond = rank >= MOST_GRAPHS or held > MOST_BYTES
                if is_beyond and name != keep and not self._notes_file(name).is_file():
                    logger.info("deleted graph %s: there are more than %d", name, MOST_GRAPHS)
                    self.delete(name)

    # --- notes ------------------------------------------------------------------------------------

    def _notes_file(self, name: str) -> Path:
        return self.folder / f"{name}{NOTES}"

    def notes(self, name: str) -> Notes:
        """What a reader added to a graph; at first the pins and supernodes that it came with."""
        self.file(name)
        path = self._notes_file(name)
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            is_foreign = "neuronpedia" in self.header(name)["metadata"]
            return self.computed(name, "imported notes", imported_notes) if is_foreign else Notes()
        except OSError as error:
            raise GraphError(f"the notes of this graph cannot be read: {error.strerror}") from error
        try:
            return Notes(**json.loads(text))
        except (ValueError, TypeError, RecursionError) as error:
            raise GraphError(
                f"the notes of this graph are damaged; move {path.name} out of the folder of the page to begin anew"
            ) from error

    def save_notes(self, name: str, notes: Notes) -> Notes:
        """Keep notes and return them with their new revision.

        Raises Conflict when they were read at another revision than the last, GraphError for nodes that are gone.
        """
        check_notes(notes, len(self.header(name)["text"]))
        with self._lock:
            last = self.notes(name).revision
            if notes.revision != last:
                raise Conflict(
                    f"these notes were changed elsewhere (revision {last}, yours is {notes.revision}); load them again"
                )
            kept = notes.model_copy(update={"revision": last + 1})
            with replacing(self._notes_file(name)) as temporary:
                temporary.write_text(kept.model_dump_json(), "utf-8")
        return kept

    # --- files on their way -----------------------------------------------------------------------

    def clear_scratch(self) -> None:
        """Remove what a server or model that was killed left half-sent or half-written."""
        for pattern in (".incoming-*", f".*{GRAPH}.*", f".*{NOTES}.*"):
            for path in self.folder.glob(pattern):
                # Another server may be at work in this folder.
                if (_modified(path) or 0) < time.time() - OLD:
                    shutil.rmtree(path, ignore_errors=True)

    def names(self) -> list[str]:
        """The ids of all graphs."""
        with self._lock:
            return list(self._files)


def _modified(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except OSError:
        return None
