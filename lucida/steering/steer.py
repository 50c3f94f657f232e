"""What to turn while a model writes: one feature or direction, how far, in which way and at which tokens."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from lucida.errors import InterventionError

Variant = Literal["add", "clamp", "scale", "orthogonal"]
Span = Literal["all", "prompt", "generated", "answer"]
Where = Span | tuple[int, ...]


@dataclass(frozen=True)
class Steer:
    """One feature (or raw direction) turned by `strength`, which counts in units of the feature's maximum.

    With a the feature's running activation, m its maximum and d what a unit of it writes, at every layer it writes to:

    * ``add``: add strength x m x d, whatever the feature does by itself;
    * ``clamp``: put the activation at strength x m: add (strength x m - a) d (Templeton et al. 2024,
      "Scaling Monosemanticity", feature steering); 0 ablates;
    * ``scale``: multiply the activation: add (strength - 1) a d; 0 ablates, 1 changes nothing; needs no maximum;
    * ``orthogonal``: keep of the residual stream x behind the layer only what is orthogonal to d, and put the wanted
      amount in the place of the rest: x - d (d.x) / (d.d) + strength x m x d. Strength 0 is directional ablation
      (Arditi et al. 2024). Several such directions at one layer are taken out together.

    `where` is "all" tokens, those of the "prompt", the "generated" ones, the "answer" (the last of the prompt and all
    generated: every place that predicts a generated token), or positions of the prompt, negative ones from its end.
    Without `maximum` it is taken from the feature index, else measured on the prompt. A `direction` [d_model] takes the
    place of a feature: it is added to the residual stream behind `layer`, in units of its own length ("add") or as
    "orthogonal".

    Raises InterventionError for what cannot be meant: no feature, a strength that is not finite, an unknown variant.
    """

    layer: int
    feature: int | None = None
    strength: float | int = 1.0
    variant: Variant = "add"
    where: Where = "all"
    maximum: float | int | None = None
    direction: Float[Tensor, " d_model"] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if (self.feature is None) == (self.direction is None):
            raise InterventionError(f"{self.name}: give either a feature or a direction")
        if self.variant not in get_args(Variant):
            raise InterventionError(f"variant {self.variant!r} is not known; use {', '.join(get_args(Variant))}")
        if not math.isfinite(self.strength):
            raise InterventionError(f"{self.name} cannot be steered by {self.strength}; give a finite strength")
        if self.maximum is not None and not (math.isfinite(self.maximum) and self.maximum > 0):
            raise InterventionError(f"the maximum of {self.name} is {self.maximum}; give a finite number above 0")
        if isinstance(self.where, str) and self.where not in get_args(Span):
            known = ", ".join(get_args(Span))
            raise InterventionError(f"{self.where!r} is no place to steer at; use {known}, or positions of the prompt")
        if self.where == ():
            raise InterventionError(f"{self.name} is to be steered at no position; give one, or leave `where` out")
        if self.direction is not None:
            self._check_direction(self.direction)

    def _check_direction(self, direction: Tensor) -> None:
        if self.variant not in ("add", "orthogonal"):
            raise InterventionError(
                f"a direction has no activation to {self.variant}; use variant add or orthogonal for {self.name}"
            )
        if not torch.isfinite(direction).all() or not direction.any():
            raise InterventionError(f"{self.name} is zero or not finite; give another direction")

    @property
    def name(self) -> str:
        """How it is called in messages: ``feature 345 of layer 12``."""
        what = "the direction" if self.feature is None else f"feature {self.feature}"
        return f"{what} of layer {self.layer}"

    @property
    def place(self) -> str:
        """``12:345``, as the command line has it."""
        return f"{self.layer}:{'direction' if self.feature is None else self.feature}"


def sweep(steers: Sequence[Steer], strengths: Sequence[float | int]) -> dict[str, tuple[Steer, ...]]:
    """One condition for each strength, all steers at it, to be generated as one batch."""
    return {f"{strength:g}": tuple(replace(s, strength=strength) for s in steers) for strength in strengths}


class Dial:
    """Steers that may be changed while a text is being generated: what is set holds from the next token on.

    ``dial.turn(4)`` while tokens stream changes the strength; tokens already read keep theirs in the cache.
    """

    def __init__(self, steers: Sequence[Steer] = ()) -> None:
        """Start with these steers, switched on."""
        self.steers, self.is_on = tuple(steers), True

    @property
    def current(self) -> tuple[Steer, ...]:
        """What steers the next token: nothing while the dial is off."""
        return self.steers if self.is_on else ()

    def turn(self, strength: float | int, place: tuple[int, int] | None = None) -> None:
        """Put all steers, or that of (layer, feature), at another strength.

        Raises InterventionError when there is nothing to turn.
        """
        chosen = [place is None or (s.layer, s.feature) == place for s in self.steers]
        if not any(chosen):
            what = "there is no feature on the dial" if place is None else f"feature {place[0]}:{place[1]} is not on it"
            raise InterventionError(f"the dial cannot be turned: {what}; give it a feature first")
        pairs = zip(self.steers, chosen, strict=True)
        self.steers = tuple(replace(s, strength=strength) if turned else s for s, turned in pairs)

    def set(self, steers: Sequence[Steer]) -> None:
        """Take other steers."""
        self.steers = tuple(steers)

    def off(self) -> None:
        """Steer nothing until `on`."""
        self.is_on = False

    def on(self) -> None:
        """Steer again."""
        self.is_on = True


Steers = Sequence[Steer] | Mapping[str, Sequence[Steer]] | Dial
"""What a text is generated under: steers at once, several named lists of them side by side, or a live dial."""


def refuse_contradictions(steers: Sequence[Steer], prompt_length: int) -> tuple[Steer, ...]:
    """The steers without repetitions. Raises InterventionError where one feature is steered twice at one token, or a
    position lies outside the prompt.
    """
    kept: list[Steer] = []
    for steer in steers:
        places(steer, prompt_length)
        twin = [s for s in kept if s.feature is not None and (s.layer, s.feature) == (steer.layer, steer.feature)]
        if steer in twin:
            continue
        for other in twin:
            if _overlap(places(other, prompt_length), places(steer, prompt_length)):
                raise InterventionError(
                    f"{steer.name} is steered twice at the same tokens: {_said(other)}, and {_said(steer)}"
                )
        kept.append(steer)
    return tuple(kept)


def places(steer: Steer, prompt_length: int) -> tuple[int, ...] | range:
    """The positions of a steer; an open end is `range` with a huge stop. Raises InterventionError past the prompt."""
    if isinstance(steer.where, str):
        first = {"all": 0, "prompt": 0, "generated": prompt_length, "answer": prompt_length - 1}[steer.where]
        return range(first, prompt_length if steer.where == "prompt" else 1 << 60)
    wrong = [p for p in steer.where if not -prompt_length <= p < prompt_length]
    if wrong:
        raise InterventionError(
            f"position {wrong[0]} is outside the prompt of {prompt_length} tokens; what comes after is 'generated'"
        )
    return tuple(sorted({p % prompt_length for p in steer.where}))


def _overlap(a: tuple[int, ...] | range, b: tuple[int, ...] | range) -> bool:
    if isinstance(a, range) and isinstance(b, range):
        return max(a.start, b.start) < min(a.stop, b.stop)
    few, other = (b, a) if isinstance(a, range) else (a, b)
    return any(position in other for position in few)


def _said(steer: Steer) -> str:
    return f"{steer.variant} {steer.strength:g} at {steer.where}"
