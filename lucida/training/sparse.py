"""Sparse codes, and the three products of a transcoder that touch only what is active.

A layer's codes are a CSR matrix [token, feature]. With nnz active entries, decoding and both gradients cost
O(nnz d) instead of O(tokens features d). Each product has its dense twin in lucida/training/dense.py.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

# torch says once per process that CSR tensors are in beta; our users need not read it.
with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
    _nothing = torch.zeros(0, dtype=torch.int64)
    torch.sparse_csr_tensor(torch.zeros(2).long(), _nothing, torch.zeros(0), (1, 1), check_invariants=False)


@dataclass(frozen=True, eq=False)
class Pattern:
    """Which features are active at which tokens, in CSR order, and the same in CSC order (for gradients)."""

    rows: Int[Tensor, " next_token"]
    """Where each token's entries begin, and the end."""
    token: Int[Tensor, " active"]
    feature: Int[Tensor, " active"]
    by_feature: Int[Tensor, " active"]
    """The entries ordered by feature, then token."""
    columns: Int[Tensor, " next_feature"]
    """Where each feature's entries begin in that order, and the end."""

    @classmethod
    def of(cls, token: Int[Tensor, " active"], feature: Int[Tensor, " active"], shape: tuple[int, int]) -> "Pattern":
        """The pattern of entries given in order of token, then feature; `shape` is (tokens, features)."""
        n_tokens, n_features = shape
        by_feature = torch.argsort(feature, stable=True)
        return cls(_starts(token, n_tokens), token, feature, by_feature, _starts(feature, n_features))

    @property
    def shape(self) -> tuple[int, int]:
        """Tokens and features."""
        return len(self.rows) - 1, len(self.columns) - 1


def _starts(index: Tensor, length: int) -> Tensor:
    starts = torch.zeros(length + 1, dtype=index.dtype, device=index.device)
    torch.cumsum(torch.bincount(index, minlength=length), 0, out=starts[1:])
    return starts


def _times(starts: Tensor, index: Tensor, values: Tensor, matrix: Tensor) -> Tensor:
    """``S @ matrix`` for a sparse S of len(starts) - 1 rows."""
    sparse = torch.sparse_csr_tensor(starts, index, values, (len(starts) - 1, len(matrix)), check_invariants=False)
    product = matrix.new_empty(len(starts) - 1, matrix.shape[1])  # `sparse @ matrix` would fill it with zeros first
    return torch.addmm(product, sparse, matrix, beta=0, out=product)


def _products(pattern: Pattern, left: Tensor, right: Tensor) -> Tensor:
    """For each entry, the inner product of its token's row of `left` and its feature's row of `right`."""
    nothing = torch.zeros_like(pattern.token, dtype=left.dtype)
    empty = torch.sparse_csr_tensor(pattern.rows, pattern.feature, nothing, pattern.shape, check_invariants=False)
    return torch.sparse.sampled_addmm(empty, left, right.T, beta=0.0).values()


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, pattern: Pattern) -> Tensor:
        ctx.save_for_backward(values, weight)
        ctx.pattern = pattern
        return _times(pattern.rows, pattern.feature, values, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        values, weight = ctx.saved_tensors
        pattern, gradient = ctx.pattern, gradients[0].contiguous()
        d_values = _products(pattern, gradient, weight) if ctx.needs_input_grad[0] else None
        order = pattern.by_feature
        d_weight = _times(pattern.columns, pattern.token[order], values[order], gradient)
        return d_values, d_weight, None


class _Encode(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, pattern: Pattern, found: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        ctx.pattern = pattern
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (x,) = ctx.saved_tensors
        pattern, gradient = ctx.pattern, gradients[0]
        order = pattern.by_feature
        d_weight = _times(pattern.columns, pattern.token[order], gradient[order], x)
        d_bias = torch.zeros(pattern.shape[1], dtype=x.dtype, device=x.device)
        d_bias.index_add_(0, pattern.feature, gradient)
        return None, d_weight, d_bias, None, None


def sparse_decode(
    values: Float[Tensor, " active"], weight: Float[Tensor, "feature out"], pattern: Pattern
) -> Float[Tensor, "token out"]:
    """``codes @ weight`` for the codes with these values at the entries of `pattern`; differentiable in both."""
    return _Decode.apply(values, weight, pattern)  # pyright: ignore[reportReturnType]


def sparse_encode(
    x: Float[Tensor, "token d_model"],
    weight: Float[Tensor, "feature d_model"],
    bias: Float[Tensor, " feature"],
    pattern: Pattern,
    found: Float[Tensor, " active"],
) -> Float[Tensor, " active"]:
    """The pre-activations `found` at the entries of `pattern`, differentiable in `weight` and `bias`.

    `found` was computed in the search for active features; it is not computed again. `x` gets no gradient.
    """
    return _Encode.apply(x, weight, bias, pattern, found)  # pyright: ignore[reportReturnType]
