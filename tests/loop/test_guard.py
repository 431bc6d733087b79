"""The guard stops what cannot learn, and lets everything else be."""

from __future__ import annotations

import pytest
from helpers import NAN, make_header

from rlvr.config import GuardSection
from rlvr.errors import GradingError, LearnerError, WeightProofError
from rlvr.loop.guard import Guard

ALIVE, DEAD = {"train": 3}, {"train": 0, "flat": 4}


def test_a_healthy_run_goes_on() -> None:
    guard = Guard(GuardSection(dead_steps=2))
    for step in range(1, 20):
        guard.check([make_header()], ALIVE, step=step)


def test_too_many_ungraded_replies_stop_the_run_with_the_commonest_reason() -> None:
    guard = Guard(GuardSection(max_ungraded=0.1))
    headers = [make_header((1.0, 0.0) * 9), make_header((NAN, NAN), reasons=["reward: too slow"] * 2)]
    guard.check(headers, ALIVE, step=1)  # exactly a tenth is still allowed
    headers.append(make_header((NAN,), reasons=["reward: KeyError"]))
    with pytest.raises(GradingError) as caught:
        guard.check(headers, ALIVE, step=2)
    assert str(caught.value).startswith("step 2: 3 of 21 replies went ungraded, 2 of them because of reward: too slow;")


def test_no_ungraded_reply_may_be_allowed() -> None:
    guard = Guard(GuardSection(max_ungraded=0.0))
    guard.check([make_header()], ALIVE, step=1)
    with pytest.raises(GradingError, match="step 2: 1 of 2 "):
        guard.check([make_header((1.0, NAN), reasons=["r"])], ALIVE, step=2)


def test_steps_without_gradient_stop_the_run_only_in_a_row() -> None:
    guard = Guard(GuardSection(dead_steps=3))
    for step, counts in enumerate([DEAD, DEAD, ALIVE, DEAD, DEAD], start=1):
        guard.check([make_header((1.0, float(counts is DEAD)))], counts, step=step)
    said = r"step 6: no reply was worth more than another for 3 steps: 12 of 12 groups had"
    with pytest.raises(LearnerError, match=said):
        guard.check([make_header((1.0, 1.0))], DEAD, step=6)


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ({"flat": 3}, "3 of 3 groups had replies that were all worth the same; choose easier or harder tasks"),
        ({"stale": 3}, "3 of 3 groups came from weights that were too old; "),
        ({"ungraded": 3}, "3 of 3 groups had too few graded replies; mend the reward"),
        (
            {"flat": 1, "ungraded": 3},
            "3 of 4 groups had too few graded replies, "
            "1 of 4 groups had replies that were all worth the same; mend the reward",
        ),
    ],
)
def test_a_run_without_gradient_is_told_what_became_of_its_groups(counts: dict[str, int], said: str) -> None:
    guard = Guard(GuardSection(dead_steps=1))
    with pytest.raises(LearnerError) as caught:
        guard.check([make_header((1.0, 1.0))], {"train": 0, "flat": 0, "stale": 0, "ungraded": 0} | counts, step=1)
    assert said in str(caught.value)


def test_groups_that_train_by_a_divergence_alone_are_dead_all_the_same() -> None:
    guard = Guard(GuardSection(dead_steps=2))
    flat = [make_header((1.0, 1.0)), make_header((0.0, 0.0))]
    for step, headers in enumerate([flat, [*flat, make_header()], flat], start=1):
        guard.check(headers, {"train": len(headers), "flat": 0}, step=step)
    with pytest.raises(LearnerError, match=r"for 2 steps: 4 of 4 groups had replies that were all worth the same"):
        guard.check(flat, {"train": 2, "flat": 0}, step=4)


def test_without_groups_to_compare_in_the_whole_step_is_compared() -> None:
    guard = Guard(GuardSection(dead_steps=1), within_groups=False)
    guard.check([make_header((1.0, 1.0)), make_header((0.0, 0.0))], {"train": 2, "flat": 0}, step=1)
    masked = make_header((1.0, NAN), masked=[False, True])
    with pytest.raises(LearnerError, match="step 2: no reply was worth more than another for 1 steps: 2 of 2 groups"):
        guard.check([make_header((1.0, 1.0)), masked], {"train": 2, "flat": 0}, step=2)


def test_masked_replies_are_not_ungraded_ones() -> None:
    guard = Guard(GuardSection(max_ungraded=0.0, dead_steps=1, max_truncated=1.0))
    cut = make_header((NAN, NAN), truncated=[True, True], masked=[True, True])
    assert guard.graded([cut])
    assert not guard.graded([make_header((1.0, NAN))])
    with pytest.raises(
        LearnerError, match=r"1 of 1 groups had too few replies within rollout.max_new_tokens; raise it"
    ):
        guard.check([cut], {"train": 0, "flat": 0, "stale": 0, "ungraded": 0, "masked": 1}, step=1)


def test_what_refills_sampled_counts_too() -> None:
    """A step of dynamic sampling is dead only where no round of it had a mixed group."""
    guard = Guard(GuardSection(dead_steps=1))
    guard.check([make_header((1.0, 1.0))] * 3 + [make_header()], {"train": 1, "flat": 3}, step=1)
    with pytest.raises(LearnerError, match="8 of 8 groups had replies that were all worth the same"):
        guard.check([make_header((1.0, 1.0))] * 8, {"train": 0, "flat": 8}, step=2)


def test_cut_replies_stop_the_run_only_in_a_row_and_above_the_limit() -> None:
    guard = Guard(GuardSection(dead_steps=2, max_truncated=0.5))
    whole, half, cut = (make_header(truncated=flags) for flags in ([False] * 2, [True, False], [True] * 2))
    for step, header in enumerate([cut, half, cut, whole, cut], start=1):
        guard.check([header], ALIVE, step=step)
    with pytest.raises(LearnerError, match=r"step 6: 2 of 2 replies were cut by rollout.max_new_tokens, and 2 steps"):
        guard.check([cut], ALIVE, step=6)


def test_engines_that_compute_something_else_stop_the_run() -> None:
    guard = Guard(GuardSection(), max_mismatch=0.1)
    guard.check_mismatch({}, version=0)  # of a step without a gradient
    guard.check_mismatch({"mismatch": 0.5, "mismatch_lag_0": 0.1, "mismatch_lag_1": 0.5}, version=1)
    for found in (0.2, NAN):
        with pytest.raises(WeightProofError, match=r"^worker=all version=2 .* 0\.1: the engines compute") as caught:
            guard.check_mismatch({"mismatch_lag_0": found}, version=2)
        assert "\n" not in str(caught.value)


def test_everything_may_be_cut_where_the_recipe_says_so() -> None:
    guard = Guard(GuardSection(dead_steps=1, max_truncated=1.0))
    guard.check([make_header(truncated=[True, True])], ALIVE, step=1)
