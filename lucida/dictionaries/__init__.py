"""Sparse feature dictionaries: per-layer, windowed and cross-layer transcoders of every common format."""

from lucida.dictionaries.check import CheckReport, check_dictionary, check_fits
from lucida.dictionaries.dictionary import Dictionary
from lucida.dictionaries.encoding import SparseActivations
from lucida.dictionaries.formats.circuit_tracer import write_circuit_tracer
from lucida.dictionaries.formats.saelens import write_saelens
from lucida.dictionaries.formats.table import FORMATS, load_dictionary
from lucida.dictionaries.random import random_dictionary
from lucida.dictionaries.weights import LayerWeights, Source

__all__ = [
    "FORMATS",
    "CheckReport",
    "Dictionary",
    "LayerWeights",
    "Source",
    "SparseActivations",
    "check_dictionary",
    "check_fits",
    "load_dictionary",
    "random_dictionary",
    "write_circuit_tracer",
    "write_saelens",
]
