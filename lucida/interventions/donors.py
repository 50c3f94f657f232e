"""How active features are on another prompt: references for an injection, and supernodes to swap in."""

from collections.abc import Sequence

import torch

from lucida.dictionaries import Dictionary
from lucida.interventions.changes import Donor, Key, largest
from lucida.interventions.plans import places_of
from lucida.interventions.probe import Probe
from lucida.models.linear import FrozenModel
from lucida.models.model import Model, PromptLike
from lucida.models.recording import record


@torch.no_grad()
def donor_activations(
    model: Model, dictionary: Dictionary | None, prompt: PromptLike, features: Sequence[Key]
) -> Donor:
    """How active `features` are on another prompt: the largest activation over the positions of each key.

    ``(layer, None, feature)`` looks at the whole donor prompt; inactive features are donated as 0. Raises
    InterventionError for a feature or a position that does not exist.
    """
    recording = record(model, model.tokenize(prompt))
    probe = Probe(FrozenModel(model, recording), dictionary)
    places = [place for key in features for place in places_of(key, len(recording.prompt))]
    for place in places:
        probe.refuse_missing(place)
    found: dict[tuple[int, int], list[float]] = {}
    for (layer, _, feature), activation in probe.recorded(places).items():
        found.setdefault((layer, feature), []).append(activation)
    return Donor(largest(found), probe.fingerprint, recording.prompt.text)
