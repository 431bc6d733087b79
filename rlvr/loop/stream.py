"""The groups of a run under way: sampled as long as there is room, and taken for a step, the oldest first."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

from rlvr.config import Recipe
from rlvr.core.staleness import Admission, capacity, choose
from rlvr.errors import RlvrError
from rlvr.learner.algorithm import Totals
from rlvr.loop.buffer import Admitted, Buffer
from rlvr.loop.ledger import Place, TaskStream
from rlvr.loop.traffic import Arrival, Committed, Errand, Event, Learned
from rlvr.rollout.runner import seed_of
from rlvr.types import GroupHeader, Receipt, Task

__all__ = ["Stream", "Taken"]

Arrived = list[tuple[GroupHeader, Any]]


class Moves(Protocol):
    """What `Cluster` does for this module. What is begun ends with an event that `wait` gives."""

    def submit(self, errand: Errand) -> None:
        """Begin to sample a group."""
        ...

    def learn(self, references: Sequence[Any], totals: Totals) -> None:
        """Begin a step of the learner."""
        ...

    def publish(self, version: int) -> None:
        """Begin to push the weights that the learner has as this is called."""
        ...

    def wait(self) -> Event:
        """Wait for what happens next. Errors: those of what was begun."""
        ...

    def record(self, step: int, arrived: Arrived) -> None:
        """Write a step's rollouts while the run goes on."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """The groups of a step in the order of the task stream, those dropped since the step before among them."""

    arrived: Arrived
    admitted: Admitted
    most_stale: int  # rollout.max_staleness
    outstanding: int  # groups under way or arrived that later steps take
    refills: int | None  # groups dropped, with another in their place; none without dynamic sampling
    waited: float  # seconds

    @property
    def headers(self) -> list[GroupHeader]:
        """Give the headers of all groups, dropped ones included."""
        return [header for header, _ in self.arrived]

    def metrics(self) -> dict[str, float]:
        """Give what became of the groups, how old they are, and what dynamic sampling cost."""
        found = self.admitted.shares() | self.admitted.staleness(most=self.most_stale)
        found |= {"outstanding": float(self.outstanding), "waited": self.waited}
        if self.refills is not None:
            found |= {"refills": float(self.refills), "idle_tokens": float(self.admitted.idle_tokens)}
        return found


@dataclass(slots=True, kw_only=True)
class _Ticket:
    """A group that is outstanding."""

    task: Task
    deadline: int  # the last learner version that it may train
    arrived: tuple[GroupHeader, Any] | None = None


class Stream:
    """Moves groups from the task stream through the workers to the learner, and weights back.

    Nothing here asks again and again: whatever arrives, is dropped or is committed makes room, and room is filled at
    once. How far workers may run ahead of the learner is rollout.max_staleness; 0 makes each wait for the other.
    """

    def __init__(
        self, cluster: Moves, tasks: TaskStream, buffer: Buffer, *, recipe: Recipe, step: int,
        worthwhile: Callable[[Sequence[GroupHeader]], bool],
    ) -> None:  # fmt: skip
        """Go on with the weights of `step` committed. No group is replaced while the others are not `worthwhile`."""
        self.cluster, self.tasks, self.buffer, self.recipe = cluster, tasks, buffer, recipe
        self.worthwhile = worthwhile
        self.committed = self._learner = step
        self._out: dict[int, _Ticket] = {}
        self._dropped: list[tuple[int, tuple[GroupHeader, Any]]] = []  # since the last step
        self._pushing = False
        self._receipts: list[Receipt] = []
        self._learned: Learned | None = None
        for ticket, task in tasks.again.items():
            self._submit(ticket, task)

    @property
    def place(self) -> Place:
        """Give where the run stands, for a checkpoint between two steps."""
        return Place(submitted=self.tasks.submitted, outstanding=tuple(sorted(self._out)))

    def take(self) -> Taken:
        """Wait for the groups of the learner's next step. What has come is written down where the rest cannot come."""
        began, size = time.perf_counter(), self.recipe.rollout.prompts_per_step
        with self._written_if_it_fails():
            self._drop()  # what came when no more could be dropped for the step before
            self._fill()
            while (chosen := self._chosen(size)) is None:
                self._turn()
        arrived = self._sorted([(ticket, self._out.pop(ticket).arrived) for ticket in chosen])
        refills = len(self._dropped) if self.recipe.rollout.dynamic_sampling else None
        taken = Taken(
            arrived=arrived, admitted=self.buffer.admit(arrived, self._learner), refills=refills,
            most_stale=self.buffer.max_staleness, outstanding=len(self._out), waited=time.perf_counter() - began,
        )  # fmt: skip
        self._dropped, self._learner = [], self._learner + 1
        return taken

    def learn(self, admitted: Admitted) -> dict[str, float]:
        """Let the learner take a step on these groups, while others are sampled. Gives its metrics."""
        self._learned = None
        self.cluster.learn(admitted.references, admitted.totals)
        while self._learned is None:
            self._turn()
        return dict(self._learned.metrics)

    def publish(self, version: int) -> list[Receipt]:
        """Begin the push of a version once the one before is committed. Gives the receipts that have come since.

        Where no group is outstanding, so that there is nothing else to wait for, it waits for the commit.
        """
        known = self.settle()
        self.cluster.publish(version)
        self._pushing = True
        while self._pushing and not self._out:
            self._turn()
        return known + self._come()

    def settle(self) -> list[Receipt]:
        """Wait until the last push is committed. Gives the receipts that have come since they were last given."""
        while self._pushing:
            self._turn()
        return self._come()

    def _come(self) -> list[Receipt]:
        receipts, self._receipts = self._receipts, []
        return receipts

    def _turn(self) -> None:
        """Take up what happens next."""
        event = self.cluster.wait()
        if isinstance(event, Arrival):
            self._out[event.errand.ticket].arrived = event.header, event.group
            self._drop()
        elif isinstance(event, Committed):
            self.committed, self._pushing = event.version, False
            self._receipts += event.receipts
        else:
            self._learned = event
        self._fill()

    def _fill(self) -> None:
        r = self.recipe.rollout
        limit = capacity(
            self.committed, step_size=r.prompts_per_step, max_staleness=r.max_staleness, steps=self.recipe.steps
        )
        room = limit - self._learner * r.prompts_per_step - len(self._out)
        for ticket, task in self.tasks.take(room).items():
            self._submit(ticket, task)

    def _submit(self, ticket: int, task: Task) -> None:
        r = self.recipe.rollout
        self._out[ticket] = _Ticket(task=task, deadline=self.committed + r.max_staleness)
        seed = seed_of(self.recipe.seed, *divmod(ticket, r.prompts_per_step))
        self.cluster.submit(Errand(ticket=ticket, task=task, seed=seed, group_size=r.group_size))

    def _drop(self) -> None:
        """With dynamic sampling, leave out what has arrived without a gradient, which makes room for others."""
        r = self.recipe.rollout
        if not r.dynamic_sampling:
            return
        headers = [header for header, _ in self._sorted(self._arrived())]
        for ticket, (header, group) in self._arrived():
            if len(self._dropped) >= r.max_refills * r.prompts_per_step or not self.worthwhile(headers):
                return
            if self.buffer.fate(header, header.min_version) is not Admission.TRAIN:
                self._dropped.append((ticket, (header, group)))
                del self._out[ticket]

    def _chosen(self, size: int) -> list[int] | None:
        """Choose what the next step takes. A group that is too old for it is sampled again, and none should be."""
        for ticket, (header, group) in self._arrived():
            if self.buffer.fate(header, self._learner) is Admission.STALE:
                self._dropped.append((ticket, (header, group)))
                self._submit(ticket, self._out[ticket].task)
        deadlines = {ticket: one.deadline for ticket, one in self._out.items()}
        return choose(deadlines, [ticket for ticket, _ in self._arrived()], self._learner, step_size=size)

    def _arrived(self) -> list[tuple[int, tuple[GroupHeader, Any]]]:
        return [(ticket, one.arrived) for ticket, one in self._out.items() if one.arrived]

    def _sorted(self, groups: Sequence[tuple[int, tuple[GroupHeader, Any] | None]]) -> Arrived:
        """Give groups, and those dropped, in the order of the task stream."""
        together = sorted([*groups, *self._dropped], key=lambda pair: pair[0])
        return [arrived for _, arrived in together if arrived]

    @contextmanager
    def _written_if_it_fails(self) -> Iterator[None]:
        try:
            yield
        except RlvrError:
            if arrived := self._sorted(self._arrived()):
                with suppress(RlvrError):  # the failure under way is the one to tell
                    self.cluster.record(self._learner + 1, arrived)
            raise
