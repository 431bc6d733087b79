import json
from pathlib import Path
from typing import Any

import pytest

from rlvr.testing import check_environment
from rlvr_environments.jsonl import Jsonl


def written(path: Path, *rows: Any) -> str:
    """Write rows, a line each."""
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    return str(path)


@pytest.fixture
def numbers(tmp_path: Path) -> str:
    """Write 200 questions."""
    rows = [{"question": f"What is {i} + 1?", "answer": f"It is #### {i + 1}", "level": i % 3} for i in range(200)]
    return written(tmp_path / "numbers.jsonl", *rows)


def test_a_file_keeps_the_contract(numbers: str) -> None:
    assert check_environment(Jsonl(path=numbers, truth="answer", eval_share=0.4)) == []


def test_a_task_says_what_the_file_says(numbers: str) -> None:
    environment = Jsonl(
        path=numbers, truth="answer", template="{question} Think {first}.", system="Be brief.", tag="level"
    )
    task = next(iter(environment.tasks("train", seed=0)))
    assert task.messages[0] == {"role": "system", "content": "Be brief."}
    asked = task.messages[1]["content"]
    assert asked.endswith("+ 1? Think {first}.")
    number = int(asked.split()[2])
    assert (task.truth, task.source, task.tags) == (f"It is #### {number + 1}", "numbers", (str(number % 3),))


def test_the_share_held_out_is_decided_by_content(numbers: str, tmp_path: Path) -> None:
    lines = Path(numbers).read_text().splitlines()
    (tmp_path / "turned.jsonl").write_text("\n".join([*reversed(lines), lines[0]]))
    here, there = (Jsonl(path=str(tmp_path / f"{name}.jsonl"), truth="answer") for name in ("numbers", "turned"))
    held_out = {task.id for task in here.tasks("eval", seed=0)}
    assert held_out == {task.id for task in there.tasks("eval", seed=5)}
    assert 8 <= len(held_out) <= 35
    assert len(list(there.tasks("train", seed=0))) == 200 - len(held_out)


def test_held_out_tasks_of_a_file_of_their_own_never_train(numbers: str, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in Path(numbers).read_text().splitlines()[:20]]
    held_out = written(tmp_path / "held_out.jsonl", *rows, {"question": "And 7?", "answer": "7"})
    environment = Jsonl(path=numbers, eval_path=held_out, truth="answer")
    assert len(list(environment.tasks("eval", seed=0))) == 21
    assert len(list(environment.tasks("train", seed=0))) == 180


def test_one_question_with_two_truths_is_in_one_split(numbers: str, tmp_path: Path) -> None:
    rows = [json.loads(line) | {"answer": "other"} for line in Path(numbers).read_text().splitlines()]
    both = tmp_path / "both.jsonl"
    both.write_text(Path(numbers).read_text() + "\n".join(map(json.dumps, rows)))
    environment = Jsonl(path=str(both), truth="answer")
    splits = [{task.messages[-1]["content"] for task in environment.tasks(s, seed=0)} for s in ("train", "eval")]
    assert not splits[0] & splits[1]
    elsewhere = Jsonl(path=numbers, eval_path=written(tmp_path / "held.jsonl", *rows[:20]), truth="answer")
    assert len(list(elsewhere.tasks("train", seed=0))) == 180


def test_messages_may_stand_for_a_question(tmp_path: Path) -> None:
    said = [{"role": "user", "content": "2?"}, {"role": "assistant", "content": "2"}, {"role": "user", "content": "3?"}]
    rows = [{"question": [*said[:2], {"role": "user", "content": f"{i}?"}], "truth": i} for i in range(40)]
    environment = Jsonl(path=written(tmp_path / "chat.jsonl", *rows), template="Well: {question}")
    task = next(iter(environment.tasks("train", seed=0)))
    assert [message["content"] for message in task.messages] == ["2?", "2", f"Well: {task.truth}?"]


@pytest.mark.parametrize(
    ("row", "options", "sentence"),
    [
        ({"truth": 1}, {}, "line 1 has no 'question'"),
        ({"question": "?"}, {}, "line 1 has no 'truth'"),
        ([1], {}, "line 1 has no 'question'"),
        ({"question": 3, "truth": 1}, {}, "must be text, or messages"),
        ({"question": [{"role": "assistant", "content": "x"}], "truth": 1}, {}, "must be text, or messages"),
        ({"question": "?", "truth": 1}, {"template": "hello"}, 'template must hold "{question}"'),
        ({"question": "?", "truth": 1}, {"eval_share": 1.0}, "eval_share must lie between"),
        ({"question": "?", "truth": 1}, {"eval_path": "nowhere.jsonl"}, "there is no file nowhere.jsonl"),
        ({"question": "?", "truth": 1}, {}, "leaves no task for the split"),
    ],
)
def test_a_file_that_is_not_as_described(row: Any, options: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=sentence):
        Jsonl(path=written(tmp_path / "rows.jsonl", row), **options)


def test_a_line_that_is_not_json(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{")
    with pytest.raises(ValueError, match="line 1 is not JSON"):
        Jsonl(path=str(tmp_path / "rows.jsonl"))
