"""The training loop."""

import hashlib
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lucida.atomic import replacing
from lucida.dictionaries import Dictionary
from lucida.errors import SaveError, TrainingError
from lucida.models.model import Model
from lucida.progress import Progress, silent
from lucida.training.activations import Activations, Rows
from lucida.training.checkpoint import RunState, load_checkpoint, save_checkpoint
from lucida.training.config import TrainingConfig
from lucida.training.export import calibrate, export, start_from
from lucida.training.memory import refuse_too_large
from lucida.training.mesh import Mesh
from lucida.training.normalise import Normalisation
from lucida.training.step import Outcome, Schedule, step
from lucida.training.transcoder import Transcoder

CALIBRATION_TOKENS = 50_000
LEAST_THRESHOLD = 1e-3
"""In normalised units. The gradient of a jumprelu threshold is proportional to it: one that is 0 would stay there."""


@dataclass(frozen=True)
class Metrics:
    """How a run stands after a step; one line of ``metrics.jsonl``."""

    step: int
    tokens: int
    nmse: float
    """Mean over layers, of the last batch."""
    nmse_by_layer: list[float]
    l0: float
    """Active features per token, all layers together."""
    l0_by_layer: list[float]
    dead: float
    """Share of features that have not fired for long."""
    aux: float
    penalty: float
    learning_rate: float
    tokens_per_second: float
    seconds: float


Watch = Callable[[Metrics], None]


def train(
    model: Model,
    rows: Rows,
    config: TrainingConfig,
    folder: str | Path,
    *,
    mesh: Mesh | None = None,
    start: Dictionary | None = None,
    name: str | None = None,
    watch: Watch | None = None,
    progress: Progress | None = None,
) -> Dictionary:
    """Train a transcoder on what `model` does with `rows`, and return it as a dictionary.

    `folder` holds the checkpoint, from which a stopped run goes on exactly where it was, and ``metrics.jsonl``.
    `start` gives the first weights (a dictionary of the same shape). `watch` is called once per second or so.

    Raises TrainingError when the run does not fit in memory, cannot resume, or its loss is not finite (the last
    checkpoint is kept), and when its processes were given different things; SaveError when the disk is full.
    """
    folder, mesh, progress = Path(folder), mesh or Mesh(), progress or silent
    refuse_too_large(config, mesh, model.device)
    activations = Activations(model, rows, config, mesh=mesh)
    _refuse_disagreement(activations)
    state = new_state(activations)
    if not load_checkpoint(state, folder / "checkpoint", mesh):
        progress("measuring activations", 0, None)
        begin(state, activations, start)
    began, saved = time.monotonic() - state.seconds, time.monotonic()
    reporter = _Reporter(config, mesh, folder, watch, progress, state.step)
    while state.step < config.n_steps:
        outcome = advance(state, activations)
        state.seconds = time.monotonic() - began
        if not math.isfinite(outcome.loss + outcome.gradient):
            raise TrainingError(_not_finite(outcome, state.step, folder))
        reporter.report(state, outcome)
        if mesh.of_first(time.monotonic() - saved) > 60 * config.checkpoint_minutes:
            save_checkpoint(state, folder / "checkpoint", mesh)
            saved = time.monotonic()
    save_checkpoint(state, folder / "checkpoint", mesh)
    return finish(state, activations, name=name or folder.name, model_name=model.name or None, progress=progress)


def _refuse_disagreement(activations: Activations) -> None:
    """Raise TrainingError, in every process, when they do not train the same thing: they would wait for each other."""
    mesh, model, config = activations.mesh, activations.model, activations.config
    what = f"{config.to_json()} {model.name} {model.dtype} {getattr(activations.rows, 'fingerprint', '')}"
    number = float(int(hashlib.sha256(what.encode()).hexdigest()[:12], 16))
    if not mesh.every(mesh.of_first(number) == number):
        raise TrainingError(
            f"the {mesh.size} processes of this run differ in settings, model, its type or text; this one has "
            f"{' '.join(what.split())}"
        )


def new_state(activations: Activations) -> RunState:
    """The state of a run before anything was measured: random weights, no normalisation."""
    config, device = activations.config, activations.model.device
    transcoder = Transcoder(config, mesh=activations.mesh, device=str(device))
    parameters = [tensor for _, tensor in transcoder.named()]
    optimiser = torch.optim.Adam(parameters, lr=0.0, betas=(config.beta1, config.beta2), fused=True)
    silence = [torch.zeros(len(p.bias), dtype=torch.int32, device=device) for p in transcoder.layers]
    means, scales = torch.zeros(config.n_layers, config.d_model), torch.ones(config.n_layers)
    return RunState(
        transcoder,
        optimiser,
        Normalisation(means, scales, means, scales).to(device),
        silence,
        data=getattr(activations.rows, "fingerprint", ""),
    )


def begin(state: RunState, activations: Activations, start: Dictionary | None = None) -> None:
    """Measure means and scales, and set the first weights: those of `start`, or some taken from data."""
    state.normalisation = activations.normalisation().to(state.transcoder.device)
    if start is not None:
        start_from(state.transcoder, state.normalisation, start)
        return
    first = activations.compute(0, 0)
    reads = [state.normalisation.read(layer, x[first.usable]) for layer, x in enumerate(first.reads)]
    writes = [state.normalisation.write(layer, y[first.usable]) for layer, y in enumerate(first.writes)]
    state.transcoder.start(reads, writes)


def advance(state: RunState, activations: Activations) -> Outcome:
    """One step: a batch, its gradients, Adam."""
    config, transcoder, mesh = activations.config, state.transcoder, activations.mesh
    batch = activations.batch(state.step)
    reads = [state.normalisation.read(layer, x) for layer, x in enumerate(batch.reads)]
    writes = [state.normalisation.write(layer, y) for layer, y in enumerate(batch.writes)]
    limit = silent_limit(config)
    dead = [steps > limit for steps in state.silent_steps]
    for _, tensor in transcoder.named():
        tensor.grad = None
    outcome = step(transcoder, reads, writes, schedule(config, state.step, state.low), dead)
    for group in state.optimiser.param_groups:
        group["lr"] = learning_rate(config, state.step)
    outcome.gradient = float(clip_gradients(transcoder, config.clip, mesh))
    state.optimiser.step()
    with torch.no_grad():
        for parameters in transcoder.layers:
            if parameters.threshold is not None:
                parameters.threshold.clamp_(min=LEAST_THRESHOLD)
    for steps, fired in zip(state.silent_steps, outcome.fired, strict=True):
        steps.add_(1).masked_fill_(fired, 0)
    state.low = 0.9 * outcome.cut
    state.l0 = outcome.l0 if state.l0 is None else 0.98 * state.l0 + 0.02 * outcome.l0
    state.step += 1
    return outcome


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Linear rise, constant, linear fall to 0."""
    done = step / config.n_steps
    rise = (step + 1) / max(1.0, config.warmup * config.n_steps)
    fall = (1 - done) / config.decay if config.decay else 1.0
    return config.learning_rate * min(1.0, rise, fall)


def schedule(config: TrainingConfig, step: int, low: float) -> Schedule:
    """What the step with this number aims at: `k` annealed from `anneal_from` times, the penalty ramped up."""
    done = step / config.n_steps
    left = max(0.0, 1 - done / config.anneal) if config.anneal else 0.0
    k = min(config.k * (1 + (config.anneal_from - 1) * left), max(config.k, config.n_features / 2))
    budget = max(1, round(k * config.n_layers * config.batch_tokens))
    return Schedule(budget=budget, penalty=config.penalty_weight * done, low=low, turn=step)


def silent_limit(config: TrainingConfig) -> int:
    """Steps without firing after which a feature is dead."""
    tokens = min(10_000_000, config.dead_after * config.n_tokens)
    return max(10, round(tokens / config.batch_tokens))


@torch.no_grad()
def clip_gradients(transcoder: Transcoder, limit: float, mesh: Mesh) -> Tensor:
    """Scale all gradients so that their norm, over the features of all processes, is at most `limit`."""
    sharded = torch.zeros((), dtype=torch.float64, device=transcoder.device)
    for name, tensor in transcoder.named():
        if tensor.grad is not None and name != "decoder_bias":
            sharded += (
                tensor.grad.double().square().sum() if tensor.numel() < 1 << 12 else tensor.grad.norm().double() ** 2
            )
    total = mesh.sum_features_(sharded)
    if transcoder.decoder_bias.grad is not None:
        total = total + transcoder.decoder_bias.grad.norm().double() ** 2
    norm = total.sqrt()
    if limit > 0 and norm > limit:
        scale = (limit / norm).float()
        for _, tensor in transcoder.named():
            if tensor.grad is not None:
                tensor.grad.mul_(scale)
    return norm


def finish(
    state: RunState, activations: Activations, *, name: str, model_name: str | None, progress: Progress
) -> Dictionary:
    """The trained dictionary: calibrated on tokens after the last that were trained on, and folded."""
    config, cuts = activations.config, None
    if config.activation == "batchtopk":
        assert state.l0 is not None
        l0 = state.l0 * (config.k * config.n_layers / float(state.l0.sum()))
        cuts = calibrate(state.transcoder, _calibration_reads(state, activations, progress), l0)
    return export(state.transcoder, state.normalisation, cuts, name=name, model_name=model_name)


def _calibration_reads(state: RunState, activations: Activations, progress: Progress) -> list[Tensor]:
    """By layer, this process's part of about CALIBRATION_TOKENS normalised activations that come after the run's."""
    config, own = activations.config, activations.own_streams
    first = math.ceil(config.n_steps / activations.steps_per_block)
    wanted = max(1, math.ceil(CALIBRATION_TOKENS * config.streams / config.block_tokens))
    turns = [turn for turn in range(wanted) if turn % config.streams in own]
    empty = torch.zeros(0, config.d_model, device=state.transcoder.device)
    reads = [[empty] for _ in range(config.n_layers)]
    for done, turn in enumerate(turns):
        progress("calibrating thresholds", done, len(turns))
        part = activations.compute(first + turn // config.streams, turn % config.streams)
        for layer in range(config.n_layers):
            reads[layer].append(state.normalisation.read(layer, part.reads[layer, part.usable]))
    progress("calibrating thresholds", len(turns), len(turns))
    return [torch.cat(parts) for parts in reads]


class _Reporter:
    """Writes metrics.jsonl and tells `watch` and `progress`, about once per second, in the first process."""

    def __init__(
        self, config: TrainingConfig, mesh: Mesh, folder: Path, watch: Watch | None, progress: Progress, step: int
    ) -> None:
        self.config, self.mesh, self.watch, self.progress = config, mesh, watch, progress
        self.path = folder / "metrics.jsonl"
        self.last, self.last_step = time.monotonic(), step
        if mesh.is_first and self.path.exists():
            _forget_after(self.path, step)

    def report(self, state: RunState, outcome: Outcome) -> None:
        now, config = time.monotonic(), self.config
        is_due = now - self.last >= 1 or state.step == config.n_steps
        if not self.mesh.of_first(float(is_due)):
            return
        metrics = self._metrics(state, outcome, now)
        self.last, self.last_step = now, state.step
        if not self.mesh.is_first:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(vars(metrics)) + "\n")
        except OSError as error:
            raise SaveError(f"cannot write {self.path}: {error.strerror}; free some space and start again") from error
        if self.watch is not None:
            self.watch(metrics)
        line = f"training: NMSE {metrics.nmse:.3f}, L0 {metrics.l0:.0f}, dead {metrics.dead:.1%}"
        self.progress(line, metrics.tokens, config.n_steps * config.batch_tokens)

    def _metrics(self, state: RunState, outcome: Outcome, now: float) -> Metrics:
        config, limit = self.config, silent_limit(self.config)
        dead = self.mesh.sum_features_(torch.stack([(steps > limit).sum() for steps in state.silent_steps]).sum())
        return Metrics(
            step=state.step,
            tokens=state.step * config.batch_tokens,
            nmse=float(outcome.nmse.mean()),
            nmse_by_layer=[round(float(v), 5) for v in outcome.nmse],
            l0=float(outcome.l0.sum()),
            l0_by_layer=[round(float(v), 3) for v in outcome.l0],
            dead=int(dead) / (config.n_layers * config.n_features),
            aux=outcome.aux,
            penalty=outcome.penalty,
            learning_rate=learning_rate(config, state.step - 1),
            tokens_per_second=(state.step - self.last_step) * config.batch_tokens / max(1e-9, now - self.last),
            seconds=state.seconds,
        )


def _forget_after(path: Path, step: int) -> None:
    """Drop the lines of steps that are done again after a kill, and one that the kill cut short."""
    kept = []
    for line in path.read_text("utf-8", errors="replace").splitlines(keepends=True):
        try:
            if line.endswith("\n") and json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            continue
    with replacing(path) as temporary:
        temporary.write_text("".join(kept), "utf-8")


def _not_finite(outcome: Outcome, step: int, folder: Path) -> str:
    layers = [layer for layer, value in enumerate(outcome.nmse.tolist()) if not math.isfinite(value)]
    what = f"loss of layers {layers}" if layers else "gradient"
    kept = folder / "checkpoint"
    rest = f"the last good checkpoint is {kept}" if kept.exists() else "there is no checkpoint yet"
    return f"the {what} is not finite at step {step}; {rest}; try a lower learning rate or float32"
