"""A few features of a running model: how active they are, what a unit of them writes, and their maxima."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lucida.dictionaries import Dictionary
from lucida.errors import FeatureError, InterventionError
from lucida.features.index import FeatureIndex
from lucida.features.shipped import index_beside
from lucida.models.model import Model, linear
from lucida.models.taps import fast_attention, run_body
from lucida.prompt import Prompt
from lucida.steering.steer import Steer

LARGEST = 1e15
"""No activation is near it, and norms square it in float32."""

Read = Callable[[Float[Tensor, "row pos d_model"]], Float[Tensor, "row pos feature"]]


@dataclass(frozen=True)
class Unit:
    """What strength 1 of a steered feature is: `maximum`, and where that was found.

    `source` is "index", "prompt", "given" (with the steer), or "none" where a scale or a direction needs no maximum.
    """

    layer: int
    feature: int | None
    maximum: float
    source: str


class Features:
    """The features that can be steered in a model: those of a dictionary, or without one its neurons."""

    def __init__(self, model: Model, dictionary: Dictionary | None, index: FeatureIndex | str | Path | None = None):
        """`index` None takes the one that lies beside the dictionary, if there is one."""
        self.model, self.dictionary = model, dictionary
        if index is None and dictionary is not None:
            index = index_beside(dictionary.source.path)
        self.index = FeatureIndex.open(index) if isinstance(index, (str, Path)) else index
        if self.index is not None:
            self.index.check(dictionary)
        at = "mlp_in" if dictionary is None else dictionary.reads_at
        # TransformerLens' normalised site comes behind the weight of a layer norm (as in FrozenModel.reading_site).
        self.reads_at = "mlp_in" if at == "mlp_norm" and model.family.norm == "layer" else at
        self._maxima: dict[tuple[int, int, Prompt], float] = {}

    @property
    def at_residual(self) -> bool:
        """Whether features write behind the MLP's post-norm, if the family has one."""
        return self.dictionary is not None and self.dictionary.writes_at == "resid"

    def check(self, steer: Steer) -> None:
        """Raise InterventionError unless the layer and the feature (or the direction's length) exist."""
        n_layers, d_model = self.model.n_layers, self.model.d_model
        if not 0 <= steer.layer < n_layers:
            raise InterventionError(f"layer {steer.layer} does not exist; the model has layers 0 to {n_layers - 1}")
        if steer.direction is not None:
            if tuple(steer.direction.shape) != (d_model,):
                found = list(steer.direction.shape)
                raise InterventionError(f"{steer.name} has shape {found}; the residual stream has {d_model} dimensions")
            return
        width = self._width(steer.layer)
        if not 0 <= (steer.feature or 0) < width:
            kind = "neurons" if self.dictionary is None else "features"
            raise InterventionError(f"feature {steer.feature} does not exist; layer {steer.layer} has {width} {kind}")

    def _width(self, layer: int) -> int:
        if self.dictionary is not None:
            return self.dictionary.n_features(layer)
        return self.model.mlp_weights(layer).up.shape[0]

    def targets(self, layer: int) -> range:
        """The layers that features of `layer` write to."""
        return range(layer, layer + 1) if self.dictionary is None else self.dictionary.writes_to(layer)

    def writes(self, layer: int, features: Int[Tensor, " feature"], target: int) -> Float[Tensor, "feature d_model"]:
        """What a unit of each feature of `layer` writes at `target`, at the writing site, in float32."""
        if self.dictionary is None:
            return self.model.mlp_weights(layer).down.T[features]
        return self.dictionary.decoder_rows(layer, features, target).to(self.model.device)

    def reader(self, layer: int, features: Int[Tensor, " feature"]) -> Read:
        """A function from what `layer` reads [row, pos, d_model] to the activations of these features."""
        if self.dictionary is None:
            return _neuron_reader(self.model, layer, features)
        dictionary = self.dictionary
        if dictionary.activation == "topk":
            # Whether a feature is among the largest depends on all of them.
            return lambda site: dictionary.encode(layer, site.flatten(0, 1)).view(*site.shape[:2], -1)[..., features]
        weight, bias = dictionary.encoder_rows(layer, features), dictionary.encoder_bias(layer, features)
        threshold = dictionary.thresholds(layer, features)
        cut = torch.zeros_like(bias) if threshold is None else threshold

        def read(site: Tensor) -> Tensor:
            h = linear(site, weight, bias)
            return torch.where(h > cut, h, 0.0)

        return read

    # --- units ------------------------------------------------------------------------------------

    def units(self, steers: Iterable[Steer], prompt: Prompt) -> dict[Steer, Unit]:
        """What strength 1 is for each steer: its own maximum, else that of the index, else the prompt's.

        Raises InterventionError for a feature that is inactive on the prompt where nothing else says its maximum.
        """
        found: dict[Steer, Unit] = {}
        unknown: list[Steer] = []
        for steer in steers:
            unit = self._known_unit(steer)
            if unit is None:
                unknown.append(steer)
            else:
                found[steer] = unit
        for steer, maximum in zip(unknown, self._prompt_maxima(unknown, prompt), strict=True):
            if maximum <= 0:
                raise InterventionError(
                    f"{steer.name} is inactive on the prompt and no feature index knows its maximum; give maximum="
                )
            found[steer] = Unit(steer.layer, steer.feature, maximum, "prompt")
        for steer, unit in found.items():
            if abs(steer.strength) * unit.maximum > LARGEST:
                raise InterventionError(
                    f"{steer.name} cannot be steered by {steer.strength:g} x {unit.maximum:g}; use a smaller strength"
                )
        return found

    def _known_unit(self, steer: Steer) -> Unit | None:
        if steer.maximum is not None:
            return Unit(steer.layer, steer.feature, float(steer.maximum), "given")
        if steer.variant == "scale" or steer.feature is None:
            return Unit(steer.layer, steer.feature, 1.0, "none")
        if self.index is None:
            return None
        try:
            maximum = self.index.stats(steer.layer, steer.feature).maximum
        except FeatureError as error:
            raise InterventionError(f"the feature index does not know {steer.name}: {error}") from error
        return Unit(steer.layer, steer.feature, maximum, "index") if maximum > 0 else None

    def _prompt_maxima(self, steers: list[Steer], prompt: Prompt) -> list[float]:
        """The largest |activation| of each steer's feature on the unsteered prompt, its first token left out."""
        keys = [(steer.layer, steer.feature or 0, prompt) for steer in steers]
        missing = sorted({key[:2] for key in keys if key not in self._maxima})
        if missing:
            reads = {
                layer: self.reader(layer, torch.tensor([f for at, f in missing if at == layer]).to(self.model.device))
                for layer in {layer for layer, _ in missing}
            }

            def receive(layer: int, site: Tensor) -> None:
                largest = reads[layer](site)[0, 1:].abs()
                values = largest.amax(0) if len(largest) else largest.new_zeros(largest.shape[1])
                for feature, value in zip([f for at, f in missing if at == layer], values.tolist(), strict=True):
                    self._maxima[layer, feature, prompt] = value

            with fast_attention(self.model), reading(self.model, self.reads_at, reads, receive):
                run_body(self.model, torch.tensor([prompt.tokens]))
        return [self._maxima[key] for key in keys]


def _neuron_reader(model: Model, layer: int, features: Int[Tensor, " feature"]) -> Read:
    weights, act = model.mlp_weights(layer), model.activation(layer)
    up, up_bias = weights.up[features], None if weights.up_bias is None else weights.up_bias[features]
    if weights.gate is None:
        return lambda site: act(linear(site, up, up_bias))
    gate, gate_bias = weights.gate[features], None if weights.gate_bias is None else weights.gate_bias[features]
    return lambda site: act(linear(site, gate, gate_bias)) * linear(site, up, up_bias)


@contextmanager
def reading(
    model: Model, reads_at: str, layers: Iterable[int], receive: Callable[[int, Tensor], None]
) -> Iterator[None]:
    """While the block runs, hand over what features of these layers read [row, pos, d_model], in float32."""
    handles = [read_hook(model, reads_at, layer, receive) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def read_hook(model: Model, reads_at: str, layer: int, receive: Callable[[int, Tensor], None]) -> Any:
    """A hook that calls ``receive(layer, site)`` before the MLP of `layer` runs; `remove` takes it away."""
    parts = model.layers[layer]
    norm = model.norm(parts.mlp_norm) if reads_at == "mlp_norm" else None

    def hook(_module: nn.Module, args: tuple, kwargs: dict) -> None:
        site = (args[0] if args else kwargs["hidden_states"]).float()
        receive(layer, site if norm is None else site * norm.scale(site).unsqueeze(-1))

    middle = parts.block if model.is_parallel else parts.mlp_norm or parts.mlp
    return (parts.mlp if reads_at == "mlp_in" else middle).register_forward_pre_hook(hook, with_kwargs=True)
