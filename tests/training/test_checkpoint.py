"""A stopped run goes on to the same bits; a checkpoint is whole or refused; a full disk costs nothing."""

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from synthetic import MadeUpRows, tiny_config
from torch import Tensor

from lucida.dictionaries import Dictionary
from lucida.errors import SaveError, TrainingError
from lucida.models.model import Model
from lucida.training import TrainingConfig, checkpoint, loop, train
from lucida.training.checkpoint import saved_config

SHARD = "shard-1-of-1.safetensors"


pytestmark = pytest.mark.usefixtures("quick_calibration")


def every_step(**knobs: Any) -> TrainingConfig:
    """A tiny run that is saved after every step, with features that die and are revived."""
    return tiny_config(**{"k": 0.3, "anneal_from": 1.0, "dead_after": 0.01, "checkpoint_minutes": 0.0} | knobs)


def run(model: Model, folder: Path, config: TrainingConfig, *, fingerprint: str = "made-up") -> Dictionary:
    return train(model, MadeUpRows(17, fingerprint=fingerprint), config, folder, name="made")


def stop_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Stop the run after its checkpoint of this step."""
    save = checkpoint.save_checkpoint

    def saving(state: Any, folder: Path, mesh: Any) -> None:
        save(state, folder, mesh)
        if state.step == step:
            raise KeyboardInterrupt

    monkeypatch.setattr(loop, "save_checkpoint", saving)


def stopped(model: Model, folder: Path, config: TrainingConfig, step: int) -> Path:
    """A run that was stopped at this step; returns its checkpoint."""
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, step)
        with pytest.raises(KeyboardInterrupt):
            run(model, folder, config)
    return folder / "checkpoint"


def tensors(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "checkpoint" / SHARD)


def same(left: dict[str, Tensor], right: dict[str, Tensor]) -> None:
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert torch.equal(tensor, right[name]), name


def weights(dictionary: Dictionary) -> dict[str, Tensor]:
    found = {f"{layer}.{name}": t for layer, w in dictionary.weights.items() for name, t in w.named().items()}
    return found | {"bias": dictionary.decoder_biases}


@pytest.mark.parametrize(("activation", "stops"), [("batchtopk", (1, 15, 20)), ("jumprelu", (15,))])
def test_a_stopped_run_goes_on_to_the_same_bits(
    tiny_model: Any, tmp_path: Path, activation: Any, stops: tuple[int, ...]
) -> None:
    """Stopped after the first step, in the middle of a block, and after the last: weights, Adam, dictionary."""
    model, config = tiny_model("llama"), every_step(activation=activation)
    unbroken = run(model, tmp_path / "one", config)
    for stop in stops:
        folder = tmp_path / f"stopped-{stop}"
        stopped(model, folder, config, stop)
        again = run(model, folder, config)
        same(tensors(tmp_path / "one"), tensors(folder))
        same(weights(unbroken), weights(again))
        assert json.loads((folder / "checkpoint/state.json").read_text())["step"] == 20
    if activation == "batchtopk":
        silent = torch.cat([t for name, t in tensors(tmp_path / "one").items() if name.startswith("silent")])
        assert int((silent > 10).sum()) > 5, "the case has dead features"


# --- the folder is whole at any moment ------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def full_disk(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_keeps_the_checkpoint_before(tiny_model: Any, tmp_path: Path, monkeypatch: Any) -> None:
    folder = stopped(tiny_model("llama"), tmp_path, every_step(), 5)
    before = contents(folder)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full_disk)
        with pytest.raises(SaveError, match=r"No space left on device; the one before is as it was") as caught:
            run(tiny_model("llama"), tmp_path, every_step())
    assert "\n" not in str(caught.value)
    assert contents(folder) == before
    assert {path.name for path in tmp_path.iterdir()} <= {"checkpoint", "metrics.jsonl"}
    run(tiny_model("llama"), tmp_path, every_step())


@pytest.mark.parametrize("which", [".checkpoint.new", "state.json"])
def test_a_failure_at_the_very_end_keeps_the_checkpoint_before(
    tiny_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    """The one before was moved aside already when the new one could not be moved in: it is moved back."""
    folder = stopped(tiny_model("llama"), tmp_path, every_step(), 5)
    before = contents(folder)

    def failing(function: Callable[..., Any]) -> Callable[..., Any]:
        def called(path: Path, *arguments: Any, **named: Any) -> Any:
            return full_disk() if path.name == which else function(path, *arguments, **named)

        return called

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", failing(Path.rename))
        patch.setattr(Path, "write_text", failing(Path.write_text))
        with pytest.raises(SaveError, match="No space left"):
            run(tiny_model("llama"), tmp_path, every_step())
    assert contents(folder) == before
    assert {path.name for path in tmp_path.iterdir()} <= {"checkpoint", "metrics.jsonl"}


def test_a_kill_between_the_two_renames_loses_nothing(tiny_model: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """Then the only checkpoint is the one moved aside; it stays until a new one is in place."""
    model, config = tiny_model("llama"), every_step()
    folder = stopped(model, tmp_path / "two", config, 5)
    aside = folder.with_name(".checkpoint.old")
    folder.rename(aside)
    assert saved_config(folder) == config

    rename = Path.rename

    def renaming(path: Path, target: Path) -> Path:
        assert aside.is_dir(), "the only checkpoint was deleted before there was another"
        return rename(path, target)

    stop_at(monkeypatch, 6)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", renaming)
        with pytest.raises(KeyboardInterrupt):
            run(model, tmp_path / "two", config)
    assert folder.is_dir()
    assert not aside.exists()
    monkeypatch.undo()
    monkeypatch.setattr(loop, "CALIBRATION_TOKENS", 200)
    run(model, tmp_path / "one", config)
    run(model, tmp_path / "two", config)
    same(tensors(tmp_path / "one"), tensors(tmp_path / "two"))


# --- what is refused ------------------------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def rewrite(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: cut(f / SHARD), "damaged or cut short"),
        (lambda f: (f / SHARD).write_bytes(b""), "damaged or cut short"),
        (lambda f: (f / SHARD).unlink(), "no shard-1-of-1.safetensors but no weights"),
        (lambda f: (f / SHARD).rename(f / "shard-1-of-2.safetensors"), "as many processes as it was written by"),
        (lambda f: cut(f / "state.json"), "damaged or cut short"),
        (lambda f: (f / "state.json").unlink(), "damaged or cut short"),
        (lambda f: rewrite(f / "state.json", version=99), "of version 99, this one reads 1"),
        (lambda f: rewrite(f / "state.json", config="{}"), "not a training configuration"),
    ],
)
def test_a_damaged_checkpoint_is_refused(
    tiny_model: Any, tmp_path: Path, damage: Callable[[Path], Any], words: str
) -> None:
    folder = stopped(tiny_model("llama"), tmp_path, every_step(), 2)
    damage(folder)
    with pytest.raises(TrainingError, match=words) as caught:
        run(tiny_model("llama"), tmp_path, every_step())
    assert "\n" not in str(caught.value)


def test_other_settings_are_refused_and_each_is_named(tiny_model: Any, tmp_path: Path) -> None:
    stopped(tiny_model("llama"), tmp_path, every_step(), 2)
    with pytest.raises(TrainingError, match=r"k: 5.0, 0.3; seed: 3, 0; take the same ones") as caught:
        run(tiny_model("llama"), tmp_path, every_step(k=5.0, seed=3))
    assert "\n" not in str(caught.value)
    # How often it is saved changes no result.
    run(tiny_model("llama"), tmp_path, every_step(checkpoint_minutes=1.0))


def test_other_text_is_refused(tiny_model: Any, tmp_path: Path) -> None:
    """A run that went on with another corpus would be neither."""
    folder = stopped(tiny_model("llama"), tmp_path, every_step(), 2)
    with pytest.raises(TrainingError, match="a run on other text"):
        run(tiny_model("llama"), tmp_path, every_step(), fingerprint="another corpus")
    # A checkpoint of the time before this was noted is taken.
    state = json.loads((folder / "state.json").read_text())
    del state["data"]
    (folder / "state.json").write_text(json.dumps(state))
    run(tiny_model("llama"), tmp_path, every_step(), fingerprint="another corpus")


def test_no_checkpoint_has_no_settings(tmp_path: Path) -> None:
    assert saved_config(tmp_path / "checkpoint") is None
    assert os.listdir(tmp_path) == []
