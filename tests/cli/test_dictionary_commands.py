"""`lucida dictionaries`: look into a folder of features, check it, write it in another format."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from command_bench import bench, mistake, run

from lucida.dictionaries import load_dictionary, random_dictionary, write_package


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A source checkout that ships one dictionary."""
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.setattr("lucida.dictionaries.shipped.CHECKOUT", tmp_path)
    dictionary = random_dictionary(3, 32, 24, name="tiny-plt", model_name="pythia-70m")
    card = {"data": "made up", "metrics": {"nmse": 0.25}, "default": True}
    return write_package(dictionary, tmp_path / "packages", bits=5, card=card)


def test_info_says_what_is_there() -> None:
    facts = json.loads(run("dictionaries", "info", bench().dictionary, "--json").stdout)
    assert (facts["d_model"], facts["features_per_layer"], facts["features"]) == (32, 24, 72)
    assert facts["format"] == "circuit-tracer"
    assert facts["fingerprint"] in run("dictionaries", "info", bench().dictionary).stdout


def test_check_names_what_it_checked() -> None:
    result = run("dictionaries", "check", bench().dictionary, "--full")
    assert result.exit_code == 0
    assert "ok  weights are finite" in result.stdout


def test_convert_keeps_every_feature(tmp_path: Path) -> None:
    out = tmp_path / "saelens"
    assert run("dictionaries", "convert", bench().dictionary, "--format", "saelens", "--out", out).exit_code == 0
    whole, converted = load_dictionary(bench().dictionary), load_dictionary(out)
    features = torch.arange(24)
    for layer in range(3):
        assert torch.equal(whole.encoder_rows(layer, features), converted.encoder_rows(layer, features))


def test_convert_to_our_own_format_says_what_it_cost(tmp_path: Path) -> None:
    out = tmp_path / "compact"
    command = ("dictionaries", "convert", bench().dictionary, "--format", "lucida", "--out", out)
    made = json.loads(run(*command, "--bits", "4.5", "--json").stdout)
    assert made["relative_error"] == pytest.approx(0.053, abs=0.01)
    assert made["bytes"] == sum(path.stat().st_size for path in out.glob("*.safetensors"))
    assert load_dictionary(out).source.format == "lucida"
    assert "relative error of the weights" in run(*command).stdout
    again = tmp_path / "again"
    run("dictionaries", "convert", out, "--format", "lucida", "--out", again)
    assert (again / "dictionary.json").read_bytes() == (out / "dictionary.json").read_bytes()


def test_shipped_dictionaries_go_by_name(shipped: Path, tmp_path: Path) -> None:
    listed = json.loads(run("dictionaries", "list", "--json").stdout)
    entry = next(one for one in listed if one["name"] == "tiny-plt")
    assert (entry["model"], entry["kind"], entry["is_default"]) == ("pythia-70m", "per-layer", True)
    assert "tiny-plt" in run("dictionaries", "list").stdout
    facts = json.loads(run("dictionaries", "info", "tiny-plt", "--json").stdout)
    assert (facts["bits"], facts["licence"], facts["card"]["metrics"]["nmse"]) == (5, "Apache-2.0", 0.25)
    printed = run("dictionaries", "info", "tiny-plt").stdout
    assert "made up" in printed
    assert "metrics nmse" in printed
    assert run("dictionaries", "check", "tiny-plt", "--full").exit_code == 0
    assert run("dictionaries", "convert", "tiny-plt", "--format", "saelens", "--out", tmp_path / "s").exit_code == 0
    for arguments in (("models",), ("models", "info", "pythia-70m")):
        assert "tiny-plt (per-layer, the default)" in run(*arguments).stdout
    entry = next(e for e in json.loads(run("models", "list", "--json").stdout) if e["name"] == "pythia-70m")
    assert "tiny-plt" in [one["name"] for one in entry["dictionaries"]]


def test_a_trace_takes_the_name(shipped: Path) -> None:
    line = mistake("trace", "--model", bench().model, "--dictionaries", "tiny-plc", "--ids", "5,17")
    assert "did you mean tiny-plt" in line
    traced = run("trace", "--model", bench().model, "--dictionaries", "tiny-plt", "--ids", "5,17,3", "--json")
    assert json.loads(traced.stdout)["metadata"]["dictionary"]["name"] == "tiny-plt"


def test_bits_belong_to_our_own_format(tmp_path: Path) -> None:
    result = run("dictionaries", "convert", bench().dictionary, "--format", "saelens", "--bits", "5", "--out", tmp_path)
    assert result.exit_code == 2
    assert "--bits belongs to --format lucida" in result.stderr


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    assert "nowhere" in mistake("dictionaries", "info", tmp_path / "nowhere")
    broken = tmp_path / "broken"
    shutil.copytree(bench().dictionary, broken)
    weights = next(broken.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:100])
    mistake("dictionaries", "check", broken)
