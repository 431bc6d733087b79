from collections import Counter
from itertools import islice

import pytest

from rlvr.testing import check_environment, rollout
from rlvr.types import Grade, Task, Verdict
from rlvr_environments.code import KINDS, Code
from rlvr_rewards.code import Code as CodeReward


def train(environment: Code, count: int, *, seed: int = 0) -> list[Task]:
    return list(islice(environment.tasks("train", seed=seed), count))


def question(task: Task) -> str:
    return task.messages[-1]["content"]


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_keeps_the_contract(kind: str) -> None:
    assert check_environment(Code([kind], eval_tasks=16), tasks=64) == []


@pytest.mark.parametrize("kind", KINDS)
def test_the_solution_of_every_wording_computes_what_is_expected(kind: str) -> None:
    for form in KINDS[kind]:
        for problem in islice(form.problems(), 40):
            scope: dict[str, object] = {}
            exec(problem.solution, scope)
            assert len(problem.truth["cases"]) >= 4
            for case in problem.truth["cases"]:
                assert scope["f"](*case["args"]) == case["expected"], problem.question  # type: ignore[operator]


@pytest.mark.parametrize("kind", KINDS)
def test_no_constant_and_no_copy_of_the_argument_is_right(kind: str) -> None:
    for form in KINDS[kind]:
        for problem in form.problems():
            cases = problem.truth["cases"]
            assert len({str(case["expected"]) for case in cases}) > 1, problem.question
            assert all(case["expected"] != case["args"][0] for case in cases), problem.question
            assert all(case["expected"] not in ([], "") for case in cases), problem.question


def test_the_gold_reply_is_short_and_earns_correct() -> None:
    reward = CodeReward()
    for task in train(Code(), 8):
        reply = Code.gold(task)
        assert len(reply) < 120
        grade = reward.grade(task, rollout(reply, of=task))
        assert isinstance(grade, Grade), grade
        assert grade.verdict is Verdict.CORRECT, grade
    reward.close()


def test_the_prompt_is_worked_examples_and_then_the_question() -> None:
    (task,) = train(Code(["number"], examples=2), 1)
    contents = [message["content"] for message in task.messages]
    assert contents[0] == "Write a Python function f(x) that returns x plus 7."
    assert contents[1] == "```python\ndef f(x):\n    return x + 7\n```"
    assert [message["role"] for message in task.messages] == ["user", "assistant"] * 2 + ["user"]
    assert contents[4] not in contents[:4]


def test_no_problem_is_in_both_splits_and_no_example_in_any() -> None:
    environment = Code(eval_tasks=200)
    examples = {message["content"] for message in train(environment, 1)[0].messages[:-1]}
    held_out = {question(task) for seed in (0, 1) for task in environment.tasks("eval", seed=seed)}
    trained = {question(task) for seed in (0, 1) for task in train(environment, 1500, seed=seed)}
    assert not held_out & trained
    assert not examples & (held_out | trained)


def test_evaluation_has_distinct_tasks_spread_evenly_over_kinds() -> None:
    tasks = list(Code(eval_tasks=120).tasks("eval", seed=3))
    assert len({task.id for task in tasks}) == 120
    assert Counter(task.tags[0] for task in tasks) == dict.fromkeys(KINDS, 30)


def test_training_never_ends_and_its_seed_decides_it() -> None:
    environment = Code(["list"])
    assert [t.id for t in train(environment, 3000)] == [t.id for t in train(environment, 3000)]
    assert [t.id for t in train(environment, 50)] != [t.id for t in train(environment, 50, seed=1)]


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"kinds": ["prose"]}, "kinds must be a list out of number, formula, text, list"),
        ({"kinds": []}, "kinds must be a list"),
        ({"kinds": "text"}, "kinds must be a list"),
        ({"examples": 4}, "examples must be 0 to 3, not 4"),
        ({"eval_tasks": 0}, "eval_tasks must be at least 1, not 0"),
    ],
)
def test_wrong_options_are_said(options: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        Code(**options)  # type: ignore[arg-type]


def test_more_evaluation_tasks_than_exist_and_unknown_splits_are_said() -> None:
    with pytest.raises(ValueError, match=r"have only .* evaluation tasks, not 100000: lower eval_tasks or add kinds"):
        Code(eval_tasks=100000).tasks("eval", seed=0)
    with pytest.raises(ValueError, match="splits train and eval, not 'test'"):
        Code().tasks("test", seed=0)
