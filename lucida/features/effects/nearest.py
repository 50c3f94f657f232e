"""The features that write most nearly the same as each feature: exact cosines of decoders, in blocks."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lucida.dictionaries import Dictionary
from lucida.features.effects.directions import decoders, feature_space, targets_of
from lucida.features.effects.token_effects import largest
from lucida.features.space import FeatureSpace
from lucida.models.model import Model
from lucida.progress import Progress, silent

BLOCK = 512
"""Features that are compared with all others at once (126 MB of cosines at 61,440 features)."""


@dataclass(frozen=True, eq=False)
class Nearest:
    """For each feature the numbers (`FeatureSpace`) of the nearest others and the cosines, the nearest first."""

    numbers: Int[Tensor, "feature count"]
    cosines: Float[Tensor, "feature count"]


@torch.no_grad()
def nearest_features(
    model: Model, dictionary: Dictionary | None, count: int = 10, *, progress: Progress = silent
) -> Nearest:
    """The `count` features with the largest cosine of decoders for every feature, itself left out.

    Decoders over several layers are compared layer by layer: <a, b> = sum over target layers t of <a_t, b_t>, and a
    layer that one of the two does not write to adds nothing. Features that write to their own layer only (per-layer
    transcoders, neurons) are compared across layers by their one decoder. `dictionary` None: the model's neurons.
    """
    space = feature_space(model, dictionary)
    per_layer = dictionary is None or dictionary.span == 1
    groups = _by_target(model, dictionary, space, one=per_layer)
    squares = torch.zeros(len(space))
    for numbers, rows in groups:
        squares[numbers] += rows.square().sum(1)
    inverse = squares.clamp_min(1e-24).rsqrt()
    kept, cosines = [], []
    for first in range(0, len(space), BLOCK):
        progress("nearest features", first, len(space))
        block = torch.arange(first, min(first + BLOCK, len(space)))
        found = _inner_products(groups, block, len(space)) * inverse
        found *= inverse[block, None]
        found[torch.arange(len(block)), block] = -2.0
        kept.append(largest(found, min(count, len(space) - 1)))
        cosines.append(found.gather(1, kept[-1]))
    progress("nearest features", len(space), len(space))
    return Nearest(torch.cat(kept), torch.cat(cosines).clamp(-1.0, 1.0))


Group = tuple[Int[Tensor, " _"], Float[Tensor, "_ d_model"]]
"""The numbers, ascending and without gaps, of the features that write to one target layer, and their decoders."""


def _by_target(model: Model, dictionary: Dictionary | None, space: FeatureSpace, *, one: bool) -> list[Group]:
    layers = [layer for layer, size in enumerate(space.n_features) if size]
    targets = sorted({target for layer in layers for target in targets_of(dictionary, layer)})
    pairs = [[(layer, layer) for layer in layers]] if one else []
    pairs = pairs or [[(layer, t) for layer in layers if t in targets_of(dictionary, layer)] for t in targets]
    groups = []
    for group in pairs:
        numbers = [torch.arange(space.offsets[layer], space.offsets[layer + 1]) for layer, _ in group]
        rows = [decoders(model, dictionary, layer, target) for layer, target in group]
        groups.append((torch.cat(numbers), torch.cat(rows)))
    return groups


def _inner_products(groups: list[Group], block: Int[Tensor, " block"], size: int) -> Float[Tensor, "block feature"]:
    total = torch.zeros(len(block), size)
    for numbers, rows in groups:
        mine = torch.isin(block, numbers)
        if mine.any():
            own = rows[torch.searchsorted(numbers, block[mine])]
            if len(numbers) == size:
                total.addmm_(own, rows.T)
            else:
                total[mine.nonzero(), numbers[None]] += own @ rows.T
    return total
