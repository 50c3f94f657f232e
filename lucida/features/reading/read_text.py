"""Which features are active while a model reads one text."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from lucida.dictionaries import Dictionary
from lucida.dictionaries.encoding import SparseActivations
from lucida.errors import FeatureError, PromptError
from lucida.features.build.events import Units, units_of
from lucida.features.space import FeatureSpace
from lucida.models.model import Model, PromptLike
from lucida.models.taps import MLPCall, run
from lucida.prompt import Prompt


@dataclass(frozen=True, eq=False)
class Reading:
    """The active features of a text by layer, ordered by position, then feature.

    The first position is left out: what a model computes there says little about the token (massive activations).
    """

    prompt: Prompt
    layers: Mapping[int, SparseActivations]

    def strongest(self, space: FeatureSpace) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The numbers of the features that are active somewhere, ascending, and the largest activation of each."""
        numbers, values = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.float32)]
        for layer, active in sorted(self.layers.items()):
            features, which = np.unique(active.feature.cpu().numpy(), return_inverse=True)
            largest = np.zeros(len(features), dtype=np.float32)
            np.maximum.at(largest, which, active.activation.float().cpu().numpy())
            numbers.append(features + space.offsets[layer])
            values.append(largest)
        return np.concatenate(numbers), np.concatenate(values)


def sparse_units(model: Model, features: Dictionary | Units | None) -> Units:
    """What can be active or not: features of a dictionary, or units. Raises FeatureError for None: a model's own
    neurons are never off, only those below a threshold are, and that an index of neurons knows.
    """
    if features is None:
        raise FeatureError(
            "the model's own neurons are never off, so none stands out; give features (a dictionary), or an index of "
            "neurons (lucida index --dictionaries neurons), whose threshold says which count"
        )
    return units_of(model, features)


@torch.no_grad()
def read_text(model: Model, features: Dictionary | Units | None, text: PromptLike) -> Reading:
    """Run the model on one text and encode what the features of every layer read; sizes of activations, as an index
    has them.

    Raises PromptError for a text that the model cannot read or with nothing after its first token, DictionaryError
    for a dictionary of another shape, FeatureError without any features (`sparse_units`).
    """
    units, found = sparse_units(model, features), dict[int, SparseActivations]()
    prompt = model.tokenize(text)
    if len(prompt) < 2:
        raise PromptError("the text is one token, and the first is never looked at; give a longer text")

    def visit(call: MLPCall) -> None:
        if call.at == "mlp_out" and call.layer in units.layers:
            x = call.site(model, units.reads_at)[0]
            found[call.layer] = _after_first(units.encode(call.layer, x))

    run(model, torch.tensor([prompt.tokens]), visit)
    return Reading(prompt, found)


def _after_first(active: SparseActivations) -> SparseActivations:
    kept = active.position > 0
    return SparseActivations(
        active.position[kept],
        active.feature[kept],
        active.activation[kept].abs(),
        active.n_positions,
        active.n_features,
    )
