"""Truthfulness of an evaluation: right, abstaining, hallucinating, the score T, and abstention that spreads too far."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rlvr.core.payoff import lacks_format
from rlvr.core.stats import Interval, paired_difference, weighted_difference, wilson_interval
from rlvr.types import Verdict

__all__ = [
    "Truthfulness",
    "over_abstention",
    "truthfulness_gains",
    "truthfulness_metrics",
    "truthfulness_of",
    "truthfulness_summary",
]

Line = Mapping[str, Any]
Weights = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Truthfulness:
    """Shares of the graded replies, which sum to 1, and T = w1 acc + w2 unc - w3 hall, with 95 % intervals.

    Source: TruthRL (arXiv 2509.25760), section 2.
    """

    acc: Interval
    unc: Interval
    hall: Interval
    score: Interval
    unformatted: Interval | None  # of the replies whose format a reward looked at


def truthfulness_of(lines: Sequence[Line], *, weights: Weights) -> Truthfulness:
    """Sum an evaluation up; ungraded replies stay out. Errors: ValueError where none is graded."""
    verdicts = [line["verdict"] for line in lines if line["verdict"] != "UNGRADED"]
    if not verdicts:
        raise ValueError("truthfulness needs at least one graded reply")
    acc, unc, hall = (wilson_interval(verdicts.count(v), len(verdicts)) for v in Verdict)
    right, wrong = ([v == verdict for v in verdicts] for verdict in (Verdict.CORRECT, Verdict.WRONG))
    score = _score(acc, hall, weights, correlation=_correlation(right, wrong), const=weights[1])
    missing = [lacks for line in lines if (lacks := lacks_format(line.get("parts", {}))) is not None]
    unformatted = wilson_interval(sum(missing), len(missing)) if missing else None
    return Truthfulness(acc=acc, unc=unc, hall=hall, score=score, unformatted=unformatted)


def truthfulness_metrics(lines: Sequence[Line], *, weights: Weights) -> dict[str, float]:
    """Give an evaluation's estimates as metrics of the step that it followed. Errors: as `truthfulness_of`."""
    known = truthfulness_of(lines, weights=weights)
    return {
        "eval_accuracy": known.acc.estimate,
        "eval_unc": known.unc.estimate,
        "eval_hall": known.hall.estimate,
        "eval_truthfulness": known.score.estimate,
    }


def truthfulness_summary(lines: Sequence[Line], *, weights: Weights) -> dict[str, Any]:
    """Give what summary.json says of an evaluation beside its accuracy. Errors: as `truthfulness_of`."""
    known = truthfulness_of(lines, weights=weights)
    named = {"unc": known.unc, "hall": known.hall, "truthfulness": known.score, "unformatted": known.unformatted}
    return {name: {"estimate": i.estimate, "low": i.low, "high": i.high, "n": i.n} for name, i in named.items() if i}


def truthfulness_gains(before: Sequence[Line], after: Sequence[Line], *, weights: Weights) -> dict[str, Any]:
    """Give after minus before of unc, hall and T over the tasks graded both times, in points, paired by task."""
    pairs = _pairs(before, after)
    if not pairs:
        return {}
    moved = {
        name: paired_difference([a == verdict for a, _ in pairs], [b == verdict for _, b in pairs])
        for name, verdict in (("acc", Verdict.CORRECT), ("unc", Verdict.ABSTAINED), ("hall", Verdict.WRONG))
    }
    shares = {n: Interval(estimate=d.points, low=d.low, high=d.high, n=d.n) for n, d in moved.items()}
    by_task = [[(b == v) - (a == v) for a, b in pairs] for v in (Verdict.CORRECT, Verdict.WRONG)]
    shares["truthfulness"] = _score(shares["acc"], shares["hall"], weights, correlation=_correlation(*by_task))
    del shares["acc"]
    return {name: {"points": i.estimate, "low": i.low, "high": i.high, "n": i.n} for name, i in shares.items()}


def over_abstention(before: Sequence[Line], after: Sequence[Line]) -> Interval | None:
    """Give the share of the tasks answered right before that are abstained on now; None where none was right."""
    now = [b for a, b in _pairs(before, after) if a == Verdict.CORRECT]
    return wilson_interval(now.count(Verdict.ABSTAINED), len(now)) if now else None


def _score(acc: Interval, hall: Interval, weights: Weights, *, correlation: float, const: float = 0.0) -> Interval:
    """Give T from two of the shares; the third is what is left: T = w2 + (w1 - w2) acc - (w3 + w2) hall."""
    right, abstained, wrong = weights
    both = weighted_difference(acc, hall, weights=(right - abstained, wrong + abstained), correlation=correlation)
    return Interval(estimate=const + both.estimate, low=const + both.low, high=const + both.high, n=both.n)


def _correlation(first: Sequence[float], second: Sequence[float]) -> float:
    """Estimate the correlation of two columns; 0 where one of them is constant."""
    x, y = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    return float(np.corrcoef(x, y)[0, 1]) if x.std() > 0 and y.std() > 0 else 0.0


def _pairs(before: Sequence[Line], after: Sequence[Line]) -> list[tuple[str, str]]:
    first = {line["task_id"]: line["verdict"] for line in before if line["verdict"] != "UNGRADED"}
    graded = [line for line in after if line["verdict"] != "UNGRADED" and line["task_id"] in first]
    return [(first[line["task_id"]], line["verdict"]) for line in graded]
