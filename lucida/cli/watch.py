"""`lucida watch`: which features are on at each token while the model reads a text."""

from typing import TYPE_CHECKING, Any

import click

from lucida.cli.feature_index import index_option
from lucida.cli.options import model_options, output_options, prompt_options, read_prompt
from lucida.cli.screen import progress, show_json

if TYPE_CHECKING:
    from lucida.features.index import FeatureIndex
    from lucida.microscope import Microscope


@click.command()
@click.argument("text", required=False)
@click.option("--count", type=click.IntRange(min=1), default=4, show_default=True, help="Features of each token.")
@click.option(
    "--densest",
    type=click.FloatRange(0, 1),
    default=0.05,
    show_default=True,
    help="Leave out features that are on at more than this share of all text.",
)
@index_option
@model_options
@prompt_options
@output_options
def watch(text: str | None, quiet: bool, as_json: bool, **options: Any) -> None:
    """Show which features are on at each token of TEXT, the strongest relative to their maximum.

    The first token is left out. Without an index features have numbers for names, and are compared within their layer.
    """
    from dataclasses import asdict

    from lucida.cli.feature_screen import show_watch

    asked = read_prompt(text, options["ids"], chat=options["chat"])
    with progress(quiet=quiet) as report:
        scope, index = open_scope(options, report)
        found = scope.watch(asked, index, count=options["count"], densest=options["densest"])
    if as_json:
        show_json({**asdict(found), "groups": [asdict(group) for group in found.groups]})
        return
    show_watch(found)
    if index is None and not quiet:
        click.echo("note: no feature index is here, so features have no labels; give --index FOLDER", err=True)


def open_scope(options: dict[str, Any], report: Any) -> "tuple[Microscope, FeatureIndex | None]":
    """The microscope that the options ask for, and its index: the given one, else that of its dictionary, if any.

    Raises FeatureError for an index of another dictionary.
    """
    from lucida.errors import FeatureError
    from lucida.features.shipped import find_index
    from lucida.microscope import Microscope

    names = ("dtype", "device", "offline", "allow_unverified")
    scope = Microscope(
        options["model"], options["dictionaries"], **{name: options[name] for name in names}, progress=report
    )
    if options["index"] is not None:
        return scope, scope.features(options["index"])
    source = scope.dictionary.source.path if scope.dictionary else None
    try:
        folder = find_index(source) if source else None
    except FeatureError:
        folder = None
    return scope, None if folder is None else scope.features(folder)
