"""Statistics with weights are those of the copies they stand for."""

import numpy as np
import pytest

from lucida.statistics import spearman
from lucida.validation.correlation import (
    Pooled,
    _Ranks,
    log_correlation,
    per_graph,
    rank_correlation,
    ratio_of_sums,
    weighted_spearman,
)


@pytest.mark.parametrize("seed", range(5))
def test_weights_stand_for_copies(seed: int) -> None:
    """Ties included."""
    generator = np.random.default_rng(seed)
    a, b = generator.integers(0, 6, (2, 20)).astype(float)
    times = generator.integers(0, 4, 20)
    copies = np.repeat(np.arange(20), times)
    found = weighted_spearman(_Ranks.of(a), _Ranks.of(b), times.astype(float))
    assert found == pytest.approx(spearman(a[copies], b[copies]))


def test_pooled_pairs_are_ranked_together_and_drawn_by_group() -> None:
    generator = np.random.default_rng(0)
    group, first = np.repeat(np.arange(10), 7), generator.normal(size=70)
    second = first + generator.normal(size=70)
    found = Pooled(group, first, second).spearman(seed=0)
    assert found.pairs == 70
    assert found.spearman is not None
    assert found.spearman.value == pytest.approx(spearman(first, second))
    assert found.spearman.count == 10
    assert Pooled(group[:0], first[:0], second[:0]).spearman(seed=0).spearman is None
    one = Pooled(np.zeros(70, int), first, second).spearman(seed=0).spearman
    assert one is not None
    assert one.low is None


def test_logarithms_leave_out_what_is_not_positive() -> None:
    a, b = np.array([1.0, 10, 100, 0, -5]), np.array([2.0, 20, 200, 7, 7])
    assert log_correlation(a, b)(np.arange(5)) == pytest.approx(1)


def test_graphs_are_averaged() -> None:
    """One graph: its own samples are drawn. Several: each counts once, whatever its size."""
    up, down = np.arange(10.0), -np.arange(30.0)
    parts = [(10, rank_correlation(np.arange(10.0), up)), (30, rank_correlation(np.arange(30.0), down))]
    found = per_graph(parts, seed=0)
    assert found is not None
    assert found.value == 0
    assert found.count == 2
    single = per_graph(parts[:1], seed=0)
    assert single is not None
    assert single.count == 10
    assert np.isnan(ratio_of_sums(np.ones(3), np.zeros(3))(np.arange(3)))
