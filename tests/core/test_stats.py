"""Intervals and tests against published values, independent loops and properties."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr.core.stats import (
    bootstrap_mean_interval,
    mcnemar_exact,
    paired_difference,
    pass_at_k,
    wilson_interval,
)

tables = st.tuples(*[st.integers(0, 60)] * 4).filter(lambda t: sum(t) > 0)


def pairs(both: int, lost: int, gained: int, neither: int) -> tuple[list[bool], list[bool]]:
    before = [True] * (both + lost) + [False] * (gained + neither)
    after = [True] * both + [False] * lost + [True] * gained + [False] * neither
    return before, after


def test_pass_at_k_equals_counting_every_subset():
    for n in range(1, 9):
        for c, k in itertools.product(range(n + 1), range(1, n + 1)):
            draws = list(itertools.combinations([i < c for i in range(n)], k))
            assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, draws)) / len(draws), abs=1e-12)


def test_pass_at_k_of_one_is_the_share():
    assert pass_at_k(7, 3, 1) == 3 / 7


def test_pass_at_k_keeps_its_digits_for_large_counts():
    exact = 1 - math.comb(9990, 100) / math.comb(10000, 100)
    assert pass_at_k(10000, 10, 100) == pytest.approx(exact, rel=1e-10)
    assert pass_at_k(10**6, 1, 2) == pytest.approx(2e-6, rel=1e-12)


@pytest.mark.parametrize(("n", "c", "k"), [(4, 5, 1), (4, -1, 1), (4, 2, 0), (4, 2, 5), (0, 0, 1)])
def test_pass_at_k_refuses_impossible_counts(n, c, k):
    with pytest.raises(ValueError, match="pass_at_k needs"):
        pass_at_k(n, c, k)


@given(st.integers(1, 200).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_lies_in_the_unit_interval_and_grows_with_k(counts):
    n, c, k = counts
    value = pass_at_k(n, c, k)
    assert 0 <= value <= 1
    assert k == n or pass_at_k(n, c, k + 1) >= value - 1e-12


# Newcombe 1998 (single proportion), table I: 81/263, 15/148, 0/20, 1/29; and 13/16 from Fagerland et al. 2017, ch. 2.
@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (13, 16, 0.5699, 0.9341),
    ],
)
def test_wilson_matches_published_values(successes, n, low, high):
    interval = wilson_interval(successes, n)
    assert (interval.low, interval.high) == (pytest.approx(low, abs=6e-5), pytest.approx(high, abs=6e-5))


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_contains_the_estimate_mirrors_and_shrinks(counts):
    successes, n = counts
    interval, mirror = wilson_interval(successes, n), wilson_interval(n - successes, n)
    assert 0 <= interval.low <= interval.estimate <= interval.high <= 1
    assert mirror.low == pytest.approx(1 - interval.high, abs=1e-12)
    larger = wilson_interval(4 * successes, 4 * n)
    assert larger.high - larger.low < interval.high - interval.low


@pytest.mark.parametrize(("successes", "n", "confidence"), [(1, 0, 0.95), (3, 2, 0.95), (-1, 2, 0.95), (1, 2, 1.0)])
def test_wilson_refuses_nonsense(successes, n, confidence):
    with pytest.raises(ValueError):
        wilson_interval(successes, n, confidence=confidence)


# 36/12/2/0: Newcombe 1998 (paired data), table III. 59/6/16/80 and 1/7/1/12: Fagerland et al. 2014 and 2017, ch. 8
# (there the difference is row minus column, hence our order). 1/0/0/1: the R package contingencytables.
@pytest.mark.parametrize(
    ("table", "points", "low", "high"),
    [
        ((36, 2, 12, 0), 20.0, 5.69, 34.04),
        ((59, 16, 6, 80), -6.21, -11.86, -0.46),
        ((1, 7, 1, 12), -28.57, -50.7, -2.6),
        ((1, 0, 0, 1), 0.0, -57.34, 57.34),
    ],
)
def test_paired_difference_matches_published_values(table, points, low, high):
    result = paired_difference(*pairs(*table))
    tolerance = 0.006 if table[0] != 1 or table[1] == 0 else 0.06  # one table is printed with one digit less
    assert (result.points, result.low, result.high) == tuple(
        pytest.approx(v, abs=tolerance) for v in (points, low, high)
    )


@given(tables)
def test_paired_difference_contains_the_estimate_and_mirrors(table):
    before, after = pairs(*table)
    there, back = paired_difference(before, after), paired_difference(after, before)
    assert -100 <= there.low <= there.points <= there.high <= 100
    assert (back.points, back.low, back.high) == tuple(
        pytest.approx(-v, abs=1e-9) for v in (there.points, there.high, there.low)
    )
    assert back.p_value == there.p_value


@given(tables)
def test_paired_difference_shrinks_with_n(table):
    small, large = (paired_difference(*pairs(*(k * count for count in table))) for k in (1, 4))
    assert large.points == pytest.approx(small.points)
    assert large.high - large.low < small.high - small.low


def test_pairing_narrows_the_interval():
    before, after = pairs(40, 2, 10, 48)
    rng = np.random.default_rng(0)
    shuffled = [bool(v) for v in rng.permutation(after)]
    paired, unpaired = paired_difference(before, after), paired_difference(before, shuffled)
    assert paired.high - paired.low < 0.7 * (unpaired.high - unpaired.low)


def test_coverage_of_the_paired_interval_is_near_what_it_says():
    rng, hits, trials, chances = np.random.default_rng(1), 0, 600, [0.3, 0.05, 0.15, 0.5]
    for counts in rng.multinomial(100, chances, size=trials):
        result = paired_difference(*pairs(*counts.tolist()))
        hits += result.low <= 10.0 <= result.high
    assert 0.92 < hits / trials < 0.985


@pytest.mark.parametrize("bad", [float("nan"), None, 1, "True"])
def test_an_unknown_outcome_is_an_error(bad):
    with pytest.raises(ValueError, match=r"after\[1\]"):
        paired_difference([True, False], [True, bad])


def test_unequal_or_empty_pairs_are_errors():
    for before, after in (([], []), ([True], [])):
        with pytest.raises(ValueError, match="non-empty"):
            paired_difference(before, after)


def test_numpy_outcomes_are_outcomes():
    result = paired_difference(list(np.array([True, False])), list(np.array([True, True])))
    assert (result.gained, result.lost, result.n) == (1, 0, 2)


# 6 against 16 and 1 against 7: Fagerland, Lydersen and Laake 2013, table of the exact conditional test.
@pytest.mark.parametrize(("gained", "lost", "p"), [(6, 16, 0.052479), (1, 7, 0.0703125), (0, 0, 1.0), (5, 5, 1.0)])
def test_mcnemar_matches_published_values(gained, lost, p):
    assert mcnemar_exact(gained, lost) == pytest.approx(p, abs=5e-7)
    assert mcnemar_exact(lost, gained) == mcnemar_exact(gained, lost)


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemar_equals_a_sum_over_the_binomial(gained, lost):
    n = gained + lost
    tail = sum(math.comb(n, i) * 0.5**n for i in range(min(gained, lost) + 1))
    assert mcnemar_exact(gained, lost) == pytest.approx(min(1.0, 2 * tail), rel=1e-12)


def test_mcnemar_survives_large_counts():
    assert 0.0 <= mcnemar_exact(3000, 2000) < 1e-40


@settings(max_examples=20)
@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30))
def test_bootstrap_contains_the_mean_and_repeats(values):
    first, second = (bootstrap_mean_interval(values, rng=np.random.default_rng(3), resamples=50) for _ in range(2))
    assert first == second
    assert first.low <= first.estimate <= first.high


def test_bootstrap_agrees_with_the_normal_interval():
    values = np.random.default_rng(4).normal(2.0, 1.0, 400)
    interval = bootstrap_mean_interval(values, rng=np.random.default_rng(5))
    half = 1.96 * values.std(ddof=1) / 20
    assert (interval.low, interval.high) == tuple(pytest.approx(values.mean() + s * half, abs=0.012) for s in (-1, 1))


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")]])
def test_bootstrap_refuses_unknown_values(values):
    with pytest.raises(ValueError, match="finite"):
        bootstrap_mean_interval(values, rng=np.random.default_rng(0))
