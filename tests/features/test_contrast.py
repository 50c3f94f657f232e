"""A contrast finds what separates texts, says how sure that is, and does not claim more than few texts can tell."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lucida.dictionaries import Dictionary, random_dictionary
from lucida.errors import FeatureError
from lucida.features.reading.contrast import best_threshold, contrast, precision_recall
from lucida.features.reading.rank_test import adjusted, mann_whitney, mean_ranks
from lucida.features.reading.read_text import read_text, read_texts
from lucida.models.taps import run
from lucida.statistics import wilson


@pytest.fixture(scope="module")
def dictionary() -> Dictionary:
    return random_dictionary(3, 32, 24, l0=6, seed=3)


def texts(with_token: bool, count: int, seed: int) -> list[list[int]]:
    """Random tokens; those with the concept have token 42 in their middle."""
    generator = np.random.default_rng(seed)
    found = generator.integers(3, 40, (count, 8))
    if with_token:
        found[:, 4] = 42
    return found.tolist()


def slow_auc(inside: np.ndarray, outside: np.ndarray) -> float:
    return float(np.mean([(a > b) + 0.5 * (a == b) for a in inside for b in outside]))


def slow_p(values: np.ndarray, n_first: int) -> float:
    """The share of all partings whose AUC is at least as far from a half."""

    def far(chosen: tuple[int, ...]) -> float:
        is_first = np.isin(np.arange(len(values)), chosen)
        return abs(slow_auc(values[is_first], values[~is_first]) - 0.5)

    own = far(tuple(range(n_first)))
    partings = list(combinations(range(len(values)), n_first))
    return sum(far(chosen) >= own - 1e-9 for chosen in partings) / len(partings)


@given(st.lists(st.integers(0, 4), min_size=2, max_size=7), st.integers(1, 6))
def test_the_rank_test_is_what_counting_says(numbers: list[int], n_first: int) -> None:
    n_first = min(n_first, len(numbers) - 1)
    values = np.float32(numbers)[:, None]
    test = mann_whitney(values, np.arange(len(numbers)) < n_first)
    assert test.exact
    assert test.auc[0] == pytest.approx(slow_auc(values[:n_first, 0], values[n_first:, 0]))
    assert test.p[0] == pytest.approx(slow_p(values[:, 0], n_first))
    assert test.p[0] >= test.smallest_p - 1e-12


def test_the_smallest_p_is_reached() -> None:
    for n_first, n_second in ((3, 3), (5, 5), (2, 6)):
        values = np.r_[np.arange(1, n_first + 1), np.zeros(n_second)][:, None]
        test = mann_whitney(values, np.arange(n_first + n_second) < n_first)
        assert test.auc[0] == 1.0
        assert test.p[0] == pytest.approx(test.smallest_p)
    assert mann_whitney(np.asarray([[1.0], [0.0]]), np.asarray([True, False])).p[0] == 1.0


def test_the_approximation_meets_the_exact_test(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    values = np.maximum(generator.normal(size=(16, 60)), 0.0) + 0.3 * (np.arange(16) < 8)[:, None]
    is_first = np.arange(16) < 8
    exact = mann_whitney(values, is_first)
    monkeypatch.setattr("lucida.features.reading.rank_test.EXACT", 0)
    near = mann_whitney(values, is_first)
    assert exact.exact
    assert not near.exact
    np.testing.assert_array_equal(near.auc, exact.auc)
    np.testing.assert_allclose(near.p, exact.p, atol=0.03)
    constant = mann_whitney(np.zeros((16, 1)), is_first)
    assert (constant.auc[0], constant.p[0]) == (0.5, 1.0)


def test_under_the_null_p_is_not_too_small() -> None:
    generator = np.random.default_rng(1)
    values = np.maximum(generator.normal(size=(12, 2000)), 0.0)
    p = mann_whitney(values, np.arange(12) < 6).p
    for level in (0.01, 0.05, 0.2):
        assert (p <= level).mean() <= level + 0.02
    assert (adjusted(p) <= 0.1).sum() == 0


def test_ranks_of_ties() -> None:
    assert mean_ranks(np.asarray([[3.0], [1.0], [3.0], [0.0]]))[:, 0].tolist() == [3.5, 2.0, 3.5, 1.0]


def test_benjamini_and_hochberg() -> None:
    # Their rule, literally: the largest k with p_(k) <= k/m q, and all smaller ones.
    p = np.asarray([0.01, 0.04, 0.03, 0.005, 0.5])
    q = adjusted(p)
    for level in (0.02, 0.03, 0.05, 0.06):
        ordered = np.sort(p)
        passing = [k for k in range(1, 6) if ordered[k - 1] <= k / 5 * level]
        expected = p <= (ordered[max(passing) - 1] if passing else -1)
        assert ((q <= level + 1e-12) == expected).all()
    assert len(adjusted(np.zeros(0))) == 0


def planted(model) -> Dictionary:
    """Random features, of which 0:7 is fitted to be active where the token is 42."""
    seen: list[torch.Tensor] = []
    rows = torch.tensor(texts(True, 200, 9))
    run(model, rows, lambda call: seen.append(call.mlp_in.float()) if (call.layer, call.at) == (0, "mlp_out") else None)
    x, wanted = seen[0].flatten(0, 1), (rows == 42).float().flatten()
    ones = torch.ones(len(x), 1)
    fit = torch.linalg.lstsq(torch.cat([x, ones], 1), wanted[:, None]).solution[:, 0]
    found = random_dictionary(3, 32, 24, l0=6, seed=3)
    layer = found.weights[0]
    encoder, bias, threshold = layer.encoder.clone(), layer.encoder_bias.clone(), layer.threshold.clone()
    encoder[7], bias[7], threshold[7] = fit[:-1], fit[-1], 0.4
    changed = replace(layer, encoder=encoder, encoder_bias=bias, threshold=threshold)
    return replace(found, weights={**found.weights, 0: changed})


@pytest.mark.parametrize("family", ["llama", "gemma3", "gpt_neox"])
def test_texts_read_together_are_read_as_if_alone(family: str, tiny_model, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model(family)
    dictionary = random_dictionary(3, 32, 24, l0=6, seed=3)
    many = [texts(True, 1, seed)[0][: 2 + seed] for seed in range(7)]
    monkeypatch.setattr("lucida.features.reading.read_text.TOKENS_AT_ONCE", 24)
    together = read_texts(model, dictionary, many)
    for text, reading in zip(many, together, strict=True):
        alone = read_text(model, dictionary, text)
        assert reading.prompt.tokens == alone.prompt.tokens
        for layer in range(3):
            assert not (reading.layers[layer].position == 0).any()
            np.testing.assert_allclose(reading.layers[layer].dense(), alone.layers[layer].dense(), atol=1e-5)


def test_a_contrast_finds_the_planted_feature(tiny_model) -> None:
    model = tiny_model("llama")
    dictionary = planted(model)
    inside, outside = texts(True, 14, 0), texts(False, 14, 1)
    found = contrast(model, dictionary, inside, outside)
    best = found.separations[0]
    assert (best.layer, best.feature) == (0, 7)
    assert best.q < 0.01
    assert best.auc > 0.9
    assert best.effect == 2 * best.auc - 1
    # What it says of the best is what reading the texts says.
    readings = [read_text(model, dictionary, text) for text in inside + outside]
    values = np.float32([reading.layers[0].dense()[:, 7].max() for reading in readings])
    assert best.auc == pytest.approx(slow_auc(values[:14], values[14:]))
    assert best.fires_with == pytest.approx((values[:14] > 0).mean())
    assert best.mean_without == pytest.approx(values[14:].mean(), rel=1e-5)
    ps = [each.p for each in found.separations]
    assert ps == sorted(ps)
    assert found.n_tested == len(found.separations)
    assert found.significant()[0] == best
    # It holds on texts that did not choose it.
    others = (texts(True, 20, 2), texts(False, 20, 3))
    test = precision_recall(model, dictionary, 0, 7, *others, threshold=best.threshold)
    assert test.recall > 0.8
    assert test.precision is not None
    assert test.precision > 0.8


def test_few_texts_claim_nothing(tiny_model, dictionary: Dictionary) -> None:
    found = contrast(tiny_model("llama"), dictionary, texts(True, 3, 0), texts(False, 3, 1))
    assert found.significant() == ()
    assert found.smallest_p == pytest.approx(0.1)
    assert "even a perfect feature has p = 0.1" in found.warnings[0]


def test_nothing_separates_texts_of_one_kind(tiny_model, dictionary: Dictionary) -> None:
    found = contrast(tiny_model("llama"), dictionary, texts(False, 12, 5), texts(False, 12, 6))
    assert found.significant(0.02) == ()


def test_longer_texts_are_warned_of(tiny_model, dictionary: Dictionary) -> None:
    long = [text + text for text in texts(False, 4, 0)]
    found = contrast(tiny_model("llama"), dictionary, long, texts(False, 4, 1))
    assert any("longer texts" in warning for warning in found.warnings)


def test_counts_of_precision_and_recall(tiny_model, dictionary: Dictionary) -> None:
    model = tiny_model("llama")
    inside, outside = texts(True, 6, 0), texts(False, 9, 1)
    values = [float(read_text(model, dictionary, t).layers[1].dense()[:, 7].max()) for t in inside + outside]
    for threshold in (0.0, float(np.median(values)), 1e9):
        found = precision_recall(model, dictionary, 1, 7, inside, outside, threshold=threshold)
        hits, alarms = (sum(v > threshold for v in part) for part in (values[:6], values[6:]))
        assert (found.true_positives, found.false_positives) == (hits, alarms)
        assert (found.false_negatives, found.true_negatives) == (6 - hits, 9 - alarms)
        assert found.recall == hits / 6
        assert found.precision == (hits / (hits + alarms) if hits + alarms else None)
        low, high = found.recall_interval
        assert low <= found.recall <= high
    assert found.precision_interval == (0.0, 1.0)


@given(st.integers(0, 30), st.integers(1, 30))
def test_wilson(successes: int, total: int) -> None:
    """The ends of the interval are the shares that lie 1.96 standard errors from what was seen."""
    successes = min(successes, total)
    share = successes / total
    for end in wilson(successes, total):
        assert 0 <= end <= 1
        if 0 < successes < total:
            assert abs(share - end) == pytest.approx(1.959964 * np.sqrt(end * (1 - end) / total), rel=1e-4)


def test_the_best_threshold() -> None:
    inside, outside = np.float32([3, 4, 5]), np.float32([0, 1, 2])
    assert best_threshold(inside, outside) == 2.5
    assert best_threshold(outside, inside, above=False) == 2.5
    assert best_threshold(np.float32([1, 2]), np.float32([0, 0])) == 0.0


def test_mistakes(tiny_model, dictionary: Dictionary) -> None:
    model = tiny_model("llama")
    some, others = texts(True, 2, 0), texts(False, 2, 1)
    with pytest.raises(FeatureError, match="no text without the concept"):
        contrast(model, dictionary, some, [])
    with pytest.raises(FeatureError, match="stands among"):
        contrast(model, dictionary, some, [*others, some[0]])
    with pytest.raises(FeatureError, match="one string"):
        contrast(model, dictionary, "texts", others)
    with pytest.raises(FeatureError, match="never off"):
        contrast(model, None, some, others)
    with pytest.raises(FeatureError, match="was asked for"):
        precision_recall(model, dictionary, 0, 24, some, others)
    with pytest.raises(FeatureError, match="threshold"):
        precision_recall(model, dictionary, 0, 0, some, others, threshold=-1.0)
    # A text given twice is no more evidence than once.
    assert contrast(model, dictionary, [*some, *some], others).n_with == 2
