"""The replacement model: perfect features change nothing, and any features do what a rewritten model does."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from relu_models import fitting_dictionary, perfect_dictionary, random_rows, relu_model
from tiny_models import DENSE_FAMILIES, FAMILIES

from lucida.evaluation import DictionaryBasis, NeuronBasis, local_logits, measure_replacement
from lucida.evaluation import running as running_module
from lucida.evaluation.replacement_model import replaced_residual
from lucida.models.linear import FrozenModel
from lucida.models.recording import record


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox"])
def test_a_perfect_dictionary_is_the_model(family: str) -> None:
    model = relu_model(family)
    (found,) = measure_replacement(model, [DictionaryBasis(model, perfect_dictionary(model))], random_rows(model))
    assert found is not None
    assert found.kl.value < 1e-6
    assert found.agreement.value == 1
    assert found.loss.value == pytest.approx(found.model_loss.value, abs=1e-4)


@pytest.mark.parametrize("family", DENSE_FAMILIES)
def test_all_neurons_are_the_model(tiny_model: Any, family: str) -> None:
    model = tiny_model(family)
    rows = random_rows(model)
    (found,) = measure_replacement(model, [NeuronBasis(model, 0.0)], rows)
    assert found is not None
    assert found.kl.value < 1e-6
    assert found.agreement.value == 1
    # Every position but the first of a row, and but the last, whose next token nobody knows.
    assert found.tokens == len(rows) * (rows.shape[1] - 2)


@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt2"])
def test_measures_are_their_definitions(tiny_model: Any, family: str) -> None:
    model = tiny_model(family)
    rows = random_rows(model)
    basis = DictionaryBasis(model, fitting_dictionary(model, rows, span=3))
    kept = torch.zeros_like(rows, dtype=torch.bool)
    kept[:, 0] = True
    log_q = (
        model.logits(replaced_residual(model, basis, rows, kept).flatten(0, 1)).log_softmax(-1).view(*rows.shape, -1)
    )
    log_p = model.hf(input_ids=rows).logits.log_softmax(-1)
    here = slice(1, -1)
    kl = (log_p.exp() * (log_p - log_q)).sum(-1)[:, here].mean()
    agreement = (log_p.argmax(-1) == log_q.argmax(-1))[:, here].float().mean()
    losses = [-log[:, here].gather(2, rows[:, 2:, None]).mean() for log in (log_p, log_q)]
    (found,) = measure_replacement(model, [basis], rows)
    assert found is not None
    assert kl > 0.01
    assert found.kl.value == pytest.approx(float(kl), rel=1e-4)
    assert found.agreement.value == pytest.approx(float(agreement))
    assert [found.model_loss.value, found.loss.value] == pytest.approx([float(x) for x in losses], rel=1e-4)
    assert found.kl.low is not None
    assert found.kl.high is not None
    assert found.kl.low <= found.kl.value <= found.kl.high


@contextmanager
def rewritten(model: Any, dictionary: Any) -> Iterator[None]:
    """The model with the dictionary written into its MLPs: each reads its own input, and notes what it writes above."""
    waiting: dict[int, torch.Tensor] = {}

    def forward(layer: int) -> Any:
        def compute(x: torch.Tensor) -> torch.Tensor:
            (row,) = x
            dense = dictionary.encode(layer, row)
            for target in dictionary.writes_to(layer):
                rows = dictionary.decoder_rows(layer, torch.arange(dense.shape[1]), target)
                waiting[target] = waiting.get(target, 0) + dense @ rows
            return (waiting.pop(layer) + dictionary.decoder_bias(layer))[None]

        return compute

    before = [layer.mlp.forward for layer in model.layers]
    for index, layer in enumerate(model.layers):
        layer.mlp.forward = forward(index)
    try:
        yield
    finally:
        for layer, old in zip(model.layers, before, strict=True):
            layer.mlp.forward = old


@pytest.mark.parametrize("family", ["llama", "gemma2", "olmo2", "gpt2", "gpt_neox", "phi"])
@pytest.mark.parametrize("span", [1, 3])
def test_it_is_the_model_with_features_for_mlps(tiny_model: Any, family: str, span: int) -> None:
    """With no position kept: the same final residual as the model whose MLPs were rewritten by hand."""
    model = tiny_model(family)
    rows = random_rows(model, count=2)
    dictionary = fitting_dictionary(model, rows, span=span, reads_at="mlp_in")
    found = replaced_residual(model, DictionaryBasis(model, dictionary), rows, torch.zeros_like(rows, dtype=torch.bool))
    for row, final in zip(rows, found, strict=True):
        with rewritten(model, dictionary):
            logits = model.hf(input_ids=row[None]).logits[0]
        assert torch.allclose(model.logits(final), logits, atol=1e-3)


def test_kept_tokens_keep_the_models_mlps(tiny_model: Any) -> None:
    model = tiny_model("gemma3")
    rows = random_rows(model)
    basis = DictionaryBasis(model, fitting_dictionary(model, rows, span=2))
    own = model.hf(input_ids=rows).logits
    everything = replaced_residual(model, basis, rows, torch.ones_like(rows, dtype=torch.bool))
    assert torch.allclose(model.logits(everything.flatten(0, 1)), own.flatten(0, 1), atol=1e-4)
    some = torch.zeros_like(rows, dtype=torch.bool)
    some[:, :5] = True
    part = model.logits(replaced_residual(model, basis, rows, some).flatten(0, 1)).view_as(own)
    assert torch.allclose(part[:, :5], own[:, :5], atol=1e-4)
    assert (part[:, 5:] - own[:, 5:]).abs().max() > 0.1


def test_layers_that_no_feature_writes_to_keep_their_mlp(tiny_model: Any) -> None:
    import dataclasses

    model = tiny_model("llama")
    rows = random_rows(model)
    whole = fitting_dictionary(model, rows)
    partial = dataclasses.replace(whole, weights={1: whole.weights[1]})
    nothing = torch.zeros_like(rows, dtype=torch.bool)
    found = replaced_residual(model, DictionaryBasis(model, partial), rows, nothing)
    seen: list[torch.Tensor] = []

    def visit(call: Any) -> torch.Tensor | None:
        if call.layer != 1:
            return None
        x = call.site(model, "mlp_in").flatten(0, 1)
        y = partial.reconstruct({1: partial.encode_sparse(1, x)})[1]
        seen.append(y)
        return y.view_as(call.written)

    assert torch.allclose(found, running_module.run(model, rows, visit), atol=1e-4)
    assert len(seen) == 1


def test_batches_do_not_matter(tiny_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    rows = random_rows(model)
    bases = [DictionaryBasis(model, fitting_dictionary(model, rows, span=3)), NeuronBasis(model, 0.2)]
    whole = measure_replacement(model, bases, rows)
    monkeypatch.setattr(running_module, "BATCH_BYTES", 1)
    monkeypatch.setattr("lucida.evaluation.replacement_model.CHUNK_LOGITS", 1)
    for small, large in zip(measure_replacement(model, bases, rows), whole, strict=True):
        assert small is not None
        assert large is not None
        assert small.kl.value == pytest.approx(large.kl.value, rel=1e-3)
        assert small.tokens == large.tokens


def test_nothing_to_count_is_said(tiny_model: Any) -> None:
    """In rows of two tokens the first does not count and nobody knows what follows the second."""
    model = tiny_model("llama")
    assert measure_replacement(model, [NeuronBasis(model, 0.0)], random_rows(model, length=2)) == [None]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["clt", "neurons"])
def test_the_frozen_variant_with_errors_reproduces_the_logits(tiny_model: Any, family: str, kind: str) -> None:
    if kind == "neurons" and family not in DENSE_FAMILIES:
        pytest.skip("neurons of a mixture of experts cannot be traced")
    model = tiny_model(family)
    rows = random_rows(model)
    if kind == "neurons":
        basis = NeuronBasis(model, 0.3)
    else:
        basis = DictionaryBasis(model, fitting_dictionary(model, rows, span=3, skip=True, reads_at="resid_mid"))
    view = FrozenModel(model, record(model, model.tokenize(rows[0].tolist())))
    replacement = basis.localise(view, sink_positions=1)
    assert len(replacement.active) > 3
    assert replacement.error.abs().max() > 0.01
    own = model.hf(input_ids=rows[:1]).logits[0]
    assert (local_logits(replacement) - own).abs().max() < 1e-3
