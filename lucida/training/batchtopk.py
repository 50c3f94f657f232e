"""BatchTopK pooled over the tokens and layers of a batch, found without keeping any dense activations.

Features compete by activation times the norm of all their decoders, so that scaling a feature's activation
against its decoder changes nothing, and layers share one budget of k n_layers tokens active entries.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from lucida.dictionaries.encoding import entries_above
from lucida.training.mesh import kth_largest
from lucida.training.sparse import Pattern, sparse_encode
from lucida.training.transcoder import Transcoder

SEARCHED_AT_ONCE = 1 << 21
"""Pre-activations that a CPU computes and searches at a time."""


@dataclass(frozen=True, eq=False)
class Codes:
    """The active features of one layer: activations at the entries of a pattern."""

    values: Float[Tensor, " active"]
    pattern: Pattern


@dataclass(frozen=True, eq=False)
class Selection:
    """The codes of every layer, and the score that the last selected entry had."""

    codes: list[Codes]
    cut: Float[Tensor, ""]


@dataclass(frozen=True, eq=False)
class _Candidates:
    token: Int[Tensor, " candidate"]
    feature: Int[Tensor, " candidate"]
    value: Float[Tensor, " candidate"]
    score: Float[Tensor, " candidate"]

    def above(self, cut: Tensor) -> "_Candidates":
        kept = (self.score >= cut).nonzero().squeeze(1)
        return _Candidates(*(getattr(self, name)[kept] for name in ("token", "feature", "value", "score")))


@torch.no_grad()
def _candidates(transcoder: Transcoder, layer: int, x: Tensor, low: float) -> _Candidates:
    """The entries of a layer whose score may be above `low`, a bound that the cut is expected to exceed."""
    parameters, config = transcoder.layers[layer], transcoder.config
    norms = transcoder.decoder_norms(layer).clamp_min(1e-12)
    products = getattr(torch, config.products)
    # One comparison with a bound per feature is the only pass over the dense pre-activations. The bound is too
    # low by what rounding may take, so that no score above `low` is missed; scores then are compared exactly.
    bound, slack = low / norms, torch.finfo(products).eps + 4 * torch.finfo(torch.float32).eps
    bound = (bound - parameters.bias - slack * (bound + parameters.bias.abs())).to(products)
    encoder, n_features = parameters.encoder.to(products).T, len(bound)
    # A few tokens at a time: on a CPU they stay in its cache, and in memory that the allocator does not give back.
    at_once = max(1, len(x) if x.is_cuda else SEARCHED_AT_ONCE // n_features)
    entries, values = [], []
    for first, part in enumerate(x.to(products).split(at_once)):
        h = part @ encoder
        found = entries_above(h, bound)
        values.append(h.view(-1)[found])
        entries.append(found + first * at_once * n_features)
    entry = torch.cat(entries)
    token = entry // n_features
    feature = entry - token * n_features
    value = torch.cat(values).float() + parameters.bias[feature]
    return _Candidates(token, feature, value, value * norms[feature])


def select(transcoder: Transcoder, reads: Sequence[Tensor], budget: int, *, low: float) -> Selection:
    """The `budget` entries of the highest score over all layers, tokens and processes; differentiable values.

    `reads` is what each layer reads [token, d_model], normalised. `low` is where the search begins: a score
    below the cut that is expected (0 finds everything). It changes the cost, never the result.
    """
    mesh = transcoder.mesh
    while True:
        found = [_candidates(transcoder, layer, x, low) for layer, x in enumerate(reads)]
        scores = torch.cat([c.score for c in found])
        scores = scores[scores > low]
        count = mesh.sum_all_(torch.tensor(len(scores), device=reads[0].device))
        if int(count) >= budget or low <= 0:
            break
        low = low / 2 if low > 1e-3 else 0.0
    cut = kth_largest(scores, budget, mesh)
    codes = []
    for layer, candidates in enumerate(found):
        kept, parameters = candidates.above(cut), transcoder.layers[layer]
        shape = (len(reads[layer]), len(parameters.bias))
        pattern = Pattern.of(kept.token, kept.feature, shape)
        values = sparse_encode(reads[layer], parameters.encoder, parameters.bias, pattern, kept.value)
        codes.append(Codes(values, pattern))
    return Selection(codes, cut)
