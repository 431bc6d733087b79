from typing import Any

import numpy as np
import pytest

from rlvr.loop.truthfulness import (
    over_abstention,
    truthfulness_gains,
    truthfulness_metrics,
    truthfulness_of,
    truthfulness_summary,
)

WEIGHTS = (1.0, 0.0, 1.0)
LETTERS = {"c": "CORRECT", "a": "ABSTAINED", "w": "WRONG", "u": "UNGRADED"}


def lines(verdicts: str, **parts: float) -> list[dict[str, Any]]:
    """Make an evaluation, a letter a task."""
    return [{"task_id": f"t{i}", "verdict": LETTERS[v], "parts": parts} for i, v in enumerate(verdicts)]


def test_shares_sum_to_one_and_ungraded_replies_stay_out() -> None:
    known = truthfulness_of(lines("ccawwwuu"), weights=WEIGHTS)
    assert (known.acc.estimate, known.unc.estimate, known.hall.estimate) == (2 / 6, 1 / 6, 3 / 6)
    assert known.score.estimate == pytest.approx(-1 / 6)
    assert known.score.low < known.score.estimate < known.score.high
    assert known.acc.n == known.score.n == 6
    assert known.unformatted is None


def test_the_weights_of_the_score() -> None:
    known = truthfulness_of(lines("ccawww"), weights=(2.0, 0.5, 1.0))
    assert known.score.estimate == pytest.approx((2 * 2 + 0.5 - 3) / 6)


def test_a_missing_format_is_told_apart() -> None:
    both = lines("cc", **{"math/format": 1.0}) + lines("ww", format=0.0) + lines("a")
    known = truthfulness_of(both, weights=WEIGHTS)
    assert known.unformatted is not None
    assert (known.unformatted.estimate, known.unformatted.n) == (0.5, 4)
    assert truthfulness_summary(both, weights=WEIGHTS)["unformatted"]["estimate"] == 0.5
    assert "unformatted" not in truthfulness_summary(lines("cw"), weights=WEIGHTS)


def test_gains_are_paired_by_task() -> None:
    before, after = lines("wwwwccuw"), lines("aaaaccwu")
    gains = truthfulness_gains(before, after, weights=WEIGHTS)
    assert gains["unc"]["points"] == pytest.approx(100 * 4 / 6)
    assert gains["hall"]["points"] == pytest.approx(-100 * 4 / 6)
    assert gains["truthfulness"]["points"] == pytest.approx(100 * 4 / 6)
    assert gains["truthfulness"]["n"] == 6
    assert gains["truthfulness"]["low"] > 0
    assert truthfulness_gains(lines("u"), lines("c"), weights=WEIGHTS) == {}


def test_the_interval_of_a_gain_covers_the_truth() -> None:
    rng, hits = np.random.default_rng(7), 0
    for _ in range(300):
        before = "".join(rng.choice(list("cw"), 120))
        after = "".join(v if rng.random() < 0.7 else "a" for v in before)
        found = truthfulness_gains(lines(before), lines(after), weights=WEIGHTS)["truthfulness"]
        hits += found["low"] <= 0.0 <= found["high"]  # as many right as wrong answers become abstentions
    assert 0.92 <= hits / 300 <= 0.995


def test_no_interval_collapses_where_all_tasks_agree() -> None:
    gains = truthfulness_gains(lines("ww"), lines("aa"), weights=WEIGHTS)
    assert gains["truthfulness"]["points"] == pytest.approx(100)
    assert gains["truthfulness"]["low"] < 100 - 50
    known = truthfulness_of(lines("cc"), weights=WEIGHTS)
    assert (known.score.estimate, known.score.high) == (1.0, pytest.approx(1.0))
    assert known.score.low < 0.5


def test_the_interval_of_the_score_covers_the_truth() -> None:
    rng, hits = np.random.default_rng(3), 0
    for _ in range(300):
        drawn = "".join(rng.choice(list("caw"), 60, p=[0.5, 0.2, 0.3]))
        found = truthfulness_of(lines(drawn), weights=(1.0, 0.25, 2.0)).score
        hits += found.low <= 0.5 + 0.25 * 0.2 - 2 * 0.3 <= found.high
    assert 0.92 <= hits / 300 <= 0.99


def test_over_abstention_looks_at_what_was_right_before() -> None:
    spread = over_abstention(lines("ccccwwww"), lines("aaccaaaa"))
    assert spread is not None
    assert (spread.estimate, spread.n) == (0.5, 4)
    assert over_abstention(lines("ww"), lines("aa")) is None


def test_metrics_of_a_step() -> None:
    assert truthfulness_metrics(lines("caww"), weights=WEIGHTS) == {
        "eval_accuracy": 0.25, "eval_unc": 0.25, "eval_hall": 0.5, "eval_truthfulness": -0.25,
    }  # fmt: skip


def test_nothing_graded_is_an_error() -> None:
    with pytest.raises(ValueError, match="at least one graded reply"):
        truthfulness_of(lines("uu"), weights=WEIGHTS)
