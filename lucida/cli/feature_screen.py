"""How features look in a terminal: cards with graded colours, scans of a text. Without colours marks say the same."""

from typing import TYPE_CHECKING

from lucida.cli.screen import console

if TYPE_CHECKING:
    from rich.text import Text

    from lucida.features.reading.card import FeatureCard, ShownExample
    from lucida.features.reading.watch import Watch

SHADES = (
    (0.75, "black on dark_orange"),
    (0.5, "black on orange1"),
    (0.25, "black on light_goldenrod1"),
    (0.0, "yellow"),
)
"""From which share of a feature's maximum on a token has which colours."""
GROUPS = 12
"""Labels that are listed below a scan."""


def shade(share: float) -> str:
    """The style for an activation, as a share of the feature's maximum."""
    return next((style for least, style in SHADES if share > least), "")


def show_card(card: "FeatureCard") -> None:
    """Print everything about a feature."""
    screen = console()
    screen.print(card.title, style="bold")
    for line in card.facts():
        screen.print(line)
    if card.stats.is_silent:
        screen.print(card.silence)
        return
    for heading, examples in card.sections():
        screen.print(f"\n{heading}", style="bold")
        for example in examples:
            screen.print(_example(example))


def _example(example: "ShownExample") -> "Text":
    from rich.text import Text

    from lucida.features.reading.card import mark

    line = Text(f"{example.value:>8.3g}  ")
    for span in example.spans:
        piece = mark(span, example.peak_share)
        body = piece.lstrip(" ")
        line.append(piece[: len(piece) - len(body)])
        line.append(body, style=shade(span.share))
    return line


def show_watch(found: "Watch") -> None:
    """Print a scan: for each token what is on, then what was on over all of it."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from lucida.features.reading.watch import by_label, describe

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("#", justify="right")
    table.add_column("token", no_wrap=True)
    table.add_column("on", justify="right")
    table.add_column("the strongest features, relative to their maximum", overflow="fold")
    for token in found.tokens:
        line = Text()
        for group in by_label(token.features):
            line.append("; " if line else "")
            line.append(describe(group), style=shade(group[0].strength))
        table.add_row(str(token.position), repr(token.text), str(token.n_active), line)
    screen = console()
    screen.print(table)
    _show_groups(found)


def _show_groups(found: "Watch") -> None:
    screen = console()
    several = [group for group in found.groups if len(group.positions) > 1][:GROUPS]
    if several:
        screen.print("On at several tokens", style="bold")
    for group in several:
        tokens = " ".join(repr(found.prompt.strings[position].strip()) for position in group.positions)
        screen.print(f"  {group.name}: {tokens}")
