"""A dictionary is the transcoder that was trained: folded, with thresholds that keep the sparsity."""

from typing import Any

import pytest
import torch
from synthetic import Planted, fit, random_activations, random_transcoder, tiny_config
from torch import Tensor

from lucida.dictionaries import Dictionary, random_dictionary
from lucida.errors import TrainingError
from lucida.progress import silent
from lucida.training.config import TrainingConfig
from lucida.training.dense import preactivations
from lucida.training.export import calibrate, export, start_from
from lucida.training.loop import finish
from lucida.training.normalise import Moments, Normalisation
from lucida.training.transcoder import Transcoder


def random_normalisation(config: TrainingConfig) -> Normalisation:
    generator = torch.Generator().manual_seed(9)
    means = torch.randn(2, config.n_layers, config.d_model, generator=generator)
    scales = 0.5 + 3 * torch.rand(2, config.n_layers, generator=generator)
    return Normalisation(means[0], scales[0], means[1], scales[1])


def exported(transcoder: Transcoder, normalisation: Normalisation, cuts: Tensor | None) -> Dictionary:
    return export(transcoder, normalisation, cuts, name="made", model_name="tiny")


@pytest.mark.parametrize("span", [1, 2, 3])
@pytest.mark.parametrize("activation", ["batchtopk", "jumprelu", "relu"])
def test_folded_weights_do_on_raw_activations_what_training_did_on_normalised_ones(activation: Any, span: int) -> None:
    config = tiny_config(activation=activation, span=span)
    transcoder, normalisation = random_transcoder(config), random_normalisation(config)
    cuts = torch.tensor([2.0, 3.0, 4.0]) if activation == "batchtopk" else None
    dictionary = exported(transcoder, normalisation, cuts)
    assert (dictionary.span, dictionary.reads_at, dictionary.writes_at) == (span, "resid_mid", "resid")
    raw = [4 * x + 1 for x in random_activations(config, 30)[0]]

    d = config.d_model
    output = torch.zeros(config.n_layers, 30, d) + transcoder.decoder_bias.detach()[:, None]
    for layer, x in enumerate(raw):
        parameters = transcoder.layers[layer]
        h = preactivations(transcoder, layer, normalisation.read(layer, x)).detach()
        least = torch.zeros(config.n_features) if parameters.threshold is None else parameters.threshold.detach()
        if cuts is not None:
            least = cuts[layer] / transcoder.decoder_norms(layer).detach()
        codes = h * (h > least)
        assert torch.allclose(dictionary.encode(layer, x), codes, atol=1e-4)
        assert (codes > 0).any()
        for offset in range(transcoder.n_targets(layer)):
            output[layer + offset] += codes @ parameters.decoder.detach()[:, offset * d : (offset + 1) * d]
    wanted = output * normalisation.write_scale[:, None, None] + normalisation.write_mean[:, None]
    active = {layer: dictionary.encode_sparse(layer, x) for layer, x in enumerate(raw)}
    assert torch.allclose(dictionary.reconstruct(active), wanted, atol=1e-3)


@pytest.mark.parametrize("span", [1, 2, 3])
@pytest.mark.parametrize("activation", ["batchtopk", "jumprelu", "relu"])
def test_a_run_can_start_from_what_was_exported(activation: Any, span: int) -> None:
    config = tiny_config(activation=activation, span=span)
    transcoder, normalisation = random_transcoder(config), random_normalisation(config)
    cuts = torch.ones(3) if activation == "batchtopk" else None
    again = random_transcoder(config, seed=1)
    start_from(again, normalisation, exported(transcoder, normalisation, cuts))
    for (name, ours), (_, theirs) in zip(again.named(), transcoder.named(), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-5), name


@pytest.mark.parametrize("wrong", [{"n_features": 47}, {"span": 2}, {"reads_at": "mlp_in"}])
def test_a_dictionary_of_another_shape_is_refused(wrong: dict[str, Any]) -> None:
    shape = {"n_features": 48, "span": 3, "reads_at": "resid_mid"} | wrong
    other = random_dictionary(3, 32, shape.pop("n_features"), activation="relu", writes_at="resid", **shape)
    config = tiny_config()
    with pytest.raises(TrainingError, match=r"\(48, 3, 32\) and resid_mid") as caught:
        start_from(random_transcoder(config), random_normalisation(config), other)
    assert "\n" not in str(caught.value)


def test_moments_are_the_means_and_scales() -> None:
    config, moments = tiny_config(), Moments(3, 32)
    parts = [torch.randn(2, 3, n, 32, generator=torch.Generator().manual_seed(n)) * 3 + 5 for n in (10, 40)]
    for reads, writes in parts:
        moments.add(reads, writes)
    normalisation, together = moments.normalisation(random_transcoder(config).mesh), torch.cat(parts, 2)
    for layer in range(3):
        for normalised in (
            normalisation.read(layer, together[0, layer]),
            normalisation.write(layer, together[1, layer]),
        ):
            assert normalised.mean(0).abs().max() < 1e-5
            assert float(normalised.square().mean()) == pytest.approx(1, rel=1e-4)


def test_what_never_varies_keeps_its_scale() -> None:
    moments = Moments(1, 4)
    moments.add(torch.full((1, 9, 4), 7.0), torch.zeros(1, 9, 4))
    normalisation = moments.normalisation(random_transcoder(tiny_config()).mesh)
    assert torch.equal(normalisation.read_scale, torch.ones(1))
    assert torch.equal(normalisation.read(0, torch.full((1, 4), 7.0)), torch.zeros(1, 4))


def test_calibration_leaves_the_wanted_number_active() -> None:
    config = tiny_config()
    transcoder = random_transcoder(config)
    reads, _ = random_activations(config, 3000)
    wanted = torch.tensor([1.0, 4.5, 9.0])
    cuts = calibrate(transcoder, reads, wanted)
    for layer, x in enumerate(reads):
        scores = preactivations(transcoder, layer, x) * transcoder.decoder_norms(layer)
        assert int((scores >= cuts[layer]).sum()) == round(float(wanted[layer]) * 3000)


def test_exported_thresholds_keep_the_sparsity_of_training() -> None:
    """BatchTopK -> JumpReLU: within 1 % of k layers active on held-out activations, and each layer near its own."""
    config = tiny_config(
        n_layers=2, n_features=64, span=2, k=3.0, n_tokens=200 * 256, batch_tokens=256, block_rows=256,
        learning_rate=1e-2,
    )  # fmt: skip
    planted = Planted.random(2, 48, 32, active=3, seed=0, later=True)
    fitted = fit(planted, config)
    dictionary = finish(fitted.state, fitted.activations, name="made", model_name=None, progress=silent)
    assert dictionary.activation == "jumprelu"
    reads, writes = planted.tokens(20_000, seed=123_456_789)
    active = {layer: dictionary.encode_sparse(layer, x) for layer, x in enumerate(reads)}
    l0 = torch.tensor([len(active[layer]) / 20_000 for layer in range(2)])
    assert float(l0.sum()) == pytest.approx(config.k * 2, rel=0.01)
    in_training = torch.stack([outcome.l0 for outcome in fitted.outcomes[-50:]]).mean(0)
    assert l0.tolist() == pytest.approx(in_training.tolist(), rel=0.05)
    # And they reconstruct about as well as the last batches were.
    error = dictionary.reconstruct(active) - torch.stack(writes)
    nmse = error.square().sum((1, 2)) / torch.stack([(y - y.mean(0)).square().sum() for y in writes])
    assert float(nmse.mean()) < 1.3 * float(fitted.outcomes[-1].nmse.mean())
