"""Means and scales that training divides out, and how they go back into the weights on export.

Per layer and site: one mean per dimension (it folds into biases) and one scalar root mean square. One
scalar, because a scale per dimension would weigh the loss by dimension; many tokens, because the first
batch's statistics are noise.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from lucida.training.mesh import Mesh


@dataclass(frozen=True, eq=False)
class Normalisation:
    """Subtract `mean`, divide by `scale`: what features read and write then has mean 0 and mean square 1."""

    read_mean: Float[Tensor, "layer d_model"]
    read_scale: Float[Tensor, " layer"]
    write_mean: Float[Tensor, "layer d_model"]
    write_scale: Float[Tensor, " layer"]

    def read(self, layer: int, x: Float[Tensor, "token d_model"]) -> Float[Tensor, "token d_model"]:
        """What the features of a layer read, normalised, in float32."""
        return (x.float() - self.read_mean[layer]).div_(self.read_scale[layer])

    def write(self, layer: int, y: Float[Tensor, "token d_model"]) -> Float[Tensor, "token d_model"]:
        """What the MLP of a layer writes, normalised, in float32."""
        return (y.float() - self.write_mean[layer]).div_(self.write_scale[layer])

    def tensors(self) -> dict[str, Tensor]:
        """The four tensors by name, for checkpoints."""
        return dict(vars(self))

    def to(self, device: torch.device | str) -> "Normalisation":
        """The same on another device."""
        return Normalisation(**{name: tensor.to(device) for name, tensor in vars(self).items()})


class Moments:
    """Running sums over tokens, in float64, from which a Normalisation is made."""

    def __init__(self, n_layers: int, d_model: int) -> None:
        self.count = torch.zeros(1, dtype=torch.float64)
        self.sums = torch.zeros(2, n_layers, d_model, dtype=torch.float64)
        self.squares = torch.zeros(2, n_layers, dtype=torch.float64)

    def add(self, reads: Float[Tensor, "layer token d_model"], writes: Float[Tensor, "layer token d_model"]) -> None:
        """Count these tokens."""
        self.count += reads.shape[1]
        for which, values in enumerate((reads, writes)):
            for layer, part in enumerate(values):
                part = part.double()
                self.sums[which, layer] += part.sum(0).cpu()
                self.squares[which, layer] += part.square().sum().cpu()

    def normalisation(self, mesh: Mesh) -> Normalisation:
        """The means and scales of all processes' tokens; a scale of 1 where nothing varies."""
        sums, squares, count = self.sums.clone(), self.squares.clone(), self.count.clone()
        for total in (sums, squares, count):
            mesh.sum_data_(total)
        mean = sums / count
        variance = squares / count - mean.square().sum(-1)
        scale = (variance / sums.shape[-1]).clamp_min(0).sqrt()
        scale = torch.where(scale > 1e-12, scale, 1.0).float()
        mean = mean.float()
        return Normalisation(mean[0], scale[0], mean[1], scale[1])
