"""What an intervention did: the answer before and after, and features that were watched."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from lucida.errors import InterventionError
from lucida.interventions.changes import Place
from lucida.interventions.plans import Edit, Move, places_of
from lucida.models.model import Model
from lucida.models.recording import Recording


@dataclass(frozen=True)
class TokenProbability:
    """A token and how probable it is."""

    token: int
    text: str
    probability: float


@dataclass(frozen=True, eq=False)
class Watched:
    """Activations of the features that a sweep was told to watch.

    In a frozen run, where thresholds are frozen too, `after` moves linearly and may pass below zero; what is inactive
    stays so.
    """

    places: tuple[Place, ...]
    before: Float[np.ndarray, " place"]
    after: Float[np.ndarray, " place"]


@dataclass(frozen=True, eq=False)
class Outcome:
    """What the model says at `position`, `baseline` before and `logits` after the edits.

    `layers` is the range of a constrained or iterative run, else all layers; `residual` the stream there after the
    edits, before the final norm.
    """

    edits: tuple[Edit, ...]
    mode: str
    layers: tuple[int, int]
    attention: str
    position: int
    baseline: Float[Tensor, " d_vocab"]
    logits: Float[Tensor, " d_vocab"]
    residual: Float[Tensor, " d_model"]
    moves: tuple[Move, ...]
    watched: Watched
    _model: Model = field(repr=False)
    _recording: Recording | None = field(repr=False)
    _n_positions: int = field(repr=False)

    @property
    def recording(self) -> Recording:
        """The whole forward pass under the edits. Raises InterventionError when a sweep did not keep it."""
        if self._recording is None:
            raise InterventionError('this sweep kept no recordings; run it with keep="recording"')
        return self._recording

    def top_tokens(self, count: int = 10, *, before: bool = False) -> list[TokenProbability]:
        """The most probable next tokens after the edits (or before them)."""
        probabilities = torch.softmax((self.baseline if before else self.logits).double(), -1)
        top = probabilities.topk(min(count, len(probabilities)))
        return [
            TokenProbability(int(i), self._model.token_text(int(i)), float(p))
            for p, i in zip(top.values, top.indices, strict=True)
        ]

    def probability(self, token: str | int, *, before: bool = False) -> float:
        """The probability of one token after the edits (or before them)."""
        logits = self.baseline if before else self.logits
        return float(torch.softmax(logits.double(), -1)[self._model.token_id(token)])

    def logit_difference(self, token: str | int, other: str | int, *, before: bool = False) -> float:
        """The logit of one token minus that of another, after the edits (or before them)."""
        logits = self.baseline if before else self.logits
        return float(logits[self._model.token_id(token)].double() - logits[self._model.token_id(other)].double())

    def uncapped(self, *, before: bool = False) -> Float[Tensor, " d_vocab"]:
        """Logits as the unembedding gave them, in float64: without the soft-cap that some families put on."""
        logits, cap = (self.baseline if before else self.logits).double(), self._model.softcap
        return logits if cap is None else torch.atanh(logits / cap) * cap

    def kl(self) -> float:
        """KL(before || after) of the next token, in nats."""
        before, after = (torch.log_softmax(logits.double(), -1) for logits in (self.baseline, self.logits))
        return max(0.0, float((before.exp() * (before - after)).sum()))

    def share(self, key: Any) -> float:
        """Total activation of a feature or supernode after the edits, as a share of the same before: 1 is unchanged.

        Its features must have been watched. Raises InterventionError when they were not, or were all inactive.
        """
        before, after = self.totals(key)
        if before == 0:
            raise InterventionError("all features of the set were inactive, so there is no share to give")
        return after / before

    def totals(self, key: Any) -> tuple[float, float]:
        """Total activation of a watched feature or supernode, before and after the edits."""
        number = {place: index for index, place in enumerate(self.watched.places)}
        places = places_of(key, self._n_positions)
        missing = next((place for place in places if place not in number), None)
        if missing is not None:
            raise InterventionError(
                f"feature {missing[2]} of layer {missing[0]} at position {missing[1]} was not watched"
            )
        which = [number[place] for place in places]
        return float(self.watched.before[which].sum()), float(self.watched.after[which].sum())
