"""What all readers share: finding files in a folder and the layers they belong to, and a fingerprint."""

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from lucida.dictionaries.weights import Source
from lucida.errors import DictionaryError


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
