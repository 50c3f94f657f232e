"""Which features of lower layers drive a feature: virtual weights, and what the corpus expects of them (METHODS 5.1).

A virtual weight V_ij = <sum of W_dec^{i,l} over the target layers l of i below that of j, W_enc^j> says what i would
do to j through the residual stream, on any text. Most large ones are interference: the two are never active
together. TWERA_ij = (E[a_i a_j] / E[a_j]) V_ij weighs with the activity of i where j is active, and so does
ERA_ij = E[1(a_j > 0) a_i] V_ij.
Attention is left out of both, and an inhibitor is underrated: it rarely is active together with what it inhibits.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lucida.dictionaries import Dictionary
from lucida.features.effects.directions import feature_space, read, written
from lucida.features.effects.token_effects import largest
from lucida.features.space import FeatureSpace, numbers_of
from lucida.features.tables import ACTIVE, read_table
from lucida.models.model import Model
from lucida.progress import Progress, silent

BLOCK = 256
"""Readers whose virtual weights with all lower features are held at once."""
PLACES = 64
"""Sampled places where a reader is active that its co-activations are taken from: an even choice of them."""


@dataclass(frozen=True, eq=False)
class ActivePlaces:
    """The active features of sampled places: entries sorted by place, then number; `starts` [place + 1] divides them.

    `edges` [place, layer + 1] is, for each place, where the entries of each layer begin, counted from its start.
    """

    numbers: NDArray[np.int32]
    values: NDArray[np.float32]
    starts: NDArray[np.int64]
    edges: NDArray[np.int32]

    @property
    def n_places(self) -> int:
        """How many places have an active feature."""
        return len(self.starts) - 1

    @classmethod
    def open(cls, folder: str | Path, space: FeatureSpace) -> "ActivePlaces":
        """The sampled places of an index."""
        table = read_table(Path(folder) / "active.parquet", ACTIVE)
        layers = table["layer"].to_numpy()
        numbers = numbers_of(space, layers, table["feature"].to_numpy())
        return cls.of(table["position"].to_numpy(), numbers, table["value"].to_numpy(), space)

    @classmethod
    def of(
        cls,
        places: NDArray[np.integer],
        numbers: NDArray[np.integer],
        values: NDArray[np.floating],
        space: FeatureSpace,
    ) -> "ActivePlaces":
        """From entries in any order."""
        order = np.lexsort((numbers, places))
        places, numbers = np.asarray(places)[order], np.asarray(numbers)[order]
        distinct, starts = np.unique(places, return_index=True)
        row = np.searchsorted(distinct, places)
        layer = np.searchsorted(np.asarray(space.offsets), numbers, side="right") - 1
        per_layer = np.bincount(row * space.n_layers + layer, minlength=len(distinct) * space.n_layers)
        edges = np.zeros((len(distinct), space.n_layers + 1), np.int32)
        edges[:, 1:] = per_layer.reshape(len(distinct), space.n_layers).cumsum(1)
        starts = np.append(starts, len(places)).astype(np.int64)
        return cls(numbers.astype(np.int32), np.asarray(values)[order].astype(np.float32), starts, edges)

    def readers(self, layer: int, space: FeatureSpace) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        """For each feature of a layer the places where it is active, and its activations there."""
        low, high = self.starts[:-1] + self.edges[:, layer], self.starts[:-1] + self.edges[:, layer + 1]
        which, place = _slices(low, high)
        feature = self.numbers[which] - space.offsets[layer]
        order = np.argsort(feature, kind="stable")
        bounds = np.searchsorted(feature[order], np.arange(space.n_features[layer] + 1))
        for first, last in zip(bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
            own = order[first:last]
            yield place[own], self.values[which[own]]

    def below(
        self, layer: int, places: NDArray[np.int64], weights: NDArray[np.float32], size: int
    ) -> NDArray[np.float64]:
        """The weighted sum over places of the activations of each feature below `layer`; there are `size` of these."""
        low = self.starts[places]
        which, entry = _slices(low, low + self.edges[places, layer])
        summed = np.bincount(self.numbers[which], self.values[which] * weights[entry], minlength=size)
        return summed.astype(np.float64)


def _slices(low: NDArray[np.int64], high: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The members of the ranges [low, high), one after another, and the range of each."""
    lengths = high - low
    entry = np.repeat(np.arange(len(lengths)), lengths)
    return np.arange(len(entry)) + np.repeat(low - np.append(0, lengths.cumsum()[:-1]), lengths), entry


@dataclass(frozen=True, eq=False)
class Inputs:
    """What drives one feature: numbers of features of lower layers, the largest |TWERA| first, then the largest |V|."""

    numbers: NDArray[np.int64]
    weights: NDArray[np.float32]
    """Virtual weights, up to the reader's norm denominator where it reads behind a norm."""
    expected: NDArray[np.float32]
    """TWERA."""
    active: NDArray[np.float32]
    """ERA."""


@torch.no_grad()
def feature_inputs(
    model: Model,
    dictionary: Dictionary,
    places: ActivePlaces | None,
    count: int = 10,
    *,
    n_places: int | None = None,
    progress: Progress = silent,
) -> Iterator[Inputs]:
    """For every feature in turn the lower ones that drive it most: `count` by |TWERA| and `count` by |V|, together.

    Without `places` only virtual weights are known. `n_places` is how many were sampled (for ERA; those with nothing
    active are not in the table). A reader active at more than `PLACES` of them is taken at an even choice of these.
    """
    space = feature_space(model, dictionary)
    sampled = n_places or (places.n_places if places is not None else 0)
    for layer in (layer for layer, size in enumerate(space.n_features) if size):
        lower = [_writes_below(model, dictionary, source, layer, space) for source in range(layer)]
        below = torch.cat(lower) if lower else torch.zeros(0, model.d_model)
        readers = None if places is None else places.readers(layer, space)
        number = space.offsets[layer]
        for rows in read(model, dictionary, layer).split(BLOCK):
            progress("features that drive it", number, len(space))
            weights = rows @ below.T
            strongest = largest(weights.abs(), count).numpy()
            for own, kept in zip(weights.numpy(), strongest, strict=True):
                if places is None or readers is None:
                    nothing = np.zeros(len(kept), np.float32)
                    yield Inputs(kept, own[kept], nothing, nothing)
                    continue
                at, activations = next(readers)
                yield _choose(own, kept, places, layer, at, activations, count, max(1, sampled))
            number += len(rows)
    progress("features that drive it", len(space), len(space))


def _writes_below(model: Model, dictionary: Dictionary, source: int, layer: int, space: FeatureSpace) -> torch.Tensor:
    if not space.n_features[source]:
        return torch.zeros(0, model.d_model)
    return written(model, dictionary, source, below=layer)


def _choose(
    weights: NDArray[np.float32],
    strongest: NDArray[np.int64],
    places: ActivePlaces,
    layer: int,
    at: NDArray[np.int64],
    activations: NDArray[np.float32],
    count: int,
    sampled: int,
) -> Inputs:
    """One reader's inputs, from its virtual weights with all lower features and the places where it is active."""
    together, alone = np.zeros(len(weights)), np.zeros(len(weights))
    if len(at) and len(weights):
        some = np.linspace(0, len(at) - 1, min(len(at), PLACES)).round().astype(np.int64)
        # Means over the chosen places stand for those over all where the reader is active.
        together = places.below(layer, at[some], activations[some] / activations[some].sum(), len(weights))
        share = np.full(len(some), len(at) / len(some) / sampled, np.float32)
        alone = places.below(layer, at[some], share, len(weights))
    active = np.flatnonzero(together)
    expected = np.abs(together[active] * weights[active])
    best = active[np.argsort(-expected, kind="stable")[:count]]
    numbers = np.concatenate([best, strongest[~np.isin(strongest, best)]])
    own = weights[numbers]
    return Inputs(numbers, own, (together[numbers] * own).astype(np.float32), (alone[numbers] * own).astype(np.float32))
