"""Feature indexes that come with shipped dictionaries: the folder ``index`` beside the weights."""

from pathlib import Path

from lucida.dictionaries import find_dictionary
from lucida.errors import FeatureError
from lucida.features.header import HEADER

FOLDER = "index"


def find_index(dictionary: str) -> Path:
    """The folder of the index that is shipped with the dictionary of this name.

    Raises FeatureError when it has none, DictionaryError when there is no such dictionary.
    """
    folder = find_dictionary(dictionary) / FOLDER
    if not (folder / HEADER).is_file():
        raise FeatureError(
            f"no feature index is shipped with {dictionary}; make one with lucida index, or give --index FOLDER"
        )
    return folder
