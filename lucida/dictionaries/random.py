"""Seeded random dictionaries of any shape, sparse as asked: for tests, benchmarks and as a null model."""

from collections.abc import Mapping
from statistics import NormalDist

import torch
from jaxtyping import Float
from torch import Tensor

from lucida.dictionaries.dictionary import Dictionary
from lucida.errors import DictionaryError


def random_dictionary(
    n_layers: int,
    d_model: int,
    n_features: int,
    *,
    span: int = 1,
    activation: str = "jumprelu",
    reads_at: str = "mlp_in",
    writes_at: str = "mlp_out",
    skip: bool = False,
    l0: int | float | None = None,
    samples: Mapping[int, Float[Tensor, "_ d_model"]] | None = None,
    scale: int | float = 1.0,
    seed: int = 0,
    name: str | None = None,
    model_name: str | None = None,
) -> Dictionary:
    """A dictionary of random directions of which about `l0` features a layer are active at a position.

    The sparsity is exact for TopK; for the others it is calibrated on `samples` (what each layer reads),
    or, without them, holds for inputs of independent standard normal numbers. `l0` is n_features / 16
    unless given; outputs grow with `scale`.
    """
    l0 = n_features / 16 if l0 is None else l0
    if not 0 < l0 <= n_features:
        raise DictionaryError(f"l0 must lie above 0 and up to the {n_features} features, got {l0}")
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    encoders, biases, cuts, decoders = {}, {}, {}, {}
    for layer in range(n_layers):
        encoders[layer] = normal(n_features, d_model) / d_model**0.5
        biases[layer] = 0.1 * normal(n_features)
        cuts[layer] = _cut(encoders[layer], biases[layer], l0, None if samples is None else samples.get(layer))
        targets = min(span, n_layers - layer)
        decoders[layer] = normal(n_features, targets, d_model) * (scale / max(1.0, l0 * min(span, layer + 1)) ** 0.5)
    if activation == "relu":
        biases = {layer: biases[layer] - cuts[layer] for layer in biases}
    skips = {layer: normal(d_model, d_model) * (scale / d_model**0.5) for layer in encoders} if skip else None
    return Dictionary.from_tensors(
        encoders=encoders,
        encoder_biases=biases,
        decoders=decoders,
        decoder_biases=0.1 * scale * normal(n_layers, d_model),
        activation=activation,
        reads_at=reads_at,
        writes_at=writes_at,
        thresholds={layer: cuts[layer].clamp(min=0) for layer in cuts} if activation == "jumprelu" else None,
        k=max(1, round(l0)) if activation == "topk" else None,
        skips=skips,
        name=name or f"random-{activation}-{n_layers}x{n_features}-span{span}-seed{seed}",
        model_name=model_name,
    )


def _cut(encoder: Tensor, bias: Tensor, l0: int | float, sample: Tensor | None) -> Float[Tensor, " feature"]:
    """For each feature the pre-activation that a share l0 / n_features of all (feature, position) pairs exceeds."""
    share = min(0.5, l0 / len(encoder))
    if sample is None:
        return bias + NormalDist().inv_cdf(1 - share) * encoder.norm(dim=1)
    h = sample.float().to(encoder.device) @ encoder.T + bias
    # One cut for all features in units of each one's spread: few samples cannot give each its own quantile.
    spread = h.square().mean(0).sqrt().clamp_min(1e-12)
    ranked = (h / spread).flatten().sort(descending=True).values
    above = max(1, min(round(share * len(ranked)), len(ranked) - 1))
    return spread * (ranked[above - 1] + ranked[above]) / 2
