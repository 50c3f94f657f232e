"""Weights from the Hugging Face hub: safetensors, configs and tokenizers only, into its own cache."""

import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TypeVar

from lucida.errors import FetchError, ModelError, SaveError
from lucida.models.cache import is_disk_full
from lucida.models.folder import check_model_folder
from lucida.progress import Progress

T = TypeVar("T")

# No pickles, no code: what a model and its tokenizer need, at the top of the repository.
_WANTED = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.*",
)
_UNWANTED = ("*/*", "consolidated*")  # the same weights in other layouts
_SECONDS_TO_ANSWER = 8.0


@dataclass(frozen=True)
class Snapshot:
    """One revision (a commit) of a hub model on this machine."""

    folder: Path
    revision: str


def is_offline() -> bool:
    """Whether the user told the Hugging Face tools to stay offline (``HF_HUB_OFFLINE``)."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def local_snapshot(hub_id: str) -> Snapshot | None:
    """Return the whole copy of `hub_id` in the Hugging Face cache, None when there is none."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        folder = snapshot_download(
            hub_id, local_files_only=True, allow_patterns=list(_WANTED), ignore_patterns=list(_UNWANTED)
        )
        check_model_folder(folder)
    except (OSError, HFValidationError, ModelError):
        return None
    return Snapshot(Path(folder), Path(folder).name)


def fetch_snapshot(hub_id: str, *, progress: Progress) -> Snapshot:
    """Return a copy of `hub_id`'s newest revision, downloading what the Hugging Face cache lacks.

    Raises FetchError within seconds when the hub does not answer, and when the model does not exist, is
    gated, or has no safetensors weights. Interrupted downloads resume.
    """
    from huggingface_hub import snapshot_download

    with _no_bars():
        sizes = _ask(hub_id)
        if not any(name.endswith(".safetensors") for name in sizes):
            raise FetchError(f"{hub_id} has no safetensors weights; pickled weights are not read")
        blobs, total = _blobs_folder(hub_id), sum(sizes.values())
        before = _size(blobs)

        def tick() -> None:
            progress(f"downloading {hub_id}", min(_size(blobs) - before, total), total)

        try:
            folder = _in_background(
                # By branch, not by commit: only then does the cache remember it for offline use.
                lambda: snapshot_download(hub_id, allow_patterns=list(sizes), etag_timeout=5),
                tick=tick,
            )
        except Exception as error:
            raise _refusal(hub_id, error, "the download broke off, try again to resume it") from error
    progress(f"downloading {hub_id}", total, total)
    check_model_folder(folder)
    return Snapshot(Path(folder), Path(folder).name)


def _ask(hub_id: str) -> dict[str, int]:
    """Return the wanted files of the newest revision with their sizes in bytes."""
    from huggingface_hub import HfApi

    try:
        info = _in_background(
            lambda: HfApi().model_info(hub_id, files_metadata=True, timeout=_SECONDS_TO_ANSWER),
            deadline=_SECONDS_TO_ANSWER,
        )
    except Exception as error:
        raise _refusal(hub_id, error, "the hub was not reached") from error
    files = {sibling.rfilename: sibling.size or 0 for sibling in info.siblings or []}
    return {
        name: size
        for name, size in files.items()
        if any(fnmatch(name, pattern) for pattern in _WANTED)
        and not any(fnmatch(name, pattern) for pattern in _UNWANTED)
    }


def _refusal(hub_id: str, error: Exception, otherwise: str) -> FetchError | SaveError:
    """Return in one line what an error of the hub client means for the user."""
    from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError

    if isinstance(error, GatedRepoError):
        return FetchError(f"{hub_id} is gated: accept its terms on the hub and log in (HF_TOKEN)")
    if isinstance(error, RepositoryNotFoundError):
        return FetchError(f"the hub has no public model {hub_id}: check the name, or log in (HF_TOKEN)")
    if isinstance(error, HFValidationError):
        return FetchError(f"{hub_id!r} is not a hub id; write org/name")
    if is_disk_full(error):
        return SaveError(f"the disk is full: cannot download {hub_id}; free some space or set HF_HOME")
    return FetchError(f"{otherwise} ({_first_line(error)})")


def _in_background(
    function: Callable[[], T], *, tick: Callable[[], None] = lambda: None, deadline: float | None = None
) -> T:
    """Return ``function()`` while this thread reports, stays interruptible and may give up.

    A name server that does not answer blocks a socket for longer than any timeout given to it.
    """
    outcome: list[T] = []
    failure: list[BaseException] = []

    def work() -> None:
        try:
            outcome.append(function())
        except BaseException as error:
            failure.append(error)

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    waited = 0.0
    while worker.is_alive():
        worker.join(0.2)
        waited += 0.2
        tick()
        if deadline is not None and waited > deadline and worker.is_alive():
            raise TimeoutError(f"no answer within {deadline:.0f} s")
    if failure:
        raise failure[0]
    return outcome[0]


def _blobs_folder(hub_id: str) -> Path:
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE) / f"models--{hub_id.replace('/', '--')}" / "blobs"


def _size(folder: Path) -> int:
    total = 0
    for path in folder.glob("*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:  # renamed between listing and asking
            continue
    return total


def _first_line(error: BaseException) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:160] if text else type(error).__name__


@contextmanager
def _no_bars() -> Iterator[None]:
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    were_off = are_progress_bars_disabled()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        disable_progress_bars()
        try:
            yield
        finally:
            if not were_off:
                enable_progress_bars()
