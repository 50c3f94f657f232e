"""Feature indexes that come with shipped dictionaries: the folder ``index`` beside the weights."""

from pathlib import Path

from lucida.dictionaries import find_dictionary
from lucida.errors import FeatureError
from lucida.features.header import HEADER

FOLDER = "index"


def index_beside(dictionary: str | Path | None) -> Path | None:
    """The folder of the index that lies in the folder of a dictionary; None where there is none."""
    folder = None if dictionary is None else Path(dictionary) / FOLDER
    return folder if folder is not None and (folder / HEADER).is_file() else None


def find_index(dictionary: str) -> Path:
    """The folder of the index that is shipped with the dictionary of this name.

    Raises FeatureError when it has none, DictionaryError when there is no such dictionary.
    """
    folder = index_beside(find_dictionary(dictionary))
    if folder is None:
        raise FeatureError(
            f"no feature index is shipped with {dictionary}; make one with lucida index, or give --index FOLDER"
        )
    return folder
