"""Which feature index a command reads: a folder, or the one that is shipped for a dictionary."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from lucida.features.index import FeatureIndex

index_option = click.option(
    "--index",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="The feature index.  [default: the one that comes with the dictionary]",
)
dictionary_option = click.option(
    "--dictionaries",
    metavar="NAME|FOLDER",
    help="Read the index that comes with this dictionary.  [default: that of smollm2-135m]",
)
place_argument = click.argument("place", nargs=-1, required=True, metavar="LAYER INDEX")


def open_index(folder: Path | None, dictionary: str | None) -> "FeatureIndex":
    """The index in `folder`, else the one beside the dictionary of this name or folder (None: SmolLM2's default).

    Raises FeatureError when there is none, with what to try.
    """
    from lucida.features.index import FeatureIndex

    return FeatureIndex.open(folder if folder is not None else shipped_index(dictionary))


def shipped_index(dictionary: str | None) -> Path:
    """The folder of the index that comes with a dictionary. Raises FeatureError when none does."""
    from lucida.dictionaries import default_dictionary
    from lucida.errors import FeatureError
    from lucida.features.shipped import find_index

    if dictionary is None:
        default = default_dictionary("smollm2-135m")
        if default is None:
            raise FeatureError("no dictionary of smollm2-135m is here, and so no index; give --index FOLDER")
        dictionary = default.name
    return find_index(dictionary)


def read_place(parts: Sequence[str], *, rest: int = 0) -> tuple[int, int, list[str]]:
    """Layer and feature from ``12 345`` or ``12:345`` at the beginning of `parts`, and the `rest` words behind them."""
    together = re.fullmatch(r"(\d+)[:/](\d+)", parts[0]) if parts else None
    if together:
        place, left = (together[1], together[2]), list(parts[1:])
    else:
        place, left = tuple(parts[:2]), list(parts[2:])
    if len(place) != 2 or not all(part.isdigit() for part in place) or len(left) != rest:
        after = " and a label" if rest else ""
        raise click.UsageError(f"{' '.join(parts)!r} is not a feature such as 12:345 or 12 345{after}")
    return int(place[0]), int(place[1]), left
