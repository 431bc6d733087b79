"""Grade replies in processes of their own, so that no reply can slow, crash or starve an engine.

A grading process is a fresh interpreter that holds the rewards and nothing else. It judges one reply at a time under a
hard deadline; past it, or after a crash, it is killed and replaced, and the gold decides whose fault that was.
"""

from __future__ import annotations

import asyncio
import json
import math
import pickle
import queue
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from rlvr.errors import BoundaryError, PluginError, RlvrError, boundary
from rlvr.rollout.grading_child import decode
from rlvr.rollout.grading_process import Death, GradingProcess
from rlvr.types import Grade, Rollout, Task, Ungraded, Verdict
from rlvr.waiting import gather_or_cancel

__all__ = ["GradingPool", "RewardSpec"]

_TIMEOUT_S = 5.0  # deadline for one reply where neither the caller nor a reward asks for another
_SLACK_S = 2.0  # for a loaded machine, beyond what the rewards' own limits allow


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
        timeout_s: deadline for one reply, all rewards together, seconds; None: 5, or what the rewards say they need.
        memory_mb: what one grading may map beyond an idle process, MiB; None for no limit.
    Errors: ValueError where there is no reward, a name comes twice, or all weights are 0.
    """

    def __init__(
        self,
        rewards: Sequence[RewardSpec],
        *,
        processes: int,
        timeout_s: float | None = None,
        memory_mb: int | None = None,
    ) -> None:
        names = [spec.name for spec in rewards]
        if not names or len(set(names)) < len(names) or not sum(spec.weight for spec in rewards):
            raise ValueError(f"a grading pool needs rewards of different names, one with a weight, not {names}")
        if processes < 1 or (timeout_s is not None and timeout_s <= 0):
            raise ValueError(f"a grading pool needs processes and a timeout, not {processes} and {timeout_s}")
        self.processes = processes
        self.lost = 0  # processes that somebody else killed
        self._timeout_s = timeout_s
        self._names = names
        specs = [(spec.name, spec.weight, dict(spec.options)) for spec in rewards]
        setup = pickle.dumps({"rewards": specs, "memory_mb": memory_mb})
        # A process dies with the thread that started it, so threads live as long as the pool.
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="grading")
        self._free: queue.SimpleQueue[GradingProcess] = queue.SimpleQueue()
        self._all = [GradingProcess(setup) for _ in range(processes)]
        for process in self._all:
            self._free.put(process)

    def start(self) -> None:
        """Start all processes and wait until they have made the rewards. Errors: PluginError where one cannot."""
        for waiting in [self._threads.submit(self._ready, process) for process in self._all]:
            waiting.result()

    async def grade(self, task: Task, rollout: Rollout) -> Grade | Ungraded:
        """Judge one reply. Cancelling stops the wait; the process finishes, within its deadline, for the next reply."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._grade, task, rollout)

    async def grade_group(self, task: Task, rollouts: Sequence[Rollout]) -> list[Grade | Ungraded]:
        """Judge all replies to a task: in one request where a reward wants them together, else each by itself."""
        if any(process.by_group for process in self._all):
            loop = asyncio.get_running_loop()
            together = await loop.run_in_executor(self._threads, self._grade_group, task, list(rollouts))
            if together is not None:
                return together
        return list(await gather_or_cancel([self.grade(task, rollout) for rollout in rollouts]))

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

    def _graded_by(self, process: GradingProcess, task: Task, rollout: Rollout) -> Grade | Ungraded:
        timeout_s = self._ready(process)
        answer = process.ask(("grade", task, rollout), timeout_s=timeout_s)
        if isinstance(answer, bytes):
            if "exhausted" not in json.loads(answer):
                return decode(answer)
            process.kill()
            answer = Death("runs out of memory")
        if answer.from_outside:
            self.lost += 1
            return Ungraded(boundary="grading", reason=f"the grading process was {answer.how}")
        process.ensure()
        verdict = process.ask(("gold", task, rollout), timeout_s=timeout_s)
        if isinstance(verdict, bytes) and json.loads(verdict).get("passes"):
            why = f"grading this reply {answer.how}, grading the gold does not"
            return Grade(verdict=Verdict.WRONG, score=0.0, parts=dict.fromkeys(self._names, 0.0), why=why)
        process.kill()
        return Ungraded(boundary="grading", reason=f"grading {answer.how}, and the gold does not pass either")

    def _grade_group(self, task: Task, rollouts: list[Rollout]) -> list[Grade | Ungraded] | None:
        """Judge a group in one request. Gives None where that failed: each reply is then judged by itself."""
        process = self._free.get()
        try:
            with boundary("grading"):
                answer = process.ask(("group", task, rollouts), timeout_s=self._ready(process) * len(rollouts))
                if isinstance(answer, Death):
                    self.lost += answer.from_outside
                    return None
                grades = json.loads(answer)
                if isinstance(grades, list):
                    return [decode(grade) for grade in grades]
            process.kill()  # out of memory; while it is still ours, since another thread may take it next
        except RlvrError:
            process.kill()
        finally:
            self._free.put(process)
        return None

    def _ready(self, process: GradingProcess) -> float:
        """See that a process runs, count it if somebody killed it, and give the deadline of a reply in seconds."""
        if process.ensure():
            self.lost += 1
        if self._timeout_s is None:
            return max(_TIMEOUT_S, process.worst_case_s + _SLACK_S)
        if self._timeout_s < process.worst_case_s:
            raise PluginError(
                f"the rewards {', '.join(self._names)} may take {process.worst_case_s:g} s by their own limits, and "
                f"the deadline of a reply is {self._timeout_s:g} s: raise rollout.grading_timeout_s or lower theirs"
            )
        return self._timeout_s
