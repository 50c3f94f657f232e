"""A shard of an index as a job that any scheduler can run: a few plain words say everything, a folder takes the result.

A `Worker` is what ``lucida index --shard i/n`` runs, and what every Ray actor runs (`ray_engine`).
Results may go to any file system that fsspec knows (``s3://bucket/index``, ``gs://...``); a path is one of them.
"""

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lucida.corpus import TokenStore
from lucida.dictionaries import Dictionary, open_dictionary
from lucida.errors import FeatureError, SaveError
from lucida.features.build.one_pass import build_index, merge_indexes
from lucida.features.header import HEADER, IndexHeader
from lucida.models.load import load_model
from lucida.models.model import Model
from lucida.progress import Progress, silent


@dataclass(frozen=True)
class IndexJob:
    """What to index: names that every worker can open, and the settings of `build_index`.

    `store` is the folder of a token store that all workers see; `out` a folder or URL for the shards.
    """

    model: str
    dictionary: str
    store: str
    out: str
    n_shards: int = 1
    dtype: str = "float32"
    device: str = "cpu"
    threads: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    def shard_place(self, index: int) -> str:
        """Where shard `index` is written."""
        return f"{self.out.rstrip('/')}/shard-{index:05d}-of-{self.n_shards:05d}"


class Worker:
    """One process of an index: a model and a dictionary, loaded once, and shard after shard."""

    def __init__(self, job: IndexJob) -> None:
        import torch

        if job.threads is not None:
            torch.set_num_threads(job.threads)
        self.job = job
        self.model: Model = load_model(job.model, dtype=job.dtype, device=job.device, offline=True)
        self.dictionary: Dictionary = open_dictionary(job.dictionary, n_layers=self.model.n_layers)
        self.store = TokenStore.open(job.store, model=self.model)

    def run(self, index: int, *, progress: Progress | None = None) -> IndexHeader:
        """Index one shard and leave it at its place; a finished one that is there already is left alone."""
        place = self.job.shard_place(index)
        if (found := _finished(place)) is not None:
            return found
        shard = (index, self.job.n_shards)
        if not is_remote(place):
            return build_index(
                self.model, self.dictionary, self.store, place, shard=shard, progress=progress, **self.job.settings
            )
        with tempfile.TemporaryDirectory(prefix="lucida-shard-") as scratch:
            folder = Path(scratch) / "shard"
            header = build_index(
                self.model, self.dictionary, self.store, folder, shard=shard, progress=progress, **self.job.settings
            )
            put_folder(folder, place)
        return header


def merge_shards(job: IndexJob, out: str | Path, *, model: Model, progress: Progress | None = None) -> IndexHeader:
    """Join all shards of a job into the index `out`. Raises FeatureError when one is missing or damaged."""
    store = TokenStore.open(job.store, model=model)
    places = [job.shard_place(index) for index in range(job.n_shards)]
    with tempfile.TemporaryDirectory(prefix="lucida-merge-") as scratch:
        folders = fetch_folders(places, Path(scratch), progress=progress)
        return merge_indexes(folders, store, out, model=model, progress=progress)


def is_remote(place: str) -> bool:
    """Whether a place is a URL and not a path."""
    return "://" in place


def put_folder(folder: Path, place: str) -> None:
    """Copy an index to a URL; its header goes last, so that a reader sees a whole one or none.

    Raises SaveError when the place cannot be written.
    """
    import fsspec

    try:
        system, root = fsspec.core.url_to_fs(place)
        system.makedirs(root, exist_ok=True)
        names = sorted(path.name for path in folder.iterdir() if path.is_file() and path.name != HEADER)
        for name in [*names, HEADER]:
            system.put_file(str(folder / name), f"{root}/{name}")
    except (OSError, ValueError, ImportError) as error:
        raise SaveError(f"cannot write {place}: {error}") from error


def fetch_folders(places: Sequence[str], scratch: Path, *, progress: Progress | None = None) -> list[Path]:
    """Local folders with what is at each place; URLs are copied below `scratch`.

    Raises FeatureError for a place that has no index.
    """
    import fsspec

    progress = progress or silent
    folders: list[Path] = []
    for number, place in enumerate(places):
        progress("fetching shards", number, len(places))
        if not is_remote(place):
            folders.append(Path(place))
            continue
        folder = scratch / f"{number:05d}"
        folder.mkdir()
        try:
            system, root = fsspec.core.url_to_fs(place)
            for name in ("stats.parquet", "examples.parquet", "active.parquet", HEADER):
                with system.open(f"{root}/{name}", "rb") as source, (folder / name).open("wb") as target:
                    shutil.copyfileobj(source, target)
        except (OSError, ValueError, ImportError) as error:
            raise FeatureError(f"{place} is not a feature index: {error}") from error
        folders.append(folder)
    return folders


def _finished(place: str) -> IndexHeader | None:
    """The header of a finished shard at a URL; local folders are looked at by `build_index`."""
    if not is_remote(place):
        return None
    import fsspec

    system, root = fsspec.core.url_to_fs(place)
    if not system.exists(f"{root}/{HEADER}"):
        return None
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / HEADER).write_bytes(system.cat_file(f"{root}/{HEADER}"))
        header = IndexHeader.open(scratch)
    return header if header.complete else None
