"""The weights in training: encoders, decoders, biases, and what a step computes with them.

Everything is in normalised units (lucida/training/normalise.py). The decoder of source layer l is one matrix
[feature, (targets d_model)], so that decoding is one product per source layer, not one per pair of layers.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from lucida.training.config import TrainingConfig
from lucida.training.mesh import Mesh


@dataclass(eq=False)
class LayerParameters:
    """The features that read at one layer: those of them that this process holds."""

    encoder: Float[Tensor, "feature d_model"]
    bias: Float[Tensor, " feature"]
    decoder: Float[Tensor, "feature targets_d_model"]
    threshold: Float[Tensor, " feature"] | None

    def named(self) -> Iterator[tuple[str, Tensor]]:
        """The tensors that are trained, by name."""
        for name in ("encoder", "bias", "decoder", "threshold"):
            tensor = getattr(self, name)
            if tensor is not None:
                yield name, tensor


class Transcoder:
    """A transcoder of any span in training ("Circuit Tracing", 2025, section on cross-layer transcoders)."""

    def __init__(self, config: TrainingConfig, *, mesh: Mesh | None = None, device: str = "cpu") -> None:
        """Random weights from `config.seed`, the same for any number of processes; `start` makes better ones.

        Encoder rows are random unit vectors; a feature's decoder to its own layer is its encoder row, small,
        those to later layers are zero, which keeps the variance of the output from growing with the span.
        """
        self.config, self.mesh = config, mesh or Mesh()
        own = self.mesh.own_features(config.n_features)
        self.layers: list[LayerParameters] = []
        for layer in range(config.n_layers):
            generator = torch.Generator().manual_seed(config.seed * 1_000_003 + layer)
            encoder = torch.randn(config.n_features, config.d_model, generator=generator)
            encoder = normalize(encoder)[own].to(device).contiguous()
            decoder = torch.zeros(len(encoder), self.n_targets(layer) * config.d_model, device=device)
            decoder[:, : config.d_model] = DECODER_START * encoder
            bias = torch.zeros(len(encoder), device=device)
            has_threshold = config.activation == "jumprelu"
            threshold = torch.full_like(bias, config.threshold_start) if has_threshold else None
            self.layers.append(LayerParameters(encoder, bias, decoder, threshold))
        self.decoder_bias = torch.zeros(config.n_layers, config.d_model, device=device)
        for _, tensor in self.named():
            tensor.requires_grad_()

    def n_targets(self, layer: int) -> int:
        """How many layers the features of `layer` write to."""
        return min(self.config.span, self.config.n_layers - layer)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.decoder_bias.device

    def named(self) -> Iterator[tuple[str, Tensor]]:
        """All trained tensors by name, as in ``layers.3.encoder``."""
        for index, layer in enumerate(self.layers):
            for name, tensor in layer.named():
                yield f"layers.{index}.{name}", tensor
        yield "decoder_bias", self.decoder_bias

    def decoder_norms(self, layer: int) -> Float[Tensor, " feature"]:
        """The norm of each feature's decoder over all layers it writes to; differentiable."""
        return self.layers[layer].decoder.norm(dim=1)

    @torch.no_grad()
    def start(self, reads: list[Float[Tensor, "token d_model"]], writes: list[Float[Tensor, "token d_model"]]) -> None:
        """Begin from data: feature f of a layer reads what some token reads there and writes what it writes.

        Random directions leave half of the features dead after 300,000 tokens, tokens a sixth (docs/training.md).
        Encoder biases then let each feature fire on a share 10 k / n_features of these tokens, at most half.
        """
        config, own = self.config, self.mesh.own_features(self.config.n_features)
        for layer, (parameters, x, y) in enumerate(zip(self.layers, reads, writes, strict=True)):
            generator = torch.Generator().manual_seed(config.seed * 1_000_003 + 500_009 + layer)
            order = torch.randperm(len(x), generator=generator)
            tokens = order.repeat(-(-config.n_features // len(x)))[: config.n_features][own].to(x.device)
            noise = torch.randn(config.n_features, config.d_model, generator=generator)[own].to(x.device)
            parameters.encoder.copy_(normalize(x[tokens] + START_NOISE * noise))
            parameters.decoder[:, : config.d_model] = DECODER_START * normalize(y[tokens])
        self._start_biases(reads)

    def _start_biases(self, reads: list[Tensor]) -> None:
        share = min(0.5, 10 * self.config.k / self.config.n_features)
        for parameters, x in zip(self.layers, reads, strict=True):
            rank = max(1, round(share * len(x)))
            for part in torch.arange(len(parameters.bias), device=x.device).split(1024):
                h = x @ parameters.encoder[part].T
                parameters.bias[part] = -h.topk(rank, dim=0).values[-1]


DECODER_START = 0.1
"""Norm of decoders at the start, in units of what they are to reconstruct (whose rows have norm sqrt(d_model))."""
START_NOISE = 0.3
"""Noise per dimension on the tokens that encoders begin from: they have root mean square 1."""
