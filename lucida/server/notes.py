"""What a reader adds to a graph: checked against it, taken from other tools' files, handed back to them."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from lucida.errors import GraphError
from lucida.graph import Graph
from lucida.graph.neuronpedia.names import node_ids
from lucida.server.graphs import check_nodes
from lucida.server.messages import LONGEST_NAME, MOST_NODES, Notes, Supernode
from lucida.server.problems import one_line

MOST_BOXES = 1_000
"""Places of boxes that are kept beyond one for each node: those of supernodes, also of some that are gone."""
LONGEST_KEY = 40


def check_notes(notes: Notes, n_nodes: int) -> None:
    """Raise GraphError when notes are about nodes that are not in the graph, two supernodes have one id, or more boxes
    have places than there can be.
    """
    check_nodes(n_nodes, list(_nodes_of(notes)))
    if len(notes.positions) > n_nodes + MOST_BOXES or any(len(key) > LONGEST_KEY for key in notes.positions):
        raise GraphError("these notes have places for more boxes than the graph can have; load the page again")
    names = [group.id for group in notes.supernodes]
    if len(set(names)) < len(names):
        raise GraphError("two supernodes have the same id; load the page again")


def _nodes_of(notes: Notes) -> Iterator[int]:
    yield from notes.pinned
    for group in notes.supernodes:
        yield from group.nodes
    for key in notes.labels:
        # One way to write each number, so that no node has two labels.
        yield int(key) if key.isascii() and key.isdigit() and len(key) < 10 and str(int(key)) == key else -1


def imported_notes(graph: Graph) -> Notes:
    """The pins and supernodes that a graph of Neuronpedia or circuit-tracer came with, revision 0."""
    kept = graph.metadata.get("neuronpedia")
    if not isinstance(kept, dict):
        return Notes()
    index = {name: number for number, name in enumerate(node_ids(graph))}

    def known(names: Any) -> list[int]:
        if not isinstance(names, list | tuple):
            return []
        found = [index[name] for name in names if isinstance(name, str) and name in index]
        return list(dict.fromkeys(found))[:MOST_NODES]

    groups = []
    for entry in (kept.get("supernodes") or [])[:500]:
        nodes = known(entry[1:]) if isinstance(entry, list | tuple) else []
        if nodes:
            groups.append(
                Supernode(id=f"imported-{len(groups) + 1}", name=one_line(entry[0], LONGEST_NAME), nodes=nodes)
            )
    pinned = known(kept.get("pinnedIds"))
    grouped = [node for group in groups for node in group.nodes]
    return Notes(pinned=list(dict.fromkeys([*pinned, *grouped]))[:MOST_NODES], supernodes=groups)


def labelled(graph: Graph, notes: Notes) -> Graph:
    """The graph with a reader's own labels in the place of its own."""
    return graph.with_labels({int(key): label for key, label in notes.labels.items() if label})


class Interchange(NamedTuple):
    """Pins and supernodes by node id, as `write_neuronpedia` takes them."""

    pinned: list[str]
    supernodes: list[list[str]]


def interchange(graph: Graph, notes: Notes) -> Interchange:
    """Pins and supernodes of notes for other tools."""
    ids = node_ids(graph)
    groups = [[group.name, *(ids[node] for node in group.nodes)] for group in notes.supernodes]
    return Interchange([ids[node] for node in notes.pinned], groups)
