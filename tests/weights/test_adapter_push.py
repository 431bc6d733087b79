"""The weight law where an adapter is pushed alone: its base first, then it, each proven with and without it."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from pushes import LEARNER, SEQUENCES, FakeWorker, Scene

from rlvr.errors import WeightProofError
from rlvr.testing import FakeEngine, fake_digest
from rlvr.types import Manifest, fingerprint
from rlvr.weights.export import export
from rlvr.weights.faults import Fault
from rlvr.weights.service import CANARY_FLOOR


def live(version: int) -> str:
    return fake_digest(LEARNER.tensors(0) | LEARNER.adapter(version))


async def test_the_base_is_proven_first_and_then_the_adapter_with_and_without(tmp_path: Path) -> None:
    scene = Scene(tmp_path, adapter=True)
    proof = await scene.service.self_test(0)
    assert proof["proven_tensors"] == proof["total_tensors"] == 2 and proof["canary_bound"] == CANARY_FLOOR["bfloat16"]
    assert {fake_digest(e.live) for e in scene.engines.values()} == {live(0)}
    done = await scene.service.publish(1)
    assert {fake_digest(e.live) for e in scene.engines.values()} == {live(1)}
    assert await scene.versions() == [1, 1]
    assert all(r.base_error is not None and r.base_error < 1e-5 and r.canary_error < 1e-5 for r in done.receipts)
    committed = scene.service.committed
    assert committed is not None and committed.kind == "adapter" and committed.bytes == 2 * 2 * 64
    assert scene.files() == ["version-1.safetensors", "version-base-0.safetensors"]
    scene.service.close()
    assert not scene.folder.exists()


async def test_no_token_comes_from_a_base_without_its_adapter(tmp_path: Path) -> None:
    scene = Scene(tmp_path, adapter=True)
    early = [worker.ask(0) for worker in scene.workers.values()]
    await scene.service.self_test(0)
    running = [worker.ask(seed) for worker in scene.workers.values() for seed in range(3)]
    await asyncio.sleep(0)
    await scene.service.publish(1)
    await asyncio.gather(*early, *running)
    for engine in scene.engines.values():
        assert set(engine.sampled) <= {(0, live(0)), (1, live(1))}


async def test_a_new_worker_gets_the_base_and_then_the_adapter(tmp_path: Path) -> None:
    scene = Scene(tmp_path, adapter=True)
    await scene.service.self_test(0)
    for version in (1, 2, 3):
        await scene.service.publish(version)
    late = FakeWorker("worker-0.1")
    late.engine.live = dict(LEARNER.tensors(7))
    receipt = await scene.service.join("worker-0.1", late.way())
    assert receipt.version == 3 and receipt.base_error is not None
    assert fake_digest(late.engine.live) == live(3)


async def test_an_adapter_on_another_base_is_seen_by_the_canary_without_it(tmp_path: Path) -> None:
    scene = Scene(tmp_path, adapter=True)
    await scene.service.self_test(0)
    scene.engines["worker-1"].live |= LEARNER.tensors(5)
    with pytest.raises(WeightProofError, match=r"worker=worker-1 version=1 the canary .*nats from the learner"):
        await scene.service.publish(1)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("weights.corrupt", "do not match their digest"),
        ("weights.drop", "differs between engine and learner"),
        ("weights.partial", "2 of 2 tensors are missing"),
    ],
)
async def test_faults_of_an_adapter_end_in_a_failed_proof(tmp_path: Path, kind: str, said: str) -> None:
    scene = Scene(tmp_path, adapter=True, fault=Fault(kind=kind, version=2))
    await scene.service.self_test(0)
    await scene.service.publish(1)
    with pytest.raises(WeightProofError, match=f"version=2 .*{said}"):
        await scene.service.publish(2)


@pytest.mark.parametrize("kind", ["weights.kill", "weights.duplicate", "weights.reorder"])
async def test_faults_of_the_way_are_survived(tmp_path: Path, kind: str) -> None:
    scene = Scene(tmp_path, adapter=True, fault=Fault(kind=kind, version=2))
    await scene.service.self_test(0)
    for version in (1, 2, 3):
        await scene.service.publish(version)
    assert [v for v in await scene.versions() if v >= 0] == [3] * (1 if kind == "weights.kill" else 2)


async def test_full_weights_leave_no_adapter(tmp_path: Path) -> None:
    engine = FakeEngine()

    async def push(manifest: Manifest) -> int:
        await engine.prepare(manifest)
        await engine.swap(manifest)
        return await engine.read_back(manifest, seed=0)

    full = export(LEARNER.tensors(0).items(), version=0, folder=str(tmp_path))
    adapter = export(LEARNER.adapter(1).items(), version=1, folder=str(tmp_path), kind="adapter")
    adapter = replace(adapter, base=fingerprint(full))
    with pytest.raises(ValueError, match="base that this adapter belongs to"):
        await engine.prepare(adapter)
    assert await push(full) == 4 and await push(adapter) == 2
    with_it, without = await engine.score(SEQUENCES[0].tolist()), await engine.score(SEQUENCES[0].tolist(), base=True)
    assert abs(with_it - without).max() > 0.1
    assert await push(full) == 4
    assert abs(await engine.score(SEQUENCES[0].tolist()) - without).max() < 1e-5
    await push(adapter)
    engine.faults = {"leak"}
    with pytest.raises(ValueError, match="still lists an adapter"):
        await push(full)
