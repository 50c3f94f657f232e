"""A normalisation with its denominator frozen: a linear map at every position.

Freezing the denominators is what makes the local replacement model linear (Circuit Tracing 2025,
"Attribution graphs"; docs/method.md). All three norms of the supported families are one case:
``y = scale[pos] * (x - mean(x) if centred) * weight + bias``.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn


@dataclass(frozen=True)
class Norm:
    """The weights of one norm. `weight` already holds the 1 + w of Gemma's norms."""

    weight: Float[Tensor, " d_model"]
    bias: Float[Tensor, " d_model"] | None
    eps: float
    centred: bool

    def scale(self, x: Float[Tensor, "*pos d_model"]) -> Float[Tensor, "*pos"]:
        """One over the denominator at each position of the recorded input `x`, in float32."""
        x = x.float()
        if self.centred:
            x = x - x.mean(-1, keepdim=True)
        return torch.rsqrt(x.square().mean(-1) + self.eps)

    def push(self, x: Float[Tensor, "*pos d_model"], scale: Float[Tensor, "*pos"]) -> Float[Tensor, "*pos d_model"]:
        """The frozen norm applied to `x`, without its bias."""
        return _centre(x, self.centred) * scale.unsqueeze(-1) * self.weight

    def pull(
        self, gradient: Float[Tensor, "*pos d_model"], scale: Float[Tensor, "*pos"], *, weighted: bool = True
    ) -> Float[Tensor, "*pos d_model"]:
        """The gradient at the norm's input, from the gradient at its output.

        With ``weighted=False`` the output is taken before the norm's weight (TransformerLens'
        ``ln2.hook_normalized``).
        """
        gradient = gradient * self.weight if weighted else gradient
        return _centre(gradient, self.centred) * scale.unsqueeze(-1)

    def fold_into(self, matrix: Float[Tensor, "out d_model"]) -> Float[Tensor, "out d_model"]:
        """`matrix` acting on the frozen norm's input up to the position's scale: M diag(w) C."""
        return _centre(matrix * self.weight, self.centred)


def _centre(x: Tensor, centred: bool) -> Tensor:
    return x - x.mean(-1, keepdim=True) if centred else x


def read_norm(module: nn.Module, kind: str) -> Norm:
    """The frozen-norm view of a norm module of kind "rms", "rms_plus_one" or "layer" (float32)."""
    weight = module.weight.detach().float()  # pyright: ignore
    if kind == "rms_plus_one":
        weight = weight + 1.0
    bias = getattr(module, "bias", None)
    eps = getattr(module, "eps", None) or getattr(module, "variance_epsilon", 0.0)
    return Norm(weight, None if bias is None else bias.detach().float(), float(eps), kind == "layer")
