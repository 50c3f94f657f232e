"""A tiny model folder, a dictionary that fits it, a graph of it, and a way to call the command line."""

import json
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from lucida.cli import main

IDS = "5,17,3,42"


@dataclass(frozen=True)
class Bench:
    """What the commands work on: a model without tokenizer, its dictionary, and a saved graph."""

    model: str
    dictionary: str
    graph: str


def run(*arguments: object, **more: Any) -> Result:
    """Call the command; what it printed and its exit code. An exception that is a bug is raised."""
    result = CliRunner().invoke(main, [str(a) for a in arguments], prog_name="lucida", **more)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def mistake(*arguments: object) -> str:
    """Call the command, see that it fails as it should (one line, exit code 2), return the line."""
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    lines = [line for line in result.stderr.splitlines() if not line.endswith(" ...")]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


@cache
def _folder() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="lucida-cli-")


@cache
def bench() -> Bench:
    """A llama of three layers and 97 tokens, features for it, and its graph by neurons."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from lucida.dictionaries import random_dictionary, write_circuit_tracer

    folder = Path(_folder().name)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    write_circuit_tracer(random_dictionary(3, 32, 24, l0=8, seed=1), folder / "features")
    place = Bench(str(folder / "model"), str(folder / "features"), str(folder / "g.safetensors"))
    result = run("trace", "--model", place.model, "--ids", IDS, "--out", place.graph, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["files"] == [place.graph]
    return place
