"""Scripts that the page writes: they run, and no name in them becomes code."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import lucida
from lucida.graph import Graph
from lucida.prompt import Prompt
from lucida.server.messages import GraphSummary, Notes, Supernode
from lucida.server.script import view_script

HOSTILE = [
    '"""',
    "'); raise SystemExit #",
    "a\nraise SystemExit",
    "\\",
    "\r\u2028\u2029\x0c\x00raise SystemExit",
    "{x}",
]


def summary(title: str = "2 + 2 =") -> GraphSummary:
    return GraphSummary(
        id="0" * 12, title=title, answer="4", model="tiny", dictionary="tiny-plt", n_nodes=3, made="2026-01-01"
    )


@pytest.fixture
def file(tmp_path: Path) -> str:
    from lucida.graph.graph import COLUMNS, KINDS, NodeTable

    kinds = [KINDS.index(kind) for kind in ("feature", "embedding", "logit")]
    none = float("nan")
    values = {
        "kind": kinds, "layer": [0, -1, 1], "position": [0, 0, 0], "feature": [5, -1, -1], "token": [3, 3, 4],
        "activation": [1, none, none], "influence": [0.5, 0.25, 0], "probability": [none, none, 0.9],
    }  # fmt: skip
    columns = {name: np.array(values[name], dtype=kind) for name, kind in COLUMNS.items()}
    table = NodeTable(**columns, text=("a", "a", "b"), label=("", "", ""))
    edges = np.array([[0, 1, 0], [1, 0.5, 0]], dtype=np.float32)
    metadata = {"target_weights": [0.9], "n_layers": 1, "measure": "influence"}
    path = tmp_path / "g.graph.safetensors"
    Graph(table, edges, np.array([0, 2]), Prompt((3,), ("a",), "a"), metadata).save(path)
    return str(path)


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_view_is_read_again_with_its_groups(file: str, hostile: str, capsys: pytest.CaptureFixture) -> None:
    notes = Notes(
        pinned=[0, 2],
        supernodes=[Supernode(id="s1", name=hostile, nodes=[0, 1]), Supernode(id="s2", name=hostile, nodes=[2])],
        labels={"0": hostile},
    )
    script = view_script(summary(hostile), notes, path=file)
    names: dict = {}
    exec(compile(script, "script", "exec"), names)
    assert names["pinned"] == [0, 2]
    assert names["groups"] == [(hostile, [0, 1]), (hostile, [2])]
    assert names["graph"].node(0).label == hostile
    assert "2 nodes, influence 0.75" in capsys.readouterr().out


def test_a_script_without_notes_names_the_exported_file() -> None:
    script = view_script(summary(), Notes())
    assert f"Graph.load('{'0' * 12}.graph.safetensors')" in script
    compile(script, "script", "exec")


def test_the_comment_about_turning_a_group_off_is_right(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What stands behind # at the end runs when the marks are taken away; nodes that are no features stay out."""
    notes = Notes(supernodes=[Supernode(id="s", name="a", nodes=[0, 1])])
    live, comment = view_script(summary(), notes, path=file).split("# To turn a group off")
    asked: dict = {}

    def intervene(prompt: list[int], edits: dict, position: int) -> SimpleNamespace:
        asked.update(prompt=prompt, edits=edits, position=position)
        return SimpleNamespace(top_tokens=list)

    monkeypatch.setattr(lucida, "Microscope", lambda *_: SimpleNamespace(intervene=intervene))
    lines = [line.removeprefix("#").removeprefix(" ") for line in comment.splitlines()[1:]]
    exec("\n".join([live, *lines]), {})
    assert asked["prompt"] == [3]
    assert asked["position"] == 0
    assert [(node.layer, node.feature, value) for node, value in asked["edits"].items()] == [(0, 5, 0.0)]
