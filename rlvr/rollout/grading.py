"""Grade replies in processes of their own, so that no reply can slow, crash or starve an engine.

A grading process is a fresh interpreter that holds the rewards and nothing else. It judges one reply at a time under a
hard deadline; past it, or after a crash, it is killed and replaced, and the gold decides whose fault that was.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import os
import pickle
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from rlvr.errors import BoundaryError, PluginError, RlvrError, boundary
from rlvr.rollout.grading_child import decode, receive, send
from rlvr.types import Grade, Rollout, Task, Ungraded, Verdict

__all__ = ["GradingPool", "RewardSpec"]

_START_S = 60.0  # deadline for a process to import the rewards
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from rlvr.rollout.grading_child import main; main(int(sys.argv[2]), int(sys.argv[3]))"
)
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardSpec:
    """A reward by name or "module:attr", its weight in the score, and its options."""

    name: str
    weight: float = 1.0
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise ValueError(f"the weight of reward '{self.name}' must be a number from 0, not {self.weight}")


class GradingPool:
    """Grade by several rewards: the first gives the verdict, the score is their mean by weight.

    Args:
        processes: replies judged at the same time.
        timeout_s: deadline for one reply, all rewards together, seconds.
        memory_mb: what one grading may map beyond an idle process, MiB; None for no limit.
    Errors: ValueError where there is no reward, a name comes twice, or all weights are 0.
    """

    def __init__(
        self, rewards: Sequence[RewardSpec], *, processes: int, timeout_s: float, memory_mb: int | None = None
    ) -> None:
        names = [spec.name for spec in rewards]
        if not names or len(set(names)) < len(names) or not sum(spec.weight for spec in rewards):
            raise ValueError(f"a grading pool needs rewards of different names, one with a weight, not {names}")
        if processes < 1 or timeout_s <= 0:
            raise ValueError(f"a grading pool needs processes and a timeout, not {processes} and {timeout_s}")
        self.lost = 0  # processes that somebody else killed
        self._timeout_s = timeout_s
        self._names = names
        specs = [(spec.name, spec.weight, dict(spec.options)) for spec in rewards]
        self._setup = pickle.dumps({"rewards": specs, "memory_mb": memory_mb})
        # A process dies with the thread that started it, so threads live as long as the pool.
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="grading")
        self._free: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        self._all = [_Process(self._setup) for _ in range(processes)]
        for process in self._all:
            self._free.put(process)

    def start(self) -> None:
        """Start all processes and wait until they have made the rewards. Errors: PluginError where one cannot."""
        for waiting in [self._threads.submit(process.ensure) for process in self._all]:
            waiting.result()

    async def grade(self, task: Task, rollout: Rollout) -> Grade | Ungraded:
        """Judge one reply. Cancelling stops the wait; the process finishes, within its deadline, for the next reply."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._grade, task, rollout)

    def close(self) -> None:
        """Kill the processes and forget the replies that wait. A second call does nothing."""
        for process in self._all:
            process.close()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _grade(self, task: Task, rollout: Rollout) -> Grade | Ungraded:
        process = self._free.get()
        try:
            with boundary("grading"):
                return self._graded_by(process, task, rollout)
        except BoundaryError as error:
            process.kill()
            return Ungraded(boundary=error.boundary, reason=error.reason)
        except RlvrError as error:
            return Ungraded(boundary="grading", reason=f"a grading process cannot start: {error}")
        finally:
            self._free.put(process)

    def _graded_by(self, process: _Process, task: Task, rollout: Rollout) -> Grade | Ungraded:
        if process.ensure():
            self.lost += 1
        answer = process.ask(("grade", task, rollout), timeout_s=self._timeout_s)
        if isinstance(answer, bytes):
            if "exhausted" not in json.loads(answer):
                return decode(answer)
            process.kill()
            answer = _Death("runs out of memory")
        if answer.from_outside:
            self.lost += 1
            return Ungraded(boundary="grading", reason=f"the grading process was {answer.how}")
        process.ensure()
        verdict = process.ask(("gold", task, rollout), timeout_s=self._timeout_s)
        if isinstance(verdict, bytes) and json.loads(verdict).get("passes"):
            why = f"grading this reply {answer.how}, grading the gold does not"
            return Grade(verdict=Verdict.WRONG, score=0.0, parts=dict.fromkeys(self._names, 0.0), why=why)
        process.kill()
        return Ungraded(boundary="grading", reason=f"grading {answer.how}, and the gold does not pass either")


@dataclass(frozen=True, slots=True)
class _Death:
    """How a process ended without an answer."""

    how: str
    from_outside: bool = False


class _Process:
    """One grading process and the socket to it. One thread at a time uses it; `close` may come from another."""

    def __init__(self, setup: bytes) -> None:
        self._setup = setup
        # Taken now, so that a replacement finds the user's modules wherever the parent has gone since.
        self._folder = os.getcwd()
        self._path = json.dumps([os.path.abspath(entry) for entry in sys.path])
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._lock = threading.Lock()  # between starting and closing
        self._closed = False

    def ensure(self) -> bool:
        """Start the process unless it runs. Gives whether it had died by itself. Errors: PluginError, OSError."""
        died = self._process is not None and self._process.poll() is not None
        if self._process is None or died:
            self.kill()
            self._start()
        return died

    def ask(self, request: object, *, timeout_s: float) -> bytes | _Death:
        """Send a request and wait for the answer; without one the process is gone afterwards."""
        process, sock = self._process, self._socket
        if process is None or sock is None:
            raise RlvrError("the pool is closed")
        deadline = time.monotonic() + timeout_s
        try:
            sock.settimeout(timeout_s)
            send(sock, pickle.dumps(request))
            return receive(sock, deadline=deadline)
        except TimeoutError:
            death = _Death(f"takes longer than {timeout_s:g} s")
        except (EOFError, OSError):
            death = _death(process)
        self.kill()
        return death

    def kill(self) -> None:
        """End the process and whatever it started; nothing happens where none runs."""
        process, self._process = self._process, None
        sock, self._socket = self._socket, None
        if process is not None:
            _kill_group(process)
        if sock is not None:
            sock.close()

    def close(self) -> None:
        """End the process for good. A thread that waits for its answer is told that it is gone."""
        with self._lock:
            self._closed = True
            process = self._process
            if process is not None:
                _kill_group(process)

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs, self._lock:
            if self._closed:
                ours.close()
                raise RlvrError("the pool is closed")
            self._process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, self._path, str(theirs.fileno()), str(os.getpid())],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=2,  # what rewards print goes to stderr: stdout belongs to the command line
                env=os.environ | _ONE_THREAD,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # so that what a reward starts can be killed with it
            )
            self._socket = ours
        try:
            ours.settimeout(_START_S)
            send(ours, self._setup)
            ready = json.loads(receive(ours, deadline=time.monotonic() + _START_S))
        except TimeoutError as error:
            self.kill()
            raise PluginError(f"the rewards are not ready after {_START_S:g} s") from error
        except (EOFError, OSError) as error:
            how = _death(self._process).how
            self.kill()
            raise PluginError(f"the grading process {how} while it made the rewards; its stderr says why") from error
        if "error" in ready:
            self.kill()
            raise PluginError(ready["error"])


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process, which leads a group, and what it left behind."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _death(process: subprocess.Popen[bytes]) -> _Death:
    """Say how a process ended whose socket closed."""
    try:
        code = process.wait(timeout=5.0)
    except subprocess.TimeoutExpired:
        return _Death("closes its connection")
    if code in (-signal.SIGKILL, -signal.SIGTERM):
        return _Death(f"killed from outside by {signal.Signals(-code).name}", from_outside=True)
    return _Death(f"crashes with {signal.Signals(-code).name}" if code < 0 else f"exits with code {code}")
