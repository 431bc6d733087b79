"""Where the mathematics reward finds an answer, and what a grade says. Notation: test_math_answers."""

import dataclasses
import pickle
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr.testing import check_reward, rollout, task
from rlvr.types import Grade, Ungraded, Verdict, messages_of
from rlvr_rewards.math import Math


def verdict(reply: str, truth: object, *, marked_only: bool = False, prompt: str = "q") -> str:
    """Give the verdict's name, or UNGRADED."""
    posed = dataclasses.replace(task("q", truth), messages=messages_of([("user", prompt)]))
    grade = Math(marked_only=marked_only).grade(posed, rollout(reply, of=posed))
    return str(grade.verdict) if isinstance(grade, Grade) else "UNGRADED"


# (reply, gold): where the answer stands in a reply
RIGHT_REPLIES = [
    ("He pays 18 dollars in the end.", "18"),
    ("12 + 7 = 19\nAnswer: 19", "19"),
    ("**Answer:** 19", "19"),
    ("**Answer: 19**", "19"),
    ("Answer: **19**", "19"),
    ("The answer is **19**.", "19"),
    ("Answer: 19. That was easy.", "19"),
    ("So the answer is $\\frac{1}{2}$.", "0.5"),
    ("The final answer is: 3", "3"),
    ("Add them up.\n#### 1,234", "1234"),
    ("#### 1,234 dollars", "1234"),
    ("Answer: \\boxed{5}", "5"),
    ("Answer: 4\nOn second thought, \\boxed{5}.", "5"),
    ("\\boxed{7}, so our answer is correct.", "7"),
    ("Answer: \\[\n\\frac{3}{4}\n\\]", "3/4"),
    ("Answer:\n\n$$\\frac{3}{4}$$", "3/4"),
    ("Answer:\n\n19", "19"),
    ("The total is $1,234.50.", "1234.5"),
    ("So $x$ must be $x = 7$ then.", "7"),
    ("Answer: 5 apples<|im_end|>", "5"),
    ("<think>I guess 5</think> It is 19.", "19"),
    ("<answer>19</answer>", "19"),
    ("<think>hm</think><answer>\n19\n</answer>", "19"),
    ("Thus 3*4=12 dollars.", "12"),
    ("She has 5 apples and 3 pears, so 8 fruits.", "8"),
    ("The answer is 3 1/2.", "3.5"),
    ("The answer is 3 1/2 cups.", "7/2"),
    ("It takes 2.5 hours.", "2.5"),
    ("That is 50%.", "50\\%"),
    ("That is 50 percent of all.", "0.5"),
    ("The answers are 3 and 5.", "3,5"),
    ("So $x=3$ or $x=5$.", "3,5"),
    ("The solutions are $x = 3$ and $x = 5$.", "3, 5"),
    ("Hence the solutions are $\\{3,5\\}$.", "\\{3,5\\}"),
    ("The point is $(1,2)$.", "(1,2)"),
    ("The interval is $[1,2)$.", "[1,2)"),
    ("The correct option is (B).", "B"),
    ("The answer is (B).", "B"),
    ("Answer: B", "B"),
    ("Answer: (B) Paris", "B"),
    ("Answer: **B**", "B"),
    ("So the answer is B because it fits.", "B"),
    ("The graph is an ellipse.", "\\text{ellipse}"),
    ("Answer: The graph is an ellipse.", "\\text{ellipse}"),
    ("So the winner is Evelyn.", "\\text{Evelyn}"),
    ("Answer: x^2 + 1", "1+x^2"),
    ("The polynomial is $x^2+1$.", "x^2+1"),
    ("f(x) = \\boxed{x^2+1}", "x^2+1"),
    ("\\[\\boxed{\\begin{pmatrix}1\\\\2\\end{pmatrix}}\\]", "\\begin{pmatrix}1\\\\2\\end{pmatrix}"),
    ("The probability is \\( \\frac{1}{3} \\) or about 0.33.", "\\frac13"),
    ("$\\frac{1}{3} \\approx 0.333$", "\\frac13"),
    ("The answer is $\\dfrac{1}{3}$ (approximately 0.33).", "\\frac13"),
    ("\\boxed{-2} \\quad \\text{and} \\quad \\boxed{1}", "1,-2"),
    ("\\boxed{10} and then \\boxed{42}", "42"),
    ("$\\boxed{1}$, $\\boxed{2}$, and $\\boxed{3}$", "1,2,3"),
    ("x = \\boxed{3} or x = \\boxed{5}", "3,5"),
    ("The answer is 19!", "19"),
    ("Answer: 19 (nineteen)", "19"),
    ("Answer: $19$ dollars", "19"),
    ("Answer: \\(19\\)", "19"),
    ("**19**", "19"),
    ("= 19", "19"),
    ("The total cost is $19.", "19"),
    ("Final answer\n19", "19"),
    ("Final Answer: $19$.", "19"),
    ("The final answer is $\\boxed{19}$. I hope it is correct.", "19"),
    ("Therefore, the answer is $19\\%$.", "19\\%"),
    ("A: 6", "6"),
    ("The answer is 12,000,023. I hope it is correct.", "12000023"),
    ("I don't know the shortcut, so I count.\nAnswer: 5", "5"),
    ("I don't know, but 19", "19"),
    ("Answer: I'm not sure, but 19", "19"),
    ("Die Antwort ist 19.", "19"),
    ("La respuesta es 19.", "19"),
    ("答案是19。", "19"),
    ("答案：**19**", "19"),
    ("所以答案是 \\boxed{19}。", "19"),
    ("Ответ: 19", "19"),
    ("정답: 19", "19"),
    ("答えは19です。", "19"),
    ("The answer is -5", "-5"),
    ("The answer is −5.", "-5"),
    ("The temperature is -5 degrees.", "-5"),
    ("It costs $-5$.", "-5"),
    ("Answer: 2/3", "2/3"),
    ("The ratio is 2:3.", "2:3"),
    ("Answer: 10:30 a.m.", "10:30 \\text{ a.m.}"),
    ("He arrives at 4:30 p.m.", "4:30 \\text{ p.m.}"),
    ("Answer: 0.5", "0.5"),
    ("Answer: .5", "0.5"),
    ("Answer: 1e3", "1000"),
    ("The answer is 3 \\times 10^8 m/s.", "3\\times10^8"),
    ("The distance is 3 × 10^8 m.", "3\\times10^8"),
    ("Answer: $2\\sqrt{3}$ cm", "2\\sqrt3"),
    ("Answer: 2√3", "2\\sqrt3"),
    ("It is equal to 2\\sqrt{3}.", "2\\sqrt3"),
    ("Answer: 36π square inches", "36\\pi"),
    ("Answer: no", "\\text{No}"),
    ("Answer: Yes, it is.", "\\text{Yes}"),
    ("the set {1, 2, 3}", "\\{1,2,3\\}"),
    ("Answer: {1, 2, 3}", "\\{1,2,3\\}"),
    ("The domain is all real numbers except 3, so $(-\\infty,3)\\cup(3,\\infty)$.", "(-\\infty,3)\\cup(3,\\infty)"),
    ("So the answer is $x=3$.", "3"),
    ("We get x = 3.", "3"),
    ("x = 3", "3"),
    ("Answer: x = 3, y = 4", "(3,4)"),
    ("Thus 5 \\text{ hours} is right. Answer: 5 \\text{ hours}", "5"),
    ("Answer: 1/2 or 0.5", "\\frac12"),
    ("Janet makes 9 * 2 = $<<9*2=18>>18 every day.\n#### 18", "18"),
    ("18.0", "18"),
    ("Answer: 18.00 dollars", "18"),
    ("the answer is 5 (since 2+3=5)", "5"),
    ("Answer: 15 cm^2", "15"),
    ("The correct option is B.", "B"),
    ("Hence, B is correct.", "B"),
    ("A is wrong and C is too. Thus B is the correct answer.", "(B)"),
    ("So \\boxed5", "5"),
    ("So $\\boxed 5$.", "5"),
    ("So $\\boxed 12$.", "12"),
    ("Answer: 15 cm²", "15"),
    ("Area = 15cm²", "15"),
]

# (reply, gold): no single answer, or another
WRONG_REPLIES = [
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
    ("Answer: 5 million", "5"),
    ("It is worth 5 million", "5"),
    ("Answer: 5 pi", "5"),
    ("Answer: 5x", "5"),
    ("The answer is 12 + 7", "7"),
    ("The answer is 12 + 7", "19"),
    ("12+7", "7"),
    ("So we need 3*4.", "4"),
    ("Answer: not 19", "19"),
    ("The answer is not 19", "19"),
    ("It is anything but 19", "19"),
    ("The answer is between 18 and 20", "20"),
    ("The answer is 18, 19 or 20", "20"),
    ("Answers: 17, 18, 19", "19"),
    ("The answer is 18 or 19", "19"),
    ("$18$ or $19$", "19"),
    ("\\boxed{18} or \\boxed{19}", "19"),
    ("\\boxed{18}, \\boxed{19}", "19"),
    ("either (A) or (B)", "B"),
    ("The answer is (A) or (B).", "B"),
    ("Answer: A or B", "B"),
    ("Answer: (A), (B), (C), (D)", "D"),
    ("The graph is an ellipse or a hyperbola.", "ellipse"),
    ("The graph is not an ellipse.", "\\text{ellipse}"),
    ("\\sqrt{361}", "19"),
    ("Answer: \\frac{38}{2}", "19"),
    ("Answer: 38/2", "19"),
    ("The answer is $\\sqrt{361}$.", "19"),
    ("The answer is 5^2", "2"),
    ("it is 2^5", "5"),
    ("The answer is 5^2", "25"),
    ("We compute $\\int_0^5 x dx$", "5"),
    ("x < 19", "19"),
    ("x > 19", "19"),
    ("The number is less than 19.", "19"),
    ("18-19", "19"),
    ("18–19", "19"),
    ("19 or so", "20"),
    ("Answer: 19x", "19"),
    ("Answer: 19 + C", "19"),
    ("the answer is 19√2", "19"),
    ("The answer is $19\\sqrt2$.", "19"),
    ("Answer: 1, 2, 3, 4, 5, 6", "6"),
    ("Answer: 1 2 3 4 5 6", "6"),
    ("It cannot be 19", "19"),
    ("It can't be $19$.", "19"),
    ("He needs over $19$ dollars.", "19"),
    ("The answer is at least $19$.", "19"),
    ("There are at least 19 apples.", "19"),
    ("She needs 19 apples or more.", "19"),
    ("She needs $19$ apples or more.", "19"),
    ("The quotient is 19 R 3.", "19"),
    ("So $x$ is not $2\\sqrt{3}$.", "2\\sqrt3"),
    ("Hence, A is correct.", "B"),
    ("It is not option B.", "B"),
    ("The correct option is A or B.", "B"),
    ("A is correct or B is correct.", "B"),
    ("\\boxed4 or \\boxed5", "5"),
    ("Answer: C. D", "C"),
    ("Answer: C. D", "D"),
    ("<think>maybe it is 18</think>", "18"),
    ("<think>maybe it is \\boxed{18}</think>\n", "18"),
    ("<think>I guess 18, let me check", "18"),
    ("<think>I guess \\boxed{18}, let me check", "18"),
    ("<think>Answer: 18", "18"),
    ("<think>18</think><think>or 18", "18"),
    ("<think>It is an ellipse", "\\text{ellipse}"),
]

# replies that abstain
ABSTAINING = [
    "Answer: I don't know",
    "That is too hard for me.\nAnswer: I don’t know.",
    "I cannot solve this.",
    "\\boxed{\\text{I don't know}}",
    "\\boxed{\\text{unknown}}",
    "12+7 ... hm.\nI don't know.",
    "So 5 + 3 = 8, but then?\n\nI am not able to solve this problem.",
    "#### I don't know",
    "<answer>I don't know</answer>",
    "<think>5 or 6?</think>I don't know.",
]


@pytest.mark.parametrize(("reply", "gold"), RIGHT_REPLIES)
def test_the_answer_is_found(reply: str, gold: str) -> None:
    assert verdict(reply, gold) == "CORRECT"


@pytest.mark.parametrize(("reply", "gold"), WRONG_REPLIES)
def test_a_reply_gets_one_guess(reply: str, gold: str) -> None:
    assert verdict(reply, gold) == "WRONG"


@pytest.mark.parametrize("reply", ABSTAINING)
def test_abstentions(reply: str) -> None:
    assert verdict(reply, "19") == "ABSTAINED"


def test_a_gold_that_reads_like_an_abstention_is_compared_first() -> None:
    assert verdict("\\boxed{\\text{cannot be determined}}", "\\text{cannot be determined}") == "CORRECT"


@pytest.mark.parametrize("truth", [["2", "3"], {"answers": ["2", 3]}, 3, 3.0, ("3",)])
def test_any_of_several_golds_is_right(truth: object) -> None:
    assert verdict("Answer: 3", truth) == "CORRECT"


@pytest.mark.parametrize(
    ("gold", "expected"),
    [
        ("In all we get $x = \\boxed{3}$.", "3"),
        ("\\boxed{2}, \\boxed{3}", "3, 2"),
        ("\\boxed{1}\\boxed{2}", "1,2"),
        ("Long solution.\n#### 72", "72"),
        ("answer is 0.6666667", "2/3"),
        ("So the answer is\n(C) Cecile", "C"),
    ],
)
def test_a_gold_may_be_a_solution(gold: str, expected: str) -> None:
    assert verdict(f"\\boxed{{{expected}}}", gold) == "CORRECT"


@pytest.mark.parametrize(
    ("prompt", "said", "gold", "expected"),
    [
        ("Expand $(x+1)^2$.", "(x+1)^2", "x^2+2x+1", "WRONG"),
        ("Expand $(x+1)^2$.", "x^2+1+2x", "x^2+2x+1", "CORRECT"),
        ("Factor $x^2-49$.", "x^2 - 49", "(x-7)(x+7)", "WRONG"),
        ("Simplify 6/8.", "6/8", "\\frac{3}{4}", "WRONG"),
        ("Simplify \\sqrt{20}.", "\\sqrt{20}", "2\\sqrt{5}", "WRONG"),
        ("What is 7/2 as a decimal?", "7/2", "3.5", "WRONG"),
        ("Divide $2x+1$ by two.", "x+1/2", "\\frac{2x+1}{2}", "CORRECT"),
        ("Expand $(x+1)^2$.", "(1+x)^2", "x^2+2x+1", "WRONG"),
        ("Expand $(x+1)^2$.", "1(x+1)^2", "x^2+2x+1", "WRONG"),
        ("Expand $(x+1)^2$.", "(x+1)^2+0", "x^2+2x+1", "WRONG"),
        ("Expand $(x+1)^2$.", "(x+1)(x+1)", "x^2+2x+1", "WRONG"),
        ("Expand $(x+1)^2$.", "(-x-1)^2", "x^2+2x+1", "WRONG"),
        ("Expand $(x+1)^2$.", "x(x+2)+1", "x^2+2x+1", "WRONG"),
        ("Expand (x+1)^2.", "(1+x)^2", "x^2+2x+1", "WRONG"),
        ("Factor $x^2+5x+6$.", "6+5x+x^2", "(x+2)(x+3)", "WRONG"),
        ("Factor $x^2+5x+6$.", "1(x^2+5x+6)", "(x+2)(x+3)", "WRONG"),
        ("Factor $x^2+5x+6$.", "x^2+2x+3x+6", "(x+2)(x+3)", "WRONG"),
        ("Factor $x^2+5x+6$.", "(3+x)(2+x)", "(x+2)(x+3)", "CORRECT"),
        ("Simplify $\\sqrt{72}$.", "\\sqrt{18}\\sqrt{4}", "6\\sqrt{2}", "WRONG"),
        ("Simplify $\\sqrt{72}$.", "2\\sqrt{18}", "6\\sqrt{2}", "WRONG"),
        ("Simplify $\\sqrt{72}$.", "\\sqrt{2}\\cdot 6", "6\\sqrt{2}", "CORRECT"),
        ("Rationalize $\\frac{2}{\\sqrt{3}}$.", "2/\\sqrt{3}", "\\frac{2\\sqrt{3}}{3}", "WRONG"),
        ("Simplify $\\frac{24}{36}$.", "24/36", "\\frac{2}{3}", "WRONG"),
        ("Simplify $\\frac{24}{36}$.", "12/18", "\\frac{2}{3}", "WRONG"),
        ("Simplify $\\frac{24}{36}$.", "2/3", "\\frac{2}{3}", "CORRECT"),
        ("Simplify $\\frac{x^2-1}{x-1}$.", "\\frac{(x-1)(x+1)}{x-1}", "x+1", "WRONG"),
        ("What is the area of a square with side $x+1$?", "(1+x)^2", "(x+1)^2", "CORRECT"),
        ("What is the area?", "x(x+2)", "x^2+2x", "CORRECT"),
        ("What percentage is that?", "50\\%", "50", "CORRECT"),
        ("How much is that?", "50\\%", "50", "WRONG"),
    ],
)
def test_the_task_itself_is_no_answer(prompt: str, said: str, gold: str, expected: str) -> None:
    assert verdict(f"\\boxed{{{said}}}", gold, prompt=prompt) == expected


@pytest.mark.parametrize(
    ("reply", "expected"),
    [("The sum is 5", "WRONG"), ("5", "WRONG"), ("Answer: 5", "CORRECT"), ("\\boxed{5}", "CORRECT")],
)
def test_marked_only_reads_marks_only(reply: str, expected: str) -> None:
    assert verdict(reply, "5", marked_only=True) == expected


@pytest.mark.parametrize(
    ("reply", "part"),
    [
        ("\\boxed{5}", 1.0),
        ("Answer: 5", 1.0),
        ("Answer: I don't know", 1.0),
        ("It is 5", 0.0),
        ("I don't know", 0.0),
        ("", 0.0),
    ],
)
def test_a_grade_tells_the_format_apart(reply: str, part: float) -> None:
    grade = Math().grade(task("q", "5"), rollout(reply))
    assert isinstance(grade, Grade)
    assert grade.parts == {"format": part}


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


def test_the_reward_pickles_after_use() -> None:
    reward = Math(marked_only=True)
    reward.warm_up()
    again = pickle.loads(pickle.dumps(reward))
    assert again.grade(task("q", "5"), rollout("It is 5")) == reward.grade(task("q", "5"), rollout("It is 5"))


def test_a_grade_says_why() -> None:
    grade = Math().grade(task("q", "19"), rollout("Answer: 18"))
    assert grade == Grade(verdict=Verdict.WRONG, score=0.0, parts={"format": 1.0}, why="18 is not 19")


@given(st.fractions(max_denominator=999), st.sampled_from(["{}/{}", "\\frac{{{}}}{{{}}}", "$\\dfrac{{{}}}{{{}}}$"]))
@settings(max_examples=50)
def test_every_way_to_write_a_ratio_is_the_ratio(value: Fraction, form: str) -> None:
    said = ("-" if value < 0 else "") + form.format(abs(value.numerator), value.denominator)
    # a ratio that stands for an integer is a division left undone
    expected = "WRONG" if value.denominator == 1 else "CORRECT"
    assert verdict(f"\\boxed{{{said}}}", f"{value}") == expected
    assert verdict(f"\\boxed{{{said}}}", f"{value + 1}") == "WRONG"


@given(st.integers(min_value=-(10**12), max_value=10**12))
@settings(max_examples=50)
def test_separators_and_zeros_change_nothing(value: int) -> None:
    for written in (f"{value:,}", f"{value}.00", f"${value}$", f"{value} apples"):
        assert verdict(f"Answer: {written}", str(value)) == "CORRECT"
        assert verdict(f"Answer: {written}", str(value + 1)) == "WRONG"


@given(st.lists(st.integers(-99, 99), min_size=2, max_size=6, unique=True))
@settings(max_examples=50)
def test_order_counts_in_tuples_only(items: list[int]) -> None:
    given_items = items[1:] + items[:1]
    plain, turned = ", ".join(map(str, items)), ", ".join(map(str, given_items))
    assert verdict(f"\\boxed{{{turned}}}", plain) == "CORRECT"
    assert verdict(f"\\boxed{{\\{{{turned}\\}}}}", f"\\{{{plain}\\}}") == "CORRECT"
    assert verdict(f"\\boxed{{({turned})}}", f"({plain})") == "WRONG"
    assert verdict(f"\\boxed{{{turned}, 100}}", plain) == "WRONG"


@given(st.lists(st.integers(-9, 9), min_size=2, max_size=4))
@settings(max_examples=50)
def test_a_polynomial_in_any_order_is_the_polynomial(coefficients: list[int]) -> None:
    terms = [f"({c})x^{power}" for power, c in enumerate(coefficients)]
    gold = "+".join(terms) + "+x^5"
    assert verdict("\\boxed{x^5+" + "+".join(reversed(terms)) + "}", gold) == "CORRECT"
    assert verdict("\\boxed{x^5+1+" + "+".join(reversed(terms)) + "}", gold) == "WRONG"


@pytest.mark.parametrize(
    "said",
    ["It is {}. I don't know.", "{}\n\nI don't know.", "Answer: I don't know {}", "Answer: I don't know, but {}",
     "I don't know, but {}", "Answer: {}, but I am not sure", "I cannot solve this. {}"],
)  # fmt: skip
def test_a_hedge_is_no_free_try(said: str) -> None:
    right, wrong = (verdict(said.format(number), "19") for number in (19, 20))
    assert (right, wrong) in (("ABSTAINED", "ABSTAINED"), ("CORRECT", "WRONG"))
