"""Settings of strangers, read safely: plain YAML and JSON of bounded size, and paths that stay in their folder."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from lucida.errors import DictionaryError

_LARGEST_SETTINGS = 1 << 20
_DEEPEST = 16


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file: plain data only, no aliases.

    Raises DictionaryError when the file is missing, damaged, huge or not a mapping.
    """
    text = _read_settings(path)
    try:
        settings = yaml.load(text, Loader=_PlainLoader)
    except (yaml.YAMLError, ValueError) as error:
        raise DictionaryError(f"{path} is not plain YAML; mend or fetch it again") from error
    return _mapping(settings, path)


class _PlainLoader(yaml.SafeLoader):
    """The safe loader without aliases (they can unfold without bound) and deep nesting (it costs hours)."""

    _depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent) or self._depth > _DEEPEST:
            raise yaml.YAMLError("aliases and deep nesting are refused")
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises DictionaryError when it is missing, damaged, huge or not an object.
    """
    text = _read_settings(path)
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DictionaryError(f"{path} is not JSON; mend or fetch it again") from error
    return _mapping(settings, path)


def _read_settings(path: Path) -> str:
    try:
        if path.stat().st_size > _LARGEST_SETTINGS:
            raise DictionaryError(f"{path} is larger than 1 MiB; settings are small")
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise DictionaryError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DictionaryError(f"{path} is not text; fetch it again") from error


def _mapping(settings: Any, path: Path) -> dict[str, Any]:
    if not isinstance(settings, dict):
        raise DictionaryError(f"{path} holds a {type(settings).__name__}, expected names and values")
    return {str(key): value for key, value in settings.items()}


def inside(folder: Path, entry: object) -> Path:
    """The path of a file that settings name, which must lie in the dictionary's folder.

    Raises DictionaryError for anything that leads out of the folder or points to a hub.
    """
    if not isinstance(entry, str) or not entry:
        raise DictionaryError(f"{folder} lists {str(entry)[:80]!r} as a file; expected a path in the folder")
    if "://" in entry:
        raise DictionaryError(f"{folder} lists {entry}: fetch that file into the folder and list it by its path there")
    # Only the name is checked: the hub's cache keeps its files behind symbolic links.
    if os.path.isabs(entry) or os.path.normpath(entry).split(os.sep)[0] == os.pardir:
        raise DictionaryError(f"{folder} lists {entry}, which lies outside the folder; refused")
    return folder / entry


def text_or_none(settings: Mapping[str, Any], name: str) -> str | None:
    """The text under a name, or None when absent or empty."""
    value = settings.get(name)
    return value if isinstance(value, str) and value else None
