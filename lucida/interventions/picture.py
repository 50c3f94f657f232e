"""A scatter of predicted against measured changes."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lucida.atomic import replacing
from lucida.errors import LucidaError
from lucida.interventions.prediction import Calibration, Comparison, calibrate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, MUTED, HAIR = "#1c2333", "#737b8c", "#e3e6ee"
COLOURS = {True: "#8a919e", False: "#2166ac"}
"""Of direct (trivial) nodes, and of those where something ran in between."""


def draw_calibration(comparisons: Sequence[Comparison], path: str | Path, *, title: str = "", dpi: int = 160) -> None:
    """Draw predicted against measured changes to an .svg or .png file: features left, logits right.

    Nodes that are confirmed by construction are grey. Raises LucidaError for another suffix or no comparison,
    SaveError when the file cannot be written.
    """
    path = Path(path)
    form = path.suffix.lower().removeprefix(".")
    if form not in ("svg", "png"):
        raise LucidaError(f"cannot draw {path.name!r}: a picture is an .svg or a .png file")
    if not comparisons:
        raise LucidaError("there is nothing to draw; give one comparison or more")
    with _plain_settings():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(10, 5), facecolor="white", layout="constrained")
        left, right = figure.subplots(1, 2)
        _scatter(left, comparisons, is_logit=False)
        _scatter(right, comparisons, is_logit=True)
        figure.suptitle(title, x=0.012, ha="left", fontsize=12, color=INK, parse_math=False)
        metadata = {"Date": None, "Creator": "Camera Lucida"} if form == "svg" else {"Software": "Camera Lucida"}
        with replacing(path) as temporary:
            figure.savefig(temporary, format=form, dpi=dpi, metadata=metadata)


@contextmanager
def _plain_settings() -> Iterator[None]:
    """Matplotlib as it comes, with the same names inside an SVG every time, and quiet axes."""
    import matplotlib

    quiet: Any = {
        "svg.hashsalt": "lucida", "font.size": 9, "axes.edgecolor": MUTED, "axes.spines.top": False,
        "axes.spines.right": False, "axes.titlesize": 10, "axes.titlelocation": "left", "axes.labelcolor": MUTED,
        "text.color": INK, "xtick.color": MUTED, "ytick.color": MUTED,
    }  # fmt: skip
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(quiet)
        yield


def _scatter(axes: "Axes", comparisons: Sequence[Comparison], *, is_logit: bool) -> None:
    predicted, measured, direct = (
        np.concatenate([getattr(c, name)[c.is_logit == is_logit] for c in comparisons])
        for name in ("predicted", "measured", "is_direct")
    )
    for trivial in (True, False):
        which = direct == trivial
        if which.any():
            label = "direct (by construction)" if trivial else "knock-on"
            axes.scatter(
                predicted[which], measured[which], s=9, color=COLOURS[trivial], alpha=0.5, label=label, linewidths=0
            )
    if len(predicted):
        size = float(max(np.abs(predicted).max(), np.abs(measured).max(), 1e-9)) * 1.05
        axes.plot((-size, size), (-size, size), color=MUTED, linewidth=0.8, linestyle=(0, (4, 2)))
        axes.set_xlim(-size, size)
        axes.set_ylim(-size, size)
        axes.legend(frameon=False, loc="upper left", fontsize=8)
    what = "Logits" if is_logit else "Features, as a share of their activation"
    axes.set_title(f"{what}\n{describe(calibrate(predicted, measured))}")
    axes.set_xlabel("predicted change")
    axes.set_ylabel("measured change")
    axes.grid(color=HAIR)
    axes.set_axisbelow(True)


def describe(found: Calibration) -> str:
    """A calibration in one line."""
    parts = [f"{found.count} nodes"]
    parts += [] if found.slope is None else [f"slope {found.slope:.2f}"]
    parts += [] if found.spearman is None else [f"Spearman {found.spearman:.2f}"]
    parts += [] if found.sign_agreement is None else [f"sign {100 * found.sign_agreement:.0f} %"]
    return ", ".join(parts)
