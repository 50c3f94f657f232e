"""`lucida features explain`: the cost first, then labels, one line for what goes wrong."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_bench import mistake, run
from llm_bench import WORDS, Answer, FakeServer, fake_server, honest, planted_index

from lucida.features.labels import read_labels


@pytest.fixture(autouse=True)
def by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command alone, whatever group it stands in."""
    monkeypatch.setitem(sys.modules["lucida.cli.app"].COMMANDS, "explain", "lucida.cli.feature_labels")


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with fake_server() as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return planted_index(tmp_path / "index")


def arguments(folder: Path, server: FakeServer, *more: object) -> tuple[object, ...]:
    return ("explain", "--index", folder, "--endpoint", server.url, "--model", "judge", *more)


PRICES = ("--price-in", "1000", "--price-out", "2000")


def test_it_says_what_it_costs_and_asks(folder: Path, server: FakeServer) -> None:
    refused = run(*arguments(folder, server, "--all", *PRICES), input="n\n")
    assert refused.exit_code == 1
    assert not server.asked
    for part in (f"{len(WORDS)} features", server.url, "1 more never fire", "about 60 requests", "cost about"):
        assert part in refused.stderr
    agreed = run(*arguments(folder, server, "--all", *PRICES), input="y\n")
    assert agreed.exit_code == 0
    assert len(read_labels(folder, "llm")) == len(WORDS)
    assert "0:0" in agreed.stdout
    assert "the word small" in agreed.stdout
    assert "12 labelled, 0 failed, 0 labelled before" in agreed.stdout
    assert "60 requests" in agreed.stdout


def test_json_says_the_same(folder: Path, server: FakeServer) -> None:
    result = run(*arguments(folder, server, "--features", "0:2", "--features", "0:0", "--yes", "--json", *PRICES))
    found = json.loads(result.stdout)
    assert [(label["feature"], label["score"]) for label in found["labels"]] == [(2, 1.0), (0, 1.0)] or [
        (label["feature"], label["score"]) for label in found["labels"]
    ] == [(0, 1.0), (2, 1.0)]
    assert found["used"]["requests"] == found["expected"]["requests"] == 10
    paid = found["used"]["prompt_tokens"] * 1000 + found["used"]["completion_tokens"] * 2000
    assert found["cost"] == pytest.approx(paid / 1e6)
    again = json.loads(run(*arguments(folder, server, "--features", "0:2", "--yes", "--json")).stdout)
    assert (again["labels"], again["labelled_before"], again["cost"]) == ([], 1, None)


def test_a_dead_endpoint_is_one_line(folder: Path, server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUCIDA_API_KEY", "sk-secret-123")
    server.behave = lambda asked: honest(asked) if len(server.asked) <= 12 else Answer(401, "bad key sk-secret-123")
    command = arguments(folder, server, "--all", "--yes", "--quiet", "--parallel", "1")
    line = mistake(*command)
    assert "2 of 12 features were labelled and are kept" in line
    assert "sk-secret" not in line
    assert len(read_labels(folder, "llm")) == 2
    server.behave = honest
    assert run(*command).exit_code == 0
    assert len(read_labels(folder, "llm")) == len(WORDS)
    for path in folder.rglob("*"):
        assert path.is_dir() or b"sk-secret" not in path.read_bytes()


def test_by_frequency_and_within_a_budget(folder: Path, server: FakeServer) -> None:
    result = run(*arguments(folder, server, "--top", "4", "--budget-tokens", "100", "--yes"))
    assert "4 features are left: the budget is spent" in result.stdout
    assert not server.asked
    result = run(*arguments(folder, server, "--top", "4", "--no-score", "--yes"))
    assert len(server.asked) == 4


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ((), "say which features"),
        (("--all", "--top", "3"), "say which features"),
        (("--top", "3", "--by", "influence"), "--graph"),
        (("--all", "--price-in", "1"), "both prices"),
        (("--features", "twelve"), "not a feature such as 12:345"),
        (("--features", "0:99"), "feature 99 of layer 0 was asked for"),
        (("--all", "--timeout", "0"), "timeout"),
    ],
)
def test_what_cannot_be_asked(folder: Path, server: FakeServer, more: tuple[str, ...], says: str) -> None:
    result = run(*arguments(folder, server, *more, "--yes"))
    assert result.exit_code == 2
    assert says in result.stderr
    assert not server.asked


def test_what_is_no_index_or_address(folder: Path, server: FakeServer, tmp_path: Path) -> None:
    assert "index.json" in mistake(*arguments(tmp_path / "none", server, "--all", "--yes"))
    command = ("explain", "--index", folder, "--model", "judge", "--all", "--yes", "--endpoint")
    assert "no address" in mistake(*command, "nowhere")
