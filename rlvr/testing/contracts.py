"""Contract suites for authors of plug-ins, and the tasks and rollouts that tests are made of."""

from __future__ import annotations

import importlib
import json
import pickle
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import blake2b
from itertools import islice
from typing import Any

import numpy as np

from rlvr.errors import BoundaryError, boundary
from rlvr.types import (
    MOST_DEMONSTRATIONS,
    Environment,
    Grade,
    Message,
    Reward,
    Rollout,
    Span,
    Stop,
    Task,
    Ungraded,
    Verdict,
    messages_of,
)

__all__ = ["JUNK", "check_environment", "check_reward", "rollout", "task"]

JUNK = (
    "\x00",
    "\N{OBJECT REPLACEMENT CHARACTER}\N{GRINNING FACE}\u202e",
    "\ud800",
    "}" * 50 + "\\boxed{" * 50,
    "Answer: " * 200,
    "( " * 2000,
    "9" * 20000,
    "\\frac{1}{" * 300,
    "```python\nraise SystemExit\n```",
    "nan",
    "None",
)
_ROLES = frozenset({"system", "user", "assistant", "tool"})


def task(question: str = "What is 1 + 1?", truth: Any = "2", *, source: str = "test", tags: Sequence[str] = ()) -> Task:
    """Build a task of one question; its id is a hash of its content."""
    identity = blake2b(json.dumps([question, truth]).encode(), digest_size=8).hexdigest()
    return Task(id=identity, messages=messages_of([("user", question)]), truth=truth, source=source, tags=tuple(tags))


def rollout(
    reply: str = "Answer: 2",
    *,
    of: Task | None = None,
    index: int = 0,
    version: int = 0,
    stop: Stop = Stop.END,
) -> Rollout:
    """Build a rollout that says `reply`, a token a byte, all sampled under one version with logprob -1 nat."""
    of = of or task()
    token_ids = np.frombuffer(reply.encode("utf-8", "surrogatepass"), dtype=np.uint8).astype(np.int32)
    prompt = "\n".join(message["content"] for message in of.messages)
    return Rollout(
        task_id=of.id,
        index=index,
        prompt_ids=np.frombuffer(prompt.encode("utf-8", "surrogatepass"), dtype=np.uint8).astype(np.int32),
        token_ids=token_ids,
        logprobs=np.full(len(token_ids), -1.0, dtype=np.float32),
        spans=(Span(start=0, stop=len(token_ids), version=version),),
        messages=(*of.messages, *messages_of([("assistant", reply)])),
        reply=reply,
        stop=stop,
        seconds=0.0,
    )


def check_environment(environment: Environment, *, tasks: int = 64) -> list[str]:
    """Check the contract on the first `tasks` tasks of both splits. Gives one sentence for each finding.

    A method `demonstrations(*, seed)`, for a warm start, is optional. Its conversations must end with the assistant's
    reply, be the same for the same seed, and hold no question of the split "eval".
    """
    findings: list[str] = []
    splits: dict[str, list[Task]] = {}
    for split in ("train", "eval"):
        with _found(findings, f"tasks({split!r})"):
            splits[split] = list(islice(environment.tasks(split, seed=0), tasks))
            again = list(islice(environment.tasks(split, seed=0), tasks))
            if splits[split] != again:
                findings.append(f"tasks({split!r}) gives other tasks for the same seed")
            findings += _task_findings(split, splits[split])
    shared = {t.id for t in splits.get("train", [])} & {t.id for t in splits.get("eval", [])}
    prompts = {_said(t.messages) for t in splits.get("train", []) if _messages(t.messages)}
    twins = [t.id for t in splits.get("eval", []) if _messages(t.messages) and _said(t.messages) in prompts]
    if shared or twins:
        findings.append(f"train and eval share tasks, such as {next(iter(shared), None) or twins[0]}")
    if callable(getattr(environment, "demonstrations", None)):
        with _found(findings, "demonstrations()"):
            findings += _demonstration_findings(environment, splits.get("eval", []), count=tasks)
    return findings


def check_reward(reward: Reward, tasks: Iterable[Task], *, seconds: float = 5.0) -> list[str]:
    """Check the contract on some tasks. Gives one sentence for each finding.

    The reward can be found again by module and name (as a worker process does) and pickled; its gold earns CORRECT; the
    empty reply does not; nothing raises; the same reply earns the same grade twice, within `seconds` each.
    """
    findings = list(_origin_findings(type(reward)))
    with _found(findings, "pickling"):
        pickle.loads(pickle.dumps(reward))  # noqa: S301 - what we have just written
    gold = getattr(reward, "gold", None)
    for one in tasks:
        for reply in ("", *JUNK):
            grade = _graded(reward, one, reply, findings, seconds=seconds)
            if not reply and isinstance(grade, Grade) and grade.verdict is Verdict.CORRECT:
                findings.append(f"task {one.id}: the empty reply earns CORRECT")
        if gold is not None:
            with _found(findings, f"task {one.id}: gold"):
                grade = _graded(reward, one, gold(one), findings, seconds=seconds)
                if isinstance(grade, Ungraded) or (grade and grade.verdict not in (Verdict.CORRECT, None)):
                    findings.append(f"task {one.id}: the gold reply earns {grade}")
    return findings


def _graded(reward: Reward, one: Task, reply: str, findings: list[str], *, seconds: float) -> Grade | Ungraded | None:
    """Grade a reply twice and note what is wrong with that; None where it raised."""
    where = f"task {one.id}, reply {reply[:20]!r}"
    said = rollout(reply, of=one)
    started = time.monotonic()
    with _found(findings, where):
        first, second = reward.grade(one, said), reward.grade(one, said)
        if time.monotonic() - started > 2 * seconds:
            findings.append(f"{where}: grading takes more than {seconds} s")
        if not isinstance(first, Grade | Ungraded):
            findings.append(f"{where}: grade() gives {type(first).__name__}, not Grade or Ungraded")
        elif first != second:
            findings.append(f"{where}: the same reply earns {first} and then {second}")
        return first
    return None


def _origin_findings(cls: type) -> Iterator[str]:
    path = f"{cls.__module__}:{cls.__qualname__}"
    found: Any = None
    if "<locals>" not in cls.__qualname__:
        found = importlib.import_module(cls.__module__)
        for attribute in cls.__qualname__.split("."):
            found = getattr(found, attribute, None)
    if found is not cls:
        yield f"{path} cannot be imported by that name, so worker processes cannot make it"


def _task_findings(split: str, tasks: Sequence[Task]) -> Iterator[str]:
    if not tasks:
        yield f"tasks({split!r}) gives no task"
    seen: set[str] = set()
    for one in tasks:
        if one.id in seen:
            yield f"tasks({split!r}) gives id {one.id} twice"
        seen.add(one.id)
        if not _well_formed(one):
            yield f"task {one.id}: messages must be role and content, both text, and end with a user's or a tool's"
        try:
            json.dumps(one.truth, allow_nan=False)
        except (TypeError, ValueError) as error:
            yield f"task {one.id}: truth is not JSON: {error}"


def _demonstration_findings(environment: Any, held_out: Sequence[Task], *, count: int) -> Iterator[str]:
    first, again = (list(islice(environment.demonstrations(seed=0), count)) for _ in range(2))
    if not first:
        yield "demonstrations() gives none"
    if first != again:
        yield "demonstrations() gives others for the same seed"
    if sum(1 for _ in islice(environment.demonstrations(seed=0), MOST_DEMONSTRATIONS + 1)) > MOST_DEMONSTRATIONS:
        yield f"demonstrations() gives more than {MOST_DEMONSTRATIONS:,}, or never ends"
    questions = {_said(one.messages) for one in held_out if _messages(one.messages)}
    for place, messages in enumerate(first):
        if len(messages) < 2 or not _messages(messages) or messages[-1]["role"] != "assistant":
            yield f"demonstration {place}: messages must be role and content, both text, and end with the assistant's"
        elif _said(messages[:-1]) in questions:
            yield f"demonstration {place} answers a task of the split eval"


def _messages(found: Any) -> bool:
    return isinstance(found, Sequence) and all(
        isinstance(message, Mapping) and set(message) == {"role", "content"}
        and all(isinstance(text, str) for text in message.values()) and message["role"] in _ROLES
        for message in found
    )  # fmt: skip


def _said(messages: Sequence[Message]) -> tuple[tuple[str, str], ...]:
    return tuple((message["role"], message["content"]) for message in messages)


def _well_formed(one: Task) -> bool:
    return bool(one.id and one.messages) and _messages(one.messages) and one.messages[-1]["role"] in ("user", "tool")


@contextmanager
def _found(findings: list[str], where: str) -> Iterator[None]:
    """Note what foreign code raises as a finding."""
    try:
        with boundary(where):
            yield
    except BoundaryError as error:
        findings.append(f"{where}: raises {error.reason}")
