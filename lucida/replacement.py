"""The local replacement model of one prompt: active features, errors, and what stays constant.

Every MLP output is written as active features + error + constants, so that with attention and norms
frozen the model is linear between features and equals the original on this prompt (Circuit Tracing
2025, "Local replacement model"). Two kinds of sources share this shape: the features of a dictionary
(here) and the model's own neurons (lucida/neurons.py).
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lucida.dictionaries import Dictionary
from lucida.errors import DictionaryError
from lucida.models.linear import FrozenModel

CACHE_BYTES = 2 << 30
"""Write vectors are kept between row chunks up to this size, and read again beyond it."""


@dataclass(frozen=True)
class Active:
    """The active features of a prompt, ordered by position, then layer, then feature.

    In this order everything that writes to layer l at position p is one contiguous slice, which is
    what the sweep reads.
    """

    layer: Int[Tensor, " active"]
    position: Int[Tensor, " active"]
    feature: Int[Tensor, " active"]
    activation: Float[Tensor, " active"]

    def __len__(self) -> int:
        return len(self.layer)

    def take(self, which: Tensor) -> "Active":
        """The features with the given indices (or mask)."""
        return Active(self.layer[which], self.position[which], self.feature[which], self.activation[which])

    @staticmethod
    def sort(layer: Tensor, position: Tensor, feature: Tensor, activation: Tensor) -> "Active":
        """The table of the given features in the order of this class."""
        order = torch.argsort(feature, stable=True)
        order = order[torch.argsort(layer[order], stable=True)]
        order = order[torch.argsort(position[order], stable=True)]
        return Active(layer[order], position[order], feature[order], activation[order].float())


@runtime_checkable
class Sources(Protocol):
    """What the sweep must know of features or neurons: how they read, write, and what passes them by."""

    bypass_width: int
    """Floats per target and position that `bypass_` needs for itself; bounds the size of row chunks."""

    def read_vectors(self, active: Active) -> tuple[Tensor, Tensor]:
        """Read vectors [active, d_model] at the residual before the MLP norm, and constants [active]:
        a feature's pre-activation is read . residual + constant.
        """
        ...

    def write_vectors(self, layer: int, active: Active) -> Tensor:
        """What each feature adds to the residual at `layer` [active, d_model], times its activation."""
        ...

    def writers(self, layer: int) -> range:
        """The layers whose features write to `layer`."""
        ...

    def bypass_(self, layer: int, gradient: Tensor, into: Tensor) -> None:
        """Add to `into` the gradient [target, pos, d_model] that passes the MLP of `layer` linearly.

        `into` may be `gradient` itself: everything is read before it is written.
        """
        ...

    def bypassed(self, layer: int) -> Tensor:
        """What passes the MLP of `layer` linearly on this prompt, in the residual [pos, d_model]."""
        ...


@dataclass(frozen=True)
class Written:
    """What was written at one layer. `vectors[p]` holds the error's, the constant's, and those of the features
    in columns `features[p]` of the active table, padded with zeros to the longest position.
    """

    features: list[slice]
    vectors: Float[Tensor, "pos source d_model"]


class Replacement:
    """Sources on one prompt: active features, and the rest of every MLP output.

    `error` and `constant` [layer, pos, d_model] are in residual space: what an MLP adds beyond its
    features, and the part of it that depends on no input (biases, sink positions).
    """

    def __init__(
        self,
        view: FrozenModel,
        sources: Sources,
        active: Active,
        *,
        constant: Float[Tensor, "layer pos d_model"],
        sink_positions: int,
        exact: bool = False,
    ) -> None:
        self.view, self.sources, self.active = view, sources, active
        self.sink_positions = sink_positions
        self.constant = constant
        self._slices: dict[int, list[slice]] = {}
        self._written: dict[int, Written] = {}
        self._written_bytes = 0
        # Neurons with their pass-through are the MLP itself: what is left is rounding, not error.
        self.is_exact = exact
        self.error = torch.zeros_like(constant) if exact else self._errors()

    def writes(self, layer: int) -> "Written":
        """Everything written at `layer`, for every position."""
        if layer in self._written:
            return self._written[layer]
        vectors = self.sources.write_vectors(layer, self.active.take(self._writers(layer)))
        slices = self.slices(layer)
        sizes = [columns.stop - columns.start for columns in slices]
        rest = torch.stack((self.error[layer], self.constant[layer]), 1)
        stacked = torch.zeros(len(slices), max(sizes) + 2, vectors.shape[1], device=vectors.device)
        stacked[:, :2] = rest
        for position, part in enumerate(vectors.split(sizes)):
            stacked[position, 2 : 2 + len(part)] = part
        written = Written(slices, stacked.to(self.view.dtype))
        if self._written_bytes + written.vectors.nbytes <= CACHE_BYTES:
            self._written[layer] = written
            self._written_bytes += written.vectors.nbytes
        return written

    def _writers(self, layer: int) -> Tensor:
        layers = self.sources.writers(layer)
        return (self.active.layer >= layers.start) & (self.active.layer < layers.stop)

    def slices(self, layer: int) -> list[slice]:
        """For every position, the columns of the active table that write to `layer` there."""
        if layer not in self._slices:
            n_layers, device = self.view.n_layers, self.active.layer.device
            keys = self.active.position * n_layers + self.active.layer
            starts = torch.arange(self.view.n_positions, device=device) * n_layers
            writers = self.sources.writers(layer)
            low = torch.searchsorted(keys, starts + writers.start).tolist()
            high = torch.searchsorted(keys, starts + writers.stop).tolist()
            self._slices[layer] = [slice(a, b) for a, b in zip(low, high, strict=True)]
        return self._slices[layer]

    def _errors(self) -> Float[Tensor, "layer pos d_model"]:
        """What the features leave of each MLP's contribution: it minus features, linear bypass and constants; zero at
        sink positions.
        """
        view, errors = self.view, []
        for layer in range(view.n_layers):
            left = view.mlp_contribution(layer) - self.constant[layer]
            vectors = self.sources.write_vectors(layer, self.active.take(self._writers(layer)))
            left.index_add_(0, self.active.position[self._writers(layer)], -vectors)
            left -= self.sources.bypassed(layer)
            left[: self.sink_positions] = 0
            errors.append(left)
        return torch.stack(errors)


class FeatureSources:
    """The features of a dictionary as sources (`Sources`)."""

    def __init__(self, view: FrozenModel, dictionary: Dictionary, *, sink_positions: int) -> None:
        self.view, self.dictionary, self.sink_positions = view, dictionary, sink_positions
        self.reads_at = view.reading_site(dictionary.reads_at)
        self.bypass_width = 2 * view.model.d_model if dictionary.has_skip else 0

    def read_vectors(self, active: Active) -> tuple[Tensor, Tensor]:
        """W_enc through the frozen norm, and b_enc plus what the norm's bias contributes."""
        vectors = torch.empty(len(active), self.view.model.d_model, device=active.layer.device)
        constants = torch.empty(len(active), device=active.layer.device)
        for layer in active.layer.unique().tolist():
            here = torch.nonzero(active.layer == layer).squeeze(1)
            features = active.feature[here]
            rows = self._on_device(self.dictionary.encoder_rows(layer, features.cpu()))
            bias = self._on_device(self.dictionary.encoder_bias(layer, features.cpu()))
            shift = self.view.site_constant(layer, self.reads_at)
            constants[here] = bias if shift is None else bias + rows @ shift
            vectors[here] = self.view.pull_site(layer, self.reads_at, rows, active.position[here])
        return vectors, constants

    def write_vectors(self, layer: int, active: Active) -> Tensor:
        """Decoder rows for `layer`, in residual space, times the activations."""
        vectors = torch.zeros(len(active), self.view.model.d_model, device=active.layer.device)
        for source in active.layer.unique().tolist():
            if layer not in self.dictionary.writes_to(source):
                continue
            here = torch.nonzero(active.layer == source).squeeze(1)
            # One feature is often active at many positions: its row is read once.
            features, back = active.feature[here].unique(return_inverse=True)
            rows = self._on_device(self.dictionary.decoder_rows(source, features.cpu(), layer))
            vectors[here] = rows[back] * active.activation[here, None]
        if self.dictionary.writes_at == "mlp_out":
            vectors = self.view.push_output(layer, vectors, active.position)
        return vectors

    def writers(self, layer: int) -> range:
        """Layers from the lowest that still reaches `layer` up to `layer` itself."""
        return range(max(0, layer - self.dictionary.span + 1), layer + 1)

    def bypass_(self, layer: int, gradient: Tensor, into: Tensor) -> None:
        """The gradient through an affine skip connection; nothing passes without one."""
        skip = self._skip(layer)
        if skip is None:
            return
        at_output = gradient if self._at_residual else self.view.pull_output(layer, gradient)
        read = at_output @ skip
        read[:, : self.sink_positions] = 0
        targets, positions, width = read.shape
        where = torch.arange(positions, device=read.device).repeat(targets)
        pulled = self.view.pull_site(layer, self.reads_at, read.reshape(-1, width), where)
        into += pulled.view(targets, positions, width)

    def bypassed(self, layer: int) -> Tensor:
        """What the skip connection adds to the residual on this prompt, without its constant part."""
        skip = self._skip(layer)
        x = self.view.site(layer, self.reads_at)
        if skip is None:
            return torch.zeros_like(x)
        shift = self.view.site_constant(layer, self.reads_at)
        passed = self._into_residual(layer, (x if shift is None else x - shift) @ skip.T)
        passed[: self.sink_positions] = 0
        return passed

    def constants(self) -> Float[Tensor, "layer pos d_model"]:
        """Decoder biases, the skip of norm biases and post-norm biases; all of the MLP at sink positions."""
        view, parts = self.view, []
        for layer in range(view.n_layers):
            x = view.recording.mlp_out[layer]
            total = torch.zeros_like(x) + self._on_device(self.dictionary.decoder_bias(layer))
            skip, shift = self._skip(layer), view.site_constant(layer, self.reads_at)
            if skip is not None and shift is not None:
                total = total + skip @ shift
            total = self._into_residual(layer, total)
            after = view.output_constant(layer)
            if after is not None and not self._at_residual:
                total = total + after
            total[: self.sink_positions] = view.mlp_contribution(layer)[: self.sink_positions]
            parts.append(total)
        return torch.stack(parts)

    @property
    def _at_residual(self) -> bool:
        return self.dictionary.writes_at == "resid"

    def _into_residual(self, layer: int, vectors: Tensor) -> Tensor:
        if self._at_residual:
            return vectors
        return self.view.push_output(layer, vectors, torch.arange(len(vectors), device=vectors.device))

    def _skip(self, layer: int) -> Tensor | None:
        skip = self.dictionary.skip(layer)
        return None if skip is None else self._on_device(skip)

    def _on_device(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.view.recording.residual_final.device, torch.float32)


def replace_features(view: FrozenModel, dictionary: Dictionary, *, sink_positions: int = 1) -> Replacement:
    """The local replacement model of the prompt in `view` with the features of `dictionary`.

    The MLPs of the first `sink_positions` positions (massive activations at the start of a prompt)
    are constants: no features, no errors, all of their output in the bias node.

    Raises DictionaryError when no feature is active.
    """
    sources = FeatureSources(view, dictionary, sink_positions=sink_positions)
    columns: list[list[Tensor]] = [[], [], [], []]
    for layer in dictionary.layers:
        encoded = dictionary.encode_sparse(layer, view.site(layer, sources.reads_at))
        kept = encoded.position >= sink_positions
        for column, values in zip(
            columns,
            (torch.full_like(encoded.position, layer), encoded.position, encoded.feature, encoded.activation),
            strict=True,
        ):
            column.append(values[kept])
    active = Active.sort(*(torch.cat(column) for column in columns))
    if len(active) == 0:
        raise DictionaryError(
            f"no feature of {dictionary.name} is active on this prompt of {view.n_positions} tokens (the first "
            f"{sink_positions} are left out as attention sinks); is it a dictionary of this model?"
        )
    return Replacement(view, sources, active, constant=sources.constants(), sink_positions=sink_positions)
