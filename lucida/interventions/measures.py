"""What interventions amount to over many samples: one number for each outcome, and its interval."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lucida.errors import InterventionError
from lucida.interventions.changes import Key
from lucida.interventions.outcome import Outcome
from lucida.statistics import Interval, bootstrap, mean

Measure = Callable[[Outcome], float]
"""One number of one outcome, such as its KL divergence."""


@dataclass(frozen=True)
class Effect:
    """A measure before and after, and the difference."""

    before: float
    after: float

    @property
    def change(self) -> float:
        """After minus before."""
        return self.after - self.before


def probability(outcome: Outcome, token: str | int) -> Effect:
    """The probability of a token."""
    return Effect(outcome.probability(token, before=True), outcome.probability(token))


def logit_difference(outcome: Outcome, token: str | int, other: str | int) -> Effect:
    """The logit of one token minus that of another."""
    return Effect(outcome.logit_difference(token, other, before=True), outcome.logit_difference(token, other))


def kl(outcome: Outcome) -> float:
    """KL(before || after) of the next token, in nats."""
    return outcome.kl()


def supernode(outcome: Outcome, key: Key) -> Effect:
    """The total activation of a watched feature or supernode. Raises InterventionError when it was not watched."""
    return Effect(*outcome.totals(key))


def is_flipped(outcome: Outcome) -> bool:
    """Whether the most probable token is another one."""
    return int(outcome.logits.argmax()) != int(outcome.baseline.argmax())


def summarise(outcomes: Sequence[Outcome], measure: Measure, *, seed: int = 0) -> Interval | None:
    """The mean of a measure over independent samples (prompts, or ablations of one) with its bootstrap interval.

    Outcomes on which the measure is not defined (NaN) do not count; None when there is no other.
    """
    return mean(np.array([float(measure(outcome)) for outcome in outcomes]), seed=seed)


def against_controls(
    outcomes: Sequence[Outcome], controls: Sequence[Sequence[Outcome]], measure: Measure, *, seed: int = 0
) -> Interval | None:
    """Mean of the measure of each outcome minus that of its own controls, with the interval over outcomes.

    Raises InterventionError when an outcome has no control.
    """
    if len(outcomes) != len(controls) or not all(len(own) for own in controls):
        raise InterventionError(f"{len(outcomes)} outcomes need controls each; found {[len(c) for c in controls][:8]}")
    gaps = np.array(
        [
            measure(outcome) - np.mean([measure(control) for control in own])
            for outcome, own in zip(outcomes, controls, strict=True)
        ]
    )
    return bootstrap(lambda drawn: gaps[drawn].mean(1), len(gaps), seed=seed)
