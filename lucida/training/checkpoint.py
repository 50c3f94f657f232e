"""The whole state of a run in a folder: weights, Adam's moments, counters; never pickle.

Every process writes the features it holds (`shard-I-of-N.safetensors`); the folder appears under its name only
when it is complete, and the one before is kept until then.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lucida.errors import SaveError, TrainingError
from lucida.training.config import TrainingConfig
from lucida.training.mesh import Mesh
from lucida.training.normalise import Normalisation
from lucida.training.transcoder import Transcoder

VERSION = 1


@dataclass
class RunState:
    """What changes during a run. `step` is the number of steps done."""

    transcoder: Transcoder
    optimiser: torch.optim.Adam
    normalisation: Normalisation
    silent_steps: list[Tensor]
    """By layer and feature, steps since it last fired."""
    step: int = 0
    low: float = 0.0
    seconds: float = 0.0
    """Time spent in earlier sessions of this run."""
    data: str = ""
    """Fingerprint of the rows trained on; empty when they have none."""
    l0: Tensor | None = None
    """Running mean of the active features per token of each layer, which calibration restores."""

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name."""
        found = {f"weights.{name}": tensor.detach() for name, tensor in self.transcoder.named()}
        for name, parameter in self.transcoder.named():
            for moment, value in self.optimiser.state.get(parameter, {}).items():
                found[f"adam.{moment}.{name}"] = value
        found |= {f"normalisation.{name}": tensor for name, tensor in self.normalisation.tensors().items()}
        found |= {f"silent_steps.{layer}": steps for layer, steps in enumerate(self.silent_steps)}
        if self.l0 is not None:
            found["l0"] = self.l0
        return {name: tensor.contiguous() for name, tensor in found.items()}

    @torch.no_grad()
    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Put saved tensors back. Raises KeyError or RuntimeError when they are those of another run."""
        for name, parameter in self.transcoder.named():
            parameter.copy_(tensors[f"weights.{name}"])
            if f"adam.step.{name}" in tensors:  # not before the first step
                self.optimiser.state[parameter] = {
                    moment: tensors[f"adam.{moment}.{name}"].to(parameter.device)
                    for moment in ("step", "exp_avg", "exp_avg_sq")
                }
        parts = {name: tensors[f"normalisation.{name}"] for name in self.normalisation.tensors()}
        self.normalisation = Normalisation(**parts).to(self.transcoder.device)
        self.silent_steps = [
            tensors[f"silent_steps.{layer}"].to(self.transcoder.device) for layer in range(len(self.silent_steps))
        ]
        self.l0 = tensors.get("l0")


def save_checkpoint(state: RunState, folder: Path, mesh: Mesh) -> None:
    """Write the state as `folder`; the previous or the new one is there whole at any moment.

    Raises SaveError in every process when one cannot write (disk full); the previous checkpoint is then as it was.
    """
    scratch = folder.with_name(f".{folder.name}.new")
    if mesh.is_first:
        shutil.rmtree(scratch, ignore_errors=True)
    mesh.every(True)
    _together(mesh, folder, lambda: _write_shard(state, scratch, mesh))
    _together(mesh, folder, lambda: _publish(state, scratch, folder) if mesh.is_first else None)


def _together(mesh: Mesh, folder: Path, work: Callable[[], None]) -> None:
    """Do a part of saving in every process; when it fails in one, all raise, and none waits for another."""
    failure = None
    try:
        work()
    except (OSError, SafetensorError) as error:
        failure = error
    if mesh.every(failure is None):
        return
    if mesh.is_first:
        shutil.rmtree(folder.with_name(f".{folder.name}.new"), ignore_errors=True)
    what = failure or "another process failed"
    raise SaveError(f"cannot write the checkpoint {folder}: {what}; the one before is as it was") from failure


def _write_shard(state: RunState, scratch: Path, mesh: Mesh) -> None:
    if mesh.data_rank == 0:
        scratch.mkdir(parents=True, exist_ok=True)
        save_file(state.tensors(), scratch / _shard(mesh))


def _publish(state: RunState, scratch: Path, folder: Path) -> None:
    """Put the complete folder in the place of the one before, which is deleted last."""
    counters = {"step": state.step, "low": state.low, "seconds": state.seconds, "data": state.data}
    text = {"version": VERSION, "config": state.transcoder.config.to_json(), **counters}
    (scratch / "state.json").write_text(json.dumps(text), "utf-8")
    previous = folder.with_name(f".{folder.name}.old")
    if folder.exists():  # if not, the one in `previous` is the only one: a process was killed between two renames
        shutil.rmtree(previous, ignore_errors=True)
        folder.rename(previous)
    try:
        scratch.rename(folder)
    except OSError:
        if previous.exists():
            previous.rename(folder)
        raise
    shutil.rmtree(previous, ignore_errors=True)


def load_checkpoint(state: RunState, folder: Path, mesh: Mesh) -> bool:
    """Take the state from `folder`; False when there is none.

    Raises TrainingError when it is of another configuration (every difference is named) or corpus, was written by
    another number of processes, or is cut short, and when only some processes see it.
    """
    folder = _complete(folder)
    is_there = folder.is_dir()
    if mesh.every(not is_there):
        return False
    if not mesh.every(is_there):
        raise TrainingError(f"only some processes see {folder}; the folder of a run must be one that all of them share")
    config = state.transcoder.config
    text = _read_state(folder)
    saved = TrainingConfig.from_json(text["config"])
    if differences := config.differences(saved):
        raise TrainingError(
            f"{folder} holds a run with other settings (asked, found): {'; '.join(differences)}; "
            "take the same ones or another folder"
        )
    if text["data"] and state.data and text["data"] != state.data:
        raise TrainingError(
            f"{folder} holds a run on other text ({text['data']}, asked {state.data}); take the same or another folder"
        )
    shard = folder / _shard(mesh)
    if not shard.exists():
        found = ", ".join(sorted(path.name for path in folder.glob("shard-*"))) or "no weights"
        raise TrainingError(
            f"{folder} has no {shard.name} but {found}; resume with as many processes as it was written by"
        )
    try:
        with safe_open(shard, "pt") as file:
            state.restore({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, RuntimeError) as error:
        raise TrainingError(
            f"checkpoint {shard} is damaged or cut short ({error}); delete it and start again"
        ) from error
    state.step, state.low, state.seconds = int(text["step"]), float(text["low"]), float(text["seconds"])
    return True


def saved_config(folder: Path) -> TrainingConfig | None:
    """The configuration of the checkpoint in `folder`, None when there is none. Raises TrainingError if damaged."""
    folder = _complete(folder)
    return TrainingConfig.from_json(_read_state(folder)["config"]) if folder.is_dir() else None


def _read_state(folder: Path) -> dict:
    try:
        text = json.loads((folder / "state.json").read_text("utf-8"))
        if text["version"] != VERSION:
            raise TrainingError(f"{folder} is a checkpoint of version {text['version']}, this one reads {VERSION}")
        return {"data": text.get("data", "")} | {name: text[name] for name in ("config", "step", "low", "seconds")}
    except (OSError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, TrainingError):
            raise
        raise TrainingError(
            f"checkpoint {folder} is damaged or cut short ({error}); delete it and start again"
        ) from error


def _complete(folder: Path) -> Path:
    """The folder, or the previous one when the process was killed between the two renames."""
    previous = folder.with_name(f".{folder.name}.old")
    return previous if previous.is_dir() and not folder.is_dir() else folder


def _shard(mesh: Mesh) -> str:
    return f"shard-{mesh.feature_rank + 1}-of-{mesh.feature_size}.safetensors"
