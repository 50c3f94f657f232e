"""sweep(): many interventions on one prompt as one batch; intervene() is a sweep of one.

Four modes (Circuit Tracing 2025, "Validating attribution graph hypotheses with interventions"; docs/method.md).
Every row of the batch is a copy of the prompt with its own edits, mode and range of layers. A row in which nothing has
been written is the recorded prompt, and is taken from the recording: a null intervention is the identity to the bit.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from lucida.dictionaries import Dictionary
from lucida.errors import InterventionError
from lucida.interventions.batch import Batch
from lucida.interventions.changes import Attention, Case, Edits, Key, Mode, Place
from lucida.interventions.outcome import Outcome, Watched
from lucida.interventions.plans import Plan, places_of, resolve
from lucida.interventions.probe import Probe
from lucida.models.frozen import frozen_attention, frozen_norms
from lucida.models.linear import FrozenModel
from lucida.models.model import Model, PromptLike
from lucida.models.recording import Recording, eager_attention, record, recording_rows
from lucida.models.taps import at_mlps, run_body
from lucida.progress import Progress, silent
from lucida.targets import prompt_position

BATCH_BYTES = 512 << 20
"""Bound on what one batch of rows holds at a time."""
MOST_ROWS = 64
"""More rows at once are no faster."""

Keep = Literal["logits", "recording"]


def intervene(
    model: Model,
    dictionary: Dictionary | None,
    prompt: PromptLike,
    edits: Edits,
    *,
    mode: Mode = "free",
    layers: tuple[int, int] | None = None,
    attention: Attention | None = None,
    position: int = -1,
    watch: Sequence[Key] = (),
) -> Outcome:
    """Run `prompt` with features (or, without a dictionary, neurons) changed.

    `edits` maps nodes, tuples of nodes or (layer, positions, feature) to a factor, Scale, Set, Inhibit or Inject, and
    a Stream to a Direction; a Swap, or a list of these, does too.

    ``free``: everything runs, and each edited feature is held at its new value. ``constrained``: every MLP up to the
    last of `layers` is held at its recording, plus what the edits write inside `layers` (default: from the lowest to
    the highest edited layer). ``iterative``: as constrained, but features that read inside `layers` (default: from the
    lowest edited layer up) are computed anew from the changed stream, and what they change is written too.
    ``frozen``: all MLPs and norms are held: direct effects only. Attention runs live in ``free`` and with the recorded
    patterns in the other modes, unless `attention` says otherwise. What a feature writes to each layer is changed once.

    The answer is read at `position`. `watch` names features whose activation is read too. Raises InterventionError as
    `resolve` does, PromptError for a position outside the prompt, DictionaryError for a dictionary of another shape.
    """
    case = Case(edits, mode, layers, attention)
    return sweep(model, dictionary, prompt, [case], position=position, watch=watch, keep="recording")[0]


@torch.no_grad()
def sweep(
    model: Model,
    dictionary: Dictionary | None,
    prompt: PromptLike,
    cases: Sequence[Case | Edits],
    *,
    position: int = -1,
    watch: Sequence[Key] = (),
    keep: Keep = "logits",
    view: FrozenModel | None = None,
    rows: int | None = None,
    progress: Progress = silent,
) -> list[Outcome]:
    """The outcome of every case, in their order; all run as rows of a batch, each alone in its copy of the prompt.

    A case that is only edits runs free. Outcomes hold logits and the watched features; with `keep` "recording" each
    holds its whole forward pass, which is large. `view` is the recorded prompt where there is one already, `rows` how
    many copies run at once (left out: what fits BATCH_BYTES). Raises as `intervene` does.
    """
    view = view or FrozenModel(model, record(model, model.tokenize(prompt)))
    probe = Probe(view, dictionary)
    plans = resolve(probe, [case if isinstance(case, Case) else Case(case) for case in cases])
    at = prompt_position(position, view.n_positions)
    run = _Run(probe, _watching(probe, watch), keep, at, _baseline(view, at))
    outcomes: dict[int, Outcome] = {}
    for group in _groups(plans):
        size = rows or _rows_at_once(probe, keep, [plans[index] for index in group])
        for start in range(0, len(group), size):
            part = group[start : start + size]
            outcomes.update(zip(part, run.outcomes([plans[index] for index in part]), strict=True))
            progress("interventions", len(outcomes), len(plans))
    return [outcomes[index] for index in range(len(plans))]


def _baseline(view: FrozenModel, at: int) -> Tensor:
    return view.model.logits(view.recording.residual_final[at : at + 1])[0]


def _watching(probe: Probe, watch: Sequence[Key]) -> "_Watching":
    places = list(dict.fromkeys(place for key in watch for place in places_of(key, probe.view.n_positions)))
    for place in places:
        probe.refuse_missing(place)
    before = probe.recorded(places)
    return _Watching(tuple(places), np.array([before[place] for place in places], dtype=np.float64))


def _groups(plans: Sequence[Plan]) -> list[list[int]]:
    """Plans that can run together: with the same attention, and norms frozen or not."""
    found: dict[tuple[bool, str], list[int]] = {}
    for index, plan in enumerate(plans):
        found.setdefault((plan.mode == "frozen", plan.attention), []).append(index)
    return list(found.values())


def _rows_at_once(probe: Probe, keep: Keep, plans: Sequence[Plan]) -> int:
    model, positions = probe.view.model, probe.view.n_positions
    hidden = getattr(model.hf.config, "intermediate_size", None) or 4 * model.d_model
    span = 1 if probe.dictionary is None else probe.dictionary.span
    per_position = 3 * hidden + (8 + span) * model.d_model + 3 * model.n_heads * positions
    if any(plan.mode == "iterative" for plan in plans) and probe.dictionary is not None:
        per_position += 3 * max(probe.width(layer) for layer in probe.dictionary.layers)
    if keep == "recording":
        per_position += model.n_layers * (5 * model.d_model + model.n_heads * positions)
    per_row = 4 * (positions * per_position + 2 * model.d_vocab)
    return max(1, min(MOST_ROWS, BATCH_BYTES // per_row))


@dataclass(frozen=True, eq=False)
class _Watching:
    places: tuple[Place, ...]
    before: np.ndarray


@dataclass(frozen=True, eq=False)
class _Run:
    """What all batches of one sweep share."""

    probe: Probe
    watching: _Watching
    keep: Keep
    at: int
    baseline: Tensor

    def outcomes(self, plans: Sequence[Plan]) -> list[Outcome]:
        """The outcome of each plan; all have the same attention, and are all frozen or none is."""
        batch = Batch(self.probe, plans, self.watching.places, self.watching.before)
        residual, normed, recordings = self._forward(batch, plans[0])
        logits = _unembed(self.probe.view.model, normed)
        self._refuse_overflow(logits, plans)
        after = batch.watched()
        found = []
        for row, plan in enumerate(plans):
            is_same = not bool(batch.touched[row])
            own = self.probe.view.recording.residual_final[self.at]
            recording = None if recordings is None else self.probe.view.recording if is_same else recordings(row)
            found.append(
                Outcome(
                    edits=plan.edits, mode=plan.mode, layers=plan.layers, attention=plan.attention, position=self.at,
                    baseline=self.baseline, logits=self.baseline if is_same else logits[row], moves=plan.moves,
                    residual=own if is_same else residual[row],
                    watched=Watched(self.watching.places, self.watching.before, after[row]),
                    _model=self.probe.view.model, _recording=recording, _n_positions=self.probe.view.n_positions,
                )
            )  # fmt: skip
        return found

    def _forward(self, batch: Batch, plan: Plan) -> tuple[Tensor, Tensor, Callable[[int], Recording] | None]:
        """What the final norm reads and gives at the answer's position of every row, and what gives its recording."""
        view, model = self.probe.view, self.probe.view.model
        tokens = torch.tensor([view.recording.prompt.tokens]).repeat(batch.n_rows, 1)
        with ExitStack() as stack:
            held = frozen_attention(model, view.recording) if plan.attention == "frozen" else eager_attention(model)
            stack.enter_context(held)
            if plan.mode == "frozen":
                stack.enter_context(frozen_norms(model, view.recording))
            stack.enter_context(_moved_streams(batch))
            stack.enter_context(at_mlps(model, batch.visit))
            kept = stack.enter_context(recording_rows(model)) if self.keep == "recording" else None
            normed = stack.enter_context(_normed(model, self.at))
            run_body(model, tokens)
        rows = None if kept is None else lambda row: kept(view.recording.prompt, row)
        return normed[0], normed[1], rows

    def _refuse_overflow(self, logits: Tensor, plans: Sequence[Plan]) -> None:
        broken = torch.nonzero(~torch.isfinite(logits).all(-1)).flatten().tolist()
        if broken:
            edits = plans[broken[0]].edits
            what = (
                f"feature {edits[0].feature} of layer {edits[0].layer} at {edits[0].after:.3g}" if edits else "the move"
            )
            raise InterventionError(f"activations overflow with {what}; use a smaller strength or dtype float32")


def _unembed(model: Model, normed: Tensor) -> Tensor:
    """Logits of what the final norm gave (softcap included); that norm may be frozen while the model runs."""
    logits = model.hf.get_output_embeddings()(normed).float()
    return logits if model.softcap is None else torch.tanh(logits / model.softcap) * model.softcap


@contextmanager
def _normed(model: Model, at: int) -> Iterator[list[Tensor]]:
    """Keep what the final norm reads (in float32) and gives at one position."""
    found: list[Tensor] = []

    def hook(_module: nn.Module, args: tuple, kwargs: dict[str, Any], output: Tensor) -> None:
        residual = args[0] if args else kwargs["hidden_states"]
        found.extend((residual[:, at].float(), output[:, at]))

    # Behind the hook that freezes the norm, whose output this one then sees.
    handle = model.final_norm_module.register_forward_hook(hook, with_kwargs=True)
    try:
        yield found
    finally:
        handle.remove()


@contextmanager
def _moved_streams(batch: Batch) -> Iterator[None]:
    """Apply the moves of the residual stream where it enters their layers."""
    model = batch.probe.view.model
    handles = []

    def entering(layer: int) -> Callable[..., Any]:
        def hook(_module: nn.Module, args: tuple, kwargs: dict) -> Any:
            x = args[0] if args else kwargs["hidden_states"]
            moved = batch.move(layer, x)
            return ((moved, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": moved})

        return hook

    try:
        for layer in batch.moved_layers:
            module = model.final_norm_module if layer == model.n_layers else model.layers[layer].block
            handles.append(module.register_forward_pre_hook(entering(layer), with_kwargs=True))
        yield
    finally:
        for handle in handles:
            handle.remove()
