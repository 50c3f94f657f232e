"""A GGUF file made once into a safetensors folder: exact de-quantised weights, a config, a tokenizer.

The weights and the config come through `transformers` (``gguf_file=``). What it leaves to us, each of
them seen on a real file (docs/models.md): a damaged file is refused before it is read; a tensor that the
file lacks is an error and not a random initialisation; a padding token that is also the begin or end
token is dropped, because a mask derived from it hides real tokens; digits are split where the
vocabulary was trained so; and text gets a BOS exactly when the file says ``add_bos_token``.
"""

import functools
import mmap
import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from unittest.mock import patch

from lucida.errors import ModelError
from lucida.progress import Progress, silent

DType = Literal["float32", "bfloat16"]

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
# Vocabularies whose training split every digit off; llama.cpp keeps the same list.
_DIGIT_SPLITTING = {"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"}


@dataclass(frozen=True)
class GGUFHeader:
    """What a GGUF file says of itself: scalar metadata (arrays as their length) and tensor names."""

    metadata: dict[str, Any]
    tensors: tuple[str, ...]

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture", ""))

    @property
    def has_tokenizer(self) -> bool:
        return "tokenizer.ggml.model" in self.metadata

    @property
    def adds_bos(self) -> bool:
        """Whether text is to begin with BOS; sentencepiece files that do not say mean yes."""
        default = self.metadata.get("tokenizer.ggml.model") == "llama"
        return bool(self.metadata.get("tokenizer.ggml.add_bos_token", default))


class _Cursor:
    """A position in a memory-mapped file that refuses to move past the end."""

    def __init__(self, data: mmap.mmap):
        self.data = data
        self.at = 0

    def take(self, count: int) -> bytes:
        if count > len(self.data) - self.at:
            raise EOFError("it ends inside its header")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, code: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize(code)))[0]

    def string(self) -> str:
        return self.take(self.number("Q")).decode("utf-8", errors="replace")

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self.array()
        if kind not in _SCALARS:
            raise EOFError(f"its header holds an unknown value type {kind}")
        return self.number(_SCALARS[kind])

    def array(self) -> int:
        """Skip an array and return its length: vocabularies are long, and only transformers needs them."""
        kind, count = self.number("I"), self.number("Q")
        if kind in _SCALARS:
            self.take(count * struct.calcsize(_SCALARS[kind]))
        else:
            for _ in range(count):
                self.value(kind)
        return count


def read_gguf_header(path: str | Path) -> GGUFHeader:
    """Return what a GGUF file says of itself, having checked that all its tensors lie inside it.

    Raises ModelError when the file is missing, is not GGUF (version 2 or 3, little-endian), or is cut short.
    """
    path = Path(path)
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _read_header(_Cursor(data))
    except (EOFError, ValueError, struct.error) as error:
        reason = "it is empty" if path.stat().st_size == 0 else error
        raise ModelError(f"{path} is not a whole GGUF file: {reason}; fetch it again") from error
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error


def _read_header(cursor: _Cursor) -> GGUFHeader:
    magic = cursor.take(4)
    if magic != b"GGUF":
        raise EOFError(f"it begins with {magic!r}, not b'GGUF'")
    version, tensor_count, value_count = cursor.number("I"), cursor.number("Q"), cursor.number("Q")
    if version not in (2, 3):
        raise EOFError(f"its version is {version}, not 2 or 3")
    metadata: dict[str, Any] = {}
    for _ in range(value_count):
        key = cursor.string()
        metadata[key] = cursor.value(cursor.number("I"))
    names, end = [], 0
    for _ in range(tensor_count):
        name, tensor_end = _tensor_extent(cursor)
        names.append(name)
        end = max(end, tensor_end)
    alignment = int(metadata.get("general.alignment", 32)) or 1
    start = -(-cursor.at // alignment) * alignment
    if start + end > len(cursor.data):
        raise EOFError(f"its tensors need {start + end:,} bytes and it has {len(cursor.data):,}")
    return GGUFHeader(metadata, tuple(names))


def _tensor_extent(cursor: _Cursor) -> tuple[str, int]:
    """Return a tensor's name and where it ends, in bytes from the start of the tensor data."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    name = cursor.string()
    count = 1
    for _ in range(cursor.number("I")):
        count *= cursor.number("Q")
    kind, offset = cursor.number("I"), cursor.number("Q")
    block, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    return name, offset + count // block * size


def convert_gguf(
    path: str | Path, folder: str | Path, *, dtype: DType = "float32", progress: Progress = silent
) -> bool | None:
    """Write the model in GGUF file `path` into `folder` as safetensors, config and tokenizer.

    The logits of the result equal those of the GGUF model loaded by transformers, exactly in float32.
    Peak memory is about twice the model at `dtype`, and up to 1 GB for a large vocabulary. Returns whether
    the tokenizer puts a BOS before text, None when the file has no tokenizer. Raises ModelError for a
    damaged file, an architecture that transformers cannot read, a missing tensor, or weights that are
    not finite.
    """
    path, folder = Path(path), Path(folder)
    header = read_gguf_header(path)
    with converting(progress):
        progress("reading the file", 0, None)
        model = _load(path, header, dtype)
        progress("writing the model", 0, None)
        _forget_ambiguous_padding(model.config)
        model.generation_config.pad_token_id = model.config.pad_token_id
        model.save_pretrained(folder)
        del model
        if not header.has_tokenizer:
            return None
        progress("reading the tokenizer", 0, None)
        _save_tokenizer(path, header, folder)
    return header.adds_bos


def _load(path: Path, header: GGUFHeader, dtype: DType) -> Any:
    """Return an ordinary (unquantised) model of the file; transformers' own cannot be saved or cast."""
    import torch
    from transformers import AutoModelForCausalLM

    try:
        loading: Any = AutoModelForCausalLM.from_pretrained(
            str(path.parent), gguf_file=path.name, dtype=getattr(torch, dtype), output_loading_info=True
        )
    except (ValueError, KeyError, RuntimeError, IndexError, NotImplementedError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        what = f"{path.name} (architecture {header.architecture})"
        raise ModelError(f"cannot convert {what}: {reason}") from error
    loaded, info = loading
    config = loaded.config
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    if missing := sorted(set(info["missing_keys"]) - tied):
        raise ModelError(f"{path.name} lacks {len(missing)} tensors, {missing[0]} first; fetch another file")
    for name, weight in loaded.named_parameters():
        if not bool(weight.isfinite().all()):
            raise ModelError(f"{path.name} holds values that are not finite in {name}; fetch another file")
    for leftover in ("quantization_config", "_model_name_or_path"):
        if hasattr(config, leftover):
            delattr(config, leftover)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    model.load_state_dict(loaded.state_dict(), assign=True)
    model.tie_weights()
    return model


def _forget_ambiguous_padding(holder: Any) -> None:
    """Drop a padding token that is also BOS or EOS: a mask made from it would hide real tokens."""
    if holder.pad_token_id is not None and holder.pad_token_id in (holder.bos_token_id, holder.eos_token_id):
        if hasattr(holder, "pad_token"):
            holder.pad_token = None
        else:
            holder.pad_token_id = None


def _save_tokenizer(path: Path, header: GGUFHeader, folder: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
    _forget_ambiguous_padding(tokenizer)
    if header.metadata.get("tokenizer.ggml.pre") in _DIGIT_SPLITTING:
        _split_digits(tokenizer)
    tokenizer.model_max_length = int(
        header.metadata.get(f"{header.architecture}.context_length", tokenizer.model_max_length)
    )
    tokenizer.save_pretrained(folder)
    saved = AutoTokenizer.from_pretrained(str(folder))
    begins = saved("a")["input_ids"][:1] == [saved.bos_token_id]
    if begins != header.adds_bos:
        raise ModelError(
            f"{path.name} says add_bos_token={header.adds_bos}, which its converted tokenizer does not obey; "
            "use the model's safetensors folder"
        )


def _split_digits(tokenizer: Any) -> None:
    """Split digits off before byte-level words, so that indentation before a digit stays one token."""
    from tokenizers import pre_tokenizers

    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )


@contextmanager
def converting(progress: Progress) -> Iterator[None]:
    """Make transformers read a GGUF file once, and tell `progress` how far it is instead of the terminal.

    Left alone it parses the whole vocabulary three times and rebuilds one table per module:
    SmolLM2 then takes three times as long.
    """
    import gguf
    import numpy as np
    from transformers import modeling_gguf_pytorch_utils as reader
    from transformers.utils import logging

    class PlainReader(gguf.GGUFReader):
        def _get(self, *args: Any, **options: Any) -> Any:
            # Slices of a memmap are slow to make and large; those of a view of it are neither.
            if isinstance(self.data, np.memmap):
                self.data = self.data.view(np.ndarray)
            return super()._get(*args, **options)

    @functools.cache
    def read_once(path: str) -> gguf.GGUFReader:
        return PlainReader(path)

    def counted(items: Iterable[Any], **_: Any) -> Iterator[Any]:
        known = list(items)
        for done, item in enumerate(known):
            progress("de-quantising", done, len(known))
            yield item
        progress("de-quantising", len(known), len(known))

    bars_were_on, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        with (
            patch.object(reader, "tqdm", counted),
            patch.object(gguf, "GGUFReader", lambda path: read_once(os.path.realpath(path))),
            patch.object(gguf, "get_tensor_name_map", functools.cache(gguf.get_tensor_name_map)),
        ):
            yield
    finally:
        logging.set_verbosity(level)
        if bars_were_on:
            logging.enable_progress_bar()
