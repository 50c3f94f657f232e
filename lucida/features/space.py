"""One number for every feature of every layer, so that one array holds something for each of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lucida.errors import FeatureError

if TYPE_CHECKING:
    from lucida.dictionaries import Dictionary


@dataclass(frozen=True)
class FeatureSpace:
    """How many features read at each layer; feature f of layer l has the number ``offsets[l] + f``.

    Layers without a dictionary have 0 features. Raises FeatureError for numbers and pairs that do not exist.
    """

    n_features: tuple[int, ...]

    @classmethod
    def of(cls, dictionary: "Dictionary") -> "FeatureSpace":
        """The features of a dictionary."""
        return cls(tuple(dictionary.n_features(layer) for layer in range(dictionary.n_layers)))

    @property
    def n_layers(self) -> int:
        """Layers of the model, with features or without."""
        return len(self.n_features)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """The number of each layer's first feature, and last the number of all features."""
        return (0, *np.cumsum(self.n_features).tolist())

    def __len__(self) -> int:
        """Features of all layers."""
        return self.offsets[-1]

    def number(self, layer: int, feature: int) -> int:
        """The number of one feature."""
        if not 0 <= layer < self.n_layers:
            raise FeatureError(f"layer {layer} was asked for; the layers are 0 to {self.n_layers - 1}")
        if not 0 <= feature < self.n_features[layer]:
            found = f"features 0 to {self.n_features[layer] - 1}" if self.n_features[layer] else "no features"
            raise FeatureError(f"feature {feature} of layer {layer} was asked for; that layer has {found}")
        return self.offsets[layer] + feature

    def layer_and_feature(self, numbers: NDArray[np.integer]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The layers and the features within them of numbers [n]."""
        numbers = np.asarray(numbers, dtype=np.int64)
        if len(numbers) and not 0 <= int(numbers.min()) <= int(numbers.max()) < len(self):
            raise FeatureError(f"numbers of features lie between 0 and {len(self) - 1}")
        layers = np.searchsorted(np.asarray(self.offsets), numbers, side="right") - 1
        return layers, numbers - np.asarray(self.offsets)[layers]


def numbers_of(
    space: FeatureSpace, layers: Sequence[int] | NDArray[np.integer], features: Sequence[int] | NDArray[np.integer]
) -> NDArray[np.int64]:
    """The numbers of pairs that are known to exist, [n]."""
    return np.asarray(space.offsets)[np.asarray(layers, dtype=np.int64)] + np.asarray(features, dtype=np.int64)
