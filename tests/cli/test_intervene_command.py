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


# --- sweeps, controls, donors, predictions --------------------------------------------------------------


def graph_outcome(*arguments: object) -> Any:
    result = run("intervene", "--model", bench().model, "--graph", bench().graph, *arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def a_node() -> Any:
    return Graph.load(bench().graph).find(kind="feature")[0]


def place_of(node: Any) -> str:
    return f"{node.layer}:{node.position}:{node.feature}"


def test_a_sweep_of_factors_is_that_many_interventions() -> None:
    place = place_of(a_node())
    document = graph_outcome("--scale", f"{place}=0", "--sweep", "1,0,-2")
    assert [row["factor"] for row in document["factors"]] == [1, 0, -2]
    assert document["factors"][0]["kl"] == 0
    assert document["factors"][1]["kl"] == pytest.approx(document["kl"], abs=1e-9)
    alone = graph_outcome("--scale", f"{place}=-2")
    assert document["factors"][2]["kl"] == pytest.approx(alone["kl"], rel=1e-3)


def test_controls_are_other_features() -> None:
    node = a_node()
    document = graph_outcome("--scale", f"{place_of(node)}=-1", "--controls", 3, "--seed", 1)
    assert document["controls"]["count"] == len(document["controls"]["kl"]) == 3
    for edits in document["controls"]["edits"]:
        assert [edit["position"] for edit in edits] == [node.position]
        assert (edits[0]["layer"], edits[0]["feature"]) != (node.layer, node.feature)
    assert document == graph_outcome("--scale", f"{place_of(node)}=-1", "--controls", 3, "--seed", 1)


def test_injections_take_their_size_from_a_donor() -> None:
    """From the prompt itself, from another one, and from the graph of one; `--positions` says where."""
    node = a_node()
    own = graph_outcome("--inject", f"{place_of(node)}=1", "--positions", "1,3")
    assert [edit["position"] for edit in own["edits"]] == [1, 3]
    assert len({edit["after"] for edit in own["edits"]}) == 1
    donated = graph_outcome("--inject", f"{place_of(node)}=2", "--donor", bench().graph)
    assert donated["edits"][0]["after"] == pytest.approx(2 * own["edits"][0]["after"], rel=1e-5)
    other = outcome("--ids", IDS, "--inject", f"{place_of(node)}=1", "--donor", "9,8,7")
    assert other["edits"][0]["after"] != pytest.approx(own["edits"][0]["after"])


def test_a_swap_takes_out_and_puts_in() -> None:
    node = a_node()
    document = outcome("--ids", IDS, "--swap", f"{place_of(node)}=0:1:4", "--donor", "9,8,7", "--swap-strength", "3")
    after = {(e["layer"], e["feature"]): e["after"] for e in document["edits"]}
    assert after[node.layer, node.feature] == 0
    assert after[0, 4] != 0
    assert {e["position"] for e in document["edits"]} == {node.position}
    moved = outcome("--ids", IDS, "--swap", f"{place_of(node)}=0:1:4", "--donor", "9,8,7", "--positions", "all")
    assert {e["position"] for e in moved["edits"] if (e["layer"], e["feature"]) == (0, 4)} == {0, 1, 2, 3}


def test_predictions_stand_beside_measurements(tmp_path: Any) -> None:
    picture = tmp_path / "p.svg"
    document = graph_outcome(
        "--scale", f"{place_of(a_node())}=0", "--mode", "iterative", "--predict", "--picture", picture
    )
    assert [found["graph"] for found in document["prediction"]] == ["whole", "pruned"]
    whole = document["prediction"][0]
    assert whole["logits"]["count"] == sum(node["kind"] == "logit" for node in whole["nodes"])
    assert picture.read_text().startswith("<?xml")
    result = run(
        "intervene", "--model", bench().model, "--graph", bench().graph, "--scale", f"{place_of(a_node())}=0",
        "--predict", "--sweep", "0,2", "--controls", 2,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    titles = ("After", "other factors", "Against other features", "Change of the logits", "Predicted against measured")
    places = [result.stdout.index(title) for title in titles]
    assert places == sorted(places)


def test_a_graph_of_other_features_is_refused() -> None:
    line = mistake(
        "intervene", "--model", bench().model, "--dictionaries", bench().dictionary, "--graph", bench().graph,
        "--scale", f"{place_of(a_node())}=0",
    )  # fmt: skip
    assert "load the same dictionary" in line


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--swap", "1:2:3=0:1:4"), "--donor"),
        (("--scale", "1:2:3=0", "--donor", "1,2"), "--inject"),
        (("--swap", "1:2:3", "--donor", "1,2"), "OUT=IN"),
        (("--scale", "1:2:3=0", "--positions", "2-1"), "positions"),
        (("--set", "1:2:3=0", "--sweep", "1,2"), "--scale"),
        (("--scale", "1:2:3=0", "--sweep", "1,x"), "factors"),
        (("--scale", "1:2:3=0", "--predict"), "--graph"),
        (("--scale", "1:2:3=0", "--picture", "a.svg"), "--predict"),
        (("--scale", "1:2:3=0", "--controls", "0"), "--controls"),
    ],
)
def test_misuse_of_the_rest_is_refused(arguments: tuple[str, ...], says: str) -> None:
    result = run("intervene", "--model", bench().model, "--ids", IDS, *arguments)
    assert result.exit_code == 2
    assert says in result.stderr


def test_a_position_past_the_prompt_is_one_line() -> None:
    line = mistake("intervene", "--model", bench().model, "--ids", IDS, "--scale", "1:2:3=0", "--positions", "2,9")
    assert "position 9 is outside the prompt of 4" in line


def test_watched_features_are_shown_before_and_after() -> None:
    """Watched is what Python watches; a text stands for all its features in the graph."""
    arguments = ("--ids", IDS, "--set", "0:3:7=25", "--watch", "1:3:5", "--watch", "2:3:1")
    found = outcome(*arguments)["watched"]
    expected = Microscope(bench().model).intervene([5, 17, 3, 42], {(0, 3, 7): Set(25.0)}, watch=[(1, 3, 5), (2, 3, 1)])
    assert [(w["layer"], w["position"], w["feature"]) for w in found] == [(1, 3, 5), (2, 3, 1)]
    assert [w["before"] for w in found] == pytest.approx(expected.watched.before.tolist())
    assert [w["after"] for w in found] == pytest.approx(expected.watched.after.tolist())
    assert any(w["before"] != pytest.approx(w["after"]) for w in found)
    shown = run("intervene", "--model", bench().model, *arguments).stdout
    assert "Watched" in shown
    assert "1:3:5" in shown
    unknown = run("intervene", "--model", bench().model, *arguments, "--watch", "small")
    assert unknown.exit_code == 2
    assert "to find features by text give --graph" in unknown.stderr
