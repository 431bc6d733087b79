import pickle
import sys
from pathlib import Path
from typing import Any

import pytest

from rlvr.errors import PluginError
from rlvr.functions import FunctionReward
from rlvr.plugins import REWARDS, create
from rlvr.testing import rollout, task
from rlvr.types import Grade, Ungraded


def lengths(completions: list[str], **columns: Any) -> list[float]:
    """Count characters."""
    return [float(len(text)) for text in completions]


def exact(prompts: list[str], completions: list[str], answer: list[str]) -> list[float | None]:
    """Compare with the column that TRL users call `answer`."""
    assert prompts == ["What is 1 + 1?"] * len(completions)
    return [None if not text else float(text == right) for text, right in zip(completions, answer, strict=True)]


def chatty(completions: list[list[dict[str, str]]], **columns: Any) -> list[float]:
    """Read messages."""
    return [float("2" in messages[0]["content"]) for messages in completions]


async def patient(completions: list[str], level: list[int]) -> list[float]:
    """Read a column of a table of truths."""
    return [float(value) for value in level]


def greedy(completions: list[str], answer: list[str], solution: list[str]) -> list[float]:
    """Want more than there is."""
    return [0.0 for _ in completions]


def short(completions: list[str], **columns: Any) -> list[float]:
    """Forget one."""
    return [1.0] * (len(completions) - 1)


def test_a_function_gives_scores_without_a_verdict() -> None:
    reward = FunctionReward(lengths)
    assert reward.grade(task(), rollout("four")) == Grade(verdict=None, score=4.0)


def test_the_one_unknown_required_column_gets_the_truth_and_none_is_ungraded() -> None:
    replies = [rollout("2"), rollout("3"), rollout("")]
    right, wrong, missing = FunctionReward(exact).grade_group(task(truth="2"), replies)
    assert (right, wrong) == (Grade(verdict=None, score=1.0), Grade(verdict=None, score=0.0))
    assert missing == Ungraded(boundary="", reason="exact gives None")


def test_messages_where_they_are_asked_for() -> None:
    assert FunctionReward(chatty, conversational=True).grade(task(), rollout("2")) == Grade(verdict=None, score=1.0)


def test_a_table_of_truths_becomes_columns_and_coroutines_are_awaited() -> None:
    assert FunctionReward(patient).grade(task(truth={"level": 3}), rollout("x")) == Grade(verdict=None, score=3.0)


def test_several_unknown_columns_are_named() -> None:
    with pytest.raises(PluginError, match="greedy needs the columns answer, solution"):
        FunctionReward(greedy).grade(task(), rollout("x"))


def test_a_wrong_number_of_scores_is_ungraded() -> None:
    answers = FunctionReward(short).grade_group(task(), [rollout("a"), rollout("b")])
    assert answers == [Ungraded(boundary="", reason="short gives 1 scores for 2 completions")] * 2


def test_a_function_is_found_by_name_and_travels_to_other_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trl_style.py").write_text(
        "def brevity(completions, **kw):\n    return [-len(c) for c in completions]\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    reward = pickle.loads(pickle.dumps(create(REWARDS, "trl_style:brevity", {})))
    assert reward.grade(task(), rollout("abc")) == Grade(verdict=None, score=-3.0)
    with pytest.raises(PluginError, match="no option 'speed'"):
        create(REWARDS, "trl_style:brevity", {"speed": 1})
