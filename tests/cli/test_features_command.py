"""`lucida features` and `lucida watch`: find features, read them, name them, see them work."""

import inspect
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import click
import pytest
from command_bench import bench, mistake, run

from lucida.cli import features as commands
from lucida.cli.feature_index import read_place
from lucida.cli.feature_screen import SHADES, shade
from lucida.cli.watch import watch as watch_command
from lucida.dictionaries import load_dictionary
from lucida.features.header import IndexHeader, record_files
from lucida.features.index import FeatureIndex
from lucida.features.labels import Label, write_labels
from lucida.features.reading.search import search
from lucida.features.reading.watch import watch
from lucida.features.tables import EFFECTS, SCHEMAS, STATS, write_table

WORDS = ("small", "tiny", "the", "dog")
N_FEATURES = (24, 24, 24)


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """An index of the bench's dictionary: feature f of layer l fires on word f mod 4, 0:23 on nothing."""
    folder = tmp_path / "index"
    places = [(layer, feature) for layer, count in enumerate(N_FEATURES) for feature in range(count)]
    examples = [
        {
            "layer": layer, "feature": feature, "kind": "top", "band": 1, "rank": 0, "priority": 0, "value": 2.5,
            "position": 7, "document": 0, "peak": 1, "tokens": [2, feature % 4, 3], "activations": [0.0, 2.5, 1.5],
        }
        for layer, feature in places if (layer, feature) != (0, 23)
    ]  # fmt: skip
    stats = []
    for layer, feature in places:
        is_on = (layer, feature) != (0, 23)
        row = {name: 0 for name in STATS.names} | {"layer": layer, "feature": feature, "histogram": [0] * 96}
        stats.append(row | {"count": 5 * is_on, "mean": 2.0 * is_on, "maximum": 2.5 * is_on})
    vocabulary = [{"token": i, "text": f" {word}"} for i, word in enumerate(WORDS)]
    effects = [{name: [] for name in EFFECTS.names} | {"layer": x, "feature": f} for x, f in places]
    effects[3] |= {"nearest_layers": [2], "nearest_features": [1], "nearest_cosine": [0.75]}
    tables = {"examples": examples, "stats": stats, "vocabulary": vocabulary, "effects": effects, "active": []}
    for name, rows in tables.items():
        write_table(folder / f"{name}.parquet", {c: [r[c] for r in rows] for c in SCHEMAS[name].names}, SCHEMAS[name])
    write_labels(folder, "automatic", [Label(2, 1, "tiny things", "automatic", "peak tokens", 0.5)])
    header(folder, load_dictionary(bench().dictionary).source.fingerprint)
    return folder


def header(folder: Path, digest: str) -> None:
    IndexHeader(
        model="bench", dictionary="features", dictionary_digest=digest, n_features=N_FEATURES, corpus="made-up",
        corpus_fingerprint="1", tokenizer="2", context=16, k=1, samples=1, window=1, sampled_places=0, n_places=1000,
        n_documents=1, files=record_files(folder, [f"{name}.parquet" for name in SCHEMAS]),
    ).save(folder)  # fmt: skip


def test_search_makes_its_table_and_finds(index: Path) -> None:
    found = json.loads(run("features", "search", "tininess", "--index", index, "--json", "--count", "3").stdout)
    assert len(found) == 3
    assert (found[0]["layer"], found[0]["feature"], found[0]["label"]) == (2, 1, "tiny things")
    assert all(match["feature"] % 4 == 1 for match in found)
    assert (index / "search.parquet").exists()
    printed = run("features", "search", "tiny", "--index", index)
    assert "2:1" in printed.stdout
    assert "tiny things" in printed.stdout
    assert printed.stderr == ""
    assert "goes with 'zebra'" in run("features", "search", "zebra", "--index", index).stdout


@pytest.mark.parametrize("place", [("2", "1"), ("2:1",)])
def test_show(index: Path, place: tuple[str, ...]) -> None:
    printed = run("features", "show", *place, "--index", index).stdout
    assert printed.splitlines()[0] == "2:1  tiny things"
    assert " the «tiny» ‹dog›" in printed
    assert "one in 200" in printed
    assert "\x1b" not in printed
    found = json.loads(run("features", "show", *place, "--index", index, "--json").stdout)
    assert (found["count"], found["label"]["label"], found["places"]) == (5, "tiny things", 1000)
    assert [span["share"] for span in found["top"][0]["tokens"]] == [0, 1, 0.6]


def test_colours_on_a_terminal(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    printed = run("features", "show", "2:1", "--index", index, color=True).stdout
    assert "\x1b[" in printed
    assert "«tiny»" in printed
    assert [shade(share) for share in (1.0, 0.6, 0.3, 0.1, 0.0)] == [*(style for _, style in SHADES), ""]


def test_a_silent_feature_is_an_answer(index: Path) -> None:
    result = run("features", "show", "0:23", "--index", index)
    assert result.exit_code == 0
    assert "never active at any of the 1,000 places" in result.stdout


def test_similar(index: Path) -> None:
    printed = run("features", "similar", "0", "3", "--index", index).stdout
    assert "2:1" in printed
    assert "+0.750" in printed
    (found,) = json.loads(run("features", "similar", "0:3", "--index", index, "--json").stdout)
    assert found == {"layer": 2, "feature": 1, "cosine": 0.75, "label": "tiny things"}
    (index / "effects.parquet").unlink()
    header_ = IndexHeader.open(index)
    replace(header_, files={n: f for n, f in header_.files.items() if n != "effects.parquet"}).save(index)
    assert "were not computed" in run("features", "similar", "0:3", "--index", index).stdout


def test_label(index: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "ada")
    assert "2:1 is now 'mine'" in run("features", "label", "2", "1", "mine", "--index", index).stdout
    found = FeatureIndex.open(index).label(2, 1)
    assert found is not None
    assert (found.label, found.author, found.method) == ("mine", "ada", "by hand")
    made = run("features", "label", "0:0", "words for small", "--author", "Grace", "--index", index, "--json")
    assert json.loads(made.stdout)["author"] == "Grace"
    assert "words for small" in run("features", "show", "0:0", "--index", index).stdout
    assert "lost its label" in run("features", "label", "2:1", "", "--index", index).stdout
    assert run("features", "show", "2:1", "--index", index).stdout.startswith("2:1  tiny things")


def test_contrast(index: Path, tmp_path: Path) -> None:
    options = ["--model", bench().model, "--dictionaries", bench().dictionary, "--index", index, "--ids"]
    sides = {"with": "5,42,7\n5,42,9\n\n6,42,7\n", "without": "5,17,7\n5,18,9\n6,19,7\n"}
    for name, lines in sides.items():
        (tmp_path / name).write_text(lines)
        options += [f"--{name}", tmp_path / name]
    result = run("features", "contrast", *options)
    assert result.exit_code == 0, result.output
    assert "3 texts with, 3 without" in result.stdout
    assert "p is exact" in result.stdout
    assert "note: 3 texts with and 3 without: even a perfect feature has p = 0.1" in result.stderr
    for name in ("with", "without"):
        (tmp_path / f"test_{name}").write_text(sides[name].replace("5", "8"))
        options += [f"--test-{name}", tmp_path / f"test_{name}"]
    found = json.loads(run("features", "contrast", *options, "--count", "2", "--json").stdout)
    assert len(found["separations"]) == 2
    assert [each["feature"] for each in found["held_out"]] == [each["feature"] for each in found["separations"]]
    counts = ("true_positives", "false_negatives", "false_positives", "true_negatives")
    assert all(sum(each[name] for name in counts) == 6 for each in found["held_out"])
    shown = run("features", "contrast", *options).stdout
    assert re.search(r"On the other texts.*precision.*recall", shown, re.DOTALL)


def test_watch(index: Path) -> None:
    options = ["--model", bench().model, "--dictionaries", bench().dictionary, "--ids", "5,17,3,42"]
    plain = run("watch", *options)
    assert plain.exit_code == 0, plain.output
    assert "no feature index is here" in plain.stderr
    found = json.loads(run("watch", *options, "--index", index, "--json", "--count", "99").stdout)
    assert [token["position"] for token in found["tokens"]] == [1, 2, 3]
    names = {(f["layer"], f["feature"]): f["label"] for token in found["tokens"] for f in token["features"]}
    assert all(label == ("tiny things" if place == (2, 1) else "") for place, label in names.items())
    # An index that lies beside the weights of a dictionary needs no option.
    with_index = shutil.copytree(bench().dictionary, index.parent / "dictionary")
    shutil.copytree(index, with_index / "index")
    options[3] = str(with_index)
    printed = run("watch", *options)
    assert "note" not in printed.stderr
    assert " 1 " in printed.stdout
    none = json.loads(run("watch", *options, "--index", index, "--densest", "0.001", "--json").stdout)
    assert all(token["n_active"] == token["n_dense"] + len(token["features"]) for token in none["tokens"])


def test_mistakes_are_one_line(index: Path, tmp_path: Path) -> None:
    assert "is not a feature index" in mistake("features", "show", "0:0", "--index", tmp_path)
    assert "feature 24 of layer 0 was asked for" in mistake("features", "show", "0:24", "--index", index)
    assert "no word to search for" in mistake("features", "search", "...", "--index", index)
    bare = mistake("features", "show", "0:0", "--dictionaries", bench().dictionary)
    assert "no feature index is shipped with" in bare
    options = ["--model", bench().model, "--dictionaries", bench().dictionary]
    header(index, "another")
    assert "is of features" in mistake("watch", "--ids", "5,17", *options, "--index", index)
    files = ("--with", tmp_path / "none.txt", "--without", tmp_path / "none.txt")
    assert "none.txt cannot be read" in mistake("features", "contrast", *files, *options)
    stats = index / "stats.parquet"
    stats.write_bytes(stats.read_bytes()[:-9])
    assert "cut short" in mistake("features", "show", "0:0", "--index", index)


@pytest.mark.parametrize("parts", [("5",), ("5", "x"), ("5:6", "7"), ("-1", "2"), ("1", "2", "3")])
def test_what_is_no_feature(parts: tuple[str, ...]) -> None:
    with pytest.raises(click.UsageError, match="is not a feature such as 12:345"):
        read_place(parts)


@pytest.mark.parametrize(("command", "function"), [(commands.search, search), (watch_command, watch)])
def test_defaults_are_those_of_the_functions(command: click.Command, function: Callable) -> None:
    defaults = {option.name: option.default for option in command.params}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            assert defaults[name] == parameter.default
