"""Small made-up runs: rows of random tokens, transcoders with random weights, data with known features."""

from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lucida.training.activations import Activations, _Stream
from lucida.training.checkpoint import RunState
from lucida.training.config import TrainingConfig
from lucida.training.loop import advance, begin, new_state
from lucida.training.mesh import Mesh
from lucida.training.step import Outcome
from lucida.training.transcoder import Transcoder


class MadeUpRows:
    """Rows of random tokens, each a function of its number alone."""

    def __init__(self, context: int, d_vocab: int = 97, fingerprint: str = "made-up") -> None:
        self.context, self.d_vocab, self.fingerprint = context, d_vocab, fingerprint

    def rows(self, start: int, count: int) -> Tensor:
        def row(number: int) -> Tensor:
            return torch.randint(self.d_vocab, (self.context,), generator=torch.Generator().manual_seed(number))

        return torch.stack([row(number) for number in range(start, start + count)])


def tiny_config(**knobs: Any) -> TrainingConfig:
    """A run of 20 steps on the tiny models of conftest: 3 layers of width 32."""
    defaults: dict[str, Any] = {
        "n_layers": 3,
        "d_model": 32,
        "n_features": 48,
        "span": 3,
        "k": 4.0,
        "n_tokens": 20 * 64,
        "batch_tokens": 64,
        "context": 17,
        "block_rows": 16,
        "streams": 4,
        "normalise_tokens": 256,
        "learning_rate": 3e-3,
        "warmup": 0.1,
    }
    return TrainingConfig(**defaults | knobs)


def random_transcoder(config: TrainingConfig, *, mesh: Mesh | None = None, seed: int = 0) -> Transcoder:
    """A transcoder whose every weight is random, decoders to later layers included."""
    transcoder = Transcoder(config, mesh=mesh)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in transcoder.named():
            if name.endswith("threshold"):
                tensor.uniform_(0.05, 0.6, generator=generator)
            else:
                tensor.normal_(std=0.5, generator=generator)
    return transcoder


def random_activations(config: TrainingConfig, tokens: int, *, seed: int = 0) -> tuple[list[Tensor], list[Tensor]]:
    """What the layers read and write: [token, d_model] of independent normal numbers."""
    generator = torch.Generator().manual_seed(seed)
    shape = (2, config.n_layers, tokens, config.d_model)
    reads, writes = torch.randn(shape, generator=generator)
    return list(reads), list(writes)


def gradients(transcoder: Transcoder) -> dict[str, Tensor]:
    """The gradients by name, which are then forgotten."""
    found = {}
    for name, tensor in transcoder.named():
        assert tensor.grad is not None, name
        found[name], tensor.grad = tensor.grad.clone(), None
    return found


@dataclass(frozen=True, eq=False)
class Planted:
    """Sparse data with known features: each token is a few of them at random strengths, read here, written there."""

    reads: Tensor
    """[layer, feature, d_model], unit rows."""
    writes: Tensor
    """[layer, feature, d_model], unit rows: what feature f of a layer adds to that layer's output."""
    active: int
    later: Tensor | None = None
    """[layer, feature, d_model], unit rows: what features add to the next layer's output, if they do."""

    @classmethod
    def random(
        cls, n_layers: int, n_features: int, d_model: int, *, active: int, seed: int, later: bool = False
    ) -> "Planted":
        """`n_features` random directions to read and to write at each layer."""
        generator = torch.Generator().manual_seed(seed)
        directions = normalize(torch.randn(3, n_layers, n_features, d_model, generator=generator), dim=-1)
        return cls(directions[0], directions[1], active, directions[2, :-1] if later else None)

    def tokens(self, count: int, seed: int) -> tuple[list[Tensor], list[Tensor]]:
        """Reads and writes of `count` tokens."""
        n_layers, n_features, _ = self.reads.shape
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.rand(n_layers, count, n_features, generator=generator).topk(self.active).indices
        strength = 1 + torch.rand(n_layers, count, self.active, generator=generator)
        codes = torch.zeros(n_layers, count, n_features).scatter_(2, chosen, strength)
        reads, writes = codes @ self.reads, codes @ self.writes
        if self.later is not None:
            writes[1:] += codes[:-1] @ self.later
        return list(reads), list(writes)


@dataclass(frozen=True, eq=False)
class Fitted:
    """A finished run and what its steps measured."""

    state: RunState
    activations: Activations
    outcomes: list[Outcome]


class PlantedActivations(Activations):
    """Activations of planted tokens in the place of a model's; shuffled, served and measured as those are."""

    def __init__(self, planted: Planted, config: TrainingConfig, *, mesh: Mesh | None = None) -> None:
        self.planted, self.config, self.mesh = planted, config, mesh or Mesh()
        self.model, self.rows = SimpleNamespace(device=torch.device("cpu")), None  # pyright: ignore
        self._block = None

    def compute(self, block: int, stream: int) -> _Stream:
        tokens = self.config.block_tokens // self.config.streams
        reads, writes = self.planted.tokens(tokens, seed=block * self.config.streams + stream)
        return _Stream(torch.stack(reads), torch.stack(writes), torch.arange(tokens))


def fit(planted: Planted, config: TrainingConfig, *, prepare: Callable[[RunState], None] | None = None) -> Fitted:
    """A run on planted tokens by the loop's own functions; `prepare` may change the state before the first step."""
    activations = PlantedActivations(planted, config)
    state = new_state(activations)
    begin(state, activations)
    if prepare is not None:
        with torch.no_grad():
            prepare(state)
    return Fitted(state, activations, [advance(state, activations) for _ in range(config.n_steps)])
