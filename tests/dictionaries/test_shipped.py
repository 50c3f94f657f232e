"""Data packages: written whole, found without being imported, chosen by name or as a model's default."""

import importlib
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from dictionary_files import assert_same
from tiny_models import build_hf

from lucida.dictionaries import (
    Dictionary,
    default_dictionary,
    find_dictionary,
    load_dictionary,
    open_dictionary,
    random_dictionary,
    shipped_dictionaries,
    write_compact,
    write_package,
)
from lucida.errors import DictionaryError, SaveError
from lucida.microscope import Microscope
from lucida.models.model import Model

ROOT = Path(__file__).resolve().parents[2]


def features(name: str, model: str | None = "stories15m", *, seed: int = 0, **more: Any) -> Dictionary:
    """Features that fit the tiny llama, said to be of `model`."""
    return random_dictionary(3, 32, 12, l0=4, seed=seed, name=name, model_name=model, **more)


def package(root: Path, name: str, model: str | None = "stories15m", *, default: bool = False, **more: Any) -> Path:
    return write_package(features(name, model, **more), root / "packages", bits=6, card={"default": default})


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A source checkout without packages, on a machine where none is installed."""
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.setattr("lucida.dictionaries.shipped.CHECKOUT", tmp_path)
    monkeypatch.setattr("lucida.dictionaries.shipped.entry_points", lambda group: [])
    return tmp_path


def install(site: Path, built: Path, *, value: str | None = None) -> Path:
    """What pip leaves behind: the package, and a folder that tells of it."""
    settings = tomllib.loads((built / "pyproject.toml").read_text("utf-8"))["project"]
    place = next(built.glob("lucida_dictionary_*"))
    place.rename(site / place.name)
    about = site / f"{settings['name'].replace('-', '_')}-{settings['version']}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {settings['name']}\nVersion: 1.0.0\n")
    ((name, where),) = settings["entry-points"]["lucida.dictionaries"].items()
    (about / "entry_points.txt").write_text(f"[lucida.dictionaries]\n{name} = {value or where}\n")
    return site / place.name


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of installed packages, and no checkout."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.setattr("lucida.dictionaries.shipped.CHECKOUT", tmp_path / "nowhere")
    monkeypatch.syspath_prepend(str(folder))
    return folder


def mine(found: list) -> list:
    """Without those that really are installed here."""
    return [shipped for shipped in found if shipped.name.startswith("test-")]


# Packages


def test_a_package_is_whole(checkout: Path) -> None:
    dictionary = features("test-plt")
    card = {
        "data": ["stories", "poems | songs"],
        "metrics": {"nmse": 0.123456, "by layer": {"0": 0.1}},
        "default": True,
    }
    folder = write_package(dictionary, checkout / "packages", bits=32, card=card, version="1.2.3")
    assert folder == checkout / "packages/camera-lucida-test-plt"
    assert_same(load_dictionary(folder / "lucida_dictionary_test_plt"), dictionary)
    settings = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))
    assert (settings["project"]["name"], settings["project"]["version"]) == ("camera-lucida-test-plt", "1.2.3")
    assert settings["project"]["entry-points"]["lucida.dictionaries"] == {"test-plt": "lucida_dictionary_test_plt"}
    readme = (folder / "README.md").read_text("utf-8")
    for said in ("36 per-layer features of stories15m", "* poems \\| songs", "| nmse | 0.1235 |", "**by layer**"):
        assert said in readme
    compile((folder / "lucida_dictionary_test_plt/__init__.py").read_text("utf-8"), "__init__.py", "exec")


def test_refreshing_replaces_weights_and_keeps_the_rest(checkout: Path) -> None:
    folder = package(checkout, "test-plt")
    inside = folder / "lucida_dictionary_test_plt"
    (inside / "index").mkdir()
    (inside / "index/top.parquet").write_bytes(b"rows")
    (inside / "weights-00001-of-00009.safetensors").write_bytes(b"of an older version")
    (folder / "NOTICE").write_text("kept")
    assert package(checkout, "test-plt", seed=1) == folder
    assert (inside / "index/top.parquet").read_bytes() == b"rows"
    assert (folder / "NOTICE").read_text() == "kept"
    expected = load_dictionary(write_compact(features("test-plt", seed=1), checkout / "d", bits=6))
    assert_same(load_dictionary(inside), expected)
    assert [path.name for path in (checkout / "packages").iterdir()] == [folder.name]


def test_a_failed_refresh_leaves_the_old_package(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = package(checkout, "test-plt")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def full_disk(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lucida.dictionaries.packaging._keep_others", full_disk)
    with pytest.raises(SaveError, match="No space left"):
        package(checkout, "test-plt", seed=1)
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", ["A-plt", "a plt", "../a", "a--b", 'a"b'])
def test_names_that_no_package_can_have_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DictionaryError, match="cannot be a package's name"):
        package(tmp_path, name)
    with pytest.raises(DictionaryError, match="does not say which model"):
        package(tmp_path, "test-plt", None)
    assert list(tmp_path.iterdir()) == []


# Finding


def test_nothing_is_shipped_where_there_is_nothing(checkout: Path) -> None:
    assert shipped_dictionaries() == []
    assert default_dictionary("stories15m") is None
    with pytest.raises(DictionaryError, match=r"no dictionary is named 'test-plt' \(shipped here: none; or give"):
        find_dictionary("test-plt")


def test_a_checkout_is_searched(checkout: Path) -> None:
    package(checkout, "test-plt", default=True)
    package(checkout, "test-clt", span=3)
    package(checkout, "test-other", "org/Other", span=2)
    (checkout / "packages/notes.txt").write_text("not a package")
    found = {shipped.name: shipped for shipped in shipped_dictionaries()}
    assert list(found) == ["test-clt", "test-other", "test-plt"]
    assert [found[name].kind for name in found] == ["cross-layer", "windowed", "per-layer"]
    assert [shipped.name for shipped in shipped_dictionaries("STORIES15M")] == ["test-clt", "test-plt"]
    assert [shipped.name for shipped in shipped_dictionaries("other")] == ["test-other"]
    assert default_dictionary("stories15m") == found["test-plt"]
    assert default_dictionary("other") is None
    (checkout / "pyproject.toml").unlink()
    assert shipped_dictionaries() == []


def test_an_installed_package_is_found_and_not_imported(tmp_path: Path, site: Path) -> None:
    place = install(site, package(tmp_path, "test-plt", default=True))
    (place / "__init__.py").write_text("raise AssertionError('imported')")
    (shipped,) = mine(shipped_dictionaries("stories15m"))
    assert (shipped.folder, shipped.is_default) == (place, True)
    assert place.name not in sys.modules
    assert open_dictionary("Test-PLT", n_layers=3).name == "test-plt"


def test_the_checkout_comes_before_what_is_installed(
    tmp_path: Path, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = install(site, package(tmp_path, "test-plt"))
    package(tmp_path, "test-plt", seed=1)
    assert find_dictionary("test-plt") == place
    (tmp_path / "pyproject.toml").touch()
    monkeypatch.setattr("lucida.dictionaries.shipped.CHECKOUT", tmp_path)
    assert find_dictionary("test-plt").is_relative_to(tmp_path / "packages")


def test_finding_needs_no_torch(tmp_path: Path, site: Path) -> None:
    install(site, package(tmp_path, "test-plt"))
    code = (
        "import sys; from lucida.dictionaries import find_dictionary; print(find_dictionary('test-plt').name); "
        "assert not {'torch', 'safetensors', 'lucida_dictionary_test_plt'} & set(sys.modules)"
    )
    paths = {"PYTHONPATH": f"{site}:{ROOT}", "PATH": ""}
    result = subprocess.run([sys.executable, "-c", code], env=paths, capture_output=True, text=True)
    assert (result.stdout, result.stderr) == ("lucida_dictionary_test_plt\n", "")


@pytest.mark.parametrize("value", ["lucida_dictionary_gone", "bad_parent.child", "bad_parent:thing"])
def test_a_package_without_its_files_is_one_line(tmp_path: Path, site: Path, value: str) -> None:
    (site / "bad_parent").mkdir()
    (site / "bad_parent/__init__.py").write_text("raise AssertionError('imported')")
    install(site, package(tmp_path, "test-plt"), value=value)
    importlib.invalidate_caches()
    with pytest.raises(DictionaryError, match="package of dictionary test-plt is installed without its files"):
        shipped_dictionaries()


def test_a_damaged_package_is_one_line(checkout: Path) -> None:
    path = package(checkout, "test-plt") / "lucida_dictionary_test_plt/dictionary.json"
    whole = json.loads(path.read_text())
    path.write_text(json.dumps(whole | {"model_name": None}))
    with pytest.raises(DictionaryError, match=r"test-plt in .* does not say its model"):
        shipped_dictionaries()
    path.write_text("{")
    with pytest.raises(DictionaryError, match="is not JSON"):
        shipped_dictionaries()


def test_two_defaults_are_refused(checkout: Path) -> None:
    package(checkout, "test-one", default=True)
    package(checkout, "test-two", default=True)
    with pytest.raises(DictionaryError, match=r"2 default dictionaries \(test-one, test-two\); name the one"):
        default_dictionary("stories15m")


def test_names_and_folders_are_told_apart(
    checkout: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = package(checkout, "test-plt")
    monkeypatch.chdir(tmp_path_factory.mktemp("work"))
    assert find_dictionary("TEST-plt") == folder / "lucida_dictionary_test_plt"
    for path in ("./test-plt", "some/where", Path("test-plt")):
        assert find_dictionary(path) == Path(path)
    Path("mine").mkdir()
    assert find_dictionary("mine") == Path("mine")
    with pytest.raises(DictionaryError, match=r"'test-plc'; did you mean test-plt.*shipped here: test-plt; or give"):
        find_dictionary("test-plc")


# The microscope


@pytest.fixture(scope="module")
def stories() -> Model:
    return Model(build_hf("llama"), name="stories15m")


def test_a_model_is_seen_through_its_default(checkout: Path, stories: Model) -> None:
    package(checkout, "test-clt", span=3)
    assert Microscope(stories).dictionary is None
    package(checkout, "test-plt", default=True)
    assert Microscope(stories).dictionary.name == "test-plt"  # pyright: ignore
    assert Microscope(stories, "test-clt").dictionary.span == 3  # pyright: ignore
    assert Microscope(stories, "neurons").dictionary is None
    assert Microscope(Model(build_hf("llama"), name="somebody's")).dictionary is None
    graph = Microscope(stories).trace([5, 17, 3, 42], max_nodes=8)
    assert graph.metadata["dictionary"]["name"] == "test-plt"


def test_a_dictionary_of_another_model_is_refused(checkout: Path, stories: Model) -> None:
    package(checkout, "test-other", "gpt2")
    with pytest.raises(DictionaryError, match="test-other is of gpt2, this model is stories15m"):
        Microscope(stories, "test-other")


def test_an_unknown_name_is_refused_before_a_model_is_loaded(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lucida.microscope.load_model", lambda *a, **k: pytest.fail("loaded"))
    with pytest.raises(DictionaryError, match="no dictionary is named 'test-plt'"):
        Microscope("stories15m", "test-plt")
