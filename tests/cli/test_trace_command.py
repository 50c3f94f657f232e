"""`lucida trace` says what `Microscope.trace` says, with the same options."""

import inspect
import json
from pathlib import Path

import click
import numpy as np
import pytest
from command_bench import IDS, bench, mistake, run

from lucida.cli.intervene import intervene
from lucida.cli.trace import trace
from lucida.graph import Graph
from lucida.microscope import Microscope

NOT_OPTIONS = {"self", "progress", "prompt", "targets", "edits"}


def option_defaults(command: click.Command) -> dict[str, object]:
    return command.make_context("lucida", []).params


def python_defaults(function: object) -> dict[str, object]:
    parameters = inspect.signature(function).parameters  # type: ignore[arg-type]
    return {name: p.default for name, p in parameters.items() if name not in NOT_OPTIONS}


@pytest.mark.parametrize(
    ("command", "functions"),
    [
        (trace, (Microscope.__init__, Microscope.trace, Graph.prune)),
        (intervene, (Microscope.__init__, Microscope.intervene)),
    ],
)
def test_options_are_those_of_python(command: click.Command, functions: tuple[object, ...]) -> None:
    options = option_defaults(command)
    for function in functions:
        wanted = python_defaults(function)
        wanted.pop("measure", None)  # chosen by the kind of features, not by the user of a command
        missing = {name for name in wanted if name not in options}
        assert not missing
        for name, default in wanted.items():
            assert options[name] == default, name


def test_the_saved_graph_is_the_one_python_makes() -> None:
    graph = Graph.load(bench().graph)
    again = Microscope(bench().model).trace([5, 17, 3, 42])
    np.testing.assert_array_equal(graph.edges, again.edges)
    assert graph.prompt == again.prompt


def test_trace_prints_answer_scores_paths_and_files(tmp_path: Path) -> None:
    out, picture = tmp_path / "deep" / "g.safetensors", tmp_path / "g.svg"
    result = run(
        "trace", "--model", bench().model, "--dictionaries", bench().dictionary, "--ids", IDS,
        "--max-nodes", "all", "--max-targets", "3", "--out", out, "--picture", picture,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    graph = Graph.load(out)
    logits = graph.find(kind="logit")
    assert len(logits) == 3
    for node in logits:
        assert repr(node.text) in result.stdout
    assert f"{graph.scores().replacement:.3f}" in result.stdout
    telling = [path for path in graph.prune().paths(100) if len(path.nodes) > 2]
    assert str((telling or graph.prune().paths(1))[0]) in result.stdout
    assert f"wrote {out}" in result.stdout
    assert "</svg>" in picture.read_text("utf-8")
    assert "forward pass ..." in result.stderr


def test_json_is_the_only_output_and_says_the_same(tmp_path: Path) -> None:
    arguments = ("trace", "--model", bench().model, "--ids", IDS, "--target", "3", "--target", "9")
    result = run(*arguments, "--json", "--quiet", "--out", tmp_path / "g.safetensors")
    assert result.stderr == ""
    document = json.loads(result.stdout)
    graph = Graph.load(tmp_path / "g.safetensors")
    assert sorted(answer["token"] for answer in document["answer"]) == [3, 9]
    assert document["scores"]["replacement"] == pytest.approx(graph.scores().replacement)
    assert document["prompt"]["tokens"] == [5, 17, 3, 42]


def test_a_difference_shows_its_size() -> None:
    arguments = ("trace", "--model", bench().model, "--ids", IDS)
    both = json.loads(run(*arguments, "--target", "3", "--target", "9", "--json").stdout)["answer"]
    logit = {answer["token"]: answer["logit"] for answer in both}
    (difference,) = json.loads(run(*arguments, "--target", "3", "--minus", "9", "--json").stdout)["answer"]
    assert difference["probability"] is None
    assert difference["logit"] == pytest.approx(logit[3] - logit[9], abs=1e-4)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--ids", "5,97"), "97"),
        (("--ids", ",".join(["5"] * 65)), "65"),
        (("a text",), "tokenizer"),
        (("",), "empty"),
        (("--ids", IDS, "--target", "97"), "97"),
        (("--ids", IDS, "--target", "3", "--minus", "3"), "zero"),
        (("--ids", IDS, "--position", "4"), "4"),
        (("--ids", IDS, "--dictionaries", "nowhere"), "nowhere"),
        (("--ids", IDS, "--nodes", "1.5"), "1.5"),
        (("--ids", IDS, "--device", "toaster"), "toaster"),
        (("hello", "--chat"), "chat"),
        (("--ids", IDS, "--model", "smolm2-135m"), "smollm2-135m"),
        (("--ids", IDS, "--model", "./nowhere"), "nowhere"),
    ],
)
def test_a_mistake_is_one_line(arguments: tuple[str, ...], says: str) -> None:
    model = () if "--model" in arguments else ("--model", bench().model)
    assert says in mistake("trace", *arguments, *model)


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("text", "--ids", "1,2"),
        ("--ids", "one"),
        ("text", "--max-nodes", "0"),
        ("text", "--max-nodes", "few"),
        ("text", "--minus", "a"),
        ("text", "--target", "a", "--target", "b", "--minus", "c"),
        ("--ids", "1,2", "--target", "large"),
        ("text", "--out", "graph.json"),
        ("text", "--picture", "graph.jpeg"),
        ("text", "--no-such-option"),
    ],
)
def test_misuse_is_refused_before_any_work(arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("lucida.microscope.Microscope.__init__", never)
    result = run("trace", *arguments)
    assert result.exit_code == 2
    assert "Usage:" in result.stderr


def test_a_dictionary_of_another_shape_is_refused(tmp_path: Path) -> None:
    from lucida.dictionaries import random_dictionary, write_circuit_tracer

    write_circuit_tracer(random_dictionary(3, 16, 8), tmp_path / "narrow")
    line = mistake("trace", "--model", bench().model, "--ids", IDS, "--dictionaries", tmp_path / "narrow")
    assert "16" in line
    assert "32" in line
