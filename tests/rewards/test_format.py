import math
import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr.testing import check_reward, rollout, task
from rlvr.types import Grade, Rollout, Span, Task, Ungraded, Verdict
from rlvr_rewards.combine import FirstThatDecides, Gate, WeightedSum
from rlvr_rewards.format import CosineLength, Format, Overlong
from rlvr_rewards.truth import Truth

ASKED = task("What is the capital of France?", "Paris")


def long(tokens: int, reply: str = "Paris", *, extra: int = 0) -> Rollout:
    """Build a rollout of so many sampled tokens, and `extra` ones of an environment in their middle."""
    half = tokens // 2
    spans = (Span(start=0, stop=half, version=0), Span(start=half + extra, stop=tokens + extra, version=0))
    plain = rollout(reply, of=ASKED)
    return Rollout(
        task_id=plain.task_id, index=0, prompt_ids=plain.prompt_ids, token_ids=np.zeros(tokens + extra, dtype=np.int32),
        logprobs=np.zeros(tokens + extra, dtype=np.float32), spans=spans, messages=plain.messages, reply=reply,
        stop=plain.stop, seconds=0.0,
    )  # fmt: skip


def shape(reply: str, **options: Any) -> float:
    grade = Format(**options).grade(ASKED, rollout(reply, of=ASKED))
    assert grade.verdict is None and grade.parts == {"format": grade.score} and bool(grade.why) == (grade.score == 0.0)
    return grade.score


@pytest.mark.parametrize(
    ("reply", "score"),
    [
        ("<think>Hm.</think><answer>Paris</answer>", 1),
        ("\n<think>\nHm.\n</think>\n\n<answer>\nParis\n</answer>\n", 1),
        ("<think></think><answer>Paris</answer>", 1),
        ("<think>Hm.</think><answer></answer>", 0),
        ("<think>Hm.</think><answer> \n</answer>", 0),
        ("<answer>Paris</answer><think>Hm.</think>", 0),
        ("<think>Hm.</think> so <answer>Paris</answer>", 0),
        ("So: <think>Hm.</think><answer>Paris</answer>", 0),
        ("<think>Hm.</think><answer>Paris</answer>.", 0),
        ("<think>Hm.</think><answer>Paris</answer><answer>Rome</answer>", 0),
        ("<think>Hm.</think><think>Hm.</think><answer>Paris</answer>", 0),
        ("<think>Hm.<answer>Paris</answer></think>", 0),
        ("<think>Hm.</answer></think><answer>Paris", 0),
        ("<think>Hm.</think>", 0),
        ("<THINK>Hm.</THINK><answer>Paris</answer>", 0),
        ("</think><think><answer>Paris</answer>", 0),
        ("Hm.</think><answer>Paris</answer>", 0),
        ("Paris", 0),
        ("", 0),
    ],
)
def test_tags(reply: str, score: float) -> None:
    assert shape(reply, tags=["think", "answer"]) == score


def test_tags_that_the_prompt_opens() -> None:
    assert shape("Hm.</think><answer>Paris</answer>", tags=["think", "answer"], opened=True) == 1
    assert shape("<think>Hm.</think><answer>Paris</answer>", tags=["think", "answer"], opened=True) == 1
    assert shape("<answer>Paris</answer>", tags=["think", "answer"], opened=True) == 0


def test_a_pattern_is_searched_for() -> None:
    assert shape("So\nAnswer: 5", pattern=r"(?m)^Answer: \d+$") == 1
    assert shape("Answer: five", pattern=r"(?m)^Answer: \d+$") == 0
    assert shape("a\nb", pattern="a.b") == 1
    assert shape("x" * 100_001, pattern="x") == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "pattern or by tags"),
        ({"pattern": "a", "tags": ["b"]}, "pattern or by tags"),
        ({"pattern": "("}, "no regular expression"),
        ({"pattern": "a", "example": "a"}, "{reply} stands in it"),
        ({"tags": ["a"], "example": "{reply}"}, "belongs to a pattern"),
        ({"pattern": "^So", "example": "Then {reply}"}, "not found in the example"),
        ({"tags": "think"}, "different names"),
        ({"tags": ["a", "a"]}, "different names"),
        ({"tags": ["<a>"]}, "different names"),
    ],
)
def test_wrong_formats_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Format(**options)


def test_a_dressed_reply_has_the_format() -> None:
    form = Format(tags=["think", "answer"])
    assert shape(form.dress("Paris"), tags=["think", "answer"]) == 1


@pytest.mark.parametrize(
    ("pattern", "example", "gold", "dressed"),
    [
        (r"^Therefore: .+\.$", "Therefore: {reply}.", "Answer: Paris", "Therefore: Answer: Paris."),
        (r"^Answer: \d+$", "Answer: {reply}", "\\boxed{5}", "Answer: 5"),
        (r"^(Paris|Rome)!$", "{reply}!", "Answer: Paris", "Paris!"),
        (r"^So \[[A-D]\]$", "So [{reply}]", "Answer: B", "So [B]"),
        ("Paris", None, "Answer: Paris", "Answer: Paris"),
    ],
)
def test_a_pattern_is_dressed_by_its_example(pattern: str, example: str | None, gold: str, dressed: str) -> None:
    assert Format(pattern=pattern, example=example).dress(gold) == dressed
    assert shape(dressed, pattern=pattern) == 1


def test_a_gold_that_cannot_have_the_pattern_is_one_sentence() -> None:
    with pytest.raises(ValueError, match="not found in the gold 'Paris': give an `example`"):
        Format(pattern="x").dress("Paris")
    with pytest.raises(ValueError, match="not found in the gold '<Paris>': give another `example`"):
        Format(pattern=r"<\d+>", example="<{reply}>").dress("Paris")


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from(["<think>", "</think>", "<answer>", "</answer>", "x", " ", "\n"]), max_size=9).map("".join)
)
def test_tags_agree_with_a_pattern(reply: str) -> None:
    body = r"(?:(?!</?(?:think|answer)>).)*"
    whole = rf"\A\s*<think>{body}</think>\s*<answer>(?=\s*[^<\s]){body}</answer>\s*\Z"
    assert shape(reply, tags=["think", "answer"]) == shape(reply, pattern=whole)


@pytest.mark.parametrize(
    ("tokens", "score"),
    # the paper's own numbers: L_max = 20480, L_cache = 4096
    [(0, 0.0), (16384, 0.0), (16385, -1 / 4096), (18432, -0.5), (20480, -1.0), (20481, -1.0), (99999, -1.0)],
)
def test_soft_overlong_punishment(tokens: int, score: float) -> None:
    grade = Overlong(max_tokens=20480, buffer=4096).grade(ASKED, long(tokens))
    assert grade.score == pytest.approx(score, abs=1e-12)
    assert grade.verdict is None and grade.parts == {"overlong": grade.score, "tokens": tokens}
    unit = Overlong(max_tokens=20480, buffer=4096, unit=True).grade(ASKED, long(tokens))
    assert unit.score == pytest.approx(1.0 + score) and unit.parts["overlong"] == grade.score


def test_tokens_of_an_environment_do_not_count() -> None:
    assert Overlong(max_tokens=10, buffer=5).grade(ASKED, long(4, extra=50)).score == 0.0


@pytest.mark.parametrize(("most", "buffer"), [(10, 0), (10, 11), (0, 0), (10, -1)])
def test_wrong_buffers_are_refused(most: int, buffer: int) -> None:
    with pytest.raises(ValueError, match="buffer"):
        Overlong(max_tokens=most, buffer=buffer)


PAPER = {"correct": [2.0, 1.0], "wrong": [-10.0, 0.0], "exceeded": -10.0, "abstained": 0.0}


@pytest.mark.parametrize(
    ("reply", "tokens", "score"),
    [
        ("Paris", 0, 2.0),
        ("Paris", 250, 1.5 + 0.5 * math.sqrt(0.5)),
        ("Paris", 500, 1.5),
        ("Paris", 750, 1.5 - 0.5 * math.sqrt(0.5)),
        ("Paris", 999, 1.0 + 0.5 * (1 + math.cos(math.pi * 0.999))),
        ("Paris", 1000, -10.0),
        ("Paris", 1001, -10.0),
        ("Rome", 0, -10.0),
        ("Rome", 250, -5.0 - 5.0 * math.sqrt(0.5)),
        ("Rome", 500, -5.0),
        ("Rome", 1000, -10.0),
        ("I don't know.", 0, 0.0),
        ("I don't know.", 700, 0.0),
    ],
)
def test_cosine_length_as_in_the_paper(reply: str, tokens: int, score: float) -> None:
    reward = CosineLength(of=[Truth()], max_tokens=1000, **PAPER)  # type: ignore[arg-type]
    grade = reward.grade(ASKED, long(tokens, reply))
    assert isinstance(grade, Grade)
    assert grade.score == pytest.approx(score, abs=1e-9)
    assert grade.verdict is None
    assert grade.parts["of"] == float(reply == "Paris") and grade.parts["format"] == 0.0


def test_cosine_length_keeps_the_verdict_where_scores_allow_it() -> None:
    reward = CosineLength(of=Truth(), max_tokens=100)
    grades = [
        reward.grade(ASKED, long(n, reply)) for reply in ("Paris", "I don't know.", "Rome") for n in (0, 50, 99, 100)
    ]
    assert [str(g.verdict)[0] for g in grades if isinstance(g, Grade)] == list("CCCCAAAAWWWW")
    scores = [g.score for g in grades if isinstance(g, Grade)]
    assert scores[0] > scores[1] > scores[2] > scores[4] == scores[5] > scores[10] > scores[9] > scores[8] == 0.0
    assert scores[3] == scores[7] == scores[11] == 0.0


class Together:
    """Judges by group only, with limits of its own; raises for a reply that says so."""

    worst_case_s = 7.0

    def grade(self, task: Task, rollout: Rollout) -> Grade:
        if rollout.reply == "bad":
            raise KeyError("a bug")
        return Grade(verdict=Verdict.CORRECT, score=1.0)

    def grade_group(self, task: Task, rollouts: Sequence[Rollout]) -> list[Grade]:
        return [self.grade(task, one) for one in rollouts]


def test_cosine_length_is_what_its_inner_reward_is() -> None:
    reward = CosineLength(of=[Together()], max_tokens=10)
    assert reward.worst_case_s == 7.0 and not hasattr(reward, "gold")
    good, bad = reward.grade_group(ASKED, [long(0), long(0, "bad")])
    assert isinstance(good, Grade) and good.score == 1.0
    assert bad == Ungraded(boundary="reward:together", reason="KeyError: 'a bug'")
    plain = CosineLength(of=Truth(), max_tokens=10)
    assert plain.gold(ASKED) == Truth().gold(ASKED) and not hasattr(plain, "grade_group")
    gated = CosineLength(of=Gate(of=[Format(tags=["answer"]), Truth()]), max_tokens=10)
    assert gated.gold(ASKED) == "<answer>Answer: Paris</answer>"


def test_what_can_leave_the_unit_says_so() -> None:
    paper = CosineLength(of=Truth(), max_tokens=10, **PAPER)  # type: ignore[arg-type]
    assert paper.outside_unit and not CosineLength(of=Truth(), max_tokens=10).outside_unit
    punishes, shape_only = Overlong(max_tokens=9, buffer=3), Format(pattern="x")
    assert punishes.outside_unit and not Overlong(max_tokens=9, buffer=3, unit=True).outside_unit
    assert not getattr(shape_only, "outside_unit", False)
    assert WeightedSum(of=[shape_only, punishes]).outside_unit
    assert not WeightedSum(of=[Truth(), punishes]).outside_unit  # kept within [0, 1]
    assert WeightedSum(of=[WeightedSum(of=[shape_only, punishes]), Truth()]).outside_unit
    assert Gate(of=[shape_only, punishes], judges=False).outside_unit
    assert not Gate(of=[punishes, Truth()]).outside_unit
    assert FirstThatDecides(of=[shape_only, punishes]).outside_unit
    assert not FirstThatDecides(of=[shape_only, Truth()]).outside_unit


def test_cosine_length_needs_a_judge() -> None:
    blind = CosineLength(of=Format(pattern="x"), max_tokens=10).grade(ASKED, long(3))
    assert isinstance(blind, Ungraded) and "no verdict" in blind.reason
    broken = CosineLength(of=Truth(), max_tokens=10).grade(task("q", None), long(3))
    assert isinstance(broken, Ungraded) and broken.boundary == "reward:truth"


@pytest.mark.parametrize(
    "options",
    [{"max_tokens": 0}, {"correct": [1.0]}, {"wrong": [0.0, math.nan]}, {"exceeded": math.inf}, {"of": []},
     {"of": [Truth(), Truth()]}],
)  # fmt: skip
def test_wrong_cosines_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="cosine length reward"):
        CosineLength(**({"of": [Truth()], "max_tokens": 10} | options))


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 300), st.sampled_from(["Paris", "Rome", "I don't know."]), st.tuples(*[st.floats(0, 1)] * 4))
def test_scores_stay_between_their_ends(tokens: int, reply: str, ends: tuple[float, ...]) -> None:
    reward = CosineLength(of=Truth(), max_tokens=200, correct=ends[:2], wrong=ends[2:])
    grade = reward.grade(ASKED, long(tokens, reply))
    assert isinstance(grade, Grade) and grade.verdict in Verdict
    overlong = Overlong(max_tokens=200, buffer=90, unit=True).grade(ASKED, long(tokens, reply))
    assert 0.0 <= grade.score <= 1.0 and 0.0 <= overlong.score <= 1.0
    if tokens < 200 and reply != "I don't know.":
        pair = ends[:2] if reply == "Paris" else ends[2:]
        assert min(pair) - 1e-9 <= grade.score <= max(pair) + 1e-9


@pytest.mark.parametrize(
    "reward",
    [
        Format(tags=["a"]),
        Format(pattern="x"),
        Format(pattern="^x", example="x {reply}"),
        Overlong(max_tokens=9, buffer=3),
        CosineLength(of=Truth(), max_tokens=10**6),
    ],
)
def test_the_rewards_keep_the_contract(reward: Any) -> None:
    assert check_reward(reward, [ASKED]) == []
    assert pickle.loads(pickle.dumps(reward)).grade(ASKED, long(3)) == reward.grade(ASKED, long(3))
