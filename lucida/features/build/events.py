"""The active features of one tile after the other: the model and every encoder run once."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lucida.dictionaries import Dictionary, SparseActivations, check_fits
from lucida.dictionaries.encoding import entries_above
from lucida.errors import DictionaryError
from lucida.features.build.state import Events
from lucida.features.build.tiles import Tile, Tiles
from lucida.features.space import FeatureSpace
from lucida.models.model import Model
from lucida.models.sinks import Sinks, find_sinks
from lucida.models.taps import MLPCall, run


@runtime_checkable
class Units(Protocol):
    """Sparse units that read the residual stream: the features of a dictionary, or neurons above a threshold."""

    name: str
    reads_at: str
    layers: tuple[int, ...]

    @property
    def settings(self) -> dict[str, Any]:
        """What decides which units are active besides the model and `name`, as plain words for an index's header."""
        ...

    def n_features(self, layer: int) -> int:
        """How many units read at `layer`."""
        ...

    def encode(self, layer: int, x: Float[Tensor, "pos d_model"]) -> SparseActivations:
        """The units of `layer` that are active where it reads `x`."""
        ...


class DictionaryUnits:
    """The features of a dictionary. Raises DictionaryError when it is not of this model's shape.

    Encoders multiply in float32. Of a bfloat16 model they do so in bfloat16: its residual stream has no more digits,
    and where bfloat16 is fast this halves the time of an index. Activations then are right to about .3 %.
    """

    def __init__(self, model: Model, dictionary: Dictionary) -> None:
        check_fits(dictionary, model.n_layers, model.d_model)
        self.dictionary = dictionary if model.device.type == "cpu" else dictionary.to(model.device)
        self.name, self.layers = dictionary.name, dictionary.layers
        layer_norm = dictionary.reads_at == "mlp_norm" and model.family.norm == "layer"
        self.reads_at = "mlp_in" if layer_norm else dictionary.reads_at
        self.in_bfloat16 = model.dtype == torch.bfloat16 and dictionary.activation != "topk"
        self._halves: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    @property
    def settings(self) -> dict[str, Any]:
        """Nothing: the fingerprint of a dictionary says it all."""
        return {}

    def n_features(self, layer: int) -> int:
        """How many features read at `layer`."""
        return self.dictionary.n_features(layer)

    def encode(self, layer: int, x: Float[Tensor, "pos d_model"]) -> SparseActivations:
        """The active features of `layer`. Raises DictionaryError when activations are not finite."""
        if not self.in_bfloat16:
            return self.dictionary.encode_sparse(layer, x)
        weight, bias, bound = self._half(layer)
        h = x.to(torch.bfloat16) @ weight
        if not torch.isfinite(h.sum()):
            raise DictionaryError(f"activations of layer {layer} of {self.name} are not finite; use dtype float32")
        entry = entries_above(h, bound)
        position = entry // h.shape[1]
        feature = entry - position * h.shape[1]
        activation = h.view(-1)[entry].float() + bias[feature]
        kept = activation > 0
        return SparseActivations(position[kept], feature[kept], activation[kept], len(x), h.shape[1])

    def _half(self, layer: int) -> tuple[Tensor, Tensor, Tensor]:
        """Encoder [d_model, feature] and the bound of its products in bfloat16, and biases in float32."""
        if layer not in self._halves:
            weights = self.dictionary.weights[layer]
            bias = weights.encoder_bias.float()
            threshold = torch.zeros_like(bias) if weights.threshold is None else weights.threshold.float()
            bound = (threshold.clamp_min(0) - bias).to(torch.bfloat16)
            self._halves[layer] = weights.encoder.to(torch.bfloat16).T, bias, bound
        return self._halves[layer]


def units_of(model: Model, features: Dictionary | Units) -> Units:
    """A dictionary as units of this model; units are such already. Raises DictionaryError for one of another shape."""
    return DictionaryUnits(model, features) if isinstance(features, Dictionary) else features


def space_of(units: Units, n_layers: int) -> FeatureSpace:
    """The units of all layers, numbered."""
    return FeatureSpace(tuple(units.n_features(layer) if layer in units.layers else 0 for layer in range(n_layers)))


class EventReader:
    """Runs a model over tiles and hands over what is active. Two readers of one corpus see the same numbers."""

    def __init__(self, model: Model, units: Units, tiles: Tiles) -> None:
        self.model, self.units, self.tiles = model, units, tiles
        self.space = space_of(units, model.n_layers)
        # The rule for attention sinks looks at the first rows of the corpus, whichever tiles this reader gets.
        self.sinks: Sinks = find_sinks(model, tiles.tile(0).tokens)

    @torch.no_grad()
    def read(self, number: int, receive: Callable[[Events], None]) -> int:
        """Run tile `number`; `receive` gets the events of each layer in turn. Returns how many places counted.

        Raises ModelError or DictionaryError when activations are not finite.
        """
        tile = self.tiles.tile(number)
        sites: list[Tensor] = []
        lengths: list[Tensor] = []

        def visit(call: MLPCall) -> None:
            if call.at == "mlp_out":
                lengths.append(call.residual.float().norm(dim=-1))
                sites.append(call.site(self.model, self.units.reads_at).flatten(0, 1))

        run(self.model, tile.tokens, visit)
        counted = self.sinks.counted(torch.stack(lengths)).cpu().numpy() & (tile.places >= 0)
        for layer in self.units.layers:
            receive(self._events(tile, counted.reshape(-1), layer, sites[layer]))
        return int(counted.sum())

    def _events(self, tile: Tile, counted: np.ndarray, layer: int, x: Tensor) -> Events:
        active = self.units.encode(layer, x)
        cell, feature = active.position.cpu().numpy(), active.feature.cpu().numpy()
        value = active.activation.float().abs().cpu().numpy()
        kept = counted[cell]
        # A place that does not count shows nothing in the windows of others either.
        cell, feature, value = cell[kept], feature[kept], value[kept]
        first = self.space.offsets[layer]
        places, document = tile.places.reshape(-1), tile.document.reshape(-1)
        return Events(feature + first, value, places[cell], document[cell], cell, first, self.tiles.context)
