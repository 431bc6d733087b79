"""Grade a file of replies by one reward, as a run would: the same processes, deadlines and payoff."""

from __future__ import annotations

import asyncio
import json
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np

from rlvr.core.payoff import Payoff, value_of
from rlvr.errors import ConfigError
from rlvr.observe.metrics import dump_line, replacing
from rlvr.rollout.grading import GradingPool
from rlvr.types import Grade, Rollout, Span, Stop, Task, Ungraded, messages_of

__all__ = ["cases_in", "grade_file"]

_AHEAD = 8  # replies under way for each grading process


def cases_in(source: Path) -> int:
    """Count the cases of a file after a look at each line. Errors: ConfigError names the first bad one."""
    count = sum(1 for _ in _cases(source))
    if not count:
        raise ConfigError(f'{source} holds no case; a line is {{"reply": ..., "truth": ...}}')
    return count


def grade_file(
    pool: GradingPool, *, source: Path, target: Path, payoff: Payoff | None, advance: Callable[[], None]
) -> Counter[str]:
    """Write one line for each line of `source`, in its order, and rename the file into place at the end.

    Gives how many replies earned each verdict ("" where a reward gives none). Calls `advance` after each case.
    Errors: ConfigError where a payoff meets a reward without verdicts; ResourceError where the disk is full.
    """
    counts: Counter[str] = Counter()
    with replacing(target) as scratch, open(scratch, "wb") as file:

        async def judge() -> None:
            running: deque[tuple[Mapping[str, Any], asyncio.Task[Grade | Ungraded]]] = deque()

            async def write() -> None:
                case, judging = running.popleft()
                line = _line(case, await judging, payoff)
                counts[line["verdict"] or ""] += 1
                file.write(dump_line(line))
                advance()

            for case in _cases(source):
                running.append((case, asyncio.create_task(_graded(pool, case))))
                if len(running) >= _AHEAD * pool.processes:
                    await write()
            while running:
                await write()

        asyncio.run(judge())
    return counts


async def _graded(pool: GradingPool, case: Mapping[str, Any]) -> Grade | Ungraded:
    task = _task(case)
    return (await pool.grade_group(task, [_rollout(task, case)]))[0]


def _cases(source: Path) -> Iterator[Mapping[str, Any]]:
    try:
        with open(source, encoding="utf-8") as file:
            for number, text in enumerate(file, start=1):
                if text.strip():
                    yield _case(text, where=f"{source} line {number}")
    except FileNotFoundError as error:
        raise ConfigError(f"there is no file {source} to grade") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{source} is not UTF-8: {error.reason} at byte {error.start}") from error
    except OSError as error:
        raise ConfigError(f"{source} cannot be read: {error.strerror}") from error


def _case(text: str, *, where: str) -> Mapping[str, Any]:
    """Read one line and check what we use of it; other keys are the user's own."""
    try:
        case = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{where} is not JSON: {error}") from error
    if not isinstance(case, dict):
        raise ConfigError(f'{where} must be an object {{"reply": ..., "truth": ...}}, not {type(case).__name__}')
    for key in ("reply", "truth"):
        if key not in case:
            raise ConfigError(f"{where} has no {key!r}; a case needs reply and truth")
    for key in ("reply", "question"):
        if not isinstance(case.get(key, ""), str):
            raise ConfigError(f"{where}: {key!r} must be text, not {type(case[key]).__name__}")
    if not isinstance(case.get("tokens", 0), int) or case.get("tokens", 0) < 0:
        raise ConfigError(f"{where}: 'tokens' must be the number of reply tokens, not {case['tokens']!r}")
    return case


def _task(case: Mapping[str, Any]) -> Task:
    question = case.get("question", "")
    identity = blake2b(json.dumps([question, case["truth"]]).encode(), digest_size=8).hexdigest()
    return Task(id=identity, messages=messages_of([("user", question)]), truth=case["truth"], source="cases")


def _rollout(task: Task, case: Mapping[str, Any]) -> Rollout:
    """Make a rollout of a reply that nobody sampled; as many zeros as the case says stand for its tokens."""
    tokens = case.get("tokens", 0)
    return Rollout(
        task_id=task.id, index=0, prompt_ids=np.zeros(0, dtype=np.int32), token_ids=np.zeros(tokens, dtype=np.int32),
        logprobs=np.zeros(tokens, dtype=np.float32), spans=(Span(start=0, stop=tokens, version=0),),
        messages=(*task.messages, *messages_of([("assistant", case["reply"])])), reply=case["reply"],
        stop=Stop.END, seconds=0.0,
    )  # fmt: skip


def _line(case: Mapping[str, Any], grade: Grade | Ungraded, payoff: Payoff | None) -> dict[str, Any]:
    named = {"id": case["id"]} if "id" in case else {}
    if isinstance(grade, Ungraded):
        return {"verdict": "UNGRADED", "value": None, "why": f"{grade.boundary}: {grade.reason}", "parts": {}, **named}
    value = value_of(grade, payoff, truth=case["truth"])
    verdict = grade.verdict.value if grade.verdict else None
    return {"verdict": verdict, "value": value, "why": grade.why, "parts": dict(grade.parts), **named}
