"""Workers over fake engines, as the weight service sees real ones, and a scene of two of them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rlvr.errors import LostWorkerError
from rlvr.rollout.runner import RolloutSettings, Runner
from rlvr.testing import FakeEngine, FakeLearner, task
from rlvr.types import Canary, Grade, Manifest, Message, Receipt, Rollout, Task, Verdict
from rlvr.weights.faults import Fault
from rlvr.weights.service import WeightService, Worker

SEQUENCES = tuple(np.random.default_rng(n).integers(0, 256, 24).astype(np.int32) for n in range(2))
LEARNER = FakeLearner()


class Bytes:
    """A renderer whose ids are bytes."""

    def prompt(self, messages: Sequence[Message]) -> np.ndarray:
        return np.frombuffer("".join(m["content"] for m in messages).encode(), dtype=np.uint8).astype(np.int32)

    def decode(self, token_ids: np.ndarray) -> str:
        return str(token_ids.tolist())


class Judge:
    """A grader that likes everything."""

    async def grade_group(self, one: Task, replies: Sequence[Rollout]) -> list[Grade]:
        return [Grade(verdict=Verdict.CORRECT, score=1.0) for _ in replies]


class FakeWorker:
    """A process with a runner: who gives up on it does not stop it, only `kill` does.

    Killed or hung as the faults of that name want, in the middle of a push: it then answers nobody any more, but one
    that hangs goes on with what it is at.
    """

    def __init__(self, name: str, *, in_flight: bool = True) -> None:
        self.name, self.engine = name, FakeEngine()
        self.engine.live = dict(LEARNER.tensors(0))  # what it was started with, as the real one
        settings = RolloutSettings(max_new_tokens=12, temperature=1.0, max_model_len=64, in_flight=in_flight)
        parts: Any = {"renderer": Bytes(), "environment": None, "graders": Judge()}
        self.runner = Runner(name, engine=self.engine, settings=settings, payoff=None, **parts)
        self.dead = asyncio.Event()
        self.hangs = False
        self.turns = 3  # of the event loop, before a fault strikes in a push
        self.work: set[asyncio.Task[Any]] = set()

    def way(self) -> Worker:
        return Worker(receive=self.receive, kill=self.kill)

    def kill(self) -> None:
        self.dead.set()
        for one in self.work:
            one.cancel()

    def begin(self, call: Any) -> asyncio.Task[Any]:
        one = asyncio.ensure_future(call)
        if self.dead.is_set():
            one.cancel()
        self.work.add(one)
        one.add_done_callback(self.work.discard)
        return one

    def ask(self, seed: int, *, size: int = 2) -> asyncio.Task[Any]:
        """Ask for a group."""
        return self.begin(self.runner.run(task(), size, seed))

    async def receive(self, manifest: Manifest, canary: Canary, *, serve: bool, fault: str) -> Receipt:
        push = self.begin(self.runner.receive(manifest, canary, serve=serve, fault=fault))
        if fault in ("weights.kill", "weights.hang"):
            for _ in range(self.turns):
                await asyncio.sleep(0)
            self.hangs = fault == "weights.hang"
            if not self.hangs:
                self.kill()
        end = asyncio.ensure_future(self.dead.wait())
        await asyncio.wait({end} if self.hangs else {push, end}, return_when=asyncio.FIRST_COMPLETED)
        end.cancel()
        if self.dead.is_set():
            raise LostWorkerError(self.name, "died")
        return push.result()


class Scene:
    """Two workers and a service."""

    def __init__(
        self, folder: Path, *, fault: Fault | None = None, deadline_s: float = 20.0, adapter: bool = False
    ) -> None:
        self.folder = folder / "versions"
        self.workers = {name: FakeWorker(name) for name in ("worker-0", "worker-1")}
        self.engines = {name: worker.engine for name, worker in self.workers.items()}
        self.service = WeightService(
            partial(LEARNER.export, part="adapter") if adapter else LEARNER.export,
            {name: worker.way() for name, worker in self.workers.items()}, sequences=SEQUENCES,
            folder=str(self.folder), deadline_s=deadline_s, fault=fault,
            base=partial(LEARNER.export, part="base") if adapter else None,
        )  # fmt: skip

    async def versions(self) -> list[int]:
        """Give the versions of tokens that the workers sample now; of one that is dead or fenced, -1."""
        found = []
        for worker in self.workers.values():
            if worker.dead.is_set() or not worker.runner._open.is_set():
                found.append(-1)
                continue
            header, _ = await asyncio.wait_for(worker.ask(0, size=1), timeout=20)
            assert header.min_version == header.max_version
            found.append(header.max_version)
        return found

    def files(self) -> list[str]:
        return sorted(path.name for path in self.folder.iterdir())
