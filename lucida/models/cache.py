"""The cache of converted models: one folder per name and dtype, each with a record of where it came from.

``$LUCIDA_CACHE`` (or ``~/.cache/lucida``) holds ``models/<name>-<dtype>/`` (a Hugging Face folder plus
``lucida.json``) and ``partial/<name>/`` (packages of an unfinished download). Models that the hub gave
stay in the Hugging Face cache, which other tools share.
"""

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from lucida.errors import ModelError, SaveError, suggest
from lucida.progress import Progress, silent

RECORD = "lucida.json"


@dataclass(frozen=True)
class FileRecord:
    """Size in bytes and sha256 of one file of a cached model."""

    size: int
    sha256: str


@dataclass(frozen=True)
class CacheRecord:
    """Where a cached model came from and what it consists of; ``lucida.json`` in its folder.

    `sha256` is that of the file the weights were converted from, `adds_bos` whether its tokenizer
    begins text with BOS (None without a tokenizer), `versions` the packages that converted it.
    """

    name: str
    dtype: str
    source: str
    sha256: str
    revision: str
    adds_bos: bool | None
    date: str
    versions: dict[str, str]
    files: dict[str, FileRecord]


@dataclass(frozen=True)
class CachedModel:
    """A model that needs no network: `size` in bytes on disk, `dtype` empty for a copy from the hub."""

    name: str
    dtype: str
    source: str
    folder: Path
    size: int


def cache_root() -> Path:
    """Return the cache folder: ``$LUCIDA_CACHE``, or ``~/.cache/lucida``."""
    return Path(os.environ.get("LUCIDA_CACHE") or Path.home() / ".cache" / "lucida").expanduser()


def model_folder(name: str, dtype: str) -> Path:
    """Return where the cached copy of a model is, or would be."""
    return cache_root() / "models" / f"{name}-{dtype}"


def partial_folder(name: str) -> Path:
    """Return where the packages of an unfinished download are kept."""
    return cache_root() / "partial" / name


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_disk_full(error: BaseException) -> bool:
    """Whether an error of any library means that the disk is full."""
    return getattr(error, "errno", None) == errno.ENOSPC or "No space left on device" in str(error)


def write_record(
    folder: Path, *, name: str, dtype: str, source: str, sha256: str, revision: str, adds_bos: bool | None
) -> CacheRecord:
    """Hash every file of a finished model folder and write its record; return the record."""
    files = {
        path.name: FileRecord(path.stat().st_size, sha256_of(path))
        for path in sorted(folder.iterdir())
        if path.name != RECORD
    }
    record = CacheRecord(
        name=name,
        dtype=dtype,
        source=source,
        sha256=sha256,
        revision=revision,
        adds_bos=adds_bos,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=_versions(),
        files=files,
    )
    (folder / RECORD).write_text(json.dumps({"format": 1, **asdict(record)}, indent=2) + "\n", "utf-8")
    return record


def _versions() -> dict[str, str]:
    found = {}
    for package in ("camera-lucida", "transformers", "torch", "tokenizers", "gguf"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def read_record(folder: Path) -> CacheRecord:
    """Return the record of a cached model whose files all have their recorded sizes; ModelError otherwise."""
    try:
        fields = json.loads((folder / RECORD).read_text("utf-8"))
        del fields["format"]
        files = {name: FileRecord(**entry) for name, entry in fields.pop("files").items()}
        record = CacheRecord(**fields, files=files)
    except OSError as error:
        raise ModelError(f"{folder} has no readable {RECORD}; fetch the model again") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{folder / RECORD} is damaged; fetch the model again") from error
    for name, expected in record.files.items():
        path = folder / name
        found = path.stat().st_size if path.is_file() else 0
        if found != expected.size:
            raise ModelError(f"{path} has {found:,} of {expected.size:,} bytes; fetch the model again")
    return record


@contextmanager
def locked(name: str, progress: Progress) -> Iterator[None]:
    """Hold the only right to fetch or convert `name`; another process waits, and then finds it done."""
    from filelock import FileLock, Timeout

    folder = cache_root() / "locks"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SaveError(f"cannot write {cache_root()}: {error.strerror}; set LUCIDA_CACHE") from error
    lock = FileLock(folder / f"{name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        progress(f"waiting for another process that fetches {name}", 0, None)
        lock.acquire(poll_interval=0.2)
    try:
        yield
    finally:
        lock.release()


def clear_scratch(folder: Path) -> None:
    """Delete what killed processes left beside `folder`; only under its lock."""
    for left in folder.parent.glob(f".{folder.name}.*"):
        shutil.rmtree(left, ignore_errors=True)


def cached_models() -> list[CachedModel]:
    """Return the models that need no network: converted ones, and known ones in the Hugging Face cache."""
    from lucida.models.hub import local_snapshot
    from lucida.models.registry import REGISTRY

    found = []
    for path in sorted(cache_root().glob(f"models/*/{RECORD}")):
        try:
            record = read_record(path.parent)
        except ModelError:
            continue
        size = sum(file.size for file in record.files.values())
        found.append(CachedModel(record.name, record.dtype, record.source, path.parent, size))
    for entry in REGISTRY.values():
        for source in (source for source in entry.sources if source.kind == "hub"):
            if snapshot := local_snapshot(source.names[0]):
                size = sum(file.stat().st_size for file in snapshot.folder.iterdir() if file.is_file())
                found.append(CachedModel(entry.name, "", source.description, snapshot.folder, size))
    return found


def remove_cached(name: str, *, dtype: str | None = None) -> int:
    """Delete a converted model (every dtype, or one) and its unfinished download; return the bytes freed.

    Raises ModelError when there is none. Copies from the hub belong to the Hugging Face cache and stay.
    """
    name = name.lower()
    with locked(name, silent):
        dtypes = ("float32", "bfloat16") if dtype is None else (dtype,)
        folders = [model_folder(name, each) for each in dtypes]
        folders = [path for path in [*folders, partial_folder(name)] if path.is_dir()]
        if not folders:
            known = sorted({model.name for model in cached_models() if model.dtype})
            raise ModelError(
                f"there is no cached copy of {name!r}{suggest(name, known)} (cached: {', '.join(known) or 'none'})"
            )
        freed = sum(file.stat().st_size for path in folders for file in path.rglob("*") if file.is_file())
        for path in folders:
            shutil.rmtree(path)
    return freed
