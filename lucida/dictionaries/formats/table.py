"""The formats we read, and how to tell them apart."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from lucida.dictionaries.dictionary import Dictionary
from lucida.dictionaries.formats.circuit_tracer import is_circuit_tracer, read_circuit_tracer
from lucida.dictionaries.formats.compact import is_compact, read_compact
from lucida.dictionaries.formats.folder import describe
from lucida.dictionaries.formats.gemma_scope import is_gemma_scope, read_gemma_scope
from lucida.dictionaries.formats.gemma_scope_2 import is_gemma_scope_2, read_gemma_scope_2
from lucida.dictionaries.formats.saelens import is_saelens, read_saelens
from lucida.dictionaries.formats.sparsify import is_sparsify, read_sparsify
from lucida.errors import DictionaryError, suggest


class Format(NamedTuple):
    """How to recognise a folder of this format, and how to read it (for so many layers, if known)."""

    matches: Callable[[Path], bool]
    read: Callable[[Path, int | None], Dictionary]


FORMATS: dict[str, Format] = {
    "lucida": Format(is_compact, read_compact),
    "circuit-tracer": Format(is_circuit_tracer, read_circuit_tracer),
    "saelens": Format(is_saelens, read_saelens),
    "sparsify": Format(is_sparsify, read_sparsify),
    "gemma-scope": Format(is_gemma_scope, read_gemma_scope),
    "gemma-scope-2": Format(is_gemma_scope_2, read_gemma_scope_2),
}
"""Tried in this order: our own manifest and a config.yaml say most about what lies beside them."""


def load_dictionary(path: str | Path, format: str | None = None, *, n_layers: int | None = None) -> Dictionary:
    """The dictionary in a folder, weights of other formats memory-mapped; the format is recognised unless given.

    `n_layers` is that of the model, for dictionaries that cover only some layers (else the last layer
    they cover counts as the model's last). Raises DictionaryError when the folder is missing, of no
    known format, damaged, or cannot be honoured exactly.
    """
    folder = Path(path)
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise DictionaryError(f"dictionary {folder} {what}; give the folder that holds its files")
    if format is not None and format not in FORMATS:
        hint = suggest(format, list(FORMATS)) or f"; known are {', '.join(FORMATS)}"
        raise DictionaryError(f"no dictionary format {format!r}{hint}")
    names = [format] if format else [name for name, known in FORMATS.items() if known.matches(folder)]
    if not names or not FORMATS[names[0]].matches(folder):
        raise DictionaryError(
            f"{folder} holds no dictionary of a known format ({', '.join([format] if format else FORMATS)}); "
            f"found {describe(folder)}"
        )
    return FORMATS[names[0]].read(folder, n_layers)
