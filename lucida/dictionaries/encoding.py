"""From inputs to sparse feature activations, in blocks that bound memory whatever the number of features."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from lucida.errors import DictionaryError

BLOCK_ELEMENTS = 1 << 23
"""Pre-activations held at once (32 MiB in float32)."""
_BLOCK_POSITIONS = 512


@dataclass(frozen=True, eq=False)
class SparseActivations:
    """The active features of one layer, ordered by position, then feature."""

    position: Int[Tensor, " active"]
    feature: Int[Tensor, " active"]
    activation: Float[Tensor, " active"]
    n_positions: int
    n_features: int

    def __len__(self) -> int:
        return len(self.activation)

    def dense(self) -> Float[Tensor, "pos feature"]:
        """All activations, zeros included."""
        full = self.activation.new_zeros(self.n_positions, self.n_features)
        full[self.position, self.feature] = self.activation
        return full


class Encoder(NamedTuple):
    """What one layer needs to encode. `threshold` makes it JumpReLU, `k` TopK, neither ReLU."""

    weight: Float[Tensor, "feature d_model"]
    bias: Float[Tensor, " feature"]
    threshold: Float[Tensor, " feature"] | None
    k: int | None


class _Block(NamedTuple):
    first_position: int
    first_feature: int
    preactivation: Float[Tensor, "pos feature"]


def encode_sparse(
    encoder: Encoder, x: Float[Tensor, "pos d_model"], *, dtype: torch.dtype, what: str
) -> SparseActivations:
    """The active features of one layer for the given inputs, computed in at least float32.

    With h = x W_enc^T + b_enc: ReLU max(h, 0); JumpReLU h where h > threshold, else 0; TopK the k largest
    of max(h, 0) at each position, ties to the lower feature. Raises DictionaryError when h is not finite.
    """
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for first_position, first_feature, h in _blocks(encoder, x, dtype):
        if not torch.isfinite(h.sum()) and not torch.isfinite(h).all():
            raise DictionaryError(_not_finite(x, what))
        position, feature = _active(encoder, h, first_feature).nonzero(as_tuple=True)
        found.append((position + first_position, feature + first_feature, h[position, feature]))
    n_positions, n_features = len(x), len(encoder.weight)
    if not found:
        nothing = torch.zeros(0, dtype=torch.int64, device=x.device)
        return SparseActivations(nothing, nothing, nothing.to(dtype), n_positions, n_features)
    position, feature, activation = (torch.cat(column) for column in zip(*found, strict=True))
    order = (position * n_features + feature).argsort()
    position, feature, activation = position[order], feature[order], activation[order]
    if encoder.k is not None and len(found) > 1:
        keep = _k_largest(position, activation, encoder.k)
        position, feature, activation = position[keep], feature[keep], activation[keep]
    return SparseActivations(position, feature, activation.to(dtype), n_positions, n_features)


def _blocks(encoder: Encoder, x: Float[Tensor, "pos d_model"], dtype: torch.dtype) -> Iterator[_Block]:
    """Pre-activations block by block; features outermost, so that each encoder row is read once."""
    compute = torch.promote_types(dtype, torch.float32)
    x = x.to(compute)
    n_positions = max(1, min(len(x), _BLOCK_POSITIONS))
    n_features = max(1, BLOCK_ELEMENTS // max(n_positions, x.shape[1]))
    for first_feature in range(0, len(encoder.weight), n_features):
        span = slice(first_feature, first_feature + n_features)
        weight = encoder.weight[span].to(x.device, compute)
        bias = encoder.bias[span].to(x.device, compute)
        for first_position in range(0, len(x), n_positions):
            part = x[first_position : first_position + n_positions]
            yield _Block(first_position, first_feature, torch.addmm(bias, part, weight.T))


def _active(encoder: Encoder, h: Float[Tensor, "pos feature"], first_feature: int) -> Bool[Tensor, "pos feature"]:
    if encoder.k is not None:
        return _top_k(h, encoder.k)
    if encoder.threshold is None:
        return h > 0
    threshold = encoder.threshold[first_feature : first_feature + h.shape[1]]
    return (h > threshold.to(h.device, h.dtype)) & (h != 0)


def _top_k(h: Float[Tensor, "pos feature"], k: int) -> Bool[Tensor, "pos feature"]:
    if k >= h.shape[1]:
        return h > 0
    least = h.topk(k, dim=1).values[:, -1:]
    above = h > least
    ties = h == least
    room = k - above.sum(1, keepdim=True)
    if (ties.sum(1, keepdim=True) > room).any():
        ties &= ties.cumsum(1, dtype=torch.int32) <= room
    return (above | ties) & (h > 0)


def _k_largest(position: Int[Tensor, " active"], activation: Float[Tensor, " active"], k: int) -> Int[Tensor, " kept"]:
    """The indices, ascending, of the k largest activations at each position (input ordered by position)."""
    order = activation.argsort(descending=True, stable=True)
    order = order[position[order].argsort(stable=True)]
    first = torch.searchsorted(position, position)
    rank = torch.arange(len(position), device=position.device) - first
    return order[rank < k].sort().values


def entries_above(h: Float[Tensor, "pos feature"], bound: Float[Tensor, " feature"]) -> Int[Tensor, " entry"]:
    """Where h [token, feature] exceeds the bound of its feature, as places in the flattened matrix, in order."""
    per_word = 8 // h.element_size()
    if h.is_cuda or h.numel() % per_word:
        return (h > bound).view(-1).nonzero().squeeze(1)
    # On a CPU a comparison that gives numbers takes a quarter of the time of one that gives booleans, and words of
    # eight bytes are looked through faster than single entries, of which few are above the bound.
    words = torch.gt(h, bound, out=torch.empty_like(h)).view(-1).view(torch.int64)
    some = (words != 0).nonzero().squeeze(1)
    inside = (words[some].view(h.dtype) != 0).nonzero().squeeze(1)
    word = inside // per_word
    return some[word] * per_word + (inside - word * per_word)


def _not_finite(x: Float[Tensor, "pos d_model"], what: str) -> str:
    if not torch.isfinite(x).all():
        return f"the inputs of {what} are not finite; check the model's weights and dtype"
    return f"the encoder of {what} holds NaN or infinite numbers; fetch the dictionary again"
