"""Judge programs by tests: run them in jails of their own, compare what comes back outside, believe nothing else."""

from __future__ import annotations

import contextlib
import os
import queue
import threading
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

from rlvr.types import Grade, Rollout, Task, Ungraded, Verdict

from .abstention import abstains
from .sandbox import levels
from .sandbox.client import GRACE_S, START_S, Server, ServerLost
from .sandbox.codec import Unplain
from .sandbox.extract import program_in
from .sandbox.runs import Limits, Outcome, Servers, run
from .sandbox.truths import Assertions, Tests, parse, wanted_name

__all__ = ["Code"]

_BOUNDARY = "reward:code"
_LONGEST = 2**22  # characters of a reply; nothing longer is a program that somebody wrote
_SEARCHED = 2**18  # characters at the end of a reply that holds no program
_PACKAGES = ("numpy", "sympy", "mpmath")


class Code:
    """Judge a reply by running its program against the task's tests.

    The truth is {"type": "call", "fn", "cases": [{"args", "expected"}]}, {"type": "assert", "tests": [...]} or
    {"type": "stdio", "cases": [{"input", "output"}]}, with optional "timeout_s"; docs/sandbox.md has the rules.

    Args:
        partial: pay the share of passed tests; else all or nothing, and testing stops at the first failure.
        isolation: "auto" takes the strongest level that holds here; "namespaces", "landlock" or "unsandboxed" that one.
        command: what starts a Python interpreter in a container or on another machine; stronger than all levels here.
        timeout_s: seconds for one test, where the truth does not say.
        total_s: seconds for all tests of a reply.
        memory_mb: what a program may map, MiB.
        processes: replies that threads may have judged at the same time.
        packages: packages that programs may import, where they are installed.
    """

    def __init__(
        self,
        *,
        partial: bool = False,
        isolation: str = "auto",
        command: Sequence[str] = (),
        timeout_s: float = 6.0,
        total_s: float = 30.0,
        memory_mb: int = 1024,
        processes: int = 1,
        packages: Sequence[str] = _PACKAGES,
    ) -> None:
        if isolation not in ("auto", *levels.STRENGTH) or (isolation == "command") > bool(command):
            raise ValueError(f"isolation must be auto, namespaces, landlock or unsandboxed, not {isolation!r}")
        if isinstance(command, str) or (command and isolation not in ("auto", "command")):
            raise ValueError('command must be a list of words, with isolation = "auto"')
        if timeout_s <= 0 or total_s <= 0 or memory_mb < 64 or processes < 1:
            raise ValueError("timeout_s and total_s must be above 0, memory_mb at least 64, processes at least 1")
        self._partial, self._isolation, self._command = partial, isolation, tuple(command)
        self._timeout_s, self._total_s, self._memory_mb = float(timeout_s), float(total_s), memory_mb
        self._processes, self._packages = processes, tuple(packages)
        self._pool = _Pool(self._isolation, self._command, self._packages, processes)

    @property
    def worst_case_s(self) -> float:
        """Say how long one grade may take: all tests with the waits around them, twice where a server is replaced."""
        return 2 * (self._total_s + 2 * START_S + 2 * GRACE_S)

    def grade(self, task: Task, rollout: Rollout) -> Grade | Ungraded:
        """Judge one reply. Errors: PluginError where no isolation holds on this machine."""
        try:
            tests = parse(task.truth)
        except ValueError as error:
            return Ungraded(boundary=_BOUNDARY, reason=f"task {task.id} cannot be tested: {error}")
        if len(rollout.reply) > _LONGEST:
            return Grade(verdict=Verdict.WRONG, score=0.0, parts={"format": 0.0}, why="the reply is too long")
        program = program_in(rollout.reply, name=wanted_name(tests))
        if program is None:
            abstaining = abstains(rollout.reply[-_SEARCHED:])
            verdict = Verdict.ABSTAINED if abstaining else Verdict.WRONG
            why = "the reply abstains" if abstaining else "the reply holds no program"
            return Grade(verdict=verdict, score=0.0, parts={"format": 0.0}, why=why)
        try:
            outcome, level = self._tested(program, tests)
        except ServerLost as lost:
            return Ungraded(boundary=_BOUNDARY, reason=f"the sandbox broke twice: {lost}")
        except Unplain as error:
            return Ungraded(boundary=_BOUNDARY, reason=f"task {task.id} cannot be tested: its args hold {error}")
        if outcome.limit:
            return Ungraded(boundary=_BOUNDARY, reason=f"task {task.id}: {outcome.limit}")
        return self._graded(outcome, level)

    def gold(self, task: Task) -> str:
        """Write a reply that earns CORRECT. Errors: ValueError where the truth holds no "solution"."""
        solution = task.truth.get("solution") if isinstance(task.truth, dict) else None
        if not isinstance(solution, str):
            raise ValueError(f"the truth of task {task.id} holds no solution")
        return f"```python\n{solution}\n```"

    def warm_up(self) -> None:
        """Choose the isolation and start the servers. Errors: PluginError where none holds on this machine."""
        self._pool.warm_up()

    def close(self) -> None:
        """Let all servers go. The next grading starts new ones."""
        self._pool.close()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_pool"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._pool = _Pool(self._isolation, self._command, self._packages, self._processes)

    def _tested(self, program: str, tests: Tests) -> tuple[Outcome, str]:
        """Run the tests; once more in new servers where the first were lost. Errors: ServerLost."""
        seconds = tests.timeout_s or self._timeout_s
        limits = Limits(timeout_s=seconds, total_s=max(self._total_s, seconds), memory_mb=self._memory_mb)
        for attempt in (1, 2):
            with self._pool.lease() as worker:
                try:
                    servers = worker.servers(scripts=isinstance(tests, Assertions))
                    outcome = run(
                        program, tests, servers=servers, limits=limits, every=self._partial, packages=self._packages
                    )
                    return outcome, worker.level
                except ServerLost:
                    worker.close()
                    if attempt == 2:
                        raise
        raise AssertionError("unreachable")

    def _graded(self, outcome: Outcome, level: str) -> Grade:
        share = outcome.passed / outcome.total
        right = outcome.passed == outcome.total and not outcome.failed
        parts = {"tests_passed": share, "isolation": levels.STRENGTH[level], "format": 1.0}
        why = f"all {outcome.total} tests passed" if right else outcome.why
        return Grade(
            verdict=Verdict.CORRECT if right else Verdict.WRONG,
            score=1.0 if right else share if self._partial else 0.0,
            parts=parts,
            why=f"{why} ({level})".encode("utf-8", "replace").decode(),
        )


class _Worker:
    """Hold the servers of one grading at a time; they start when they are first needed."""

    def __init__(self, isolation: str, command: Sequence[str], packages: Sequence[str]) -> None:
        self._how = isolation, command, packages
        self._programs: Server | None = None
        self._scripts: Server | None = None
        self.level = ""

    def servers(self, *, scripts: bool) -> Servers:
        if self._programs is None:
            self._programs, self.level = self._start()
        if scripts and self._scripts is None:
            self._scripts, _ = self._start()
        return Servers(programs=self._programs, scripts=self._scripts)

    def close(self) -> None:
        for server in (self._programs, self._scripts):
            if server:
                server.close()
        self._programs = self._scripts = None

    def _start(self) -> tuple[Server, str]:
        isolation, command, packages = self._how
        return levels.start(isolation, command=command, packages=packages)


_pools: weakref.WeakSet[_Pool] = weakref.WeakSet()


def _after_fork() -> None:
    for pool in list(_pools):
        pool.after_fork()


os.register_at_fork(after_in_child=_after_fork)


class _Pool:
    """Lend workers to threads, each to one at a time. A forked process gets workers of its own."""

    def __init__(self, isolation: str, command: Sequence[str], packages: Sequence[str], processes: int) -> None:
        self._how = isolation, command, packages
        self._processes = processes
        self._lock = threading.Lock()
        self._owner = 0
        self._all: list[_Worker] = []
        self._free: queue.LifoQueue[_Worker] = queue.LifoQueue()
        _pools.add(self)

    def after_fork(self) -> None:
        """Renew the lock, which another thread of the parent may have held."""
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def lease(self) -> Iterator[_Worker]:
        free = self._mine()
        worker = free.get()
        try:
            yield worker
        finally:
            free.put(worker)

    def warm_up(self) -> None:
        with self.lease() as worker:
            worker.servers(scripts=False)

    def close(self) -> None:
        if self._owner == os.getpid():
            for worker in self._all:
                worker.close()

    def _mine(self) -> queue.LifoQueue[_Worker]:
        with self._lock:
            if self._owner != os.getpid():
                # The pipes of a parent belong to the parent: leave them alone.
                self._owner, self._free = os.getpid(), queue.LifoQueue()
                self._all = [_Worker(*self._how) for _ in range(self._processes)]
                for worker in self._all:
                    self._free.put(worker)
            return self._free
