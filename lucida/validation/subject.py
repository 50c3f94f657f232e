"""A graph beside the model it claims to describe: refused when it is not this model's, or not whole."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lucida.dictionaries import Dictionary
from lucida.errors import GraphError
from lucida.evaluation.ablation import graph_features
from lucida.evaluation.basis import DictionaryBasis, neuron_activations
from lucida.graph import Graph
from lucida.graph.influence import target_weights
from lucida.models.linear import FrozenModel
from lucida.models.model import Model
from lucida.models.recording import record

LEAST_FEATURES = 8
"""A graph with fewer features is not worth statistics."""
TOLERANCE = 0.02
"""An activation is the graph's when it differs by at most this share of it and of the layer's largest one."""
STRANGE = 0.02
"""A graph is of another model or dictionary when a larger share of its activations differs."""


@dataclass(frozen=True)
class Subject:
    """One graph, and the model recorded on its prompt. `basis` is None for a graph of neurons.

    `at` is the position of the answer, `reach` how many layers above its own an ablation holds the MLPs.
    """

    view: FrozenModel
    basis: DictionaryBasis | None
    graph: Graph
    at: int
    reach: int
    sink_positions: int

    @property
    def features(self) -> np.ndarray:
        """The indices of the feature nodes."""
        return np.flatnonzero(self.graph.nodes.is_kind("feature"))


@torch.no_grad()
def open_subject(model: Model, dictionary: Dictionary | None, graph: Graph, *, reach: int) -> Subject:
    """Record the model on the graph's prompt, and hold its features against the graph's.

    Raises GraphError when the graph was pruned, has no answer or too few features, or is of another model or
    dictionary; PromptError when the model cannot read its prompt.
    """
    metadata = graph.metadata
    _refuse_part(graph)
    _refuse_other_dictionary(metadata.get("dictionary") or {}, dictionary)
    _refuse_other_model(metadata, model)
    view = FrozenModel(model, record(model, model.tokenize(graph.prompt)))
    at = graph.answer_position
    sinks = int((metadata.get("settings") or {}).get("sink_positions", 1))
    basis = None if dictionary is None else DictionaryBasis(model, dictionary)
    subject = Subject(view, basis, graph, at, reach, sinks)
    _refuse_other_activations(subject)
    return subject


def _refuse_part(graph: Graph) -> None:
    if graph.metadata.get("pruning"):
        raise GraphError(
            "this graph was pruned: an edge that was cut would count as a claim of no influence; validate the graph it "
            "was made from, or trace the prompt again"
        )
    if not graph.nodes.is_kind("logit").any():
        raise GraphError("this graph has no answer (logit node) to measure effects at; trace the prompt again")
    count = int(graph.nodes.is_kind("feature").sum())
    if count < LEAST_FEATURES:
        raise GraphError(
            f"this graph has {count} features, validating needs at least {LEAST_FEATURES}; trace a longer prompt or "
            "with more --max-nodes"
        )
    target_weights(graph)


def _refuse_other_dictionary(recorded: dict[str, Any], dictionary: Dictionary | None) -> None:
    kind, name = recorded.get("kind", "features"), recorded.get("name", "unknown")
    if (kind == "neurons") != (dictionary is None):
        have = "the model's neurons are" if dictionary is None else f"the dictionary {dictionary.name} is"
        raise GraphError(f"this graph was traced with {name}, but {have} loaded; give --dictionaries {name}")
    if dictionary is None:
        return
    claimed, found = (recorded.get("source") or {}).get("fingerprint"), dictionary.source.fingerprint
    if claimed and found and claimed != found:
        raise GraphError(
            f"this graph was traced with the dictionary {name} ({claimed[:12]}), but {dictionary.name} ({found[:12]}) "
            "is loaded; give the one it was traced with by --dictionaries"
        )


def _refuse_other_model(metadata: dict[str, Any], model: Model) -> None:
    recorded = metadata.get("model") or {}
    for what, claimed, found in (
        ("family", recorded.get("family"), model.family.name),
        ("number of layers", metadata.get("n_layers"), model.n_layers),
        ("dtype", recorded.get("dtype"), str(model.dtype).removeprefix("torch.")),
    ):
        if claimed is not None and claimed != found:
            raise GraphError(
                f"this graph is of a model with {what} {claimed} ({recorded.get('name') or 'unnamed'}), the loaded "
                f"model has {found}; give the one it was traced with by --model and --dtype"
            )


def _refuse_other_activations(subject: Subject) -> None:
    """The check that counts: names may agree where weights do not."""
    features = graph_features(subject.graph, subject.features)
    where = "names a position outside its own prompt"
    if int(features.position.max()) >= subject.view.n_positions or subject.at >= subject.view.n_positions:
        raise GraphError(f"this graph {where} of {subject.view.n_positions} tokens; trace the prompt again")
    wrong = 0
    for layer in features.layer.unique().tolist():
        here = features.take(features.layer == layer)
        found = activations(subject, layer)
        width = 0 if found is None else found.shape[1]
        if found is None or int(here.feature.max()) >= width:
            raise GraphError(
                f"this graph has feature {int(here.feature.max())} in layer {layer}, which has {width}; it was traced "
                "with another dictionary"
            )
        values = found[here.position.to(found.device), here.feature.to(found.device)].cpu()
        scale = torch.maximum(here.activation.abs(), 0.1 * here.activation.abs().max())
        wrong += int(((values - here.activation).abs() > TOLERANCE * scale).sum())
    if wrong > STRANGE * len(features):
        raise GraphError(
            f"{wrong} of the {len(features)} activations in this graph are not those of the loaded model and features "
            "on its prompt; give the ones it was traced with by --model and --dictionaries"
        )


def activations(subject: Subject, layer: int) -> Float[Tensor, "pos feature"] | None:
    """All activations of a layer on the prompt; None for a layer that has no features."""
    view, basis = subject.view, subject.basis
    if not 0 <= layer < view.n_layers:
        return None
    if basis is None:
        return neuron_activations(view.model, layer, view.recording.mlp_in[layer])
    if layer not in basis.layers:
        return None
    return basis.dictionary.encode(layer, view.site(layer, basis.reads_at))
