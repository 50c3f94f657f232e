"""The folder that an index is written to: looked at before the work, and tidied after a process that was killed."""

import os
import re
import shutil
import tempfile
from glob import escape
from pathlib import Path
from typing import Any

from lucida.errors import FeatureError, SaveError
from lucida.features.header import HEADER, IndexHeader

SHOWN_DIGITS = 12
"""So much of a sha256 is shown."""


def check_place(folder: str | Path) -> None:
    """Raise unless an index can be written to `folder`, so that nobody learns it after an hour of work.

    FeatureError when a file, a mount point or something that is no index is there; SaveError when it cannot be written.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise FeatureError(f"{folder} is a file; an index is a folder, choose another name")
    if folder.is_mount():
        raise FeatureError(f"{folder} is a mount point, which cannot be replaced whole; choose a folder inside it")
    try:
        if folder.is_dir() and any(folder.iterdir()) and not (folder / HEADER).exists():
            raise FeatureError(f"{folder} is there and is not a feature index; choose another folder")
        above = folder.absolute().parent
        while not above.exists():
            above = above.parent
        os.rmdir(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=above))
    except OSError as error:
        raise SaveError(f"cannot write {folder}: {error.strerror}; choose another place") from error


def recover(folder: Path) -> None:
    """Tidy up beside `folder` after a process that was killed while it wrote (`lucida.atomic.replacing`).

    If that was in the instant between taking the old index away and putting the new one there, the old one comes back.
    """
    for left in sorted(folder.parent.glob(f".{escape(folder.name)}.*")):
        # Only what `replacing` leaves: a folder of somebody else's may have such a name too.
        is_ours = re.fullmatch(r"[a-z0-9_]{8}", left.name[len(folder.name) + 2 :]) and left.is_dir()
        if not is_ours or not {each.name for each in left.iterdir()} <= {folder.name, "previous"}:
            continue
        if not folder.exists() and (left / "previous" / HEADER).is_file():
            (left / "previous").rename(folder)
        shutil.rmtree(left, ignore_errors=True)


def found_index(folder: Path, header: IndexHeader) -> IndexHeader | None:
    """The header of this same index in `folder`, finished or not; None where there is nothing yet.

    Raises FeatureError when another index is there, saying what differs, or when files of it are not as written.
    """
    if not folder.exists() or not any(folder.iterdir()):
        return None
    found = IndexHeader.open(folder)
    different = differences(found, header)
    if not different and (found.shard, found.tiles[1]) != (header.shard, header.tiles[1]):
        different = f"shard: {_part(found)}, now {_part(header)}"
    if different:
        raise FeatureError(f"{folder} holds another index ({different}); choose another folder or delete it")
    if found.complete:
        for name in ("stats.parquet", "examples.parquet", "active.parquet", "vocabulary.parquet"):
            size = (folder / name).stat().st_size if (folder / name).is_file() else 0
            if name in found.files and size != found.files[name].size:
                raise FeatureError(
                    f"{folder / name} has {size:,} of {found.files[name].size:,} bytes; delete {folder}, index again"
                )
    return found


def differences(found: IndexHeader, wanted: IndexHeader) -> str:
    """What makes one index another one than `wanted`, in words; "" when they hold the same numbers."""
    pairs = ((name, value, wanted.identity[name]) for name, value in found.identity.items())
    return "; ".join(f"{name}: {_short(was)}, now {_short(now)}" for name, was, now in pairs if was != now)


def _short(value: Any) -> str:
    if isinstance(value, str) and len(value) >= 64:
        return value[:SHOWN_DIGITS]
    return repr(value) if len(repr(value)) <= 60 else f"{repr(value)[:56]} ..."


def _part(header: IndexHeader) -> str:
    return f"{header.shard[0]}/{header.shard[1]}"
