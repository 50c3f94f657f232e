"""What steering did to the text: how often it says something, how likely the model finds it, how much it repeats."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lucida.errors import InterventionError
from lucida.models.model import Model
from lucida.models.taps import run
from lucida.statistics import Interval, mean
from lucida.steering.generate import Generation, Sample

ROW_TOKENS = 2048
"""Tokens read at once when texts are scored."""


@dataclass(frozen=True)
class TextStatistics:
    """The samples of one condition in numbers: means over samples with 95 % bootstrap intervals.

    `containing` is the share of samples in which a pattern is found. `log_probability` is the mean over a sample's
    tokens of log p under the *unsteered* model, in nats: how broken the text is (compare with the baseline's).
    `distinct` is by n the share of a text's n-grams of tokens that are different ones: 1 repeats nothing. `changed` is
    the share of samples whose text is not that of the baseline with the same seed (None without a baseline).
    """

    condition: str
    samples: int
    containing: dict[str, Interval | None]
    log_probability: Interval | None
    distinct: dict[int, Interval | None]
    length: Interval | None
    changed: Interval | None


def text_statistics(
    model: Model, generation: Generation, patterns: Sequence[str] = (), *, ngrams: Sequence[int] = (1, 2, 3)
) -> tuple[TextStatistics, ...]:
    """The statistics of every condition of a generation. `patterns` are regular expressions, in any case of letters.

    Raises InterventionError for a pattern that is none.
    """
    compiled = {pattern: _compile(pattern) for pattern in patterns}
    scores = log_probabilities(model, generation)
    plain = {sample.sample: sample.text for sample in generation.baseline}
    found = []
    for condition in generation.conditions:
        samples = generation.of(condition)
        own = [scores[i] for i, sample in enumerate(generation.samples) if sample.condition == condition]
        found.append(
            TextStatistics(
                condition,
                len(samples),
                {p: _mean([bool(c.search(s.text)) for s in samples]) for p, c in compiled.items()},
                _mean([float(score.mean()) for score in own]),
                {n: _mean([distinct(sample.tokens, n) for sample in samples]) for n in ngrams},
                _mean([len(sample.tokens) for sample in samples]),
                _mean([s.text != plain[s.sample] for s in samples]) if plain else None,
            )
        )
    return tuple(found)


@torch.no_grad()
def log_probabilities(model: Model, generation: Generation) -> list[Float[Tensor, " token"]]:
    """For each sample, log p (nats) of every token it wrote under the model as it is, after the same prompt."""
    start = len(generation.prompt)
    samples = generation.samples
    longest = max((len(sample.tokens) for sample in samples), default=0)
    at_once = max(1, ROW_TOKENS // (start + longest))
    found = []
    for first in range(0, len(samples), at_once):
        part = samples[first : first + at_once]
        # What stands behind a text's end cannot be seen from within it: any token fills the row.
        rows = [list(generation.prompt.tokens) + _filled(sample, longest) for sample in part]
        residual = run(model, torch.tensor(rows), lambda _call: None)
        for row, sample in zip(residual, part, strict=True):
            logits = model.logits(row[start - 1 : start - 1 + len(sample.tokens)])
            tokens = torch.tensor(sample.tokens, device=logits.device, dtype=torch.int64)
            found.append(torch.log_softmax(logits, -1).gather(1, tokens[:, None])[:, 0].cpu())
    return found


def _filled(sample: Sample, length: int) -> list[int]:
    return [*sample.tokens, *[0] * (length - len(sample.tokens))]


def distinct(tokens: Sequence[int], n: int) -> float:
    """The share of the n-grams of a text that are different ones; NaN for a text shorter than n."""
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return len(set(grams)) / len(grams) if grams else float("nan")


def _mean(values: Sequence[float | int]) -> Interval | None:
    return mean(np.array(values, dtype=np.float64))


def _compile(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern, re.IGNORECASE)
    except re.error as error:
        raise InterventionError(f"{pattern!r} is not a regular expression: {error}") from error
