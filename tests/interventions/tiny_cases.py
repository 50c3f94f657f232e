"""Tiny models with every kind of dictionary, and cases to run on them."""

from functools import cache
from typing import Any

import torch
from tiny_models import FAMILIES_AND_KINDS, dictionary_of_kind

from lucida.dictionaries import Dictionary
from lucida.interventions import Place
from lucida.interventions.probe import Probe
from lucida.models.linear import FrozenModel
from lucida.models.recording import record

TOKENS = [5, 17, 3, 88, 41, 17]

ALL_KINDS = ("llama", "gemma2")
"""Families that differ in what matters here (none, and a norm behind the MLP) run with every kind."""
SOME = [(f, k) for f, k in FAMILIES_AND_KINDS if f in ALL_KINDS or k == "clt"]
FEW = [(f, k) for f, k in FAMILIES_AND_KINDS if f in ALL_KINDS]


@cache
def view_of(model: Any) -> FrozenModel:
    return FrozenModel(model, record(model, model.tokenize(TOKENS)))


@cache
def features_of(model: Any, kind: str) -> Dictionary | None:
    return None if kind == "neurons" else dictionary_of_kind(view_of(model), kind)


@cache
def probe_of(model: Any, kind: str) -> Probe:
    return Probe(view_of(model), features_of(model, kind))


@cache
def active_places(model: Any, kind: str) -> tuple[Place, ...]:
    """The active features beyond the first position (some neurons, all of which are active), by layer."""
    probe, found = probe_of(model, kind), []
    for layer in range(model.n_layers):
        activations = probe.recorded_layer(layer)
        activations = activations[:, :9] if kind == "neurons" else activations
        places = torch.nonzero(activations[1:]).tolist()
        found += [(layer, position + 1, feature) for position, feature in places]
    return tuple(found)


def at_layer(model: Any, kind: str, layer: int) -> list[Place]:
    return [place for place in active_places(model, kind) if place[0] == layer]
