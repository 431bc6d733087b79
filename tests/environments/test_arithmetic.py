from itertools import islice

import pytest

from rlvr.testing import check_environment, rollout
from rlvr.types import Grade, Task, Verdict
from rlvr_environments.arithmetic import KINDS, Arithmetic, Problem
from rlvr_rewards.math import Math

EXAMPLES = {"12 + 7", "7 + 12", "31 - 14", "9 x 6", "6 x 9", "83 x 67", "67 x 83"}


def question(task: Task) -> str:
    return task.messages[-1]["content"].removeprefix("What is ").removesuffix("?")


def problem(task: Task) -> Problem:
    words = question(task).split()
    return Problem(words[1], tuple(map(int, words[::2])))


def train(environment: Arithmetic, count: int, *, seed: int = 0) -> list[Task]:
    return list(islice(environment.tasks("train", seed=seed), count))


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_keeps_the_contract(kind: str) -> None:
    assert check_environment(Arithmetic([kind], eval_tasks=16), tasks=64) == []


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_stays_in_its_ranges_and_its_gold_is_right(kind: str) -> None:
    for task in train(Arithmetic([kind]), 50):
        posed = problem(task)
        assert posed.sign == KINDS[kind].sign
        assert all(operand in span for operand, span in zip(posed.operands, KINDS[kind].ranges, strict=True))
        assert task.tags == (kind,)
        assert task.truth == str(eval(question(task).replace("x", "*")))
        assert int(task.truth) >= 0
        grade = Math(marked_only=True).grade(task, rollout(Arithmetic.gold(task), of=task))
        assert isinstance(grade, Grade)
        assert grade.verdict is Verdict.CORRECT


def test_the_prompt_is_worked_examples_and_then_the_question() -> None:
    (task,) = train(Arithmetic(["add20"], examples=2), 1)
    contents = [message["content"] for message in task.messages]
    assert contents[:2] == ["What is 12 + 7?", "12 + 7 = 19\nAnswer: 19"]
    assert contents[2:4] == ["What is 31 - 14?", "31 - 14 = 17\nAnswer: 17"]
    assert [message["role"] for message in task.messages] == ["user", "assistant"] * 2 + ["user"]


def test_an_example_of_abstaining_stands_before_the_last() -> None:
    (task,) = train(Arithmetic(["mul22"], examples=2, abstaining=True), 1)
    contents = [message["content"] for message in task.messages]
    assert contents[2:4] == ["What is 83 x 67?", "That is too hard for me.\nAnswer: I don't know"]
    assert contents[4] == "What is 31 - 14?"
    grade = Math().grade(task, rollout(contents[3], of=task))
    assert isinstance(grade, Grade)
    assert grade.verdict is Verdict.ABSTAINED
    (alone,) = train(Arithmetic(["mul22"], examples=0, abstaining=True), 1)
    assert [message["content"] for message in alone.messages[:1]] == ["What is 83 x 67?"]


def test_no_problem_is_in_both_splits_whatever_the_seed_the_order_or_the_kind() -> None:
    environment = Arithmetic(list(KINDS), eval_tasks=1000)
    held_out = {problem(task).key for seed in (0, 1) for task in environment.tasks("eval", seed=seed)}
    trained = {problem(task).key for seed in (0, 1) for task in train(environment, 3000, seed=seed)}
    assert not held_out & trained
    assert Problem("+", (7, 5)).held_out == Problem("+", (5, 7)).held_out


def test_eval_has_exactly_as_many_distinct_tasks_as_asked_and_fills_up_from_larger_kinds() -> None:
    tasks = list(Arithmetic(["mul12", "add2"], eval_tasks=512).tasks("eval", seed=3))
    assert len({task.id for task in tasks}) == len({question(task) for task in tasks}) == 512
    assert 20 < sum(task.tags == ("mul12",) for task in tasks) < 40


def test_the_first_eval_tasks_are_balanced() -> None:
    first = list(islice(Arithmetic(["mul12", "add2"]).tasks("eval", seed=0), 20))
    assert sum(task.tags == ("mul12",) for task in first) == 10


def test_worked_examples_are_never_tasks() -> None:
    environment = Arithmetic(["add20", "sub2", "mul12"], eval_tasks=100)
    posed = {question(task) for task in [*train(environment, 8000), *environment.tasks("eval", seed=0)]}
    assert not posed & EXAMPLES


def test_a_used_up_kind_starts_again_with_the_same_ids() -> None:
    tasks = train(Arithmetic(["mul12"]), 300)
    assert len({task.id for task in tasks}) == len({question(task) for task in tasks}) < 121


def test_other_seeds_give_other_orders() -> None:
    assert train(Arithmetic(), 20, seed=0) != train(Arithmetic(), 20, seed=1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"operations": ["add20", "div"]}, "add20, add2, add3"),
        ({"operations": []}, "operations must be"),
        ({"operations": "add20"}, "operations must be"),
        ({"examples": 4}, "examples must be 0 to 3"),
        ({"eval_tasks": 0}, "eval_tasks must be"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Arithmetic(**options)  # type: ignore[arg-type]


def test_more_eval_tasks_than_exist_are_refused() -> None:
    with pytest.raises(ValueError, match="mul12 have only 29 evaluation tasks, not 100"):
        Arithmetic(["mul12"], eval_tasks=100).tasks("eval", seed=0)


def test_other_splits_are_refused() -> None:
    with pytest.raises(ValueError, match="train and eval"):
        Arithmetic().tasks("test", seed=0)


def test_demonstrations_are_right_and_of_no_held_out_problem() -> None:
    environment = Arithmetic(["add20", "sub2"], eval_tasks=64, demonstrations=300)
    given = list(environment.demonstrations(seed=3))
    assert len(given) == 300
    assert given == list(environment.demonstrations(seed=3)) != list(environment.demonstrations(seed=4))
    shown = train(environment, 1)[0].messages[:-1]
    for messages in given:
        *question, last = messages
        assert last["role"] == "assistant"
        words = question[-1]["content"].removeprefix("What is ").removesuffix("?").split()
        assert not Problem(words[1], tuple(map(int, words[::2]))).held_out
        result = eval("".join(words))
        assert last["content"] == f"{' '.join(words)} = {result}\nAnswer: {result}", "as in the worked examples"
        assert tuple(question[:-1]) == shown
    assert check_environment(environment) == []
