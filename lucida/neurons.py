"""The model's own MLP neurons as sources: a dictionary that needs no training.

Freeze how each neuron's nonlinearity acts on this prompt and the MLP is linear: for a gated MLP
``act(g) u = s g u`` with ``s = act(g) / g`` fixed, split in halves so that both factors carry it,
``read = 0.5 s (u w_gate + g w_up)`` and ``read . x = activation``, exactly. A plain MLP is the same
without a gate: ``act(h) = (act(h) / h) h``. With attention and norms frozen too the whole model is
linear on the prompt, and signed attributions add up over the embeddings to the logit (docs/method.md).

Neurons are dense, so they are chosen by signed total attribution; the rest pass the signal on.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lucida.errors import LucidaError
from lucida.models.linear import FrozenModel
from lucida.models.model import linear
from lucida.replacement import Active, Replacement, Sources
from lucida.sweep import Layout, Targets, sweep

TINY = 1e-6
"""Below this size of a pre-activation act(g) / g is taken as one half: the limit for SiLU and GELU; a ReLU neuron
there writes nothing worth counting."""


@dataclass(frozen=True)
class FrozenMLP:
    """One MLP, frozen on one prompt: ``activation = (from_gate w_gate + from_up w_up) . x + constant``."""

    activation: Float[Tensor, "pos neuron"]
    from_gate: Float[Tensor, "pos neuron"] | None
    from_up: Float[Tensor, "pos neuron"]


def freeze_mlp(view: FrozenModel, layer: int) -> FrozenMLP:
    """How each neuron of `layer` read the residual on this prompt."""
    weights, act = view.model.mlp_weights(layer), view.model.activation(layer)
    x = view.recording.mlp_in[layer]
    up = linear(x, weights.up, weights.up_bias)
    if weights.gate is None:
        ratio = _ratio(act(up), up)
        return FrozenMLP(ratio * up, None, ratio)
    gate = linear(x, weights.gate, weights.gate_bias)
    ratio = _ratio(act(gate), gate)
    return FrozenMLP(ratio * gate * up, 0.5 * ratio * up, 0.5 * ratio * gate)


def _ratio(after: Tensor, before: Tensor) -> Tensor:
    tiny = before.abs() < TINY
    return torch.where(tiny, 0.5, after / torch.where(tiny, 1.0, before))


class NeuronSources:
    """Neurons as sources (`Sources`): the chosen ones are nodes, the rest are the linear bypass."""

    def __init__(self, view: FrozenModel, mlps: list[FrozenMLP], *, sink_positions: int) -> None:
        self.view, self.mlps, self.sink_positions = view, mlps, sink_positions
        self.bypass_width = 3 * mlps[0].activation.shape[1]
        passing = torch.ones(len(mlps), *mlps[0].activation.shape, dtype=torch.bool)
        passing[:, :sink_positions] = False
        self.passing = passing.to(mlps[0].activation.device)

    def choose(self, active: Active) -> None:
        """Make the neurons of `active` nodes: they no longer pass anything on."""
        self.passing[active.layer, active.position, active.feature] = False

    def read_vectors(self, active: Active) -> tuple[Tensor, Tensor]:
        """The linearised read vector of each neuron at its position, and the part that is constant."""
        vectors = torch.empty(len(active), self.view.model.d_model, device=active.layer.device)
        constants = torch.zeros(len(active), device=active.layer.device)
        for layer in active.layer.unique().tolist():
            here = torch.nonzero(active.layer == layer).squeeze(1)
            at, neuron = active.position[here], active.feature[here]
            weights, mlp = self.view.model.mlp_weights(layer), self.mlps[layer]
            rows = mlp.from_up[at, neuron, None] * weights.up[neuron]
            if weights.gate is not None and mlp.from_gate is not None:
                rows = rows + mlp.from_gate[at, neuron, None] * weights.gate[neuron]
            if weights.up_bias is not None:
                constants[here] += mlp.from_up[at, neuron] * weights.up_bias[neuron]
            if weights.gate_bias is not None and mlp.from_gate is not None:
                constants[here] += mlp.from_gate[at, neuron] * weights.gate_bias[neuron]
            shift = self.view.site_constant(layer, "mlp_in")
            if shift is not None:
                constants[here] += rows @ shift
            vectors[here] = self.view.pull_site(layer, "mlp_in", rows, at)
        return vectors, constants

    def write_vectors(self, layer: int, active: Active) -> Tensor:
        """Columns of the down-projection, in residual space, times the activations."""
        rows = self.view.model.mlp_weights(layer).down.T[active.feature] * active.activation[:, None]
        return self.view.push_output(layer, rows, active.position)

    def writers(self, layer: int) -> range:
        """A neuron writes to its own layer only."""
        return range(layer, layer + 1)

    def bypass_(self, layer: int, gradient: Tensor, into: Tensor) -> None:
        """The gradient through the neurons that are not nodes."""
        positions = gradient.shape[1]
        at_neurons = self.at_neurons(layer, gradient) * self.passing[layer, :positions]
        self.pull_neurons_(layer, at_neurons, into)

    def at_neurons(
        self, layer: int, gradient: Float[Tensor, "target pos d_model"]
    ) -> Float[Tensor, "target pos neuron"]:
        """The gradient at each neuron's activation, from the gradient at the residual."""
        down = self.view.model.mlp_weights(layer).down.to(self.view.dtype)
        return (self.view.pull_output(layer, gradient).to(self.view.dtype) @ down).float()

    def pull_neurons_(self, layer: int, at_neurons: Float[Tensor, "target pos neuron"], into: Tensor) -> None:
        """Add to `into` the gradient at the residual before the MLP norm, from that at the activations."""
        weights, mlp, dtype = self.view.model.mlp_weights(layer), self.mlps[layer], self.view.dtype
        targets, positions, _ = at_neurons.shape
        read = ((at_neurons * mlp.from_up[:positions]).to(dtype) @ weights.up.to(dtype)).float()
        if weights.gate is not None and mlp.from_gate is not None:
            read += ((at_neurons * mlp.from_gate[:positions]).to(dtype) @ weights.gate.to(dtype)).float()
        where = torch.arange(positions, device=read.device).repeat(targets)
        pulled = self.view.pull_site(layer, "mlp_in", read.view(targets * positions, -1), where)
        into += pulled.view(targets, positions, -1)

    def bypassed(self, layer: int) -> Tensor:
        """What the neurons that are not nodes add to the residual, without their constant part."""
        rows = (self.mlps[layer].activation * self.passing[layer]) @ self.view.model.mlp_weights(layer).down.T
        everywhere = torch.arange(len(rows), device=rows.device)
        return self.view.push_output(layer, rows, everywhere) - self.passing_constant(layer)

    def passing_constant(self, layer: int) -> Float[Tensor, "pos d_model"]:
        """The constant part of what passing neurons add: their biases, and the norm's through them."""
        weights, mlp = self.view.model.mlp_weights(layer), self.mlps[layer]
        shift = self.view.site_constant(layer, "mlp_in")
        constant = torch.zeros_like(mlp.activation)
        if weights.up_bias is not None:
            constant = constant + mlp.from_up * weights.up_bias
        if weights.gate_bias is not None and mlp.from_gate is not None:
            constant = constant + mlp.from_gate * weights.gate_bias
        if shift is not None:
            constant = constant + mlp.from_up * (weights.up @ shift)
            if weights.gate is not None and mlp.from_gate is not None:
                constant = constant + mlp.from_gate * (weights.gate @ shift)
        rows = (constant * self.passing[layer]) @ weights.down.T
        return self.view.push_output(layer, rows, torch.arange(len(rows), device=rows.device))

    def constants(self) -> Float[Tensor, "layer pos d_model"]:
        """Biases of the MLP and its norms; at sink positions all of the MLP's output."""
        view, parts = self.view, []
        for layer in range(view.n_layers):
            total = self.passing_constant(layer)
            bias, after = view.model.mlp_weights(layer).down_bias, view.output_constant(layer)
            if bias is not None:
                everywhere = torch.arange(len(total), device=total.device)
                total = total + view.push_output(layer, bias.expand_as(total), everywhere)
            if after is not None:
                total = total + after
            total[: self.sink_positions] = view.mlp_contribution(layer)[: self.sink_positions]
            parts.append(total)
        return torch.stack(parts)


class WatchedNeurons:
    """`NeuronSources` that also notes how large every neuron's signed total attribution is, as a sweep passes it:
    sum over targets of weight x |T|.
    """

    def __init__(self, neurons: NeuronSources, weights: Float[Tensor, " target"]) -> None:
        self.neurons, self.weights, self.bypass_width = neurons, weights, neurons.bypass_width
        self.importance = torch.zeros_like(neurons.passing, dtype=torch.float32)
        self.read_vectors, self.write_vectors = neurons.read_vectors, neurons.write_vectors
        self.writers, self.bypassed = neurons.writers, neurons.bypassed

    def bypass_(self, layer: int, gradient: Tensor, into: Tensor) -> None:
        """Pass the gradient on, noting sum over targets of weight x |activation x gradient|."""
        at_neurons = self.neurons.at_neurons(layer, gradient)
        positions = gradient.shape[1]
        attribution = at_neurons * self.neurons.mlps[layer].activation[:positions]
        weighted = torch.einsum("t,tpn->pn", self.weights, attribution.abs())
        self.importance[layer, :positions] += weighted * self.neurons.passing[layer, :positions]
        self.neurons.pull_neurons_(layer, at_neurons * self.neurons.passing[layer, :positions], into)


@dataclass(frozen=True)
class LinearAttributions:
    """Signed total attributions in the fully linear model: per target, `embeddings` and `bias` add up to
    the target's value (its demeaned logit, or a difference of two logits).

    `neurons` is sum over targets of weight x |activation x gradient|; neurons lie on the paths from
    the embeddings, so they are not a further part of the sum.
    """

    embeddings: Float[Tensor, "target pos"]
    bias: Float[Tensor, " target"]
    neurons: Float[Tensor, "layer pos neuron"]


@torch.no_grad()
def linear_attributions(
    view: FrozenModel, targets: Targets, weights: Float[Tensor, " target"], *, sink_positions: int = 0
) -> LinearAttributions:
    """Attribute `targets` to embeddings, biases and every neuron by one downward sweep.

    MLP outputs of the first `sink_positions` are constants, as in `replace_neurons`; with 0 everything
    reaches the embeddings.
    """
    neurons = NeuronSources(view, _freeze(view), sink_positions=sink_positions)
    watched = WatchedNeurons(neurons, weights)
    nothing = _active(neurons, torch.zeros(0, dtype=torch.long, device=weights.device))
    replacement = _replacement(view, neurons, nothing, watched)
    rows = sweep(replacement, targets)
    layout = Layout.of(replacement)
    return LinearAttributions(rows[:, layout.embeddings], rows[:, layout.bias], watched.importance)


@torch.no_grad()
def replace_neurons(
    view: FrozenModel,
    targets: Targets,
    weights: Float[Tensor, " target"],
    *,
    max_nodes: int,
    sink_positions: int = 1,
) -> Replacement:
    """The prompt in `view` with its `max_nodes` neurons of largest total attribution as nodes.

    All other neurons pass the signal on linearly; there is no error. Raises ModelError for a mixture
    of experts, LucidaError when no neuron has any attribution.
    """
    importance = linear_attributions(view, targets, weights, sink_positions=sink_positions).neurons
    strongest = importance.flatten().topk(min(max_nodes, int((importance > 0).sum()))).indices
    if len(strongest) == 0 and max_nodes > 0:
        raise LucidaError(
            f"no neuron of this prompt of {view.n_positions} tokens reaches the target (the first {sink_positions} "
            "positions are left out as attention sinks); give a longer prompt"
        )
    neurons = NeuronSources(view, _freeze(view), sink_positions=sink_positions)
    active = _active(neurons, strongest)
    neurons.choose(active)
    return _replacement(view, neurons, active, neurons)


def _freeze(view: FrozenModel) -> list[FrozenMLP]:
    return [freeze_mlp(view, layer) for layer in range(view.n_layers)]


def _active(neurons: NeuronSources, flat: Tensor) -> Active:
    _layers, positions, width = neurons.passing.shape
    layer, position = flat // (positions * width), flat // width % positions
    activations = torch.stack([mlp.activation for mlp in neurons.mlps])
    return Active.sort(layer, position, flat % width, activations.flatten()[flat])


def _replacement(view: FrozenModel, neurons: NeuronSources, active: Active, sources: Sources) -> Replacement:
    return Replacement(
        view,
        sources,
        active,
        constant=neurons.constants(),
        sink_positions=neurons.sink_positions,
        exact=True,
    )
