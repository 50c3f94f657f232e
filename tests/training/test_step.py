"""One step: its gradients are those of the loss written out, whatever the batch size, layer by layer at span 1."""

from typing import Any

import pytest
import torch
from synthetic import gradients, random_activations, random_transcoder, tiny_config
from torch import Tensor

from lucida.training.batchtopk import select
from lucida.training.config import TrainingConfig
from lucida.training.dense import dense_batchtopk, jump_relu, preactivations
from lucida.training.loop import clip_gradients, learning_rate, schedule, silent_limit
from lucida.training.mesh import Mesh
from lucida.training.step import Outcome, Schedule, step
from lucida.training.transcoder import Transcoder

TOKENS = 24


def aims(budget: int = 250, penalty: float = 0.7, low: float = 0.0, turn: int = 0) -> Schedule:
    return Schedule(budget=budget, penalty=penalty, low=low, turn=turn)


def nothing_dead(config: TrainingConfig) -> list[Tensor]:
    return [torch.zeros(config.n_features, dtype=torch.bool) for _ in range(config.n_layers)]


def some_dead(config: TrainingConfig, every: int = 3) -> list[Tensor]:
    return [(torch.arange(config.n_features) + layer) % every == 0 for layer in range(config.n_layers)]


def decode(transcoder: Transcoder, codes: list[Tensor]) -> list[Tensor]:
    """By target layer, what the features of all layers write there (METHODS 1.1), without bias."""
    d, n = transcoder.config.d_model, transcoder.config.n_layers
    written = [torch.zeros(len(codes[0]), d) for _ in range(n)]
    for layer, a in enumerate(codes):
        for offset in range(transcoder.n_targets(layer)):
            decoder = transcoder.layers[layer].decoder[:, offset * d : (offset + 1) * d]
            written[layer + offset] = written[layer + offset] + a @ decoder
    return written


def nmse(transcoder: Transcoder, written: list[Tensor], writes: list[Tensor]) -> Tensor:
    errors = [w + b - y for w, b, y in zip(written, transcoder.decoder_bias, writes, strict=True)]
    return torch.stack([e.square().mean() for e in errors])


def auxiliary(
    transcoder: Transcoder, reads: list[Tensor], left: list[Tensor], dead: list[Tensor], aux_k: int
) -> Tensor:
    """AuxK written out: the dead features' largest scores, layer by layer, on every token."""
    codes = []
    for layer, x in enumerate(reads):
        a = preactivations(transcoder, layer, x).relu() * dead[layer]
        scores = (a * transcoder.decoder_norms(layer)).detach()
        keep = min(aux_k, int(dead[layer].sum())) * len(x)
        codes.append(a * (scores >= scores.flatten().sort(descending=True).values[keep - 1].clamp_min(1e-30)))
    written = decode(transcoder, codes)
    return torch.stack([(w - e).square().sum() / e.square().sum() for w, e in zip(written, left, strict=True)]).sum()


@pytest.mark.parametrize("span", [1, 2, 3])
def test_batchtopk_gradients_are_those_of_the_loss_written_out(span: int) -> None:
    config = tiny_config(span=span, aux_share=1.0, aux_k=5)
    transcoder, dead = random_transcoder(config), some_dead(config)
    reads, writes = random_activations(config, TOKENS)

    outcome = step(transcoder, reads, writes, aims(), dead)
    found = gradients(transcoder)

    codes = dense_batchtopk(transcoder, reads, 250)
    written = decode(transcoder, codes)
    left = [(y - w - b).detach() for w, b, y in zip(written, transcoder.decoder_bias, writes, strict=True)]
    losses, aux = nmse(transcoder, written, writes), auxiliary(transcoder, reads, left, dead, 5)
    (losses.sum() + config.aux_weight * aux).backward()
    for name, wanted in gradients(transcoder).items():
        assert torch.allclose(found[name], wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max())), name
    assert torch.allclose(outcome.nmse, losses, rtol=1e-5)
    assert outcome.aux == pytest.approx(float(aux.detach()) / config.n_layers, rel=1e-4)
    assert torch.equal(outcome.l0, torch.stack([(a > 0).sum() for a in codes]) / TOKENS)
    assert [f.tolist() for f in outcome.fired] == [(a > 0).any(0).tolist() for a in codes]


@pytest.mark.parametrize("activation", ["jumprelu", "relu"])
def test_dense_gradients_are_those_of_the_loss_written_out(activation: Any) -> None:
    config = tiny_config(activation=activation, preactivation_weight=0.3)
    transcoder, dead = random_transcoder(config), some_dead(config)
    reads, writes = random_activations(config, TOKENS)

    outcome = step(transcoder, reads, writes, aims(), dead)
    found = gradients(transcoder)

    codes, penalty = [], torch.zeros(())
    for layer, x in enumerate(reads):
        parameters, h = transcoder.layers[layer], preactivations(transcoder, layer, x)
        norms = torch.sqrt(parameters.decoder.square().sum(1))  # over all layers that a feature writes to
        a = h.relu() if parameters.threshold is None else jump_relu(h, parameters.threshold, config.bandwidth)
        penalty = penalty + 0.7 * torch.tanh(config.penalty_scale * a * norms).sum() / (TOKENS * config.d_model)
        if parameters.threshold is not None:
            below = (parameters.threshold - h).relu() * norms * dead[layer]
            penalty = penalty + 0.3 * below.sum() / TOKENS
        codes.append(a)
    losses = nmse(transcoder, decode(transcoder, codes), writes)
    (losses.sum() + penalty).backward()
    for name, wanted in gradients(transcoder).items():
        assert torch.allclose(found[name], wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max())), name
    assert torch.allclose(outcome.nmse, losses, rtol=1e-5)
    assert outcome.penalty == pytest.approx(float(penalty.detach()), rel=1e-5)


def test_tanh_penalty_pulls_at_every_decoder_of_a_feature() -> None:
    """One trainer took the decoder norm without gradient, another that of the own layer alone (TRAINING 5, e)."""
    config = tiny_config(activation="relu", penalty_scale=0.01)  # far from where tanh is flat
    reads, _ = random_activations(config, TOKENS)
    transcoder, d = random_transcoder(config), config.d_model
    codes = [preactivations(transcoder, layer, x).relu().detach() for layer, x in enumerate(reads)]
    written = decode(transcoder, codes)
    targets = [(w + b).detach() for w, b in zip(written, transcoder.decoder_bias, strict=True)]
    # The reconstruction is perfect, so what is left of the gradient is that of the penalty.
    step(transcoder, reads, targets, aims(penalty=5.0), nothing_dead(config))
    gradient, decoder = transcoder.layers[0].decoder.grad, transcoder.layers[0].decoder.detach()
    assert gradient is not None
    fires = (codes[0] > 0).any(0)
    assert int(fires.sum()) > 40
    for target in range(3):
        part = slice(target * d, (target + 1) * d)
        cosine = torch.cosine_similarity(gradient[fires, part], decoder[fires, part], dim=1)
        assert float(cosine.min()) > 0.99, "the penalty shrinks each decoder along itself"


def independent(config: TrainingConfig, whole: Transcoder, layer: int) -> Transcoder:
    """A transcoder of one layer with the weights of that layer of `whole`."""
    from dataclasses import replace

    alone = Transcoder(replace(config, n_layers=1))
    with torch.no_grad():
        for (_, ours), (_, theirs) in zip(alone.layers[0].named(), whole.layers[layer].named(), strict=True):
            ours.copy_(theirs)
        alone.decoder_bias.copy_(whole.decoder_bias[layer : layer + 1])
    return alone


@pytest.mark.parametrize("activation", ["batchtopk", "jumprelu", "relu"])
def test_span_1_is_one_transcoder_for_each_layer(activation: Any) -> None:
    """With the budget that the pooled selection gave each layer, for BatchTopK."""
    config = tiny_config(span=1, activation=activation, aux_share=0.5, aux_k=4)
    whole, dead = random_transcoder(config), some_dead(config)
    reads, writes = random_activations(config, TOKENS)
    outcome = step(whole, reads, writes, aims(), dead)
    for layer in range(config.n_layers):
        alone = independent(config, whole, layer)
        budget = round(float(outcome.l0[layer]) * TOKENS)
        part = step(alone, [reads[layer]], [writes[layer]], aims(budget=budget), [dead[layer]])
        assert torch.allclose(part.nmse, outcome.nmse[layer])
        found = dict(whole.layers[layer].named())
        for name, tensor in alone.layers[0].named():
            ours, theirs = tensor.grad, found[name].grad
            assert ours is not None
            assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6), name
        assert torch.allclose(alone.decoder_bias.grad[0], whole.decoder_bias.grad[layer], atol=1e-7)  # pyright: ignore


@pytest.mark.parametrize("penalty", ["tanh", "quadratic"])
@pytest.mark.parametrize("activation", ["batchtopk", "jumprelu"])
def test_a_batch_twice_as_large_means_the_same(activation: Any, penalty: Any) -> None:
    """Losses and penalties are means over tokens: one trainer summed its penalty over them (TRAINING 5, d)."""
    config = tiny_config(activation=activation, penalty=penalty, preactivation_weight=0.1, aux_share=1.0, aux_k=4)
    reads, writes = random_activations(config, TOKENS)
    transcoder, results = random_transcoder(config), []
    for times in (1, 2):
        outcome = step(
            transcoder,
            [x.repeat(times, 1) for x in reads],
            [y.repeat(times, 1) for y in writes],
            aims(budget=250 * times),
            some_dead(config),
        )
        results.append((outcome, gradients(transcoder)))
    (one, first), (two, second) = results
    assert (one.loss, one.penalty, one.aux) == pytest.approx((two.loss, two.penalty, two.aux), rel=1e-5)
    assert (one.penalty > 0) == (activation == "jumprelu")
    assert (one.aux > 0) == (activation == "batchtopk")
    for name, gradient in first.items():
        assert torch.allclose(gradient, second[name], rtol=1e-4, atol=1e-5 * float(gradient.abs().max())), name


def test_quadratic_penalty_is_its_formula() -> None:
    """weight (L0 / L0* - 1)^2, and its gradient in a threshold is 2 weight (L0 / L0* - 1) / L0* x dL0."""
    config = tiny_config(activation="jumprelu", penalty="quadratic", k=4.0)
    transcoder = random_transcoder(config)
    reads, writes = random_activations(config, TOKENS)
    with_penalty = step(transcoder, reads, writes, aims(penalty=0.7), nothing_dead(config))
    after = gradients(transcoder)
    step(transcoder, reads, writes, aims(penalty=0.0), nothing_dead(config))
    before = gradients(transcoder)
    excess = float(with_penalty.l0.sum()) / 12 - 1
    assert with_penalty.penalty == pytest.approx(0.7 * excess**2, rel=1e-5)
    for layer, x in enumerate(reads):
        threshold = transcoder.layers[layer].threshold
        assert threshold is not None
        h = preactivations(transcoder, layer, x)
        window = ((h - threshold).abs() < config.bandwidth / 2).float().sum(0) / config.bandwidth / TOKENS
        wanted = -window * 2 * 0.7 * excess / 12
        name = f"layers.{layer}.threshold"
        assert torch.allclose(after[name] - before[name], wanted.detach(), atol=1e-5)
        assert torch.allclose(after[f"layers.{layer}.encoder"], before[f"layers.{layer}.encoder"])


def test_bfloat16_products_are_near_the_float32_ones() -> None:
    outcomes: list[Outcome] = []
    for products in ("float32", "bfloat16"):
        config = tiny_config(products=products)
        reads, writes = random_activations(config, TOKENS)
        outcomes.append(step(random_transcoder(config), reads, writes, aims(), some_dead(config)))
    assert outcomes[0].loss == pytest.approx(outcomes[1].loss, rel=0.02)
    assert outcomes[0].loss != outcomes[1].loss


# --- what a step aims at --------------------------------------------------------------------------


def test_k_comes_down_and_stays() -> None:
    config = tiny_config(n_tokens=100 * 64, anneal=0.2, anneal_from=5.0, k=4.0)
    budgets = [schedule(config, at, 0.0).budget for at in range(100)]
    assert budgets[0] == 20 * 3 * 64
    assert budgets[20:] == [4 * 3 * 64] * 80
    assert budgets == sorted(budgets, reverse=True)


def test_k_above_half_of_the_features_is_kept() -> None:
    """The start of the annealing is held to half of the features; the k that was asked for never is."""
    config = tiny_config(k=40.0, n_features=48)
    assert schedule(config, 0, 0.0).budget == schedule(config, 19, 0.0).budget == 40 * 3 * 64


def test_learning_rate_rises_stays_and_falls_to_nothing() -> None:
    config = tiny_config(n_tokens=100 * 64, warmup=0.1, decay=0.2, learning_rate=1.0)
    rates = [learning_rate(config, at) for at in range(100)]
    assert rates[:10] == pytest.approx([0.1 * n for n in range(1, 11)])
    assert rates[10:80] == [1.0] * 70
    assert rates[80:] == pytest.approx([(100 - n) / 20 for n in range(80, 100)])
    flat = tiny_config(warmup=0.0, decay=0.0, anneal=0.0, learning_rate=1.0)
    assert [learning_rate(flat, at) for at in range(20)] == [1.0] * 20
    assert schedule(flat, 0, 0.0).budget == 4 * 3 * 64


def test_dead_is_silent_for_a_share_of_the_run() -> None:
    assert silent_limit(tiny_config(n_tokens=64_000, dead_after=0.05)) == 50
    assert silent_limit(tiny_config(n_tokens=64_000_000_000, dead_after=0.5)) == 10_000_000 // 64
    assert silent_limit(tiny_config()) == 10, "never at once"


def test_gradients_are_clipped_together() -> None:
    config = tiny_config()
    transcoder = random_transcoder(config)
    reads, writes = random_activations(config, TOKENS)
    step(transcoder, reads, writes, aims(), nothing_dead(config))
    before = {name: tensor.grad.clone() for name, tensor in transcoder.named()}  # pyright: ignore
    norm = torch.cat([g.flatten() for g in before.values()]).norm()
    assert float(clip_gradients(transcoder, 0.0, Mesh())) == pytest.approx(float(norm), rel=1e-5)
    assert float(clip_gradients(transcoder, 1e9, Mesh())) == pytest.approx(float(norm), rel=1e-5)
    assert all(torch.equal(tensor.grad, before[name]) for name, tensor in transcoder.named())  # pyright: ignore
    clip_gradients(transcoder, float(norm) / 4, Mesh())
    for name, tensor in transcoder.named():
        assert tensor.grad is not None
        assert torch.allclose(tensor.grad, before[name] / 4, rtol=1e-5)


def test_selected_entries_are_the_budget() -> None:
    config = tiny_config()
    reads, _ = random_activations(config, TOKENS)
    for budget in (1, 7, 250):
        codes = select(random_transcoder(config), reads, budget, low=0.0).codes
        assert sum(len(each.values) for each in codes) == budget
