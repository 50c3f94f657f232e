"""`lucida evaluate` says what `evaluate` says, with the same options, and what is missing in one line."""

import inspect
import json
import os
from pathlib import Path
from typing import Any

import pytest
from command_bench import bench, mistake, run

from lucida.cli.evaluate import evaluate as command
from lucida.evaluation import EvaluationReport, PromptSet, evaluate
from lucida.evaluation.graphs import NODES
from lucida.evaluation.text import held_out_text

SMALL = ("--tokens", 400, "--context", 16, "--prompts")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUCIDA_CACHE", str(tmp_path / "cache"))
    assert os.environ["LUCIDA_CACHE"]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """A stored set of two prompts of the bench's model."""
    from lucida.evaluation import given_prompts
    from lucida.models.load import load_model

    path = tmp_path / "prompts.json"
    given_prompts(load_model(bench().model), [[5, 17, 3, 42], [9, 8, 7, 6, 5]]).save(path)
    return path


def test_options_are_those_of_python() -> None:
    options = command.make_context("lucida", []).params
    for function in (evaluate, held_out_text):
        for name, parameter in inspect.signature(function).parameters.items():
            if (
                name in options
                and name not in ("dictionaries", "model")
                and parameter.default not in ("", parameter.empty)
            ):
                default = NODES if options[name] == "default" else options[name]
                assert default == parameter.default, name


def test_it_measures_saves_and_draws(prompts: Path, tmp_path: Path) -> None:
    out, picture = tmp_path / "r.json", tmp_path / "r.png"
    result = run(
        "evaluate", "--model", bench().model, "--dictionaries", bench().dictionary,
        "--dictionaries", f"again={bench().dictionary}", "--dictionaries", "neurons",
        *SMALL, prompts, "--faithfulness", 1, "--out", out, "--picture", picture,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    report = EvaluationReport.load(out)
    assert [basis.name for basis in report.bases] == ["features", "again", "neurons"]
    assert report.prompts == 2
    assert report.tokens_given == 400
    for row in report.table():
        assert all(cell in result.stdout for cell in row)
    assert f"wrote {out}" in result.stdout
    assert picture.stat().st_size > 10_000
    assert "held-out text ..." in result.stderr


def test_json_is_the_report(prompts: Path) -> None:
    arguments = ("evaluate", "--model", bench().model, *SMALL, prompts, "--json", "--quiet")
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    document: dict[str, Any] = json.loads(result.stdout)
    assert document.pop("seconds") > 0
    assert document.pop("files") == []
    assert EvaluationReport.from_json(json.dumps(document)).bases[0].kind == "neurons"


def test_prompts_can_be_left_out_and_stored(tmp_path: Path) -> None:
    result = run("evaluate", "--model", bench().model, *SMALL, 0)
    assert result.exit_code == 0, result.output
    stored = tmp_path / "p.json"
    line = mistake("evaluate", "--model", bench().model, "--save-prompts", stored, "--tokens", 64, "--context", 64)
    assert "none of" in line
    assert not stored.exists()


def test_chosen_prompts_are_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lucida.evaluation import PromptRules, choose_prompts

    def loosely(*arguments: Any, **more: Any) -> PromptSet:
        return choose_prompts(*arguments, rules=PromptRules(max_density=1.1, min_loss=0.0, min_tokens=2), **more)

    monkeypatch.setattr("lucida.evaluation.choose_prompts", loosely)
    stored = tmp_path / "p.json"
    arguments = ("evaluate", "--model", bench().model, "--tokens", 4000, "--context", 64, "--prompts", 2)
    result = run(*arguments, "--save-prompts", stored, "--faithfulness", 0)
    assert result.exit_code == 0, result.output
    assert 1 <= len(PromptSet.load(stored)) <= 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--out", "r.txt"), "must end in .json"),
        (("--save-prompts", "p.txt"), "must end in .json"),
        (("--picture", "p.gif"), "must end in .svg or .png"),
        (("--tokens", "10", "--context", "16"), "make no row"),
        (("--dictionaries", "nowhere"), "nowhere"),
        (("--prompts", "nowhere.json"), "cannot read the prompts"),
        (("--data", "nowhere.txt"), "no tokenizer"),
    ],
)
def test_mistakes_are_one_line(arguments: tuple[str, ...], says: str) -> None:
    result = run("evaluate", "--model", bench().model, *SMALL, "0", *arguments)
    assert result.exit_code == 2
    assert says in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


def test_a_dictionary_of_another_model_is_refused(tmp_path: Path) -> None:
    from lucida.dictionaries import random_dictionary, write_circuit_tracer

    other = write_circuit_tracer(random_dictionary(3, 16, 24, l0=8, seed=1), tmp_path / "other")
    line = mistake("evaluate", "--model", bench().model, "--dictionaries", other, *SMALL, 0)
    assert "d_model 16, this model 32" in line
