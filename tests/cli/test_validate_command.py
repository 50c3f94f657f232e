"""`lucida validate` says how far a graph can be believed, and in one line why it cannot say."""

import json
from pathlib import Path

import pytest
from command_bench import bench, mistake, run

from lucida.cli import app

FEW = ("--ablations", "12", "--controls", "4", "--pushes", "2", "--targets", "8")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lucida.statistics.RESAMPLES", 20)
    monkeypatch.setitem(app.COMMANDS, "validate", "lucida.cli.validate")


def traced(tmp_path: Path, *options: object) -> Path:
    out = tmp_path / "g.safetensors"
    result = run("trace", "--model", bench().model, "--ids", "5,17,3,42,9,60,11", "--out", out, *options)
    assert result.exit_code == 0, result.output
    return out


def test_report_of_features(tmp_path: Path) -> None:
    features = ("--dictionaries", bench().dictionary)
    graph = traced(tmp_path, *features)
    files = ("--json", tmp_path / "v.json", "--html", tmp_path / "v.html")
    result = run("validate", graph, "--model", bench().model, *features, *FEW, *files)
    assert result.exit_code == 0, result.output
    for words in ("what to trust", "Feature on feature, direct", "matched controls", "v.json", "v.html"):
        assert words in result.stdout
    document = json.loads((tmp_path / "v.json").read_text("utf-8"))
    assert len(document["ablations"]) == 12
    assert (tmp_path / "v.html").read_text("utf-8").startswith("<!doctype html>")
    printed = run("validate", graph, "--model", bench().model, *features, *FEW, "--json", "-")
    same = json.loads(printed.stdout)
    assert same | {"seconds": 0} == document | {"seconds": 0}


def test_a_graph_of_neurons_needs_no_option() -> None:
    result = run("validate", bench().graph, "--model", bench().model, *FEW, "--quiet")
    assert result.exit_code == 0, result.output
    assert "neurons" in result.stdout


def test_several_graphs_are_taken_together(tmp_path: Path) -> None:
    result = run("validate", bench().graph, traced(tmp_path), "--model", bench().model, *FEW)
    assert result.exit_code == 0, result.output
    assert "2 graphs" in result.stdout


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    place, features = bench(), ("--dictionaries", bench().dictionary)
    small = tmp_path / "small.safetensors"
    assert run("prune", place.graph, "--out", small).exit_code == 0
    assert "pruned" in mistake("validate", small, "--model", place.model)
    assert "neurons" in mistake("validate", place.graph, "--model", place.model, *features)
    assert "nowhere" in mistake("validate", "nowhere.safetensors", "--model", place.model)


def test_suffixes_are_checked_before_the_work(tmp_path: Path) -> None:
    for option in ("--json", "--html"):
        result = run("validate", bench().graph, "--model", bench().model, option, tmp_path / "v.txt")
        assert result.exit_code == 2
        assert "must end in" in result.stderr
