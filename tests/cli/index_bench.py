"""A tiny model that reads words, its dictionary, a text, and `lucida index` over them."""

import hashlib
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from click.testing import Result
from command_bench import run
from tiny_models import build_hf

TABLES = ("stats", "examples", "active", "vocabulary", "effects", "search")
SMALL = ("--context", 16, "--examples", 3, "--samples", 2, "--window", 4, "--dtype", "float32")
WORDS = tuple(f"{first}{second}" for first in "bdfgklmnprst" for second in ("a", "e", "i", "o", "u", "at", "in"))


@dataclass(frozen=True)
class Bench:
    """Folders: a model of three layers with a tokenizer of words, its dictionary, and a text of 30 documents."""

    model: str
    dictionary: str
    text: str


@cache
def _folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="lucida-index-")


def sentences(count: int, *, seed: int = 0) -> list[str]:
    """Made-up sentences of 5 to 40 words."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(5, 40, count).tolist()
    return [" ".join(WORDS[i] for i in generator.integers(0, len(WORDS), length)) for length in lengths]


def records(path: Path, texts: list[str]) -> Path:
    """A JSONL file of texts."""
    path.write_text("".join(f'{{"text": "{text}"}}\n' for text in texts))
    return path


@cache
def bench() -> Bench:
    """The folders, made once."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from lucida.dictionaries import random_dictionary, write_circuit_tracer

    folder = Path(_folder().name)
    build_hf("llama").save_pretrained(folder / "model")
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | {word: 3 + i for i, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    fast.save_pretrained(folder / "model")
    write_circuit_tracer(random_dictionary(3, 32, 24, l0=6, seed=1), folder / "features")
    return Bench(str(folder / "model"), str(folder / "features"), str(records(folder / "a.jsonl", sentences(30))))


def command(out: Path, *more: Any, data: Any = None, dictionary: str | None = None) -> tuple[Any, ...]:
    """The words of `lucida index` over the bench."""
    place = bench()
    given = ("--model", place.model, "--dictionaries", dictionary or place.dictionary, "--data", data or place.text)
    return ("index", *given, "--out", out, *SMALL, *more)


def index(out: Path, *more: Any, **settings: Any) -> Result:
    """Run it, and see that it does."""
    result = run(*command(out, *more, **settings))
    assert result.exit_code == 0, result.output
    return result


def digest(folder: Path) -> dict[str, str]:
    """Of each table that an index has, and of its automatic labels."""
    paths = [folder / f"{name}.parquet" for name in TABLES] + [folder / "labels" / "automatic.parquet"]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths if path.exists()}
