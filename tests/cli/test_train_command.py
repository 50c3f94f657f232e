"""`lucida train` makes a dictionary that loads, goes on where it stopped, and says in one line what cannot work."""

import json
from pathlib import Path
from typing import Any

import pytest
from command_bench import bench, mistake, run

from lucida.dictionaries import load_dictionary
from lucida.training import TrainingConfig
from lucida.training.checkpoint import saved_config

SMALL = (
    "--corpus-tokens", 3000, "--features", 16, "--l0", 2, "--model-dtype", "float32",
    "--set", "context=16", "--set", "batch_tokens=128", "--set", "block_rows=16", "--set", "normalise_tokens=100",
    "--set", "products=float32",
)  # fmt: skip

pytestmark = pytest.mark.usefixtures("quick_calibration")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all tests here: the tiny model's samples are made once."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def own_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUCIDA_CACHE", str(cache))


def arguments(out: Path, *more: Any) -> tuple[Any, ...]:
    return ("train", "--model", bench().model, "--out", out, *SMALL, *more)


def test_it_trains_from_the_models_own_samples_and_writes_what_loads(tmp_path: Path) -> None:
    result = run(*arguments(tmp_path / "run", "--tokens", 1024, "--kind", "clt", "--json"))
    assert result.exit_code == 0, result.output
    written = json.loads(result.stdout)
    found = load_dictionary(written["dictionary"])
    assert (found.span, found.n_features(0), found.activation, found.reads_at) == (3, 16, "jumprelu", "resid_mid")
    assert written["metrics"]["tokens"] == 1024
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1] == written["metrics"]
    card = json.loads((tmp_path / "run" / "card.json").read_text())
    assert TrainingConfig(**card["recipe"]) == saved_config(tmp_path / "run" / "checkpoint")
    assert card["data"]["kind"] == "samples"


def test_the_same_command_goes_on_and_another_one_is_refused(tmp_path: Path) -> None:
    assert run(*arguments(tmp_path / "run", "--tokens", 512)).exit_code == 0
    again = run(*arguments(tmp_path / "run", "--tokens", 512, "--quiet"))
    assert again.exit_code == 0
    line = mistake(*arguments(tmp_path / "run", "--tokens", 512, "--set", "learning_rate=0.5"))
    assert "learning_rate: 0.5, " in line
    assert "another folder" in line


def test_a_finished_dictionary_is_where_another_run_can_start(tmp_path: Path) -> None:
    first = run(*arguments(tmp_path / "first", "--tokens", 256, "--json"))
    folder = json.loads(first.stdout)["dictionary"]
    second = run(*arguments(tmp_path / "second", "--tokens", 256, "--start", folder, "--json"))
    assert second.exit_code == 0, second.output
    line = mistake(*arguments(tmp_path / "third", "--tokens", 256, "--start", folder, "--features", 32))
    assert "(16, 1, 32)" in line
    assert "(32, 1, 32)" in line


def test_a_budget_in_minutes_becomes_tokens(tmp_path: Path) -> None:
    result = run(*arguments(tmp_path / "run", "--minutes", 0.02, "--json"))
    assert result.exit_code == 0, result.output
    config = saved_config(tmp_path / "run" / "checkpoint")
    assert config is not None
    assert config.n_tokens % 128 == 0
    assert config.n_tokens >= 128


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--tokens", 100, "--minutes", 1), "--tokens or as --minutes"),
        (("--set", "colour=3"), "names are n_layers"),
        (("--set", "context=many"), "no value for context"),
        (("--set", "context=100"), "context is 100, that of"),
        (("--kind", "wide"), "is not plt, clt or a number of layers"),
        (("--kind", "7"), "span is 7, the model has 3 layers"),
        (("--l0", 17), "k is 17"),
        (("--features", 10_000_000_000), "GiB are free; take fewer features"),
        (("--data", "nowhere.txt"), "has no tokenizer to read text with"),
        (("--start", "nothing"), "nothing"),
    ],
)
def test_what_cannot_work_is_said_before_the_work(tmp_path: Path, more: tuple[Any, ...], said: str) -> None:
    result = run(*arguments(tmp_path / "run", *more))
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())
    assert not (tmp_path / "run" / "dictionary").exists()
