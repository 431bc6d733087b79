import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rlvr.core.payoff import Payoff
from rlvr.errors import ConfigError
from rlvr.loop.grade import cases_in, grade_file
from rlvr.rollout.grading import GradingPool, RewardSpec

pytestmark = pytest.mark.integration

CASES = [
    {"reply": r"so \boxed{4}", "truth": "4", "id": 7},
    {"reply": "Answer: 5", "truth": ["4"], "mine": True},
    {"reply": "Answer: I don't know", "truth": 4},
    {"reply": "Answer: 4", "truth": None, "id": "x"},
]


@pytest.fixture(scope="module")
def pool() -> Iterator[GradingPool]:
    """Share two processes that judge mathematics."""
    with closing(GradingPool([RewardSpec(name="math")], processes=2)) as pool:
        pool.start()
        yield pool


def written(path: Path, *cases: Any) -> Path:
    """Write cases, a line each."""
    path.write_text("\n".join(json.dumps(case) for case in cases) + "\n")
    return path


def graded(pool: GradingPool, source: Path, *, payoff: Payoff | None = None) -> list[dict[str, Any]]:
    """Grade a file and read the verdicts."""
    target = source.with_name("verdicts.jsonl")
    grade_file(pool, source=source, target=target, payoff=payoff, advance=lambda: None)
    return [json.loads(line) for line in target.read_text().splitlines()]


def test_a_line_out_for_each_line_in(pool: GradingPool, tmp_path: Path) -> None:
    lines = graded(pool, written(tmp_path / "cases.jsonl", *CASES))
    assert [line["verdict"] for line in lines] == ["CORRECT", "WRONG", "ABSTAINED", "UNGRADED"]
    assert [line["value"] for line in lines] == [1.0, 0.0, 0.0, None]
    assert [line.get("id") for line in lines] == [7, None, None, "x"]
    assert all({"verdict", "value", "why", "parts"} <= line.keys() for line in lines)


def test_a_payoff_turns_verdicts_into_values(pool: GradingPool, tmp_path: Path) -> None:
    lines = graded(pool, written(tmp_path / "cases.jsonl", *CASES), payoff=Payoff())
    assert [line["value"] for line in lines] == [1.0, -1.0, 0.0, None]


def test_order_is_kept_and_every_case_is_counted(pool: GradingPool, tmp_path: Path) -> None:
    cases = [{"reply": f"Answer: {i % 3}", "truth": "0", "id": i} for i in range(200)]
    source, target, seen = written(tmp_path / "cases.jsonl", *cases), tmp_path / "out.jsonl", []
    assert cases_in(source) == 200
    counts = grade_file(pool, source=source, target=target, payoff=None, advance=lambda: seen.append(1))
    lines = [json.loads(line) for line in target.read_text().splitlines()]
    assert [line["id"] for line in lines] == list(range(200))
    assert (counts["CORRECT"], counts["WRONG"], len(seen)) == (67, 133, 200)


def test_a_process_killed_from_outside_is_replaced_and_counted(pool: GradingPool, tmp_path: Path) -> None:
    cases = [{"reply": f"Answer: {i}", "truth": "0"} for i in range(3000)]
    source, before = written(tmp_path / "cases.jsonl", *cases), pool.lost
    victim = pool._all[0]._process
    assert victim is not None
    threading.Timer(0.1, lambda: os.kill(victim.pid, signal.SIGKILL)).start()
    started = time.monotonic()
    lines = graded(pool, source)
    ungraded = [line for line in lines if line["verdict"] == "UNGRADED"]
    assert time.monotonic() - started < 20
    assert pool.lost == before + 1
    assert len(lines) == 3000 and len(ungraded) <= 1
    assert all("killed from outside by SIGKILL" in line["why"] for line in ungraded)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{", "line 2 is not JSON"),
        ("3", "line 2 must be an object"),
        ('{"reply": "x"}', "line 2 has no 'truth'"),
        ('{"truth": "x"}', "line 2 has no 'reply'"),
        ('{"reply": 3, "truth": "x"}', "line 2: 'reply' must be text, not int"),
        ('{"reply": "x", "truth": "x", "question": 1}', "line 2: 'question' must be text, not int"),
        ('{"reply": "x", "truth": "x", "tokens": -1}', "line 2: 'tokens' must be the number"),
        ("[" * 100_000, "line 2 is not JSON"),
    ],
)
def test_a_bad_line_is_named_before_anything_is_graded(line: str, sentence: str, tmp_path: Path) -> None:
    source = tmp_path / "cases.jsonl"
    source.write_text('{"reply": "x", "truth": "y"}\n' + line + "\n")
    with pytest.raises(ConfigError, match=sentence):
        cases_in(source)


def test_an_empty_or_missing_or_binary_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n\n")
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\n")
    for name, sentence in (("empty", "holds no case"), ("none", "there is no file"), ("binary", "is not UTF-8")):
        with pytest.raises(ConfigError, match=sentence):
            cases_in(tmp_path / f"{name}.jsonl")
