"""The groups of one step: sampled once or, with dynamic sampling, until enough of them carry gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from rlvr.config import Recipe
from rlvr.errors import RlvrError
from rlvr.loop.buffer import Admitted, Buffer
from rlvr.loop.ledger import TaskStream
from rlvr.rollout.runner import seed_of
from rlvr.types import GroupHeader, Task

__all__ = ["Sampled", "sample_step"]

Arrived = list[tuple[GroupHeader, Any]]


class Samples(Protocol):
    """What `Cluster` does for this module."""

    def rollout(self, tasks: Sequence[Task], seeds: Sequence[int], *, group_size: int) -> Arrived:
        """Sample one group per task."""
        ...

    def record(self, step: int, arrived: Arrived) -> None:
        """Write a step's rollouts while the run goes on."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """All groups of a step, in the order of the task stream, and what of them trains."""

    arrived: Arrived
    admitted: Admitted
    refills: int | None  # rounds beyond the first; none without dynamic sampling

    @property
    def headers(self) -> list[GroupHeader]:
        """Give the headers of all groups, dropped ones included."""
        return [header for header, _ in self.arrived]

    def metrics(self) -> dict[str, float]:
        """Give what became of the groups, and what dynamic sampling cost."""
        found = self.admitted.shares()
        if self.refills is not None:
            found |= {"refills": float(self.refills), "idle_tokens": float(self.admitted.idle_tokens)}
        return found


def sample_step(
    cluster: Samples, stream: TaskStream, buffer: Buffer, *, recipe: Recipe, step: int,
    worthwhile: Callable[[Sequence[GroupHeader]], bool],
) -> Sampled:  # fmt: skip
    """Sample the groups that the learner at version `step` trains on.

    A refill asks for as many groups as are missing, so that none is sampled beyond prompts_per_step that train. It is
    left out where the groups so far are not `worthwhile`: a broken grader is no reason to sample more.
    """
    r, arrived, refills = recipe.rollout, Arrived(), 0

    def sample(count: int) -> Admitted:
        tasks = stream.take(count)
        seeds = [seed_of(recipe.seed, step, len(arrived) + place) for place in range(len(tasks))]
        try:
            arrived.extend(cluster.rollout(tasks, seeds, group_size=r.group_size))
        except RlvrError:
            if arrived:  # rounds before a refill that failed
                with suppress(RlvrError):  # the failure under way is the one to tell
                    cluster.record(step + 1, arrived)
            raise
        return buffer.admit(arrived, step)

    admitted = sample(r.prompts_per_step)
    while r.dynamic_sampling and refills < r.max_refills:
        missing = r.prompts_per_step - admitted.counts["train"]
        if not missing or not worthwhile([header for header, _ in arrived]):
            break
        admitted, refills = sample(missing), refills + 1
    return Sampled(arrived=arrived, admitted=admitted, refills=refills if r.dynamic_sampling else None)
