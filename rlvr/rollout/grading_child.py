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
from collections.abc import Mapping, Sequence
from typing import Any

from rlvr import plugins
from rlvr.errors import BoundaryError, RlvrError, boundary
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


def decode(payload: bytes) -> Grade | Ungraded:
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
        for name, _, reward in self._rewards:
            # A reward may have `warm_up()` for slow imports: no reply should pay for them out of its deadline.
            with boundary(f"reward:{name}"):
                getattr(reward, "warm_up", lambda: None)()

    def grade(self, task: Task, rollout: Rollout) -> Grade | Ungraded:
        """Judge one reply by all rewards; the first failure of ours leaves it ungraded.

        Errors: MemoryError passes, for the parent to judge.
        """
        grades: list[Grade] = []
        parts: dict[str, float] = {}
        for name, _, reward in self._rewards:
            grade = _asked(f"reward:{name}", reward, task, rollout)
            if isinstance(grade, Ungraded):
                return grade
            grades.append(grade)
            parts[name] = float(grade.score)
            parts |= {f"{name}/{part}": float(value) for part, value in grade.parts.items()}
        score = sum(w * g.score for (_, w, _), g in zip(self._rewards, grades, strict=True)) / self._total
        verdict = grades[0].verdict
        if verdict is not None and not 0.0 <= score <= 1.0:
            outside = next((n for n, _, _ in self._rewards if not 0.0 <= parts[n] <= 1.0), self._rewards[0][0])
            reason = f"score {parts[outside]:g} lies outside [0, 1], which a reward beside a verdict must keep to"
            return Ungraded(boundary=f"reward:{outside}", reason=reason)
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
        send(sock, b"{}")
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
        return encode(rewards.grade(task, rollout))
    except MemoryError:
        return json.dumps({"exhausted": True}).encode()
    except BoundaryError as error:
        return encode(Ungraded(boundary=error.boundary, reason=error.reason))


def _asked(name: str, reward: Reward, task: Task, rollout: Rollout) -> Grade | Ungraded:
    """Ask one reward; what it raises or wrongly returns becomes Ungraded. Errors: MemoryError passes."""
    try:
        with boundary(name):
            grade: object = reward.grade(task, rollout)
            if isinstance(grade, Grade | Ungraded):
                encode(grade)  # a score that is no JSON number is this reward's failure, not ours
    except BoundaryError as error:
        if isinstance(error.__cause__, MemoryError):
            raise MemoryError from error
        return Ungraded(boundary=name, reason=error.reason)
    except RlvrError as error:
        return Ungraded(boundary=name, reason=str(error))
    if isinstance(grade, Ungraded):
        return Ungraded(boundary=grade.boundary or name, reason=grade.reason)
    if not isinstance(grade, Grade):
        return Ungraded(boundary=name, reason=f"grade() gives {type(grade).__name__}, not Grade or Ungraded")
    return dataclasses.replace(grade, score=float(grade.score))


def _die_with(parent: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the call
        sys.exit(1)


def _limit_memory(limit: int) -> None:
    """Let a grading have `limit` bytes beyond what the process maps now."""
    with open("/proc/self/statm", encoding="ascii") as file:
        mapped = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + limit, mapped + limit))


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
