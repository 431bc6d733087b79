"""The lives of the rollout workers: who serves, who was lost, and who is being started in a lost one's place."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psutil
import ray

from rlvr.errors import EngineError, ResourceError, RlvrError, WeightProofError, brief
from rlvr.loop.traffic import resolve
from rlvr.weights.fetch import sweep
from rlvr.weights.service import Published

__all__ = ["START_S", "Workers"]

START_S = 600.0
MOST_RESTARTS = 3  # in a run
KILLING_S = 5.0  # for a process to be gone


@dataclass(slots=True, kw_only=True)
class _Joining:
    """A worker on its way: `joined` comes once it is `started` and has proven the committed version."""

    handle: Any
    started: Any
    joined: Any
    until: float


class Workers:
    """The rollout workers by name. A worker started in the place of another has a name of its own, as `worker-0.1`.

    One that is lost is killed and given no more work; another is started in the background, while those that are left
    go on. It is given work once it has proven the committed version. `make(name, place)` makes a worker's actor;
    `joined` and `left` are told whom to give work from now on, and whom no more.
    """

    def __init__(
        self, make: Callable[[str, int], Any], *, transport: str, deadline_s: float,
        warn: Callable[[str], None], joined: Callable[[str, Any], None] = lambda name, handle: None,
        left: Callable[[str], None] = lambda name: None,
    ) -> None:  # fmt: skip
        self._make, self._transport, self._warn = make, transport, warn
        self._joined, self._left = joined, left
        # a join waits for a push under way, and each of the two for learner and worker
        self._patience = START_S + 6 * deadline_s
        self._places: dict[str, int] = {}
        self._processes: dict[str, Any] = {}  # what `RolloutActor.start` gives, by name
        self._joining: dict[str, _Joining] = {}
        self._service: Any = None
        self.restarts = 0
        self.serving: dict[str, Any] = {}  # handles of those that may be given work, by name
        self._ending: list[Any] = []

    def begin(self, count: int) -> list[Any]:
        """Begin to start so many; `started` wants what this gives, once it has come."""
        self.serving = {f"worker-{place}": self._new(f"worker-{place}", place) for place in range(count)}
        return [handle.start.remote() for handle in self.serving.values()]

    def started(self, processes: list[Any]) -> None:
        """Note the processes of the workers, which `begin` gave references to."""
        self._processes = dict(zip(self.serving, processes, strict=True))
        for name, handle in self.serving.items():
            self._joined(name, handle)

    def serve(self, service: Any) -> None:
        """From here on a lost worker is replaced: the service has proven all of them."""
        self._service = service

    def ready(self) -> dict[str, Any]:
        """Give those that may be given work, at least one, in the order of their places. Waits where there is none.

        Errors: EngineError where too many were lost, WeightProofError where a new one cannot prove its weights.
        """
        self.settle()
        while not self.serving:
            if not self._joining:
                raise EngineError("no rollout worker is left")
            ray.wait(self.waits(), timeout=max(0.0, self.until() - time.monotonic()))
            self.settle()
        return dict(sorted(self.serving.items(), key=lambda item: self._places[item[0]]))

    def waits(self) -> list[Any]:
        """Give references that come once a new worker may serve or has failed: `settle` then says which."""
        return [one.joined for one in self._joining.values()]

    def until(self) -> float:
        """Say until when the first of these must have come, by `time.monotonic`; for ever where there are none."""
        return min((one.until for one in self._joining.values()), default=math.inf)

    def settle(self) -> None:
        """Take in the new workers that have proven their weights, and replace those that came to nothing."""
        for name, one in list(self._joining.items()):
            if not ray.wait([one.joined], timeout=0)[0]:
                if time.monotonic() >= one.until:
                    self.lost(name, f"left the driver waiting {self._patience:g} s to start and prove its weights")
                continue
            try:
                self._processes[name] = resolve(one.started)
                resolve(one.joined)
            except WeightProofError:
                raise
            except (EngineError, ResourceError, ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError) as error:
                self.lost(name, _reason(error))
            else:
                del self._joining[name]
                self.serving[name] = one.handle
                self._joined(name, one.handle)
                self._warn(f"{name} has proven its weights and serves")

    def heed(self, published: Published) -> None:
        """Replace the workers that were lost in a push, and tell what an injected fault came to."""
        for note in published.notes:
            self._warn(note)
        for name, reason in published.lost.items():
            self.lost(name, reason)

    def lost(self, name: str, reason: str) -> None:
        """Kill a worker that died or does not answer, and start another in its place. Nothing where that is known.

        `reason` is a clause, as "died". Errors: EngineError where it cannot be replaced.
        """
        joining = self._joining.pop(name, None)
        handle = joining.handle if joining else self.serving.pop(name, None)
        if handle is None:
            return
        self._left(name)
        if joining and ray.wait([joining.started], timeout=0)[0]:  # then its processes are known
            with contextlib.suppress(RlvrError, ray.exceptions.RayError):
                self._processes[name] = resolve(joining.started)
        self._end(name, handle)
        if self._service is None:
            raise EngineError(f"{name} {reason} before its weights were proven")
        if self._transport in ("ipc", "nccl"):
            said = f"and a running {self._transport} transport takes no other in; go on with --resume"
            raise EngineError(f"{name} {reason}, {said}")
        self._service.leave.remote(name)
        if self.restarts == MOST_RESTARTS:
            raise EngineError(f"{name} {reason}, after {MOST_RESTARTS} workers were replaced in this run already")
        self.restarts += 1
        other = f"worker-{self._places[name]}.{self.restarts}"
        self._warn(f"{name} {reason}; starting {other} in its place")
        new = self._new(other, self._places[name])
        started = new.start.remote()
        joined = self._service.join.remote(other, new, started)
        until = time.monotonic() + self._patience
        self._joining[other] = _Joining(handle=new, started=started, joined=joined, until=until)

    def stop(self, seconds: float) -> None:
        """Let all of them end, for so long at most."""
        handles = [*self.serving.values(), *(one.handle for one in self._joining.values())]
        if ending := [*self._ending, *(handle.stop.remote() for handle in handles)]:
            ray.wait(ending, num_returns=len(ending), timeout=seconds)

    def _new(self, name: str, place: int) -> Any:
        self._places[name] = place
        return self._make(name, place)

    def _end(self, name: str, handle: Any) -> None:
        """Kill a worker's actor and its processes, where they are: a process that is stopped hears no request."""
        ray.kill(handle, no_restart=True)
        if name in self._processes:
            node, processes = self._processes.pop(name)
            there = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=False)
            self._ending.append(_kill_processes.options(scheduling_strategy=there).remote(processes))


@ray.remote(num_cpus=0)
def _kill_processes(processes: list[tuple[int, float]]) -> None:
    """Kill processes of this host, given by id and start, and remove the weights that they had brought to it."""
    found = []
    for number, born in processes:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(number)
            if process.create_time() == born:
                process.kill()
                found.append(process)
    psutil.wait_procs(found, timeout=KILLING_S)
    sweep()


def _reason(error: Exception) -> str:
    return getattr(error, "reason", "") or f"did not start ({brief(error)})"
