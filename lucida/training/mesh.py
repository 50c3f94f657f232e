"""The processes of a run: features sharded along one axis, data along the other (torch DeviceMesh).

Every process holds `n_features / feature_size` features of every layer and sees the batch of its data row.
One process is a mesh of 1 x 1, in which every sum is its argument.
"""

import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor

from lucida.errors import TrainingError


@dataclass(frozen=True)
class Mesh:
    """Where this process stands. Make it with `Mesh.start`; `Mesh()` is a run in one process."""

    data_rank: int = 0
    data_size: int = 1
    feature_rank: int = 0
    feature_size: int = 1
    data_group: Any = None
    """The processes that hold the same features and see other data."""
    feature_group: Any = None
    """The processes that see the same data and hold other features."""

    @classmethod
    def start(cls, *, feature_size: int | None = None, device: str = "cpu") -> "Mesh":
        """The mesh of a process started by torchrun, one of 1 x 1 otherwise.

        `feature_size` processes share the features; the default is all of one node (LOCAL_WORLD_SIZE). With CUDA
        each process takes the GPU of its LOCAL_RANK, so call this before the model is loaded.
        Raises TrainingError when `feature_size` does not divide the number of processes.
        """
        world = int(os.environ.get("WORLD_SIZE", "1"))
        if world == 1:
            return cls()
        feature_size = feature_size or int(os.environ.get("LOCAL_WORLD_SIZE", world))
        if world % feature_size:
            raise TrainingError(f"{feature_size} processes are to share the features, of {world}; take a divisor")
        on_gpu = device.startswith("cuda")
        if on_gpu:
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        if not dist.is_initialized():
            # Counts and flags live in main memory also when the weights do not.
            dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo")
        from torch.distributed.device_mesh import init_device_mesh

        shape = (world // feature_size, feature_size)
        mesh = init_device_mesh(device.split(":")[0], shape, mesh_dim_names=("data", "feature"))
        return cls(
            data_rank=mesh.get_local_rank("data"),
            data_size=shape[0],
            feature_rank=mesh.get_local_rank("feature"),
            feature_size=shape[1],
            data_group=mesh.get_group("data"),
            feature_group=mesh.get_group("feature"),
        )

    @property
    def is_first(self) -> bool:
        """Whether this process writes what is written once."""
        return self.data_rank == 0 and self.feature_rank == 0

    @property
    def rank(self) -> int:
        """The number of this process among all, features fastest."""
        return self.data_rank * self.feature_size + self.feature_rank

    @property
    def size(self) -> int:
        """How many processes there are."""
        return self.data_size * self.feature_size

    def own_features(self, n_features: int) -> slice:
        """The features of a layer that this process holds. Raises TrainingError when they do not divide."""
        if n_features % self.feature_size:
            raise TrainingError(
                f"{n_features} features do not divide among {self.feature_size} processes; take a multiple"
            )
        share = n_features // self.feature_size
        return slice(self.feature_rank * share, (self.feature_rank + 1) * share)

    def sum_data_(self, tensor: Tensor) -> Tensor:
        """Add up over the processes that see other data, in place."""
        if self.data_size > 1:
            dist.all_reduce(tensor, group=self.data_group)
        return tensor

    def sum_features_(self, tensor: Tensor) -> Tensor:
        """Add up over the processes that hold other features, in place."""
        if self.feature_size > 1:
            dist.all_reduce(tensor, group=self.feature_group)
        return tensor

    def sum_all_(self, tensor: Tensor) -> Tensor:
        """Add up over all processes, in place."""
        return self.sum_features_(self.sum_data_(tensor))

    def gather_features(self, tensor: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """All shards of a tensor that is split along its first axis, joined."""
        if self.feature_size == 1:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.feature_size)]
        dist.all_gather(parts, tensor.contiguous(), group=self.feature_group)
        return torch.cat(parts)

    def every(self, holds: bool) -> bool:
        """Whether something holds in every process. All must ask; nobody goes on before all have."""
        return holds if self.size == 1 else int(self.sum_all_(torch.tensor(int(holds)))) == self.size

    def of_first(self, number: float) -> float:
        """The first process's number, so that all decide alike."""
        if self.size == 1:
            return number
        return float(self.sum_all_(torch.tensor(number if self.is_first else 0.0, dtype=torch.float64)))

    def share_rows(self, tensor: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Join the parts (first axis, equal lengths) that the processes of one data row have made."""
        return self.gather_features(tensor)


def kth_largest(scores: Float[Tensor, " candidate"], k: int, mesh: Mesh) -> Float[Tensor, ""]:
    """The k-th largest of all processes' positive scores; the smallest float above 0 when there are fewer.

    Exact: a radix select over the bits of float32, whose order for positive numbers is that of their bits
    as integers. Three histograms of 2^11 bins are summed over the processes; no score is moved.
    """
    bits = scores.detach().float().contiguous().view(torch.int32)
    left, prefix = k, 0
    for shift in (21, 10, 0):
        width = 1 << (11 if shift else 10)
        counts: Int[Tensor, " bin"] = torch.bincount((bits >> shift) & (width - 1), minlength=width)
        counts = mesh.sum_all_(counts)
        from_top = counts.flip(0).cumsum(0)
        if shift == 21 and int(from_top[-1]) < k:
            return scores.new_tensor(torch.finfo(torch.float32).tiny)
        above = int(torch.searchsorted(from_top, left))
        left -= int(from_top[above - 1]) if above else 0
        digit = width - 1 - above
        prefix |= digit << shift
        bits = bits[((bits >> shift) & (width - 1)) == digit]
    return torch.tensor(prefix, dtype=torch.int32, device=scores.device).view(torch.float32)
