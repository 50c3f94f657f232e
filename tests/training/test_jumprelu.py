"""JumpReLU in training: its straight-through gradients, thresholds that move, sparsity that can be set."""

from typing import Any

import pytest
import torch
from synthetic import Fitted, Planted, fit, tiny_config
from torch import Tensor

from lucida.training.checkpoint import RunState
from lucida.training.dense import count_above, jump_relu
from lucida.training.loop import LEAST_THRESHOLD

BANDWIDTH = 0.4


def test_gradients_are_the_literal_ones_entry_by_entry() -> None:
    """d/dh = 1[h > t] + t K and d/dt = -t K, with K = 1 / bandwidth within half a bandwidth of t, else 0."""
    h = torch.tensor([[-1.0, 0.1, 0.55, 0.69, 0.71, 0.89, 0.91, 3.0]])
    t, upstream = torch.full((8,), 0.7), torch.arange(1.0, 9.0)[None]
    h.requires_grad_()
    t.requires_grad_()
    a = jump_relu(h, t, BANDWIDTH)
    assert torch.allclose(a, torch.tensor([[0, 0, 0, 0, 0.71, 0.89, 0.91, 3.0]]))
    a.backward(upstream)
    is_near = torch.tensor([0, 0, 1, 1, 1, 1, 0, 0])
    is_above = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1])
    kernel = is_near * 0.7 / BANDWIDTH
    assert torch.allclose(h.grad, upstream * (is_above + kernel))  # pyright: ignore
    assert torch.allclose(t.grad, -(upstream[0] * kernel))  # pyright: ignore


def test_no_gradient_below_the_threshold_outside_the_window() -> None:
    """One trainer let the gradient pass for every h above 0 (TRAINING 5, a)."""
    threshold = torch.tensor([2.0])
    h = torch.linspace(-1, 2 - BANDWIDTH / 2 - 1e-3, 50)[:, None].requires_grad_()
    jump_relu(h, threshold, BANDWIDTH).sum().backward()
    assert h.grad is not None
    assert (h.grad == 0).all()
    assert int(((h > 0) & (h < threshold)).sum()) > 20


@pytest.mark.parametrize("what", ["activation", "count"])
def test_threshold_gradient_is_the_slope_of_the_mean(what: str) -> None:
    """Over evenly spread pre-activations the straight-through gradient is the finite difference in the threshold."""
    h = torch.linspace(-4, 4, 80_001)[:, None]

    def mean(threshold: Tensor) -> Tensor:
        found = (
            jump_relu(h, threshold, BANDWIDTH)[:, 0] if what == "activation" else count_above(h, threshold, BANDWIDTH)
        )
        return found.double().mean()

    threshold = torch.tensor([0.9], requires_grad=True)
    mean(threshold).backward()
    with torch.no_grad():
        slope = (mean(torch.tensor([1.1])) - mean(torch.tensor([0.7]))) / 0.4
    assert float(threshold.grad) == pytest.approx(float(slope), rel=0.01)  # pyright: ignore


def run(prepare: Any = None, **knobs: Any) -> Fitted:
    settings = {
        "n_layers": 1,
        "n_features": 64,
        "span": 1,
        "batch_tokens": 256,
        "block_rows": 128,
        "learning_rate": 1e-2,
        "n_tokens": 150 * 256,
        "activation": "jumprelu",
    }
    return fit(Planted.random(1, 48, 32, active=3, seed=0), tiny_config(**settings | knobs), prepare=prepare)


def thresholds(fitted: Fitted) -> Tensor:
    found = fitted.state.transcoder.layers[0].threshold
    assert found is not None
    return found.detach()


def final_l0(fitted: Fitted) -> float:
    return float(torch.stack([outcome.l0 for outcome in fitted.outcomes[-5:]]).mean())


def test_thresholds_move() -> None:
    """Regression (SAELens #718): a logarithmic threshold under Adam moved by 1e-7 a step, and one in bfloat16 not."""
    fitted = run(penalty_weight=2.0)
    moved = (thresholds(fitted) - fitted.state.transcoder.config.threshold_start).abs()
    assert float(moved.mean()) > 1e-3 * len(fitted.outcomes)
    assert float(moved.median()) > 0.1
    assert thresholds(fitted).dtype == torch.float32


def test_a_threshold_at_the_floor_comes_back() -> None:
    """Its gradient is proportional to it, so at 0 it would be stuck, and the feature a ReLU for good."""

    def prepare(state: RunState) -> None:
        state.transcoder.layers[0].threshold.zero_()  # pyright: ignore

    floor = LEAST_THRESHOLD * (1 - 1e-6)
    fitted = run(prepare, penalty_weight=2.0, threshold_start=0.0)
    assert float(thresholds(fitted).min()) >= floor
    assert float((thresholds(fitted) > 0.1).float().mean()) > 0.9


def test_more_penalty_leaves_fewer_active() -> None:
    """Regression (SAELens #494, #719): L0 was the same for any weight."""
    found = [final_l0(run(penalty_weight=weight)) for weight in (0.1, 0.5, 2.0)]
    assert found[0] > 1.5 * found[1] > 2 * found[2] > 1.0


@pytest.mark.parametrize("k", [7.0, 14.0])
def test_quadratic_penalty_reaches_its_target(k: float) -> None:
    fitted = run(penalty="quadratic", k=k, penalty_weight=8.0, learning_rate=2e-2, decay=0.0)
    assert float(fitted.outcomes[0].l0) > 1.5 * k
    assert final_l0(fitted) == pytest.approx(k, rel=0.2)
