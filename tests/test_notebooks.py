"""Notebooks are valid, compile, name only what exists, and (tier `real`) run: without Jupyter, cell by cell."""

import ast
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from lucida.errors import FetchError
from lucida.models.fetch import locate

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NEEDS = re.compile(r"# needs ([\w.-]+)")
"""The first line of a cell that needs another model than the default; what it defines, later such cells may use."""
MOST_BYTES = 400_000
"""Stored outputs are kept small."""
OUTPUTS = {
    "stream": {"name", "text"},
    "display_data": {"data", "metadata"},
    "execute_result": {"data", "metadata", "execution_count"},
}


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8"))


def code_cells(notebook: dict[str, Any]) -> list[str]:
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def faults(notebook: dict[str, Any]) -> list[str]:
    """What is wrong by the notebook format, version 4, of the cells that we write."""
    found = []
    if notebook.get("nbformat") != 4 or not isinstance(notebook.get("nbformat_minor"), int):
        found.append("not nbformat 4")
    if not isinstance(notebook.get("metadata"), dict):
        found.append("no metadata")
    ids = [cell.get("id") for cell in notebook["cells"]]
    if notebook.get("nbformat_minor", 0) >= 5 and not all(re.fullmatch(r"[\w-]{1,64}", i or "") for i in ids):
        found.append("a cell without an id")
    if len(set(ids)) != len(ids):
        found.append("two cells with one id")
    for number, cell in enumerate(notebook["cells"]):
        wanted = {"id", "cell_type", "metadata", "source"}
        wanted |= {"outputs", "execution_count"} if cell["cell_type"] == "code" else set()
        if cell["cell_type"] not in ("markdown", "code") or set(cell) != wanted:
            found.append(f"cell {number} has the fields {sorted(cell)}")
        for output in cell.get("outputs", []):
            if set(output) - {"output_type"} != OUTPUTS.get(output["output_type"]):
                found.append(f"cell {number} has an output of type {output['output_type']}")
    return found


def missing_names(source: str) -> list[str]:
    """The names under `lucida` that the source uses and that do not exist."""
    missing = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "lucida":
            module = import_module(str(node.module))
            missing += [f"{node.module}.{n.name}" for n in node.names if not hasattr(module, n.name)]
        of_package = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "lucida"
        if isinstance(node, ast.Attribute) and of_package and not hasattr(import_module("lucida"), node.attr):
            missing.append(f"lucida.{node.attr}")
    return missing


def test_there_are_notebooks() -> None:
    assert NOTEBOOKS


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_valid_and_small(path: Path) -> None:
    notebook = read(path)
    assert faults(notebook) == []
    assert path.stat().st_size < MOST_BYTES
    executed = [cell["execution_count"] for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert executed == list(range(1, len(executed) + 1)), "stored outputs are those of one run from top to bottom"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_cells_compile_and_use_names_that_exist(path: Path) -> None:
    for number, source in enumerate(code_cells(read(path))):
        compile(source, f"{path.name}[{number}]", "exec")
        assert missing_names(source) == []


def test_the_checks_find_what_is_wrong() -> None:
    code = {"id": "a", "cell_type": "code", "metadata": {}, "source": "1", "outputs": [], "execution_count": 1}
    good: dict[str, Any] = {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [code]}
    assert faults(good) == []
    assert faults(good | {"nbformat": 3}) == ["not nbformat 4"]
    assert faults(good | {"cells": [code, code]}) == ["two cells with one id"]
    assert faults(good | {"cells": [code | {"outputs": [{"output_type": "error"}]}]})
    assert faults(good | {"cells": [{k: v for k, v in code.items() if k != "outputs"}]})
    assert missing_names("import lucida\nlucida.Microscope\nlucida.Telescope") == ["lucida.Telescope"]
    assert missing_names("from lucida.interventions import Swap, Swop") == ["lucida.interventions.Swop"]


@pytest.mark.real
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_cells_run(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Cells that need a larger model run only where it lies in the cache already."""
    if not is_cached("smollm2-135m", offline=False):
        pytest.skip("no source of SmolLM2 can be reached")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "__main__"}
    with all_threads():
        for number, source in enumerate(code_cells(read(path))):
            needed = NEEDS.match(source)
            if needed is None or is_cached(needed[1]):
                exec(compile(source, f"{path.name}[{number}]", "exec"), names)


def is_cached(name: str, *, offline: bool = True) -> bool:
    try:
        locate(name, offline=offline, allow_unverified=offline)
    except FetchError:
        return False
    return True


@contextmanager
def all_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or 1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
