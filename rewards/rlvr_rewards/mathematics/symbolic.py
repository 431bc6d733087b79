"""Hand answers that take computer algebra to killable processes: a handle on the symbolic worker.

One fork server belongs to each process that grades (a fork makes its own). It starts when it is first needed, lives
until that process ends, and forks a child for each thread that grades at the same time; a child that dies is replaced
within milliseconds. Why it died decides: of the text, or killed from outside.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlvr.errors import RlvrError
from rlvr_rewards.mathematics.symbolic_server import receive, send

__all__ = ["Overrun", "WorkerLostError", "ask", "close", "warm_up"]

_CPU_S = 0.8  # of one request
_WALL_S = 4.0  # of one request, on a machine that other work starves; within the grading pool's deadline of 5 s
_START_S = 60.0
_MEMORY = 1 << 29  # bytes that a child may map beyond what the server has
_REQUESTS = 200  # that one child answers: caches of sympy grow
_AT_ONCE = 8
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from rlvr_rewards.mathematics.symbolic_server import main; main(*map(int, sys.argv[2:5]))"
)
_FROM_OUTSIDE = {-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP}
_OUT_OF_TIME = {-signal.SIGPROF, -signal.SIGXCPU}


@dataclass(frozen=True, slots=True)
class Overrun:
    """How a text broke its child."""

    how: str


class WorkerLostError(RlvrError):
    """The worker was lost through no fault of the text: killed from outside, starved, or unable to start."""


@dataclass(slots=True)
class _Child:
    sock: socket.socket
    pid: int
    answered: int = 0


class _Worker:
    """A fork server and its idle children."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # one caller at a time talks to the server
        self._idle: list[_Child] = []
        self._control, theirs = socket.socketpair()
        with theirs:
            path = json.dumps([os.path.abspath(entry) for entry in sys.path])
            arguments = [path, str(theirs.fileno()), str(os.getpid()), str(_MEMORY)]
            self._process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
                pass_fds=[theirs.fileno()],
            )
        try:
            self._control.settimeout(_START_S)
            receive(self._control)
            self._control.settimeout(_WALL_S)
        except (EOFError, OSError) as error:
            self.close()
            raise WorkerLostError("the symbolic worker cannot start; its error output says why") from error

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, request: dict[str, Any]) -> dict[str, Any] | int:
        """Let a child answer; without an answer, its exit code. Errors: TimeoutError, EOFError, OSError."""
        child = self._take()
        try:
            child.sock.settimeout(_WALL_S)
            send(child.sock, request)
            answer = receive(child.sock)
        except TimeoutError:
            self._status(child)
            raise
        except (EOFError, OSError):
            return self._status(child)
        child.answered += 1
        with self._lock:
            if child.answered < _REQUESTS and len(self._idle) < _AT_ONCE:
                self._idle.append(child)
                return answer
        child.sock.close()
        return answer

    def _take(self) -> _Child:
        with self._lock:
            if self._idle:
                return self._idle.pop()
            ours, theirs = socket.socketpair()
            with theirs:
                try:
                    return _Child(ours, self._asked({"fork": True}, fds=(theirs.fileno(),))["pid"])
                except (EOFError, OSError):
                    ours.close()
                    raise

    def _status(self, child: _Child) -> int:
        """Make sure that a child is gone and give its exit code. Errors: EOFError, OSError where the server is gone."""
        child.sock.close()
        with self._lock:
            return int(self._asked({"status": child.pid})["status"])

    def _asked(self, message: dict[str, Any], *, fds: tuple[int, ...] = ()) -> dict[str, Any]:
        """Ask the server, under the lock. Errors: EOFError, OSError, and then the worker is closed.

        An answer that is not waited for would pass for the next one, and a child's pid for another's.
        """
        answer = None
        try:
            send(self._control, message, fds=fds)
            answer = receive(self._control)
            return answer
        finally:
            if answer is None:
                self.close()

    def close(self, *, forked: bool = False) -> None:
        """End the server, which ends its children; in a fork of the owner only the copies of the files go."""
        for child in self._idle:
            child.sock.close()
        self._idle.clear()
        self._control.close()
        if forked:
            self._process.returncode = 0  # not ours to wait for
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait()


_worker: _Worker | None = None
_guard = threading.Lock()
_at_once = threading.BoundedSemaphore(_AT_ONCE)


def _forget() -> None:
    """Start anew in a fork of the process: locks may be held by threads that are not here."""
    global _worker, _guard, _at_once
    if _worker is not None:
        _worker.close(forked=True)
    _worker, _guard, _at_once = None, threading.Lock(), threading.BoundedSemaphore(_AT_ONCE)


os.register_at_fork(after_in_child=_forget)


def warm_up() -> None:
    """Start the worker. Errors: WorkerLostError."""
    _running()


def _running() -> _Worker:
    global _worker
    with _guard:
        if _worker is None or not _worker.alive:
            if _worker is not None:
                _worker.close()
                _worker = None
            _worker = _Worker()
        return _worker


def close() -> None:
    """End the worker; the next request starts another."""
    global _worker
    with _guard:
        if _worker is not None:
            _worker.close()
        _worker = None


def ask(
    pairs: Sequence[tuple[str, str]], *, check: bool = False, percent_asked: bool = False, posed: str = ""
) -> list[bool | None] | Overrun:
    """Compare (answer, gold) pairs until one is equal: a verdict each, None where the gold cannot be parsed.

    With `check`, tell of each pair's gold whether it can be parsed and equals itself. Errors: WorkerLostError.
    """
    request = {"pairs": list(pairs), "check": check, "cpu_s": _CPU_S, "percent_asked": percent_asked, "posed": posed}
    lost = ""
    with _at_once:
        for _ in range(2):  # whoever kills one worker may be cleaning up; a second loss is no accident
            try:
                answer = _running().ask(request)
            except TimeoutError:
                raise WorkerLostError(f"the symbolic worker got too little of the machine for {_WALL_S:g} s") from None
            except (EOFError, OSError):
                lost = "its server is gone"
                continue
            if isinstance(answer, dict):
                return _read(answer)
            if answer not in _FROM_OUTSIDE:
                return Overrun("runs out of time" if answer in _OUT_OF_TIME else f"ends with exit code {answer}")
            lost = f"it was killed by {signal.Signals(-answer).name}"
    raise WorkerLostError(f"the symbolic worker was lost twice: {lost}")


def _read(answer: dict[str, Any]) -> list[bool | None] | Overrun:
    if "exhausted" in answer:
        return Overrun("runs out of memory")
    if "error" in answer:
        return Overrun(f"fails with {answer['error']}")
    verdicts: list[bool | None] = answer["verdicts"]
    return verdicts
