"""Grade the reference solutions of HumanEval and MBPP+, each also against the tests of the next task, and time it.

python benchmarks/code_grader.py --humaneval HumanEval.jsonl.gz --mbppplus MbppPlus.jsonl.gz --trivial 500
"""

from __future__ import annotations

import argparse
import ast
import gzip
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlvr.testing import rollout, task
from rlvr.types import Grade, Ungraded, Verdict
from rlvr_rewards.code import Code


@dataclass(frozen=True, slots=True)
class Case:
    """A task of a data set: its name, the function that it asks for, the reference solution and the tests."""

    name: str
    entry: str
    solution: str
    truth: dict[str, Any]


def humaneval(path: Path) -> list[Case]:
    """Read HumanEval: `check(candidate)` as it is given; helpers of the prompt that tests use are trusted code."""
    cases = []
    for row in _rows(path):
        entry = row["entry_point"]
        truth = {
            "type": "assert",
            "tests": [row["test"]],
            "entry_point": entry,
            "prelude": _helpers(row["prompt"], entry),
        }
        cases.append(Case(row["task_id"], entry, row["prompt"] + row["canonical_solution"], truth))
    return cases


def mbppplus(path: Path) -> list[Case]:
    """Read MBPP+: the script of assertions as it is given, which expects `math` to be there."""
    cases = []
    for row in _rows(path):
        entry = row["entry_point"]
        truth = {"type": "assert", "tests": [row["assertion"]], "entry_point": entry, "prelude": "import math"}
        cases.append(Case(row["task_id"], entry, row["canonical_solution"], truth))
    return cases


def judge(code: Code, cases: Sequence[Case], *, title: str) -> bool:
    """Grade all solutions against their own and their neighbours' tests, print it, say whether all is well."""
    own = [_timed(code, case.solution, case.truth) for case in cases]
    after = [*cases[1:], cases[0]]
    next_ = [_timed(code, case.solution, other.truth) for case, other in zip(cases, after, strict=True)]
    renamed = [
        _timed(code, f"{case.solution}\n\n{other.entry} = {case.entry}\n", other.truth)
        for case, other in zip(cases, after, strict=True)
    ]
    passed = sum(_right(grade) for grade, _ in own)
    foreign = [sum(_right(grade) for grade, _ in grades) for grades in (next_, renamed)]
    seconds = sorted(spent for _, spent in own)
    print(f"{title}: {passed} of {len(cases)} reference solutions pass in {sum(seconds):.1f} s, ", end="")
    print(f"median {statistics.median(seconds) * 1000:.0f} ms, slowest {seconds[-1]:.2f} s")
    print(f"{title}: {foreign[0]} pass the tests of the next task, {foreign[1]} under the name that it asks for")
    for case, (grade, _) in zip(cases, own, strict=True):
        if not _right(grade):
            print(f"  {case.name} fails its own tests: {_why(grade)}")
    for grades in (next_, renamed):
        for case, other, (grade, _) in zip(cases, after, grades, strict=True):
            if _right(grade) or isinstance(grade, Ungraded):
                print(f"  {case.name} on the tests of {other.name}: {_why(grade)}")
    ungraded = sum(isinstance(grade, Ungraded) for grade, _ in [*own, *next_, *renamed])
    return passed == len(cases) and not any(foreign) and not ungraded


def trivial(code: Code, count: int) -> bool:
    """Grade a trivial program many times, each time as a new one."""
    truth = {"type": "call", "fn": "f", "cases": [{"args": [1], "expected": 4}]}
    started = time.perf_counter()
    graded = [_timed(code, f"def f(x):\n    return x + 3  # {number}", truth) for number in range(count)]
    seconds = time.perf_counter() - started
    right = sum(_right(grade) for grade, _ in graded)
    median = statistics.median(spent for _, spent in graded) * 1000
    print(f"trivial programs: {right} of {count} right in {seconds:.1f} s, median {median:.1f} ms")
    return right == count


def main() -> int:
    """Run what the arguments ask for. Gives 1 where anything came out as it should not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--humaneval", type=Path, help="HumanEval.jsonl.gz")
    parser.add_argument("--mbppplus", type=Path, help="MbppPlus.jsonl.gz")
    parser.add_argument("--trivial", type=int, default=0, help="how many trivial programs to time")
    parser.add_argument("--isolation", default="auto")
    parser.add_argument("--first", type=int, help="only so many tasks of each set")
    arguments = parser.parse_args()
    code = Code(isolation=arguments.isolation)
    probe = _timed(
        code, "def f(x):\n    return x", {"type": "call", "fn": "f", "cases": [{"args": [1], "expected": 1}]}
    )[0]
    print(f"isolation: {_why(probe)}")
    well = _right(probe)
    for path, read, title in ((arguments.humaneval, humaneval, "HumanEval"), (arguments.mbppplus, mbppplus, "MBPP+")):
        if path:
            well &= judge(code, read(path)[: arguments.first], title=title)
    if arguments.trivial:
        well &= trivial(code, arguments.trivial)
    return 0 if well else 1


def _timed(code: Code, source: str, truth: dict[str, Any]) -> tuple[Grade | Ungraded, float]:
    posed = task("q", truth)
    started = time.perf_counter()
    grade = code.grade(posed, rollout(f"```python\n{source}\n```", of=posed))
    return grade, time.perf_counter() - started


def _right(grade: Grade | Ungraded) -> bool:
    return isinstance(grade, Grade) and grade.verdict is Verdict.CORRECT


def _why(grade: Grade | Ungraded) -> str:
    return f"{grade.verdict}: {grade.why}" if isinstance(grade, Grade) else f"UNGRADED: {grade.reason}"


def _helpers(prompt: str, entry: str) -> str:
    """Keep what a prompt defines beside the function that it asks for."""
    kept = [node for node in ast.parse(prompt).body if getattr(node, "name", None) != entry]
    return "\n\n".join(ast.unparse(node) for node in kept)


def _rows(path: Path) -> list[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


if __name__ == "__main__":
    sys.exit(main())
