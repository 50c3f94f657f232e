"""Read a file that `torch.save` wrote, without torch and without running anything in it.

A pickle is a program. This reader runs it in a machine that knows a few dozen harmless instructions
and can name nothing but tensors, dictionaries and the records it was told to expect; whatever else
a file names is refused before it is called. docs/interchange.md lists what is allowed.
"""

import io
import math
import pickle
import pickletools
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lucida.errors import GraphError

MOST_INSTRUCTIONS = 20_000
"""A graph file has a few hundred; the limit keeps a hostile one from nesting without end."""

# fmt: off
_INSTRUCTIONS = frozenset((
    "PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "BININT", "BININT1", "BININT2",
    "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "EMPTY_TUPLE", "TUPLE", "TUPLE1",
    "TUPLE2", "TUPLE3", "EMPTY_LIST", "APPEND", "APPENDS", "EMPTY_DICT", "SETITEM", "SETITEMS",
    "GLOBAL", "STACK_GLOBAL", "REDUCE", "NEWOBJ", "BUILD", "BINPERSID", "BINGET", "LONG_BINGET",
    "BINPUT", "LONG_BINPUT", "MEMOIZE",
))
# fmt: on

_STORAGES = {
    "FloatStorage": "f4",
    "DoubleStorage": "f8",
    "HalfStorage": "f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}
_DTYPES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")


@dataclass(frozen=True)
class Record:
    """An object of a class that the file named: what it was made from, and its attributes."""

    arguments: tuple[Any, ...]
    attributes: dict[str, Any]


def read_torch_archive(path: str | Path, is_record: Callable[[str, str], bool]) -> Any:
    """What `torch.save` wrote to `path`: tensors as read-only arrays, allowed objects as `Record`s.

    `is_record(module, name)` says which classes may be named; their objects become `Record`s, and
    the classes themselves are never imported.

    Raises GraphError, naming what was refused, for anything else and for damaged files.
    """
    path = Path(path)
    try:
        with zipfile.ZipFile(path) as archive:
            return _read(archive, path, is_record)
    except GraphError:
        raise
    except OSError as error:
        raise GraphError(f"cannot read {path}: {error.strerror or error}") from error
    except zipfile.BadZipFile as error:
        raise GraphError(f"{path} is not a complete torch archive ({error}): is it truncated?") from error
    # A damaged program can fail in any way; it has run nothing but the instructions above.
    except Exception as error:
        raise GraphError(f"{path} is damaged ({type(error).__name__}): save it again") from error


def _read(archive: zipfile.ZipFile, path: Path, is_record: Callable[[str, str], bool]) -> Any:
    entries = archive.infolist()
    plain = all(e.compress_type == zipfile.ZIP_STORED and not e.flag_bits & 1 for e in entries)
    if not plain or sum(e.file_size for e in entries) > path.stat().st_size:
        raise GraphError(f"{path} holds compressed or overlapping entries, which torch never writes")
    programs = [e.filename for e in entries if e.filename.split("/")[1:] == ["data.pkl"]]
    if len(programs) != 1:
        raise GraphError(f"{path} is not a torch archive: it holds {len(programs)} data.pkl, expected 1")
    folder = programs[0].removesuffix("data.pkl")
    program = archive.read(programs[0])
    _check_instructions(program, path)
    big = folder + "byteorder" in archive.namelist() and archive.read(folder + "byteorder") == b"big"
    machine = _restricted(program, path, is_record)
    machine.storage_of = lambda kind, key, count: _storage(
        archive.read(f"{folder}data/{key}"), kind, count, ">" if big else "<"
    )
    return _unwrapped(machine.load(), machine.record_class)


def _check_instructions(program: bytes, path: Path) -> None:
    """Refuse instructions that need not be in such a file, before any of them runs."""
    for count, (instruction, argument, _) in enumerate(pickletools.genops(program)):
        name = instruction.name
        if name not in _INSTRUCTIONS:
            what = f"{name} {argument!r:.60}" if argument is not None else name
            raise GraphError(f"{path} was refused: its pickle holds {what}, which no graph needs")
        # A far memo number would make the reader set aside memory for all numbers below it.
        far = name.endswith("PUT") and argument is not None and argument > MOST_INSTRUCTIONS
        if count > MOST_INSTRUCTIONS or far:
            raise GraphError(f"{path} was refused: its pickle is far longer than that of any graph")


def _storage(content: bytes, kind: str, count: int, order: Literal["<", ">"]) -> np.ndarray:
    if kind == "bfloat16":
        half = np.frombuffer(content, np.dtype("u2").newbyteorder(order), count)
        return (half.astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(content, np.dtype(kind).newbyteorder(order), count)


def _tensor(storage: np.ndarray, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object) -> np.ndarray:
    numbers = (offset, *size, *stride)
    if not isinstance(storage, np.ndarray) or not all(type(n) is int and n >= 0 for n in numbers):
        raise GraphError("is damaged: a tensor has an impossible shape")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if math.prod(size) > len(storage) or (0 not in size and last >= len(storage)):
        raise GraphError("is damaged: a tensor reaches beyond its storage")
    steps = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, steps, writeable=False)


def _restricted(program: bytes, path: Path, is_record: Callable[[str, str], bool]) -> Any:
    """An unpickler that can name only tensors and records.

    Everything it hands out is immutable or made for this one file, so that no instruction can
    change anything that outlives the reading.
    """

    class FileRecord:
        def __new__(cls, *arguments: Any) -> "FileRecord":
            record = object.__new__(cls)
            record.arguments = arguments
            return record

        arguments: tuple[Any, ...]

    def rebuild(*arguments: Any) -> np.ndarray:
        try:
            return _tensor(*arguments)
        except GraphError as error:
            raise GraphError(f"{path} {error}") from error

    allowed: dict[tuple[str, str], Any] = {
        ("collections", "OrderedDict"): dict,
        ("torch._utils", "_rebuild_tensor_v2"): rebuild,
        ("torch", "device"): FileRecord,
        **{("torch", name): name for name in (*_STORAGES, *_DTYPES)},
    }

    class Restricted(pickle.Unpickler):
        record_class = FileRecord
        storage_of: Callable[[str, str, int], np.ndarray]

        def find_class(self, module_name: str, global_name: str) -> Any:
            if (module_name, global_name) in allowed:
                return allowed[module_name, global_name]
            if is_record(module_name, global_name):
                return FileRecord
            raise GraphError(
                f"{path} was refused: it names {module_name}.{global_name}"[:200]
                + ", which no graph needs and which could run code"
            )

        def persistent_load(self, pid: Any) -> np.ndarray:
            tag, kind, key, _, count = pid
            if tag != "storage" or kind not in _STORAGES or type(key) is not str or type(count) is not int:
                raise GraphError(f"{path} is damaged: it holds a tensor without a storage")
            return self.storage_of(_STORAGES[kind], key, count)

    return Restricted(io.BytesIO(program))


def _unwrapped(value: Any, record_class: type) -> Any:
    """The value with its records as `Record`s, two levels deep: no graph nests them further."""

    def one(item: Any) -> Any:
        if isinstance(item, record_class):
            attributes = vars(item).copy()
            return Record(attributes.pop("arguments"), attributes)
        return item

    if not isinstance(value, dict):
        return one(value)
    return {
        key: [one(item) for item in content] if isinstance(content, list) else one(content)
        for key, content in value.items()
    }
