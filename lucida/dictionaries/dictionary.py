"""A dictionary: sparse features that stand in for MLPs, each reading at one layer and writing to one or more.

One class for per-layer transcoders (span 1), windowed and cross-layer ones (span up to the number of
layers). Its weights usually are memory-mapped files: what is not asked for is not read.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lucida.dictionaries.encoding import Encoder, SparseActivations, encode_sparse
from lucida.dictionaries.weights import (
    ACTIVATIONS,
    READS_AT,
    WRITES_AT,
    LayerWeights,
    Source,
    refuse_misfit,
    refuse_not_finite,
)
from lucida.errors import DictionaryError


@dataclass(frozen=True, eq=False)
class Dictionary:
    """Sparse features for the MLPs of a model ("Circuit Tracing", 2025; docs/dictionary-format.md).

    Features of layer l read x at `reads_at`, activate as a = phi(x W_enc^T + b_enc), and add a W_dec to the
    output (`writes_at`) of every layer in `writes_to(l)`. A layer without features keeps its MLP as error.
    Raises DictionaryError when the parts do not fit together.
    """

    name: str
    model_name: str | None
    n_layers: int
    d_model: int
    activation: str
    reads_at: str
    writes_at: str
    weights: Mapping[int, LayerWeights] = field(repr=False)
    decoder_biases: Float[Tensor, "layer d_model"] = field(repr=False)
    source: Source

    def __post_init__(self) -> None:
        for what, value, known in (
            ("activation", self.activation, ACTIVATIONS),
            ("reads_at", self.reads_at, READS_AT),
            ("writes_at", self.writes_at, WRITES_AT),
        ):
            if value not in known:
                raise DictionaryError(f"{what} of {self.name} is {value!r}; known are {', '.join(known)}")
        if not self.weights:
            raise DictionaryError(f"dictionary {self.name} holds no layer")
        if tuple(self.decoder_biases.shape) != (self.n_layers, self.d_model):
            found = list(self.decoder_biases.shape)
            raise DictionaryError(
                f"decoder biases of {self.name} have shape {found}, expected {[self.n_layers, self.d_model]}"
            )
        refuse_not_finite(self.decoder_biases, f"decoder biases of {self.name}")
        for layer, weights in self.weights.items():
            last = layer + len(weights.decoders) - 1
            if not 0 <= layer <= last < self.n_layers:
                raise DictionaryError(f"layer {layer} of {self.name} writes up to layer {last} of {self.n_layers}")
            where = f"layer {layer} of {self.name}"
            refuse_misfit(weights, activation=self.activation, d_model=self.d_model, where=where)

    @classmethod
    def from_tensors(
        cls,
        *,
        encoders: Mapping[int, Float[Tensor, "_ d_model"]],
        encoder_biases: Mapping[int, Float[Tensor, " _"]],
        decoders: Mapping[int, Float[Tensor, "_ _ d_model"]],
        decoder_biases: Float[Tensor, "layer d_model"],
        activation: str,
        reads_at: str = "mlp_in",
        writes_at: str = "mlp_out",
        thresholds: Mapping[int, Float[Tensor, " _"]] | None = None,
        k: int | None = None,
        skips: Mapping[int, Float[Tensor, "d_model d_model"]] | None = None,
        name: str = "in-memory",
        model_name: str | None = None,
    ) -> "Dictionary":
        """A dictionary of tensors by layer, which are not copied.

        `decoders[l]` is [feature, target, d_model], and target k is layer l + k. The number of layers is
        that of `decoder_biases`; a skip connection adds `x @ skip.T`.
        """
        layers = {}
        for layer, encoder in encoders.items():
            layers[layer] = LayerWeights(
                encoder=encoder,
                encoder_bias=encoder_biases[layer],
                decoders=decoders[layer].unbind(1),
                threshold=None if thresholds is None else thresholds[layer],
                skip=None if skips is None else skips.get(layer),
                k=k,
            )
        n_layers, d_model = decoder_biases.shape
        digest = hashlib.sha256(repr((activation, k, reads_at, writes_at, n_layers, d_model)).encode())
        for tensor in (decoder_biases, *encoder_biases.values(), *(e[:64] for e in encoders.values())):
            digest.update(tensor.detach().to("cpu", torch.float32).contiguous().numpy().tobytes())
        return cls(
            name=name, model_name=model_name, n_layers=n_layers, d_model=d_model, activation=activation,
            reads_at=reads_at, writes_at=writes_at, weights=layers, decoder_biases=decoder_biases,
            source=Source(None, "memory", digest.hexdigest()),
        )  # fmt: skip

    @cached_property
    def layers(self) -> tuple[int, ...]:
        """The layers that have features, ascending."""
        return tuple(sorted(self.weights))

    @cached_property
    def targets(self) -> tuple[int, ...]:
        """The layers that some feature writes to, ascending."""
        return tuple(sorted({target for layer in self.layers for target in self.writes_to(layer)}))

    @cached_property
    def span(self) -> int:
        """The largest number of layers a feature writes to: 1 is a per-layer transcoder."""
        return max(len(weights.decoders) for weights in self.weights.values())

    @cached_property
    def has_skip(self) -> bool:
        """Whether some layer has an affine skip connection."""
        return any(weights.skip is not None for weights in self.weights.values())

    def n_features(self, layer: int) -> int:
        """The number of features that read at `layer`; 0 for a layer without dictionary."""
        return len(self.weights[layer].encoder) if layer in self.weights else 0

    def writes_to(self, layer: int) -> range:
        """The layers that the features of `layer` write to; empty for a layer without dictionary."""
        return range(layer, layer + len(self.weights[layer].decoders)) if layer in self.weights else range(0)

    def top_k(self, layer: int) -> int | None:
        """How many features may be active at a position (TopK dictionaries; None for the others)."""
        return self._layer(layer).k

    def encode(
        self, layer: int, x: Float[Tensor, "pos d_model"], *, dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, "pos feature"]:
        """All activations of a layer, zeros included: [pos, feature]. See `encode_sparse`."""
        return self.encode_sparse(layer, x, dtype=dtype).dense()

    def encode_sparse(
        self, layer: int, x: Float[Tensor, "pos d_model"], *, dtype: torch.dtype = torch.float32
    ) -> SparseActivations:
        """The active features of a layer, on the device of `x`, in blocks that bound memory.

        With h = x W_enc^T + b_enc: ReLU max(h, 0); JumpReLU h where h > threshold, else 0; TopK the k
        largest of max(h, 0) at each position, ties to the lower feature.
        Raises DictionaryError when the inputs or the encoder hold NaN.
        """
        weights = self._layer(layer)
        if x.shape[-1] != self.d_model:
            raise DictionaryError(f"{self.name} reads {self.d_model} dimensions, the model gives {x.shape[-1]}")
        encoder = Encoder(weights.encoder, weights.encoder_bias, weights.threshold, weights.k)
        return encode_sparse(encoder, x, dtype=dtype, what=f"layer {layer} of {self.name}")

    def encoder_rows(
        self, layer: int, features: Int[Tensor, " active"], *, dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, "active d_model"]:
        """The read vectors of the given features, on the device of `features`."""
        return self._rows(self._layer(layer).encoder, layer, features, dtype, "encoder")

    def encoder_bias(
        self, layer: int, features: Int[Tensor, " active"], *, dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, " active"]:
        """The encoder biases of the given features."""
        return self._rows(self._layer(layer).encoder_bias, layer, features, dtype, "encoder bias")

    def thresholds(
        self, layer: int, features: Int[Tensor, " active"], *, dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, " active"] | None:
        """The JumpReLU thresholds of the given features; None for other activations."""
        threshold = self._layer(layer).threshold
        return None if threshold is None else self._rows(threshold, layer, features, dtype, "threshold")

    def decoder_rows(
        self,
        layer: int,
        features: Int[Tensor, " active"],
        target_layer: int,
        *,
        dtype: torch.dtype = torch.float32,
    ) -> Float[Tensor, "active d_model"]:
        """What a unit of each given feature of `layer` adds to `target_layer`. Reads these rows only.

        Raises DictionaryError when a feature does not exist or does not write to `target_layer`.
        """
        decoders = self._layer(layer).decoders
        if not 0 <= target_layer - layer < len(decoders):
            last = layer + len(decoders) - 1
            raise DictionaryError(
                f"features of layer {layer} of {self.name} write up to layer {last}, not to {target_layer}"
            )
        return self._rows(decoders[target_layer - layer], layer, features, dtype, "decoder")

    def decoder_bias(self, target_layer: int, *, dtype: torch.dtype = torch.float32) -> Float[Tensor, " d_model"]:
        """What the dictionary adds to `target_layer` whatever is active; zeros where it has no bias."""
        return self.decoder_biases[target_layer].to(dtype)

    def skip(self, layer: int, *, dtype: torch.dtype = torch.float32) -> Float[Tensor, "d_model d_model"] | None:
        """The skip connection of a layer, or None. It adds `x @ skip.T` to the layer's own output."""
        skip = self.weights[layer].skip if layer in self.weights else None
        if skip is not None:
            refuse_not_finite(skip, f"skip connections of layer {layer} of {self.name}")
        return None if skip is None else skip.to(dtype)

    def reconstruct(
        self,
        activations: Mapping[int, SparseActivations],
        inputs: Mapping[int, Float[Tensor, "pos d_model"]] | None = None,
    ) -> Float[Tensor, "layer pos d_model"]:
        """What the dictionary writes to every layer, biases included, for the activations of its layers.

        `inputs` (what each layer read) is needed for skip connections. Layers without target are zero.
        """
        if self.has_skip and inputs is None:
            raise DictionaryError(f"{self.name} has skip connections: give reconstruct() the inputs of its layers")
        sample = next(iter(activations.values()))
        zeros = sample.activation.new_zeros(self.n_layers, sample.n_positions, self.d_model)
        output = zeros + self.decoder_biases.to(zeros)[:, None]
        for layer, sparse in activations.items():
            features, row = sparse.feature.unique(return_inverse=True)
            for target in self.writes_to(layer):
                rows = self.decoder_rows(layer, features, target, dtype=zeros.dtype)
                for part in torch.arange(len(sparse), device=zeros.device).split(1 << 15):
                    written = sparse.activation[part, None] * rows[row[part]]
                    output[target].index_add_(0, sparse.position[part], written)
            skip = self.skip(layer, dtype=zeros.dtype)
            if skip is not None and inputs is not None:
                output[layer] += inputs[layer].to(zeros.dtype) @ skip.to(zeros.device).T
        return output

    def to(self, device: torch.device | str, *, decoders: bool = False) -> "Dictionary":
        """The same dictionary with its encoders and biases on a device (decoders too if asked)."""
        moved = {}
        for layer, weights in self.weights.items():
            moved[layer] = replace(
                weights,
                encoder=weights.encoder.to(device),
                encoder_bias=weights.encoder_bias.to(device),
                threshold=None if weights.threshold is None else weights.threshold.to(device),
                skip=None if weights.skip is None else weights.skip.to(device),
                decoders=tuple(d.to(device) for d in weights.decoders) if decoders else weights.decoders,
            )
        return replace(self, weights=moved, decoder_biases=self.decoder_biases.to(device))

    def _layer(self, layer: int) -> LayerWeights:
        if layer not in self.weights:
            found = f"{self.layers[0]} to {self.layers[-1]}" if len(self.layers) > 8 else self.layers
            raise DictionaryError(f"{self.name} has no features at layer {layer}; it has them at {found}")
        return self.weights[layer]

    def _rows(self, table: Tensor, layer: int, features: Tensor, dtype: torch.dtype, what: str) -> Tensor:
        if len(features) and not 0 <= int(features.min()) <= int(features.max()) < len(table):
            worst = int(features.max()) if int(features.min()) >= 0 else int(features.min())
            raise DictionaryError(
                f"feature {worst} does not exist at layer {layer} of {self.name}, which has {len(table)}"
            )
        rows = table.index_select(0, features.to(table.device)).to(features.device, dtype)
        refuse_not_finite(rows, f"{what} rows of layer {layer} of {self.name}")
        return rows
