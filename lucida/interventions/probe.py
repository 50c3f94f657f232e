"""What features or neurons read and write: on a recorded prompt, and on copies of it that are running."""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lucida.dictionaries import Dictionary, check_fits
from lucida.errors import InterventionError
from lucida.interventions.changes import Place
from lucida.models.linear import FrozenModel
from lucida.models.model import linear
from lucida.neurons import NeuronSources, freeze_mlp
from lucida.replacement import Active, FeatureSources


class Probe:
    """Reads and writes of the features of `dictionary` (None: the model's neurons) on the prompt of `view`.

    Raises DictionaryError for a dictionary of another model's shape.
    """

    def __init__(self, view: FrozenModel, dictionary: Dictionary | None) -> None:
        if dictionary is not None:
            check_fits(dictionary, view.n_layers, view.model.d_model)
        self.view, self.dictionary = view, dictionary
        self.reads_at = "mlp_in" if dictionary is None else view.reading_site(dictionary.reads_at)
        self.at_residual = dictionary is not None and dictionary.writes_at == "resid"
        self.device = view.recording.residual_final.device
        self._layers: dict[int, Tensor] = {}

    @property
    def fingerprint(self) -> str:
        """Which features these are; "neurons" for the model's own."""
        return "neurons" if self.dictionary is None else self.dictionary.source.fingerprint

    def width(self, layer: int) -> int:
        """How many features or neurons the layer has."""
        if self.dictionary is not None:
            return self.dictionary.n_features(layer)
        return self.view.model.mlp_weights(layer).up.shape[0]

    def targets(self, layer: int) -> range:
        """The layers that features of `layer` write to."""
        return range(layer, layer + 1) if self.dictionary is None else self.dictionary.writes_to(layer)

    def all_activations(self, layer: int, x: Float[Tensor, "pos d_model"]) -> Float[Tensor, "pos feature"]:
        """All activations of a layer that reads `x`."""
        if self.dictionary is not None:
            return self.dictionary.encode(layer, x)
        weights, act = self.view.model.mlp_weights(layer), self.view.model.activation(layer)
        up = linear(x, weights.up, weights.up_bias)
        return act(up) if weights.gate is None else act(linear(x, weights.gate, weights.gate_bias)) * up

    def activations(
        self, layer: int, x: Float[Tensor, "*row place d_model"], features: Int[Tensor, " place"]
    ) -> Float[Tensor, "*row place"]:
        """The activation of feature `features[i]` where it reads `x[..., i, :]`."""
        dictionary = self.dictionary
        if dictionary is None:
            weights, act = self.view.model.mlp_weights(layer), self.view.model.activation(layer)
            up = _dot(x, weights.up[features], None if weights.up_bias is None else weights.up_bias[features])
            if weights.gate is None:
                return act(up)
            bias = None if weights.gate_bias is None else weights.gate_bias[features]
            return act(_dot(x, weights.gate[features], bias)) * up
        if dictionary.activation == "topk":
            # Which k are the largest depends on all the others.
            dense = dictionary.encode(layer, x.flatten(0, -2)).view(*x.shape[:-1], -1)
            return dense.gather(-1, features[:, None].expand(*x.shape[:-1], 1)).squeeze(-1)
        h = _dot(x, dictionary.encoder_rows(layer, features), dictionary.encoder_bias(layer, features))
        threshold = dictionary.thresholds(layer, features)
        return torch.where(h > (0.0 if threshold is None else threshold), h, 0.0)

    def activations_at(
        self,
        layer: int,
        x: Float[Tensor, "row pos d_model"],
        positions: Int[Tensor, " place"],
        features: Int[Tensor, " place"],
    ) -> Float[Tensor, "row place"]:
        """The activations of features at positions of every row, each position encoded once."""
        if self.dictionary is None or self.dictionary.activation != "topk":
            return self.activations(layer, x[:, positions], features)
        unique, back = positions.unique(return_inverse=True)
        dense = self.dictionary.encode(layer, x[:, unique].flatten(0, 1)).view(len(x), len(unique), -1)
        return dense[:, back, features]

    def recorded(self, places: Iterable[Place]) -> dict[Place, float]:
        """The activations of the given features on the recorded prompt."""
        by_layer: dict[int, list[Place]] = {}
        for place in sorted(set(places)):
            by_layer.setdefault(place[0], []).append(place)
        found: dict[Place, float] = {}
        for layer, here in by_layer.items():
            _, position, feature = (torch.tensor(column, device=self.device) for column in zip(*here, strict=True))
            values = self.activations_at(layer, self.view.site(layer, self.reads_at)[None], position, feature)[0]
            found.update(zip(here, values.tolist(), strict=True))
        return found

    def recorded_layer(self, layer: int) -> Float[Tensor, "pos feature"]:
        """All activations of a layer on the recorded prompt; kept."""
        if layer not in self._layers:
            self._layers[layer] = self.all_activations(layer, self.view.site(layer, self.reads_at))
        return self._layers[layer]

    def directions(self, layer: int, target: int, features: Int[Tensor, " place"]) -> Float[Tensor, "place d_model"]:
        """What a unit of each feature of `layer` writes at `target`, at the site where it writes."""
        if self.dictionary is None:
            return self.view.model.mlp_weights(layer).down.T[features]
        unique, back = features.unique(return_inverse=True)
        return self.dictionary.decoder_rows(layer, unique, target).to(self.device)[back]

    def strengths(self, layer: int, features: Int[Tensor, " feature"]) -> Float[Tensor, " feature"]:
        """The length of what a unit of each feature writes, all its target layers together."""
        squares = torch.zeros(len(features), device=self.device)
        for target in self.targets(layer):
            squares += self.directions(layer, target, features).square().sum(-1)
        return squares.sqrt()

    def linear_reads(self, places: Sequence[Place]) -> Float[Tensor, "place d_model"]:
        """What each feature reads of the residual before the MLP norm, norms and thresholds frozen.

        For a neuron the read vector of its frozen activation function (`lucida.neurons`).
        """
        layer, position, feature = (
            torch.tensor(column, dtype=torch.int64, device=self.device) for column in _columns(places)
        )
        active = Active(layer, position, feature, torch.ones(len(layer), device=self.device))
        if self.dictionary is not None:
            return FeatureSources(self.view, self.dictionary, sink_positions=0).read_vectors(active)[0]
        mlps = [freeze_mlp(self.view, index) for index in range(self.view.n_layers)]
        return NeuronSources(self.view, mlps, sink_positions=0).read_vectors(active)[0]

    def refuse_missing(self, place: Place) -> None:
        """Raise InterventionError when there is no such feature, or no such position in the prompt."""
        layer, position, feature = place
        n_layers, n_positions = self.view.n_layers, self.view.n_positions
        if not 0 <= layer < n_layers:
            raise InterventionError(f"layer {layer} does not exist; the model has layers 0 to {n_layers - 1}")
        if not 0 <= position < n_positions:
            raise InterventionError(f"position {position} is outside the prompt of {n_positions} tokens")
        width = self.width(layer)
        if not 0 <= feature < width:
            raise InterventionError(f"feature {feature} does not exist; layer {layer} has {width}")


def _columns(places: Sequence[Place]) -> tuple[list[int], list[int], list[int]]:
    return [p[0] for p in places], [p[1] for p in places], [p[2] for p in places]


def _dot(x: Tensor, rows: Tensor, bias: Tensor | None) -> Tensor:
    product = torch.einsum("...pd,pd->...p", x, rows)
    return product if bias is None else product + bias
