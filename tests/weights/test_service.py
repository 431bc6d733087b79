"""The weight law over fake engines: what commits, what is refused and with which words, and that no token ever lies."""

import asyncio
import dataclasses
from pathlib import Path
from typing import Any

import pytest
from pushes import LEARNER, SEQUENCES, FakeWorker, Scene

from rlvr.errors import LostWorkerError, WeightProofError
from rlvr.testing import fake_digest
from rlvr.types import Receipt
from rlvr.weights import faults
from rlvr.weights.faults import FAULTS, REFUSED, Fault, parse_fault
from rlvr.weights.service import CANARY_FLOOR, WeightService, Worker

SHORT_S = 2.0  # within which a push over fakes ends on a busy machine too


async def test_a_version_is_committed_once_all_workers_have_proven_it(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    await scene.service.self_test(0)
    done = await scene.service.publish(1)
    assert [(r.worker, r.version, r.proven_tensors) for r in done.receipts] == [("worker-0", 1, 4), ("worker-1", 1, 4)]
    assert (done.version, done.lost, done.notes) == (1, {}, ())
    assert scene.service.committed is not None and scene.service.committed.version == 1
    assert await scene.versions() == [1, 1]
    assert {fake_digest(e.live) for e in scene.engines.values()} == {fake_digest(LEARNER.tensors(1))}


async def test_versions_only_grow(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    await scene.service.self_test(3)
    await scene.service.publish(5)
    for version in (5, 4, 0):
        with pytest.raises(ValueError, match=f"versions only grow: {version} after 5"):
            await scene.service.publish(version)
    assert await scene.versions() == [5, 5]


async def test_the_self_test_passes_an_honest_engine(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    proof = await scene.service.self_test(0)
    assert proof["proven_tensors"] == proof["total_tensors"] == 4
    assert proof["canary_error"] < 1e-5 and proof["canary_bound"] == CANARY_FLOOR["bfloat16"] == scene.service.bound
    assert proof["canary_moved"] > 3 * proof["canary_bound"]
    assert await scene.versions() == [0, 0]
    assert {fake_digest(e.live) for e in scene.engines.values()} == {fake_digest(LEARNER.tensors(0))}


async def test_no_token_comes_from_the_weights_of_the_self_test(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    early = [worker.ask(0) for worker in scene.workers.values()]
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
@pytest.mark.parametrize("kind", REFUSED)
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
    assert await scene.versions() == [-1, -1]


async def test_a_fault_strikes_its_version_only(tmp_path: Path) -> None:
    scene = Scene(tmp_path, fault=Fault(kind="weights.corrupt", version=2))
    await scene.service.self_test(0)
    await scene.service.publish(1)
    with pytest.raises(WeightProofError, match=r"version=2 .*do not match their digest"):
        await scene.service.publish(2)
    await scene.service.publish(3)
    assert await scene.versions() == [3, 3]


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
    scene.service.deadline_s = SHORT_S
    scene.engines["worker-1"].faults = {"hang"}
    done = await scene.service.publish(1)
    assert done.lost == {"worker-1": "left the weight service waiting 2 s for its receipt of version 1"}
    assert [r.worker for r in done.receipts] == ["worker-0"]
    assert scene.workers["worker-1"].dead.is_set() and list(scene.service.workers) == ["worker-0"]


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
    honest = scene.workers["worker-0"]

    async def liar(*args: Any, **named: Any) -> Receipt:
        return dataclasses.replace(await honest.receive(*args, **named), **change)

    scene.service.workers["worker-0"] = Worker(receive=liar, kill=honest.kill)
    with pytest.raises(WeightProofError, match="worker=worker-0 version=1 sent a receipt"):
        await scene.service.publish(1)
    assert scene.service.committed is not None and scene.service.committed.version == 0


async def test_a_worker_that_joins_proves_before_it_serves(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    await scene.service.self_test(0)
    await scene.service.publish(4)
    worker = FakeWorker("worker-2")
    engine = worker.engine
    asked = worker.ask(0, size=1)
    await asyncio.sleep(0.01)
    assert not engine.sampled
    receipt = await scene.service.join("worker-2", worker.way())
    assert (receipt.worker, receipt.version, receipt.proven_tensors) == ("worker-2", 4, 4)
    header, _ = await asked
    assert header.min_version == header.max_version == 4
    assert engine.calls.index("stamp") < engine.calls.index("generate")
    assert [r.worker for r in (await scene.service.publish(5)).receipts] == ["worker-0", "worker-1", "worker-2"]


async def test_a_worker_that_cannot_prove_itself_does_not_join(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    await scene.service.self_test(0)
    await scene.service.publish(1)
    worker = FakeWorker("worker-2")
    worker.engine.faults = {"drop"}
    with pytest.raises(WeightProofError, match="worker=worker-2 version=1"):
        await scene.service.join("worker-2", worker.way())
    asked = worker.ask(0)
    await asyncio.sleep(0.05)
    assert not asked.done() and not worker.engine.sampled
    assert "worker-2" not in scene.service.workers
    worker.kill()


async def test_nobody_joins_before_the_first_commit(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    with pytest.raises(WeightProofError, match="worker=worker-9 version=-1 joined before"):
        await scene.service.join("worker-9", scene.workers["worker-0"].way())


async def test_only_the_committed_version_stays_on_disk_and_close_removes_it(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    await scene.service.self_test(0)
    for version in (1, 2, 3):
        await scene.service.publish(version)
        assert scene.files() == [f"version-{version}.safetensors"]
    scene.engines["worker-0"].faults = {"drop"}
    with pytest.raises(WeightProofError):
        await scene.service.publish(4)
    assert scene.files() == ["version-3.safetensors"]
    scene.service.close()
    assert not scene.folder.exists()
    scene.service.close()


async def test_a_worker_that_is_killed_in_a_push_is_lost_and_the_others_go_on(tmp_path: Path) -> None:
    scene = Scene(tmp_path, fault=Fault(kind="weights.kill", version=1))
    await scene.service.self_test(0)
    done = await scene.service.publish(1)
    assert done.lost == {"worker-0": "died"} and [r.worker for r in done.receipts] == ["worker-1"]
    assert scene.service.committed is not None and scene.service.committed.version == 1
    assert await scene.versions() == [-1, 1]
    assert [r.worker for r in (await scene.service.publish(2)).receipts] == ["worker-1"]


async def test_a_worker_that_hangs_is_killed_before_the_version_commits(tmp_path: Path) -> None:
    scene = Scene(tmp_path, fault=Fault(kind="weights.hang", version=1))
    await scene.service.self_test(0)
    scene.service.deadline_s = SHORT_S
    done = await scene.service.publish(1)
    assert list(done.lost) == ["worker-0"] and "waiting 2 s for its receipt of version 1" in done.lost["worker-0"]
    assert scene.workers["worker-0"].dead.is_set()
    assert await scene.versions() == [-1, 1]


async def test_with_its_last_worker_lost_a_version_waits_for_the_next_one(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    await scene.service.self_test(0)
    for worker in scene.workers.values():
        worker.kill()
    done = await scene.service.publish(1)
    assert set(done.lost) == {"worker-0", "worker-1"} and done.receipts == ()
    assert scene.service.committed is not None and scene.service.committed.version == 1
    other = FakeWorker("worker-0.1")
    assert (await scene.service.join("worker-0.1", other.way())).version == 1
    scene.workers = {"worker-0.1": other}
    assert await scene.versions() == [1]


async def test_who_joins_during_a_push_proves_what_it_commits(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    await scene.service.self_test(0)
    other = FakeWorker("worker-2")
    _, receipt = await asyncio.gather(scene.service.publish(1), scene.service.join("worker-2", other.way()))
    assert receipt.version == 1
    receipt, _ = await asyncio.gather(
        scene.service.join("worker-3", FakeWorker("worker-3").way()), scene.service.publish(2)
    )
    assert receipt.version == 1  # it came first, and was then part of the push
    assert list(scene.service.workers) == ["worker-0", "worker-1", "worker-2", "worker-3"]


async def test_a_worker_that_hangs_as_it_joins_is_killed(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    await scene.service.self_test(0)
    scene.service.deadline_s = SHORT_S
    other = FakeWorker("worker-2")
    other.engine.faults = {"hang"}
    with pytest.raises(LostWorkerError, match=r"^worker-2 left the weight service waiting 2 s for its receipt"):
        await scene.service.join("worker-2", other.way())
    assert other.dead.is_set() and "worker-2" not in scene.service.workers
    assert len((await scene.service.publish(1)).receipts) == 2


async def test_a_self_test_misses_nobody(tmp_path: Path) -> None:
    scene = Scene(tmp_path, fault=Fault(kind="weights.kill", version=0))
    with pytest.raises(LostWorkerError, match="worker-0 died"):
        await scene.service.self_test(0)
    assert scene.service.committed is None


async def test_a_gpu_transport_ends_with_a_member(tmp_path: Path) -> None:
    async def send() -> None:
        return

    scene = Scene(tmp_path, fault=Fault(kind="weights.kill", version=1))
    await scene.service.self_test(0)
    scene.service.send = send
    with pytest.raises(LostWorkerError, match="worker-0 died"):
        await scene.service.publish(1)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("weights.slow", "worker-0 got version 2 0.05 s late, and proved it"),
        ("weights.duplicate", "worker-0 got version 2 twice, and answered with the same receipt"),
        ("weights.reorder", "worker-0 got version 1 after 2, and refused it: comes after version 2"),
    ],
)
async def test_what_is_survived_is_told(tmp_path: Path, kind: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "SLOW_S", 0.05)
    scene = Scene(tmp_path, fault=Fault(kind=kind, version=2))
    await scene.service.self_test(0)
    await scene.service.publish(1)
    loads = scene.engines["worker-0"].calls.count("swap")
    done = await scene.service.publish(2)
    assert len(done.receipts) == 2 and not done.lost
    assert len(done.notes) == 1 and done.notes[0].startswith(said)
    assert scene.engines["worker-0"].calls.count("swap") == loads + 1
    assert await scene.versions() == [2, 2]


async def test_a_worker_that_takes_a_version_twice_fails_the_push(tmp_path: Path) -> None:
    for kind, said in (("weights.duplicate", "a second time"), ("weights.reorder", "was taken up after version 1")):
        scene = Scene(tmp_path, fault=Fault(kind=kind, version=1))
        await scene.service.self_test(0)
        worker = scene.workers["worker-0"]

        async def credulous(manifest: Any, *args: Any, _worker: FakeWorker = worker, **named: Any) -> Receipt:
            _worker.runner._served = None
            return await _worker.receive(manifest, *args, **named)

        scene.service.workers["worker-0"] = Worker(receive=credulous, kill=worker.kill)
        with pytest.raises(WeightProofError, match=said):
            await scene.service.publish(1)


def test_a_fault_is_read_from_the_command_line() -> None:
    assert parse_fault("weights.drop@12") == Fault(kind="weights.drop", version=12)
    for text in ("weights.drop", "weights.drop@", "weights.drop@-1", "nonsense@1", "", "weights.drop@x"):
        with pytest.raises(ValueError, match=f"one of {', '.join(FAULTS)}, not "):
            parse_fault(text)
