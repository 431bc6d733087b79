"""Accuracy, gain and pass@k from the lines of an evaluation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from helpers import make_group

from rlvr.core.stats import pass_at_k
from rlvr.errors import GradingError
from rlvr.loop import evaluate
from rlvr.testing import rollout, task
from rlvr.types import Grade, Group, Ungraded, Verdict

RIGHT, WRONG = Grade(verdict=Verdict.CORRECT, score=1.0), Grade(verdict=Verdict.WRONG, score=0.0, why="not 2")
SILENT, BROKEN = Grade(verdict=Verdict.ABSTAINED, score=0.0), Ungraded(boundary="reward 'math'", reason="broke")
BARE_FULL, BARE_HALF = Grade(verdict=None, score=1.0), Grade(verdict=None, score=0.99)


def group(name: str, *grades: Grade | Ungraded) -> Group:
    posed = task(name)
    said = tuple(rollout(f"{name} {i}", of=posed, index=i) for i in range(len(grades)))
    return replace(make_group(said, [0.0] * len(said), name=name), task=posed, grades=grades)


def lines(*grades: Grade | Ungraded) -> list[evaluate.Line]:
    return evaluate.lines_of([group(f"q{i}", grade) for i, grade in enumerate(grades)])


def test_a_line_holds_what_a_second_opinion_needs() -> None:
    posed = group("1 + 1?", WRONG, RIGHT)
    first, second = evaluate.lines_of([posed])
    assert bytes(first["prompt_ids"]).decode() == "1 + 1?"
    assert bytes(first["token_ids"]).decode() == first["reply"] == "1 + 1? 0"
    assert (first["truth"], first["verdict"], first["why"], first["stop"]) == ("2", "WRONG", "not 2", "end")
    assert (second["reply"], second["verdict"]) == ("1 + 1? 1", "CORRECT")
    assert first["task_id"] == second["task_id"] == posed.task.id


@pytest.mark.parametrize(
    ("grade", "verdict"),
    [(SILENT, "ABSTAINED"), (BROKEN, "UNGRADED"), (BARE_FULL, "CORRECT"), (BARE_HALF, "WRONG")],
)
def test_a_verdict_for_every_grade(grade: Grade | Ungraded, verdict: str) -> None:
    (line,) = lines(grade)
    assert line["verdict"] == verdict


def test_accuracy_counts_the_graded_only() -> None:
    known = evaluate.accuracy_of(lines(RIGHT, WRONG, SILENT, BROKEN, RIGHT))
    assert (known.estimate, known.n) == (2 / 4, 4)
    assert 0 < known.low < 0.5 < known.high < 1
    with pytest.raises(GradingError, match="all 2 evaluation replies went ungraded: reward 'math': broke"):
        evaluate.accuracy_of(lines(BROKEN, BROKEN))


def test_the_gain_is_paired_by_task() -> None:
    before = lines(WRONG, RIGHT, WRONG, BROKEN, RIGHT)
    after = lines(RIGHT, RIGHT, WRONG, RIGHT, BROKEN)[::-1]  # the order of lines is no pairing
    gain = evaluate.compare(before, after)
    assert gain is not None
    assert (gain.n, gain.gained, gain.lost) == (3, 1, 0)
    assert gain.points == pytest.approx(100 / 3)
    back = evaluate.compare(after, before)
    assert back is not None
    assert (back.gained, back.lost, back.points) == (0, 1, -gain.points)


def test_evaluations_without_a_common_task_have_no_gain() -> None:
    first, second = (evaluate.lines_of([group(name, RIGHT)]) for name in ("a", "b"))
    assert evaluate.compare(first, second) is None
    assert evaluate.compare(lines(BROKEN), lines(RIGHT)) is None


def test_pass_at_k_of_nothing_graded_is_no_number() -> None:
    found = evaluate.lines_of([group("a", BROKEN, BROKEN)])
    with pytest.raises(GradingError, match="all 2 evaluation replies went ungraded: reward 'math': broke"):
        evaluate.pass_at(found, samples=2)


def test_pass_at_k_is_the_mean_over_tasks() -> None:
    found = evaluate.lines_of([group("a", RIGHT, WRONG, WRONG, WRONG), group("b", RIGHT, RIGHT, WRONG, BROKEN)])
    shares = evaluate.pass_at(found, samples=4)
    assert list(shares) == [1, 2, 4]
    assert shares[1].estimate == pytest.approx((1 / 4 + 2 / 3) / 2)
    assert shares[2].estimate == pytest.approx((pass_at_k(4, 1, 2) + pass_at_k(3, 2, 2)) / 2)
    # the second task has three graded replies, too few for k = 4
    assert (shares[4].estimate, shares[4].n) == (1.0, 1)
    assert evaluate.pass_at(found, samples=1) == {}
    assert list(evaluate.pass_at(found, samples=3)) == [1, 2]


def test_a_k_that_no_task_has_enough_graded_replies_for_is_left_out() -> None:
    found = evaluate.lines_of([group("a", RIGHT, BROKEN), group("b", BROKEN, WRONG)])
    assert list(evaluate.pass_at(found, samples=2)) == [1]


def test_an_evaluation_reads_back_as_written(tmp_path: Path) -> None:
    found = lines(RIGHT, WRONG, BROKEN)
    evaluate.write(tmp_path / "eval.jsonl", found)
    assert evaluate.read(tmp_path / "eval.jsonl") == found
    evaluate.write(tmp_path / "eval.jsonl", found[:1])
    assert evaluate.read(tmp_path / "eval.jsonl") == found[:1]
    assert [path.name for path in tmp_path.iterdir()] == ["eval.jsonl"]
