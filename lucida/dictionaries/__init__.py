"""Sparse feature dictionaries: per-layer, windowed and cross-layer transcoders of every common format.

Names are imported when they are first used: looking up what is shipped needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lucida.dictionaries.check import CheckReport, check_dictionary, check_fits
    from lucida.dictionaries.dictionary import Dictionary
    from lucida.dictionaries.encoding import SparseActivations
    from lucida.dictionaries.formats.circuit_tracer import write_circuit_tracer
    from lucida.dictionaries.formats.compact import relative_error, write_compact
    from lucida.dictionaries.formats.saelens import write_saelens
    from lucida.dictionaries.formats.table import FORMATS, load_dictionary
    from lucida.dictionaries.packaging import write_package
    from lucida.dictionaries.random import random_dictionary
    from lucida.dictionaries.shipped import (
        ShippedDictionary,
        default_dictionary,
        find_dictionary,
        open_dictionary,
        shipped_dictionaries,
    )
    from lucida.dictionaries.weights import LayerWeights, Source

__all__ = [
    "FORMATS",
    "CheckReport",
    "Dictionary",
    "LayerWeights",
    "ShippedDictionary",
    "Source",
    "SparseActivations",
    "check_dictionary",
    "check_fits",
    "default_dictionary",
    "find_dictionary",
    "load_dictionary",
    "open_dictionary",
    "random_dictionary",
    "relative_error",
    "shipped_dictionaries",
    "write_circuit_tracer",
    "write_compact",
    "write_package",
    "write_saelens",
]

_HOMES = {
    "FORMATS": "formats.table",
    "CheckReport": "check",
    "Dictionary": "dictionary",
    "LayerWeights": "weights",
    "ShippedDictionary": "shipped",
    "Source": "weights",
    "SparseActivations": "encoding",
    "check_dictionary": "check",
    "check_fits": "check",
    "default_dictionary": "shipped",
    "find_dictionary": "shipped",
    "load_dictionary": "formats.table",
    "open_dictionary": "shipped",
    "random_dictionary": "random",
    "relative_error": "formats.compact",
    "shipped_dictionaries": "shipped",
    "write_circuit_tracer": "formats.circuit_tracer",
    "write_compact": "formats.compact",
    "write_package": "packaging",
    "write_saelens": "formats.saelens",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'lucida.dictionaries' has no attribute {name!r}")
    return getattr(import_module(f"lucida.dictionaries.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
