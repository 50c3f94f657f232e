"""`lucida features`: find features by words, likeness or contrast, read one's card, name it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lucida.cli import feature_exchange, feature_labels
from lucida.cli.feature_index import dictionary_option, index_option, open_index, place_argument, read_place
from lucida.cli.options import TokenIds, model_options, output_options
from lucida.cli.screen import percent, progress, show_json, show_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lucida.features.index import FeatureIndex
    from lucida.features.reading.card import FeatureCard, ShownExample
    from lucida.features.reading.contrast import Contrast, PrecisionRecall


@click.group()
def features() -> None:
    """Find, read, name and trade features: what each fires on and what it does."""


@features.command()
@click.argument("text")
@click.option("--count", type=click.IntRange(min=1), default=20, show_default=True, help="Features to show.")
@index_option
@dictionary_option
@output_options
def search(text: str, count: int, index: Path | None, dictionaries: str | None, quiet: bool, as_json: bool) -> None:
    """Find features that fire on the words of TEXT, promote them, or have them in their label.

    Forms of a word meet: smallness finds small.
    """
    from dataclasses import asdict

    opened = open_index(index, dictionaries)
    _prepare(opened, quiet=quiet)
    found = opened.search(text, count=count)
    if as_json:
        show_json([asdict(match) for match in found])
    elif found:
        rows = [(f"{m.layer}:{m.feature}", f"{m.score:.2f}", ", ".join(m.words), m.label) for m in found]
        show_table("", ("feature", "score", "found by", "label"), rows, right=(1,), wrap=(2,))
    else:
        click.echo(f"no feature of {opened.header.dictionary} goes with {text!r}")


def _prepare(index: "FeatureIndex", *, quiet: bool) -> None:
    """Make the search table of an index that has none yet."""
    from lucida.features.reading.search_table import build_search, has_search
    from lucida.progress import silent

    if not has_search(index):
        with progress(quiet=quiet) as report:
            build_search(index.folder, progress=report or silent)


@features.command()
@place_argument
@index_option
@dictionary_option
@output_options
def show(place: tuple[str, ...], index: Path | None, dictionaries: str | None, quiet: bool, as_json: bool) -> None:
    """Show everything about one feature: label, frequency, effects, examples.

    The feature is 12 345 or 12:345. In examples «» holds the token where it is strongest, ‹› others of at least half
    that; on a terminal colours grade all of them.
    """
    from lucida.cli.feature_screen import show_card

    layer, feature, _ = read_place(place)
    card = open_index(index, dictionaries).card(layer, feature)
    if as_json:
        show_json(_record(card))
    else:
        show_card(card)


@features.command()
@place_argument
@index_option
@dictionary_option
@output_options
def similar(place: tuple[str, ...], index: Path | None, dictionaries: str | None, quiet: bool, as_json: bool) -> None:
    """List the features whose decoders point the most the same way, in any layer. The feature is 12 345 or 12:345."""
    from dataclasses import asdict

    layer, feature, _ = read_place(place)
    opened = open_index(index, dictionaries)
    found = opened.similar(layer, feature)
    if as_json:
        show_json([asdict(other) for other in found])
    elif opened.effects(layer, feature) is None:
        click.echo(f"the effects of {opened.folder} were not computed, and with them the likeness of features")
    else:
        rows = [(f"{other.layer}:{other.feature}", f"{other.cosine:+.3f}", other.label) for other in found]
        show_table("", ("feature", "cosine", "label"), rows, right=(1,))


@features.command()
@click.argument("place", nargs=-1, required=True, metavar="LAYER INDEX TEXT")
@click.option("--author", help="Who gives the label.  [default: the name of the user]")
@index_option
@dictionary_option
@output_options
def label(
    place: tuple[str, ...],
    author: str | None,
    index: Path | None,
    dictionaries: str | None,
    quiet: bool,
    as_json: bool,
) -> None:
    """Give a feature a label of your own, which is shown before any other; an empty TEXT takes it away.

    For example: lucida features label 12:345 "words for small".
    """
    from dataclasses import asdict
    from getpass import getuser

    layer, feature, (text,) = read_place(place, rest=1)
    given = open_index(index, dictionaries).set_label(layer, feature, text, author=author or getuser())
    if as_json:
        show_json(asdict(given))
    elif not quiet:
        click.echo(f"{layer}:{feature} is now {given.label!r}" if given.label else f"{layer}:{feature} lost its label")


@features.command()
@click.option("--with", "with_", type=click.Path(path_type=Path, dir_okay=False), required=True, metavar="FILE",
              help="Texts with the concept, one a line.")  # fmt: skip
@click.option("--without", type=click.Path(path_type=Path, dir_okay=False), required=True, metavar="FILE",
              help="Texts without it, one a line; best alike in all else.")  # fmt: skip
@click.option("--count", type=click.IntRange(min=1), default=20, show_default=True, help="Features to show.")
@click.option("--test-with", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Other texts with the concept, to measure what is found on.")  # fmt: skip
@click.option("--test-without", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
              help="Other texts without it.")  # fmt: skip
@click.option("--ids", is_flag=True, help="The lines of the files are token ids, such as 1,2,3.")
@index_option
@model_options
@output_options
def contrast(quiet: bool, as_json: bool, **options: Any) -> None:
    """Find the features that tell texts with a concept from texts without it, with statistics.

    The best of thousands looks better on the texts that chose it than it is: give --test-with and --test-without to
    measure it on others.
    """
    from dataclasses import asdict

    from lucida.cli.watch import open_scope

    names = ("with_", "without", "test_with", "test_without")
    texts = {name: _texts(options[name], as_ids=options["ids"]) for name in names}
    if bool(texts["test_with"]) != bool(texts["test_without"]):
        raise click.UsageError("--test-with and --test-without go together")
    with progress(quiet=quiet) as report:
        scope, index = open_scope(options, report)
        found = scope.contrast(texts["with_"], texts["without"], index, progress=report)
        held_out = []
        if texts["test_with"]:
            places = [(s.layer, s.feature, s.threshold) for s in found.separations[: options["count"]]]
            held_out = scope.precision_recalls(places, texts["test_with"], texts["test_without"], index)
    if as_json:
        rows = [{**asdict(each), "label": _label(index, each.layer, each.feature)} for each in found.separations]
        document = {**asdict(found), "separations": rows[: options["count"]]}
        show_json({**document, "held_out": [_measured(each) for each in held_out]})
        return
    _show_contrast(found, index, options["count"], quiet=quiet)
    if held_out:
        _show_held_out(held_out, index)


def _texts(path: Path | None, *, as_ids: bool) -> list[Any]:
    """The lines of a file that are not empty, as texts or as lists of token ids."""
    from lucida.errors import FeatureError

    if path is None:
        return []
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FeatureError(f"{path} cannot be read as text; give a UTF-8 file with a text on each line") from error
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise FeatureError(f"{path} has no text; give a text on each line")
    return [TokenIds().convert(line, None, None) for line in found] if as_ids else found


def _label(index: "FeatureIndex | None", layer: int, feature: int) -> str:
    found = None if index is None else index.label(layer, feature)
    return found.label if found else ""


def _show_contrast(found: "Contrast", index: "FeatureIndex | None", count: int, *, quiet: bool) -> None:
    rows = [
        (
            f"{s.layer}:{s.feature}", f"{s.auc:.2f}", f"{s.p:.2g}", f"{s.q:.2g}", percent(s.fires_with),
            percent(s.fires_without), f"{s.mean_with:.2f}", f"{s.mean_without:.2f}", _label(index, s.layer, s.feature),
        )
        for s in found.separations[:count]
    ]  # fmt: skip
    columns = ("feature", "auc", "p", "q", "fires with", "without", "mean max with", "without", "label")
    show_table("", columns, rows, right=range(1, 8))
    if not quiet:
        sides = f"{found.n_with} texts with, {found.n_without} without"
        tested = f"{found.n_fired:,} features fired, {found.n_tested:,} often enough to be tested"
        sure = f"{len(found.significant()):,} with q up to 0.05 (p is {'exact' if found.exact else 'approximate'})"
        click.echo(f"{sides}; {tested}; {sure}")
    for warning in found.warnings:
        click.echo(f"note: {warning}", err=True)


def _show_held_out(found: "Sequence[PrecisionRecall]", index: "FeatureIndex | None") -> None:
    rows = []
    for each in found:
        cells = [f"{each.layer}:{each.feature}", f"{each.threshold:.3g}"]
        shares = ((each.precision, each.precision_interval), (each.recall, each.recall_interval))
        for share, (low, high) in shares:
            cells += ["none picked", ""] if share is None else [percent(share), f"{low:.2f} to {high:.2f}"]
        rows.append((*cells, _label(index, each.layer, each.feature)))
    columns = ("feature", "above", "precision", "95 %", "recall", "95 %", "label")
    show_table("On the other texts", columns, rows, right=range(1, 6))


def _measured(found: "PrecisionRecall") -> dict[str, Any]:
    from dataclasses import asdict

    names = ("precision", "recall", "precision_interval", "recall_interval")
    return {**asdict(found), **{name: getattr(found, name) for name in names}}


def _record(card: "FeatureCard") -> dict[str, Any]:
    """A card as JSON."""
    from dataclasses import asdict

    names = ("promoted", "suppressed", "excited_by_tokens")
    tokens = {name: [{"text": t, "by": by} for t, by in getattr(card, name)] for name in names}
    return {
        **asdict(card.stats),
        "label": None if card.label is None else asdict(card.label),
        **tokens,
        "driven_by": [asdict(other) for other in card.driven_by],
        "nearest": [asdict(other) for other in card.nearest],
        "top": [_example(example) for example in card.top],
        "samples": [_example(example) for example in card.samples],
        "places": card.n_places,
        "corpus": card.corpus,
    }


def _example(example: "ShownExample") -> dict[str, Any]:
    tokens = [{"text": span.text, "share": span.share} for span in example.spans]
    return {"value": example.value, "band": example.band, "text": example.text(), "tokens": tokens}


feature_labels.register(features)
feature_exchange.register(features)
