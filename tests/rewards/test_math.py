import time
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr.testing import JUNK, check_reward, rollout, task
from rlvr.types import Grade, Ungraded, Verdict
from rlvr_rewards.math import Math, same


def verdict(reply: str, truth: object, *, marked_only: bool = False) -> str:
    """Give the verdict's name, or UNGRADED."""
    posed = task("q", truth)
    grade = Math(marked_only=marked_only).grade(posed, rollout(reply, of=posed))
    return str(grade.verdict) if isinstance(grade, Grade) else "UNGRADED"


RIGHT = [
    ("12 + 7 = 19\nAnswer: 19", "19"),
    ("**Answer:** 19", "19"),
    ("Answer: 19. That was easy.", "19"),
    ("So the answer is $\\frac{1}{2}$.", "0.5"),
    ("The final answer is: 3", "3"),
    ("Add them up.\n#### 1,234", "1234"),
    ("\\boxed{1} no, \\boxed{2}", "2"),
    ("\\boxed{\\frac{1}{\\sqrt{2}}}", "\\frac{\\sqrt{2}}{2}"),
    ("Answer: \\boxed{5}", "5"),
    ("Answer: 4\nOn second thought, \\boxed{5}.", "5"),
    ("\\boxed{7}, so our answer is correct.", "7"),
    ("Answer: \\[\n\\frac{3}{4}\n\\]", "3/4"),
    ("He pays 18 dollars in the end.", "18"),
    ("The total is $1,234.50.", "1234.5"),
    ("So $x$ must be $x = 7$ then.", "7"),
    ("Answer: 5 apples<|im_end|>", "5"),
    ("\\boxed{x = 4}", "4"),
    ("+7", "7"),
    ("−3", "-3"),
    ("6.", "6"),
    ("137 1/2", "137.5"),
    ("12\\frac{3}{5}", "63/5"),
    ("3 \\times 10^{4}", "30000"),
    ("1\\,234", "1234"),
    ("14{,}916", "14,916"),
    ("33.5\\%", "0.335"),
    ("10", "10\\%"),
    ("90^\\circ", "90"),
    ("\\$15,\\!000", "15000"),
    ("3√13", "3\\sqrt{13}"),
    ("-pi/6", "-\\frac{\\pi}{6}"),
    ("(5, ∞)", "(5,\\infty)"),
    ("2k + 2", "2(k+1)"),
    ("(B)", "\\text{(B)}"),
    ("East", "\\text{east}"),
    ("x^2/4 + y^2/9 = 1", "\\frac{x^2}{4} + \\frac{y^2}{9} = 1"),
    ("Answer: 3", ["2", "3"]),
    ("Answer: 3", {"answers": ["2", 3]}),
    ("Answer: 0.5", 0.5),
]
WRONG = [
    ("", "19"),
    ("Answer:", "19"),
    ("Answer: 18", "19"),
    ("Answer: 18\n19 was tempting", "19"),
    ("\\boxed{19", "20"),
    ("\\boxed{5}\nAnswer: 6", "5"),
    ("Answer: 4 or 5", "5"),
    ("Answer: x = 4 or x = 5", "5"),
    ("Answer: it is 4 or maybe 5", "5"),
    ("Answer: 5!", "120"),
    ("Answer: 2 + 3", "5"),
    ("Answer: \\sum_{i=1}^{4} i", "10"),
    ("Answer: 5 million", "5"),
    ("It is worth 5 million", "5"),
    ("Answer: 5 pi", "5"),
    ("Answer: 5x", "5"),
    ("$1 2$", "3"),
    ("1 2", "12"),
    ("7e99", "7"),
    ("50%", "50"),
    ("1/0", "0"),
    ("(1, 2)", "(2, 1)"),
    ("[0, 9)", "(0, 9)"),
    ("\\sqrt{3}", "\\sqrt{2}"),
    ("k + 2", "2k+2"),
    ("Answer: " + "9" * 5000, "9"),
    ("Answer: __import__('os').abort()", "\\sqrt{2}"),
    ("Answer: 9**9**9**9", "5"),
    ("Answer: 10^{10^{10}}", "5"),
    ("Answer: 1e999999999", "5"),
    ("North", "\\text{east}"),
]
ABSTAINS = [
    "Answer: I don't know",
    "That is too hard for me.\nAnswer: I don’t know.",
    "I cannot solve this.",
    "\\boxed{\\text{unknown}}",
]


@pytest.mark.parametrize(("reply", "truth"), RIGHT)
def test_right_answers(reply: str, truth: object) -> None:
    assert verdict(reply, truth) == "CORRECT"


@pytest.mark.parametrize(("reply", "truth"), WRONG)
def test_wrong_answers(reply: str, truth: object) -> None:
    assert verdict(reply, truth) == "WRONG"


@pytest.mark.parametrize("reply", ABSTAINS)
def test_abstentions(reply: str) -> None:
    assert verdict(reply, "5") == "ABSTAINED"


def test_a_marked_answer_outweighs_doubts_elsewhere() -> None:
    assert verdict("I don't know the shortcut, so I count.\nAnswer: 5", "5") == "CORRECT"


@pytest.mark.parametrize(
    ("reply", "expected"),
    [("The sum is 5", "WRONG"), ("5", "WRONG"), ("Answer: 5", "CORRECT"), ("\\boxed{5}", "CORRECT")],
)
def test_marked_only_reads_marks_only(reply: str, expected: str) -> None:
    assert verdict(reply, "5", marked_only=True) == expected


@pytest.mark.parametrize("truth", [None, "", "  ", [], {}, {"answers": []}, {"answer": "5"}, True, [None], "\\frac{}{"])
def test_a_gold_that_is_none_is_our_failure_and_not_the_replys(truth: object) -> None:
    posed = task("q", truth)
    grade = Math().grade(posed, rollout("Answer: 5", of=posed))
    assert isinstance(grade, Ungraded)
    assert grade.boundary == "reward:math"
    assert posed.id in grade.reason


@pytest.mark.parametrize("truth", ["19", "#### 72", "$\\frac{1}{2}$", "(1, 2)", ["3", "4"], {"answers": ["x^2"]}, 7])
def test_the_reward_keeps_the_contract(truth: object) -> None:
    assert check_reward(Math(), [task("q", truth)]) == []


def test_gold_needs_a_truth() -> None:
    with pytest.raises(ValueError, match="holds no answer"):
        Math().gold(task("q", []))


@pytest.mark.parametrize("reply", [*JUNK, "\\boxed{" * 20000, "\\[" * 20000, "$" * 20001, "1," * 20000, "a " * 20000])
def test_hostile_replies_to_a_number_are_judged_fast(reply: str) -> None:
    started = time.monotonic()
    assert verdict(reply, "19") == "WRONG"
    assert time.monotonic() - started < 1.0


@given(st.fractions(max_denominator=999), st.sampled_from(["{}/{}", "\\frac{{{}}}{{{}}}", "$\\dfrac{{{}}}{{{}}}$"]))
@settings(max_examples=50, deadline=None)
def test_every_way_to_write_a_ratio_is_the_ratio(value: Fraction, form: str) -> None:
    sign = "-" if value < 0 else ""
    written = (
        sign + form.format(abs(value.numerator), value.denominator)
        if form[0] != "$"
        else form.format(value.numerator, value.denominator)
    )
    assert same(written, f"{value.numerator}/{value.denominator}") is True
    assert same(written, str(value + 1)) is False


@given(st.integers(min_value=-(10**12), max_value=10**12))
@settings(max_examples=50, deadline=None)
def test_separators_and_zeros_change_nothing(value: int) -> None:
    for written in (f"{value:,}", f"{value}.00", f"${value}$", f"{value} apples"):
        assert verdict(f"Answer: {written}", str(value)) == "CORRECT"
        assert verdict(f"Answer: {written}", str(value + 1)) == "WRONG"


@given(st.text(max_size=300), st.sampled_from(["19", "1/2"]))
@settings(max_examples=50, deadline=None)
def test_no_reply_makes_the_grader_raise(reply: str, truth: str) -> None:
    assert verdict(reply, truth) in {"CORRECT", "ABSTAINED", "WRONG"}


def test_a_grade_says_why() -> None:
    grade = Math().grade(task("q", "19"), rollout("Answer: 18"))
    assert grade == Grade(verdict=Verdict.WRONG, score=0.0, why="18 is not 19")
