"""A tiny model folder, a dictionary that fits it, a graph of it, and a way to call the command line."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from lucida.cli import main


@dataclass(frozen=True)
class Bench:
    """What the commands work on: a model without tokenizer, its dictionary, and a saved graph."""

    model: str
    dictionary: str
    graph: str


@pytest.fixture
def run() -> Callable[..., Result]:
    """`run("score", file)` calls the command and returns what it printed and its exit code."""

    def call(*arguments: object, **more: Any) -> Result:
        result = CliRunner().invoke(main, [str(a) for a in arguments], prog_name="lucida", **more)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return call


@pytest.fixture
def mistake(run: Callable[..., Result]) -> Callable[..., str]:
    """`mistake("score", file)` calls the command, sees that it fails as it should, returns the line."""

    def call(*arguments: object) -> str:
        result = run(*arguments)
        assert result.exit_code == 2, result.output
        assert result.stdout == ""
        lines = [line for line in result.stderr.splitlines() if not line.endswith(" ...")]
        assert len(lines) == 1, result.stderr
        assert lines[0].startswith("error: ")
        return lines[0]

    return call


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A llama of three layers, features for it, and its traced graph."""
    from conftest import build_hf  # pyright: ignore

    from lucida.dictionaries import random_dictionary, write_circuit_tracer

    folder = tmp_path_factory.mktemp("bench")
    build_hf("llama").save_pretrained(folder / "model")
    write_circuit_tracer(random_dictionary(3, 32, 24, seed=1), folder / "features")
    place = Bench(str(folder / "model"), str(folder / "features"), str(folder / "g.safetensors"))
    arguments = ["trace", "--model", place.model, "--ids", "5,17,3,42", "--out", place.graph, "--json"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["files"] == [place.graph]
    return place


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An empty folder to write to."""
    return tmp_path
