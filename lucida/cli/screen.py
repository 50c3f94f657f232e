"""What the terminal shows: progress on standard error, results on standard output."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

BAR_WIDTH = 20
LAST_COLUMN = 16
FILE_WIDTH = 120
"""Columns of tables that go to a file or a pipe, which have no width of their own."""


def console(*, stderr: bool = False) -> "Console":
    """A console that writes tokens as they are: brackets are no markup, :words: no emoji."""
    from rich.console import Console

    screen = Console(stderr=stderr, markup=False, highlight=False, emoji=False, soft_wrap=True)
    if not screen.is_terminal and "COLUMNS" not in os.environ:
        screen.width = FILE_WIDTH
    return screen


def bar(share: float | int, width: int = BAR_WIDTH) -> str:
    """A horizontal bar of the given share (0 to 1) of `width` characters."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    return "█" * (eighths // 8) + ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")[eighths % 8]


def percent(share: float | int) -> str:
    """A share as a reader wants it: ``29.3 %``; ``< 0.1 %`` when it is tiny but not zero."""
    return "< 0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"


def size(count: float | int) -> str:
    """A number of bytes in decimal units: ``93 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit in ("B", "kB", "MB") else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def show_table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    right: Sequence[int] = (),
    wrap: Sequence[int] = (),
) -> None:
    """Print rows under column names, which may all be empty.

    Columns whose index is in `right` are aligned to the right; the last one and those in `wrap` may
    go on in a second line where the screen is narrow.
    """
    from rich import box
    from rich.table import Table

    table = Table(
        title=title or None, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD,
        show_header=any(columns), pad_edge=False,
    )  # fmt: skip
    for index, column in enumerate(columns):
        is_last = index == len(columns) - 1
        width = LAST_COLUMN if is_last and wrap else len(column)
        side = "right" if index in right else "left"
        table.add_column(
            column, justify=side, overflow="fold", no_wrap=not is_last and index not in wrap, min_width=width
        )
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    console().print(table)


def show_json(result: object) -> None:
    """Print one JSON document; numbers that JSON has no word for become null."""
    click.echo(json.dumps(_plain(result), ensure_ascii=False, indent=2, allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if (isinstance(value, float) and value != value) or value in (float("inf"), float("-inf")):
        return None
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


@contextmanager
def progress(*, quiet: bool = False) -> Iterator[Callable[[str, int, int | None], None] | None]:
    """Yield a function ``(what, done, total)`` that shows how far the work is, or None when quiet.

    On a terminal a bar for each kind of work; elsewhere one line when a kind of work begins.
    """
    if quiet:
        yield None
        return
    terminal = console(stderr=True)
    if terminal.is_terminal:
        yield from _bars(terminal)
        return
    begun: set[str] = set()

    def line(what: str, done: int, total: int | None) -> None:
        if what not in begun:
            begun.add(what)
            click.echo(f"{what} ...", err=True)

    yield line


def _bars(terminal: "Console") -> Iterator[Callable[[str, int, int | None], None]]:
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=terminal, transient=True) as bars:
        tasks: dict[str, Any] = {}

        def move(what: str, done: int, total: int | None) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield move
