"""Write a file or a folder so that a reader sees the old one or the new one, never half of either."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lucida.errors import SaveError


@contextmanager
def replacing(path: str | Path, *, folder: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`; move it to `path` when the block ends well.

    On any exception (Ctrl-C included) the temporary is deleted and `path` is as it was. With
    ``folder=True`` the temporary is an existing empty folder, else a file name to write to.

    Raises SaveError when the disk is full or the place cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except OSError as error:
        raise SaveError(f"cannot write {path}: {error.strerror}; choose another place") from error
    # The suffix is kept: writers such as matplotlib choose the format by it.
    temporary = scratch / path.name
    try:
        if folder:
            temporary.mkdir()
        yield temporary
        if folder and path.exists():
            path.rename(scratch / "previous")
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is None:
            raise
        raise SaveError(f"cannot write {path}: {error.strerror}; nothing was changed") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
