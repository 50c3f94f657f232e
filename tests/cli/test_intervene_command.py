"""`lucida intervene` changes what it is told to, and says what the model says then."""

import json
from typing import Any

import pytest
from command_bench import IDS, bench, mistake, run

from lucida.graph import Graph
from lucida.interventions import Set
from lucida.microscope import Microscope


def outcome(*arguments: object) -> Any:
    result = run("intervene", "--model", bench().model, *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_scale_by_one_changes_nothing() -> None:
    document = outcome("--ids", IDS, "--scale", "1:3:7=1")
    for before, after in zip(document["before"], document["after"], strict=True):
        assert before["probability"] == pytest.approx(after["probability"], abs=1e-5)


@pytest.mark.parametrize("mode", ["free", "constrained", "frozen"])
def test_set_does_what_python_does(mode: Any) -> None:
    document = outcome("--ids", IDS, "--set", "1:3:7=25", "--mode", mode, "--count", "97")
    expected = Microscope(bench().model).intervene([5, 17, 3, 42], {(1, 3, 7): Set(25.0)}, mode=mode)
    after = {token["token"]: token["probability"] for token in document["after"]}
    assert after == pytest.approx({t.token: t.probability for t in expected.top_tokens(97)})
    assert document["edits"] == [
        {"layer": 1, "position": 3, "feature": 7, "before": expected.edits[0].before, "after": 25.0}
    ]
    assert document["before"] != document["after"]


def test_features_are_found_in_a_graph_by_text() -> None:
    """A graph gives its prompt, and `TEXT=FACTOR` means all its features with that text."""
    graph = Graph.load(bench().graph)
    token = graph.prompt.strings[-1]
    document = outcome("--graph", bench().graph, "--scale", f"{token}=0")
    wanted = {(n.layer, n.position, n.feature) for n in graph.find(token)}
    assert {(e["layer"], e["position"], e["feature"]) for e in document["edits"]} == wanted
    assert all(e["after"] == 0 for e in document["edits"])


def test_tables_show_before_and_after() -> None:
    result = run("intervene", "--model", bench().model, "--ids", IDS, "--scale", "1:3:7=-2")
    assert result.exit_code == 0, result.output
    assert result.stdout.index("Changed") < result.stdout.index("Before") < result.stdout.index("After")
    assert "1:3:7" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--scale", "9:0:0=1"), "9"),
        (("--scale", "1:9:0=1"), "9"),
        (("--scale", "1:0:480=1"), "480"),
        (("--scale", "1:0:4=nan"), "nan"),
        (("--scale", "1:2:4=0", "--layers", "0-2"), "constrained"),
        (("--scale", "1:2:4=0", "--mode", "frozen", "--attention", "live"), "live"),
    ],
)
def test_a_mistake_is_one_line(arguments: tuple[str, ...], says: str) -> None:
    assert says in mistake("intervene", "--model", bench().model, "--ids", IDS, *arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--scale", "1:2=3"),
        ("--scale", "1:2:3"),
        ("--scale", "1:2:3=much"),
        ("--scale", "1:2:3=0", "--layers", "4"),
        ("--scale", "1:2:3=0", "--set", "1:2:3=1"),
    ],
)
def test_misuse_is_refused(arguments: tuple[str, ...]) -> None:
    result = run("intervene", "--model", bench().model, "--ids", IDS, *arguments)
    assert result.exit_code == 2
    assert "Usage:" in result.stderr
