"""The least work a trace or a step of training can do, in flops, and how fast this machine multiplies matrices.

The floor of a sweep is the work that no exact method without autograd can avoid: carry the gradient of every
target across every attention block below it, at the positions up to its own (W_O, then W_V), and contract
it with every active feature it can see.
"""

import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from meter import cpu_seconds
from torch import Tensor

from lucida.models.model import Model
from lucida.replacement import Replacement
from lucida.training.config import TrainingConfig

MATMUL_SIZE = 1536
GPU_MATMUL_SIZE = 8192
MATMUL_SECONDS = 0.4


@dataclass(frozen=True)
class Floor:
    """Flops of a sweep over given targets. `mixing` (the attention patterns themselves) is not part of the
    floor's formula; it is listed because it grows with the square of the prompt length."""

    crossing: int
    reading: int
    mixing: int

    @property
    def total(self) -> int:
        """The floor: crossing and reading."""
        return self.crossing + self.reading

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"total": self.total}


def sweep_floor(replacement: Replacement, layer: Tensor, position: Tensor) -> Floor:
    """The floor of the targets that read at `layer` (logits: n_layers) and `position`.

    crossing = sum over targets of blocks x (position + 1) x 2 (d x query_width + value_width x d),
    reading = sum over targets of active features below it and not after it x 2 d.
    """
    model = replacement.view.model
    heads, values = model.n_heads * model.d_head, model.n_kv_heads * model.d_head
    layer, position = layer.cpu(), position.cpu()
    # A feature also crosses the attention of its own layer, unless the two halves run in parallel.
    own = 0 if model.is_parallel else 1
    blocks = torch.where(layer < model.n_layers, layer + own, layer)
    seen = position + 1
    crossed = int((blocks * seen).sum())
    pairs = int((blocks * seen * (seen + 1) // 2).sum())
    return Floor(
        crossing=crossed * 2 * model.d_model * (heads + values),
        reading=int(_sources_below(replacement)[layer, position].sum()) * 2 * model.d_model,
        mixing=pairs * 2 * heads,
    )


def _sources_below(replacement: Replacement) -> Tensor:
    """[layer, pos]: active features that write below `layer` at positions up to `pos`."""
    view = replacement.view
    written = torch.zeros(view.n_layers + 1, view.n_positions, dtype=torch.int64)
    for layer in range(view.n_layers):
        written[layer + 1] = torch.tensor([s.stop - s.start for s in replacement.slices(layer)])
    return written.cumsum(0).cumsum(1)


@dataclass(frozen=True)
class TrainingFloor:
    """Flops for each token trained on: the model's forward without its head, and the transcoder's step.

    `sparse` is the encoder's product and, for the k active features of each layer, the encoder's gradient, decoding
    and the gradients of activations and decoders; `dense` is the same with every feature taken as active.
    """

    forward: int
    sparse: int
    dense: int

    def as_dict(self) -> dict[str, int]:
        return asdict(self)


def training_floor(model: Model, config: TrainingConfig) -> TrainingFloor:
    """With N pairs of a layer that reads and one that is written to:

    sparse = 2 L F d + 2 k L d + 6 k N d, dense = 4 L F d + 6 F N d, forward = 2 (weights of the layers) + the
    attention of half the context on average.
    """
    layers, d, k, features = config.n_layers, config.d_model, config.k, config.n_features
    pairs = sum(min(config.span, layers - layer) for layer in range(layers))
    weights = sum(m.weight.numel() for m in model.base.modules() if isinstance(m, torch.nn.Linear))
    attention = 4 * layers * (config.context // 2) * model.n_heads * model.d_head
    return TrainingFloor(
        forward=2 * weights + attention,
        sparse=round(2 * layers * features * d + 2 * k * layers * d + 6 * k * pairs * d),
        dense=4 * layers * features * d + 6 * features * pairs * d,
    )


@dataclass(frozen=True)
class Rate:
    """Flops per second of wall time and of CPU time (all threads)."""

    per_wall: float
    per_cpu: float


def matmul_rate(dtype: torch.dtype, shape: tuple[int, int, int] | None = None, *, device: str = "cpu") -> Rate:
    """The rate of one plain torch product [m, k] x [k, n], square and large unless a shape is given."""
    size = MATMUL_SIZE if device == "cpu" else GPU_MATMUL_SIZE
    m, k, n = shape or (size, size, size)
    a, b = torch.randn(m, k, device=device).to(dtype), torch.randn(k, n, device=device).to(dtype)
    out = a @ b
    settle = (lambda: None) if device == "cpu" else torch.cuda.synchronize
    settle()
    done, wall, cpu = 0, time.perf_counter(), cpu_seconds()
    while time.perf_counter() - wall < MATMUL_SECONDS:
        torch.matmul(a, b, out=out)
        settle()
        done += 1
    flops = 2 * m * k * n * done
    return Rate(flops / (time.perf_counter() - wall), flops / max(cpu_seconds() - cpu, 1e-9))
