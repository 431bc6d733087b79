"""The grading process: makes the rewards, then judges one reply after another until its parent is gone.

It is started by `grading.GradingPool` as a fresh interpreter. Requests come pickled from the parent, which is trusted;
answers go back as JSON, since a grader that chewed on hostile text is not.
"""

from __future__ import annotations

import ctypes
import dataclasses
import json
import os
import pickle
import resource
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlvr import plugins
from rlvr.errors import BoundaryError, PluginError, RlvrError, boundary
from rlvr.types import Grade, Reward, Rollout, Task, Ungraded, Verdict

__all__ = ["decode", "encode", "main", "receive", "send"]

_LENGTH = struct.Struct("!Q")
_PR_SET_PDEATHSIG = 1


def send(sock: socket.socket, payload: bytes) -> None:
    """Send one message, within the socket's timeout."""
    sock.sendall(_LENGTH.pack(len(payload)) + payload)


def receive(sock: socket.socket, *, deadline: float | None = None) -> bytes:
    """Receive one message. `deadline` is on the monotonic clock, seconds.

    Errors: TimeoutError past the deadline, EOFError where the other side is gone.
    """
    (length,) = _LENGTH.unpack(_exactly(sock, _LENGTH.size, deadline))
    return _exactly(sock, length, deadline)


def encode(answer: Grade | Ungraded) -> bytes:
    """Write a grade as JSON."""
    fields = {slot: getattr(answer, slot) for slot in type(answer).__slots__}
    if isinstance(answer, Grade):
        fields["parts"] = dict(answer.parts)
    return json.dumps(fields, default=float).encode()  # numpy's numbers become ours


def decode(payload: bytes | str) -> Grade | Ungraded:
    """Read what `encode` wrote. Errors: ValueError, TypeError, KeyError for anything else."""
    fields: dict[str, Any] = json.loads(payload)
    if "boundary" in fields:
        return Ungraded(boundary=str(fields["boundary"]), reason=str(fields["reason"]))
    verdict = None if fields["verdict"] is None else Verdict(fields["verdict"])
    parts = {str(name): float(value) for name, value in fields["parts"].items()}
    return Grade(verdict=verdict, score=float(fields["score"]), parts=parts, why=str(fields["why"]))


class _Rewards:
    """The rewards of a run as one: the first judges, the scores are averaged by weight."""

    def __init__(self, specs: Sequence[tuple[str, float, Mapping[str, Any]]]) -> None:
        self._rewards: list[tuple[str, float, Reward]] = [
            (name, weight, plugins.create(plugins.REWARDS, name, options)) for name, weight, options in specs
        ]
        self._total = sum(weight for _, weight, _ in self._rewards)
        self.by_group = any(hasattr(reward, "grade_group") for _, _, reward in self._rewards)
        # A reward with limits of its own (a judge's retries, a program's time) says how long they let a grade take.
        self.worst_case_s = sum(float(getattr(reward, "worst_case_s", 0.0)) for _, _, reward in self._rewards)
        first, *others = self._rewards
        far = [name for name, _, reward in others if getattr(reward, "outside_unit", False)]
        if far and hasattr(first[2], "gold"):
            raise PluginError(
                f"reward '{far[0]}' gives scores outside [0, 1], which no reward beside the verdicts of '{first[0]}' "
                "may: use its option that keeps to them (unit = true, say), or drop it"
            )
        for name, _, reward in self._rewards:
            # A reward may have `warm_up()` for slow imports: no reply should pay for them out of its deadline.
            with boundary(f"reward:{name}"):
                getattr(reward, "warm_up", lambda: None)()

    def grade(self, task: Task, rollout: Rollout) -> Grade | Ungraded:
        """Judge one reply by all rewards; the first failure of ours leaves it ungraded.

        Errors: MemoryError passes, for the parent to judge.
        """
        grades: list[Grade] = []
        for name, _, reward in self._rewards:
            grade = _asked(f"reward:{name}", reward, task, rollout)
            if isinstance(grade, Ungraded):
                return grade
            grades.append(grade)
        return self._one(grades)

    def grade_group(self, task: Task, rollouts: Sequence[Rollout]) -> list[Grade | Ungraded]:
        """Judge all replies to a task; a reward that can gets them together. Errors: as `grade`."""
        by_reward = [_asked_group(f"reward:{name}", reward, task, rollouts) for name, _, reward in self._rewards]
        result: list[Grade | Ungraded] = []
        for answers in zip(*by_reward, strict=True):
            broken = next((answer for answer in answers if isinstance(answer, Ungraded)), None)
            result.append(broken or self._one([answer for answer in answers if isinstance(answer, Grade)]))
        return result

    def _one(self, grades: Sequence[Grade]) -> Grade | Ungraded:
        """Make one grade of those of all rewards."""
        parts: dict[str, float] = {}
        for (name, _, _), grade in zip(self._rewards, grades, strict=True):
            parts[name] = float(grade.score)
            parts |= {f"{name}/{part}": float(value) for part, value in grade.parts.items()}
        score = sum(w * g.score for (_, w, _), g in zip(self._rewards, grades, strict=True)) / self._total
        verdict = grades[0].verdict
        # Each score by itself: a mean may lie inside for right replies and outside for wrong ones, which would escape.
        outside = [n for n, _, _ in self._rewards if not 0.0 <= parts[n] <= 1.0]
        if verdict is not None and outside:
            reason = f"score {parts[outside[0]]:g} lies outside [0, 1], which a reward beside a verdict must keep to"
            return Ungraded(boundary=f"reward:{outside[0]}", reason=reason)
        return Grade(verdict=verdict, score=score, parts=parts, why="; ".join(g.why for g in grades if g.why))

    def passes_gold(self, task: Task, rollout: Rollout) -> bool:
        """Tell whether the gold reply is judged as it should: CORRECT by every reward that writes a gold of its own."""
        fallback = str(task.truth) if isinstance(task.truth, str | int | float) else None
        for name, _, reward in self._rewards:
            own = getattr(reward, "gold", None)
            with boundary(f"reward:{name}"):
                reply = own(task) if own is not None else fallback
            if reply is None:
                return False
            fallback = fallback or reply
            grade = _asked(f"reward:{name}", reward, task, dataclasses.replace(rollout, reply=reply))
            if isinstance(grade, Ungraded) or (own is not None and grade.verdict not in (Verdict.CORRECT, None)):
                return False
        return True


def main(fd: int, parent: int) -> None:
    """Serve requests on the socket `fd` until it closes. The kernel kills this process when `parent` dies."""
    _die_with(parent)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with socket.socket(fileno=fd) as sock:
        setup = pickle.loads(receive(sock))  # noqa: S301 - written by our parent
        try:
            rewards = _Rewards(setup["rewards"])
        except RlvrError as error:
            send(sock, json.dumps({"error": str(error)}).encode())
            return
        if setup["memory_mb"]:
            _limit_memory(setup["memory_mb"] * 2**20)
        send(sock, json.dumps({"by_group": rewards.by_group, "worst_case_s": rewards.worst_case_s}).encode())
        while True:
            try:
                request = receive(sock)
            except (EOFError, ConnectionError):
                return
            send(sock, _answer(rewards, request))


def _answer(rewards: _Rewards, request: bytes) -> bytes:
    try:
        kind, task, rollout = pickle.loads(request)  # noqa: S301 - written by our parent
        if kind == "gold":
            return json.dumps({"passes": rewards.passes_gold(task, rollout)}).encode()
        if kind == "group":
            return json.dumps([encode(grade).decode() for grade in rewards.grade_group(task, rollout)]).encode()
        return encode(rewards.grade(task, rollout))
    except MemoryError:
        return json.dumps({"exhausted": True}).encode()
    except BoundaryError as error:
        return encode(Ungraded(boundary=error.boundary, reason=error.reason))


def _asked(name: str, reward: Reward, task: Task, rollout: Rollout) -> Grade | Ungraded:
    """Ask one reward; what it raises or wrongly returns becomes Ungraded. Errors: MemoryError passes."""
    try:
        return _guarded(name, lambda: [reward.grade(task, rollout)], count=1)[0]
    except BoundaryError as error:
        return Ungraded(boundary=name, reason=error.reason)


def _asked_group(name: str, reward: Reward, task: Task, rollouts: Sequence[Rollout]) -> list[Grade | Ungraded]:
    """Ask one reward about all replies, together if it can. Errors: MemoryError passes."""
    together = getattr(reward, "grade_group", None)
    if together is not None:
        try:
            return _guarded(name, lambda: list(together(task, rollouts)), count=len(rollouts))
        except BoundaryError:
            pass  # one reply may have done that: alone, the others are not its victims
    return [_asked(name, reward, task, rollout) for rollout in rollouts]


def _guarded(name: str, call: Callable[[], list[object]], *, count: int) -> list[Grade | Ungraded]:
    """Call a reward and check each of its `count` answers. Errors: BoundaryError where it raises; MemoryError."""
    try:
        with boundary(name):
            answers = call()
            for answer in answers:
                if isinstance(answer, Grade | Ungraded):
                    encode(answer)  # a score that is no JSON number is this reward's failure, not ours
    except BoundaryError as error:
        # A reply that exhausts the stack is like one that exhausts memory: the gold decides whose fault it is.
        if isinstance(error.__cause__, MemoryError | RecursionError):
            raise MemoryError from error
        raise
    except RlvrError as error:
        return [Ungraded(boundary=name, reason=str(error))] * count
    if len(answers) != count:
        reason = f"grade_group() gives {len(answers)} grades for {count} rollouts"
        return [Ungraded(boundary=name, reason=reason)] * count
    return [_checked(name, answer) for answer in answers]


def _checked(name: str, answer: object) -> Grade | Ungraded:
    if isinstance(answer, Ungraded):
        return Ungraded(boundary=answer.boundary or name, reason=answer.reason)
    if not isinstance(answer, Grade):
        return Ungraded(boundary=name, reason=f"grade() gives {type(answer).__name__}, not Grade or Ungraded")
    return dataclasses.replace(answer, score=float(answer.score))


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the call
        sys.exit(1)


def _limit_memory(limit: int) -> None:
    """Let a grading have `limit` bytes beyond what the process maps now."""
    with open("/proc/self/statm", encoding="ascii") as file:
        mapped = int(file.read().split()[0]) * resource.getpagesize()
    # The soft limit only: a sandbox that a reward starts later sets limits of its own.
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    resource.setrlimit(resource.RLIMIT_AS, (mapped + limit, hard))


def _exactly(sock: socket.socket, size: int, deadline: float | None) -> bytes:
    chunks = bytearray()
    while len(chunks) < size:
        if deadline is not None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            sock.settimeout(left)
        chunk = sock.recv(min(size - len(chunks), 2**20))
        if not chunk:
            raise EOFError
        chunks += chunk
    return bytes(chunks)
