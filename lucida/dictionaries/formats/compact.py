"""Our own format: a small manifest and files of rounded weights, none of 5 MB or more, each checked by its sha256."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from lucida.atomic import replacing
from lucida.dictionaries.dictionary import Dictionary
from lucida.dictionaries.formats.manifest import (
    FLOATS,
    MANIFEST,
    LayerShape,
    Manifest,
    WeightFile,
    read_manifest,
    write_manifest,
)
from lucida.dictionaries.quantise import Rounded, dequantise, pack, quantise, unpack
from lucida.dictionaries.tensor_files import open_safetensors
from lucida.dictionaries.weights import LayerWeights, Source, refuse_not_finite
from lucida.errors import DictionaryError

LARGEST_FILE = 4_990_000
"""Bytes of tensors in one file, below 5 MB with its header."""
_BLOCK = 1 << 20
_FLOAT = {16: torch.float16, 32: torch.float32}


def is_compact(folder: Path) -> bool:
    """Whether the folder holds a dictionary.json."""
    return (folder / MANIFEST).is_file()


# Writing


def write_compact(
    dictionary: Dictionary,
    folder: str | Path,
    *,
    bits: int | float = 8,
    card: dict[str, Any] | None = None,
    licence: str = "Apache-2.0",
) -> Path:
    """Write a dictionary in about `bits` bits a weight; return the folder.

    `bits` is a number from 3 to 8 (whole steps for each row: `quantise`), or 16 or 32 for floating-point
    numbers; biases and thresholds are always float32. Every span, activation and skip connection can be
    written. `card` is kept beside the weights. Raises DictionaryError for weights that are not finite or
    too large for 16 bits, SaveError when it cannot be written; nothing half-written is left.
    """
    if not (3 <= bits <= 8 or bits in FLOATS):
        raise DictionaryError(f"bits is {bits}; give a number from 3 to 8, or 16 or 32")
    folder = Path(folder)
    with replacing(folder, folder=True) as temporary:
        files = _write_files(temporary, _stored_tensors(dictionary, bits))
        write_manifest(temporary, _manifest(dictionary, bits, files, card or {}, licence))
    return folder


def _manifest(
    dictionary: Dictionary, bits: int | float, files: tuple[WeightFile, ...], card: dict[str, Any], licence: str
) -> Manifest:
    shapes = []
    for layer in dictionary.layers:
        weights = dictionary.weights[layer]
        shape = LayerShape(layer, len(weights.encoder), len(weights.decoders), weights.k, weights.skip is not None)
        shapes.append(shape)
    return Manifest(
        name=dictionary.name, model_name=dictionary.model_name, n_layers=dictionary.n_layers,
        d_model=dictionary.d_model, activation=dictionary.activation, reads_at=dictionary.reads_at,
        writes_at=dictionary.writes_at, bits=bits, layers=tuple(shapes), files=files, licence=licence, card=card,
    )  # fmt: skip


def _stored_tensors(dictionary: Dictionary, bits: int | float) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the files, by name and in order, made when it is asked for."""
    yield "decoder_biases", dictionary.decoder_biases.detach().cpu().float()
    for layer in dictionary.layers:
        weights, place = dictionary.weights[layer], f"layers.{layer}"
        yield f"{place}.encoder_bias", weights.encoder_bias.detach().cpu().float()
        if weights.threshold is not None:
            yield f"{place}.threshold", weights.threshold.detach().cpu().float()
        for name, matrix in _matrices(weights):
            yield from _stored_matrix(f"{place}.{name}", matrix, bits, f"{name} of layer {layer} of {dictionary.name}")


def _matrices(weights: LayerWeights) -> Iterator[tuple[str, Tensor]]:
    yield "encoder", weights.encoder
    for offset, decoder in enumerate(weights.decoders):
        yield f"decoder.{offset}", decoder
    if weights.skip is not None:
        yield "skip", weights.skip


def _stored_matrix(name: str, matrix: Tensor, bits: int | float, what: str) -> Iterator[tuple[str, Tensor]]:
    steps = []
    # Blocks of rows bound memory, and let a matrix go on in the next file.
    width = matrix.shape[1] * (1 if bits not in FLOATS else int(bits) // 8)
    for index, rows in enumerate(matrix.split(max(1, _BLOCK // width))):
        rows = rows.detach().cpu().float()
        refuse_not_finite(rows, what)
        if bits in FLOATS:
            stored = rows.to(_FLOAT[int(bits)])
            if not torch.isfinite(stored).all():
                raise DictionaryError(f"the {what} is too large for {bits} bits; write it with 32")
        else:
            codes, step = quantise(rows, bits)
            stored = torch.frombuffer(bytearray(pack(codes)), dtype=torch.uint8)
            steps.append(step.bfloat16())
        yield f"{name}.block.{index}", stored
    if steps:
        yield f"{name}.steps", torch.cat(steps)


def _write_files(folder: Path, tensors: Iterator[tuple[str, Tensor]]) -> tuple[WeightFile, ...]:
    """Fill files in order, each up to LARGEST_FILE. A single row beyond that gets a file of its own."""
    parts: list[Path] = []
    waiting: dict[str, Tensor] = {}

    def flush() -> None:
        parts.append(folder / f"part-{len(parts)}")
        parts[-1].write_bytes(save(waiting))
        waiting.clear()

    for name, tensor in tensors:
        # A header entry is below 200 bytes.
        filled = sum(t.nbytes + 200 for t in waiting.values())
        if waiting and filled + tensor.nbytes + 200 > LARGEST_FILE:
            flush()
        waiting[name] = tensor.contiguous()
    flush()
    files = []
    for index, part in enumerate(parts, start=1):
        path = part.rename(folder / f"weights-{index:05d}-of-{len(parts):05d}.safetensors")
        files.append(WeightFile(path.name, path.stat().st_size, _sha256(path)))
    return tuple(files)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def relative_error(found: Dictionary, expected: Dictionary) -> float:
    """How far the weights of one dictionary are from those of another: |found - expected| / |expected|.

    Encoders and decoders count row by row (the root of the mean square over all rows), so that neither
    their scales nor a few large features decide.
    """
    squares, n_rows = 0.0, 0
    for layer in expected.layers:
        pairs = zip(_matrices(found.weights[layer]), _matrices(expected.weights[layer]), strict=True)
        for (_, ours), (_, theirs) in pairs:
            norms = theirs.float().square().sum(1)
            moved = (ours.float() - theirs.float()).square().sum(1)
            squares += float((moved / norms)[norms > 0].sum())
            n_rows += int((norms > 0).sum())
    return (squares / max(1, n_rows)) ** 0.5


# Reading


def read_compact(folder: Path, n_layers: int | None) -> Dictionary:
    """A dictionary in our own format, every file checked by its sha256, weights in float32.

    Raises DictionaryError when a file is missing, damaged, not listed or elsewhere, or of another version.
    """
    manifest = read_manifest(folder)
    if n_layers is not None and n_layers != manifest.n_layers:
        made_for = f"of {manifest.model_name}, which has" if manifest.model_name else "of a model with"
        raise DictionaryError(
            f"dictionary {manifest.name} is {made_for} {manifest.n_layers} layers; this model has {n_layers}"
        )
    stored = _Stored(folder, manifest, _verified(folder, manifest))
    biases = stored.take("decoder_biases", torch.float32, (manifest.n_layers, manifest.d_model))
    layers = {shape.layer: stored.layer(shape) for shape in manifest.layers}
    dictionary = Dictionary(
        name=manifest.name, model_name=manifest.model_name, n_layers=manifest.n_layers, d_model=manifest.d_model,
        activation=manifest.activation, reads_at=manifest.reads_at, writes_at=manifest.writes_at,
        weights=layers, decoder_biases=biases, source=Source(str(folder), "lucida", _fingerprint(manifest)),
    )  # fmt: skip
    if stored.tensors:
        raise DictionaryError(f"{folder} holds {min(stored.tensors)}, which {MANIFEST} does not tell of")
    return dictionary


def _fingerprint(manifest: Manifest) -> str:
    """What the features are: names, licence and card are left out, which may change for the same features."""
    sites = [manifest.activation, manifest.reads_at, manifest.writes_at, *(shape.k for shape in manifest.layers)]
    return hashlib.sha256(json.dumps([sites, [file.sha256 for file in manifest.files]]).encode()).hexdigest()


def _verified(folder: Path, manifest: Manifest) -> dict[str, Tensor]:
    """All tensors of all files, once each file is found to be the one that was written."""
    listed = {file.name for file in manifest.files}
    for path in sorted(folder.glob("*.safetensors")):
        if path.name not in listed:
            raise DictionaryError(f"{folder} holds {path.name}, which {MANIFEST} does not list; remove it")
    tensors: dict[str, Tensor] = {}
    for file in manifest.files:
        path = folder / file.name
        if not path.is_file():
            raise DictionaryError(f"{folder} lacks {file.name}; fetch the dictionary again")
        size = path.stat().st_size
        if size != file.size:
            raise DictionaryError(f"{path} has {size} bytes, expected {file.size}; fetch the dictionary again")
        if _sha256(path) != file.sha256:
            raise DictionaryError(f"{path} is damaged or was changed (another sha256); fetch the dictionary again")
        found = open_safetensors(path)
        if twice := tensors.keys() & found.keys():
            raise DictionaryError(f"{folder} holds {min(twice)} twice; fetch the dictionary again")
        tensors |= found
    return tensors


class _Stored:
    """The tensors of a folder, taken out one by one as the manifest tells of them."""

    def __init__(self, folder: Path, manifest: Manifest, tensors: dict[str, Tensor]) -> None:
        self.folder = folder
        self.manifest = manifest
        self.tensors = tensors

    def take(self, name: str, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
        """The tensor of this name, which must be of this type and shape."""
        found = self.tensors.pop(name, None)
        if found is None or found.dtype != dtype or tuple(found.shape) != shape:
            what = "nothing" if found is None else f"{found.dtype} {list(found.shape)}"
            raise DictionaryError(f"{self.folder} holds {what} as {name}, expected {dtype} {list(shape)}")
        return found

    def layer(self, shape: LayerShape) -> LayerWeights:
        """The weights of one layer."""
        place, n_features = f"layers.{shape.layer}", shape.n_features
        has_threshold = self.manifest.activation == "jumprelu"
        return LayerWeights(
            encoder=self.matrix(f"{place}.encoder", n_features),
            encoder_bias=self.take(f"{place}.encoder_bias", torch.float32, (n_features,)),
            decoders=tuple(self.matrix(f"{place}.decoder.{offset}", n_features) for offset in range(shape.span)),
            threshold=self.take(f"{place}.threshold", torch.float32, (n_features,)) if has_threshold else None,
            skip=self.matrix(f"{place}.skip", self.manifest.d_model) if shape.skip else None,
            k=shape.k,
        )

    def matrix(self, name: str, n_rows: int) -> Tensor:
        """The rows of all blocks of a matrix, in float32."""
        steps = None
        if self.manifest.bits not in FLOATS:
            steps = self.take(f"{name}.steps", torch.bfloat16, (n_rows,)).float()
        blocks = [torch.empty(0, self.manifest.d_model)]
        filled, index = 0, 0
        while (block := self.tensors.pop(f"{name}.block.{index}", None)) is not None:
            blocks.append(self._rows(name, block, None if steps is None else steps[filled:]))
            filled, index = filled + len(blocks[-1]), index + 1
        if filled != n_rows:
            raise DictionaryError(f"{self.folder} holds {filled} rows of {name}, expected {n_rows}")
        return torch.cat(blocks)

    def _rows(self, name: str, block: Tensor, steps: Tensor | None) -> Tensor:
        d_model = self.manifest.d_model
        if steps is None:
            if block.dtype != _FLOAT[int(self.manifest.bits)] or block.ndim != 2 or block.shape[1] != d_model:
                raise DictionaryError(f"{self.folder} holds {block.dtype} {list(block.shape)} in a block of {name}")
            return block.float()
        try:
            codes = unpack(block.contiguous().numpy().tobytes(), len(steps), d_model)
        except ValueError as error:
            raise DictionaryError(f"{self.folder} holds a damaged {name}: {error}") from error
        return dequantise(Rounded(codes, steps[: len(codes)]))
