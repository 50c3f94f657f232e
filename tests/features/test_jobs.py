"""Shards as jobs: to a folder or a URL, killed with -9, and on a Ray cluster whose worker dies."""

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from tiny_models import build_hf

from lucida.dictionaries import write_circuit_tracer
from lucida.errors import FeatureError
from lucida.features.build.jobs import IndexJob, Worker, merge_shards
from lucida.features.build.one_pass import build_index
from lucida.features.header import IndexHeader
from lucida.models.load import load_model
from lucida.models.model import Model

SETTINGS: dict[str, Any] = {"context": 16, "k": 4, "samples": 2, "window": 3, "sampled_places": 60}


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, tiny_features: Callable, store_for: Callable) -> IndexJob:
    """A model, a dictionary and a corpus in folders."""
    folder = tmp_path_factory.mktemp("job")
    build_hf("llama").save_pretrained(folder / "model")
    model: Model = load_model(str(folder / "model"), offline=True)
    write_circuit_tracer(tiny_features(model), folder / "dictionary")
    store = store_for(model, 4000)
    return IndexJob(
        str(folder / "model"), str(folder / "dictionary"), str(store.folder), str(folder / "out"), 3,
        threads=1, settings=SETTINGS,
    )  # fmt: skip


def digest(folder: Path) -> str:
    names = ("stats", "examples", "active", "vocabulary")
    return "".join(hashlib.sha256((folder / f"{n}.parquet").read_bytes()).hexdigest()[:12] for n in names)


@pytest.fixture(scope="module")
def expected(job: IndexJob, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What one process makes of it."""
    worker = Worker(job)
    folder = tmp_path_factory.mktemp("one") / "index"
    build_index(worker.model, worker.dictionary, worker.store, folder, **SETTINGS)
    return digest(folder)


@pytest.mark.parametrize("place", ["", "file://"])
def test_shards_of_a_job_merge_to_what_one_process_makes(
    job: IndexJob, expected: str, tmp_path: Path, place: str
) -> None:
    job = replace(job, out=f"{place}{tmp_path}/parts")
    worker = Worker(job)
    with pytest.raises(FeatureError, match="not a feature index"):
        merge_shards(job, tmp_path / "merged", model=worker.model)
    for index in (2, 0, 1):
        worker.run(index)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "parts").rglob("*.parquet")}
    worker.run(1)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "parts").rglob("*.parquet")} == before
    merge_shards(job, tmp_path / "merged", model=worker.model)
    assert digest(tmp_path / "merged") == expected


SCRIPT = """
import json, os, signal, sys, time, traceback
from pathlib import Path
from lucida.features.build import jobs, one_pass
from lucida.errors import FeatureError
from lucida.features.build.events import EventReader
from lucida.features.header import IndexHeader
read = EventReader.read
def slow(self, number, receive):
    time.sleep(0.05)
    return read(self, number, receive)
EventReader.read = slow
job, folder = jobs.IndexJob(**json.loads(sys.argv[1])), Path(sys.argv[2])
worker = jobs.Worker(job)
def build():
    try:
        one_pass.build_index(worker.model, worker.dictionary, worker.store, folder, checkpoint_minutes=0.0,
                             **job.settings)
    except BaseException:
        traceback.print_exc()
    os._exit(1)
def done():
    try:
        return IndexHeader.open(folder).tiles[0]
    except FeatureError:
        return 0
for _ in range(2):
    before = done()
    pid = os.fork() or build()
    while done() < before + 3:
        time.sleep(0.02)
        assert os.waitpid(pid, os.WNOHANG) == (0, 0), "it ended before it was killed"
    os.kill(pid, signal.SIGKILL)  # nothing is tidied up
    os.waitpid(pid, 0)
"""


def test_killed_at_any_moment_it_goes_on(job: IndexJob, expected: str, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    command = [sys.executable, "-c", SCRIPT, json.dumps(asdict(job)), str(folder)]
    ended = subprocess.run(command, stderr=subprocess.PIPE, timeout=120)
    assert ended.returncode == 0, ended.stderr.decode()[-600:]
    done, wanted = IndexHeader.open(folder).tiles
    assert 0 < done < wanted
    worker = Worker(job)
    assert build_index(worker.model, worker.dictionary, worker.store, folder, **SETTINGS).complete
    assert digest(folder) == expected


def workers_of_ray() -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and b"ShardActor" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
        except OSError:
            continue
    return found


@pytest.mark.real
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_ray_gives_the_same_bits_though_a_worker_is_killed(job: IndexJob, expected: str, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray")
    from lucida.features.build.ray_engine import index_with_ray

    job = replace(job, out=str(tmp_path / "parts"), n_shards=8)
    killed: list[int] = []

    def kill_one(_stage: str, done: int, _total: int | None) -> None:
        alive = workers_of_ray()
        if done and not killed and alive:
            killed.append(alive[0])
            os.kill(alive[0], signal.SIGKILL)

    try:
        places = index_with_ray(job, workers=2, progress=kill_one)
        again = index_with_ray(job, workers=2)
    finally:
        ray.shutdown()
    assert killed
    worker = Worker(job)
    header = merge_shards(job, tmp_path / "merged", model=worker.model)
    assert digest(tmp_path / "merged") == expected
    assert places == again == header.n_places


def test_without_ray_it_says_what_to_install(job: IndexJob, monkeypatch: pytest.MonkeyPatch) -> None:
    from lucida.features.build.ray_engine import index_with_ray

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(FeatureError, match=r"camera-lucida\[distributed\]"):
        index_with_ray(job)
