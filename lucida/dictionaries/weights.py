"""The weights of one layer's features, and what makes them fit a dictionary."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lucida.errors import DictionaryError

ACTIVATIONS = ("relu", "jumprelu", "topk")
READS_AT = ("resid_mid", "mlp_norm", "mlp_in")
"""Where features read: the residual stream before the MLP's norm, the normalised stream without the
norm's weight, or what the MLP itself receives (after the norm with its weight)."""
WRITES_AT = ("mlp_out", "resid")
"""Where features write: the MLP's own output (before any post-norm), or what is added to the stream."""


@dataclass(frozen=True)
class Source:
    """Where a dictionary came from.

    `fingerprint` is a sha256 over the names, sizes, headers and samples of its files: cheap, and
    different for another training of the same shape.
    """

    path: str | None
    format: str
    fingerprint: str


@dataclass(frozen=True, eq=False)
class LayerWeights:
    """The features that read at one layer. `decoders[k]` writes to that layer plus k.

    The skip connection, if any, adds `x @ skip.T` to the layer's own output. Shapes are not in the types:
    these tensors come from strangers' files, and `refuse_misfit` tells users what does not fit.
    """

    encoder: Tensor  # [feature, d_model]
    encoder_bias: Tensor  # [feature]
    decoders: tuple[Tensor, ...]  # each [feature, d_model]
    threshold: Tensor | None = None  # [feature]
    skip: Tensor | None = None  # [d_model, d_model]
    k: int | None = None

    def named(self) -> dict[str, Tensor]:
        """The tensors by name, for checks and messages."""
        tensors = {"encoder": self.encoder, "encoder bias": self.encoder_bias}
        tensors |= {f"decoder {offset}": decoder for offset, decoder in enumerate(self.decoders)}
        optional = {"threshold": self.threshold, "skip connection": self.skip}
        return tensors | {name: tensor for name, tensor in optional.items() if tensor is not None}


def refuse_misfit(weights: LayerWeights, *, activation: str, d_model: int, where: str) -> None:
    """Raise DictionaryError unless the tensors of a layer agree in shape and suit the activation.

    Biases and thresholds must be finite; larger tensors are checked when they are read.
    """
    n_features = len(weights.encoder)
    shapes: dict[str, tuple[int, ...]] = {
        "encoder bias": (n_features,),
        "threshold": (n_features,),
        "skip connection": (d_model, d_model),
    }
    for name, tensor in weights.named().items():
        shape = shapes.get(name, (n_features, d_model))
        if not tensor.is_floating_point():
            raise DictionaryError(f"{name} of {where} is of {tensor.dtype}; weights are floating-point numbers")
        if tuple(tensor.shape) != shape:
            found = list(tensor.shape)
            raise DictionaryError(f"{name} of {where} has shape {found}, expected {list(shape)}")
    if (weights.threshold is not None) != (activation == "jumprelu"):
        raise DictionaryError(f"{where} is {activation}: thresholds belong to jumprelu, and only to it")
    if (weights.k is not None) != (activation == "topk"):
        raise DictionaryError(f"{where} is {activation}: k belongs to topk, and only to it")
    if weights.k is not None and weights.k < 1:
        raise DictionaryError(f"k of {where} is {weights.k}; it must be at least 1")
    refuse_not_finite(weights.encoder_bias, f"encoder biases of {where}")
    if weights.threshold is not None:
        refuse_not_finite(weights.threshold, f"thresholds of {where}")


def refuse_not_finite(tensor: Tensor, what: str) -> None:
    """Raise DictionaryError when the tensor holds NaN or infinite numbers."""
    if not torch.isfinite(tensor).all():
        raise DictionaryError(f"{what} hold NaN or infinite numbers; fetch the dictionary again")
