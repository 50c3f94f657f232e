"""What the options of `lucida intervene` change: keys of features, and what they are put at."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lucida.cli.options import TokenIds
from lucida.errors import InterventionError

if TYPE_CHECKING:
    from lucida.graph import Graph, Node
    from lucida.interventions import Donor
    from lucida.microscope import Microscope

GRAPH_FILES = (".safetensors", ".json", ".pt")


def given_edits(graph: Any, options: dict[str, Any]) -> dict[Any, Any]:
    """Features that are multiplied or set (--ablate-top, --scale, --set), by key; no model is needed to tell."""
    from lucida.interventions import Scale, Set

    edits: dict[Any, Any] = {}
    if options["ablate_top"] is not None:
        for key in _placed(graph.strongest(options["ablate_top"]), options["positions"]):
            edits[key] = Scale(0.0)
    for verb, changes in ((Scale, options["scale"]), (Set, options["put"])):
        for change in changes:
            for key in _placed(_key(change.where, graph, "--graph"), options["positions"]):
                if key in edits:
                    raise click.UsageError(f"{change.where} is changed twice")
                edits[key] = verb(change.number)
    return edits


def watched_places(where: Any, graph: Any) -> list[tuple[int, int, int]]:
    """The features that --watch names: a place, or a text to look for in the graph."""
    return _places(_key(where, graph, "--graph"))


def donated_edits(scope: "Microscope", prompt: Any, graph: Any, options: dict[str, Any]) -> list[Any]:
    """Features that are injected or swapped in (--inject, --swap)."""
    if not options["inject"] and not options["swap"]:
        return []
    donor = _Donor(scope, prompt, options)
    parts = [_injected(donor, change, graph, options) for change in options["inject"]]
    return parts + [_swapped(donor, pair, graph, options) for pair in options["swap"]]


def _injected(donor: "_Donor", change: Any, graph: Any, options: dict[str, Any]) -> dict[Any, Any]:
    from lucida.interventions import Inject

    edits = {}
    for place in _places(_key(change.where, graph, "--graph")):
        layer, _, feature = place
        reference = donor.largest(layer, feature)
        for key in _placed(place, options["positions"]):
            edits[key] = Inject(reference, change.number)
    return edits


def _swapped(donor: "_Donor", pair: Any, graph: Any, options: dict[str, Any]) -> Any:
    from lucida.interventions import Swap

    out = _key(pair[0], graph, "--graph")
    positions = options["positions"]
    where = tuple(range(donor.n_positions)) if positions == "all" else positions
    return Swap(out, donor.supernode(pair[1]), options["swap_strength"], 0.0, where)


class _Donor:
    """The prompt that --donor names (left out: the prompt itself), as text, ids or the graph in a file."""

    def __init__(self, scope: "Microscope", prompt: Any, options: dict[str, Any]) -> None:
        self.scope, self.prompt = scope, prompt
        self.n_positions = len(scope.model.tokenize(prompt))
        self._graph: Graph | None = None
        given = options["donor"]
        if given is None:
            return
        if given.endswith(GRAPH_FILES) and Path(given).is_file():
            from lucida.cli.graphs import read_graph
            from lucida.interventions import refuse_other

            self._graph = read_graph(Path(given))
            refuse_other(self._graph, scope.dictionary)
            self.prompt = self._graph.prompt
        else:
            self.prompt = given if options["ids"] is None else TokenIds().convert(given, None, None)

    def largest(self, layer: int, feature: int) -> float:
        """The largest activation of a feature on the donor's prompt. Refuses one that is not active there."""
        from lucida.interventions import donor_activations

        found = donor_activations(self.scope.model, self.scope.dictionary, self.prompt, [(layer, None, feature)])
        if found.features[0].activation == 0:
            raise InterventionError(
                f"feature {feature} of layer {layer} is inactive on the donor's prompt, so there is nothing to inject;"
                " name another --donor, or use --set"
            )
        return found.features[0].activation

    def supernode(self, where: Any) -> "Donor":
        """The features that a text finds in the donor's graph, or one feature at a position of the donor's prompt."""
        from lucida.interventions import donor_activations, donor_of

        if not isinstance(where, str):
            return donor_activations(self.scope.model, self.scope.dictionary, self.prompt, [where])
        if self._graph is None:
            self._graph = self.scope.trace(self.prompt)
        return donor_of(self._graph, self._graph.find(where))


def _key(where: Any, graph: Any, option: str) -> Any:
    if not isinstance(where, str):
        return where
    if graph is None:
        raise click.UsageError(f"{where!r} is not LAYER:POSITION:FEATURE; to find features by text give {option}")
    return graph.find(where)


def _places(key: Any) -> list[tuple[int, int, int]]:
    """The features of a key that is a place or nodes."""
    if isinstance(key[0], int):
        return [key]
    nodes: tuple[Node, ...] = key
    return [(n.layer, n.position, n.feature) for n in nodes]  # pyright: ignore


def _placed(key: Any, positions: Any) -> list[Any]:
    """The key as it is, or its features at the positions that were asked for."""
    if positions is None:
        return [key]
    where = None if positions == "all" else positions
    return list(dict.fromkeys((layer, where, feature) for layer, _, feature in _places(key)))
