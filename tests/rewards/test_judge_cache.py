"""Verdicts that are kept: across judges, processes and torn lines."""

import multiprocessing
from pathlib import Path
from typing import Any

import pytest
from scripted_judge import ASKED, judged, said, verdict

from rlvr.testing import rollout
from rlvr.types import Grade, Ungraded, Verdict
from rlvr_rewards.judge import Judge
from rlvr_rewards.judging.verdicts import Verdicts

pytestmark = pytest.mark.usefixtures("quick")


def test_a_cache_that_cannot_be_written_leaves_replies_ungraded(scripted: Any, tmp_path: Path) -> None:
    path = tmp_path / "verdicts.jsonl"
    judge = Judge(url=scripted(verdict("WRONG")).url, model="m", cache=str(path))
    path.unlink()
    path.mkdir()
    asked, right = judge.grade_group(ASKED, [rollout(r, of=ASKED) for r in ("Leiden", "Rembrandt van Rijn")])
    assert isinstance(asked, Ungraded) and "IsADirectoryError" in asked.reason
    assert isinstance(right, Grade)


def test_the_cache_answers_the_second_time(scripted: Any, tmp_path: Path) -> None:
    server = scripted(verdict("CORRECT"))
    path = tmp_path / "deep" / "verdicts.jsonl"
    for _ in range(2):
        judge = Judge(url=server.url, model="m", cache=str(path))
        grades = [judged(judge, "The man from Leiden") for _ in range(3)]
        assert grades[0] == grades[1] == grades[2]
    assert len(server.requests) == 1
    judged(Judge(url=server.url, model="other", cache=str(path)), "The man from Leiden")
    judged(Judge(url=server.url, model="m", cache=str(path), system="Be lenient."), "The man from Leiden")
    assert len(server.requests) == 3


def test_failures_are_not_cached(scripted: Any, tmp_path: Path) -> None:
    server = scripted(lambda body, number: verdict("WRONG")(body, number) if number else said("?"))
    judge = Judge(url=server.url, model="m", cache=str(tmp_path / "verdicts.jsonl"))
    assert isinstance(judged(judge, "The man from Leiden"), Ungraded)
    assert isinstance(judged(judge, "The man from Leiden"), Grade)


def fill(path: str, first: int) -> None:
    cache = Verdicts(path)
    for number in range(first, first + 50):
        cache.put(f"key {number}", Verdict.WRONG if number % 2 else Verdict.CORRECT)


def test_several_processes_share_a_cache(tmp_path: Path) -> None:
    path = str(tmp_path / "verdicts.jsonl")
    before = Verdicts(path)
    writers = [multiprocessing.get_context("fork").Process(target=fill, args=(path, first)) for first in (0, 25, 50)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    for cache in (before, Verdicts(path)):
        assert [cache.get(f"key {n}") for n in (0, 1, 99)] == [Verdict.CORRECT, Verdict.WRONG, Verdict.WRONG]
        assert cache.get("key 100") is None
    assert len(Path(path).read_text().splitlines()) == 100


def test_a_torn_or_foreign_line_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / "verdicts.jsonl"
    path.write_text('{"key": "a", "verdict": "WRONG"}\nnonsense\n{"key": "b", "verdict": "PAID"}\n{"key": "c", "ver')
    cache = Verdicts(str(path))
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (Verdict.WRONG, None, None)
    cache.put("c", Verdict.CORRECT)
    assert Verdicts(str(path)).get("c") is Verdict.CORRECT
    cache.put("a", Verdict.CORRECT)
    assert cache.get("a") is Verdict.WRONG
