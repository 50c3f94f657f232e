"""`lucida prune`, `score`, `export`: thin copies of the graph's own functions."""

import json
from pathlib import Path

import numpy as np
import pytest
from command_bench import bench, mistake, run

from lucida.graph import Graph


def test_prune_writes_what_python_prunes(tmp_path: Path) -> None:
    out = tmp_path / "small.safetensors"
    result = run("prune", bench().graph, "--out", out, "--nodes", "0.5", "--rule", "circuit-tracer")
    assert result.exit_code == 0, result.output
    small = Graph.load(bench().graph).prune(0.5, rule="circuit-tracer")
    np.testing.assert_array_equal(Graph.load(out).edges, small.edges)
    assert f"{small.scores().replacement:.3f}" in result.stdout


def test_prune_says_what_it_removed_in_json(tmp_path: Path) -> None:
    out = tmp_path / "small.safetensors"
    record = json.loads(run("prune", bench().graph, "--out", out, "--json").stdout)
    assert record["file"] == str(out)
    assert record["after"]["nodes"] == len(Graph.load(out).nodes) <= record["before"]["nodes"]


def test_score_prints_every_score() -> None:
    scores = Graph.load(bench().graph).scores()
    printed = run("score", bench().graph).stdout
    for name, value in scores.rows():
        if name != "influence by path length":
            assert name in printed
            assert value in printed
    assert json.loads(run("score", bench().graph, "--json").stdout)["scores"]["replacement"] == scores.replacement


def test_neuronpedia_and_back(tmp_path: Path) -> None:
    assert run("export", bench().graph, "--out", tmp_path / "g.json").exit_code == 0
    assert run("export", tmp_path / "g.json", "--out", tmp_path / "back.safetensors").exit_code == 0
    np.testing.assert_array_equal(Graph.load(tmp_path / "back.safetensors").edges, Graph.load(bench().graph).edges)


def test_plain_json_holds_every_node_and_edge(tmp_path: Path) -> None:
    run("export", bench().graph, "--out", tmp_path / "g.json", "--format", "json")
    document = json.loads((tmp_path / "g.json").read_text("utf-8"))
    graph = Graph.load(bench().graph)
    matrix = np.zeros((len(graph.nodes), len(graph.nodes)), np.float32)
    for source, target, weight in document["edges"]:
        matrix[target, source] = weight
    np.testing.assert_array_equal(matrix, graph.dense().matrix)
    assert [node["kind"] for node in document["nodes"]] == [node.kind for node in graph.dense().nodes]


@pytest.mark.parametrize(("suffix", "start"), [("svg", b"<?xml"), ("png", b"\x89PNG")])
def test_pictures(tmp_path: Path, suffix: str, start: bytes) -> None:
    small, picture = tmp_path / "small.safetensors", tmp_path / f"g.{suffix}"
    run("prune", bench().graph, "--out", small)
    assert run("export", small, "--out", picture).exit_code == 0
    assert picture.read_bytes().startswith(start)


def test_an_unknown_suffix_needs_a_format(tmp_path: Path) -> None:
    result = run("export", bench().graph, "--out", tmp_path / "g.dat")
    assert result.exit_code == 2
    assert "--format" in result.stderr


def test_a_picture_must_have_its_suffix(tmp_path: Path) -> None:
    assert run("export", bench().graph, "--out", tmp_path / "g.png", "--format", "svg").exit_code == 2


@pytest.mark.parametrize("name", ["g.safetensors", "g.json", "g.pt"])
@pytest.mark.parametrize("content", [None, b"", b"\x80\x04nonsense", b"{}"])
def test_a_missing_or_damaged_graph_is_one_line(tmp_path: Path, name: str, content: bytes | None) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    mistake("score", path)


def test_a_truncated_graph_is_one_line(tmp_path: Path) -> None:
    whole = Path(bench().graph).read_bytes()
    (tmp_path / "half.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "half.safetensors" in mistake("prune", tmp_path / "half.safetensors", "--out", tmp_path / "o.safetensors")
    assert not (tmp_path / "o.safetensors").exists()


def test_a_place_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    mistake("prune", bench().graph, "--out", tmp_path / "file" / "g.safetensors")


def test_a_file_to_mail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lucida.graph import page
    from lucida.graph.html import export_html

    (tmp_path / "widget.js").write_text("export default {}")
    (tmp_path / "widget-licences.txt").write_text("MIT")
    monkeypatch.setattr(page, "STATIC", tmp_path)
    export_html(Graph.load(bench().graph), tmp_path / "python.html")
    assert run("export", bench().graph, "--html", tmp_path / "a.html").exit_code == 0
    assert run("export", bench().graph, "--out", tmp_path / "b.html").exit_code == 0
    expected = (tmp_path / "python.html").read_bytes()
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes() == expected


@pytest.mark.parametrize(
    "options", [(), ("--html", "a.html", "--out", "b.html"), ("--html", "a.html", "--format", "svg")]
)
def test_export_needs_one_file_to_write(options: tuple[str, ...]) -> None:
    assert run("export", bench().graph, *options).exit_code == 2
