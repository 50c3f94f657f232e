"""Draw an evaluation: what happens layer by layer above, what it amounts to below."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lucida.atomic import replacing
from lucida.errors import LucidaError
from lucida.evaluation.reconstruction import FREQUENCIES
from lucida.evaluation.report import BasisReport, EvaluationReport
from lucida.statistics import Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, HAIR = "#1c2333", "#737b8c", "#e3e6ee"
COLOURS = ("#2166ac", "#d6641e", "#1b9e77", "#8e5ea2", "#b8860b", "#c2477f")
"""Told apart with every kind of colour vision when the markers help; neurons are grey."""
NEURONS = "#8a919e"
MARKERS = "osD^vP"


def draw(report: EvaluationReport, path: str | Path, *, dpi: int = 160) -> None:
    """Draw the report to an .svg or .png file, chosen by the suffix; the same report gives the same file.

    Above: NMSE and L0 of every layer, and how often features fire. Below: the shares (agreement of the replacement
    model, replacement score, completeness) and the divergence, with 95 % intervals. Raises LucidaError for another
    suffix, SaveError when the file cannot be written.
    """
    path = Path(path)
    form = path.suffix.lower().removeprefix(".")
    if form not in ("svg", "png"):
        raise LucidaError(f"cannot draw {path.name!r}: a picture is an .svg or a .png file")
    with _plain_settings():
        figure = _figure(report)
        metadata = {"Date": None, "Creator": "Camera Lucida"} if form == "svg" else {"Software": "Camera Lucida"}
        with replacing(path) as temporary:
            figure.savefig(temporary, format=form, dpi=dpi, metadata=metadata)


@contextmanager
def _plain_settings() -> Iterator[None]:
    """Matplotlib as it comes, with the same names inside an SVG every time, and quiet axes."""
    import matplotlib

    quiet: Any = {
        "svg.hashsalt": "lucida",
        "font.size": 9,
        "axes.edgecolor": MUTED,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 10,
        "axes.titlelocation": "left",
        "axes.labelcolor": MUTED,
        "text.color": INK,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
    }
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(quiet)
        yield


def _figure(report: EvaluationReport) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), facecolor="white", layout="constrained")
    grid = figure.add_gridspec(2, 3, height_ratios=(1, 1))
    styles = _styles(report.bases)
    _by_layer(figure.add_subplot(grid[0, 0]), report, styles, "nmse", "NMSE of each layer (0 is perfect)")
    _by_layer(figure.add_subplot(grid[0, 1]), report, styles, "l0", "L0: active per token and layer")
    _frequencies(figure.add_subplot(grid[0, 2]), report, styles)
    _shares(figure.add_subplot(grid[1, :2]), report, styles)
    _divergence(figure.add_subplot(grid[1, 2]), report, styles)
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(4, len(names)), frameon=False, labelcolor=INK)
    figure.suptitle(_title(report), x=0.012, ha="left", fontsize=12, color=INK, parse_math=False)
    return figure


def _title(report: EvaluationReport) -> str:
    tokens = max(basis.reconstruction.tokens for basis in report.bases)
    parts = [f"{report.model}: {tokens:,} tokens", report.data, f"{report.prompts} prompts" if report.prompts else ""]
    return ", ".join(part for part in parts if part)


def _styles(bases: Sequence[BasisReport]) -> dict[str, dict[str, Any]]:
    """Colour and marker of every basis, in the order of the table."""
    styles, count = {}, 0
    for basis in bases:
        if basis.kind == "neurons":
            styles[basis.name] = {"color": NEURONS, "marker": "x", "linestyle": (0, (4, 2))}
            continue
        styles[basis.name] = {"color": COLOURS[count % len(COLOURS)], "marker": MARKERS[count % len(MARKERS)]}
        count += 1
    return styles


def _plain_name(name: str) -> str:
    # Matplotlib leaves names that begin with an underscore out of legends, and reads $ as mathematics.
    return name.lstrip("_").replace("$", r"\$") or "-"


def _by_layer(axes: "Axes", report: EvaluationReport, styles: dict, field: str, title: str) -> None:
    from matplotlib.ticker import MaxNLocator

    for basis in report.bases:
        values = [getattr(layer, field) for layer in basis.reconstruction.layers]
        heights = [np.nan if value is None else value for value in values]
        size = 4 if len(heights) <= 40 else 2
        axes.plot(
            range(len(heights)), heights, label=_plain_name(basis.name), markersize=size, linewidth=1.4,
            **styles[basis.name],
        )  # fmt: skip
    axes.set_title(title)
    axes.set_xlabel("layer")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", color=HAIR)
    axes.set_axisbelow(True)


def _frequencies(axes: "Axes", report: EvaluationReport, styles: dict) -> None:
    """Share of the features in every bin of the histogram; what never fired stands in the legend of the table."""
    for basis in report.bases:
        if basis.kind == "neurons":
            continue
        shares = np.array(basis.reconstruction.frequencies) / max(1, basis.features)
        axes.stairs(shares, np.array(FREQUENCIES), color=styles[basis.name]["color"], linewidth=1.4)
    axes.set_xscale("log")
    axes.set_title("How often features fire (dead ones left out)")
    axes.set_xlabel("share of tokens")
    axes.set_ylabel("share of features")
    axes.grid(axis="y", color=HAIR)
    axes.set_axisbelow(True)


def _shares(axes: "Axes", report: EvaluationReport, styles: dict) -> None:
    wanted = {
        "top-1 agreement\n(text)": lambda b: b.replacement_model and b.replacement_model.agreement,
        "top-1 agreement\n(prompts)": lambda b: b.answers,
        "replacement\nscore": lambda b: b.graphs and b.graphs.replacement,
        "completeness\n(strict)": lambda b: b.graphs and b.graphs.completeness,
        "faithfulness\n(all pairs)": lambda b: b.faithfulness and b.faithfulness.everything.spearman,
        "faithfulness\n(knock-on)": lambda b: b.faithfulness and b.faithfulness.knock_on.spearman,
    }
    columns = {name: [get(basis) for basis in report.bases] for name, get in wanted.items()}
    columns = {name: values for name, values in columns.items() if any(value is not None for value in values)}
    _bars(axes, report, styles, list(columns.values()))
    axes.set_xticks(range(len(columns)), list(columns))
    axes.set_xlim(-0.6, len(columns) - 0.4)
    axes.set_title("What the features amount to (higher is better; bars of 95 %)")
    axes.set_ylim(top=1)


def _divergence(axes: "Axes", report: EvaluationReport, styles: dict) -> None:
    values = [basis.replacement_model and basis.replacement_model.kl for basis in report.bases]
    _bars(axes, report, styles, [values])
    axes.set_xticks([])
    axes.set_title("KL(model ‖ replacement model), nats")


def _bars(axes: "Axes", report: EvaluationReport, styles: dict, columns: list[list[Interval | None]]) -> None:
    """Groups of bars, one group for each column, with intervals and the number above each bar."""
    width = 0.8 / len(report.bases)
    for group, values in enumerate(columns):
        for place, (basis, found) in enumerate(zip(report.bases, values, strict=True)):
            if found is None:
                continue
            x = group + (place - (len(report.bases) - 1) / 2) * width
            axes.bar(x, found.value, 0.9 * width, color=styles[basis.name]["color"])
            if found.low is not None and found.high is not None:
                axes.plot((x, x), (found.low, found.high), color=INK, linewidth=1)
            top = max(found.value, found.high or 0)
            axes.annotate(
                f"{found.value:.2f}", (x, top), (0, 2), textcoords="offset points", ha="center", fontsize=7, color=INK
            )
    axes.grid(axis="y", color=HAIR)
    axes.set_axisbelow(True)
