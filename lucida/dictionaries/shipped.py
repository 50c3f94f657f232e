"""Dictionaries that come in data packages: which are installed or lie in this checkout, found without torch.

A data package has an entry point `name = "package"` in the group `lucida.dictionaries`; the package is a
folder in our own format. It is looked up, never imported. In a source checkout the folder `packages/`
beside `lucida/` is searched too, so that a clone works before anything is installed.
"""

import os
from dataclasses import dataclass
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from lucida.dictionaries.formats.manifest import MANIFEST, read_manifest
from lucida.errors import DictionaryError, suggest

if TYPE_CHECKING:
    from lucida.dictionaries.dictionary import Dictionary

GROUP = "lucida.dictionaries"
CHECKOUT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class ShippedDictionary:
    """A dictionary that is here: the model it was made for, what kind it is, and whether it is that model's default."""

    name: str
    model: str
    kind: str
    folder: Path
    is_default: bool


def shipped_dictionaries(model_name: str | None = None) -> list[ShippedDictionary]:
    """The shipped dictionaries of a model, or of all models, by name. The checkout's come before installed ones.

    Names are compared in any case and without an organisation. Raises DictionaryError when a package of
    dictionaries is damaged or its files are gone.
    """
    found: dict[str, ShippedDictionary] = {}
    for folder in [*_in_checkout(CHECKOUT), *_installed()]:
        shipped = _described(folder)
        found.setdefault(shipped.name, shipped)
    ordered = sorted(found.values(), key=lambda shipped: shipped.name)
    return [shipped for shipped in ordered if model_name is None or _plain(shipped.model) == _plain(model_name)]


def default_dictionary(model_name: str) -> ShippedDictionary | None:
    """The shipped dictionary whose card says that it is the model's default, or None.

    Raises DictionaryError when two say so.
    """
    defaults = [shipped for shipped in shipped_dictionaries(model_name) if shipped.is_default]
    if len(defaults) > 1:
        names = ", ".join(shipped.name for shipped in defaults)
        raise DictionaryError(f"{model_name} has {len(defaults)} default dictionaries ({names}); name the one to use")
    return defaults[0] if defaults else None


def find_dictionary(where: str | Path) -> Path:
    """The folder of a dictionary: that of a shipped one for a name in any case, else the folder itself.

    Raises DictionaryError, listing what is known, when it is neither.
    """
    folder = Path(where).expanduser()
    if isinstance(where, Path) or "/" in where or os.sep in where:
        return folder
    shipped = {found.name.casefold(): found for found in shipped_dictionaries()}
    if found := shipped.get(where.casefold()):
        return found.folder
    if folder.exists():
        return folder
    known = ", ".join(found.name for found in shipped.values()) or "none"
    raise DictionaryError(
        f"no dictionary is named {where!r}{suggest(where.casefold(), list(shipped))} (shipped here: {known}; "
        'or give a folder, or "neurons" for the model\'s own)'
    )


def open_dictionary(where: str | Path, *, n_layers: int | None = None) -> "Dictionary":
    """The dictionary of this name, or in this folder. See `find_dictionary` and `load_dictionary`."""
    from lucida.dictionaries.formats.table import load_dictionary

    return load_dictionary(find_dictionary(where), n_layers=n_layers)


def _in_checkout(root: Path) -> list[Path]:
    # An installed copy of lucida has neighbours that are none of ours.
    if not (root / "pyproject.toml").is_file():
        return []
    return sorted(path.parent for path in root.glob(f"packages/*/lucida_dictionary_*/{MANIFEST}"))


def _installed() -> list[Path]:
    folders = []
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        # Only the parent of a dotted name would be imported to find it, so only plain names are looked up.
        spec = find_spec(entry.value) if entry.value.isidentifier() else None
        places = [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []
        folder = next((place for place in places if (place / MANIFEST).is_file()), None)
        if folder is None:
            raise DictionaryError(
                f"the package of dictionary {entry.name} is installed without its files; reinstall it"
            )
        folders.append(folder)
    return folders


def _described(folder: Path) -> ShippedDictionary:
    manifest = read_manifest(folder)
    if not manifest.model_name:
        raise DictionaryError(f"shipped dictionary {manifest.name} in {folder} does not say its model; reinstall it")
    is_default = manifest.card.get("default") is True
    return ShippedDictionary(manifest.name, manifest.model_name, manifest.kind, folder, is_default)


def _plain(model_name: str) -> str:
    return model_name.rstrip("/").rsplit("/", 1)[-1].casefold()
