"""What is under way between the driver and the others: who samples which group, and what happens next."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Protocol

import ray

from rlvr.errors import EngineError, brief, cause_of
from rlvr.types import GroupHeader, Receipt, Task

__all__ = ["Arrival", "Committed", "Errand", "Event", "Learned", "Newcomers", "Routes", "Traffic", "resolve"]

PREFIX = 256  # characters: prompts that share them have worked examples or a system's words in common


@dataclass(frozen=True, slots=True, kw_only=True)
class Errand:
    """One group to sample."""

    ticket: int  # its place among those that are sampled for the same purpose
    task: Task
    seed: int
    group_size: int
    greedy: bool = False

    @property
    def prefix(self) -> str:
        """Give what the prompt begins with."""
        return "".join(message["content"] for message in self.task.messages)[:PREFIX]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """A group has come. `group` is a reference."""

    errand: Errand
    header: GroupHeader
    group: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Learned:
    """The learner has taken its step."""

    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """A push has ended: every worker that serves has proven the version."""

    version: int
    receipts: Sequence[Receipt]


Event = Arrival | Learned | Committed


class Routes:
    """Who runs which group, and who gets the next one. A call is whatever stands for a group under way."""

    def __init__(self) -> None:
        self._running: dict[str, dict[Any, Errand]] = {}  # by worker, then by call

    @property
    def calls(self) -> list[Any]:
        """List all calls under way."""
        return [call for running in self._running.values() for call in running]

    @property
    def workers(self) -> list[str]:
        """List who takes groups."""
        return list(self._running)

    def join(self, worker: str) -> None:
        """Let a worker take groups from now on."""
        self._running.setdefault(worker, {})

    def leave(self, worker: str) -> dict[Any, Errand]:
        """Let a worker take none any more. Gives what it owes, for others to run."""
        return self._running.pop(worker, {})

    def choose(self, errand: Errand) -> str:
        """Name the worker for a group: who has the fewest, and among those the one that its prefix prefers.

        Groups whose prompts begin alike prefer the same worker, whose engine has that beginning in its cache.
        """
        return min(self._running, key=lambda name: (len(self._running[name]), _distance(errand.prefix, name)))

    def sent(self, call: Any, errand: Errand, *, worker: str) -> None:
        """Note that a worker runs a group."""
        self._running[worker][call] = errand

    def ended(self, call: Any) -> tuple[str, Errand]:
        """Note that a call is over. Gives who ran what."""
        worker = next(name for name, running in self._running.items() if call in running)
        return worker, self._running[worker].pop(call)

    def slowest(self) -> str:
        """Name the worker that has the most under way."""
        return max(self._running, key=lambda name: len(self._running[name]))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Begun:
    """A call beside the groups, whose end is an event."""

    gives: Callable[[Any], Event | None]
    what: str
    deadline_s: float
    end: float  # by time.monotonic()
    raised: str


class Newcomers(Protocol):
    """Workers that are being started in the place of lost ones."""

    def waits(self) -> Sequence[Any]:
        """Give calls, of which one ends when `settle` has something to do."""
        ...

    def until(self) -> float:
        """Say when `settle` has something to do without that, by `time.monotonic`."""
        ...

    def settle(self) -> None:
        """Let those that are ready `join`. Errors: those of one that ends the run."""
        ...


class Nobody:
    """No newcomers."""

    def waits(self) -> Sequence[Any]:
        """Give none."""
        return []

    def until(self) -> float:
        """Say never."""
        return math.inf

    def settle(self) -> None:
        """Do nothing."""


class Traffic:
    """Sends groups to workers, and waits for these and all else that was begun, each with a deadline."""

    def __init__(
        self, *, deadline_s: float, lost: Callable[[str, Exception], None], newcomers: Newcomers | None = None
    ) -> None:
        """Wait at most `deadline_s` for the next group. `lost` is told of a worker that died, and may `join` another.

        What a worker owed as it left, others run; where there are none, it waits for one to join.
        """
        self.deadline_s, self.lost, self.newcomers = deadline_s, lost, newcomers or Nobody()
        self.routes = Routes()
        self._waiting: list[Errand] = []  # for a worker
        self._workers: dict[str, Any] = {}
        self._groups: dict[Any, Any] = {}  # the reference to a group, by that to its header
        self._begun: dict[Any, _Begun] = {}
        self._happened: deque[Event] = deque()  # while the driver waited for something else

    def join(self, worker: str, handle: Any) -> None:
        """Let a worker take groups from now on."""
        self._workers[worker] = handle
        self.routes.join(worker)
        waiting, self._waiting = self._waiting, []
        for errand in waiting:
            self.submit(errand)

    def leave(self, worker: str) -> None:
        """Take from a worker what it owes, and let others run it."""
        for call, errand in self.routes.leave(worker).items():
            del self._groups[call]
            self.submit(errand)

    def submit(self, errand: Errand) -> None:
        """Begin to sample a group, which ends with its `Arrival`."""
        if not self.routes.workers:
            self._waiting.append(errand)
            return
        name = self.routes.choose(errand)
        header, group = self._workers[name].run.remote(errand.task, errand.group_size, errand.seed, errand.greedy)
        self.routes.sent(header, errand, worker=name)
        self._groups[header] = group

    def begin(
        self, call: Any, gives: Callable[[Any], Event | None], what: str, *, deadline_s: float, raised: str = ""
    ) -> None:  # fmt: skip
        """Wait for a call too. `gives` takes its result, and makes the event of it where the driver should know.

        `raised` is the key that allows for a longer wait.
        """
        end = time.monotonic() + deadline_s
        self._begun[call] = _Begun(gives=gives, what=what, deadline_s=deadline_s, end=end, raised=raised)

    def wait(self) -> Event:
        """Wait for what happens next. Errors: those of what failed; EngineError past a deadline."""
        return self._happened.popleft() if self._happened else self._next()

    def run(self, errands: Sequence[Errand]) -> list[Arrival]:
        """Sample groups beside all that is under way, and give them in their order."""
        for errand in errands:
            self.submit(errand)
        places = {id(errand): place for place, errand in enumerate(errands)}
        arrived: dict[int, Arrival] = {}
        while len(arrived) < len(errands):
            event = self._next()
            if isinstance(event, Arrival) and id(event.errand) in places:
                arrived[places[id(event.errand)]] = event
            else:
                self._happened.append(event)
        return [arrived[place] for place in range(len(errands))]

    def _next(self) -> Event:
        patience = time.monotonic() + self.deadline_s
        while True:
            running, coming = self.routes.calls, self.newcomers.waits()
            ends = [one.end for one in self._begun.values()] + [patience] * bool(running)
            assert ends or coming, "nothing is under way"
            end = min(*ends, self.newcomers.until(), math.inf)
            done, _ = ray.wait([*self._begun, *running, *coming], timeout=max(0.0, end - time.monotonic()))
            if not done and end < self.newcomers.until():
                raise self._late(end)
            if not done or done[0] in coming:
                self.newcomers.settle()
                patience = time.monotonic() + self.deadline_s
                continue
            event = self._ended(done[0])
            if event:
                return event
            patience = time.monotonic() + self.deadline_s

    def _ended(self, call: Any) -> Event | None:
        """Give what the end of a call means to the driver; nothing where a worker died, or joined."""
        if begun := self._begun.pop(call, None):
            try:
                return begun.gives(resolve(call))
            except (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError) as error:
                raise EngineError(f"an actor died while the driver waited for {begun.what}: {brief(error)}") from error
        name, errand = self.routes.ended(call)
        group = self._groups.pop(call)
        try:
            return Arrival(errand=errand, header=resolve(call), group=group)
        except (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError) as error:
            self.leave(name)
            self.submit(errand)
            self.lost(name, error)
            return None

    def _late(self, end: float) -> EngineError:
        for one in self._begun.values():
            if one.end <= end:
                advice = f"; raise {one.raised} if it takes that long" if one.raised else ""
                return EngineError(f"the driver waited {one.deadline_s:g} s for {one.what}{advice}")
        return EngineError(
            f"{self.routes.slowest()} sent no group for {self.deadline_s:g} s, {len(self.routes.calls)} are open; "
            "raise rollout.deadline_s if replies take that long"
        )


def resolve(reference: Any, *, timeout: float | None = None) -> Any:
    """Give a result, or raise what its actor raised. Errors: EngineError for what is none of ours."""
    try:
        return ray.get(reference, timeout=timeout)
    except ray.exceptions.RayTaskError as error:
        cause = cause_of(error)
        if cause is error:
            raise EngineError(f"an actor failed: {brief(getattr(error, 'cause', error))}") from error
        raise cause from None
    except ray.exceptions.ObjectLostError as error:
        raise EngineError("a group was lost with the host that sampled it; go on with --resume") from error


def _distance(prefix: str, worker: str) -> bytes:
    return blake2b(f"{worker} {prefix}".encode(errors="surrogatepass"), digest_size=8).digest()
