"""Whether a run fits this machine, said before it begins."""

import ctypes
import os
from functools import cache
from typing import Any

import torch

from lucida.errors import TrainingError
from lucida.training.config import TrainingConfig
from lucida.training.mesh import Mesh


def refuse_too_large(config: TrainingConfig, mesh: Mesh, device: torch.device) -> None:
    """Raise TrainingError with the estimate when a process of this run needs more memory than there is for it."""
    needed, available = bytes_of_process(config, mesh), available_bytes(device)
    if available is None:
        return
    if device.type != "cuda":  # the processes of a machine share its memory
        available //= min(mesh.size, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    if needed > available:
        raise TrainingError(
            f"{config.n_features} features on each of {config.n_layers} layers, span {config.span}, need "
            f"{needed / 2**30:.1f} GiB in each process ({config.n_parameters / 1e6:.0f} million weights at 16 bytes, "
            f"blocks of {config.block_tokens} activations); {available / 2**30:.1f} GiB are free; take fewer features, "
            "a smaller span, smaller blocks or more processes"
        )


def bytes_of_process(config: TrainingConfig, mesh: Mesh) -> int:
    """What one process of a run holds: its share of the weights, and of the activations."""
    return config.bytes_of_weights // mesh.feature_size + config.bytes_of_activations // mesh.data_size


@cache
def _allocator() -> Any:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):  # not glibc
        return None


def return_freed_memory() -> None:
    """Give freed memory back to the system, where the C library keeps it.

    The lists of active features have another length at each step. glibc's heap fits new ones badly into the gaps
    of old ones: without this a run of 1,600 steps that needs 3 GiB took 11.
    """
    if (trim := _allocator()) is not None:
        trim(0)


def available_bytes(device: torch.device) -> int | None:
    """Memory that a process can still take on a device; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") + _cached()
    except (ValueError, OSError):
        return None


def _cached() -> int:
    """Bytes of file cache, which the system gives back when asked."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            fields = dict(line.split(":", 1) for line in file)
        return int(fields["Cached"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return 0
