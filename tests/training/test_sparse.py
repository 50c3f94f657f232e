"""The sparse products and BatchTopK are their dense twins, in values and in every gradient."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic import random_activations, random_transcoder, tiny_config
from torch import Tensor

from lucida.training.batchtopk import select
from lucida.training.dense import dense_batchtopk
from lucida.training.mesh import Mesh, kth_largest
from lucida.training.sparse import Pattern, sparse_decode, sparse_encode
from lucida.training.transcoder import Transcoder

positive = st.floats(min_value=2.0**-126, max_value=2.0**100, width=32)


@settings(max_examples=50)
@given(
    n_tokens=st.integers(1, 9),
    n_features=st.integers(1, 12),
    width=st.integers(1, 6),
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    seed=st.integers(0, 99),
)
def test_sparse_products_are_the_dense_ones(
    n_tokens: int, n_features: int, width: int, density: float, seed: int
) -> None:
    """Also without any active entry, with empty tokens and with features that never fire."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(n_tokens, n_features, generator=generator) < density
    token, feature = mask.nonzero(as_tuple=True)
    pattern = Pattern.of(token, feature, (n_tokens, n_features))
    assert pattern.shape == (n_tokens, n_features)
    x = torch.randn(n_tokens, 4, generator=generator)
    weights = [
        torch.randn(shape, generator=generator) for shape in ((n_features, 4), (n_features,), (n_features, width))
    ]
    upstream = torch.randn(n_tokens, width, generator=generator)

    results = []
    for is_sparse in (True, False):
        encoder, bias, decoder = (w.clone().requires_grad_() for w in weights)
        h = x @ encoder.T + bias
        if is_sparse:
            values = sparse_encode(x, encoder, bias, pattern, h[token, feature].detach())
            output = sparse_decode(values, decoder, pattern)
        else:
            output = (h * mask) @ decoder
        output.backward(upstream)
        results.append([output, encoder.grad, bias.grad, decoder.grad])
    for sparse, dense in zip(*results, strict=True):
        assert torch.allclose(sparse, dense, atol=1e-5)


@given(scores=st.lists(positive, min_size=0, max_size=40), k=st.integers(1, 50), copies=st.integers(1, 3))
def test_kth_largest_is_that_of_a_sort(scores: list[float], k: int, copies: int) -> None:
    """With ties, and with fewer scores than asked for: then every one of them is above the answer."""
    tensor = torch.tensor(scores * copies)
    found = kth_largest(tensor, k, Mesh())
    if k > len(tensor):
        assert found == torch.finfo(torch.float32).tiny
        assert int((tensor >= found).sum()) == len(tensor)
    else:
        assert found == tensor.topk(k).values[-1]


@settings(max_examples=50)
@given(
    span=st.integers(1, 3),
    per_token=st.floats(0.1, 20.0),
    low=st.sampled_from([0.0, 1e-4, 0.3, 2.0, 1e6]) | st.floats(0.0, 5.0),
    products=st.sampled_from(["float32", "bfloat16"]),
    seed=st.integers(0, 99),
)
def test_selection_is_the_dense_one_wherever_the_search_begins(
    span: int, per_token: float, low: float, products: str, seed: int
) -> None:
    config = tiny_config(span=span, n_features=24, products=products)
    reads, _ = random_activations(config, 20, seed=seed)
    budget = max(1, round(per_token * config.n_layers * 20))

    transcoder = random_transcoder(config, seed=seed)
    dense = dense_batchtopk(transcoder, reads, budget)
    sum((a.square() * (1 + layer)).sum() for layer, a in enumerate(dense)).backward()  # pyright: ignore
    wanted = gradients_of_encoders(transcoder)

    selection = select(transcoder, reads, budget, low=low)
    found = [torch.zeros_like(a).index_put((c.pattern.token, c.pattern.feature), c.values)
             for a, c in zip(dense, selection.codes, strict=True)]  # fmt: skip
    sum((a.square() * (1 + layer)).sum() for layer, a in enumerate(found)).backward()  # pyright: ignore
    for ours, theirs in zip(found, dense, strict=True):
        assert torch.equal(ours, theirs)
    if products == "float32":  # autograd rounds the dense gradient to the type of the product
        for ours, theirs in zip(gradients_of_encoders(transcoder), wanted, strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-4)
    positive = sum(int((a > 0).sum()) for a in dense)
    assert positive >= budget or selection.cut == torch.finfo(torch.float32).tiny


def gradients_of_encoders(transcoder: Transcoder) -> list[Tensor]:
    tensors = [tensor for layer in transcoder.layers for tensor in (layer.encoder, layer.bias)]
    found = [tensor.grad for tensor in tensors]
    for tensor in tensors:
        tensor.grad = None
    return found  # pyright: ignore


def test_selection_begun_at_the_cut_keeps_all_that_ties_with_it() -> None:
    """`low` is exclusive and the cut inclusive: a search that begins at the very cut must go lower."""
    config = tiny_config(span=1, n_features=24)
    reads, _ = random_activations(config, 20)
    transcoder = random_transcoder(config)
    full = select(transcoder, reads, 100, low=0.0)
    for low in (float(full.cut), float(full.cut) * (1 + 1e-6), float(full.cut) * (1 - 1e-6)):
        again = select(transcoder, reads, 100, low=low)
        assert again.cut == full.cut
        assert [len(c.values) for c in again.codes] == [len(c.values) for c in full.codes]
    assert sum(len(c.values) for c in full.codes) == 100
