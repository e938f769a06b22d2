"""Intervals are held to published values, to their definition, and to the coverage that they promise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as sps

from hago.measure import stats

FINITE = st.floats(min_value=1e-6, max_value=1e3, allow_nan=False)


def test_median_interval_is_the_binomial_pair_of_order_statistics():
    # Conover's tables for n = 10: the 2nd and the 9th order statistics cover the median with 97.9 %.
    found = stats.median_interval(np.arange(1.0, 11.0)[::-1])
    assert (found.value, found.low, found.high) == (5.5, 2.0, 9.0)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_median_interval_of_few_values_is_their_whole_range(n):
    found = stats.median_interval(np.arange(n))
    assert (found.low, found.high) == (0, n - 1)


@given(st.lists(FINITE, min_size=1, max_size=40))
@settings(max_examples=50)
def test_median_interval_holds_the_median_and_seen_values(values):
    found = stats.median_interval(values)
    assert found.low <= found.value <= found.high
    assert found.low in values and found.high in values


def test_median_interval_covers_as_promised_on_skewed_times():
    rng = np.random.default_rng(1)
    true = np.log(2.0)
    hits = 0
    for _ in range(300):
        found = stats.median_interval(rng.exponential(size=30))
        hits += found.low <= true <= found.high
    assert hits / 300 >= 0.93


def test_wilson_interval_matches_its_formula_and_stays_inside_zero_and_one():
    n, k, z = 1000, 613, sps.norm.ppf(0.975)
    centre = (k / n + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(k / n * (1 - k / n) / n + z**2 / (4 * n**2))
    found = stats.wilson_interval(k, n)
    assert found.value == 0.613
    assert (found.low, found.high) == pytest.approx((centre - half, centre + half))
    assert stats.wilson_interval(0, 10).low == pytest.approx(0, abs=1e-12)
    assert stats.wilson_interval(10, 10).high == pytest.approx(1)


def test_mcnemar_is_the_exact_binomial_test_of_the_discordant_pairs():
    assert stats.mcnemar(0, 0) == 1.0
    assert stats.mcnemar(0, 5) == pytest.approx(2 / 32)
    assert stats.mcnemar(3, 9) == stats.mcnemar(9, 3)


def test_paired_share_change_matches_bonett_and_price():
    found = stats.paired_share_change(gained=3, lost=9, n=60)
    p, q = 4 / 62, 10 / 62
    half = sps.norm.ppf(0.975) * np.sqrt((p + q - (p - q) ** 2) / 62)
    assert found.value == pytest.approx(-0.1)
    assert (found.low, found.high) == pytest.approx((p - q - half, p - q + half))


def test_paired_share_change_without_any_change_is_still_uncertain():
    found = stats.paired_share_change(0, 0, 100)
    assert found.value == 0 and found.low == -found.high and 0.02 < found.high < 0.04


@given(st.integers(0, 50), st.integers(0, 50))
def test_paired_share_change_holds_its_value(gained, lost):
    found = stats.paired_share_change(gained, lost, 100)
    assert -1 <= found.low <= found.value <= found.high <= 1


def test_bootstrap_mean_agrees_with_scipy_on_both_paths():
    rng = np.random.default_rng(2)
    for values in (rng.normal(size=300), rng.integers(0, 2, size=300)):
        found = stats.bootstrap_mean(values, seed=3)
        expected = sps.bootstrap((values,), np.mean, method="percentile", n_resamples=4000, rng=5)
        tolerance = 0.15 * expected.standard_error
        assert found.low == pytest.approx(expected.confidence_interval.low, abs=tolerance * 2)
        assert found.high == pytest.approx(expected.confidence_interval.high, abs=tolerance * 2)


def test_bootstrap_repeats_itself_for_a_seed_and_moves_with_another():
    values = np.random.default_rng(4).normal(size=100)
    assert stats.bootstrap_mean(values, seed=1) == stats.bootstrap_mean(values, seed=1)
    assert stats.bootstrap_mean(values, seed=1) != stats.bootstrap_mean(values, seed=2)


def test_bootstrap_of_an_infinite_mean_is_infinite_and_not_a_crash():
    assert stats.bootstrap_mean([1.0, float("inf")]).interval == (float("inf"), float("inf"))


def test_bootstrap_of_any_statistic_and_of_its_paired_change():
    values = np.random.default_rng(5).normal(size=80)
    found = stats.bootstrap(values, lambda v: float(np.median(v)))
    assert found.low < found.value == np.median(values) < found.high
    shift = stats.paired_bootstrap(values + 0.5, values, lambda v: float(np.median(v)))
    assert (shift.low, shift.value, shift.high) == pytest.approx((0.5, 0.5, 0.5))
    assert stats.paired_bootstrap(values + 0.5, values).value == pytest.approx(0.5)


def test_paired_ratio_cancels_what_both_suffered_in_a_round():
    rng = np.random.default_rng(6)
    disturbance = rng.lognormal(sigma=0.8, size=30)
    found = stats.paired_median_ratio(0.5 * disturbance, disturbance)
    assert (found.low, found.value, found.high) == pytest.approx((0.5, 0.5, 0.5))


def test_paired_ratio_covers_the_true_ratio():
    rng = np.random.default_rng(7)
    hits = 0
    for seed in range(100):
        common = rng.lognormal(sigma=0.2, size=30)
        a, b = (common * rng.lognormal(sigma=0.05, size=30) for _ in range(2))
        found = stats.paired_median_ratio(0.7 * a, b, seed=seed)
        hits += found.low <= 0.7 <= found.high
    assert hits >= 88


def test_upper_bound_of_mean_is_exact_once_all_values_are_seen():
    values = np.random.default_rng(8).normal(size=50)
    assert stats.upper_bound_of_mean(values, 50, 0.01) == pytest.approx(values.mean())
    assert stats.upper_bound_of_mean(values, 500, 0.01) > values.mean()
    assert stats.upper_bound_of_mean(values[:1], 50, 0.01) == float("inf")


@pytest.mark.parametrize("bad", [[], [[1.0, 2.0]]])
def test_only_a_non_empty_vector_has_statistics(bad):
    with pytest.raises(ValueError, match="non-empty vector"):
        stats.median_interval(bad)


def test_pairs_need_one_length():
    with pytest.raises(ValueError, match="one length"):
        stats.paired_median_ratio([1.0, 2.0], [1.0])
