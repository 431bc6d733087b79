"""Sync is the stream with max_staleness = 0: to the token, against a plain loop on the same fake engines."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cluster import Sums, recipe
from pushes import LEARNER, Bytes

from rlvr.config import Recipe
from rlvr.loop.ledger import Place, TaskStream
from rlvr.loop.settings import buffer_of
from rlvr.loop.stream import Stream
from rlvr.loop.traffic import Arrival, Committed, Errand, Event, Learned, Routes
from rlvr.rollout.runner import RolloutSettings, Runner, seed_of
from rlvr.testing import FakeEngine
from rlvr.types import Grade, Group, GroupHeader, Rollout, Task
from rlvr.weights.service import WeightService, Worker

STEPS, PROMPTS, SIZE = 4, 3, 2


class Lengths:
    """Grades by the length of a reply."""

    async def grade_group(self, one: Task, replies: Sequence[Rollout]) -> list[Grade]:
        return [Grade(verdict=None, score=float(len(reply.token_ids))) for reply in replies]


def _never() -> None:
    raise AssertionError("nobody is lost here")


class Workers:
    """Two workers with a weight service, in an event loop of their own: `Cluster` without Ray."""

    def __init__(self, folder: Path) -> None:
        self.loop = asyncio.new_event_loop()
        self.loop.run_until_complete(self._start(folder))
        self.routes, self.under_way = Routes(), dict[asyncio.Future[Any], Any]()
        self.happened = deque[Event]()
        for name in self.runners:
            self.routes.join(name)
        self.learned: list[list[Group]] = []

    async def _start(self, folder: Path) -> None:
        engines = {name: FakeEngine() for name in ("worker-0", "worker-1")}
        settings = RolloutSettings(max_new_tokens=12, temperature=1.0, max_model_len=64)
        parts: Any = {"renderer": Bytes(), "environment": None, "graders": Lengths(), "payoff": None}
        self.runners = {n: Runner(n, engine=e, settings=settings, **parts) for n, e in engines.items()}
        for engine in engines.values():
            engine.live = dict(LEARNER.tensors(0))
        self.service = WeightService(
            LEARNER.export, {name: Worker(receive=r.receive, kill=_never) for name, r in self.runners.items()},
            sequences=[np.arange(24, dtype=np.int32)], folder=str(folder),
        )  # fmt: skip
        await self.service.self_test(0)

    def submit(self, errand: Errand) -> None:
        name = self.routes.choose(errand)
        call = self.loop.create_task(self.runners[name].run(errand.task, errand.group_size, errand.seed))
        self.routes.sent(call, errand, worker=name)

    def publish(self, version: int) -> None:
        self.under_way[self.loop.create_task(self.service.publish(version))] = version

    def learn(self, references: Sequence[Any], totals: Any) -> None:
        self.learned.append(list(references))
        self.happened.append(Learned(metrics={}))

    def record(self, step: int, arrived: Any) -> None:
        return

    def wait(self) -> Event:
        if self.happened:
            return self.happened.popleft()
        calls = [*self.under_way, *self.routes.calls]
        done, _ = self.loop.run_until_complete(asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED))
        call = done.pop()
        if call in self.under_way:
            return Committed(version=self.under_way.pop(call), receipts=call.result().receipts)
        _, errand = self.routes.ended(call)
        header, group = call.result()
        return Arrival(errand=errand, header=header, group=group)


def by(**rollout: Any) -> Recipe:
    return recipe(steps=STEPS, rollout={"prompts_per_step": PROMPTS, "group_size": SIZE} | rollout)


def streamed(folder: Path, given: Recipe) -> list[tuple[list[GroupHeader], list[Group]]]:
    """Give headers and groups of each step, all of them, as the stream took them."""
    workers = Workers(folder)
    tasks = TaskStream(Sums(), name="e", seed=0, place=Place())
    stream = Stream(workers, tasks, buffer_of(given), recipe=given, step=0, worthwhile=lambda headers: True)
    found = []
    for step in range(STEPS):
        taken = stream.take()
        found.append((taken.headers, [group for _, group in taken.arrived]))
        stream.learn(taken.admitted)
        stream.publish(step + 1)
    stream.settle()
    return found


def plain(folder: Path) -> list[list[Group]]:
    """Take the steps one after the other: all groups of a step, then the push."""
    workers, tasks = Workers(folder), iter(Sums().tasks("train", seed=0))

    async def run() -> list[list[Group]]:
        found = []
        for step in range(STEPS):
            worker = workers.runners["worker-0"]
            calls = [worker.run(next(tasks), SIZE, seed_of(0, step, place)) for place in range(PROMPTS)]
            found.append([group for _, group in await asyncio.gather(*calls)])
            await workers.service.publish(step + 1)
        return found

    return workers.loop.run_until_complete(run())


def test_without_staleness_a_run_is_a_plain_loop_to_the_token(tmp_path: Path) -> None:
    ours, theirs = streamed(tmp_path / "a", by()), plain(tmp_path / "b")
    for step, ((_, groups), expected) in enumerate(zip(ours, theirs, strict=True)):
        assert [one.group_id for one in groups] == [one.group_id for one in expected]
        for one, other in zip(groups, expected, strict=True):
            for a, b in zip(one.rollouts, other.rollouts, strict=True):
                assert a.token_ids.tolist() == b.token_ids.tolist()
                assert a.logprobs.tolist() == b.logprobs.tolist()
                assert a.spans == b.spans and {span.version for span in a.spans} == {step}
            assert one.values.tolist() == other.values.tolist()


@pytest.mark.parametrize("eta", [1, 3])
def test_with_staleness_no_token_is_older_than_the_bound(tmp_path: Path, eta: int) -> None:
    found = streamed(tmp_path / "a", by(max_staleness=eta))
    spans = [
        (step, span) for step, (_, groups) in enumerate(found) for g in groups for r in g.rollouts for span in r.spans
    ]
    assert all(step - eta <= span.version <= step for step, span in spans)
    assert any(span.version < step for step, span in spans)
    ids = [one.group_id for _, groups in found for one in groups]
    assert len(set(ids)) == STEPS * PROMPTS == len(ids)
