"""The weight law over fake engines: what commits, what is refused and with which words, and that no token ever lies."""

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rlvr.errors import BoundaryError, WeightProofError
from rlvr.rollout.runner import RolloutSettings, Runner
from rlvr.testing import FakeEngine, FakeLearner, fake_digest, task
from rlvr.types import Grade, Message, Receipt, Rollout, Task, Verdict
from rlvr.weights.service import CANARY_FLOOR, FAULTS, Fault, WeightService, parse_fault

T = TypeVar("T")

SEQUENCES = tuple(np.random.default_rng(n).integers(0, 256, 24).astype(np.int32) for n in range(2))
LEARNER = FakeLearner()


class Bytes:
    """A renderer whose ids are bytes."""

    def prompt(self, messages: Sequence[Message]) -> np.ndarray:
        return np.frombuffer("".join(m["content"] for m in messages).encode(), dtype=np.uint8).astype(np.int32)

    def decode(self, token_ids: np.ndarray) -> str:
        return str(token_ids.tolist())


class Judge:
    async def grade_group(self, one: Task, replies: Sequence[Rollout]) -> list[Grade]:
        return [Grade(verdict=Verdict.CORRECT, score=1.0) for _ in replies]


def started_engine() -> FakeEngine:
    """Make an engine that holds the weights it was started with, as the real one does."""
    engine = FakeEngine()
    engine.live = dict(LEARNER.tensors(0))
    return engine


def runner_of(name: str, engine: FakeEngine) -> Runner:
    settings = RolloutSettings(max_new_tokens=12, temperature=1.0, max_model_len=64)
    parts: Any = {"renderer": Bytes(), "environment": None, "graders": Judge()}
    return Runner(name, engine=engine, settings=settings, payoff=None, **parts)


class Scene:
    """Two workers and a service."""

    def __init__(self, folder: Path, *, fault: Fault | None = None, deadline_s: float = 20.0) -> None:
        self.folder = folder / "versions"
        self.engines = {name: started_engine() for name in ("worker-0", "worker-1")}
        self.runners = {name: runner_of(name, engine) for name, engine in self.engines.items()}
        self.service = WeightService(
            LEARNER.export,
            {name: runner.receive for name, runner in self.runners.items()},
            sequences=SEQUENCES,
            folder=str(self.folder),
            deadline_s=deadline_s,
            fault=fault,
        )

    def versions(self) -> list[int]:
        return [-1 if engine.version is None else engine.version for engine in self.engines.values()]


async def test_a_version_is_committed_once_all_workers_have_proven_it(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    await scene.service.self_test(0)
    receipts = await scene.service.publish(1)
    assert [(r.worker, r.version, r.proven_tensors) for r in receipts] == [("worker-0", 1, 4), ("worker-1", 1, 4)]
    assert scene.service.committed is not None and scene.service.committed.version == 1
    assert scene.versions() == [1, 1]
    assert {fake_digest(e.live) for e in scene.engines.values()} == {fake_digest(LEARNER.tensors(1))}


async def test_versions_only_grow(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    await scene.service.self_test(3)
    await scene.service.publish(5)
    for version in (5, 4, 0):
        with pytest.raises(ValueError, match=f"versions only grow: {version} after 5"):
            await scene.service.publish(version)
    assert scene.versions() == [5, 5]


async def test_the_self_test_passes_an_honest_engine(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    proof = await scene.service.self_test(0)
    assert proof["proven_tensors"] == proof["total_tensors"] == 4
    assert proof["canary_error"] < 1e-5 and proof["canary_bound"] == CANARY_FLOOR == scene.service.bound
    assert proof["canary_moved"] > 3 * CANARY_FLOOR
    assert scene.versions() == [0, 0]
    assert {fake_digest(e.live) for e in scene.engines.values()} == {fake_digest(LEARNER.tensors(0))}


async def test_no_token_comes_from_the_weights_of_the_self_test(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    early = [asyncio.create_task(runner.run(task(), 2, 0)) for runner in scene.runners.values()]
    await scene.service.self_test(0)
    await asyncio.gather(*early)
    for engine in scene.engines.values():
        assert set(engine.sampled) == {(0, fake_digest(LEARNER.tensors(0)))}


MATRICES = [name for name, shape in LEARNER.SHAPES.items() if len(shape) == 2]


@pytest.mark.parametrize("blind", [False, True], ids=["read-back", "canary alone"])
@pytest.mark.parametrize("kept", ["all of them", *MATRICES])
async def test_the_self_test_fails_an_engine_that_keeps_weights(tmp_path: Path, kept: str, blind: bool) -> None:
    scene = Scene(tmp_path)
    engine = scene.engines["worker-1"]
    engine.keep = set(LEARNER.SHAPES) if kept == "all of them" else {kept}
    engine.faults = {"blind"} if blind else set()
    said = "self-test: perturbed weights moved" if blind else "differs between engine and learner"
    with pytest.raises(WeightProofError, match=f"worker=worker-1 version=0 .*{said}"):
        await scene.service.self_test(0)
    assert scene.service.committed is None


async def test_the_self_test_fails_a_canary_that_says_nothing(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.engines["worker-0"].faults = {"deaf"}
    with pytest.raises(WeightProofError, match="worker=worker-0 version=0 "):
        await scene.service.self_test(0)


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("kind", FAULTS)
async def test_every_fault_ends_in_a_failed_proof(tmp_path: Path, kind: str, version: int) -> None:
    scene = Scene(tmp_path, fault=Fault(kind=kind, version=version))
    with pytest.raises(WeightProofError) as caught:
        await scene.service.self_test(0)
        await scene.service.publish(1)
    assert caught.value.worker in ("worker-0", "worker-1") and caught.value.version == version
    assert str(caught.value).startswith(f"worker={caught.value.worker} version={version} ")
    assert "\n" not in str(caught.value)
    committed = scene.service.committed
    assert (committed.version if committed else -1) == version - 1
    assert scene.versions() == [version - 1] * 2


async def test_a_fault_strikes_its_version_only(tmp_path: Path) -> None:
    scene = Scene(tmp_path, fault=Fault(kind="weights.corrupt", version=2))
    await scene.service.self_test(0)
    await scene.service.publish(1)
    with pytest.raises(WeightProofError, match=r"version=2 .*do not match their digest"):
        await scene.service.publish(2)
    await scene.service.publish(3)
    assert scene.versions() == [3, 3]


async def test_one_bad_worker_stops_the_commit(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    await scene.service.self_test(0)
    scene.engines["worker-1"].keep = {"lm_head.weight"}
    with pytest.raises(WeightProofError, match=r"worker=worker-1 version=1 lm_head\.weight differs"):
        await scene.service.publish(1)
    assert scene.service.committed is not None and scene.service.committed.version == 0


async def test_a_deadline_names_who_was_waited_for(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    await scene.service.self_test(0)
    scene.service.deadline_s = 0.2
    scene.engines["worker-1"].faults = {"hang"}
    said = r"worker=worker-1 version=1 the weight service waited 0\.2 s for its receipt"
    with pytest.raises(WeightProofError, match=said):
        await scene.service.publish(1)


async def test_a_learner_that_hangs_is_named(tmp_path: Path) -> None:
    async def hang(**_: object) -> Any:
        await asyncio.Event().wait()

    service = WeightService(hang, {}, sequences=SEQUENCES, folder=str(tmp_path), deadline_s=0.05)
    said = r"worker=learner version=7 the weight service waited 0\.05 s for exporting"
    with pytest.raises(WeightProofError, match=said):
        await service.publish(7)


@pytest.mark.parametrize("change", [{"version": 9}, {"digest": "0" * 32}], ids=["version", "digest"])
async def test_a_wrong_receipt_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    scene = Scene(tmp_path)
    await scene.service.self_test(0)
    honest = scene.service.workers["worker-0"]

    async def liar(*args: Any, **named: Any) -> Receipt:
        return dataclasses.replace(await honest(*args, **named), **change)

    scene.service.workers["worker-0"] = liar
    with pytest.raises(WeightProofError, match="worker=worker-0 version=1 sent a receipt"):
        await scene.service.publish(1)
    assert scene.service.committed is not None and scene.service.committed.version == 0


async def test_a_worker_that_joins_proves_before_it_serves(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    await scene.service.self_test(0)
    await scene.service.publish(4)
    engine = started_engine()
    runner = runner_of("worker-2", engine)
    asked = asyncio.create_task(runner.run(task(), 1, 0))
    await asyncio.sleep(0.01)
    assert not engine.sampled
    receipt = await scene.service.join("worker-2", runner.receive)
    assert (receipt.worker, receipt.version, receipt.proven_tensors) == ("worker-2", 4, 4)
    header, _ = await asked
    assert header.min_version == header.max_version == 4
    assert engine.calls.index("stamp") < engine.calls.index("generate")
    assert [r.worker for r in await scene.service.publish(5)] == ["worker-0", "worker-1", "worker-2"]


async def test_a_worker_that_cannot_prove_itself_does_not_join(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    await scene.service.self_test(0)
    await scene.service.publish(1)
    engine = started_engine()
    engine.faults = {"drop"}
    runner = runner_of("worker-2", engine)
    with pytest.raises(WeightProofError, match="worker=worker-2 version=1"):
        await scene.service.join("worker-2", runner.receive)
    asked = asyncio.create_task(runner.run(task(), 1, 0))
    await asyncio.sleep(0.05)
    assert not asked.done() and not engine.sampled
    asked.cancel()


async def test_nobody_joins_before_the_first_commit(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    with pytest.raises(WeightProofError, match="worker=worker-9 version=-1 joined before"):
        await scene.service.join("worker-9", scene.runners["worker-0"].receive)


async def test_only_the_committed_version_stays_on_disk_and_close_removes_it(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    await scene.service.self_test(0)
    for version in (1, 2, 3):
        await scene.service.publish(version)
        assert [p.name for p in scene.folder.iterdir()] == [f"version-{version}.safetensors"]
    scene.engines["worker-0"].faults = {"drop"}
    with pytest.raises(WeightProofError):
        await scene.service.publish(4)
    scene.service.close()
    assert not scene.folder.exists()
    scene.service.close()


def test_a_fault_is_read_from_the_command_line() -> None:
    assert parse_fault("weights.drop@12") == Fault(kind="weights.drop", version=12)
    for text in ("weights.drop", "weights.drop@", "weights.drop@-1", "nonsense@1", "", "weights.drop@x"):
        with pytest.raises(ValueError, match=r"weights\.corrupt, weights\.drop, weights\.partial, weights\.stale_head"):
            parse_fault(text)


NAMES = st.sampled_from(["worker-0", "worker-1"])


class NoTokenLies(RuleBasedStateMachine):
    """Pushes, crashes, hangs, faults and joins in any order. No token is stamped with a version of other tensors.

    As over Ray, giving up on a worker does not stop what the worker does: it may wake up at any later time.
    """

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.scratch = TemporaryDirectory()
        self.engines: list[FakeEngine] = []
        self.alive: dict[str, tuple[FakeEngine, Runner]] = {}
        self.groups: list[asyncio.Task[Any]] = []
        self.version, self.committed = 0, 0
        self.right: dict[int, str] = {}

    def run(self, call: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(call)

    def receive_of(self, runner: Runner) -> Callable[..., Any]:
        def receive(*args: Any, **named: Any) -> Any:
            return asyncio.shield(asyncio.ensure_future(runner.receive(*args, **named)))

        return receive

    def fresh(self, name: str) -> Callable[..., Any]:
        engine = started_engine()
        self.engines.append(engine)
        self.alive[name] = engine, runner_of(name, engine)
        return self.receive_of(self.alive[name][1])

    @initialize()
    def start(self) -> None:
        workers = {name: self.fresh(name) for name in ("worker-0", "worker-1")}
        self.service = WeightService(
            LEARNER.export, workers, sequences=SEQUENCES, folder=str(Path(self.scratch.name) / "v"), deadline_s=20.0
        )
        self.ask("worker-0", seed=0)
        self.run(self.service.self_test(0))

    @rule(fault=st.sampled_from([None, None, *FAULTS]))
    def push(self, fault: str | None) -> None:
        self.version += 1
        self.service.fault = Fault(kind=fault, version=self.version) if fault else None
        stuck = any(engine.faults & {"hang"} for engine, _ in self.alive.values())
        self.service.deadline_s = 0.1 if stuck else 20.0
        try:
            receipts = self.run(self.service.publish(self.version))
        except (WeightProofError, BoundaryError):
            return
        assert not fault
        self.committed = self.version
        assert len(receipts) == len(self.service.workers)

    @rule(name=NAMES)
    def crash(self, name: str) -> None:
        async def gone(*_: Any, **__: Any) -> Receipt:
            raise BoundaryError(name, "the actor died")

        self.alive.pop(name, None)
        self.service.workers[name] = gone

    @rule(name=NAMES)
    def join(self, name: str) -> None:
        self.service.fault, self.service.deadline_s = None, 20.0
        receipt = self.run(self.service.join(name, self.fresh(name)))
        assert receipt.version == self.committed

    @precondition(lambda self: self.alive)
    @rule(name=NAMES, fault=st.sampled_from(["drop", "partial", "hang", "slow", "keep", "deaf", "well"]))
    def break_engine(self, name: str, fault: str) -> None:
        if name not in self.alive:
            return
        engine, _ = self.alive[name]
        engine.keep = {"lm_head.weight"} if fault == "keep" else set()
        if fault == "hang":
            engine.released.clear()
        else:
            engine.released.set()
        engine.faults = set() if fault in ("keep", "well") else {fault}

    @rule(name=NAMES, seed=st.integers(0, 3))
    def ask(self, name: str, seed: int) -> None:
        if name in self.alive:
            self.groups.append(self.loop.create_task(self.alive[name][1].run(task(), 2, seed)))

    @rule(turns=st.sampled_from([1, 5, 40]))
    def let_time_pass(self, turns: int) -> None:
        async def wait() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)

        self.run(wait())

    @invariant()
    def every_token_tells_the_truth(self) -> None:
        for engine in self.engines:
            for version, digest in set(engine.sampled):
                if version not in self.right:
                    self.right[version] = fake_digest(LEARNER.tensors(version))
                assert digest == self.right[version], f"a token stamped {version} comes from other tensors"

    @invariant()
    def the_commit_only_grows(self) -> None:
        if self.committed:
            assert self.service.committed is not None and self.service.committed.version == self.committed

    def teardown(self) -> None:
        async def finish() -> None:
            rest = asyncio.all_tasks() - {asyncio.current_task()}
            for one in rest:
                one.cancel()
            await asyncio.gather(*rest, return_exceptions=True)

        served = [group for group in self.groups if group.done() and not group.cancelled()]
        assert all(group.exception() is None for group in served)
        self.run(finish())
        self.loop.close()
        self.scratch.cleanup()


NoTokenLies.TestCase.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
test_no_token_lies = NoTokenLies.TestCase
