"""What a model folder must hold before anything reads it: a config, and whole safetensors files."""

import json
import struct
from pathlib import Path

from lucida.errors import ModelError

INDEX = "model.safetensors.index.json"


def check_model_folder(folder: str | Path) -> None:
    """Return nothing when `folder` holds a Hugging Face config and all of its safetensors weights, whole.

    Reads the headers only. Raises ModelError that names what is missing or cut short; pickled weights
    (.bin, .pt) do not count, because reading them can run a stranger's code.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ModelError(f"no model folder at {folder}; give a folder with config.json and *.safetensors")
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} has no config.json; give a Hugging Face model folder")
    for weights in _weight_files(folder):
        check_safetensors(weights)


def _weight_files(folder: Path) -> list[Path]:
    if not (folder / INDEX).is_file():
        weights = sorted(folder.glob("*.safetensors"))
        if not weights:
            raise ModelError(f"{folder} has no *.safetensors weights; pickled weights are not read")
        return weights
    try:
        listed = sorted(set(json.loads((folder / INDEX).read_text("utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{folder / INDEX} is damaged; fetch the model again") from error
    return [folder / str(name) for name in listed]


def check_safetensors(path: Path) -> None:
    """Return nothing when the tensors that a safetensors file lists fill it exactly; ModelError otherwise."""
    if not path.is_file():
        raise ModelError(f"{path} is missing; fetch the model again")
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > size - 8:
                raise ValueError(f"its header needs {length:,} bytes")
            header = json.loads(file.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        expected = 8 + length + max(ends, default=0)
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise ModelError(f"{path} is not a safetensors file ({error}); fetch the model again") from error
    if expected != size:
        raise ModelError(f"{path} is cut short: {size:,} bytes of {expected:,}; fetch the model again")
