import pickle
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr.errors import BoundaryError, PluginError
from rlvr.testing import check_reward, rollout, task
from rlvr.types import Grade, Rollout, Task, Ungraded, Verdict
from rlvr_rewards.combine import FirstThatDecides, Gate, WeightedSum
from rlvr_rewards.format import Format, Overlong
from rlvr_rewards.truth import Truth

ASKED = task("What is the capital of France?", "Paris")
TAGS = Format(tags=["answer"])


class Says:
    """Gives what it was told to, whatever the reply, and counts how often it was asked."""

    def __init__(self, answer: Grade | Ungraded | BaseException | str, *, worst_case_s: float = 0.0) -> None:
        self.answer, self.worst_case_s, self.asked = answer, worst_case_s, 0

    def grade(self, task: Task, rollout: Rollout) -> Any:
        self.asked += 1
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer


class ByGroup(Says):
    def __init__(self, answer: Grade | Ungraded | BaseException | str) -> None:
        super().__init__(answer)
        self.groups: list[int] = []

    def grade_group(self, task: Task, rollouts: Sequence[Rollout]) -> list[Any]:
        self.groups.append(len(rollouts))
        return [self.grade(task, one) for one in rollouts]


def graded(score: float, verdict: Verdict | None = None, **parts: float) -> Grade:
    return Grade(verdict=verdict, score=score, parts=parts, why=f"says {score}")


RIGHT, WRONG = graded(1.0, Verdict.CORRECT, format=1.0), graded(0.0, Verdict.WRONG)
ABSTAINS, OPINION, FAILS = graded(0.0, Verdict.ABSTAINED), graded(0.5), Ungraded(boundary="judge", reason="no answer")


def judged(reward: Any, reply: str = "x") -> Any:
    return reward.grade(ASKED, rollout(reply, of=ASKED))


def test_a_sum_is_averaged_by_weight_and_keeps_every_part() -> None:
    grade = judged(WeightedSum(of=[Says(RIGHT), Says(OPINION)], weights=[3, 1], names=["truth", "style"]))
    assert grade.verdict is Verdict.CORRECT
    assert grade.score == pytest.approx(0.875)
    assert grade.parts == {"truth": 1.0, "truth/format": 1.0, "style": 0.5}
    assert grade.why == "says 1.0; says 0.5"


def test_a_sum_without_weights_or_names() -> None:
    grade = judged(WeightedSum(of=[Truth(), TAGS, Format(pattern="P")]), "<answer>Paris</answer>")
    assert grade.score == pytest.approx(1.0) and grade.verdict is Verdict.CORRECT
    assert grade.parts == {
        "truth": 1.0, "truth/format": 1.0, "format": 1.0, "format/format": 1.0, "format2": 1.0, "format2/format": 1.0,
    }  # fmt: skip


def test_a_sum_beside_a_verdict_stays_within_bounds() -> None:
    assert judged(WeightedSum(of=[Says(WRONG), Says(graded(-1.0))])).score == 0.0
    assert judged(WeightedSum(of=[Says(RIGHT), Says(graded(5.0))])).score == 1.0
    assert judged(WeightedSum(of=[Says(OPINION), Says(graded(-1.0))])).score == -0.25
    assert judged(WeightedSum(of=[Says(RIGHT), Overlong(max_tokens=10, buffer=5, unit=True)]), "x" * 11).score == 0.5


def test_a_failure_is_never_a_zero() -> None:
    for of in ([Says(RIGHT), Says(FAILS)], [Says(FAILS), Says(RIGHT)]):
        assert judged(WeightedSum(of=of)) == FAILS
        assert judged(Gate(of=of)) == FAILS
    assert judged(FirstThatDecides(of=[Says(FAILS), Says(RIGHT)])) == FAILS
    assert judged(FirstThatDecides(of=[Says(OPINION), Says(FAILS)])) == FAILS


def test_what_raises_leaves_its_own_reply_ungraded() -> None:
    grade = judged(WeightedSum(of=[Says(RIGHT), Says(KeyError("x"))], names=["a", "b"]))
    assert isinstance(grade, Ungraded) and grade.boundary == "reward:b" and "KeyError" in grade.reason
    nonsense = judged(WeightedSum(of=[Says("nonsense")]))
    assert isinstance(nonsense, Ungraded) and nonsense.boundary == "reward:says"
    for exhausted in (MemoryError(), RecursionError()):  # for the grading process, which asks whose fault it is
        with pytest.raises(BoundaryError):
            judged(WeightedSum(of=[Says(exhausted)]))


def test_a_gate_lets_pass_what_is_full() -> None:
    behind = Says(RIGHT)
    grade = judged(Gate(of=[Says(graded(1.0)), behind], names=["form", "truth"]))
    assert (grade.verdict, grade.score) == (Verdict.CORRECT, 1.0)
    assert grade.parts == {"form": 1.0, "truth": 1.0, "truth/format": 1.0}
    assert judged(Gate(of=[Says(OPINION), Says(ABSTAINS)], full=0.5)).verdict is Verdict.ABSTAINED


@pytest.mark.parametrize(
    ("first", "verdict"),
    [
        (OPINION, Verdict.WRONG),
        (WRONG, Verdict.WRONG),
        (ABSTAINS, Verdict.ABSTAINED),
        (graded(0.9, Verdict.CORRECT), Verdict.WRONG),
    ],
)
def test_a_closed_gate_pays_nothing_and_does_not_ask(first: Grade, verdict: Verdict) -> None:
    behind = Says(RIGHT)
    grade = judged(Gate(of=[Says(first), behind]))
    assert (grade.verdict, grade.score, behind.asked) == (verdict, 0.0, 0)
    assert grade.parts["says"] == first.score and "does not let it pass" in grade.why
    assert judged(Gate(of=[Says(first), Says(OPINION)], judges=False)).verdict is None


def test_a_gate_before_the_truth() -> None:
    reward = Gate(of=[TAGS, Truth()])
    assert judged(reward, "<answer>Paris</answer>").verdict is Verdict.CORRECT
    assert judged(reward, "Paris").verdict is Verdict.WRONG
    assert judged(reward, "<answer>Paris</answer><answer>Rome</answer>").verdict is Verdict.WRONG


def test_the_first_verdict_decides() -> None:
    last = Says(RIGHT)
    grade = judged(FirstThatDecides(of=[Says(OPINION), Says(WRONG), last], names=["a", "b", "c"]))
    assert (grade.verdict, grade.score, last.asked) == (Verdict.WRONG, 0.0, 0)
    assert grade.parts == {"a": 0.5, "b": 0.0}
    assert judged(FirstThatDecides(of=[Says(OPINION), Says(graded(0.7))])).score == 0.7


def test_a_failure_is_passed_on_only_where_asked() -> None:
    chosen = FirstThatDecides(of=[Says(FAILS), Says(WRONG)], fallback_on_ungraded=True)
    assert judged(chosen).verdict is Verdict.WRONG
    assert judged(FirstThatDecides(of=[Says(FAILS), Says(FAILS)], fallback_on_ungraded=True)) == FAILS
    assert judged(FirstThatDecides(of=[Says(OPINION), Says(FAILS)], fallback_on_ungraded=True)).score == 0.5


def test_groups_are_asked_together_where_a_reward_can() -> None:
    judge = ByGroup(RIGHT)
    replies = [rollout(text, of=ASKED) for text in ("<answer>Paris</answer>", "Paris", "<answer>Rome</answer>")]
    reward = Gate(of=[TAGS, judge])
    grades = reward.grade_group(ASKED, replies)
    assert [g.verdict for g in grades if isinstance(g, Grade)] == [Verdict.CORRECT, Verdict.WRONG, Verdict.CORRECT]
    assert judge.groups == [2]  # those that passed the gate
    assert grades == [reward.grade(ASKED, reply) for reply in replies]
    assert not hasattr(Gate(of=[TAGS, Truth()]), "grade_group")


def test_one_broken_group_answer_is_no_exception() -> None:
    class Short(ByGroup):
        def grade_group(self, task: Task, rollouts: Sequence[Rollout]) -> list[Any]:
            return []

    grade = judged(WeightedSum(of=[Short(RIGHT)]))
    assert isinstance(grade, Ungraded) and "0 answers" in grade.reason


def test_one_reply_that_breaks_a_group_call_leaves_the_others() -> None:
    class Brittle(Says):
        def grade(self, task: Task, rollout: Rollout) -> Any:
            if rollout.reply == "bad":
                raise KeyError("a bug")
            if rollout.reply == "known":
                raise PluginError("a failure that has a name")
            return "nonsense" if rollout.reply == "odd" else RIGHT

        def grade_group(self, task: Task, rollouts: Sequence[Rollout]) -> list[Any]:
            return [self.grade(task, one) for one in rollouts]

    for reward in (WeightedSum(of=[Brittle(RIGHT)]), Gate(of=[Says(RIGHT), Brittle(RIGHT)])):
        for replies in (["good", "bad", "good"], ["good", "odd", "good"], ["good", "known", "good"]):
            grades = reward.grade_group(ASKED, [rollout(text, of=ASKED) for text in replies])
            assert [isinstance(grade, Grade) for grade in grades] == [True, False, True]
            assert grades[1].boundary == "reward:brittle"


def test_limits_warm_up_and_gold_come_from_within() -> None:
    class Warm(Says):
        warm = False

        def warm_up(self) -> None:
            self.warm = True

    inner = Warm(RIGHT, worst_case_s=3.0)
    reward = WeightedSum(of=[inner, Says(RIGHT, worst_case_s=4.0)])
    reward.warm_up()
    assert inner.warm and reward.worst_case_s == 7.0 and not hasattr(reward, "gold")
    assert Gate(of=[TAGS, Truth()]).gold(ASKED) == "<answer>Answer: Paris</answer>"


def test_golds_have_the_form_that_gates_ask_for() -> None:
    line = Format(pattern=r"^Therefore: .+$", example="Therefore: {reply}")
    assert Gate(of=[line, Truth()]).gold(ASKED) == "Therefore: Answer: Paris"
    both = Gate(of=[WeightedSum(of=[line, Overlong(max_tokens=99, buffer=9, unit=True)]), Truth()])
    assert judged(both, both.gold(ASKED)).verdict is Verdict.CORRECT
    nested = Gate(of=[TAGS, Gate(of=[Format(pattern="Paris"), Truth()])])
    assert judged(nested, nested.gold(ASKED)).verdict is Verdict.CORRECT


def test_a_gate_whose_pattern_has_no_example_has_no_gold() -> None:
    shut = Format(pattern="^Therefore")
    for reward in (Gate(of=[shut, Truth()]), Gate(of=[WeightedSum(of=[shut, TAGS]), Truth()])):
        with pytest.raises(ValueError, match="give an `example`"):
            reward.gold(ASKED)
    assert WeightedSum(of=[Truth(), shut]).gold(ASKED) == "Answer: Paris"  # the form is not what the verdict hangs on


@pytest.mark.parametrize(
    "make",
    [
        lambda: WeightedSum(of=[]),
        lambda: WeightedSum(of=[Truth()], weights=[1, 2]),
        lambda: WeightedSum(of=[Truth(), TAGS], weights=[1, 0]),
        lambda: WeightedSum(of=[Truth(), TAGS], weights=[1, -1]),
        lambda: WeightedSum(of=[Truth()], weights=[float("nan")]),
        lambda: WeightedSum(of=[Truth(), TAGS], names=["a"]),
        lambda: WeightedSum(of=[Truth(), TAGS], names=["a", "a"]),
        lambda: Gate(of=[Truth()]),
        lambda: Gate(of=[Truth(), TAGS, TAGS]),
        lambda: Gate(of=[Truth(), TAGS], full=float("inf")),
        lambda: FirstThatDecides(of=[]),
    ],
)
def test_wrong_settings_are_refused(make: Any) -> None:
    with pytest.raises(ValueError, match=r"rewards?|weights|score"):
        make()


GRADES = st.one_of(
    st.builds(graded, st.floats(0, 1), st.sampled_from(Verdict)),
    st.builds(graded, st.floats(-1e6, 1e6)),
    st.just(FAILS),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(GRADES, min_size=2, max_size=4), st.lists(st.floats(1e-3, 1e3), min_size=4, max_size=4))
def test_combinations_keep_to_the_bounds(answers: list[Grade | Ungraded], weights: list[float]) -> None:
    def of() -> list[Any]:
        return [Says(answer) for answer in answers]

    summed = judged(WeightedSum(of=of(), weights=weights[: len(answers)]))
    assert isinstance(summed, Ungraded) == any(isinstance(answer, Ungraded) for answer in answers)
    if isinstance(summed, Grade):
        scores = [answer.score for answer in answers if isinstance(answer, Grade)]
        low, high = min(scores), max(scores)
        slack = 1e-6 * (1 + abs(low) + abs(high))
        assert summed.verdict is not None or low - slack <= summed.score <= high + slack
        assert set(summed.parts) >= {"says", "says2"}
    for reward in (Gate(of=of()[:2]), FirstThatDecides(of=of()), FirstThatDecides(of=of(), fallback_on_ungraded=True)):
        grade = judged(reward)  # a score out of bounds beside a verdict would raise
        assert isinstance(grade, Grade | Ungraded)


@pytest.mark.parametrize(
    "reward",
    [
        WeightedSum(of=[Truth(), Format(pattern="P"), Overlong(max_tokens=9, buffer=3)], weights=[2, 1, 1]),
        Gate(of=[TAGS, Truth()]),
        Gate(of=[Format(pattern=r"^So .+!$", example="So {reply}!"), Truth()]),
        FirstThatDecides(of=[TAGS, Truth()]),
    ],
)
def test_the_rewards_keep_the_contract(reward: Any) -> None:
    assert check_reward(reward, [ASKED]) == []
    again = pickle.loads(pickle.dumps(reward))
    assert judged(again, reward.gold(ASKED)) == judged(reward, reward.gold(ASKED))
