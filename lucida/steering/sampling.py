"""The next token of a row: the most probable one, or one drawn by the row's own generator."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lucida.errors import InterventionError


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn and when a text ends.

    `temperature` 0 takes the most probable token. Otherwise logits are divided by it, then only the `top_k` most
    probable tokens are kept, then of these the fewest whose probabilities add up to `top_p`. Raises InterventionError
    for numbers that cannot be meant.
    """

    max_tokens: int = 64
    temperature: float | int = 0.0
    top_k: int | None = None
    top_p: float | int | None = None
    seed: int = 0
    samples: int = 1
    stop: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        wrong = [
            (self.max_tokens < 1, f"max_tokens is {self.max_tokens}; ask for at least one"),
            (self.samples < 1, f"samples is {self.samples}; ask for at least one"),
            (
                not (math.isfinite(self.temperature) and self.temperature >= 0),
                f"temperature is {self.temperature}; give a finite number from 0 (always the most probable token)",
            ),
            (
                self.samples > 1 and self.temperature == 0,
                f"{self.samples} samples at temperature 0 are all the same text; give a temperature such as 0.8",
            ),
            (self.top_k is not None and self.top_k < 1, f"top_k is {self.top_k}; give a whole number from 1"),
            (
                self.top_p is not None and not 0 < self.top_p <= 1,
                f"top_p is {self.top_p}; give a share above 0 and up to 1",
            ),
            ("" in self.stop, "a stop string is empty; give the text to stop at"),
            (not 0 <= self.seed < 1 << 62, f"seed is {self.seed}; give a whole number from 0"),
        ]
        for is_wrong, line in wrong:
            if is_wrong:
                raise InterventionError(line)


def generator_of(seed: int, sample: int) -> torch.Generator:
    """The generator of one sample: that of seed + sample, so that it draws the same whatever it is batched with."""
    return torch.Generator().manual_seed(seed + sample)


def choose(
    logits: Float[Tensor, "row d_vocab"], sampling: Sampling, generators: Sequence[torch.Generator]
) -> tuple[list[int], list[float]]:
    """The next token of each row, and its log-probability (nats) before temperature and cuts."""
    if sampling.temperature == 0:
        tokens = logits.argmax(-1)
    else:
        drawn = [_draw(row, sampling, generator) for row, generator in zip(logits, generators, strict=True)]
        tokens = torch.tensor(drawn, device=logits.device)
    chosen = logits.gather(1, tokens[:, None])[:, 0] - logits.logsumexp(-1)
    return tokens.tolist(), chosen.tolist()


def _draw(logits: Float[Tensor, " d_vocab"], sampling: Sampling, generator: torch.Generator) -> int:
    """One token by inverting the distribution function at a uniform number, in double precision.

    The draw is in the order of the vocabulary, so that rounding in the logits almost never changes it.
    """
    probabilities = torch.softmax(logits.double().cpu() / sampling.temperature, -1)
    if sampling.top_k is not None and sampling.top_k < len(probabilities):
        least = probabilities.topk(sampling.top_k).values[-1]
        probabilities = torch.where(probabilities >= least, probabilities, 0.0)
        probabilities = probabilities / probabilities.sum()
    if sampling.top_p is not None and sampling.top_p < 1:
        ordered, order = probabilities.sort(descending=True, stable=True)
        probabilities[order[(ordered.cumsum(0) - ordered) >= sampling.top_p]] = 0.0
    total = probabilities.cumsum(0)
    uniform = torch.rand((), generator=generator, dtype=torch.float64) * total[-1]
    # Tokens of probability 0 take no room: the first sum above the number belongs to one with some.
    return min(int(torch.searchsorted(total, uniform, right=True)), int(probabilities.nonzero()[-1]))
