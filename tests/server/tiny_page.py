"""What the page's tasks run on in tests: tiny models, graphs of them in files, and a line that keeps what is said."""

from functools import cache
from pathlib import Path
from typing import Any

from tiny_models import dictionary_of_kind

from lucida.dictionaries import Dictionary
from lucida.graph import Graph
from lucida.microscope import Microscope
from lucida.models.linear import FrozenModel
from lucida.models.model import Model
from lucida.models.recording import record
from lucida.server.line import Cancelled, Line

TOKENS = [5, 17, 3, 88, 41, 17]
OTHER_TOKENS = [9, 30, 3, 61, 12, 17]
ID, OTHER_ID = "0" * 12, "1" * 12


class StandIn(Line):
    """A line without another end. `messages` come into the inbox after so many tokens; `cancel_at` reports it stops."""

    def __init__(self, messages: dict[int, dict[str, Any]] | None = None, cancel_at: int | None = None) -> None:
        super().__init__(lambda _said: None)
        self.sent: list[dict[str, Any]] = []
        self.stages: list[tuple[str, int, int | None]] = []
        self.messages, self.cancel_at = messages or {}, cancel_at

    def progress(self, stage: str, done: int, total: int | None) -> None:
        self.stages.append((stage, done, total))
        if self.cancel_at is not None and len(self.stages) >= self.cancel_at:
            raise Cancelled

    def send(self, data: dict[str, Any]) -> None:
        self.sent.append(data)

    def inbox(self) -> list[dict[str, Any]]:
        message = self.messages.pop(len(self.sent), None)
        return [] if message is None else [message]


@cache
def features_of(model: Model, kind: str) -> Dictionary | None:
    if kind == "neurons":
        return None
    return dictionary_of_kind(FrozenModel(model, record(model, model.tokenize(TOKENS))), kind)


@cache
def scope_of(model: Model, kind: str = "plt") -> Microscope:
    found = features_of(model, kind)
    return Microscope(model, "neurons" if found is None else found)


@cache
def graph_of(scope: Microscope, tokens: tuple[int, ...] = tuple(TOKENS)) -> Graph:
    return scope.trace(list(tokens), max_targets=3)


def saved(graph: Graph, folder: Path, name: str = ID) -> str:
    """The path of the graph's file."""
    path = folder / f"{name}.graph.safetensors"
    graph.save(path)
    return str(path)


def features(graph: Graph, count: int, *, above: int = 0) -> list[int]:
    """The strongest features of a graph behind its first position, from layer `above` up."""
    table = graph.nodes
    mask = table.is_kind("feature") & (table.position > 0) & (table.layer >= above) & (table.activation != 0)
    numbers = mask.nonzero()[0].tolist()
    return sorted(numbers, key=lambda i: -float(table.influence[i]))[:count]
