"""Intervals cover what they should, and ranks are ranks."""

import math

import numpy as np
import pytest

from lucida.evaluation import Interval
from lucida.statistics import bootstrap, mean, ratio, spearman


def test_spearman_is_the_correlation_of_ranks() -> None:
    a = np.array([3.0, 1.0, 4.0, 1.0, 5.0, 9.0])
    b = np.array([2.0, 7.0, 1.0, 8.0, 2.0, 8.0])
    ranks = (np.array([3, 1.5, 4, 1.5, 5, 6]), np.array([2.5, 4, 1, 5.5, 2.5, 5.5]))
    assert spearman(a, b) == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert spearman(a, np.exp(a)) == pytest.approx(1)
    assert spearman(a, -a) == pytest.approx(-1)


@pytest.mark.parametrize("values", [[1.0, 2.0], [1.0, 1.0, 1.0]])
def test_spearman_of_nothing_is_not_a_number(values: list[float]) -> None:
    assert math.isnan(spearman(np.array(values), np.arange(len(values), dtype=float)))


def test_the_interval_of_a_mean_is_that_of_the_normal() -> None:
    samples = np.random.default_rng(0).normal(3, 2, 400)
    found = mean(samples)
    assert found is not None
    assert found.low is not None
    assert found.high is not None
    assert found.value == pytest.approx(samples.mean())
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * 2 / 20, rel=0.15)
    assert found.count == 400


def test_a_ratio_weighs_samples_by_their_size() -> None:
    found = ratio(np.array([1.0, 9.0]), np.array([1.0, 3.0]))
    assert found is not None
    assert found.value == 2.5
    assert (found.low, found.high) == (1.0, 3.0)


def test_what_is_not_defined() -> None:
    assert mean(np.zeros(0)) is None
    assert mean(np.array([np.nan, 2.0])) == Interval(2.0, None, None, 1)
    assert bootstrap(lambda drawn: np.full(len(drawn), np.nan), 5) is None
    assert ratio(np.zeros(3), np.zeros(3)) is None


def test_the_seed_decides() -> None:
    samples = np.random.default_rng(0).normal(size=20)
    assert mean(samples, seed=1) == mean(samples, seed=1) != mean(samples, seed=2)


def test_an_interval_reads_well() -> None:
    assert str(Interval(0.5, 0.25, 0.75, 9)) == "0.5 [0.25, 0.75]"
    assert str(Interval(0.5, None, None, 1)) == "0.5"
