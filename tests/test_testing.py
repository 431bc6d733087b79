import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import count, repeat
from typing import Any

import pytest

from rlvr.testing import check_environment, check_reward, rollout, task
from rlvr.types import Grade, Rollout, Task, Ungraded, Verdict, messages_of
from rlvr_environments.arithmetic import Arithmetic
from rlvr_rewards.math import Math

CORRECT = Grade(verdict=Verdict.CORRECT, score=1.0)
WRONG = Grade(verdict=Verdict.WRONG, score=0.0)


class Tables:
    """A sound environment that a test bends."""

    def __init__(self, **changes: Any) -> None:
        self.changes = changes

    def tasks(self, split: str, *, seed: int) -> Iterator[Task]:
        for number in range(4):
            yield replace(task(f"{split} {number}", str(number)), **self.changes)


class Restless(Tables):
    calls = count()

    def tasks(self, split: str, *, seed: int) -> Iterator[Task]:
        yield task(f"{split} {next(self.calls)}")


class Leaky(Tables):
    def tasks(self, split: str, *, seed: int) -> Iterator[Task]:
        yield replace(task("the same question"), id=split)


class Sick(Tables):
    def tasks(self, split: str, *, seed: int) -> Iterator[Task]:
        raise KeyError("no data")


class Demonstrates(Tables):
    def demonstrations(self, *, seed: int) -> Iterator[Any]:
        yield from self.given(seed) if callable(self.given) else self.given

    def __init__(self, given: Any) -> None:
        super().__init__()
        self.given = given


CALLS = count()
SHOWN = [messages_of([("user", "train 0"), ("assistant", "0")])]


@pytest.mark.parametrize(
    ("given", "finding"),
    [
        ([], "gives none"),
        (lambda seed: [messages_of([("user", "q"), ("assistant", str(next(CALLS)))])], "for the same seed"),
        ([messages_of([("user", "train 0")])], "demonstration 0: messages must be"),
        ([*SHOWN, messages_of([("user", "a"), ("user", "b")])], "demonstration 1: messages must be"),
        ([*SHOWN, messages_of([("user", "eval 1"), ("assistant", "1")])], "demonstration 1 answers a task of the spl"),
        ([({"content": "eval 1", "role": "user"}, *SHOWN[0][1:])], "demonstration 0 answers a task of the split eval"),
        ([({"role": ["user"], "content": "a"}, *SHOWN[0][1:])], "demonstration 0: messages must be"),
        (lambda seed: [1 / 0], "demonstrations(): raises ZeroDivisionError"),
    ],
)  # fmt: skip
def test_demonstrations_are_checked_where_there_are_any(given: Any, finding: str) -> None:
    assert check_environment(Demonstrates(SHOWN)) == []
    assert any(finding in one for one in check_environment(Demonstrates(given)))


def test_demonstrations_must_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rlvr.testing.contracts.MOST_DEMONSTRATIONS", 100)
    said = "demonstrations() gives more than 100, or never ends"
    assert check_environment(Demonstrates(SHOWN * 100)) == []
    assert check_environment(Demonstrates(SHOWN * 101)) == [said]
    assert said in check_environment(Demonstrates(lambda seed: repeat(SHOWN[0])))


def test_sound_plug_ins_have_no_findings() -> None:
    assert check_environment(Tables()) == []
    assert check_environment(Arithmetic()) == []
    assert check_reward(Math(), [task()]) == []


@pytest.mark.parametrize(
    ("environment", "finding"),
    [
        (Restless(), "gives other tasks for the same seed"),
        (Leaky(), "train and eval share tasks"),
        (Sick(), "raises KeyError: 'no data'"),
        (Tables(id="one"), "gives id one twice"),
        (Tables(messages=()), "messages must be"),
        (Tables(messages=messages_of([("user", "a"), ("assistant", "b")])), "messages must be"),
        (Tables(messages=messages_of([("robot", "a")])), "messages must be"),
        (Tables(truth={1, 2}), "truth is not JSON"),
        (Tables(truth=float("nan")), "truth is not JSON"),
    ],
)
def test_a_broken_environment_is_found_out(environment: Tables, finding: str) -> None:
    assert any(finding in found for found in check_environment(environment))


class Generous:
    def grade(self, task: Task, rollout: Rollout) -> Grade | Ungraded:
        return CORRECT


class Moody:
    calls = count()

    def grade(self, task: Task, rollout: Rollout) -> Grade | Ungraded:
        return Grade(verdict=None, score=float(next(self.calls)))


class Fragile:
    def grade(self, task: Task, rollout: Rollout) -> Grade | Ungraded:
        rollout.reply.encode()
        return WRONG


class Vague:
    def grade(self, task: Task, rollout: Rollout) -> Any:
        return 1.0


class Mean:
    def grade(self, task: Task, rollout: Rollout) -> Grade | Ungraded:
        return WRONG

    def gold(self, task: Task) -> str:
        return "2"


class Locked(Generous):
    def __init__(self) -> None:
        self.lock = threading.Lock()


@pytest.mark.parametrize(
    ("reward", "finding"),
    [
        (Locked(), "pickling: raises TypeError"),
        (Generous(), "the empty reply earns CORRECT"),
        (Moody(), "and then"),
        (Fragile(), "raises UnicodeEncodeError"),
        (Vague(), "gives float, not Grade or Ungraded"),
        (Mean(), "the gold reply earns"),
    ],
)
def test_a_broken_reward_is_found_out(reward: Any, finding: str) -> None:
    assert any(finding in found for found in check_reward(reward, [task()]))


def test_a_reward_that_workers_cannot_import_is_found_out() -> None:
    class Local(Mean):
        pass

    assert any("cannot be imported by that name" in found for found in check_reward(Local(), []))


def test_slow_grading_is_found_out() -> None:
    assert any("takes more than 0 s" in found for found in check_reward(Mean(), [task()], seconds=0))


def test_builders_agree_with_each_other() -> None:
    posed = task("What is 1 + 2?", "3")
    said = rollout("Answer: 3", of=posed, index=2, version=5)
    assert said.task_id == posed.id
    assert said.token_ids.shape == said.logprobs.shape == (9,)
    assert (said.min_version, said.max_version, said.truncated) == (5, 5, False)
    assert task("a", "b").id == task("a", "b").id != task("a", "c").id
