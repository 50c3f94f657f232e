"""From what the page asks (nodes of graphs by number) to changes of single features, and the notes they need."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lucida.errors import GraphError, InterventionError
from lucida.graph import Graph, Node
from lucida.interventions import Inject, Place, Scale, Set, donor_of, refuse_other
from lucida.server.messages import Change, InterventionRequest, SwapRequest

if TYPE_CHECKING:
    from lucida.features.index import FeatureIndex
    from lucida.microscope import Microscope

FeatureChange = Scale | Set | Inject


@dataclass(frozen=True)
class Asked:
    """The changes of single features that a request stands for; `notes` say where their values come from."""

    edits: dict[Place, FeatureChange]
    notes: tuple[str, ...]


def feature_node(graph: Graph, number: int) -> Node:
    """The feature with this number. Raises InterventionError when it is gone, or is no feature."""
    try:
        node = graph.node(number)
    except GraphError as error:
        raise InterventionError(
            f"node {number} is not in the graph any more, which has {len(graph.nodes):,} nodes; choose it anew"
        ) from error
    if node.kind != "feature":
        raise InterventionError(f"{_short(node.name)} is a node of kind {node.kind}; only features can be changed")
    return node


def place_of(node: Node) -> Place:
    """Where a feature node is read."""
    assert node.layer is not None
    assert node.position is not None
    assert node.feature is not None
    return node.layer, node.position, node.feature


def asked_edits(
    scope: "Microscope", graph: Graph, request: InterventionRequest, donors: Mapping[str, str | Path]
) -> Asked:
    """Every feature that the request changes, once. Raises InterventionError for a request that contradicts itself,
    asks for nothing, names a node that cannot be changed, or a graph of other features.
    """
    refuse_other(graph, scope.dictionary, model=scope.model.name)
    edits: dict[Place, FeatureChange] = {}
    notes: list[str] = []
    for change in request.changes:
        _join(edits, _changed(graph, change, scope.index, notes))
    for swap in request.swaps:
        _join(edits, _swapped(scope, graph, swap, donors, notes))
    if not edits:
        raise InterventionError("there is nothing to change; choose features and what to do with them")
    return Asked(edits, tuple(dict.fromkeys(notes)))


def _join(edits: dict[Place, FeatureChange], more: Mapping[Place, FeatureChange]) -> None:
    for place, change in more.items():
        if edits.setdefault(place, change) != change:
            layer, position, feature = place
            raise InterventionError(
                f"feature {feature} of layer {layer} at position {position} is changed twice, in two ways; "
                "leave it in one of the groups only"
            )


def _changed(
    graph: Graph, change: Change, index: "FeatureIndex | None", notes: list[str]
) -> dict[Place, FeatureChange]:
    found: dict[Place, FeatureChange] = {}
    sources: set[str] = set()
    for number in change.nodes:
        node = feature_node(graph, number)
        if change.kind == "scale":
            found[place_of(node)] = Scale(change.value)
        elif change.kind == "set":
            found[place_of(node)] = Set(change.value)
        else:
            reference, source = _largest(graph, node, index)
            found[place_of(node)] = Inject(reference, change.value)
            sources.add(source)
    for source in sorted(sources):
        notes.append(f"Injected features are put at {change.value:g} times their largest activation {source}.")
    return found


def _largest(graph: Graph, node: Node, index: "FeatureIndex | None") -> tuple[float, str]:
    """The largest activation that is known of a feature, and where it was seen."""
    layer, _, feature = place_of(node)
    known = 0.0 if index is None else index.stats(layer, feature).maximum
    if known > 0:
        return known, "in the corpus of the feature index"
    table = graph.nodes
    here = table.is_kind("feature") & (table.layer == layer) & (table.feature == feature)
    return float(max(table.activation[here].tolist(), key=abs)), "on this prompt (no feature index knows more)"


def _swapped(
    scope: "Microscope", graph: Graph, swap: SwapRequest, donors: Mapping[str, str | Path], notes: list[str]
) -> dict[Place, FeatureChange]:
    if swap.donor not in donors:
        raise InterventionError("the graph to swap from is gone; open or trace it again")
    donor = Graph.load(donors[swap.donor])
    refuse_other(donor, scope.dictionary, model=scope.model.name)
    taken_out = [feature_node(graph, number) for number in swap.out]
    position = _most_common(node.position for node in taken_out)
    edits: dict[Place, FeatureChange] = {place_of(node): Scale(swap.suppress) for node in taken_out}
    put_in = donor_of(donor, [feature_node(donor, number) for number in swap.nodes])
    # A feature of both gets the donor's value.
    for donated in put_in.features:
        edits[donated.layer, position, donated.feature] = Inject(donated.activation, swap.strength)
    notes.append(
        f"{len(put_in.features)} features of another prompt were put in at position {position} "
        f"({_short(graph.prompt.strings[position])}), at {swap.strength:g} times what they were there."
    )
    return edits


def _most_common(positions: Iterable[int | None]) -> int:
    """The position that occurs most often, of several the last."""
    found = [position for position in positions if position is not None]
    return max(set(found), key=lambda position: (found.count(position), position))


def _short(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:39]}…")


def is_null(edits: Iterable[tuple[float, float]]) -> bool:
    """Whether no feature of these (before, after) gets another value."""
    return all(math.isclose(before, after, rel_tol=1e-6, abs_tol=1e-12) for before, after in edits)
