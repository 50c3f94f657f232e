"""Which range of layers to hold: the effect of an intervention against its last layer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lucida.dictionaries import Dictionary
from lucida.errors import InterventionError
from lucida.interventions.changes import Attention, Case, Edits
from lucida.interventions.engine import sweep
from lucida.interventions.outcome import Outcome
from lucida.interventions.plans import resolve
from lucida.interventions.probe import Probe
from lucida.models.linear import FrozenModel
from lucida.models.model import Model, PromptLike
from lucida.models.recording import record
from lucida.progress import Progress, silent


@dataclass(frozen=True)
class LayerEffect:
    """The measured effect of a constrained run over `layers`."""

    layers: tuple[int, int]
    effect: float


@dataclass(frozen=True)
class RangeEffects:
    """The effect of one supernode's intervention at every last layer, and the range with the largest.

    `best` is chosen because it is largest, so its effect is biased upwards: report all of `effects`, or choose on
    one prompt and measure on another.
    """

    name: str
    effects: tuple[LayerEffect, ...]
    best: LayerEffect
    note: str = "the range was chosen for its effect: a selection effect"


def best_layers(
    model: Model,
    dictionary: Dictionary | None,
    prompt: PromptLike,
    supernodes: Mapping[str, Edits],
    measure: Callable[[Outcome], float],
    *,
    attention: Attention | None = None,
    last_layers: Sequence[int] | None = None,
    progress: Progress = silent,
) -> list[RangeEffects]:
    """The effect of each supernode's edits, constrained from its lowest layer to every possible last one, in one batch.

    `measure` gives an outcome's effect; the largest is that of the largest size. Raises as `sweep` does.
    """
    view = FrozenModel(model, record(model, model.tokenize(prompt)))
    single = [Case(edits, "constrained", None, attention) for edits in supernodes.values()]
    # Where each one begins and ends is known once its edits are resolved.
    spans = [plan.layers for plan in resolve(Probe(view, dictionary), single)]
    wanted = range(model.n_layers) if last_layers is None else last_layers
    ranges = [[(first, last) for last in wanted if last >= top] for first, top in spans]
    for name, own in zip(supernodes, ranges, strict=True):
        if not own:
            raise InterventionError(f"{name} is edited above the layers {list(wanted)}; give last layers from there up")
    cases = [
        Case(edits, "constrained", layers, attention)
        for edits, own in zip(supernodes.values(), ranges, strict=True)
        for layers in own
    ]
    outcomes = iter(sweep(model, dictionary, prompt, cases, view=view, progress=progress))
    found = []
    for name, own in zip(supernodes, ranges, strict=True):
        effects = tuple(LayerEffect(layers, measure(next(outcomes))) for layers in own)
        found.append(RangeEffects(name, effects, max(effects, key=lambda effect: abs(effect.effect))))
    return found
