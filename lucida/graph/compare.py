"""What two attribution graphs share and what they do not: of two prompts, models or prunings."""

from dataclasses import dataclass

import numpy as np

from lucida.graph.graph import KINDS, Graph


@dataclass(frozen=True)
class FeatureChange:
    """A feature and its influence in either graph (0 where it does not occur).

    `position` is None when positions were added up.
    """

    layer: int
    feature: int
    position: int | None
    label: str
    influence_a: float
    influence_b: float

    def __str__(self) -> str:
        place = "" if self.position is None else f" at {self.position}"
        label = f" {self.label}" if self.label else ""
        return f"L{self.layer}/{self.feature}{place}{label}: {self.influence_a:.4g} → {self.influence_b:.4g}"


@dataclass(frozen=True)
class EdgeChange:
    """An edge between two nodes that both graphs have, and its weight in either (0: no such edge)."""

    source: str
    target: str
    weight_a: float
    weight_b: float

    def __str__(self) -> str:
        return f"{self.source} → {self.target}: {self.weight_a:.4g} → {self.weight_b:.4g}"


@dataclass(frozen=True)
class Comparison:
    """Graph a against graph b. Lists have the most influential features and largest changes first.

    `edges_changed` holds the largest changes between nodes that both have. Jaccard indices are shared
    over all, in [0, 1], and 1 when both are empty; that of the influence is
    sum min / sum max over features.
    """

    only_a: tuple[FeatureChange, ...]
    only_b: tuple[FeatureChange, ...]
    shared: tuple[FeatureChange, ...]
    edges_changed: tuple[EdgeChange, ...]
    feature_jaccard: float
    influence_jaccard: float
    edge_jaccard: float

    def rows(self, count: int = 5) -> list[tuple[str, str]]:
        """Name and value of the summary numbers, then the first `count` entries of every list."""
        rows = [
            ("features only in a", str(len(self.only_a))),
            ("features only in b", str(len(self.only_b))),
            ("features in both", str(len(self.shared))),
            ("feature overlap (Jaccard)", f"{self.feature_jaccard:.3f}"),
            ("influence overlap (Jaccard)", f"{self.influence_jaccard:.3f}"),
            ("edge overlap (Jaccard)", f"{self.edge_jaccard:.3f}"),
        ]
        changed = sorted(self.shared, key=lambda f: -abs(f.influence_b - f.influence_a))
        for name, entries in (
            ("only in a", self.only_a), ("only in b", self.only_b),
            ("influence changed", changed), ("edge changed", self.edges_changed),
        ):  # fmt: skip
            rows += [(name, str(entry)) for entry in entries[:count]]
        return rows

    def __str__(self) -> str:
        rows = self.rows()
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)


def compare(a: Graph, b: Graph, *, positions: bool = True, edges: int = 100) -> Comparison:
    """What two graphs share: features by (layer, feature, position), and the edges between them.

    Without `positions` a feature's influence and edges are added up over positions, for prompts
    that do not line up. Embeddings are matched by token and position, logits by token (by text when
    they are a difference). At most `edges` changed edges are listed.
    """
    keys_a, keys_b = _keys(a, positions), _keys(b, positions)
    influence_a, influence_b = _influence(a, keys_a), _influence(b, keys_b)
    names = {**_names(b, keys_b), **_names(a, keys_a)}

    def changes(keys: set[tuple]) -> tuple[FeatureChange, ...]:
        found = [
            FeatureChange(
                layer=key[1],
                feature=key[3],
                position=key[2] if positions else None,
                label=names[key],
                influence_a=influence_a.get(key, 0.0),
                influence_b=influence_b.get(key, 0.0),
            )
            for key in keys
        ]
        found.sort(key=lambda f: (-max(f.influence_a, f.influence_b), f.layer, f.feature, f.position or 0))
        return tuple(found)

    of_a, of_b = set(influence_a), set(influence_b)
    both = of_a & of_b
    either = of_a | of_b
    pairs = [(influence_a.get(key, 0.0), influence_b.get(key, 0.0)) for key in either]
    changed, edge_jaccard = _edges(a, b, keys_a, keys_b, edges)
    return Comparison(
        only_a=changes(of_a - of_b),
        only_b=changes(of_b - of_a),
        shared=changes(both),
        edges_changed=changed,
        feature_jaccard=_jaccard(len(both), len(either)),
        influence_jaccard=_jaccard(sum(min(p) for p in pairs), sum(max(p) for p in pairs)),
        edge_jaccard=edge_jaccard,
    )


def _jaccard(shared: int | float, either: int | float) -> float:
    return shared / either if either else 1.0


def _keys(graph: Graph, positions: bool) -> list[tuple]:
    """For each node (kind, layer, position, feature, token, text), without what may differ."""
    keys = []
    table = graph.nodes
    for i, number in enumerate(table.kind):
        kind = KINDS[number]
        token = int(table.token[i]) if kind in ("embedding", "logit") else -1
        text = table.text[i] if kind == "logit" and token < 0 else ""
        position = int(table.position[i]) if positions else -1
        keys.append((kind, int(table.layer[i]), position, int(table.feature[i]), token, text))
    return keys


def _influence(graph: Graph, keys: list[tuple]) -> dict[tuple, float]:
    total: dict[tuple, float] = {}
    for key, value in zip(keys, graph.nodes.influence, strict=True):
        if key[0] == "feature":
            total[key] = total.get(key, 0.0) + float(value)
    return total


def _names(graph: Graph, keys: list[tuple]) -> dict[tuple, str]:
    """The label of every feature key, and how every other node reads."""
    names = {}
    for i, key in enumerate(keys):
        if key[0] == "feature":
            names[key] = names.get(key) or graph.nodes.label[i]
        else:
            names[key] = graph.nodes.text[i]
    return names


def _edges(
    a: Graph, b: Graph, keys_a: list[tuple], keys_b: list[tuple], count: int
) -> tuple[tuple[EdgeChange, ...], float]:
    """The largest changes of edges between nodes that both graphs have, and the overlap of all edges."""
    grouped_a, targets_a, sources_a = _grouped(a, keys_a)
    grouped_b, targets_b, sources_b = _grouped(b, keys_b)
    nodes = [key for key in sources_a if key in sources_b]
    targets = [key for key in nodes if key in targets_a or key in targets_b]
    weight_a = _picked(grouped_a, targets_a, sources_a, targets, nodes)
    weight_b = _picked(grouped_b, targets_b, sources_b, targets, nodes)
    both = int(np.count_nonzero((weight_a != 0) & (weight_b != 0)))
    either = int(np.count_nonzero(grouped_a)) + int(np.count_nonzero(grouped_b)) - both
    change = np.abs(weight_a - weight_b).ravel()
    names = {**_names(b, keys_b), **_names(a, keys_a)}
    found = []
    moved = np.flatnonzero(change)
    if len(moved) > count:
        moved = moved[np.argpartition(-change[moved], count)[:count]]
    for flat in moved[np.argsort(-change[moved], kind="stable")]:
        row, column = divmod(int(flat), len(nodes))
        source, target = (_describe(key, names[key]) for key in (nodes[column], targets[row]))
        found.append(EdgeChange(source, target, float(weight_a[row, column]), float(weight_b[row, column])))
    return tuple(found), _jaccard(both, either)


def _grouped(graph: Graph, keys: list[tuple]) -> tuple[np.ndarray, dict[tuple, int], dict[tuple, int]]:
    """The edges added up over nodes of the same key, and the row and the column of every key."""
    sources: dict[tuple, int] = {}
    columns = np.array([sources.setdefault(key, len(sources)) for key in keys], int)
    targets: dict[tuple, int] = {}
    rows = np.array([targets.setdefault(keys[t], len(targets)) for t in graph.targets], int)
    edges = _added_up(_added_up(graph.edges, rows, len(targets)).T, columns, len(sources)).T
    return edges, targets, sources


def _added_up(rows: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
    """The sum of the rows of every group; groups are numbered in order of first occurrence."""
    if groups == len(group):
        return rows
    order = np.argsort(group, kind="stable")
    place = np.empty(len(group), int)
    place[order] = np.arange(len(group)) - np.searchsorted(group[order], group[order])
    total = np.zeros((groups, rows.shape[1]), rows.dtype)
    # The first row of every group, then every second one, ...: no group twice in one addition.
    for turn in range(place.max() + 1):
        chosen = np.flatnonzero(place == turn)
        total[group[chosen]] += rows[chosen]
    return total


def _picked(
    edges: np.ndarray,
    rows: dict[tuple, int],
    columns: dict[tuple, int],
    targets: list[tuple],
    nodes: list[tuple],
) -> np.ndarray:
    """The matrix [targets, nodes] by key; the row of a key without one is zero."""
    picked = np.zeros((len(targets), len(nodes)), np.float32)
    at = np.array([rows.get(key, -1) for key in targets], int)
    picked[at >= 0] = edges[np.ix_(at[at >= 0], np.array([columns[key] for key in nodes], int))]
    return picked


def _describe(key: tuple, name: str) -> str:
    kind, layer, position, feature = key[:4]
    place = f"@{position}" if position >= 0 else ""
    if kind == "feature":
        return f"[L{layer}/{feature}{place}{' ' + name if name else ''}]"
    if kind in ("error", "unexpanded"):
        return f"[{kind} L{layer}{place}]"
    return f'{kind} "{name}"{place}' if name else kind
