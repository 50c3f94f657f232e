"""Dense activations: ReLU and JumpReLU with their gradients, and the literal twin of sparse BatchTopK.

A JumpReLU threshold has a gradient wherever a pre-activation lies within half a bandwidth of it, active or
not, so there is little to skip. For BatchTopK this path is the slow reference that tests and benchmarks use.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from lucida.training.mesh import kth_largest
from lucida.training.transcoder import Transcoder


class _JumpReLU(torch.autograd.Function):
    """h where h > threshold, else 0 (METHODS 1.2; "Circuit Tracing" 2025, appendix D: gradients to all parameters).

    With the rectangle kernel K of width `bandwidth` around the threshold t: d/dh = 1[h > t] + t K, d/dt = -t K.
    """

    @staticmethod
    def forward(ctx: Any, h: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(h, threshold)
        ctx.bandwidth = bandwidth
        return h * (h > threshold)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        h, threshold = ctx.saved_tensors
        kernel = ((h - threshold).abs() < ctx.bandwidth / 2) / ctx.bandwidth * threshold
        pulled = kernel * gradients[0]
        return gradients[0] * (h > threshold) + pulled, -pulled.sum(0), None


class _Step(torch.autograd.Function):
    """1 where h > threshold; the threshold's gradient is -K (Rajamanoharan et al. 2024)."""

    @staticmethod
    def forward(ctx: Any, h: Tensor, threshold: Tensor, bandwidth: float) -> Tensor:
        ctx.save_for_backward(h, threshold)
        ctx.bandwidth = bandwidth
        return (h > threshold).to(h.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, None]:
        h, threshold = ctx.saved_tensors
        kernel = ((h - threshold).abs() < ctx.bandwidth / 2) / ctx.bandwidth
        return None, -(kernel * gradients[0]).sum(0), None


def jump_relu(
    h: Float[Tensor, "token feature"], threshold: Float[Tensor, " feature"], bandwidth: float
) -> Float[Tensor, "token feature"]:
    """H where it exceeds the threshold, else 0, with straight-through gradients to h and to the threshold."""
    return _JumpReLU.apply(h, threshold, bandwidth)  # pyright: ignore[reportReturnType]


def count_above(
    h: Float[Tensor, "token feature"], threshold: Float[Tensor, " feature"], bandwidth: float
) -> Float[Tensor, " token"]:
    """How many features are active at each token (L0), with a straight-through gradient to the thresholds."""
    return _Step.apply(h, threshold, bandwidth).sum(1)  # pyright: ignore[reportOptionalMemberAccess]


def preactivations(
    transcoder: Transcoder, layer: int, x: Float[Tensor, "token d_model"]
) -> Float[Tensor, "token feature"]:
    """``x W_enc^T + b_enc`` of a layer, dense, in float32 whatever the type of the product."""
    parameters, products = transcoder.layers[layer], getattr(torch, transcoder.config.products)
    h = x.to(products) @ parameters.encoder.to(products).T
    return h.float() + parameters.bias


def dense_batchtopk(
    transcoder: Transcoder, reads: Sequence[Tensor], budget: int
) -> list[Float[Tensor, "token feature"]]:
    """The activations of `lucida.training.batchtopk.select` the literal way: every score, one sort, one mask."""
    h = [preactivations(transcoder, layer, x) for layer, x in enumerate(reads)]
    scores = [(h[layer] * transcoder.decoder_norms(layer)).detach().clamp_min(0) for layer in range(len(h))]
    flat = torch.cat([score.flatten() for score in scores])
    cut = kth_largest(flat[flat > 0], budget, transcoder.mesh)
    return [h[layer] * (scores[layer] >= cut) for layer in range(len(h))]
