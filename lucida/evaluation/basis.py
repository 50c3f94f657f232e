"""What a model can be seen through: a dictionary's features, or its own neurons above a threshold.

Both stand in one table, so both answer the same questions: what is active, what it writes to which layer, and
what the local replacement model of a prompt looks like.
"""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as functional
from jaxtyping import Float
from torch import Tensor

from lucida.dictionaries import Dictionary, SparseActivations, check_fits
from lucida.errors import DictionaryError
from lucida.models.linear import FrozenModel
from lucida.models.model import Model, linear
from lucida.neurons import NeuronSources, freeze_mlp
from lucida.replacement import Active, Replacement, replace_features


@runtime_checkable
class Basis(Protocol):
    """Sparse units that stand in for the MLPs of a model.

    `layers` have units, `targets` are the layers whose MLP they replace. Units read at `reads_at` and write at
    `writes_at`, which is "resid" only where a norm stands between the MLP and the residual stream.
    """

    name: str
    kind: str
    reads_at: str
    writes_at: str
    layers: tuple[int, ...]
    targets: tuple[int, ...]

    def n_features(self, layer: int) -> int:
        """The number of units that read at `layer`."""
        ...

    def encode(self, layer: int, x: Float[Tensor, "pos d_model"]) -> SparseActivations:
        """The units of `layer` that are active where it reads `x`."""
        ...

    def write_(self, layer: int, active: SparseActivations, into: dict[int, Tensor]) -> None:
        """Add what the active units of `layer` write to every target layer, `into[target]` [pos, d_model]."""
        ...

    def constant(self, layer: int, x: Float[Tensor, "pos d_model"] | None) -> Float[Tensor, "*pos d_model"]:
        """What `layer` gets whatever is active: biases, and a skip connection of what it reads (`x`)."""
        ...

    def localise(self, view: FrozenModel, *, sink_positions: int) -> Replacement:
        """The local replacement model of one prompt, with error nodes."""
        ...


class DictionaryBasis:
    """The features of a dictionary (`Basis`). Raises DictionaryError when it is not of this model's shape."""

    kind = "features"

    def __init__(self, model: Model, dictionary: Dictionary, *, name: str | None = None) -> None:
        check_fits(dictionary, model.n_layers, model.d_model)
        self.model, self.name = model, name or dictionary.name
        self.dictionary = dictionary if model.device.type == "cpu" else dictionary.to(model.device)
        self.reads_at, self.writes_at = reading_site(model, dictionary.reads_at), writing_site(model, dictionary)
        self.layers, self.targets = dictionary.layers, dictionary.targets

    def n_features(self, layer: int) -> int:
        """The number of features that read at `layer`."""
        return self.dictionary.n_features(layer)

    def encode(self, layer: int, x: Float[Tensor, "pos d_model"]) -> SparseActivations:
        """The active features of `layer` where it reads `x`."""
        return self.dictionary.encode_sparse(layer, x)

    def write_(self, layer: int, active: SparseActivations, into: dict[int, Tensor]) -> None:
        """Add the decoder rows of the active features, times their activations, to `into`."""
        chosen = None
        for target in self.dictionary.writes_to(layer):
            table = self.dictionary.weights[layer].decoders[target - layer]
            if table.dtype == torch.float32 and table.device == active.activation.device:
                written = gather(active, active.feature, table)
            else:
                # Rows of another type or place are converted: only those of active features, each once.
                chosen = active.feature.unique(return_inverse=True) if chosen is None else chosen
                written = gather(active, chosen[1], self.dictionary.decoder_rows(layer, chosen[0], target))
            if not torch.isfinite(written.sum()):
                raise DictionaryError(f"{self.name} writes NaN or infinite numbers from layer {layer} to {target}")
            into[target] = into[target] + written if target in into else written

    def constant(self, layer: int, x: Float[Tensor, "pos d_model"] | None) -> Float[Tensor, "*pos d_model"]:
        """The decoder bias, and the skip connection of what the layer reads."""
        device = self.model.device
        bias = self.dictionary.decoder_bias(layer).to(device)
        skip = self.dictionary.skip(layer)
        return bias if skip is None or x is None else bias + x @ skip.to(device).T

    def localise(self, view: FrozenModel, *, sink_positions: int) -> Replacement:
        """`lucida.replacement.replace_features`: the same as a trace uses."""
        return replace_features(view, self.dictionary, sink_positions=sink_positions)


class NeuronBasis:
    """The MLP neurons whose score is at least `threshold`, all others held at zero (`Basis`).

    A neuron's score is the length of what it writes, |activation| times the norm of its column, in units of `scales`
    of its layer ("neuron baseline" of Circuit Tracing 2025, one threshold for all layers). In units of what each MLP
    writes as a whole this is a far better basis than without: late layers write ten times as much as early ones.
    Raises ModelError for a mixture of experts.
    """

    kind = "neurons"
    reads_at = "mlp_in"
    writes_at = "mlp_out"

    def __init__(
        self, model: Model, threshold: float, *, scales: Sequence[float] | None = None, name: str = "neurons"
    ) -> None:
        """`scales` has a number for each layer; left out, all are 1."""
        self.model, self.threshold, self.name = model, threshold, name
        self.layers = self.targets = tuple(range(model.n_layers))
        self.scales = (1.0,) * model.n_layers if scales is None else tuple(scales)

    @property
    def settings(self) -> dict[str, Any]:
        """Threshold and scales: ``NeuronBasis(model, **settings)`` has the same neurons active."""
        return {"threshold": self.threshold, "scales": list(self.scales)}

    @cached_property
    def _per_activation(self) -> list[Float[Tensor, " neuron"]]:
        """The score of a unit of activation of every neuron."""
        return [self.model.mlp_weights(layer).down.norm(dim=0) / self.scales[layer] for layer in self.layers]

    def n_features(self, layer: int) -> int:
        """The number of neurons of `layer`."""
        return len(self._per_activation[layer])

    def scores(self, layer: int, activation: Float[Tensor, "pos neuron"]) -> Float[Tensor, "pos neuron"]:
        """What every neuron writes, in units of its layer's scale."""
        return activation.abs() * self._per_activation[layer]

    def encode(self, layer: int, x: Float[Tensor, "pos d_model"]) -> SparseActivations:
        """The neurons above the threshold where the MLP reads `x`."""
        activation = neuron_activations(self.model, layer, x)
        position, neuron = (self.scores(layer, activation) >= self.threshold).nonzero(as_tuple=True)
        return SparseActivations(position, neuron, activation[position, neuron], *activation.shape)

    def write_(self, layer: int, active: SparseActivations, into: dict[int, Tensor]) -> None:
        """Add the columns of the down-projection, times the activations, to `into[layer]`."""
        table = self.model.mlp_weights(layer).down.T.contiguous()
        written = gather(active, active.feature, table)
        into[layer] = into[layer] + written if layer in into else written

    def constant(self, layer: int, x: Float[Tensor, "pos d_model"] | None) -> Float[Tensor, "*pos d_model"]:
        """The bias of the down-projection, if there is one."""
        bias = self.model.mlp_weights(layer).down_bias
        return torch.zeros(self.model.d_model, device=self.model.device) if bias is None else bias

    def localise(self, view: FrozenModel, *, sink_positions: int) -> Replacement:
        """The neurons above the threshold as nodes; what the others write is error, not a linear bypass."""
        mlps = [freeze_mlp(view, layer) for layer in self.layers]
        neurons = NeuronSources(view, mlps, sink_positions=sink_positions)
        # No neuron passes by: what no node carries is left to the error.
        neurons.passing[:] = False
        scores = torch.stack([self.scores(layer, mlp.activation) for layer, mlp in enumerate(mlps)])
        scores[:, :sink_positions] = 0
        layer, position, neuron = (scores >= max(self.threshold, 1e-30)).nonzero(as_tuple=True)
        activation = torch.stack([mlp.activation for mlp in mlps])[layer, position, neuron]
        active = Active.sort(layer, position, neuron, activation)
        constant = neurons.constants()
        return Replacement(view, _Kept(neurons), active, constant=constant, sink_positions=sink_positions)


class _Kept:
    """`NeuronSources` without a bypass: nothing passes by, and no time is spent on passing it."""

    bypass_width = 0

    def __init__(self, neurons: NeuronSources) -> None:
        self.read_vectors, self.write_vectors, self.writers = (
            neurons.read_vectors,
            neurons.write_vectors,
            neurons.writers,
        )
        self._nothing = torch.zeros_like(neurons.view.recording.residual_final)

    def bypass_(self, layer: int, gradient: Tensor, into: Tensor) -> None:
        """Nothing passes by."""

    def bypassed(self, layer: int) -> Tensor:
        """Zero [pos, d_model]."""
        return self._nothing


def neuron_activations(model: Model, layer: int, x: Float[Tensor, "pos d_model"]) -> Float[Tensor, "pos neuron"]:
    """What the down-projection of `layer` reads: act(gate x) (up x), or without a gate act(up x)."""
    weights, act = model.mlp_weights(layer), model.activation(layer)
    up = linear(x, weights.up, weights.up_bias)
    return act(up) if weights.gate is None else act(linear(x, weights.gate, weights.gate_bias)) * up


def neurons_of_l0(
    model: Model, reads: Callable[[int], Float[Tensor, "pos d_model"]], l0: float, *, name: str = "neurons"
) -> NeuronBasis:
    """The neuron basis of which `l0` neurons, over all layers, are active per token on what the MLPs read.

    `reads(layer)` is a sample of MLP inputs; scores are in units of the root mean square length of what the MLP writes
    there. Raises DictionaryError unless l0 lies above 0 and up to all neurons.
    """
    activations = [neuron_activations(model, layer, reads(layer)) for layer in range(model.n_layers)]
    scales = [_output_length(model, layer, activation) for layer, activation in enumerate(activations)]
    unit = NeuronBasis(model, 0.0, scales=scales, name=name)
    scores = torch.cat([unit.scores(layer, activation).flatten() for layer, activation in enumerate(activations)])
    n_tokens = len(activations[0])
    total = len(scores) // n_tokens
    if not 0 < l0 <= total:
        raise DictionaryError(f"{l0:g} neurons per token were asked for; it must lie above 0 and up to all {total}")
    kept = min(max(1, round(l0 * n_tokens)), len(scores))
    return NeuronBasis(model, float(scores.kthvalue(len(scores) - kept + 1).values), scales=scales, name=name)


def _output_length(model: Model, layer: int, activation: Float[Tensor, "pos neuron"]) -> float:
    weights = model.mlp_weights(layer)
    written = linear(activation, weights.down, weights.down_bias)
    return max(float(written.square().sum(-1).mean().sqrt()), 1e-12)


def reading_site(model: Model, reads_at: str) -> str:
    """`reads_at` as this family has it (see `FrozenModel.reading_site`)."""
    return "mlp_in" if reads_at == "mlp_norm" and model.family.norm == "layer" else reads_at


def writing_site(model: Model, dictionary: Dictionary) -> str:
    """Where a dictionary writes; without a norm behind the MLP both places are the MLP's output."""
    return dictionary.writes_at if model.layers[0].mlp_post_norm is not None else "mlp_out"


def gather(
    active: SparseActivations, row: Tensor, table: Float[Tensor, "feature d_model"]
) -> Float[Tensor, "pos d_model"]:
    """Sum over the active units of each position of activation x table[row]: 14 times faster than index_add."""
    counts = torch.bincount(active.position, minlength=active.n_positions)
    ends = torch.cat((counts.new_zeros(1), counts.cumsum(0)))
    return functional.embedding_bag(
        row, table, ends, mode="sum", per_sample_weights=active.activation, include_last_offset=True
    )
