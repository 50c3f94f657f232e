"""From a folder of weights to a checked `Model`."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from lucida.errors import ModelError
from lucida.models.check import check_model
from lucida.models.families import family_of
from lucida.models.fetch import locate
from lucida.models.model import Model
from lucida.progress import Progress, silent

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def load_model(
    model: str | Path,
    *,
    dtype: str = "float32",
    device: str = "cpu",
    offline: bool = False,
    allow_unverified: bool = False,
    progress: Progress | None = None,
) -> Model:
    """The model of a registry name, folder, ``.gguf`` file or hub id, fetched if need be and checked.

    Raises ModelError for an unsupported architecture, damaged weights or a view that is not exact;
    FetchError when no source has it.
    """
    progress = progress or silent
    if dtype not in DTYPES:
        raise ModelError(f"dtype {dtype!r} is not known; use {' or '.join(DTYPES)}")
    _check_device(device)
    located = locate(
        model,
        dtype="bfloat16" if dtype == "bfloat16" else "float32",
        offline=offline,
        allow_unverified=allow_unverified,
        progress=progress,
    )
    source = {"weights": located.source, "sha256": located.sha256, "revision": located.revision}
    progress("loading weights", 0, 1)
    with _quiet_transformers():
        config = _read_config(located.folder)
        hf = _read_weights(located.folder, config, DTYPES[dtype])
        tokenizer = _read_tokenizer(located.folder)
    name = located.entry.name if located.entry else Path(model).name if Path(model).exists() else str(model)
    loaded = Model(hf.to(device), tokenizer, name=name, source=source)
    check_model(loaded)
    progress("loading weights", 1, 1)
    return loaded


def _check_device(device: str) -> None:
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise ModelError(f"device {device!r} is not known; use cpu or cuda") from error
    if wanted.type == "cuda" and not torch.cuda.is_available():
        raise ModelError("device cuda was asked for and none is available; use cpu")


def _read_config(folder: Path) -> Any:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"cannot read the config of {folder.name}: {_first_line(error)}") from error
    architectures = getattr(config, "architectures", None) or [type(config).__name__]
    family_of(architectures[0])
    return config


def _read_weights(folder: Path, config: Any, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM

    try:
        hf, report = AutoModelForCausalLM.from_pretrained(  # pyright: ignore
            folder,
            config=config,
            dtype=dtype,
            attn_implementation="eager",
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
    except Exception as error:  # transformers and safetensors raise many kinds for a damaged file
        raise ModelError(
            f"cannot load the weights in {folder.name}: {_first_line(error)}; fetch or convert the model again"
        ) from error
    missing = sorted(report.get("missing_keys", ()))
    if missing:
        raise ModelError(
            f"the weights in {folder.name} lack {len(missing)} tensors its config asks for, first {missing[0]}; "
            "they belong to another config or are damaged"
        )
    return hf.eval().requires_grad_(False)


def _read_tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    if not any((folder / name).exists() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        return None
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        raise ModelError(f"cannot read the tokenizer of {folder.name}: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:200]


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No bars and no advice from transformers while we load: our own progress and errors say it."""
    from transformers.utils import logging as hf_logging

    level, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity(logging.ERROR)
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()
