"""Tensors that stay in their file: safetensors and npz as memory-mapped tensors, and a streaming writer.

A mapped tensor costs no memory until it is indexed, and indexing rows reads those rows only. This is
what lets a dictionary of tens of gigabytes serve the few thousand decoder rows of one prompt.
"""

import json
import math
import mmap
import sys
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from lucida.errors import DictionaryError

# bfloat16 does not exist in numpy: it is mapped as 16-bit integers and reinterpreted by torch.
_DTYPES: dict[str, tuple[str, torch.dtype]] = {
    "F64": ("<f8", torch.float64),
    "F32": ("<f4", torch.float32),
    "F16": ("<f2", torch.float16),
    "BF16": ("<i2", torch.bfloat16),
    "I64": ("<i8", torch.int64),
    "I32": ("<i4", torch.int32),
    "U8": ("|u1", torch.uint8),
}
_NAME_OF_DTYPE = {torch_dtype: name for name, (_, torch_dtype) in _DTYPES.items()}
_LARGEST_HEADER = 100_000_000
_READ_BY_ROW = "w_dec"
_MAP_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)


def open_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name, memory-mapped.

    Raises DictionaryError when the file is missing, truncated or not a safetensors file.
    """
    header, start = read_safetensors_header(path)
    mapping = _map_file(path)
    return {
        name: _mapped_entry(path, mapping, start, name, entry)
        for name, entry in header.items()
        if name != "__metadata__"
    }


def read_safetensors_header(path: Path) -> tuple[dict[str, Any], int]:
    """The JSON header of a safetensors file, and the offset at which its data starts.

    Raises DictionaryError when the file is missing, truncated or not a safetensors file.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            size = path.stat().st_size
            if size < 8 or length > _LARGEST_HEADER:
                raise DictionaryError(f"{path} is not a safetensors file; fetch it again")
            if size < 8 + length:
                raise DictionaryError(f"{path} is truncated inside its header; fetch it again")
            header = json.loads(file.read(length))
    except OSError as error:
        raise DictionaryError(f"cannot read {path}: {error.strerror}") from error
    except DictionaryError:
        raise
    except (ValueError, RecursionError) as error:
        raise DictionaryError(f"{path} has a damaged safetensors header; fetch it again") from error
    if not isinstance(header, dict):
        raise DictionaryError(f"{path} has a damaged safetensors header; fetch it again")
    return header, 8 + length


def _mapped_entry(path: Path, mapping: mmap.mmap, start: int, name: str, entry: Any) -> Tensor:
    try:
        dtype, shape = entry["dtype"], tuple(int(n) for n in entry["shape"])
        begin, end = (int(n) for n in entry["data_offsets"])
    except (TypeError, KeyError, ValueError) as error:
        raise DictionaryError(f"{path} describes {name} wrongly; fetch it again") from error
    if dtype not in _DTYPES:
        raise DictionaryError(f"{path} holds {name} as {dtype}; readable are {', '.join(_DTYPES)}")
    numpy_dtype, torch_dtype = _DTYPES[dtype]
    n_bytes = math.prod(shape) * np.dtype(numpy_dtype).itemsize
    if min((*shape, begin)) < 0 or end - begin != n_bytes:
        raise DictionaryError(f"{path} describes {name} wrongly; fetch it again")
    if start + end > len(mapping):
        raise DictionaryError(
            f"{path} is truncated: {name} ends at byte {start + end} of {len(mapping)}; fetch it again"
        )
    return _mapped_tensor(mapping, start + begin, numpy_dtype, shape, name).view(torch_dtype)


def _map_file(path: Path) -> mmap.mmap:
    """The bytes of a file, mapped copy-on-write: torch refuses read-only memory; nothing reaches the file."""
    try:
        with path.open("rb") as file:
            if not hasattr(mmap, "MAP_PRIVATE"):
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            # Unless told that it will not be written to, Linux counts all of the mapping as memory in use.
            flags = mmap.MAP_PRIVATE | (_MAP_NORESERVE if sys.platform == "linux" else 0)
            return mmap.mmap(file.fileno(), 0, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    except (OSError, ValueError) as error:
        raise DictionaryError(f"cannot map {path}: {error}") from error


def _mapped_tensor(
    mapping: mmap.mmap,
    offset: int,
    dtype: str,
    shape: tuple[int, ...],
    name: str,
    fortran_order: bool = False,
) -> Tensor:
    count = math.prod(shape)
    if not count:
        return torch.from_numpy(np.zeros(shape, dtype))
    n_bytes = count * np.dtype(dtype).itemsize
    if name.lower().startswith(_READ_BY_ROW) and hasattr(mmap, "MADV_RANDOM"):
        # Without this every row read from a cold disk brings its neighbourhood of 128 KiB along.
        page = offset // mmap.PAGESIZE * mmap.PAGESIZE
        mapping.madvise(mmap.MADV_RANDOM, page, offset + n_bytes - page)
    flat = np.frombuffer(mapping, dtype, count, offset)
    return torch.from_numpy(flat.reshape(shape, order="F" if fortran_order else "C"))


def open_npz(path: Path) -> dict[str, Tensor]:
    """The arrays of an npz file by name: memory-mapped when stored, read when compressed. Never unpickles.

    Raises DictionaryError when the file is missing or damaged, or holds Python objects.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if m.filename.endswith(".npy")]
            mapping = _map_file(path)
            return {m.filename.removesuffix(".npy"): _npz_member(path, archive, m, mapping) for m in members}
    except OSError as error:
        raise DictionaryError(f"cannot read {path}: {error.strerror or error}") from error
    except (zipfile.BadZipFile, EOFError, NotImplementedError) as error:
        raise DictionaryError(f"{path} is truncated or not an npz file; fetch it again") from error


def _npz_member(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo, mapping: mmap.mmap) -> Tensor:
    name = member.filename.removesuffix(".npy")
    try:
        with archive.open(member) as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran_order, dtype = read(file)
            if dtype.str not in ("<f2", "<f4", "<f8", "<i4", "<i8"):
                what = "pickled Python objects, never loaded" if dtype.hasobject else f"{dtype}"
                raise DictionaryError(f"{path} holds {name} as {what}; readable are little-endian floats")
            if member.compress_type == zipfile.ZIP_STORED:
                start = _data_start(mapping, member) + file.tell()
                return _mapped_tensor(mapping, start, dtype.str, shape, name, fortran_order)
            flat = np.frombuffer(bytearray(file.read()), dtype, math.prod(shape))
            return torch.from_numpy(flat.reshape(shape, order="F" if fortran_order else "C"))
    except DictionaryError:
        raise
    except ValueError as error:
        raise DictionaryError(f"{path} holds a damaged array {name}; fetch it again") from error


def _data_start(mapping: mmap.mmap, member: zipfile.ZipInfo) -> int:
    """Where the bytes of a zip member start: after its local header (30 bytes), name and extra field."""
    at = member.header_offset
    return at + 30 + sum(int.from_bytes(mapping[at + k : at + k + 2], "little") for k in (26, 28))


def need(tensors: Mapping[str, Tensor], name: str, path: Path, n_axes: int) -> Tensor:
    """The named tensor of a file. Raises DictionaryError when it is absent or has another number of axes."""
    if name not in tensors:
        found = ", ".join(sorted(tensors)[:8]) or "nothing"
        raise DictionaryError(f"{path} holds no {name}; found {found}")
    if tensors[name].ndim != n_axes:
        shape = list(tensors[name].shape)
        raise DictionaryError(f"{path} holds {name} of shape {shape}, expected {n_axes} axes")
    return tensors[name]


def write_safetensors(
    path: Path, tensors: Mapping[str, tuple[tuple[int, ...], Iterable[Tensor]]], dtype: torch.dtype
) -> None:
    """Write a safetensors file piece by piece, so that no tensor needs to be in memory at once.

    `tensors` gives for each name the shape and its pieces in order along the first axis. Raises OSError
    as the system does; wrap the call in `lucida.atomic.replacing`.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, (shape, _) in tensors.items():
        begin, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _NAME_OF_DTYPE[dtype], "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, (shape, pieces) in tensors.items():
            written = _write_pieces(file, pieces, dtype)
            assert written == math.prod(shape) * dtype.itemsize, f"{name}: {written} bytes for shape {shape}"


def _write_pieces(file: BinaryIO, pieces: Iterable[Tensor], dtype: torch.dtype) -> int:
    written = 0
    for piece in pieces:
        raw = piece.detach().to("cpu", dtype).contiguous().flatten().view(torch.uint8)
        written += file.write(raw.numpy().data)
    return written


def in_pieces(tensor: Tensor, n_bytes: int = 1 << 26) -> tuple[tuple[int, ...], Iterator[Tensor]]:
    """A tensor as `write_safetensors` takes it: its shape, and its rows in pieces of about `n_bytes`."""
    rows = max(1, n_bytes // max(1, tensor[:1].numel() * 4))
    return tuple(tensor.shape), iter(tensor.split(rows))
