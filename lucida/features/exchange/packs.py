"""circuit-tracer's feature packs: one file a layer, features found by their offset, from any static host.

``index.json.gz`` is a list by layer of ``{filename, offsets}``; ``layer_{l}.bin`` holds the records: a length of four
bytes (little-endian) and that many bytes of gzip JSON (`feature_json`). The page asks for the bytes from
``offsets[f]`` to ``offsets[f + 1]``.
"""

import gzip
import json
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from lucida.atomic import replacing
from lucida.errors import FeatureError
from lucida.features.exchange.feature_json import compact, feature_document, parse_feature, refuse_existing
from lucida.features.exchange.own_fields import (
    KEY,
    MOST_FEATURES,
    MOST_LAYERS,
    header_document,
    read_header,
)
from lucida.features.exchange.portable import NOMINAL_PLACES, PortableFeature, portable_features, wanted_layers
from lucida.features.exchange.untrusted import (
    INT64_END,
    MOST_BYTES_OF_A_FILE,
    MOST_BYTES_OF_A_RECORD,
    a_list,
    a_text,
    a_whole_number,
    an_object,
    inflate,
    parse,
    read_bytes,
    short,
)
from lucida.features.header import IndexHeader
from lucida.features.index import FeatureIndex, FeatureStats
from lucida.features.tables import HISTOGRAM_BINS
from lucida.progress import Progress, silent

OFFSETS, OUR_HEADER = "index.json.gz", "lucida.json"
_LENGTH = struct.Struct("<I")
_LEVEL = 6


def write_pack(
    index: FeatureIndex,
    folder: str | Path,
    *,
    layers: Iterable[int] | None = None,
    own_fields: bool = True,
    progress: Progress = silent,
) -> int:
    """Write a pack of all features, or of those of some layers; return how many. It appears whole or not at all.

    Put the folder as ``features`` beside the dictionary. Layers left out, or without features, have an empty file.
    Raises FeatureError when the folder is there already or a layer has no features.
    """
    folder, asked = refuse_existing(folder), wanted_layers(index, layers)
    total = sum(index.space.n_features[layer] for layer in asked)
    with replacing(folder, folder=True) as temporary:
        features = portable_features(index, asked)
        entries, done = [], 0
        for layer in range(index.space.n_layers):
            count = index.space.n_features[layer] if layer in asked else 0
            name, offsets = f"layer_{layer}.bin", [0]
            with (temporary / name).open("wb") as file:
                for _ in range(count):
                    offsets.append(offsets[-1] + _write_record(file, next(features), index.header, own_fields))
                    progress("writing features", done := done + 1, total)
            entries.append({"filename": name, "offsets": offsets})
        (temporary / OFFSETS).write_bytes(gzip.compress(json.dumps(entries).encode(), mtime=0))
        if own_fields:
            (temporary / OUR_HEADER).write_text(json.dumps(header_document(index.header), indent=1) + "\n", "utf-8")
    return total


def _write_record(file: BinaryIO, feature: PortableFeature, header: IndexHeader, own_fields: bool) -> int:
    name = f"{header.dictionary}/{feature.layer}"
    text = compact(feature_document(feature, transcoder=name, own_fields=own_fields))
    # gzip and not zlib: the page takes both, scripts of others only this one. No time: equal input, equal bytes.
    record = gzip.compress(text.encode("ascii"), _LEVEL, mtime=0)
    file.write(_LENGTH.pack(len(record)))
    return _LENGTH.size + file.write(record)


def is_pack(folder: str | Path) -> bool:
    """Whether a folder, or its ``features``, looks like a feature pack."""
    folder = Path(folder).expanduser()
    return any((place / OFFSETS).is_file() for place in (folder, folder / "features"))


@dataclass(frozen=True)
class LayerFile:
    """Where the records of one layer stand."""

    path: Path
    offsets: tuple[int, ...]

    @property
    def n_features(self) -> int:
        """How many records there are."""
        return max(0, len(self.offsets) - 1)


@dataclass(frozen=True, eq=False)
class FeaturePack:
    """A pack of anybody's, read by offset. Open it with `FeaturePack.open`.

    Nothing in it is trusted: every method raises FeatureError, naming file and feature, for a name that leaves the
    folder, offsets outside the file, records that are cut short, unfold without bound or are no feature.
    """

    folder: Path
    layers: tuple[LayerFile, ...]

    @classmethod
    def open(cls, folder: str | Path) -> "FeaturePack":
        """The pack in a folder, or in its ``features``. Raises FeatureError when there is none."""
        folder = Path(folder).expanduser()
        if not is_pack(folder):
            raise FeatureError(f"{folder} is not a feature pack: it has no {OFFSETS}")
        folder = folder if (folder / OFFSETS).is_file() else folder / "features"
        path = folder / OFFSETS
        entries = parse(inflate(read_bytes(path), str(path), MOST_BYTES_OF_A_FILE), str(path))
        return cls(folder, tuple(_layer_file(folder, entry, path) for entry in _by_layer(entries, path)))

    @property
    def n_features(self) -> tuple[int, ...]:
        """Features of each layer."""
        return tuple(layer.n_features for layer in self.layers)

    @cached_property
    def header(self) -> IndexHeader | None:
        """What the index was made from, in a pack of ours; None in others."""
        path = self.folder / OUR_HEADER
        return read_header(parse(read_bytes(path), str(path)), str(path)) if path.is_file() else None

    @property
    def n_places(self) -> int:
        """The number of places that frequencies are shares of; a nominal one in packs of others."""
        return self.header.n_places if self.header else NOMINAL_PLACES

    def document(self, layer: int, feature: int) -> dict[str, Any] | None:
        """The JSON of a feature as it stands in the pack; None where its record is empty."""
        file = self._layer(layer, feature)
        with _opened(file.path) as stream:
            return _record(stream, file, layer, feature)

    def feature(self, layer: int, feature: int) -> PortableFeature:
        """A feature; one with an empty record is silent."""
        return self._parsed(self.document(layer, feature), layer, feature)

    def each(self) -> Iterator[PortableFeature]:
        """All features in order."""
        for layer, file in enumerate(self.layers):
            if file.n_features:
                with _opened(file.path) as stream:
                    for feature in range(file.n_features):
                        yield self._parsed(_record(stream, file, layer, feature), layer, feature)

    def _layer(self, layer: int, feature: int) -> LayerFile:
        if not 0 <= layer < len(self.layers) or not 0 <= feature < self.layers[layer].n_features:
            raise FeatureError(f"feature {layer}:{feature} was asked for; {self.folder} has {self.n_features}")
        return self.layers[layer]

    def _parsed(self, document: dict[str, Any] | None, layer: int, feature: int) -> PortableFeature:
        where = f"feature {layer}:{feature} of {self.folder}"
        if document is None:
            return PortableFeature(silent_stats(layer, feature), [], is_exact=False)
        if self.header is None:
            document.pop(KEY, None)  # without the header of the pack the numbers of tokens and places mean nothing
        elif KEY not in document:
            raise FeatureError(f"{where} lacks our own fields, which {OUR_HEADER} promises; remove that file to go on")
        return parse_feature(document, where, layer=layer, feature=feature, n_places=self.n_places)


def silent_stats(layer: int, feature: int) -> FeatureStats:
    """The statistics of a feature that nothing is known of."""
    nothing = np.zeros(HISTOGRAM_BINS, dtype=np.int64)
    return FeatureStats(layer, feature, 0, 0.0, 0.0, 0.0, -1, -1, nothing)


def _by_layer(entries: Any, path: Path) -> list[Any]:
    """The entries of layers 0, 1 ...; an object is taken too when its keys are numbers of layers."""
    if isinstance(entries, dict):
        if not all(key.isdecimal() and len(key) < 5 and int(key) < MOST_LAYERS for key in entries):
            raise FeatureError(f"{path} must hold a list of layers, found the keys {short(list(entries))}")
        found = {int(key): entry for key, entry in entries.items()}
        return [found.get(layer) for layer in range(max(found, default=-1) + 1)]
    return a_list(entries, f"the list of layers in {path}", MOST_LAYERS)


def _layer_file(folder: Path, entry: Any, path: Path) -> LayerFile:
    if entry is None:
        return LayerFile(folder / OFFSETS, ())
    entry = an_object(entry, f"a layer of {path}")
    name = a_text(entry.get("filename"), f"'filename' of {path}")
    # A plain name, whatever system reads it: nothing else may decide which file is opened.
    if not name or name in (".", "..") or any(mark in name for mark in "/\\:\0"):
        raise FeatureError(f"{path} names the file {short(name)!r}, which is no plain name inside its folder")
    offsets = a_list(entry.get("offsets"), f"'offsets' of {name} in {path}", MOST_FEATURES + 1)
    inside = f"an offset of {name} in {path}"
    offsets = tuple(a_whole_number(each, inside, 0, INT64_END) for each in offsets)
    if any(a > b for a, b in pairwise(offsets)):
        raise FeatureError(f"the offsets of {name} in {path} do not rise; fetch it again")
    return LayerFile(folder / name, offsets)


def _opened(path: Path) -> BinaryIO:
    if not path.is_file():
        raise FeatureError(f"there is no file {path}, which {OFFSETS} names; fetch the pack again")
    try:
        return path.open("rb")
    except OSError as error:
        raise FeatureError(f"cannot read {path}: {error.strerror}") from error


def _record(stream: BinaryIO, file: LayerFile, layer: int, feature: int) -> dict[str, Any] | None:
    start, end = file.offsets[feature : feature + 2]
    where = f"feature {layer}:{feature} in {file.path}"
    if start == end:
        return None
    if end - start > MOST_BYTES_OF_A_RECORD:
        raise FeatureError(f"{where} has {end - start:,} bytes, more than {MOST_BYTES_OF_A_RECORD:,}: it is not read")
    stream.seek(start)
    data = stream.read(end - start)
    if len(data) < end - start:
        raise FeatureError(f"{where} ends at byte {end:,}, beyond the file's end: it is cut short; fetch it again")
    length = _LENGTH.unpack(data[: _LENGTH.size])[0] if len(data) >= _LENGTH.size else -1
    if not 0 < length <= len(data) - _LENGTH.size:
        raise FeatureError(f"{where} says it has {length:,} bytes, its place {len(data):,}: it is damaged")
    return an_object(parse(inflate(data[_LENGTH.size : _LENGTH.size + length], where), where), where)
