"""Turn features up, down or off and see what the model says: the experiment that tests a graph.

Three modes (Circuit Tracing 2025, "Validating attribution graph hypotheses with interventions"):
``frozen`` holds every MLP, norm and attention pattern, so only direct effects remain; ``constrained`` holds
the MLPs up to the last layer of a range and lets the rest run; ``free`` lets everything run.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lucida.dictionaries import Dictionary
from lucida.errors import InterventionError
from lucida.graph import Node
from lucida.models.frozen import frozen_attention, frozen_norms
from lucida.models.linear import FrozenModel
from lucida.models.model import Model, PromptLike, linear
from lucida.models.recording import Recording, record

Mode = Literal["free", "constrained", "frozen"]


@dataclass(frozen=True)
class Scale:
    """Multiply a feature's own activation: 0 ablates, 1 changes nothing, -1 inhibits once."""

    factor: float


def Inhibit(strength: float = 1.0) -> Scale:
    """Steer a feature to `strength` times its activation in the opposite direction (the papers' "-1x")."""
    return Scale(-strength)


@dataclass(frozen=True)
class Set:
    """Put a feature at a value, whether it is active or not."""

    value: float


@dataclass(frozen=True)
class Inject:
    """Put a feature at `strength` times a reference: its activation on a donor prompt, or its maximum."""

    reference: float
    strength: float = 1.0


Change = Scale | Set | Inject | float | int
Key = Node | tuple[Node, ...] | tuple[int, int, int]


@dataclass(frozen=True)
class Edit:
    """One feature at one position, before and after."""

    layer: int
    position: int
    feature: int
    before: float
    after: float


@dataclass(frozen=True)
class TokenProbability:
    """A token and how probable it is."""

    token: int
    text: str
    probability: float


@dataclass(frozen=True)
class Outcome:
    """What the model says at the last position, `baseline` before and `logits` after the edits."""

    edits: tuple[Edit, ...]
    mode: str
    layers: tuple[int, int]
    attention: str
    baseline: Float[Tensor, " d_vocab"]
    logits: Float[Tensor, " d_vocab"]
    recording: Recording
    """The whole forward pass under the edits."""
    _model: Model

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


@torch.no_grad()
def intervene(
    model: Model,
    dictionary: Dictionary | None,
    prompt: PromptLike,
    edits: Mapping[Key, Change],
    *,
    mode: Mode = "free",
    layers: tuple[int, int] | None = None,
    attention: Literal["frozen", "live"] | None = None,
) -> Outcome:
    """Run `prompt` with features (or, without a dictionary, neurons) changed.

    `edits` maps nodes, tuples of nodes or (layer, position, feature) to a factor, Scale, Set, Inhibit or
    Inject. A constrained run holds every MLP up to
    the last of `layers` at its recording and writes the edits to the layers of that range only (default: from the
    lowest to the highest edited layer); a frozen one holds all of them, and the norms. Attention runs live in ``free``
    mode and with the recorded patterns in the others, unless `attention` says otherwise. What a feature writes to
    each layer is changed once. The answer is read at the last position.

    Raises InterventionError for a feature that does not exist, is inactive where it is scaled, or is changed twice.
    """
    recording = record(model, model.tokenize(prompt))
    view = FrozenModel(model, recording)
    probe = _Probe(view, dictionary)
    resolved = _resolve(probe, edits)
    attending, span = _settings(mode, attention, layers, resolved, model.n_layers)
    with ExitStack() as stack:
        if attending == "frozen":
            stack.enter_context(frozen_attention(model, recording))
        if mode == "frozen":
            stack.enter_context(frozen_norms(model, recording))
        if mode == "free":
            stack.enter_context(_live_edits(probe, resolved))
        else:
            stack.enter_context(_clamped_edits(probe, resolved, span))
        after = record(model, recording.prompt, keep_attention=attending == "live")
    baseline, logits = (model.logits(r.residual_final[-1:])[0] for r in (recording, after))
    return Outcome(tuple(resolved), mode, span, attending, baseline, logits, after, model)


class _Probe:
    """Reads and writes of features or neurons, on a recorded prompt and on a running one."""

    def __init__(self, view: FrozenModel, dictionary: Dictionary | None) -> None:
        self.view, self.dictionary = view, dictionary
        self.reads_at = "mlp_in" if dictionary is None else view.reading_site(dictionary.reads_at)
        self.at_residual = dictionary is not None and dictionary.writes_at == "resid"

    def width(self, layer: int) -> int:
        """How many features or neurons the layer has."""
        if self.dictionary is not None:
            return self.dictionary.n_features(layer)
        return self.view.model.mlp_weights(layer).up.shape[0]

    def activations(self, layer: int, site: Tensor) -> Tensor:
        """Activations [pos, feature] from what is read at the site [pos, d_model]."""
        if self.dictionary is not None:
            return self.dictionary.encode(layer, site)
        weights, act = self.view.model.mlp_weights(layer), self.view.model.activation(layer)
        up = linear(site, weights.up, weights.up_bias)
        return act(up) if weights.gate is None else act(linear(site, weights.gate, weights.gate_bias)) * up

    def recorded(self, layer: int) -> Tensor:
        """Activations on the recorded prompt."""
        return self.activations(layer, self.view.site(layer, self.reads_at))

    def directions(self, layer: int, target: int, features: Tensor) -> Tensor:
        """What a unit of each feature of `layer` writes at `target` [feature, d_model], at the writing site."""
        if self.dictionary is not None:
            return self.dictionary.decoder_rows(layer, features, target)
        return self.view.model.mlp_weights(layer).down.T[features]

    def targets(self, layer: int) -> range:
        """The layers that features of `layer` write to."""
        return range(layer, layer + 1) if self.dictionary is None else self.dictionary.writes_to(layer)


def _resolve(probe: _Probe, edits: Mapping[Key, Change]) -> list[Edit]:
    """Every edit as before and after values of single features."""
    wanted: dict[tuple[int, int, int], Change] = {}
    for key, change in edits.items():
        for place in _places(key):
            if place in wanted and wanted[place] != change:
                raise InterventionError(f"{_name(place)} is changed twice, to {wanted[place]} and {change}")
            wanted[place] = change
    recorded: dict[int, Tensor] = {}
    resolved = []
    for (layer, position, feature), change in sorted(wanted.items(), key=lambda item: item[0]):
        _refuse_missing(probe, layer, position, feature)
        if layer not in recorded:
            recorded[layer] = probe.recorded(layer)
        before = float(recorded[layer][position, feature])
        resolved.append(Edit(layer, position, feature, before, _after((layer, position, feature), before, change)))
    return resolved


def _places(key: Any) -> list[tuple[int, int, int]]:
    if isinstance(key, Node):
        if key.kind != "feature" or key.layer is None or key.position is None or key.feature is None:
            raise InterventionError(f"{key.name} is a node of kind {key.kind}; only features can be changed")
        return [(key.layer, key.position, key.feature)]
    if isinstance(key, tuple) and len(key) == 3 and all(isinstance(i, int) for i in key):
        return [key]  # pyright: ignore
    if isinstance(key, tuple) and key and all(isinstance(node, Node) for node in key):
        return [place for node in key for place in _places(node)]
    raise InterventionError(f"{key!r} is not a node, a tuple of nodes or (layer, position, feature)")


def _name(place: tuple[int, int, int]) -> str:
    return "feature {2} of layer {0} at position {1}".format(*place)


def _refuse_missing(probe: _Probe, layer: int, position: int, feature: int) -> None:
    n_layers, n_positions = probe.view.n_layers, probe.view.n_positions
    if not 0 <= layer < n_layers:
        raise InterventionError(f"layer {layer} does not exist; the model has layers 0 to {n_layers - 1}")
    if not 0 <= position < n_positions:
        raise InterventionError(f"position {position} is outside the prompt of {n_positions} tokens")
    width = probe.width(layer)
    if not 0 <= feature < width:
        raise InterventionError(f"feature {feature} does not exist; layer {layer} has {width}")


def _after(place: tuple[int, int, int], before: float, change: Change) -> float:
    if isinstance(change, Set):
        after = change.value
    elif isinstance(change, Inject):
        after = change.strength * change.reference
    else:
        factor = change.factor if isinstance(change, Scale) else float(change)
        if before == 0 and math.isfinite(factor) and factor != 1:
            raise InterventionError(
                f"{_name(place)} is inactive: scaling it changes nothing; use Set or Inject to give it a value"
            )
        after = factor * before
    if not math.isfinite(after):
        raise InterventionError(f"{_name(place)} cannot be put at {after}; give a finite number")
    return after


def _settings(
    mode: str, attention: str | None, layers: tuple[int, int] | None, edits: Sequence[Edit], n_layers: int
) -> tuple[str, tuple[int, int]]:
    if mode not in ("free", "constrained", "frozen"):
        raise InterventionError(f"mode {mode!r} is not known; use free, constrained or frozen")
    attention = attention or ("live" if mode == "free" else "frozen")
    if attention not in ("frozen", "live") or (mode == "frozen" and attention == "live"):
        raise InterventionError(f"attention {attention!r} does not go with mode {mode}")
    if mode != "constrained":
        if layers is not None:
            raise InterventionError(f"layers are for mode constrained; mode is {mode}")
        return attention, (0, n_layers - 1)
    edited = [edit.layer for edit in edits] or [0]
    first, last = layers or (min(edited), max(edited))
    if not (first >= 0 and last < n_layers and first <= last + 1):
        raise InterventionError(f"layers {first} to {last} is not a range of layers 0 to {n_layers - 1}")
    return attention, (first, last)


def _by_layer(edits: Sequence[Edit]) -> dict[int, list[Edit]]:
    grouped: dict[int, list[Edit]] = {}
    for edit in edits:
        grouped.setdefault(edit.layer, []).append(edit)
    return grouped


def _rows(probe: _Probe, source: int, edits: Sequence[Edit], target: int) -> tuple[Tensor, Tensor]:
    """Positions of the edits and the directions they write at `target`."""
    device = probe.view.recording.residual_final.device
    features = torch.tensor([edit.feature for edit in edits], device=device)
    positions = torch.tensor([edit.position for edit in edits], device=device)
    return positions, probe.directions(source, target, features).to(device)


@contextmanager
def _clamped_edits(probe: _Probe, edits: Sequence[Edit], span: tuple[int, int]) -> Iterator[None]:
    """Hold every MLP contribution up to the last layer of `span` at its recording, plus the edits in it."""
    view = probe.view
    held = {layer: view.mlp_contribution(layer).clone() for layer in range(span[1] + 1)}
    for source, group in _by_layer(edits).items():
        for target in probe.targets(source):
            if not span[0] <= target <= span[1]:
                continue
            positions, rows = _rows(probe, source, group, target)
            change = torch.tensor([edit.after - edit.before for edit in group], device=rows.device)
            written = rows * change[:, None]
            if not probe.at_residual:
                written = view.push_output(target, written, positions)
            held[target].index_add_(0, positions, written)
    handles = []
    for layer, contribution in held.items():
        module = view.model.layers[layer].mlp_post_norm or view.model.layers[layer].mlp
        handles.append(module.register_forward_hook(_replace_with(contribution)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _replace_with(contribution: Tensor) -> Any:
    def hook(_module: nn.Module, _args: tuple, output: Any) -> Any:
        first = output[0] if isinstance(output, tuple) else output
        value = contribution.to(first.dtype).expand_as(first)
        return (value, *output[1:]) if isinstance(output, tuple) else value

    return hook


@contextmanager
def _live_edits(probe: _Probe, edits: Sequence[Edit]) -> Iterator[None]:
    """Let the model run and add what moves each edited feature from its running value to the wanted one."""
    model = probe.view.model
    grouped = _by_layer(edits)
    pending: dict[int, Tensor] = {}
    reading: dict[int, Tensor] = {}
    handles = []

    def note(layer: int) -> Any:
        def hook(_module: nn.Module, args: tuple, kwargs: dict) -> None:
            reading[layer] = (args[0] if args else kwargs["hidden_states"])[0].float()

        return hook

    def measure(layer: int) -> Any:
        def hook(_module: nn.Module, args: tuple, _output: Any) -> None:
            _plan(probe, layer, grouped[layer], reading.get(layer), args[0][0].float(), pending)

        return hook

    def write(layer: int) -> Any:
        def hook(_module: nn.Module, _args: tuple, output: Any) -> Any:
            if layer not in pending:
                return output
            first = output[0] if isinstance(output, tuple) else output
            value = first + pending.pop(layer).to(first.dtype)
            return (value, *output[1:]) if isinstance(output, tuple) else value

        return hook

    for layer in range(model.n_layers):
        parts = model.layers[layer]
        if layer in grouped:
            mid = parts.block if model.is_parallel else parts.mlp_norm or parts.mlp
            handles.append(mid.register_forward_pre_hook(note(layer), with_kwargs=True))
            handles.append(parts.mlp.register_forward_hook(measure(layer)))
        module = parts.mlp_post_norm if probe.at_residual and parts.mlp_post_norm else parts.mlp
        handles.append(module.register_forward_hook(write(layer)))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _plan(
    probe: _Probe,
    layer: int,
    edits: list[Edit],
    residual: Tensor | None,
    mlp_in: Tensor,
    pending: dict[int, Tensor],
) -> None:
    """Measure the running activations at `layer` and note what to add at every layer they write to."""
    site = mlp_in
    if probe.reads_at != "mlp_in" and residual is not None:
        norm = probe.view.model.norm(probe.view.model.layers[layer].mlp_norm)
        site = residual
        if probe.reads_at == "mlp_norm" and norm is not None:
            site = residual * norm.scale(residual).unsqueeze(-1)
    running = probe.activations(layer, site)
    for target in probe.targets(layer):
        positions, rows = _rows(probe, layer, edits, target)
        features = torch.tensor([edit.feature for edit in edits], device=rows.device)
        wanted = torch.tensor([edit.after for edit in edits], device=rows.device)
        change = wanted - running[positions, features]
        total = pending.setdefault(target, torch.zeros_like(mlp_in))
        total.index_add_(0, positions, rows * change[:, None])
