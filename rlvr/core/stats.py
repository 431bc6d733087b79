"""Say how sure a measured accuracy or gain is: intervals, an exact test, pass@k.

Everything here is float64 arithmetic on counts. An unknown outcome is an error: dropping it would change the question.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Interval",
    "PairedDifference",
    "bootstrap_mean_interval",
    "mcnemar_exact",
    "paired_difference",
    "pass_at_k",
    "weighted_difference",
    "wilson_interval",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An estimate with its confidence interval, low <= estimate <= high, from n observations."""

    estimate: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedDifference:
    """After minus before in percentage points, over n tasks that were measured both times."""

    points: float
    low: float
    high: float
    n: int
    p_value: float  # exact McNemar, two-sided
    gained: int  # tasks that were wrong before and right after
    lost: int  # tasks that were right before and wrong after


def pass_at_k(n: int, c: int, k: int) -> float:
    """Estimate the chance that at least one of k samples is right, given c right ones among n.

    Gives 1 - C(n - c, k) / C(n, k), as a product that neither overflows nor cancels.
    Errors: ValueError unless 0 <= c <= n and 1 <= k <= n.
    Source: Chen et al. 2021, "Evaluating Large Language Models Trained on Code", equation 1. Unbiased.
    """
    if not 0 <= c <= n:
        raise ValueError(f"pass_at_k needs 0 <= c <= n, not c={c}, n={n}")
    if not 1 <= k <= n:
        raise ValueError(f"pass_at_k needs 1 <= k <= n, not k={k}, n={n}")
    if n - c < k:
        return 1.0
    if k == 1:
        return c / n
    # log1p and expm1 keep the digits of a tiny chance, which 1 - prod(...) would lose.
    return -math.expm1(math.fsum(math.log1p(-k / i) for i in range(n - c + 1, n + 1)))


def wilson_interval(successes: int, n: int, *, confidence: float = 0.95) -> Interval:
    """Give the score interval of a proportion; it stays inside [0, 1] and has width even at 0 and n successes.

    Errors: ValueError unless 0 <= successes <= n, n >= 1 and 0 < confidence < 1.
    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"an interval needs n >= 1 and 0 <= successes <= n, not successes={successes}, n={n}")
    z = _quantile(confidence)
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    # The ends meet 0 and 1 exactly in theory; rounding must not put the estimate outside.
    low = 0.0 if successes == 0 else min(p, centre - half)
    high = 1.0 if successes == n else max(p, centre + half)
    return Interval(estimate=p, low=low, high=high, n=n)


def paired_difference(before: Sequence[bool], after: Sequence[bool], *, confidence: float = 0.95) -> PairedDifference:
    """Compare the same tasks measured twice; `before[i]` and `after[i]` belong to one task.

    Units: percentage points.
    Errors: ValueError if the lengths differ, nothing was measured, or an outcome is not a plain true or false.
    Source: Newcombe 1998, "Improved confidence intervals for the difference between binomial proportions based on
    paired data", method 10: Wilson limits squared and added, with the correlation of the two measurements.
    """
    x, y = _outcomes(before, name="before"), _outcomes(after, name="after")
    if len(x) != len(y) or len(x) == 0:
        raise ValueError(f"a paired difference needs equal, non-empty sequences, not {len(x)} and {len(y)} outcomes")
    n, gained, lost = len(x), int(np.sum(~x & y)), int(np.sum(x & ~y))
    old = wilson_interval(int(x.sum()), n, confidence=confidence)
    new = wilson_interval(int(y.sum()), n, confidence=confidence)
    phi = _correlation(both=int(np.sum(x & y)), gained=gained, lost=lost, neither=int(np.sum(~x & ~y)))
    down = _square_and_add(new.estimate - new.low, old.high - old.estimate, phi=phi)
    up = _square_and_add(new.high - new.estimate, old.estimate - old.low, phi=phi)
    difference = (gained - lost) / n
    return PairedDifference(
        points=100 * difference,
        low=100 * max(-1.0, difference - down),
        high=100 * min(1.0, difference + up),
        n=n,
        p_value=mcnemar_exact(gained, lost),
        gained=gained,
        lost=lost,
    )


def weighted_difference(
    first: Interval, second: Interval, *, weights: tuple[float, float], correlation: float
) -> Interval:
    """Give the interval of w1 times the first estimate minus w2 times the second, from their own intervals.

    `correlation` is that of the two estimates; `weights` may be negative. The interval has width wherever theirs do.
    Source: Zou and Donner 2008, "Construction of confidence limits about effect measures" (MOVER, with covariance).
    """
    (a, down_a, up_a), (b, down_b, up_b) = (_scaled(i, w) for i, w in zip((first, second), weights, strict=True))
    sign = math.copysign(1.0, weights[0]) * math.copysign(1.0, weights[1])
    down = _square_and_add(down_a, up_b, phi=sign * correlation)
    up = _square_and_add(up_a, down_b, phi=sign * correlation)
    return Interval(estimate=a - b, low=a - b - down, high=a - b + up, n=first.n)


def _scaled(interval: Interval, weight: float) -> tuple[float, float, float]:
    """Give a weighted estimate and its widths below and above."""
    below, above = interval.estimate - interval.low, interval.high - interval.estimate
    widths = (weight * below, weight * above) if weight >= 0 else (-weight * above, -weight * below)
    return weight * interval.estimate, *widths


def mcnemar_exact(gained: int, lost: int) -> float:
    """Give the two-sided chance of a split at least this uneven if gains and losses were equally likely.

    Gives 1.0 where nothing changed. Integers throughout, so that it is exact up to the last division.
    Source: McNemar 1947; the exact conditional (binomial) form.
    """
    if gained < 0 or lost < 0:
        raise ValueError(f"counts cannot be negative: gained={gained}, lost={lost}")
    changed, fewer = gained + lost, min(gained, lost)
    term = tail = 1
    for i in range(fewer):
        term = term * (changed - i) // (i + 1)
        tail += term
    return min(1.0, 2 * tail / 2**changed) if changed else 1.0


def bootstrap_mean_interval(
    values: Sequence[float] | NDArray[np.float64],
    *,
    rng: np.random.Generator,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> Interval:
    """Give the percentile bootstrap interval of a mean, for continuous values (a per-task gain in accuracy, say).

    Errors: ValueError if there are no values or one of them is not finite.
    Source: Efron 1979, "Bootstrap methods: another look at the jackknife".
    """
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or x.size == 0 or not np.isfinite(x).all():
        raise ValueError("a bootstrap needs a non-empty, flat sequence of finite values")
    if resamples < 1:
        raise ValueError(f"a bootstrap needs at least one resample, not {resamples}")
    _quantile(confidence)
    # One row at a time: the index matrix of all resamples can be larger than the data by thousands.
    means = np.array([x[rng.integers(0, x.size, x.size)].mean() for _ in range(resamples)])
    low, high = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
    mean = float(x.mean())
    return Interval(estimate=mean, low=min(mean, float(low)), high=max(mean, float(high)), n=int(x.size))


def _quantile(confidence: float) -> float:
    """Give the two-sided normal quantile of a confidence level (1.96 for 0.95)."""
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"a confidence level lies between 0 and 1, not {confidence}")
    return NormalDist().inv_cdf((1 + confidence) / 2)


def _outcomes(values: Sequence[bool], *, name: str) -> NDArray[np.bool_]:
    """Make an array of outcomes and refuse whatever is not a plain true or false (a NaN would count as true)."""
    for index, value in enumerate(values):
        if not isinstance(value, bool | np.bool_):
            raise ValueError(f"{name}[{index}] is {value!r}, but an outcome must be true or false")
    return np.asarray(values, dtype=np.bool_)


def _correlation(*, both: int, gained: int, lost: int, neither: int) -> float:
    """Estimate the correlation of the two measurements, corrected towards 0 for continuity when it is positive."""
    n = both + gained + lost + neither
    margins = (both + lost) * (gained + neither) * (both + gained) * (lost + neither)
    if margins == 0:
        return 0.0
    product = both * neither - gained * lost
    corrected = max(product - n / 2, 0.0) if product > 0 else product
    return corrected / math.sqrt(margins)


def _square_and_add(a: float, b: float, *, phi: float) -> float:
    """Combine two one-sided widths into the width of a difference of correlated estimates."""
    return math.sqrt(max(0.0, a * a - 2 * phi * a * b + b * b))
