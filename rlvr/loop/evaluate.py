"""Held-out accuracy, with its interval, and the paired gain."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlvr.core.stats import (
    Interval,
    PairedDifference,
    bootstrap_mean_interval,
    paired_difference,
    pass_at_k,
    wilson_interval,
)
from rlvr.errors import GradingError
from rlvr.observe.metrics import dump_line, read_lines, replacing
from rlvr.types import Grade, Group, Ungraded, Verdict

__all__ = ["accuracy_of", "compare", "lines_of", "pass_at", "read", "write"]

Line = dict[str, Any]


def lines_of(groups: Sequence[Group]) -> list[Line]:
    """Give one line per evaluated reply: prompt, reply, truth and verdict, all that a second opinion needs."""
    return [_line(group, i) for group in groups for i in range(len(group.rollouts))]


def accuracy_of(lines: Sequence[Line]) -> Interval:
    """Give the share of CORRECT among the graded replies, with its 95 % interval. Errors: GradingError if none is."""
    known = [line["verdict"] == Verdict.CORRECT for line in lines if line["verdict"] != "UNGRADED"]
    if not known:
        raise _all_ungraded(lines)
    return wilson_interval(sum(known), len(known))


def compare(before: Sequence[Line], after: Sequence[Line]) -> PairedDifference | None:
    """Give the gain in points over the tasks graded in both evaluations, paired by task; None where there are none."""
    first = {line["task_id"]: line["verdict"] for line in before if line["verdict"] != "UNGRADED"}
    pairs = [
        (first[line["task_id"]] == Verdict.CORRECT, line["verdict"] == Verdict.CORRECT)
        for line in after
        if line["task_id"] in first and line["verdict"] != "UNGRADED"
    ]
    return paired_difference([a for a, _ in pairs], [b for _, b in pairs]) if pairs else None


def pass_at(lines: Sequence[Line], *, samples: int) -> dict[int, Interval]:
    """Give pass@k for k = 1, 2, 4 ... with bootstrap intervals over tasks; nothing for a single sample.

    Errors: GradingError if no reply is graded.
    """
    if samples < 2:
        return {}
    right: dict[str, list[bool]] = {}
    for line in lines:
        if line["verdict"] != "UNGRADED":
            right.setdefault(line["task_id"], []).append(line["verdict"] == Verdict.CORRECT)
    if not right:
        raise _all_ungraded(lines)
    powers = [2**i for i in range(samples.bit_length()) if 2**i <= samples]
    rng = np.random.default_rng(0)
    result = {}
    for k in powers:
        shares = [pass_at_k(len(found), sum(found), k) for found in right.values() if len(found) >= k]
        if shares:  # too many ungraded replies can leave no task with k of them
            result[k] = bootstrap_mean_interval(shares, rng=rng)
    return result


def write(path: Path, lines: Sequence[Line]) -> None:
    """Write an evaluation under a temporary name, then rename it."""
    with replacing(path) as scratch:
        scratch.write_bytes(b"".join(dump_line(line) for line in lines))


def read(path: Path) -> list[Line]:
    """Read an evaluation."""
    return read_lines(path)


def _all_ungraded(lines: Sequence[Line]) -> GradingError:
    return GradingError(f"all {len(lines)} evaluation replies went ungraded: {lines[0]['why']}")


def _line(group: Group, index: int) -> Line:
    rollout, grade = group.rollouts[index], group.grades[index]
    verdict, why = _judged(grade)
    return {
        "task_id": group.task.id,
        "prompt_ids": rollout.prompt_ids.tolist(),
        "token_ids": rollout.token_ids.tolist(),
        "reply": rollout.reply,
        "truth": group.task.truth,
        "verdict": verdict,
        "why": why,
        "parts": {} if isinstance(grade, Ungraded) else dict(grade.parts),
        "stop": rollout.stop.value,
    }


def _judged(grade: Grade | Ungraded) -> tuple[str, str]:
    if isinstance(grade, Ungraded):
        return "UNGRADED", f"{grade.boundary}: {grade.reason}"
    # a reward without verdicts calls a reply right by its full score
    return str(grade.verdict or (Verdict.CORRECT if grade.score >= 1.0 else Verdict.WRONG)), grade.why
