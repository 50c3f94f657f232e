"""A dictionary as a data package: a folder that pip installs and git carries, with its card as README."""

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lucida.atomic import replacing
from lucida.dictionaries.dictionary import Dictionary
from lucida.dictionaries.formats.compact import write_compact
from lucida.dictionaries.formats.manifest import MANIFEST, Manifest, read_manifest
from lucida.dictionaries.shipped import GROUP
from lucida.errors import DictionaryError

_NAME = re.compile(r"[a-z0-9]+([-.][a-z0-9]+)*")

_PYPROJECT = """\
[build-system]
requires = ["hatchling>=1.27"]
build-backend = "hatchling.build"

[project]
name = "{distribution}"
version = "{version}"
description = {description}
readme = "README.md"
requires-python = ">=3.11"
license = "{licence}"

[project.entry-points."{group}"]
"{name}" = "{package}"

[tool.hatch.build.targets.wheel]
packages = ["{package}"]
"""


def write_package(
    dictionary: Dictionary,
    packages: str | Path,
    *,
    bits: int | float,
    card: dict[str, Any],
    version: str = "1.0.0",
    licence: str = "Apache-2.0",
) -> Path:
    """Write or refresh `packages/camera-lucida-NAME`; return that folder.

    It holds pyproject.toml, README.md (the card) and the package `lucida_dictionary_NAME` with the files
    of `write_compact`. What else lies in an old copy, such as an index, is kept. Raises DictionaryError
    for a name that no package can have or a dictionary without model, SaveError when it cannot be written.
    """
    name = dictionary.name
    if not _NAME.fullmatch(name):
        raise DictionaryError(f"{name!r} cannot be a package's name; use lower-case letters, digits and single - or .")
    if not dictionary.model_name:
        raise DictionaryError(f"{name} does not say which model it is of; set its model_name")
    distribution = f"camera-lucida-{name}"
    package = f"lucida_dictionary_{re.sub('[-.]', '_', name)}"
    target = Path(packages) / distribution
    with replacing(target, folder=True) as temporary:
        write_compact(dictionary, temporary / package, bits=bits, card=card, licence=licence)
        manifest = read_manifest(temporary / package)
        title = describe(manifest)
        (temporary / package / "__init__.py").write_text(f'"""{title}"""\n', encoding="utf-8")
        (temporary / "README.md").write_text(card_text(manifest), encoding="utf-8")
        pyproject = _PYPROJECT.format(
            distribution=distribution, version=version, description=json.dumps(title), licence=licence,
            group=GROUP, name=name, package=package,
        )  # fmt: skip
        (temporary / "pyproject.toml").write_text(pyproject, encoding="utf-8")
        _keep_others(target, temporary, package)
    return target


def _keep_others(old: Path, new: Path, package: str) -> None:
    """Copy what an old copy holds besides what was just written, weights of the old dictionary left out."""
    for folder in ("", package):
        for path in sorted((old / folder).glob("*")):
            is_ours = path.suffix == ".safetensors" or path.name == "__pycache__" or path.name == package
            if is_ours or (new / folder / path.name).exists():
                continue
            copy = shutil.copytree if path.is_dir() else shutil.copy2
            copy(path, new / folder / path.name)


def describe(manifest: Manifest) -> str:
    """One line: what the dictionary is and of which model."""
    features = sum(shape.n_features for shape in manifest.layers)
    return f"Camera Lucida's {features:,} {manifest.kind} features of {manifest.model_name}"


def card_text(manifest: Manifest) -> str:
    """The card of a dictionary as Markdown: what it is, how to use it, then what its maker says, entry by entry."""
    largest = max(shape.n_features for shape in manifest.layers)
    facts = {
        "model": manifest.model_name,
        "kind": f"{manifest.kind} transcoder, {manifest.activation}",
        "features": f"{len(manifest.layers)} of {manifest.n_layers} layers, up to {largest:,} each",
        "reads, writes": f"{manifest.reads_at}, {manifest.writes_at}",
        "weights": f"{manifest.n_weights:,} at about {manifest.bits} bits",
        "files": f"{len(manifest.files)}, {manifest.size / 1e6:.1f} MB, sha256 in {MANIFEST}",
        "licence": manifest.licence,
        "default of its model": manifest.card.get("default") is True,
    }
    use = f'import lucida\n\nscope = lucida.Microscope("{manifest.model_name}", "{manifest.name}")'
    parts = [f"# {manifest.name}", f"{describe(manifest)}.", f"```python\n{use}\n```", _table(facts)]
    for name, value in manifest.card.items():
        if name != "default":
            parts += [f"## {name.replace('_', ' ').capitalize()}", *_said(value)]
    return "\n\n".join(parts) + "\n"


def _said(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        plain = {name: said for name, said in value.items() if not isinstance(said, Mapping)}
        if plain:
            yield _table(plain)
        for name, said in value.items():
            if isinstance(said, Mapping):
                yield f"**{name.replace('_', ' ')}**"
                yield from _said(said)
    elif isinstance(value, list):
        yield "\n".join(f"* {_cell(item)}" for item in value)
    else:
        yield _cell(value)


def _table(facts: Mapping[str, Any]) -> str:
    rows = [f"| {name.replace('_', ' ')} | {_cell(value)} |" for name, value in facts.items()]
    return "\n".join(["| | |", "|---|---|", *rows])


def _cell(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "not said"}[value]
    if isinstance(value, float):
        return f"{value:.4g}"
    text = ", ".join(_cell(item) for item in value) if isinstance(value, list) else str(value)
    return " ".join(text.split()).replace("|", "\\|")
