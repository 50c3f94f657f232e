"""What is public is documented, and the documents say what is so."""

import inspect
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import lucida

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "lucida"
PUBLIC_HOSTS = {
    "arxiv.org",
    "download.pytorch.org",
    "files.pythonhosted.org",
    "github.com",
    "huggingface.co",
    "json-schema.org",
    "pypi.org",
    "registry.npmjs.org",
    "transformer-circuits.pub",
    "www.apache.org",
    "www.neuronpedia.org",
    "www.w3.org",
}


def is_public(module: str) -> bool:
    return not any(part.startswith("_") for part in module.split("."))


MODULES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in PACKAGE.rglob("*.py")
)


def tracked() -> list[Path]:
    """The text files of the project: what git tracks or would track."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    found = []
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path.is_file() and b"\0" not in path.read_bytes()[:8192]:
            found.append(path)
    return found


def test_every_public_name_of_the_package_can_be_imported() -> None:
    for name in lucida.__all__:
        assert getattr(lucida, name) is not None
    assert set(lucida.__all__) <= set(dir(lucida))
    assert sorted(lucida._HOMES) == sorted(set(lucida.__all__) - {"__version__"})


@pytest.mark.parametrize("name", MODULES)
def test_public_names_are_documented(name: str) -> None:
    module = import_module(name)
    is_empty = not Path(str(module.__file__)).read_text("utf-8").strip()
    assert module.__doc__ or is_empty, f"{name} does not say what it is"
    public = [n for n in vars(module) if not n.startswith("_")]
    for what in getattr(module, "__all__", public):
        thing = getattr(module, what)
        if not (inspect.isclass(thing) or inspect.isfunction(thing)) or "<locals>" in thing.__qualname__:
            continue
        if thing.__module__ != name and not hasattr(module, "__all__"):
            continue
        assert inspect.getdoc(thing), f"{name}.{what} has no docstring"
        if inspect.isclass(thing) and thing.__module__.startswith("lucida"):
            undocumented(thing)


def undocumented(thing: type) -> None:
    for name, member in vars(thing).items():
        if not name.startswith("_") and inspect.isfunction(member):
            assert inspect.getdoc(member), f"{thing.__qualname__}.{name} has no docstring"


def test_command_line_reference_is_what_the_commands_say() -> None:
    written = (ROOT / "docs" / "cli.md").read_text("utf-8")
    script = ROOT / "scripts" / "cli_reference.py"
    code = f"import runpy; print(runpy.run_path({str(script)!r})['reference'](), end='')"
    made = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    assert written == made.stdout, "docs/cli.md is behind the commands; run `make docs`"


@pytest.mark.parametrize("page", sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]), ids=lambda p: p.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:|#", target):
            continue
        assert (page.parent / target.split("#")[0]).exists(), f"{page.name} links to {target}"


def test_readme_lists_every_module() -> None:
    readme = ROOT / "README.md"
    text = readme.read_text("utf-8") if readme.exists() else ""
    if not text:
        pytest.skip("README.md is not written yet")
    for path in sorted(PACKAGE.iterdir()):
        if path.name.startswith(("_", ".")):
            continue
        name = f"{path.name}/" if path.is_dir() else path.name
        assert re.search(rf"(?m)^\W*(lucida/)?{re.escape(name)}\s", text), f"README's tree lacks {name}"


def test_no_file_names_a_machine() -> None:
    """Paths of whoever wrote a file, and hosts that others cannot reach, say nothing to a reader."""
    machine = [f"{folder}/" for folder in (ROOT, Path.home()) if len(folder.parts) > 1]
    personal = re.compile(r"(?<![\w.])/(?:home|Users|root)/\w+|/tmp/\w")
    url = re.compile(r"https?://([\w.-]+\w)")
    for path in tracked():
        text = path.read_text("utf-8")
        where = path.relative_to(ROOT)
        for secret in machine:
            assert secret not in text, f"{where} names {secret}"
        assert not personal.search(text), f"{where} names a path of one machine"
        if where.parts[0] == "tests":  # they make up hosts
            continue
        strangers = {host for host in url.findall(text) if "." in host and not is_local(host)}
        unknown = strangers - PUBLIC_HOSTS
        assert not unknown, f"{where} names {unknown}; if everybody reaches it, add it to PUBLIC_HOSTS"


def is_local(host: str) -> bool:
    return host.startswith("127.") or host.endswith((".example", ".invalid", ".test", "example.com", "example.org"))
