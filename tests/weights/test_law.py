"""Pushes, deaths, hangs, faults and joins in any order, while groups run: the weight law as a state machine."""

import asyncio
from collections.abc import Coroutine
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from pushes import LEARNER, SEQUENCES, FakeWorker

from rlvr.errors import EngineError, LostWorkerError, WeightProofError
from rlvr.testing import fake_digest
from rlvr.weights import faults
from rlvr.weights.faults import FAULTS, REFUSED, Fault
from rlvr.weights.service import Published, WeightService

T = TypeVar("T")

PLACES = st.integers(0, 2)
ENGINE_FAULTS = st.sampled_from(["drop", "partial", "hang", "slow", "keep", "deaf", "well"])
PATIENCE_S = 20.0


class WeightLaw(RuleBasedStateMachine):
    """What must hold: no token is stamped with a version of other weights; who is asked after a commit answers with
    that version or a later one; who was given up serves nothing; versions grow; no file is left behind; nothing hangs.

    As over Ray, giving up on a worker does not stop it; killing does. After a proof that failed a run would end; here
    it goes on, which asks for more.
    """

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.scratch = TemporaryDirectory()
        self.folder = Path(self.scratch.name) / "versions"
        self.workers: dict[str, FakeWorker] = {}  # all that ever were
        self.asked: list[tuple[asyncio.Task[Any], int]] = []  # a group, and what was committed as it was asked for
        self.stamped: dict[str, list[int]] = {}
        self.silent: dict[str, int] = {}  # tokens that a dead worker had given out as it died
        self.version = 0
        self.harmed = False  # then a worker may be refused
        self.spoiled: set[int] = set()  # versions that nobody was left to refuse, whose files are damaged
        self.right: dict[int, str] = {}
        self.kept_s, faults.SLOW_S = faults.SLOW_S, 0.01

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(asyncio.wait_for(call, PATIENCE_S + 10))

    def fresh(self) -> FakeWorker:
        name = f"worker-{len(self.workers)}"
        worker = FakeWorker(name, in_flight=len(self.workers) % 3 != 2)
        self.workers[name], self.stamped[name] = worker, []
        stamp = worker.engine.stamp

        async def noted(version: int) -> None:
            await stamp(version)
            self.stamped[name].append(version)

        worker.engine.stamp = noted  # type: ignore[method-assign]
        return worker

    def at(self, place: int) -> FakeWorker | None:
        """Give one of the workers that the service sends to."""
        names = list(self.service.workers)
        return self.workers[names[place]] if place < len(names) else None

    @property
    def committed(self) -> int:
        return self.service.committed.version if self.service.committed else -1

    @initialize()
    def start(self) -> None:
        async def begin() -> None:
            ways = {worker.name: worker.way() for worker in (self.fresh(), self.fresh())}
            self.service = WeightService(
                LEARNER.export, ways, sequences=SEQUENCES, folder=str(self.folder), deadline_s=PATIENCE_S
            )
            self.asked.append((self.workers["worker-0"].ask(0), 0))
            await self.service.self_test(0)

        self.run(begin())

    def expect(self, fault: str | None, *, turns: int = 3) -> None:
        """Set the service up for what is coming: it waits long, unless somebody will hang."""
        self.version += 1
        self.harmed |= fault is not None
        self.service.fault = Fault(kind=fault, version=self.version) if fault else None
        alive = [worker for worker in self.workers.values() if not worker.dead.is_set()]
        stuck = fault == "weights.hang" or any("hang" in worker.engine.faults for worker in alive)
        self.service.deadline_s = 0.15 if stuck else PATIENCE_S
        for worker in alive:
            worker.turns = turns

    def settled(self, outcome: Published | BaseException, *, fault: str | None) -> None:
        """Look at what a push came to."""
        if isinstance(outcome, BaseException):
            assert isinstance(outcome, WeightProofError), outcome
            assert self.committed < self.version
            return
        assert outcome.version == self.version == self.committed
        assert fault not in REFUSED or not outcome.receipts
        if fault in REFUSED:
            self.spoiled.add(self.version)
        proven = {receipt.worker for receipt in outcome.receipts}
        assert not proven & outcome.lost.keys() and not outcome.lost.keys() & self.service.workers.keys()
        assert all(self.workers[name].dead.is_set() for name in outcome.lost)
        assert all(self.workers[name].engine.version == self.version for name in proven if name not in self.dead())

    def dead(self) -> set[str]:
        return {name for name, worker in self.workers.items() if worker.dead.is_set()}

    @rule(fault=st.sampled_from([None, None, None, *FAULTS]), turns=st.integers(0, 30))
    def push(self, fault: str | None, turns: int) -> None:
        self.expect(fault, turns=turns)
        (outcome,) = self.run(self.ended(self.service.publish(self.version)))
        self.settled(outcome, fault=fault)

    @rule(place=PLACES, turns=st.integers(0, 60))
    def die_during_a_push(self, place: int, turns: int) -> None:
        async def die() -> None:
            worker = self.at(place)
            for _ in range(turns):
                await asyncio.sleep(0)
            if worker:
                worker.kill()

        self.expect(None)
        outcome, _ = self.run(self.ended(self.service.publish(self.version), die()))
        self.settled(outcome, fault=None)

    @precondition(lambda self: len(self.workers) < 9)
    @rule(first=st.booleans(), fault=ENGINE_FAULTS)
    def join_during_a_push(self, first: bool, fault: str) -> None:
        worker = self.run(self.new(fault))
        self.expect(None)
        calls = [self.service.publish(self.version), self.service.join(worker.name, worker.way())]
        outcomes = self.run(self.ended(*(calls[::-1] if first else calls)))
        pushed, joined = outcomes[::-1] if first else outcomes
        self.settled(pushed, fault=None)
        assert not isinstance(joined, BaseException) or isinstance(joined, WeightProofError | LostWorkerError)
        if not isinstance(joined, BaseException) and isinstance(pushed, Published):
            assert worker.dead.is_set() or worker.engine.version == self.committed

    @precondition(lambda self: len(self.workers) < 9)
    @rule()
    def join(self) -> None:
        self.service.deadline_s = PATIENCE_S
        worker = self.run(self.new("well"))
        (receipt,) = self.run(self.ended(self.service.join(worker.name, worker.way())))
        if isinstance(receipt, WeightProofError):
            assert self.committed in self.spoiled and worker.name not in self.service.workers
        else:
            assert receipt.version == self.committed and worker.name in self.service.workers

    async def new(self, fault: str) -> FakeWorker:
        worker = self.fresh()
        self.break_it(worker, fault)
        return worker

    async def ended(self, *calls: Coroutine[Any, Any, Any]) -> list[Any]:
        return await asyncio.gather(*calls, return_exceptions=True)

    @rule(place=PLACES)
    def die(self, place: int) -> None:
        if worker := self.at(place):
            worker.kill()

    @rule(place=PLACES, fault=ENGINE_FAULTS)
    def break_engine(self, place: int, fault: str) -> None:
        if worker := self.at(place):
            self.break_it(worker, fault)

    def break_it(self, worker: FakeWorker, fault: str) -> None:
        self.harmed |= fault != "well"
        engine = worker.engine
        engine.keep = {"lm_head.weight"} if fault == "keep" else set()
        if fault == "hang":
            engine.released.clear()
        else:
            engine.released.set()
        engine.faults = set() if fault in ("keep", "well") else {fault}

    @rule(place=PLACES, seed=st.integers(0, 3))
    def ask(self, place: int, seed: int) -> None:
        async def begin() -> None:
            if (worker := self.at(place)) and not worker.dead.is_set():
                self.asked.append((worker.ask(seed), self.committed))

        self.run(begin())

    @rule(turns=st.sampled_from([1, 5, 40]))
    def let_time_pass(self, turns: int) -> None:
        async def wait() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)

        self.run(wait())

    @invariant()
    def every_token_tells_the_truth(self) -> None:
        for worker in self.workers.values():
            for version, digest in set(worker.engine.sampled):
                if version not in self.right:
                    self.right[version] = fake_digest(LEARNER.tensors(version))
                assert digest == self.right[version], f"a token stamped {version} comes from other tensors"

    @invariant()
    def nothing_begins_on_an_older_version(self) -> None:
        for group, committed in self.asked:
            if group.done() and not group.cancelled():
                if error := group.exception():
                    assert isinstance(error, EngineError) or (isinstance(error, WeightProofError) and self.harmed)
                else:
                    assert group.result()[0].min_version >= committed

    @invariant()
    def the_dead_serve_nothing(self) -> None:
        for name in self.dead():
            given = len(self.workers[name].engine.sampled)
            assert self.silent.setdefault(name, given) == given

    @invariant()
    def versions_grow(self) -> None:
        for versions in self.stamped.values():
            assert versions == sorted(set(versions))

    @invariant()
    def no_file_is_left_behind(self) -> None:
        if self.folder.exists():
            assert [path.name for path in self.folder.iterdir()] == [f"version-{self.committed}.safetensors"]

    def teardown(self) -> None:
        async def finish() -> None:
            rest = asyncio.all_tasks() - {asyncio.current_task()}
            for one in rest:
                one.cancel()
            await asyncio.gather(*rest, return_exceptions=True)

        self.loop.run_until_complete(finish())
        self.loop.close()
        self.scratch.cleanup()
        faults.SLOW_S = self.kept_s


test_the_weight_law = pytest.mark.integration(pytest.mark.timeout(600)(WeightLaw.TestCase))
test_the_weight_law.settings = settings(max_examples=10, stateful_step_count=20, deadline=None)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_weight_law_at_length() -> None:
    run_state_machine_as_test(WeightLaw, settings=settings(max_examples=200, stateful_step_count=40, deadline=None))  # type: ignore[no-untyped-call]
