"""What a trace explains: the model's top tokens, given tokens, or the difference of two."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lucida.errors import PromptError
from lucida.models.linear import FrozenModel
from lucida.models.model import Model
from lucida.sweep import Targets

TargetLike = str | int | tuple[str | int, str | int]


@dataclass(frozen=True)
class LogitTarget:
    """One logit node: a token's demeaned logit, or with `minus` the difference of two logits.

    `weight` is what it counts for in influence: the probability, or 1 for a difference.
    """

    token: int
    minus: int | None
    text: str
    probability: float | None
    weight: float


def choose_targets(
    model: Model,
    logits: Float[Tensor, " d_vocab"],
    targets: Sequence[TargetLike] | TargetLike | None,
    *,
    max_targets: int,
    target_mass: float,
) -> list[LogitTarget]:
    """The logit nodes of a trace, largest weight first (Circuit Tracing 2025, "Output nodes").

    Without `targets` the smallest set of top tokens whose probabilities reach `target_mass`, at
    most `max_targets`. Raises PromptError for an unknown token, naming how it tokenises.
    """
    probabilities = torch.softmax(logits.double(), -1)
    if targets is None:
        if max_targets < 1 or not 0 < target_mass <= 1:
            raise PromptError(
                f"max_targets must be 1 or more and target_mass in (0, 1]; got {max_targets} and {target_mass}"
            )
        top = probabilities.topk(min(max_targets, len(probabilities)))
        enough = int((top.values.cumsum(0) < target_mass).sum()) + 1
        return [_token_target(model, int(i), probabilities) for i in top.indices[:enough]]
    wanted: list[TargetLike] = [targets] if isinstance(targets, str | int | tuple) else list(targets)  # pyright: ignore
    if not wanted:
        raise PromptError("targets is an empty list; leave it out for the model's top tokens")
    chosen = [_given_target(model, target, probabilities) for target in wanted]
    if len({(t.token, t.minus) for t in chosen}) < len(chosen):
        raise PromptError(f"a target is given twice: {', '.join(repr(t.text) for t in chosen)}")
    return sorted(chosen, key=lambda t: -t.weight)


def _token_target(model: Model, token: int, probabilities: Tensor) -> LogitTarget:
    probability = float(probabilities[token])
    return LogitTarget(token, None, model.token_text(token), probability, probability)


def _given_target(model: Model, target: TargetLike, probabilities: Tensor) -> LogitTarget:
    if not isinstance(target, tuple):
        return _token_target(model, model.token_id(target), probabilities)
    if len(target) != 2:
        raise PromptError(f"a difference needs two tokens (A, B), got {target!r}")
    plus, minus = (model.token_id(token) for token in target)
    if plus == minus:
        raise PromptError(f"the difference of {target[0]!r} and itself is zero; give two tokens")
    return LogitTarget(plus, minus, f"{model.token_text(plus)} - {model.token_text(minus)}", None, 1.0)


def logit_targets(view: FrozenModel, targets: Sequence[LogitTarget], position: int) -> Targets:
    """Read vectors of logit targets at `position`: demeaned unembeddings through the frozen final norm.

    A softcap is left out: the target is the logit before it.
    """
    device = view.recording.residual_final.device
    rows, biases = view.model.unembedding(torch.tensor([t.token for t in targets], device=device))
    for row, target in enumerate(targets):
        if target.minus is not None:
            minus, bias = view.model.unembedding(torch.tensor([target.minus], device=device))
            rows[row] -= minus[0]
            biases[row] -= bias[0]
    positions = torch.full((len(targets),), position, device=device)
    vectors, constants = view.pull_logits(rows, positions)
    layer = torch.full_like(positions, view.n_layers)
    return Targets(layer, positions, vectors, constants + biases)


def prompt_position(position: int, length: int) -> int:
    """A position counted from the end when negative. Raises PromptError when outside the prompt."""
    if not -length <= position < length:
        raise PromptError(f"position {position} is outside the prompt of {length} tokens")
    return position % length
