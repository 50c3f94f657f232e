"""Does the local replacement model answer a small push as the model does? The residual stream 1, 2 and 4 layers on.

"Circuit Tracing" (2025), section "Evaluating mechanistic faithfulness", perturbation experiments. In both attention
patterns are held. The model's norms and MLPs run live; in the local replacement model norms keep their denominators,
MLPs are features of its own stream, and errors stay as they were.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from lucida.evaluation.ablation import graph_features
from lucida.evaluation.basis import DictionaryBasis
from lucida.evaluation.running import Reconstructing
from lucida.models.frozen import frozen_attention, frozen_norms
from lucida.models.linear import FrozenModel
from lucida.models.model import Model
from lucida.models.taps import MLPCall, at_mlps, contribution_site, run_body
from lucida.progress import Progress, silent
from lucida.replacement import FeatureSources
from lucida.validation.subject import Subject

STEPS = (1, 2, 4)
"""Layers after the push at which the streams are compared."""
RISE = 0.1
"""A push along a feature's encoder raises the feature by this share of its activation."""
BATCH = 16
KINDS = ("encoder", "random")
"""A push along the encoder of a feature, and one of the same length in a random direction."""
MODELS = ("replacement", "idle")
"""What is compared with the model: the local replacement model, and one whose MLPs do not answer at all."""


@dataclass(frozen=True)
class Agreement:
    """Change of the residual stream against the model's, for every push. NaN where the model has no such layer.

    `cosine` of the two changes; `error` is |difference|^2 / |change in the model|^2. Over positions from the push on.
    """

    cosine: Float[np.ndarray, "model kind push step"]
    error: Float[np.ndarray, "model kind push step"]


@dataclass(frozen=True)
class Pushes:
    """Small changes of the stream that enters a block."""

    layer: Int[np.ndarray, " push"]
    position: Int[np.ndarray, " push"]
    vector: Float[Tensor, "push d_model"]

    def __len__(self) -> int:
        return len(self.layer)

    def take(self, which: np.ndarray) -> "Pushes":
        """The pushes with the given indices."""
        return Pushes(self.layer[which], self.position[which], self.vector[torch.from_numpy(which)])


@torch.no_grad()
def measure_agreement(
    subject: Subject, count: int, generator: np.random.Generator, *, progress: Progress = silent
) -> Agreement:
    """Push the stream at `count` features of the graph, along the encoder and at random, and compare both models.

    Needs a dictionary. Costs three forward passes of the prompt for each push.
    """
    assert subject.basis is not None
    pushes = choose_pushes(subject, count, generator)
    number = len(pushes) // len(KINDS)
    # Pushes of neighbouring layers share a batch: features are encoded only where one can be felt.
    order = np.argsort(pushes.layer, kind="stable")
    cosine, error = (np.full((len(MODELS), len(pushes), len(STEPS)), np.nan) for _ in range(2))
    done = 0
    for part in np.array_split(order, max(1, -(-len(order) // BATCH))):
        progress("pushes", done, len(order))
        batch = pushes.take(part)
        own = _changes(subject.view, batch, [frozen_attention(subject.view.model, subject.view.recording)])
        for index, name in enumerate(MODELS):
            other = _changes(subject.view, batch, _stand_in(subject, batch, idle=name == "idle"))
            for row, push in enumerate(part):
                cosine[index, push], error[index, push] = _compare(own[row], other[row])
        done += len(part)
    progress("pushes", len(order), len(order))
    shape = (len(MODELS), len(KINDS), number, len(STEPS))
    return Agreement(cosine.reshape(shape), error.reshape(shape))


def choose_pushes(subject: Subject, count: int, generator: np.random.Generator) -> Pushes:
    """Pushes at drawn features: first all along encoders, then all at random."""
    view, basis, features = subject.view, subject.basis, subject.features
    assert basis is not None
    table = subject.graph.nodes
    room = features[table.layer[features] + STEPS[-1] <= view.n_layers]
    features = room if len(room) >= count else features
    chosen = np.sort(generator.choice(features, min(count, len(features)), replace=False))
    active = graph_features(subject.graph, chosen)
    sources = FeatureSources(view, basis.dictionary, sink_positions=subject.sink_positions)
    read, _ = sources.read_vectors(active)
    size = RISE * active.activation.to(read.device)[:, None] / read.square().sum(1, keepdim=True).clamp_min(1e-20)
    along = read * size
    noise = torch.from_numpy(generator.standard_normal(tuple(along.shape))).to(along)
    turned = noise * (along.norm(dim=1, keepdim=True) / noise.norm(dim=1, keepdim=True))
    layer, position = (column[chosen].astype(np.int64) for column in (table.layer, table.position))
    return Pushes(np.tile(layer, 2), np.tile(position, 2), torch.cat((along, turned)))


def _changes(view: FrozenModel, pushes: Pushes, frozen: Sequence[Any]) -> list[list[Tensor | None]]:
    """For each push and step the change of the stream [pos, d_model] from the pushed position on.

    `frozen` are contexts that set the model up. The first row of the batch is not pushed: it is what others differ by.
    """
    found: list[list[Tensor | None]] = [[None] * len(STEPS) for _ in range(len(pushes))]

    def visit(layer: int, residual: Tensor) -> Tensor | None:
        for row, (start, position) in enumerate(zip(pushes.layer.tolist(), pushes.position.tolist(), strict=True)):
            if layer - start in STEPS:
                change = residual[row + 1, position:].float() - residual[0, position:].float()
                found[row][STEPS.index(layer - start)] = change
        here = np.flatnonzero(pushes.layer == layer)
        if not len(here):
            return None
        pushed = residual.clone()
        for row in here.tolist():
            pushed[row + 1, int(pushes.position[row])] += pushes.vector[row].to(residual)
        return pushed

    rows = torch.tensor([view.recording.prompt.tokens]).repeat(len(pushes) + 1, 1)
    with ExitStack() as stack:
        for context in frozen:
            stack.enter_context(context)
        stack.enter_context(at_blocks(view.model, visit))
        run_body(view.model, rows)
    return found


@contextmanager
def at_blocks(model: Model, visit: Callable[[int, Tensor], Tensor | None]) -> Iterator[None]:
    """Call `visit(layer, residual)` with the stream that enters every block, and the final norm as one layer more; what
    it returns, if anything, takes its place.
    """

    def entering(layer: int) -> Callable[..., Any]:
        def hook(_module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> Any:
            value = visit(layer, args[0] if args else kwargs["hidden_states"])
            if value is None:
                return None
            return ((value, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": value})

        return hook

    modules = [*(layer.block for layer in model.layers), model.final_norm_module]
    handles = [m.register_forward_pre_hook(entering(i), with_kwargs=True) for i, m in enumerate(modules)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _stand_in(subject: Subject, pushes: Pushes, *, idle: bool) -> list[Any]:
    """The contexts in which the model runs as its local replacement model, or with MLPs that do not answer."""
    view, basis = subject.view, subject.basis
    assert basis is not None
    model, recording = view.model, view.recording
    reconstructing = Reconstructing(basis)
    first, last = int(pushes.layer.min()), int(pushes.layer.max()) + STEPS[-1]
    waiting = basis.dictionary.writes_at == "mlp_out"

    def visit(call: MLPCall) -> Tensor | None:
        if call.at != contribution_site(model):
            return None
        contribution = view.mlp_contribution(call.layer).expand(len(pushes) + 1, -1, -1)
        if idle or not first <= call.layer < last:
            return contribution
        x = frozen_site(view, call, basis)
        written = reconstructing.layer(call.layer, x.flatten(0, 1))
        if written is None:
            return contribution
        change = written.view(x.shape) - written.view(x.shape)[:1]
        change[:, : subject.sink_positions] = 0
        if waiting:
            positions = torch.arange(x.shape[1], device=x.device).repeat(len(x))
            change = view.push_output(call.layer, change.flatten(0, 1), positions).view(x.shape)
        return contribution + change

    return [frozen_attention(model, recording), frozen_norms(model, recording), at_mlps(model, visit)]


def frozen_site(view: FrozenModel, call: MLPCall, basis: DictionaryBasis) -> Float[Tensor, "row pos d_model"]:
    """What a dictionary reads while the norms' denominators are held."""
    norm = view.model.norm(view.model.layers[call.layer].mlp_norm)
    if basis.reads_at == "mlp_in":
        return call.mlp_in.float()
    x = call.residual.float()
    if basis.reads_at == "resid_mid" or norm is None:
        return x
    return x * norm.scale(view.recording.residual_mid[call.layer]).unsqueeze(-1)


def _compare(own: Sequence[Tensor | None], other: Sequence[Tensor | None]) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and normalised error at every step."""
    cosine, error = (np.full(len(STEPS), np.nan) for _ in range(2))
    for step, (a, b) in enumerate(zip(own, other, strict=True)):
        if a is None or b is None or not a.any():
            continue
        a, b = a.double().flatten(), b.double().flatten()
        cosine[step] = float(a @ b / (a.norm() * b.norm()).clamp_min(1e-300))
        error[step] = float((a - b).square().sum() / a.square().sum())
    return cosine, error
