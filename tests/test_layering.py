"""Imports go down only: the picture in docs/architecture.md is kept true by parsing every import."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "lucida"

LAYERS = (
    ("__main__",),
    ("cli",),
    ("server",),
    ("microscope",),
    ("validation",),
    ("evaluation",),
    ("steering",),
    ("attribution", "attribution_reference", "interventions"),
    ("selection", "targets", "neurons", "labels"),
    ("sweep",),
    ("replacement", "training", "features"),
    ("corpus",),
    ("graph", "dictionaries", "models"),
    ("prompt", "atomic", "progress", "statistics"),
    ("errors",),
)
"""A module may import what stands in a line below its own, and nothing else of this package."""

ALLOWED_OF_ROOT = {"__version__"}
"""What modules below the command line may import from the package itself."""


def picture() -> str:
    """The layers as docs/architecture.md shows them."""
    return "\n".join("  ".join(layer) for layer in LAYERS)


def level(name: str) -> int:
    """How far down a module stands; 0 is the top."""
    for depth, layer in enumerate(LAYERS):
        if name in layer:
            return depth
    raise AssertionError(f"lucida/{name} stands in no layer; add it to LAYERS and docs/architecture.md")


def imports(source: str) -> set[tuple[str, int]]:
    """The modules that a source imports (dotted, with what is taken from a package) and the lines.

    Imports inside functions and under TYPE_CHECKING count: they are dependencies of the reader too.
    """
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {(alias.name, node.lineno) for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: imports are absolute"
            found |= {(f"{node.module}.{alias.name}", node.lineno) for alias in node.names}
    return found


def breaches(unit: str, source: str) -> list[str]:
    """Every import of a module of `unit` (a top-level name of lucida) that does not go down."""
    wrong = []
    for name, line in sorted(imports(source)):
        parts = name.split(".")
        if parts[0] != "lucida":
            continue
        target = parts[1] if len(parts) > 1 else "the package"
        if target == unit or (target in ALLOWED_OF_ROOT and len(parts) == 2):
            continue
        known = any(target in layer for layer in LAYERS)
        if not known or level(target) <= level(unit):
            wrong.append(f"line {line}: {unit} imports {name}")
    return wrong


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down(path: Path) -> None:
    unit = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    assert breaches(unit, path.read_text("utf-8")) == []


def test_every_top_level_module_has_a_layer() -> None:
    units = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in MODULES}
    assert units == {name for layer in LAYERS for name in layer}


def test_architecture_page_shows_these_layers() -> None:
    assert f"```text\n{picture()}\n```" in (ROOT / "docs" / "architecture.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("unit", "source"),
    [
        ("graph", "from lucida.models.model import Model"),
        ("graph", "def f():\n    from lucida.attribution import trace"),
        ("errors", "import lucida.graph"),
        ("replacement", "if TYPE_CHECKING:\n    from lucida.sweep import Targets"),
        ("models", "import lucida"),
        ("models", "from lucida import Microscope"),
    ],
)
def test_an_import_that_goes_up_is_caught(unit: str, source: str) -> None:
    assert len(breaches(unit, source)) == 1


def test_an_import_that_goes_down_is_not() -> None:
    source = "import numpy\nfrom lucida.graph import Graph\nfrom lucida import __version__"
    assert breaches("attribution", source) == []
