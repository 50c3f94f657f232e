"""Plots as inline SVG: plain text, coloured by the page's style sheet, nothing fetched and nothing run."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 420, 300
LEFT, RIGHT, TOP, BOTTOM = 58, 14, 16, 44
DECADES = 12
"""A logarithmic axis shows at most so many powers of ten; what is smaller stands at its edge."""


@dataclass(frozen=True)
class Points:
    """Points of one colour (`style` is a class of the style sheet); `names` are shown under the pointer."""

    style: str
    label: str
    x: Sequence[float]
    y: Sequence[float]
    names: Sequence[str] = ()


@dataclass(frozen=True)
class Axis:
    """How numbers become places: `place` maps to 0..1; `ticks` are (place, text)."""

    place: Callable[[float], float]
    ticks: list[tuple[float, str]]


def linear_axis(values: Sequence[float], *, low: float | None = None, high: float | None = None) -> Axis:
    """An axis with round steps over the values."""
    known = [v for v in values if math.isfinite(v)] or [0.0, 1.0]
    start, stop = min(known) if low is None else low, max(known) if high is None else high
    if stop <= start:
        stop = start + 1.0
    raw = (stop - start) / 4
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= raw)
    marks = [i * step for i in range(math.ceil(start / step - 1e-9), math.floor(stop / step + 1e-9) + 1)]

    def place(value: float) -> float:
        return (value - start) / (stop - start)

    return Axis(place, [(place(mark), f"{mark:.4g}") for mark in marks])


def log_axis(values: Sequence[float]) -> Axis:
    """A logarithmic axis over the positive values; others stand at its lower edge."""
    known = [v for v in values if v > 0 and math.isfinite(v)] or [1e-1, 1.0]
    stop = math.ceil(math.log10(max(known)) + 1e-9)
    start = max(math.floor(math.log10(min(known))), stop - DECADES)
    start = min(start, stop - 1)

    def place(value: float) -> float:
        return 0.0 if value <= 0 else min(max((math.log10(value) - start) / (stop - start), 0.0), 1.0)

    every = max(1, math.ceil((stop - start) / 5))
    return Axis(place, [((e - start) / (stop - start), f"1e{e}") for e in range(start, stop + 1, every)])


def signed_axis(values: Sequence[float]) -> Axis:
    """An axis that is linear around zero and logarithmic beyond, on both sides alike."""
    sizes = sorted(abs(v) for v in values if v and math.isfinite(v)) or [1.0]
    unit = 10.0 ** math.floor(math.log10(sizes[len(sizes) // 2]))
    edge = math.asinh(sizes[-1] / unit) * 1.03

    def place(value: float) -> float:
        return 0.5 + 0.5 * math.asinh(value / unit) / edge

    top = math.floor(math.log10(sizes[-1]))
    exponents = range(max(round(math.log10(unit)), top - 2), top + 1)
    marks = [0.0, *(sign * 10.0**e for e in exponents for sign in (-1, 1))]
    return Axis(place, [(place(mark), f"{mark:.4g}") for mark in sorted(marks)])


def scatter(
    groups: Sequence[Points], x: Axis, y: Axis, *, title: str, x_name: str, y_name: str, diagonal: bool = False
) -> str:
    """Points over two axes, with the line of equality if asked for."""
    body = []
    if diagonal:
        body.append(f'<line class="hair" x1="{_x(0)}" y1="{_y(0)}" x2="{_x(1)}" y2="{_y(1)}"/>')
    for group in groups:
        names = group.names or [""] * len(group.x)
        for a, b, name in zip(group.x, group.y, names, strict=True):
            if not (math.isfinite(a) and math.isfinite(b)):
                continue
            inside = f"<title>{escape(name)}</title>" if name else ""
            body.append(
                f'<circle class="{group.style}" cx="{_x(x.place(a))}" cy="{_y(y.place(b))}" r="2.6">{inside}</circle>'
            )
    return _frame(body, groups, x, y, title, x_name, y_name)


def lines(groups: Sequence[Points], x: Axis, y: Axis, *, title: str, x_name: str, y_name: str) -> str:
    """A line with dots for each group."""
    body = []
    for group in groups:
        places = [(_x(x.place(a)), _y(y.place(b))) for a, b in zip(group.x, group.y, strict=True) if math.isfinite(b)]
        path = " ".join(f"{a},{b}" for a, b in places)
        body.append(f'<polyline class="{group.style}" points="{path}"/>')
        body += [f'<circle class="{group.style}" cx="{a}" cy="{b}" r="3.2"/>' for a, b in places]
    return _frame(body, groups, x, y, title, x_name, y_name)


def bars(heights: Sequence[float], y: Axis, *, title: str, x_name: str, y_name: str) -> str:
    """A bar for each layer."""
    width = 1 / max(1, len(heights))
    body = []
    for index, height in enumerate(heights):
        left, top = _x((index + 0.1) * width), _y(y.place(height))
        name = f"<title>layer {index}: {height:.1%}</title>"
        size = f'width="{0.8 * width * _span():.2f}" height="{max(0.0, _y(0) - top):.2f}"'
        body.append(f'<rect class="a" x="{left}" y="{top}" {size}>{name}</rect>')
    every = max(1, math.ceil(len(heights) / 8))
    ticks = [((i + 0.5) * width, str(i)) for i in range(0, len(heights), every)]
    return _frame(body, (), Axis(lambda value: value, ticks), y, title, x_name, y_name)


def _span() -> float:
    return float(WIDTH - LEFT - RIGHT)


def _x(share: float | int) -> float:
    return round(LEFT + share * _span(), 2)


def _y(share: float | int) -> float:
    return round(float(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)), 2)


def _frame(
    body: Sequence[str], groups: Sequence[Points], x: Axis, y: Axis, title: str, x_name: str, y_name: str
) -> str:
    """The body between axes, as a figure with its title and legend."""
    marks = []
    for share, text in x.ticks:
        marks.append(f'<line class="hair" x1="{_x(share)}" y1="{_y(0)}" x2="{_x(share)}" y2="{_y(1)}"/>')
        marks.append(f'<text x="{_x(share)}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{escape(text)}</text>')
    for share, text in y.ticks:
        marks.append(f'<line class="hair" x1="{_x(0)}" y1="{_y(share)}" x2="{_x(1)}" y2="{_y(share)}"/>')
        marks.append(f'<text x="{LEFT - 6}" y="{_y(share) + 4}" text-anchor="end">{escape(text)}</text>')
    middle = (HEIGHT - BOTTOM + TOP) / 2
    marks.append(f'<text class="name" x="{_x(0.5)}" y="{HEIGHT - 8}" text-anchor="middle">{escape(x_name)}</text>')
    marks.append(
        f'<text class="name" x="12" y="{middle}" text-anchor="middle" transform="rotate(-90 12 {middle})">'
        f"{escape(y_name)}</text>"
    )
    legend = "".join(f'<span class="{g.style}">{escape(g.label)}</span>' for g in groups if g.label)
    svg = (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{"".join([*marks, *body])}</svg>'
    )
    return f'<figure><figcaption>{escape(title)}</figcaption>{svg}<p class="legend">{legend}</p></figure>'
