"""`lucida dictionaries`: look into a folder of features, check it, write it in another format."""

import json
import shutil
from pathlib import Path

import torch
from command_bench import bench, mistake, run

from lucida.dictionaries import load_dictionary


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


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    assert "nowhere" in mistake("dictionaries", "info", tmp_path / "nowhere")
    broken = tmp_path / "broken"
    shutil.copytree(bench().dictionary, broken)
    weights = next(broken.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:100])
    mistake("dictionaries", "check", broken)
