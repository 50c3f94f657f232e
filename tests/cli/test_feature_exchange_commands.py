"""`lucida features export` and `import`, called as a group of their own: thin, and mistakes are one line."""

import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from made_up_index import made_up_index

from lucida.cli.feature_exchange import register
from lucida.features.exchange import FeaturePack
from lucida.features.index import FeatureIndex


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_up_index(tmp_path_factory.mktemp("exchange") / "index")


def run(*arguments: object) -> Result:
    group = click.Group("features")
    register(group)
    return CliRunner().invoke(group, [str(argument) for argument in arguments])


@pytest.mark.parametrize("form", ["circuit-tracer", "neuronpedia", "json"])
def test_export_writes_and_import_reads(index: Path, tmp_path: Path, form: str) -> None:
    out = tmp_path / "out"
    result = run("export", index, out, "--to", form, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {"folder": str(out), "format": form, "features": 11}
    if form == "json":
        assert len(list(out.iterdir())) == 11
        return
    source = out / "made-up" if form == "neuronpedia" else out
    result = run("import", source, tmp_path / "back", "-q")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("wrote an index of 11 features")
    assert FeatureIndex.open(tmp_path / "back").stats(0, 3).count == FeatureIndex.open(index).stats(0, 3).count


def test_layers_and_plain_files_can_be_chosen(index: Path, tmp_path: Path) -> None:
    result = run("export", index, tmp_path / "out", "--to", "circuit-tracer", "--layers", "1-1", "--plain")
    assert result.exit_code == 0, result.output
    assert "as `features` beside the transcoders" in result.stdout
    pack = FeaturePack.open(tmp_path / "out")
    assert (pack.n_features, pack.header) == ((0, 5), None)
    result = run("export", index, tmp_path / "np", "--to", "neuronpedia", "--model-id", "Mine", "--source-set", "s")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "np" / "mine" / "0-s").is_dir()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--to", "json", "--layers", "a-b"), "is not a list of layers"),
        (("--to", "json", "--layers", "9"), "layers 9 were asked for"),
        (("--to", "json", "--source-set", "s"), "belong to --to neuronpedia"),
        ((), "Missing option '--to'"),
    ],
)
def test_mistakes_are_told(index: Path, tmp_path: Path, arguments: tuple[Any, ...], message: str) -> None:
    result = run("export", index, tmp_path / "out", *arguments)
    assert result.exit_code != 0
    assert message in result.output + str(result.exception)
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_nothing_is_told(tmp_path: Path) -> None:
    result = run("import", tmp_path, tmp_path / "out")
    assert "is no bulk export" in str(result.exception)
