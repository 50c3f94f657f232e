"""dictionary.json of our own format: what a folder holds, file by file, and where it came from. Needs no torch."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lucida.dictionaries.formats.settings import inside, read_json
from lucida.errors import DictionaryError

MANIFEST = "dictionary.json"
FORMAT, VERSION = "lucida dictionary", 1
FLOATS = (16, 32)
"""Bits that mean floating-point numbers, stored as they are; others are whole steps."""


@dataclass(frozen=True)
class LayerShape:
    """The features that read at one layer: how many, to how many layers they write, k of TopK, a skip or not."""

    layer: int
    n_features: int
    span: int
    k: int | None = None
    skip: bool = False


@dataclass(frozen=True)
class WeightFile:
    """One file of weights: its name in the folder, its size in bytes, its sha256."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What dictionary.json says. `card` is free: data, recipe, seeds, metrics, and `default` (true or false)."""

    name: str
    model_name: str | None
    n_layers: int
    d_model: int
    activation: str
    reads_at: str
    writes_at: str
    bits: int | float
    layers: tuple[LayerShape, ...]
    files: tuple[WeightFile, ...]
    licence: str
    card: dict[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """Which layers features write to: ``per-layer``, ``cross-layer`` (all from their own up) or ``windowed``."""
        spans = {shape.layer: shape.span for shape in self.layers}
        if all(span == 1 for span in spans.values()):
            return "per-layer"
        reaches_top = all(layer + span == self.n_layers for layer, span in spans.items())
        return "cross-layer" if reaches_top else "windowed"

    @property
    def n_weights(self) -> int:
        """Numbers in encoders, decoders and skip connections."""
        rows = sum(s.n_features * (1 + s.span) + (self.d_model if s.skip else 0) for s in self.layers)
        return rows * self.d_model

    @property
    def size(self) -> int:
        """Bytes of all files of weights."""
        return sum(file.size for file in self.files)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write dictionary.json. Raises DictionaryError when the card is not plain JSON, OSError as the system does."""
    document = {"format": FORMAT, "version": VERSION, **asdict(manifest)}
    try:
        text = json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DictionaryError(f"the card of {manifest.name} is not plain JSON: {error}") from error
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> Manifest:
    """What dictionary.json in a folder says, types and file names checked.

    Raises DictionaryError when it is missing, damaged, of another version, or names a file elsewhere.
    """
    path = folder / MANIFEST
    found = read_json(path)
    if found.get("format") != FORMAT:
        raise DictionaryError(f"{path} is not of a {FORMAT}: its format is {str(found.get('format'))[:80]!r}")
    if found.get("version") != VERSION:
        version = str(found.get("version"))[:20]
        raise DictionaryError(f"{path} is of version {version}, this program reads {VERSION}; update camera-lucida")
    get = _Reader(path, found)
    layers = tuple(_layer(_Reader(path, shape)) for shape in get("layers", list))
    if not layers or len({shape.layer for shape in layers}) < len(layers):
        raise DictionaryError(f"{path} lists {'a layer twice' if layers else 'no layer'}; fetch it again")
    if not get("n_layers", int) or not get("d_model", int):
        raise DictionaryError(f"{path} tells of a model without layers or width; fetch it again")
    return Manifest(
        name=get("name", str),
        model_name=get("model_name", str, None),
        n_layers=get("n_layers", int),
        d_model=get("d_model", int),
        activation=get("activation", str),
        reads_at=get("reads_at", str),
        writes_at=get("writes_at", str),
        bits=get("bits", int, float),
        layers=layers,
        files=tuple(_file(folder, _Reader(path, file)) for file in get("files", list)),
        licence=get("licence", str),
        card=get("card", dict),
    )


@dataclass(frozen=True)
class _Reader:
    """Entries of one object in the file, each of a type it may have; numbers are counts."""

    path: Path
    found: Any

    def __call__(self, name: str, *types: type | None) -> Any:
        value = self.found.get(name) if isinstance(self.found, dict) else None
        allowed = tuple(type(None) if t is None else t for t in types)
        is_count = not isinstance(value, (int, float)) or isinstance(value, bool) or value >= 0
        if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in types) or not is_count:
            raise DictionaryError(f"{self.path} has {name} {str(value)[:80]!r}; mend or fetch it again")
        return value


def _layer(get: _Reader) -> LayerShape:
    return LayerShape(
        layer=get("layer", int),
        n_features=get("n_features", int),
        span=get("span", int),
        k=get("k", int, None),
        skip=get("skip", bool),
    )


def _file(folder: Path, get: _Reader) -> WeightFile:
    name = get("name", str)
    inside(folder, name)
    return WeightFile(name, get("size", int), get("sha256", str))
