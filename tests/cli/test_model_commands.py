"""`lucida models`: the registry, and what is in the cache."""

import json
from pathlib import Path

import pytest
from command_bench import bench, mistake, run

from lucida.models.registry import REGISTRY


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUCIDA_CACHE", str(tmp_path))


def test_the_table_names_every_model() -> None:
    for arguments in (("models",), ("models", "list")):
        printed = run(*arguments).stdout
        for name, entry in REGISTRY.items():
            assert name in printed
            assert entry.licence.split()[0] in printed


def test_json_says_where_weights_come_from() -> None:
    listed = json.loads(run("models", "list", "--json").stdout)
    assert [entry["name"] for entry in listed] == list(REGISTRY)
    assert all(entry["sources"] for entry in listed)


def test_info_tells_what_a_model_can_do() -> None:
    printed = run("models", "info", "SmolLM2-135M").stdout
    for source in REGISTRY["smollm2-135m"].sources:
        assert source.description in printed
    for ability in REGISTRY["smollm2-135m"].abilities:
        assert ability in printed


def test_an_unknown_model_is_one_line_with_a_suggestion() -> None:
    assert "smollm2-135m" in mistake("models", "info", "smolm2")


def test_offline_without_a_copy_is_one_line() -> None:
    assert "offline" in mistake("models", "fetch", "stories15m", "--offline")


def test_a_folder_needs_no_fetching() -> None:
    assert bench().model in run("models", "fetch", bench().model).stdout


def test_nothing_to_remove_is_one_line() -> None:
    assert "no cached copy" in mistake("models", "remove", "stories15m")


def test_remove_frees_an_unfinished_download(tmp_path: Path) -> None:
    part = tmp_path / "partial" / "stories15m"
    part.mkdir(parents=True)
    (part / "piece").write_bytes(bytes(1234))
    assert json.loads(run("models", "remove", "stories15m", "--json").stdout)["bytes"] == 1234
    assert not part.exists()
