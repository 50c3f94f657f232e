"""NMSE, L0, dead share and frequencies are their definitions, whatever the family, the span and the batch."""

from typing import Any

import pytest
import torch
from relu_models import fitting_dictionary, perfect_dictionary, random_rows, relu_model
from tiny_models import DENSE_FAMILIES

from lucida.dictionaries import Dictionary
from lucida.errors import DictionaryError, LucidaError
from lucida.evaluation import DictionaryBasis, NeuronBasis, Reconstruction, measure_reconstruction, neurons_of_l0
from lucida.evaluation import running as running_module
from lucida.evaluation.reconstruction import FREQUENCIES
from lucida.evaluation.running import run_base
from lucida.models.linear import FrozenModel
from lucida.models.recording import record
from lucida.models.sinks import Sinks, find_sinks

KINDS: dict[str, dict[str, Any]] = {
    "plt": {"span": 1, "reads_at": "mlp_in"},
    "topk": {"span": 1, "activation": "topk", "reads_at": "mlp_norm", "writes_at": "resid"},
    "skip": {"span": 1, "skip": True, "reads_at": "resid_mid"},
    "windowed": {"span": 2, "activation": "relu", "reads_at": "resid_mid"},
    "clt": {"span": 3, "reads_at": "resid_mid", "writes_at": "resid"},
}
PAIRS = [
    *(("llama", kind) for kind in KINDS),
    *(("gemma2", kind) for kind in KINDS),
    *((family, "clt") for family in ("olmo2", "gpt2", "gpt_neox", "mixtral")),
    ("gpt2", "topk"),
]
NO_SINKS = 1e9


def by_definition(model: Any, dictionary: Dictionary, rows: torch.Tensor) -> tuple[list[float], list[torch.Tensor]]:
    """NMSE of every layer and how often each feature fires, row by row, without the first position."""
    outputs, rebuilt, fired = [], [], []
    for row in rows.tolist():
        view = FrozenModel(model, record(model, model.tokenize(row)))
        reads_at = view.reading_site(dictionary.reads_at)
        inputs = {layer: view.site(layer, reads_at)[1:] for layer in dictionary.layers}
        active = {layer: dictionary.encode_sparse(layer, x) for layer, x in inputs.items()}
        rebuilt.append(dictionary.reconstruct(active, inputs))
        fired.append([(active[layer].dense() != 0).sum(0) for layer in dictionary.layers])
        at_residual = dictionary.writes_at == "resid"
        real = [view.mlp_contribution(i) if at_residual else view.recording.mlp_out[i] for i in range(model.n_layers)]
        outputs.append(torch.stack(real)[:, 1:])
    y, found = torch.cat(outputs, 1).double(), torch.cat(rebuilt, 1).double()
    nmse = (y - found).square().sum((1, 2)) / (y - y.mean(1, keepdim=True)).square().sum((1, 2))
    return nmse.tolist(), [torch.stack(column).sum(0) for column in zip(*fired, strict=True)]


@pytest.mark.parametrize(("family", "kind"), PAIRS)
def test_measures_are_their_definitions(tiny_model: Any, family: str, kind: str) -> None:
    model = tiny_model(family)
    rows = random_rows(model)
    settings = KINDS[kind]
    if settings["reads_at"] == "mlp_norm" and model.family.norm == "layer":
        settings = settings | {"reads_at": "mlp_in"}
    dictionary = fitting_dictionary(model, rows, **settings)
    nmse, fired = by_definition(model, dictionary, rows)
    sinks = Sinks(1, torch.full((model.n_layers,), NO_SINKS))
    (found,) = measure_reconstruction(model, [DictionaryBasis(model, dictionary)], rows, sinks=sinks)
    tokens = rows.numel() - len(rows)
    assert found.tokens == tokens
    assert [layer.nmse for layer in found.layers] == pytest.approx(nmse, rel=1e-4)
    assert found.nmse == pytest.approx(sum(nmse) / 3, rel=1e-4)
    # A pre-activation within rounding of its threshold may fall on either side.
    counts = [float(column.sum()) / tokens for column in fired]
    assert [layer.l0 for layer in found.layers] == pytest.approx(counts, abs=2 / tokens)
    assert found.l0 == pytest.approx(sum(counts), abs=4 / tokens)
    dead = [float((column == 0).double().mean()) for column in fired]
    assert [layer.dead for layer in found.layers] == pytest.approx(dead, abs=0.03)
    assert sum(found.frequencies) == round(120 * (1 - found.dead))


@pytest.mark.parametrize("family", ["llama", "gpt_neox"])
def test_batches_do_not_matter(tiny_model: Any, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(family)
    rows = random_rows(model)
    dictionary = fitting_dictionary(model, rows, span=3, reads_at="resid_mid")
    bases = [DictionaryBasis(model, dictionary), NeuronBasis(model, 0.3)]
    whole = measure_reconstruction(model, bases, rows)
    monkeypatch.setattr(running_module, "BATCH_BYTES", 1)
    assert len(running_module.batches(model, rows)) == len(rows)
    for small, large in zip(measure_reconstruction(model, bases, rows), whole, strict=True):
        assert [x.nmse for x in small.layers] == pytest.approx([x.nmse for x in large.layers], rel=1e-4)
        assert small.l0 == pytest.approx(large.l0, abs=0.05)


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox"])
def test_a_perfect_dictionary_has_no_error(family: str) -> None:
    model = relu_model(family)
    (found,) = measure_reconstruction(model, [DictionaryBasis(model, perfect_dictionary(model))], random_rows(model))
    assert found.nmse < 1e-10


@pytest.mark.parametrize("family", DENSE_FAMILIES)
def test_all_neurons_are_the_mlp(tiny_model: Any, family: str) -> None:
    model = tiny_model(family)
    (found,) = measure_reconstruction(model, [NeuronBasis(model, 0.0)], random_rows(model))
    assert found.nmse < 1e-9


def test_the_mean_output_has_nmse_one(tiny_model: Any) -> None:
    """A dictionary whose features never fire and whose bias is the mean output explains nothing beyond the mean."""
    model = tiny_model("llama")
    rows = random_rows(model)
    sinks = Sinks(1, torch.full((model.n_layers,), NO_SINKS))
    base = run_base(model, rows, sinks, reads_at=set(), writes_at={"mlp_out"})
    means = torch.stack([y.mean(0) for y in base.outputs["mlp_out"]])
    silent = Dictionary.from_tensors(
        encoders={layer: torch.zeros(5, model.d_model) for layer in range(3)},
        encoder_biases={layer: torch.full((5,), -1.0) for layer in range(3)},
        decoders={layer: torch.zeros(5, 1, model.d_model) for layer in range(3)},
        decoder_biases=means,
        activation="relu",
    )
    (found,) = measure_reconstruction(model, [DictionaryBasis(model, silent)], rows, sinks=sinks)
    assert [layer.nmse for layer in found.layers] == pytest.approx([1.0] * 3, rel=1e-5)
    assert found.l0 == 0
    assert found.dead == 1
    assert sum(found.frequencies) == 0


def test_frequencies_fall_into_their_bins(tiny_model: Any) -> None:
    """Features that fire always, and never."""
    model = tiny_model("llama")
    bias = torch.tensor([1.0, 1.0, -1.0])
    dictionary = Dictionary.from_tensors(
        encoders={0: torch.zeros(3, model.d_model)},
        encoder_biases={0: bias},
        decoders={0: torch.zeros(3, 1, model.d_model)},
        decoder_biases=torch.zeros(3, model.d_model),
        activation="relu",
    )
    (found,) = measure_reconstruction(model, [DictionaryBasis(model, dictionary)], random_rows(model))
    assert found.frequencies == (*(0,) * (len(FREQUENCIES) - 2), 2)
    assert found.l0 == 2.0
    assert [layer.features for layer in found.layers] == [3, 0, 0]
    assert [layer.nmse is None for layer in found.layers] == [False, True, True]
    assert found.layers[1].dead is None


def test_the_choice_of_neurons_does_not_depend_on_a_layers_scale(tiny_model: Any) -> None:
    """A layer that writes ten times as much is no reason to keep ten times as many of its neurons."""
    model = tiny_model("llama")
    base = run_base(
        model, random_rows(model), find_sinks(model, random_rows(model)), reads_at={"mlp_in"}, writes_at=set()
    )
    reads = base.sites["mlp_in"]

    def kept() -> list[int]:
        basis = neurons_of_l0(model, lambda layer: reads[layer], 20.0)
        return [len(basis.encode(layer, reads[layer])) for layer in basis.layers]

    before = kept()
    assert min(before) > 0
    weight = model.layers[1].mlp.down_proj.weight
    try:
        weight *= 10
        model._mlp_weights = None
        assert kept() == pytest.approx(before, abs=2)
    finally:
        weight /= 10
        model._mlp_weights = None


@pytest.mark.parametrize("l0", [1.0, 7.0, 40.0])
def test_neurons_of_l0_have_it(tiny_model: Any, l0: float) -> None:
    model = tiny_model("gemma2")
    rows = random_rows(model)
    sinks = find_sinks(model, rows)
    base = run_base(model, rows, sinks, reads_at={"mlp_in"}, writes_at=set())
    basis = neurons_of_l0(model, lambda layer: base.sites["mlp_in"][layer], l0)
    (found,) = measure_reconstruction(model, [basis], rows, sinks=sinks)
    assert found.l0 == pytest.approx(l0, abs=2 / found.tokens)


def test_more_neurons_than_there_are(tiny_model: Any) -> None:
    model = tiny_model("llama")
    with pytest.raises(DictionaryError, match="up to all 144"):
        neurons_of_l0(model, lambda _: torch.ones(2, model.d_model), 145.0)


def test_attention_sinks_do_not_count(tiny_model: Any) -> None:
    """A token with a huge embedding is a sink wherever it stands; the others are not."""
    model = tiny_model("llama")
    rows = random_rows(model)
    rows[:, 5] = 50
    weight = model.hf.get_input_embeddings().weight
    before = weight[50].clone()
    try:
        weight[50] *= 1e3
        sinks = find_sinks(model, rows)
        counted = run_base(model, rows, sinks, reads_at=set(), writes_at=set()).counted
    finally:
        weight[50] = before
    expected = rows != 50
    expected[:, 0] = False
    assert torch.equal(counted, expected)


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (torch.zeros(0, 8, dtype=torch.long), "there is no text"),
        (torch.zeros(2, 65, dtype=torch.long), "context of this model is 64"),
        (torch.zeros(2, 1, dtype=torch.long), "first 1 of each are left out"),
        (torch.full((2, 8), 97), "token id 97 is not in the vocabulary of 97"),
        (torch.full((2, 8), -1), "token id -1"),
    ],
)
def test_rows_that_cannot_be_read(tiny_model: Any, rows: torch.Tensor, says: str) -> None:
    with pytest.raises(LucidaError, match=says):
        measure_reconstruction(tiny_model("llama"), [NeuronBasis(tiny_model("llama"), 0.0)], rows)


def test_a_dictionary_of_another_model_is_refused(tiny_model: Any) -> None:
    other = fitting_dictionary(tiny_model("llama"), random_rows(tiny_model("llama")))
    import dataclasses

    small = dataclasses.replace(other, weights={0: other.weights[0]}, n_layers=1, decoder_biases=torch.zeros(1, 32))
    with pytest.raises(DictionaryError, match="has 1 layers, this model 3"):
        DictionaryBasis(tiny_model("llama"), small)


def test_a_damaged_decoder_is_refused(tiny_model: Any) -> None:
    model = tiny_model("llama")
    rows = random_rows(model)
    dictionary = fitting_dictionary(model, rows)
    dictionary.weights[1].decoders[0][:, 3] = float("nan")
    with pytest.raises(DictionaryError, match="writes NaN"):
        measure_reconstruction(model, [DictionaryBasis(model, dictionary)], rows)


def test_half_precision_dictionaries_are_measured_in_float32(tiny_model: Any) -> None:
    import dataclasses

    model = tiny_model("llama")
    rows = random_rows(model)
    exact = fitting_dictionary(model, rows, span=2)
    rounded = {
        layer: dataclasses.replace(w, decoders=tuple(d.bfloat16() for d in w.decoders))
        for layer, w in exact.weights.items()
    }
    back = {
        layer: dataclasses.replace(w, decoders=tuple(d.float() for d in w.decoders)) for layer, w in rounded.items()
    }
    found: list[Reconstruction] = measure_reconstruction(
        model,
        [DictionaryBasis(model, dataclasses.replace(exact, weights=weights)) for weights in (rounded, back)],
        rows,
    )
    assert found[0].nmse == pytest.approx(found[1].nmse, rel=1e-6)
