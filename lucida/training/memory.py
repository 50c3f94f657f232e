"""Whether a run fits this machine, said before it begins."""

import os

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
