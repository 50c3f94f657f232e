"""What all readers share: finding files in a folder, reading its settings safely, and its fingerprint."""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from lucida.dictionaries.weights import Source
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


def files_named(folder: Path, *patterns: str) -> list[Path]:
    """The files in the folder, or at most three folders below, whose names match one of the patterns."""
    found: set[Path] = set()
    for pattern in patterns:
        for depth in ("", "*/", "*/*/", "*/*/*/"):
            found.update(path for path in folder.glob(depth + pattern) if path.is_file())
    return sorted(found)


def by_layer(folder: Path, layers: Iterable[tuple[int | None, Path]]) -> dict[int, Path]:
    """One path for each layer, ascending. Raises DictionaryError when a layer is unknown or has two."""
    found: dict[int, Path] = {}
    for layer, path in layers:
        name = path.relative_to(folder)
        if layer is None:
            raise DictionaryError(f"cannot tell which layer {name} in {folder} belongs to; name it layer_N")
        if layer in found:
            other = found[layer].relative_to(folder)
            raise DictionaryError(f"{folder} has two dictionaries for layer {layer}: {other} and {name}; keep one")
        found[layer] = path
    return dict(sorted(found.items()))


def layer_in(text: str) -> int | None:
    """The layer that a path says, as in `layer_3/width_16k` or `params_layer_3.safetensors`."""
    match = re.search(r"(?:^|[^a-z])layer_?(\d+)", text)
    return int(match[1]) if match else None


def number_of_layers(layers: Iterable[int], asked: int | None, where: Path) -> int:
    """How many layers the model has: as asked, else up to the last one that has features."""
    last = max(layers)
    if asked is not None and asked <= last:
        raise DictionaryError(f"{where} has features at layer {last}, the model has {asked} layers")
    return last + 1 if asked is None else asked


def biases_of_layers(biases: dict[int, Tensor], n_layers: int) -> Tensor:
    """Decoder biases [layer, d_model] from those of some layers; zeros for the others."""
    d_model = max(len(bias) for bias in biases.values())
    table = torch.zeros(n_layers, d_model)
    for layer, bias in biases.items():
        table[layer, : len(bias)] = bias.to(torch.float32)
    return table


def describe(folder: Path) -> str:
    """The first few names in a folder, for error messages."""
    names = sorted(path.name for path in folder.iterdir())
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return (", ".join(names[:5]) or "nothing") + more


def source_of(folder: Path, format: str, files: Iterable[Path]) -> Source:
    """Where a dictionary came from; of each file the name, the size and 4 KiB at nine places are hashed."""
    digest = hashlib.sha256()
    for path in sorted(set(files)):
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder).as_posix()}\0{size}\0".encode())
        with path.open("rb") as file:
            for eighth in range(9):
                file.seek(max(0, min(size * eighth // 8, size - 4096)))
                digest.update(file.read(4096))
    return Source(str(folder), format, digest.hexdigest())


def text_or_none(settings: Mapping[str, Any], name: str) -> str | None:
    """The text under a name, or None when absent or empty."""
    value = settings.get(name)
    return value if isinstance(value, str) and value else None
