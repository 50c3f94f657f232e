"""One step of training: activations in, losses and gradients out.

The loss is the sum over layers of the normalised mean squared error, plus what keeps features alive and
sparse. It is quadratic in the reconstruction, so its gradient there is written down, and autograd is only
asked for the way from there to the weights: one backward call, no copy of the reconstruction per layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import pad

from lucida.training.batchtopk import select
from lucida.training.dense import count_above, jump_relu, preactivations
from lucida.training.mesh import kth_largest
from lucida.training.sparse import sparse_decode
from lucida.training.transcoder import Transcoder


@dataclass
class Schedule:
    """What changes from step to step."""

    budget: int
    """Active entries in the batch of all processes (batchtopk)."""
    penalty: float
    """Weight of the sparsity penalty now (jumprelu, relu)."""
    low: float
    """A score that the cut of this step is expected to exceed."""
    turn: int
    """The number of this step: which tokens the auxiliary loss looks at goes round with it."""


@dataclass
class Outcome:
    """What a step measured, over the batch of all processes."""

    nmse: Float[Tensor, " layer"]
    l0: Float[Tensor, " layer"]
    """Active features per token."""
    cut: float
    """The score of the last selected entry (batchtopk; 0 for the others)."""
    penalty: float
    aux: float
    fired: list[Bool[Tensor, " feature"]] = field(repr=False)
    """Which of this process's features fired anywhere in the batch."""
    gradient: float = 0.0
    """The norm of the gradient of all parameters, before it is clipped (set by the loop)."""

    @property
    def loss(self) -> float:
        """The sum over layers of the NMSE: what the progress line shows."""
        return float(self.nmse.sum())


@dataclass
class _Written:
    """What the features of all layers write, added up: [token, (layer d_model)], and the graph behind each part."""

    output: Tensor
    d_model: int
    parts: list[Tensor] = field(default_factory=list)

    @classmethod
    def nothing(cls, transcoder: Transcoder, tokens: int) -> "_Written":
        d = transcoder.config.d_model
        return cls(torch.zeros(tokens, transcoder.config.n_layers * d, device=transcoder.device), d)

    def add(self, part: Tensor) -> None:
        """Add what the next layer's features write to their targets [token, (targets d_model)]; `part` is emptied."""
        start = len(self.parts) * self.d_model
        self.output[:, start : start + part.shape[1]] += part.detach()
        # Only the graph behind it is needed again, and all parts together take half of n_layers times the output.
        part.untyped_storage().resize_(0)
        self.parts.append(part)

    def backward(self, gradient: Tensor, penalty: Tensor | None = None) -> None:
        """Send the gradient of the output, and the penalty, back to the weights."""
        tensors, gradients = [], []
        for layer, part in enumerate(self.parts):
            start = layer * self.d_model
            tensors.append(part)
            gradients.append(gradient[:, start : start + part.shape[1]])
        if penalty is not None:
            tensors.append(penalty)
            gradients.append(torch.ones_like(penalty))
        torch.autograd.backward(tensors, gradients)


@dataclass
class _Encoded:
    written: _Written
    counts: list[Tensor] = field(default_factory=list)
    fired: list[Tensor] = field(default_factory=list)
    cut: float = 0.0
    penalty: Tensor | None = None


def step(
    transcoder: Transcoder,
    reads: Sequence[Float[Tensor, "token d_model"]],
    writes: Sequence[Float[Tensor, "token d_model"]],
    schedule: Schedule,
    dead: Sequence[Bool[Tensor, " feature"]],
) -> Outcome:
    """Add the gradients of one batch to the weights' `.grad`, summed over all processes.

    `reads` and `writes` are, by layer, what the features read and what the MLPs wrote, normalised; `dead`
    says which features have not fired for long.
    """
    mesh, config = transcoder.mesh, transcoder.config
    tokens = len(reads[0]) * mesh.data_size
    encoded = (
        _sparse(transcoder, reads, schedule)
        if config.activation == "batchtopk"
        else _dense(transcoder, reads, schedule, dead, tokens)
    )
    output = mesh.sum_features_(encoded.written.output)  # the one large sum of a step
    with torch.no_grad():
        output += transcoder.decoder_bias.flatten()
        d = config.d_model
        nmse = torch.zeros(config.n_layers, device=output.device)
        for layer, y in enumerate(writes):
            error = output[:, layer * d : (layer + 1) * d]
            error -= y
            nmse[layer] = error.square().sum()
        mesh.sum_data_(nmse.div_(tokens * d))
    aux = _revive(transcoder, reads, output, schedule, dead) if config.activation == "batchtopk" else 0.0
    gradient = output.mul_(2 / (tokens * d))
    encoded.written.backward(gradient, encoded.penalty)
    transcoder.decoder_bias.grad = _added(transcoder.decoder_bias.grad, gradient.sum(0).view(config.n_layers, d))
    for _, tensor in transcoder.named():
        if tensor.grad is not None:
            mesh.sum_data_(tensor.grad)
    counts = mesh.sum_all_(torch.stack(encoded.counts).float())
    penalty = 0.0 if encoded.penalty is None else float(mesh.sum_all_(encoded.penalty.detach().clone()))
    fired = [mesh.sum_data_(f.to(torch.int32)) > 0 for f in encoded.fired]
    return Outcome(nmse.cpu(), (counts / tokens).cpu(), encoded.cut, penalty, aux, fired)


def _sparse(transcoder: Transcoder, reads: Sequence[Tensor], schedule: Schedule) -> _Encoded:
    selection = select(transcoder, reads, schedule.budget, low=schedule.low)
    encoded = _Encoded(_Written.nothing(transcoder, len(reads[0])), cut=float(selection.cut))
    for layer, codes in enumerate(selection.codes):
        encoded.written.add(sparse_decode(codes.values, transcoder.layers[layer].decoder, codes.pattern))
        encoded.counts.append(codes.pattern.rows[-1])
        encoded.fired.append(codes.pattern.columns.diff() > 0)
    return encoded


def _dense(
    transcoder: Transcoder, reads: Sequence[Tensor], schedule: Schedule, dead: Sequence[Tensor], tokens: int
) -> _Encoded:
    config, encoded = transcoder.config, _Encoded(_Written.nothing(transcoder, len(reads[0])))
    products = getattr(torch, config.products)
    penalties, active = [], torch.zeros((), device=transcoder.device)
    for layer, x in enumerate(reads):
        parameters, norms = transcoder.layers[layer], transcoder.decoder_norms(layer)
        h = preactivations(transcoder, layer, x)
        threshold = parameters.threshold
        a = h.relu() if threshold is None else jump_relu(h, threshold, config.bandwidth)
        if threshold is not None:
            below = (threshold - h)[:, dead[layer]].relu() * norms[dead[layer]]
            penalties.append(config.preactivation_weight * below.sum() / tokens)
        if config.penalty == "tanh":
            spread = torch.tanh(config.penalty_scale * a * norms)
            penalties.append(schedule.penalty * spread.sum() / (tokens * config.d_model))
        elif threshold is not None:
            active = active + count_above(h, threshold, config.bandwidth).sum()
        encoded.written.add((a.to(products) @ parameters.decoder.to(products)).float())
        encoded.counts.append((a.detach() > 0).sum())
        encoded.fired.append((a.detach() > 0).any(0))
    if config.penalty == "quadratic":
        penalties.append(_quadratic(transcoder, active, schedule.penalty, tokens))
    encoded.penalty = torch.stack(penalties).sum()
    return encoded


def _quadratic(transcoder: Transcoder, active: Tensor, weight: float, tokens: int) -> Tensor:
    """``weight (L0 / L0* - 1)^2`` with L0 the mean over the batch of all processes (Gemma Scope 2, 2025).

    Written as its value and its linear part at the current L0, so that each process needs only its own features;
    the processes' parts add up to it.
    """
    config, mesh = transcoder.config, transcoder.mesh
    target = config.k * config.n_layers
    excess = mesh.sum_all_(active.detach().clone()) / tokens / target - 1
    slope = 2 * weight * excess / (target * tokens)
    return slope * (active - active.detach()) + weight * excess.square() / mesh.size


def _revive(
    transcoder: Transcoder, reads: Sequence[Tensor], error: Tensor, schedule: Schedule, dead: Sequence[Tensor]
) -> float:
    """AuxK: dead features reconstruct, on some of the tokens, what the living ones leave (Gao et al. 2024).

    On each layer the `aux_k` tokens entries of highest score among dead features write to all their targets; the
    loss is their squared error over that of the reconstruction. `error` is the reconstruction minus its target.
    """
    mesh, config = transcoder.mesh, transcoder.config
    count = mesh.sum_features_(torch.stack([d.sum() for d in dead]))
    if config.aux_weight == 0 or not int(count.sum()):
        return 0.0
    chosen = _some_tokens(transcoder, len(error), schedule.turn).to(error.device)
    rows = len(chosen)
    rows_of_all = int(mesh.sum_data_(torch.tensor(rows)))
    if not rows_of_all:
        return 0.0
    left = -error[chosen]
    written = _Written.nothing(transcoder, rows)
    for layer, x in enumerate(reads):
        written.add(_dead_part(transcoder, layer, x[chosen], dead[layer], int(count[layer]), rows_of_all))
    missing = mesh.sum_features_(written.output) - left
    d = config.d_model
    shape = (rows, config.n_layers, d)
    scale = mesh.sum_data_(left.view(shape).square().sum((0, 2))).clamp_min(1e-12)
    loss = mesh.sum_data_(missing.view(shape).square().sum((0, 2))) / scale
    weight = config.aux_weight * 2 / scale
    written.backward(missing * weight.repeat_interleave(d))
    return float(loss.mean())


def _some_tokens(transcoder: Transcoder, tokens: int, turn: int) -> Tensor:
    """Every n-th token of the whole batch, from another one at each step: those of them that this process has.

    The batch is that of all streams one after the other, so it is the same however the streams are shared out.
    """
    mesh, config = transcoder.mesh, transcoder.config
    every = max(1, round(1 / config.aux_share))
    here, share = torch.arange(tokens), max(1, tokens * mesh.data_size // config.streams)
    stream = mesh.data_rank + here // share * mesh.data_size
    return ((stream * share + here % share) % every == turn % every).nonzero().squeeze(1)


def _dead_part(transcoder: Transcoder, layer: int, x: Tensor, dead: Tensor, count: int, rows: int) -> Tensor:
    """What the dead features of a layer write [token, (targets d_model)], a dense product: it is small.

    `count` and `rows` are how many dead features and tokens there are in all processes together.
    """
    parameters, config = transcoder.layers[layer], transcoder.config
    products = getattr(torch, config.products)
    which = dead.nonzero().squeeze(1)
    # Their number differs from step to step, and on a CPU each new shape of a bfloat16 product costs memory for good
    # (oneDNN keeps up to 1,024 of them: 8 GiB of SmolLM2's). So there are few shapes: powers of two.
    empty = (1 << max(6, (len(which) - 1).bit_length())) - len(which)
    encoder, decoder = (pad(part[which], (0, 0, 0, empty)) for part in (parameters.encoder, parameters.decoder))
    h = (x.to(products) @ encoder.to(products).T).float() + pad(parameters.bias[which], (0, empty))
    a = h.relu()
    scores = (a * decoder.norm(dim=1)).detach()
    aux_k = min(config.aux_k or min(512, config.d_model // 2), count)
    if count > aux_k:
        positive = scores[scores > 0]
        a = a * (scores >= kth_largest(positive, aux_k * rows, transcoder.mesh))
    return (a.to(products) @ decoder.to(products)).float()


def _added(gradient: Tensor | None, more: Tensor) -> Tensor:
    return more if gradient is None else gradient + more
