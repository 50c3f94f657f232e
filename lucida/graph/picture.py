"""Draw a pruned graph: tokens from left to right, layers from bottom to top, the answer above."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lucida.atomic import replacing
from lucida.errors import GraphError
from lucida.graph.graph import KINDS, Graph
from lucida.graph.picture_fonts import Fonts
from lucida.graph.picture_layout import LEFT, Edges, Layout, arrange, chosen_edges, place_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, HAIR, BAND = "#1c2333", "#737b8c", "#e3e6ee", "#f6f7fb"
POSITIVE, NEGATIVE = "#2166ac", "#d6641e"
"""Blue and vermilion differ for every kind of colour vision; a negative edge is dashed besides."""

FILLS = {"feature": "#2f4b86", "error": "#b3b9c6", "unexpanded": "#ffffff", "embedding": INK, "logit": INK}
GLYPHS = {"feature": "o", "error": "D", "unexpanded": "D", "embedding": "s", "logit": "s"}


def draw(
    graph: Graph,
    path: str | Path,
    *,
    title: str | None = None,
    max_labels: int = 30,
    max_edges: int = 1500,
    dpi: int = 200,
) -> None:
    """Draw the graph to an .svg or .png file, chosen by the suffix.

    Circles are features, diamonds errors (hollow: what was not expanded), squares tokens and answers;
    area grows with influence. Lines are edges: blue excites, dashed vermilion inhibits; the width is
    the root of the edge's share of all inputs of its target, and edges into influential targets are
    darker. Bias is not drawn. Meant for pruned graphs: at most 2,000 nodes and `max_edges` edges are
    drawn, strongest first, and the caption says of how many. `title` replaces the prompt and its
    answer, `dpi` (dots per inch) matters for .png only. The same graph gives the same file.

    Raises GraphError for another suffix, SaveError when the file cannot be written.
    """
    path = Path(path)
    form = path.suffix.lower().removeprefix(".")
    if form not in ("svg", "png"):
        raise GraphError(f"cannot draw {path.name!r}: a picture is an .svg or a .png file")
    with _plain_settings():
        figure = _figure(graph, Fonts(), title, max_labels, max_edges)
        maker = "Camera Lucida"
        metadata = {"Date": None, "Creator": maker} if form == "svg" else {"Software": maker}
        with replacing(path) as temporary:
            figure.savefig(temporary, format=form, dpi=dpi, metadata=metadata)


@contextmanager
def _plain_settings() -> Iterator[None]:
    """Matplotlib as it comes, whatever the user set, with names inside an SVG that do not change."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams["svg.hashsalt"] = "lucida"
        yield


TOKEN_SIZE, LABEL_SIZE, LOGIT_SIZE, TITLE_SIZE, SMALL = 9.5, 7.2, 9.5, 15.0, 8.0


@dataclass(frozen=True)
class _Page:
    """What every drawing step needs."""

    graph: Graph
    layout: Layout
    axes: "Axes"
    fonts: Fonts

    def text(
        self,
        x: float,
        y: float,
        text: str,
        size: float,
        color: str = INK,
        *,
        bold: bool = False,
        **options: Any,
    ) -> Any:
        """Write a text at a place in inches. Tokens are never read as mathematics."""
        options = {"ha": "left", "va": "baseline"} | options
        font = self.fonts.properties(size, bold=bold)
        return self.axes.text(x, y, text, color=color, fontproperties=font, parse_math=False, **options)


def _figure(graph: Graph, fonts: Fonts, title: str | None, max_labels: int, max_edges: int) -> "Figure":
    from matplotlib.figure import Figure

    tokens = [fonts.fitted(fonts.visible(t), TOKEN_SIZE, 0.95) for t in graph.prompt.strings]
    logits = _logit_texts(graph, fonts)
    layout = arrange(
        graph,
        [fonts.width(token, TOKEN_SIZE) for token in tokens],
        [fonts.width(text, LOGIT_SIZE, bold=True) for text, _ in logits],
    )
    figure = Figure(figsize=(layout.width, layout.height), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(0, layout.width)
    axes.set_ylim(0, layout.height)
    page = _Page(graph, layout, axes, fonts)
    edges = chosen_edges(graph, layout, max_edges)
    radius = _radii(graph) * max(layout.scale, 0.4)
    _draw_grid(page)
    _draw_edges(page, edges, radius)
    _draw_nodes(page, radius)
    _draw_tokens(page, tokens)
    _draw_logits(page, logits)
    _draw_labels(page, radius, max_labels)
    _draw_title(page, title)
    _draw_caption(page, edges)
    return figure


def _logit_texts(graph: Graph, fonts: Fonts) -> list[tuple[str, str]]:
    """What stands above each logit: its token, and its probability."""
    texts = []
    for index in np.flatnonzero(graph.nodes.is_kind("logit")).tolist():
        probability = float(graph.nodes.probability[index])
        token = fonts.fitted(fonts.visible(graph.nodes.text[index]), LOGIT_SIZE, 1.5, bold=True)
        texts.append((token, "" if np.isnan(probability) else _percent(probability)))
    return texts


def _percent(share: float) -> str:
    if share < 0.0005:
        return "<0.1%"
    return f"{100 * share:.0f}%" if share >= 0.0995 else f"{100 * share:.1f}%"


def _radii(graph: Graph) -> np.ndarray:
    """The radius of each node in inches; the area grows with influence, of a logit with probability."""
    table = graph.nodes
    strength = np.abs(table.influence.astype(np.float64))
    radius = np.zeros(len(table))
    for kinds, smallest, largest in (
        (("feature", "error", "unexpanded"), 0.030, 0.098),
        (("embedding",), 0.035, 0.085),
        (("logit",), 0.05, 0.09),
    ):
        mask = table.is_kind(*kinds)
        values = np.nan_to_num(table.probability, nan=1.0) if kinds == ("logit",) else strength
        top = values[mask].max(initial=0)
        share = values[mask] / top if top > 0 else np.zeros(mask.sum())
        radius[mask] = np.sqrt(smallest**2 + (largest**2 - smallest**2) * share)
    return radius


def _draw_grid(page: _Page) -> None:
    """A band behind every second token, a hair line and a name for every layer."""
    from matplotlib.collections import LineCollection
    from matplotlib.patches import Rectangle

    layout, rows = page.layout, page.layout.rows
    tokens = [column for column in layout.columns if column.position >= 0]
    for column in tokens[::2]:
        size = (column.right - column.left, rows[-1].bottom - rows[0].bottom)
        page.axes.add_patch(Rectangle((column.left, rows[0].bottom), *size, color=BAND, lw=0, zorder=0))
    for column in layout.columns:
        if column.position < 0:
            page.text(column.middle, rows[0].middle, "···", 7.0, MUTED, ha="center", va="center", rotation=90)
    left = layout.columns[0].left if layout.columns else LEFT
    right = layout.columns[-1].right if layout.columns else layout.width
    inner = rows[1:-1]
    lines = [[(left, row.middle), (right, row.middle)] for row in inner]
    page.axes.add_collection(LineCollection(lines, colors=HAIR, linewidths=0.6, zorder=0.5), autolim=False)
    # Layer names are at least 0.15 inches apart; where layers are missing the numbers say so.
    last = -1.0
    for row in inner:
        if row.middle - last >= 0.15:
            page.text(left - 0.12, row.middle, f"L{row.layer}", 7.5, MUTED, ha="right", va="center")
            last = row.middle
    page.text(left - 0.12, rows[0].middle, "token", 7.5, MUTED, ha="right", va="center")


def _draw_edges(page: _Page, edges: Edges, radius: np.ndarray) -> None:
    """Every edge a curve that leaves its source upwards and reaches its target from below."""
    from matplotlib.collections import PathCollection
    from matplotlib.colors import to_rgb

    if not len(edges.source):
        return
    strength = (edges.strength / edges.strength.max()) ** 0.5 if edges.strength.max() > 0 else edges.strength
    # Many edges share the ink: a dense graph stays a picture, a sparse one stays visible.
    crowd = min(1.0, 14 / np.sqrt(len(edges.source)) + 0.25)
    alphas = np.clip(0.10 * crowd + 0.85 * strength, 0.06, 0.92)
    widths = 0.35 + 3.4 * np.sqrt(edges.share)
    colors = [
        (*to_rgb(NEGATIVE if negative else POSITIVE), float(alpha))
        for negative, alpha in zip(edges.is_negative, alphas, strict=True)
    ]
    dashes = [
        (0, (max(2.2, 4.5 / width), max(1.3, 2.6 / width))) if negative else "solid"
        for negative, width in zip(edges.is_negative, widths, strict=True)
    ]
    paths = [
        _curve(page.layout, int(source), int(target), radius)
        for source, target in zip(edges.source, edges.target, strict=True)
    ]
    collection = PathCollection(
        paths, facecolors="none", edgecolors=colors, linewidths=widths, linestyles=dashes, zorder=1
    )
    page.axes.add_collection(collection, autolim=False)


def _curve(layout: Layout, source: int, target: int, radius: np.ndarray) -> Any:
    from matplotlib.path import Path as Curve

    x0, y0, x1, y1 = layout.x[source], layout.y[source], layout.x[target], layout.y[target]
    rise = y1 - y0
    # Straight up would run through the nodes between: bow out, the further the longer.
    bow = 0.0
    if abs(x1 - x0) < 0.15:
        nodes = layout.shown
        between = (np.abs(layout.x[nodes] - x0) < 0.12) & (layout.y[nodes] > y0) & (layout.y[nodes] < y1)
        bow = (0.10 + 0.055 * rise) * (1 if (source + target) % 2 else -1) if between.any() else 0.0
    y0, y1 = y0 + radius[source] * 0.8, y1 - radius[target] * 0.8
    points = [(x0, y0), (x0 + bow, y0 + 0.45 * rise), (x1 + bow, y1 - 0.45 * rise), (x1, y1)]
    return Curve(points, [Curve.MOVETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4])


def _draw_nodes(page: _Page, radius: np.ndarray) -> None:
    table = page.graph.nodes
    for kind, glyph in GLYPHS.items():
        nodes = np.intersect1d(page.layout.shown, np.flatnonzero(table.is_kind(kind)))
        if not len(nodes):
            continue
        # Markers are sized by area, a diamond and a square by the circle's area.
        area = np.pi * (radius[nodes] * 72) ** 2 * {"o": 4 / np.pi, "D": 0.75, "s": 1.1}[glyph]
        page.axes.scatter(
            page.layout.x[nodes], page.layout.y[nodes], s=area, marker=glyph, c=FILLS[kind],
            edgecolors="white" if kind != "unexpanded" else MUTED, linewidths=0.7, zorder=3, clip_on=False,
        )  # fmt: skip


def _draw_tokens(page: _Page, tokens: list[str]) -> None:
    """The prompt under its columns, turned where columns are narrow."""
    y = page.layout.rows[0].bottom - 0.02
    for column in page.layout.columns:
        if column.position < 0:
            continue
        token = tokens[column.position]
        if page.layout.is_rotated:
            size = 8.5 * page.layout.scale
            turned = {"ha": "right", "va": "top", "rotation": 50, "rotation_mode": "anchor"}
            page.text(column.middle + size / 150, y, token, size, INK, **turned)
        else:
            page.text(column.middle, y - 0.13, token, TOKEN_SIZE, INK, ha="center")


def _draw_logits(page: _Page, texts: list[tuple[str, str]]) -> None:
    logits = np.flatnonzero(page.graph.nodes.is_kind("logit")).tolist()
    strongest = _answer(page.graph)
    for index, (token, percent) in zip(logits, texts, strict=True):
        x, y = page.layout.x[index], page.layout.rows[-1].top
        is_answer = index == strongest
        color = INK if is_answer else MUTED
        page.text(x, y + 0.16 if percent else y + 0.03, token, LOGIT_SIZE, color, bold=is_answer, ha="center")
        page.text(x, y + 0.02, percent, SMALL, color, ha="center")


def _answer(graph: Graph) -> int | None:
    """The most probable logit, or the first of several differences."""
    logits = np.flatnonzero(graph.nodes.is_kind("logit"))
    if not len(logits):
        return None
    return int(logits[np.argmax(np.nan_to_num(graph.nodes.probability[logits], nan=1.0))])


def _draw_labels(page: _Page, radius: np.ndarray, most: int) -> None:
    """Labels beside the most influential features, as far as they fit without covering each other."""
    from matplotlib.patheffects import withStroke

    table = page.graph.nodes
    features = np.intersect1d(page.layout.shown, np.flatnonzero(table.is_kind("feature")))
    order = features[np.argsort(-np.abs(table.influence[features]), kind="stable")][:most]
    fonts = page.fonts
    wanted = []
    for index in order.tolist():
        name = fonts.visible(page.graph.node(index).name.strip())
        wanted.append((index, fonts.fitted(name, LABEL_SIZE, 1.7)))

    def size_of(text: str) -> tuple[float, float]:
        return fonts.width(text, LABEL_SIZE), LABEL_SIZE * 1.05 / 72

    halo = [withStroke(linewidth=2.4, foreground="white", alpha=0.9)]
    for _, text, left, bottom in place_labels(page.layout, wanted, radius, size_of):
        page.text(left, bottom + 0.022, text, LABEL_SIZE, INK, zorder=4, path_effects=halo)


def _draw_title(page: _Page, title: str | None) -> None:
    """The prompt in ink and its answer in colour, at the top left."""
    graph, fonts, layout = page.graph, page.fonts, page.layout
    y, room = layout.height - 0.47, layout.width - 2 * 0.3
    if title is not None:
        page.text(0.3, y, fonts.fitted(fonts.visible(title), TITLE_SIZE, room, bold=True), TITLE_SIZE, bold=True)
        return
    answer = _answer(graph)
    said = ""
    if answer is not None:
        token = fonts.visible(graph.nodes.text[answer])
        said = fonts.fitted(f"→ {token}", TITLE_SIZE, room / 2, bold=True)
    used = 0.12 + fonts.width(said, TITLE_SIZE, bold=True) if said else 0
    prompt = graph.prompt.text or " ".join(graph.prompt.strings)
    prompt = fonts.fitted(fonts.visible(prompt), TITLE_SIZE, room - used, keep_end=True)
    page.text(0.3, y, prompt, TITLE_SIZE)
    page.text(0.42 + fonts.width(prompt, TITLE_SIZE), y, said, TITLE_SIZE, POSITIVE, bold=True)


def _draw_caption(page: _Page, edges: Edges) -> None:
    """One line of numbers, and one that says what the glyphs are."""
    fonts, layout = page.fonts, page.layout
    page.text(0.3, 0.52, fonts.fitted(_caption(page, edges), SMALL, layout.width - 0.6), SMALL, MUTED)
    x = 0.36
    names = {"feature": "feature", "error": "error", "unexpanded": "not expanded", "logit": "token, answer"}
    kinds = {KINDS[kind] for kind in page.graph.nodes.kind[layout.shown]}
    for kind, name in names.items():
        if kind not in kinds:
            continue
        page.axes.scatter(
            [x], [0.29], s=34 if kind != "error" else 24, marker=GLYPHS[kind], c=FILLS[kind],
            edgecolors=MUTED if kind == "unexpanded" else "white", linewidths=0.7, zorder=3,
        )  # fmt: skip
        page.text(x + 0.1, 0.25, name, SMALL, MUTED)
        x += 0.1 + fonts.width(name, SMALL) + 0.26
    for name, color, dash in (("excites", POSITIVE, "solid"), ("inhibits", NEGATIVE, (0, (2.6, 1.5)))):
        page.axes.plot([x - 0.04, x + 0.26], [0.29, 0.29], color=color, linewidth=1.8, linestyle=dash)
        page.text(x + 0.34, 0.25, name, SMALL, MUTED)
        x += 0.34 + fonts.width(name, SMALL) + 0.26
    page.text(x - 0.04, 0.25, "area: influence    width: share of the target's input", SMALL, MUTED)


def _caption(page: _Page, edges: Edges) -> str:
    graph = page.graph
    total_nodes, total_edges = len(graph.nodes), edges.total
    pruning = graph.metadata.get("pruning")
    while pruning:
        total_nodes, total_edges = pruning["before"]["nodes"], pruning["before"]["edges"]
        pruning = pruning.get("earlier")
    counts = f"{len(page.layout.shown):,} of {total_nodes:,} nodes, {len(edges.source):,} of {total_edges:,} edges"
    try:
        scores = graph.scores()
    except GraphError:  # a graph from elsewhere without target weights is still worth a picture
        return counts
    parts = [f"replacement {scores.replacement:.2f}", f"completeness {scores.completeness:.2f}"]
    parts.append(f"error share {scores.error_share:.2f}")
    if scores.mediated is not None:
        parts = [f"mediated by features {scores.mediated:.2f}"]
    return "   ·   ".join([*parts, counts])
