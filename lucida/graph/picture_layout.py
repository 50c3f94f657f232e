"""Where everything in the picture of a graph stands, in inches: pure geometry, no drawing."""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float64, Int64

from lucida.graph.graph import Graph
from lucida.graph.influence import carries_influence, normalised

MOST_NODES = 2000
MOST_TOKENS = 48
"""Beyond this many positions, tokens on which no feature stands share a narrow gap."""

PITCH = 0.235
IN_A_ROW = 6
LEFT, RIGHT, BELOW, ABOVE = 0.62, 0.38, 1.12, 1.02
SMALLEST_PAGE, USUAL_PAGE, WIDE_PAGE, LARGEST_PAGE = 7.4, 12.6, 20.0, 40.0


@dataclass(frozen=True)
class Column:
    """A token position from left to right, or (position -1) a gap of positions that are not shown."""

    position: int
    left: float
    right: float
    skipped: int = 0

    @property
    def middle(self) -> float:
        """The x of the middle."""
        return (self.left + self.right) / 2


@dataclass(frozen=True)
class Row:
    """A layer from bottom to top; -1 holds the embeddings and n_layers the logits."""

    layer: int
    bottom: float
    top: float

    @property
    def middle(self) -> float:
        """The y of the middle."""
        return (self.bottom + self.top) / 2


@dataclass(frozen=True)
class Edges:
    """The edges to draw, weakest first. `share` is |edge| as a share of all inputs of its target."""

    source: Int64[np.ndarray, " edge"]
    target: Int64[np.ndarray, " edge"]
    share: Float64[np.ndarray, " edge"]
    strength: Float64[np.ndarray, " edge"]
    is_negative: Bool[np.ndarray, " edge"]
    total: int


@dataclass(frozen=True)
class Layout:
    """A page of `width` x `height` inches; the x and y of nodes that are not drawn are NaN."""

    width: float
    height: float
    x: Float64[np.ndarray, " node"]
    y: Float64[np.ndarray, " node"]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    is_rotated: bool
    scale: float
    """How far nodes and tokens are made smaller, so that a long prompt still is a page."""

    @property
    def shown(self) -> Int64[np.ndarray, " node"]:
        """The indices of the nodes that are drawn."""
        return np.flatnonzero(~np.isnan(self.x))


def arrange(graph: Graph, token_widths: list[float], logit_widths: list[float]) -> Layout:
    """The layout of a graph, given how wide each prompt token and each logit's text is, in inches.

    A column is as wide as its busiest layer or its token needs, and a layer as tall as its busiest
    column; layers without nodes take no room. Small graphs are stretched to fill a page.
    """
    mask = shown_nodes(graph)
    positions = _positions(graph, mask)
    mask &= np.isin(graph.nodes.position, positions) | graph.nodes.is_kind("logit")
    is_inner = mask & graph.nodes.is_kind("feature", "error", "unexpanded")
    cells: dict[tuple[int, int], list[int]] = {}
    for index in np.flatnonzero(is_inner).tolist():
        place = (int(graph.nodes.layer[index]), int(graph.nodes.position[index]))
        cells.setdefault(place, []).append(index)
    is_rotated = sum(max(token_widths[p] + 0.2, PITCH) for p in positions) > WIDE_PAGE
    columns, scale = _columns(positions, len(graph.prompt), cells, [] if is_rotated else token_widths)
    width = max(columns[-1].right + RIGHT, SMALLEST_PAGE) if columns else SMALLEST_PAGE
    rows = _rows(cells, _n_layers(graph), width)
    x, y = np.full(len(graph.nodes), np.nan), np.full(len(graph.nodes), np.nan)
    by_position = {column.position: column for column in columns}
    by_layer = {row.layer: row for row in rows}
    for (layer, position), members in cells.items():
        _place_cell(graph, members, by_position[position], by_layer[layer], x, y)
    for index in np.flatnonzero(mask & graph.nodes.is_kind("embedding")).tolist():
        x[index] = by_position[int(graph.nodes.position[index])].middle
        y[index] = rows[0].middle
    _place_logits(graph, logit_widths, by_position, rows[-1], width, x, y)
    return Layout(width, rows[-1].top + ABOVE, x, y, columns, rows, is_rotated, scale)


def _n_layers(graph: Graph) -> int:
    logits = graph.nodes.is_kind("logit")
    return int(graph.nodes.layer[logits].max()) if logits.any() else int(graph.nodes.layer.max(initial=0)) + 1


def shown_nodes(graph: Graph) -> Bool[np.ndarray, " node"]:
    """The nodes worth drawing: no bias, no error without an edge, and at most the MOST_NODES strongest."""
    leads_on = np.zeros(len(graph.nodes), bool)
    leads_on[:] = (graph.edges != 0).any(axis=0)
    mask = graph.nodes.is_kind("feature", "embedding", "logit")
    mask |= graph.nodes.is_kind("error", "unexpanded") & leads_on
    inner = np.flatnonzero(mask & graph.nodes.is_kind("feature", "error", "unexpanded"))
    if len(inner) > MOST_NODES:
        order = np.argsort(-np.abs(graph.nodes.influence[inner]), kind="stable")
        mask[inner[order[MOST_NODES:]]] = False
    return mask


def _positions(graph: Graph, mask: np.ndarray) -> list[int]:
    """The positions to show: all of a short prompt, else those with features and the strongest tokens."""
    length = len(graph.prompt)
    if length <= MOST_TOKENS:
        return list(range(length))
    table = graph.nodes
    inner = mask & table.is_kind("feature", "error", "unexpanded")
    with_nodes = set(table.position[inner].tolist()) | set(table.position[table.is_kind("logit")].tolist())
    embeddings = np.flatnonzero(mask & table.is_kind("embedding"))
    order = embeddings[np.argsort(-np.abs(table.influence[embeddings]), kind="stable")]
    for index in order.tolist():
        if len(with_nodes) >= MOST_TOKENS:
            break
        with_nodes.add(int(table.position[index]))
    return sorted(p for p in with_nodes if 0 <= p < length)


def _columns(
    positions: list[int], length: int, cells: dict[tuple[int, int], list[int]], token_widths: list[float]
) -> tuple[tuple[Column, ...], float]:
    """The columns, and the scale that makes them fit a page."""
    busiest = dict.fromkeys(positions, 1)
    for (_, position), members in cells.items():
        busiest[position] = max(busiest[position], min(len(members), IN_A_ROW))
    if token_widths:
        natural = [max(busiest[p] * PITCH + 0.2, 0.3, token_widths[p] + 0.2) for p in positions]
    else:
        natural = [busiest[p] * PITCH + 0.09 for p in positions]
    gaps = [b - a - 1 for a, b in pairwise([-1, *positions, length])]
    taken = sum(natural) + 0.2 * sum(gap > 0 for gap in gaps)
    sides = LEFT + RIGHT
    # A page of few tokens is filled, but a token never gets more room than it can use.
    stretch = min(max(1.0, (USUAL_PAGE - sides) / taken), 2.6) if taken else 1.0
    if taken > WIDE_PAGE - sides:
        squeezed = max((WIDE_PAGE - sides) / taken, 0.55)
        stretch = min(squeezed, (LARGEST_PAGE - sides) / taken)
    x = max(LEFT, (SMALLEST_PAGE - taken * stretch) / 2)
    columns = []
    for index, gap in enumerate(gaps):
        if gap:
            columns.append(Column(-1, x, x + 0.2 * stretch, gap))
            x += 0.2 * stretch
        if index < len(positions):
            columns.append(Column(positions[index], x, x + natural[index] * stretch))
            x += natural[index] * stretch
    return tuple(columns), min(stretch, 1.0)


def _rows(cells: dict[tuple[int, int], list[int]], n_layers: int, width: float) -> tuple[Row, ...]:
    stacked: dict[int, int] = {}
    for (layer, _), members in cells.items():
        stacked[layer] = max(stacked.get(layer, 1), -(-len(members) // IN_A_ROW))
    layers = [-1, *sorted(stacked), n_layers]
    # Many layers stand closer together, so that the page stays wider than tall.
    pitch = float(np.clip(6.0 / sum(stacked.values(), 1), 0.195, 0.28))
    natural = [pitch * stacked.get(layer, 1) for layer in layers]
    natural[0] = natural[-1] = 0.3
    spaces = [0.16 if b - a > 1 else 0.0 for a, b in pairwise(layers)]
    spaces[0] += 0.1
    spaces[-1] += 0.12
    # Few layers and wide pages get taller rows, within reason.
    wanted = max(4.3, width / 3 - ABOVE - BELOW)
    stretch = min(max(1.0, wanted / (sum(natural) + sum(spaces))), 1.6 + 2.4 / len(layers))
    rows, y = [], BELOW
    for layer, height, space in zip(layers, natural, [*spaces, 0.0], strict=True):
        rows.append(Row(layer, y, y + height * stretch))
        y += (height + space) * stretch
    return tuple(rows)


def _place_cell(graph: Graph, members: list[int], column: Column, row: Row, x: np.ndarray, y: np.ndarray) -> None:
    """Spread the nodes of one layer and position: errors rightmost, strong features in the middle."""
    strength = np.abs(graph.nodes.influence)
    error = graph.nodes.is_kind("error", "unexpanded")
    members = sorted(members, key=lambda i: (bool(error[i]), -float(strength[i]), i))
    lines = [members[start : start + IN_A_ROW] for start in range(0, len(members), IN_A_ROW)]
    for number, line in enumerate(lines):
        # Strongest in the middle, the others alternating around it; errors last, at the right.
        features = [i for i in line if not error[i]]
        line = [*features[1::2][::-1], *features[0::2], *(i for i in line if error[i])]
        pitch = min(PITCH * 1.25, (column.right - column.left - 0.08) / len(line))
        start = column.middle - pitch * (len(line) - 1) / 2
        height = (number + 0.5) / len(lines)
        for place, index in enumerate(line):
            x[index] = start + pitch * place
            y[index] = row.top - height * (row.top - row.bottom)


def _place_logits(
    graph: Graph,
    widths: list[float],
    by_position: dict[int, Column],
    row: Row,
    page: float,
    x: np.ndarray,
    y: np.ndarray,
) -> None:
    """Logits side by side above their position, moved left where the page ends."""
    logits = np.flatnonzero(graph.nodes.is_kind("logit")).tolist()
    if not logits:
        return
    widths = [max(width + 0.16, 0.42) for width in widths]
    column = by_position.get(int(graph.nodes.position[logits[0]]))
    middle = column.middle if column else page / 2
    left = min(max(LEFT, middle - sum(widths) / 2), max(LEFT, page - 0.12 - sum(widths)))
    for index, width in zip(logits, widths, strict=True):
        x[index], y[index] = left + width / 2, row.middle
        left += width


def chosen_edges(graph: Graph, layout: Layout, most: int) -> Edges:
    """The `most` strongest edges between drawn nodes: share of the target's input times its influence."""
    table = graph.nodes
    shares = normalised(graph.edges, carries_influence(graph))
    shown = ~np.isnan(layout.x)
    rows, sources = np.nonzero((shares > 0) & shown[graph.targets][:, None] & shown[None, :])
    targets = graph.targets[rows]
    output = np.abs(table.influence.astype(np.float64))
    logits = table.is_kind("logit")
    output[logits] = np.nan_to_num(table.probability[logits], nan=1.0)
    share = shares[rows, sources].astype(np.float64)
    strength = share * output[targets]
    order = np.argsort(-strength, kind="stable")[:most][::-1]
    return Edges(
        source=sources[order],
        target=targets[order],
        share=share[order],
        strength=strength[order],
        is_negative=graph.edges[rows[order], sources[order]] < 0,
        total=len(rows),
    )


Box = tuple[float, float, float, float]
"""Left, bottom, right, top."""


def place_labels(
    layout: Layout,
    wanted: list[tuple[int, str]],
    radius: Float64[np.ndarray, " node"],
    size_of: Callable[[str], tuple[float, float]],
) -> list[tuple[int, str, float, float]]:
    """Where labels can stand without covering each other: (node, text, left, bottom), in inches.

    `wanted` holds (node, text), most important first; a label tries the sides of its node, and is
    left out when every side is taken by another label or by nodes.
    """
    nodes = layout.shown
    r = radius[nodes]
    discs = np.stack([layout.x[nodes] - r, layout.y[nodes] - r, layout.x[nodes] + r, layout.y[nodes] + r], 1)
    taken = np.zeros((0, 4))
    first = min((column.left for column in layout.columns), default=LEFT)
    page = (first - 0.1, layout.rows[0].top, layout.width - 0.08, layout.rows[-1].bottom + 0.06)
    placed = []
    for index, text in wanted:
        width, height = size_of(text)
        best: tuple[float, Box] | None = None
        for penalty, box in _candidates(layout.x[index], layout.y[index], radius[index], width, height):
            if box[0] < page[0] or box[1] < page[1] or box[2] > page[2] or box[3] > page[3]:
                continue
            if _overlap(box, taken).any():
                continue
            cost = penalty + 40 * float(_overlap(box, discs).sum()) / (width * height)
            if best is None or cost < best[0]:
                best = (cost, box)
        if best is not None and best[0] < 9:
            taken = np.vstack([taken, np.array(best[1]) + np.array([-0.03, -0.01, 0.03, 0.01])])
            placed.append((index, text, best[1][0], best[1][1]))
    return placed


def _candidates(x: float, y: float, r: float, width: float, height: float) -> list[tuple[float, Box]]:
    """Boxes around a node, with how little each is liked."""
    gap, found = r + 0.035, []
    for penalty, dx, dy in (
        (0.0, 1, 0), (0.2, -1, 0), (0.3, 1, 1), (0.3, 1, -1), (0.5, -1, 1), (0.5, -1, -1), (0.7, 0, 1),
        (0.8, 0, -1),
    ):  # fmt: skip
        if dx == 0:
            left, bottom = x - width / 2, y + gap if dy > 0 else y - gap - height
        else:
            away = gap if dy == 0 else gap * 0.6
            left = x + away if dx > 0 else x - away - width
            bottom = y - height / 2 + dy * (gap * 0.55 + height * 0.45)
        found.append((penalty, (left, bottom, left + width, bottom + height)))
    return found


def _overlap(box: Box, others: np.ndarray) -> np.ndarray:
    """The area that each of the other boxes shares with this one."""
    wide = np.minimum(box[2], others[:, 2]) - np.maximum(box[0], others[:, 0])
    tall = np.minimum(box[3], others[:, 3]) - np.maximum(box[1], others[:, 1])
    return np.clip(wide, 0, None) * np.clip(tall, 0, None)
