"""What a server finds when it starts: its folder, and the features and index that its model is seen through."""

from pathlib import Path

from lucida.dictionaries.formats.manifest import MANIFEST, read_manifest
from lucida.dictionaries.shipped import default_dictionary, find_dictionary
from lucida.errors import DictionaryError, FeatureError
from lucida.features.index import FeatureIndex
from lucida.features.shipped import index_beside
from lucida.models.cache import cache_root
from lucida.models.registry import entry_of_hub_id, find_entry, is_known
from lucida.server.workspace import Workspace

FOLDER = "page"


def open_workspace(folder: Path | None, model: str, dictionaries: str | None, index: Path | None) -> Workspace:
    """The workspace in a folder (by default `page` in the cache), with the index given or beside the features.

    Raises DictionaryError for features that do not exist, FeatureError for an index that is damaged.
    """
    features = _features(model, dictionaries)
    beside = index_beside(features) if index is None else index
    opened = None if beside is None else FeatureIndex.open(beside)
    place = cache_root() / FOLDER if folder is None else folder.expanduser()
    try:
        return Workspace(place, index=opened, dictionary_name=_name(features))
    except OSError as error:
        raise FeatureError(f"cannot keep graphs in {place}: {error.strerror}; give another --folder") from error


def _features(model: str, dictionaries: str | None) -> Path | None:
    """The folder of the features, None for neurons: as `Microscope` finds them, without torch."""
    if dictionaries is not None:
        return None if dictionaries == "neurons" else find_dictionary(dictionaries)
    entry = find_entry(model) if is_known(model) else entry_of_hub_id(model)
    default = default_dictionary(entry.name) if entry else None
    return default.folder if default else None


def _name(features: Path | None) -> str:
    if features is None:
        return "neurons"
    try:
        return read_manifest(features).name if (features / MANIFEST).is_file() else features.name
    except DictionaryError:
        return features.name
