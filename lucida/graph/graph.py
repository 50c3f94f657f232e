"""The attribution graph of one prompt: nodes, signed edges, and where every number came from."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from os import PathLike
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float32, Int64

from lucida.errors import GraphError
from lucida.prompt import Prompt

if TYPE_CHECKING:
    from lucida.graph.compare import Comparison
    from lucida.graph.paths import Path
    from lucida.graph.scores import Scores
    from lucida.graph.widget import GraphWidget

KINDS = ("feature", "error", "embedding", "unexpanded", "bias", "logit")
"""Node kinds, in the order in which the nodes of a graph stand.

`unexpanded` nodes (one for each layer and position, only in graphs made under a node budget) carry
what the active features that were not expanded contribute, so that every row still adds up.
"""

COLUMNS = {
    "kind": np.int8,
    "layer": np.int32,
    "position": np.int32,
    "feature": np.int64,
    "token": np.int64,
    "activation": np.float32,
    "influence": np.float32,
    "probability": np.float32,
}
"""The number columns of a node table and their types."""


@dataclass(frozen=True)
class Node:
    """One node. Fields that do not apply are None (numbers) or empty (texts)."""

    index: int
    kind: str
    layer: int | None
    position: int | None
    feature: int | None
    token: int | None
    text: str
    label: str
    activation: float | None
    influence: float
    probability: float | None

    @property
    def name(self) -> str:
        """The label if there is one, else what the node is."""
        if self.label:
            return self.label
        if self.kind == "feature":
            return f"L{self.layer}/{self.feature}"
        return self.text or self.kind


def _whole(entry: np.integer) -> int | None:
    return None if entry < 0 else int(entry)


def _real(entry: np.floating) -> float | None:
    return None if np.isnan(entry) else float(entry)


class Dense(NamedTuple):
    """All nodes, and the square matrix [target, source]; rows of nodes without inputs are zero."""

    nodes: list[Node]
    matrix: Float32[np.ndarray, "node node"]


@dataclass(frozen=True)
class NodeTable:
    """The nodes column by column. Order: KINDS; inside a kind by layer, position, feature.

    Missing whole numbers are -1; missing activations and probabilities are NaN.
    """

    kind: np.ndarray  # int8, index into KINDS
    layer: np.ndarray  # int32; embeddings and bias -1, logits n_layers
    position: np.ndarray  # int32; bias -1
    feature: np.ndarray  # int64; features only
    token: np.ndarray  # int64; features and embeddings: the token at the position; logits: the target
    activation: np.ndarray  # float32; features only
    influence: np.ndarray  # float32
    probability: np.ndarray  # float32; logits only
    text: tuple[str, ...]  # how the token reads; of a logit the target, also "A - B"
    label: tuple[str, ...]  # what a feature means, "" if unknown

    def __len__(self) -> int:
        return len(self.kind)

    def take(self, keep: np.ndarray) -> "NodeTable":
        """The table of the nodes with the given indices, in that order."""
        columns = {name: getattr(self, name)[keep] for name in COLUMNS}
        picked = [int(i) for i in keep]
        return NodeTable(
            **columns,
            text=tuple(self.text[i] for i in picked),
            label=tuple(self.label[i] for i in picked),
        )

    def join(self, other: "NodeTable") -> "NodeTable":
        """The nodes of this table, then those of the other."""
        columns = {name: np.concatenate([getattr(self, name), getattr(other, name)]) for name in COLUMNS}
        return NodeTable(**columns, text=self.text + other.text, label=self.label + other.label)

    def is_kind(self, *kinds: str) -> np.ndarray:
        """A mask of the nodes of the given kinds."""
        return np.isin(self.kind, [KINDS.index(kind) for kind in kinds])


@dataclass(frozen=True)
class Graph:
    """Nodes and signed edges. Row r of `edges` holds the inputs of node `targets[r]`.

    An edge is the source's contribution to the target's pre-activation (features) or demeaned logit
    (logits). In a graph as traced a row adds up to it, bias included (docs/method.md, "Edges"). Every target's
    sources lie in lower layers, so the graph has no cycle.

    `metadata` is JSON: schema version, model, dictionary, settings, `measure` ("influence" or
    "attribution"), `target_weights` (one for each logit node: its probability, or 1 for a
    difference), `n_layers`, what was not expanded, provenance. A pruned graph adds `pruning` (settings,
    share removed, scores) and `target_values` (one for each logit node, of the whole graph).
    """

    nodes: NodeTable
    edges: Float32[np.ndarray, "target node"]
    targets: Int64[np.ndarray, " target"]
    prompt: Prompt
    metadata: dict[str, Any] = field(default_factory=dict)

    def node(self, index: int) -> Node:
        """The node with this index."""
        table = self.nodes
        if not 0 <= index < len(table):
            raise GraphError(f"node {index} is not in this graph of {len(table)} nodes")

        return Node(
            index=index,
            kind=KINDS[table.kind[index]],
            layer=_whole(table.layer[index]),
            position=_whole(table.position[index]),
            feature=_whole(table.feature[index]),
            token=_whole(table.token[index]),
            text=table.text[index],
            label=table.label[index],
            activation=_real(table.activation[index]),
            influence=float(table.influence[index]),
            probability=_real(table.probability[index]),
        )

    def dense(self) -> Dense:
        """All nodes, and the square matrix [target, source]."""
        matrix = np.zeros((len(self.nodes), len(self.nodes)), dtype=np.float32)
        matrix[self.targets] = self.edges
        return Dense([self.node(i) for i in range(len(self.nodes))], matrix)

    def with_labels(self, labels: dict[int, str]) -> "Graph":
        """A copy in which the nodes with the given indices carry the given labels."""
        texts = list(self.nodes.label)
        for index, label in labels.items():
            texts[index] = label
        return replace(self, nodes=replace(self.nodes, label=tuple(texts)))

    def find(
        self,
        text: str | None = None,
        *,
        kind: str | None = None,
        layer: int | None = None,
        position: int | None = None,
        feature: int | None = None,
    ) -> tuple[Node, ...]:
        """The nodes that match everything given, most influential first.

        `text` matches inside a label or a token's text, whatever the case. With `text` and no
        `kind` only features are searched, so that the result can be intervened on.

        Raises GraphError when nothing matches.
        """
        if text is not None and kind is None:
            kind = "feature"
        if kind is not None and kind not in KINDS:
            raise GraphError(f"no node kind {kind!r}; kinds are {', '.join(KINDS)}")
        mask = np.ones(len(self.nodes), bool) if kind is None else self.nodes.is_kind(kind)
        for column, wanted in (
            (self.nodes.layer, layer), (self.nodes.position, position), (self.nodes.feature, feature)
        ):  # fmt: skip
            if wanted is not None:
                mask &= column == wanted
        found = [int(i) for i in np.flatnonzero(mask)]
        if text is not None:
            wanted_text = text.casefold()
            texts = [f"{a}\0{b}".casefold() for a, b in zip(self.nodes.label, self.nodes.text, strict=True)]
            found = [i for i in found if wanted_text in texts[i]]
        if not found:
            raise GraphError(self._nothing_found(text, kind, layer, position, feature))
        found.sort(key=lambda i: -float(self.nodes.influence[i]))
        return tuple(self.node(i) for i in found)

    def _nothing_found(self, text: str | None, *wanted: object) -> str:
        names = ("kind", "layer", "position", "feature")
        asked = [f"text {text!r}"] if text is not None else []
        asked += [f"{n} {w}" for n, w in zip(names, wanted, strict=True) if w is not None]
        tokens = ", ".join(repr(s) for s in self.prompt.strings[:20])
        size = len(self.nodes)
        return f"no node with {', '.join(asked)} in this graph of {size} nodes; its tokens are {tokens}"

    def subgraph(self, keep: Sequence[int] | np.ndarray) -> "Graph":
        """The graph of the given nodes (ascending order) and the edges between them."""
        kept = np.unique(np.asarray(keep, dtype=np.int64))
        rows = np.isin(self.targets, kept)
        renumber = np.full(len(self.nodes), -1, np.int64)
        renumber[kept] = np.arange(len(kept))
        return replace(
            self,
            nodes=self.nodes.take(kept),
            edges=self.edges[np.ix_(rows, kept)],
            targets=renumber[self.targets[rows]],
            metadata=self._metadata_of(kept),
        )

    def _metadata_of(self, kept: np.ndarray) -> dict[str, Any]:
        """The metadata of a part: one entry for each logit that stays, and no scores of the whole."""
        metadata = dict(self.metadata)
        stays = np.isin(np.flatnonzero(self.nodes.is_kind("logit")), kept)
        for name in ("target_weights", "target_values"):
            if len(metadata.get(name) or ()) == len(stays):
                metadata[name] = [v for v, stay in zip(metadata[name], stays, strict=True) if stay]
        if metadata.get("pruning"):
            metadata["pruning"] = {k: v for k, v in metadata["pruning"].items() if k != "scores"}
        return metadata

    @property
    def answer_position(self) -> int:
        """The position at which the answer is read; the last one of a graph without an answer."""
        positions = self.nodes.position[self.nodes.is_kind("logit")]
        return int(positions[0]) if len(positions) else len(self.prompt) - 1

    def strongest(self, count: int) -> tuple[Node, ...]:
        """The features that push hardest towards the answer: by signed total attribution where the graph has
        one (neurons; those that hold the answer back come last), else by influence.
        """
        from lucida.graph.influence import attributions, measure_of

        features = np.flatnonzero(self.nodes.is_kind("feature"))
        is_signed = measure_of(self) == "attribution"
        push = attributions(self).signed if is_signed else self.nodes.influence
        return tuple(self.node(int(i)) for i in features[np.argsort(-push[features], kind="stable")[:count]])

    def prune(
        self, nodes: float = 0.8, edges: float = 0.98, rule: str = "paper", measure: str | None = None
    ) -> "Graph":
        """The nodes and edges that carry these shares of the influence; see `pruning.prune`."""
        from lucida.graph.pruning import prune

        return prune(self, nodes, edges, rule, measure)

    def scores(self) -> "Scores":
        """How much of the answer the graph explains; see `scores.scores`."""
        from lucida.graph.scores import scores

        return scores(self)

    def paths(self, count: int = 5) -> "tuple[Path, ...]":
        """The strongest paths from the prompt to a logit; see `paths.strongest_paths`."""
        from lucida.graph.paths import strongest_paths

        return strongest_paths(self, count)

    def compare(self, other: "Graph", *, positions: bool = True) -> "Comparison":
        """What this graph and another share and do not; see `compare.compare`."""
        from lucida.graph.compare import compare

        return compare(self, other, positions=positions)

    def show(self, **options: Any) -> "GraphWidget":
        """The graph as a widget for a notebook; see `widget.show`. Raises GraphError without anywidget."""
        try:
            from lucida.graph.widget import show
        except ImportError as error:
            raise GraphError("a graph is shown by anywidget: pip install 'camera-lucida[notebook]'") from error
        return show(self, **options)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the graph to one file; see `files.save`."""
        from lucida.graph.files import save

        save(self, path)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> "Graph":
        """Read a graph from a file; see `files.load`."""
        from lucida.graph.files import load

        return load(path)
