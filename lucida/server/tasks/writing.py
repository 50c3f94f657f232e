"""The text that the model writes before and after an experiment."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lucida.errors import InterventionError
from lucida.interventions import Edit, Plan
from lucida.progress import Progress
from lucida.steering import Sampling, Steer, Stream

if TYPE_CHECKING:
    from lucida.microscope import Microscope

MOST_EDITS = 1_000
"""More changes than this are not held while a text is written: preparing them would take longer than all the rest."""


@dataclass(frozen=True)
class Written:
    """Both texts, and what a reader should know of them."""

    before: str
    after: str
    notes: tuple[str, ...]


def write(scope: "Microscope", prompt: Sequence[int], plan: Plan, max_tokens: int, progress: Progress) -> Written:
    """What the model writes on from the prompt, always the most probable token, as it is and under the edits.

    Every edited feature is held at its new value at its position of the prompt; what is written runs freely. Only what
    runs free with live attention can be written under: else both texts are empty and a note says why.
    """
    reason = _why_not(plan)
    if max_tokens == 0 or reason:
        return Written("", "", (reason,) if max_tokens and reason else ())
    room = scope.model.context - len(prompt)
    if room < 1:
        return Written("", "", ("No text is written: the prompt fills the model's context.",))
    sampling = Sampling(max_tokens=min(max_tokens, room))
    try:
        stream = Stream(
            scope.model, scope.dictionary, list(prompt), {"steered": steers_of(plan.edits)}, sampling=sampling
        )
    except InterventionError as error:
        return Written("", "", (f"No text is written: {error}.",))
    try:
        for count, _ in enumerate(stream, 1):
            progress("writing", count, 2 * sampling.max_tokens)
    except InterventionError as error:
        return Written("", "", (f"No text is written: {error}.",))
    finally:
        stream.close()
    found = stream.generation()
    return Written(found.baseline[0].text, found.steered[0].text, ())


def steers_of(edits: Sequence[Edit]) -> list[Steer]:
    """The same changes for a model that writes: each feature held at its value, at its position of the prompt."""
    return [Steer(e.layer, e.feature, e.after, "clamp", (e.position,), maximum=1.0) for e in edits]


def _why_not(plan: Plan) -> str:
    if plan.mode != "free" or plan.attention != "live":
        return (
            "No text is written: while a text is being written everything runs live, which mode free with live "
            "attention does alone."
        )
    if len(plan.edits) > MOST_EDITS:
        return f"No text is written: {len(plan.edits):,} features are changed, and at most {MOST_EDITS:,} are held."
    return ""
