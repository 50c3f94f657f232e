"""Several processes train what one does: features shared, data shared, or both; and none waits for one that failed.
One that is killed goes on where it was.
"""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from many_processes import CASES, CONFIGS, MESHES, SLOW, STEPS, model_of, rows_of
from safetensors.torch import load_file
from torch import Tensor

from lucida.errors import TrainingError
from lucida.training import train
from lucida.training.activations import Activations
from lucida.training.checkpoint import saved_config

SHARED = [case for case in CASES if case.size > 1 and case.mishap in ("", "stopped")]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which all cases were run. A hang is a failure."""
    folder = tmp_path_factory.mktemp("runs")
    script = Path(__file__).with_name("many_processes.py")
    process = subprocess.Popen(
        [sys.executable, script, folder], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        output, _ = process.communicate(timeout=300)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(f"the processes wait for each other: {process.communicate()[0]}")
    assert process.returncode == 0, output
    return folder


def whole_checkpoint(folder: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint, shards joined along their features."""
    shards = [load_file(path) for path in sorted((folder / "checkpoint").glob("shard-*"))]
    joined = {}
    for name, tensor in shards[0].items():
        is_sharded = re.search(r"layers\.|silent_steps", name) and "adam.step" not in name
        joined[name] = torch.cat([shard[name] for shard in shards]) if is_sharded else tensor
    return joined


def alone(case: Any) -> str:
    """The folder of the same run in one process."""
    return ("batchtopk" if case.name == "stopped" else case.name) + "-1x1"


@pytest.mark.parametrize("case", SHARED, ids=lambda case: case.folder)
def test_checkpoints_equal_those_of_one_process(runs: Path, case: Any) -> None:
    """Weights, Adam's moments, and how long each feature has been silent: the same were selected at each step."""
    assert len(list((runs / case.folder / "checkpoint").glob("shard-*"))) == case.feature
    found, wanted = whole_checkpoint(runs / case.folder), whole_checkpoint(runs / alone(case))
    assert found.keys() == wanted.keys()
    # A sum in another order may tip a master weight to the next bfloat16.
    precision = 1e-6 if case.config.products == "float32" else 1e-4
    for name, tensor in wanted.items():
        if name.startswith(("weights", "normalisation")):
            assert torch.allclose(found[name], tensor, rtol=0, atol=precision), name
        elif name.startswith(("silent", "adam.step")):
            assert torch.equal(found[name], tensor), name
        else:
            assert torch.allclose(found[name], tensor, rtol=1e-3, atol=1e2 * precision * float(tensor.abs().max())), (
                name
            )
    states = [
        json.loads((runs / folder / "checkpoint/state.json").read_text()) for folder in (case.folder, alone(case))
    ]
    assert states[0]["low"] == pytest.approx(states[1]["low"], rel=1e-4), "the threshold is that of all"


@pytest.mark.parametrize("case", SHARED, ids=lambda case: case.folder)
def test_dictionaries_equal_that_of_one_process(runs: Path, case: Any) -> None:
    """Every process gets the whole: calibrated on the same tokens, folded, joined."""
    wanted = load_file(runs / alone(case) / "dictionary-0.safetensors")
    for rank in range(case.size):
        found = load_file(runs / case.folder / f"dictionary-{rank}.safetensors")
        assert found.keys() == wanted.keys()
        for name, tensor in wanted.items():
            precision = 2e-6 if case.config.products == "float32" else 2e-4
            assert torch.allclose(found[name], tensor, rtol=1e-5, atol=precision), name


@pytest.mark.parametrize("case", SHARED, ids=lambda case: case.folder)
def test_only_the_first_process_reports_and_of_all(runs: Path, case: Any) -> None:
    heard = [json.loads((runs / case.folder / f"heard-{rank}.json").read_text()) for rank in
             range(case.size)]  # fmt: skip
    assert all(others == [] for others in heard[1:])
    lines = (runs / case.folder / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == heard[0]
    wanted = json.loads((runs / alone(case) / "heard-0.json").read_text())
    assert [m["step"] for m in heard[0]] == [m["step"] for m in wanted] == list(range(1, STEPS + 1))
    for ours, theirs in zip(heard[0], wanted, strict=True):
        for name in ("l0_by_layer", "dead", "learning_rate"):
            assert ours[name] == theirs[name], name
        for name in ("nmse", "penalty", "aux"):
            assert ours[name] == pytest.approx(theirs[name], rel=1e-4), name


def test_the_runs_have_what_they_are_to_show(runs: Path) -> None:
    """Dead features and an auxiliary loss, penalties, and streams with different numbers of usable tokens."""
    last = {name: json.loads((runs / f"{name}-1x1/heard-0.json").read_text())[-1] for name in MESHES}
    assert last["batchtopk"]["dead"] > 0.2
    assert last["batchtopk"]["aux"] > 0
    assert last["tanh"]["penalty"] > 0
    assert last["quadratic"]["penalty"] > 0
    config = CONFIGS["bfloat16"]
    activations = Activations(model_of("bfloat16"), rows_of(config), config)
    assert len({len(activations.compute(0, stream).usable) for stream in range(4)}) > 1


def test_a_disk_that_is_full_for_one_stops_all(runs: Path) -> None:
    """None waits for the one that failed, and the checkpoint before is kept whole."""
    first, second = ((runs / f"full-{rank}.txt").read_text() for rank in range(2))
    assert re.fullmatch(
        r"SaveError cannot write the checkpoint .*: another process failed; the one before is as it was", first
    )
    assert "No space left on device" in second
    kept = runs / "full-1x2" / "checkpoint"
    assert json.loads((kept / "state.json").read_text())["step"] == 2
    assert sorted(path.name for path in kept.iterdir()) == [
        "shard-1-of-2.safetensors", "shard-2-of-2.safetensors", "state.json",
    ]  # fmt: skip
    assert [path.name for path in kept.parent.glob(".checkpoint*")] == []


def test_processes_that_were_given_different_settings_are_refused(runs: Path) -> None:
    for rank in range(2):
        found = (runs / f"differ-{rank}.txt").read_text()
        assert "TrainingError the 2 processes of this run differ in settings" in found
        assert f'"seed": {rank}' in found
        assert "\n" not in found


@pytest.mark.usefixtures("quick_calibration")
def test_a_run_goes_on_with_other_data_processes_but_not_other_feature_processes(
    runs: Path,
) -> None:
    config = CONFIGS["batchtopk"]
    with pytest.raises(TrainingError, match=r"has no shard-1-of-1.safetensors but shard-1-of-2.*as many processes"):
        train(model_of("float32"), rows_of(config), config, runs / "batchtopk-2x2")
    train(model_of("float32"), rows_of(config), config, runs / "batchtopk-2x1")


@pytest.mark.usefixtures("quick_calibration")
def test_a_killed_process_goes_on_to_the_same_bits(runs: Path, tmp_path: Path) -> None:
    """kill -9 while it trains and saves all the time."""
    folder = runs / "killed"
    assert saved_config(folder / "checkpoint") == SLOW
    reached = json.loads((folder / "checkpoint/state.json").read_text())["step"]
    assert 5 <= reached < SLOW.n_steps
    for place in (folder, tmp_path):
        train(model_of("float32"), rows_of(SLOW), SLOW, place, name="made")
    found, wanted = whole_checkpoint(folder), whole_checkpoint(tmp_path)
    assert found.keys() == wanted.keys()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in found.items())
    steps = [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))
    assert steps[-1] == SLOW.n_steps
