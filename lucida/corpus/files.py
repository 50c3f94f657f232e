"""Files as streams of text: plain, gzip or zstd, and a clear word when one is not text or ends early."""

import codecs
import csv
import gzip
import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lucida.errors import DataError

_CHUNK = 1 << 20
_COMPRESSED = (".gz", ".zst")


@dataclass(frozen=True)
class TextFile:
    """A file, or a member of an archive, that documents are read from; `open` gives its bytes anew each time."""

    name: str
    open: Callable[[], io.BufferedIOBase]

    @property
    def kind(self) -> str:
        """``jsonl``, ``csv``, ``parquet``, or ``text`` for every other suffix; compression aside."""
        name = self.name.lower()
        for suffix in _COMPRESSED:
            name = name.removesuffix(suffix)
        suffix = name.rpartition(".")[2]
        return {"ndjson": "jsonl", "jsonl": "jsonl", "csv": "csv", "parquet": "parquet"}.get(suffix, "text")

    def sha256(self) -> str:
        """The sha256 of the bytes as they lie there."""
        with _readable(self), self.open() as file:
            digest = hashlib.sha256()
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
            return digest.hexdigest()


def files_below(path: Path) -> list[TextFile]:
    """A file, or every file of a folder and its folders in the order of their names; hidden ones are left out.

    Raises DataError when there is nothing.
    """
    if path.is_file():
        return [TextFile(path.name, lambda: path.open("rb"))]
    names = sorted(found.relative_to(path) for found in path.rglob("*") if found.is_file())
    shown = [name for name in names if not any(part.startswith(".") for part in name.parts)]
    if not shown:
        raise DataError(f"the folder {path} has no files; give a folder with text, JSONL, CSV or Parquet files")
    return [TextFile(name.as_posix(), lambda name=name: (path / name).open("rb")) for name in shown]


def members_of(archive: Path, pattern: str) -> list[TextFile]:
    """The members of a zip archive (a wheel) whose path matches `pattern`, in the order of their names."""
    with zipfile.ZipFile(archive) as opened:
        names = sorted(name for name in opened.namelist() if Path(name).match(pattern))
    return [TextFile(name.rpartition("/")[2], lambda name=name: _open_member(archive, name)) for name in names]


def _open_member(archive: Path, name: str) -> io.BufferedIOBase:
    with zipfile.ZipFile(archive) as opened:  # the member keeps the file open for itself
        return opened.open(name)  # pyright: ignore[reportReturnType]


def read_documents(file: TextFile, *, column: str | None) -> Iterator[str]:
    """The documents of a file: all of a text file, the `column` of each record of the others (by default ``text``).

    Raises DataError for a file that is not what its name says, is not UTF-8 text, lacks the column or ends early.
    """
    if file.kind == "parquet":
        yield from _read_parquet(file, column or "text")
        return
    with _readable(file), _decoded(file) as lines:
        if file.kind == "jsonl":
            yield from _read_jsonl(file, lines, column or "text")
        elif file.kind == "csv":
            yield from _read_csv(file, lines, column or "text")
        else:
            text = lines.read()
            if "\0" in text:
                raise DataError(
                    f"{file.name} is not text: it has zero bytes; leave it out, or convert it to UTF-8 text"
                )
            yield text


@contextmanager
def _readable(file: TextFile) -> Iterator[None]:
    """Turn what the readers of any format raise into one line about this file."""
    try:
        yield
    except (EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{file.name} ends early; copy or download it again") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{file.name} is damaged or not gzip; copy or download it again") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file.name} is not UTF-8 text ({_broken_at(file)}); leave it out, or convert it to UTF-8"
        ) from error
    except OSError as error:
        raise DataError(f"cannot read {file.name}: {error.strerror or error}") from error


def _broken_at(file: TextFile) -> str:
    """Where the first byte stands that is not UTF-8, by reading the file once more."""
    decoder, done, lines = codecs.getincrementaldecoder("utf-8")(), 0, 0
    with _unpacked(file) as raw:
        while True:
            chunk = raw.read(_CHUNK)
            try:
                decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                # The decoder kept the beginning of a character that the chunk before ended in.
                before = error.object[: error.start]
                number = done - (len(error.object) - len(chunk)) + error.start
                line = lines + before.count(b"\n") + 1
                return f"byte 0x{error.object[error.start]:02x} at {number:,}, line {line:,}"
            if not chunk:
                return "it changed while it was read"
            done, lines = done + len(chunk), lines + chunk.count(b"\n")


@contextmanager
def _unpacked(file: TextFile) -> Iterator[Any]:
    """The bytes of a file, uncompressed."""
    with file.open() as packed:
        if file.name.lower().endswith(".gz"):
            yield gzip.GzipFile(fileobj=packed)
        elif file.name.lower().endswith(".zst"):
            yield io.BufferedReader(_Zstandard(packed, file.name), _CHUNK)
        else:
            yield packed


@contextmanager
def _decoded(file: TextFile) -> Iterator[io.TextIOWrapper]:
    with _unpacked(file) as raw:
        # Line ends stay as they are inside records of CSV.
        newline = "" if file.kind == "csv" else None
        with io.TextIOWrapper(raw, encoding="utf-8-sig", errors="strict", newline=newline) as lines:
            yield lines


class _Zstandard(io.RawIOBase):
    """The bytes of a zstd stream; EOFError when it stops inside a frame, which the library's own reader lets pass."""

    def __init__(self, packed: io.BufferedIOBase, name: str) -> None:
        try:
            import zstandard
        except ImportError as error:
            raise DataError(f"reading {name} needs zstandard; pip install 'camera-lucida[train]'") from error
        self._library, self._packed, self._name = zstandard, packed, name
        self._frame: Any = None
        self._ready = memoryview(b"")
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            packed = self._left or self._packed.read(_CHUNK)
            if not packed:
                if self._frame is not None:
                    raise EOFError
                return 0
            self._decompress(packed)
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count

    def _decompress(self, packed: bytes) -> None:
        if self._frame is None:
            self._frame = self._library.ZstdDecompressor().decompressobj()
        try:
            self._ready = memoryview(self._frame.decompress(packed))
        except self._library.ZstdError as error:
            raise DataError(f"{self._name} is damaged or not zstd; copy or download it again") from error
        self._left = self._frame.unused_data if self._frame.eof else b""
        if self._frame.eof:
            self._frame = None


def _read_jsonl(file: TextFile, lines: io.TextIOWrapper, column: str) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            what = "ends early" if not line.endswith("\n") else "is not JSON"
            raise DataError(f"line {number} of {file.name} {what}; each line must be one JSON object") from error
        if not isinstance(record, dict):
            raise DataError(f"line {number} of {file.name} is not a JSON object; each line must be one")
        if column not in record:
            raise _no_column(f"line {number} of {file.name}", column, list(record))
        if not isinstance(record[column], str):
            raise _not_text(f"line {number} of {file.name}", column)
        # JSON can spell half of a surrogate pair, which is no character.
        yield record[column].encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _read_csv(file: TextFile, lines: io.TextIOWrapper, column: str) -> Iterator[str]:
    # The limit is the library's own and global; its default of 128 kB is less than a long document.
    csv.field_size_limit(max(csv.field_size_limit(), 1 << 30))
    records = csv.DictReader(lines, strict=True)
    try:
        if column not in (names := list(records.fieldnames or [])):
            raise _no_column(file.name, column, names)
        for record in records:
            if record[column] is None:
                raise DataError(f"line {records.line_num} of {file.name} ends early: it has no {column!r}")
            yield record[column]
    except csv.Error as error:
        what = "ends early" if "end of data" in str(error) else f"is not CSV ({error})"
        raise DataError(f"{file.name} {what}, at line {records.line_num}") from error


def _read_parquet(file: TextFile, column: str) -> Iterator[str]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise DataError(f"reading {file.name} needs pyarrow; pip install pyarrow") from error
    with _readable(file), file.open() as opened:
        try:
            table = pyarrow.parquet.ParquetFile(opened)
            if column not in table.schema_arrow.names:
                raise _no_column(file.name, column, table.schema_arrow.names)
            kind = table.schema_arrow.field(column).type
            if not (pyarrow.types.is_string(kind) or pyarrow.types.is_large_string(kind)):
                raise _not_text(file.name, column)
            for batch in table.iter_batches(columns=[column]):
                yield from (text for text in batch.column(0).to_pylist() if text is not None)
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(
                f"{file.name} is damaged, ends early or is not Parquet; copy or download it again"
            ) from error


def _no_column(where: str, column: str, known: list[str]) -> DataError:
    return DataError(
        f"{where} has no column {column!r} (it has: {', '.join(known) or 'none'}); choose one with --column"
    )


def _not_text(where: str, column: str) -> DataError:
    return DataError(f"column {column!r} of {where} is not text; choose another with --column")
