"""The weight law on the real vLLM: every tensor in turn left out or stale, with a tied output head and with its own.

Weights A are the model's own, weights B are the self-test's perturbed copy of them (every weight times 1 + 0.2 e).
"""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
import torch

from rlvr.errors import BoundaryError, EngineError, WeightProofError
from rlvr.learner.algorithm import Algorithm
from rlvr.learner.step import Learner
from rlvr.rollout.engine import EngineSettings, Sampling
from rlvr.rollout.runner import RolloutSettings, Runner
from rlvr.rollout.vllm_engine import VllmEngine
from rlvr.testing import tiny_model
from rlvr.types import Manifest
from rlvr.weights.export import export
from rlvr.weights.faults import REFUSED, Fault
from rlvr.weights.service import CANARY_FLOOR, CANARY_SLACK, WeightService, Worker

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(900)]

TEXT = "What is 12 + 7? Answer with a number, please. "
PROMPT = [257, *(TEXT * 3).encode()[:120]]  # longer than three blocks of the prefix cache
SEQUENCES = tuple(
    np.array([257, *np.random.default_rng(n).permutation(list(TEXT.encode() + TEXT.upper().encode()))[:63]], np.int32)
    for n in range(4)
)
# Engine and learner with the same weights are about 0.02 nats per token apart in bfloat16, with other weights about 1.
NOISE = {"bfloat16": 0.04, "float32": 1e-4}

# A tied model cannot hold different bytes for these two.
SHARED = ("lm_head.weight", "model.embed_tokens.weight")

Tensors = dict[str, torch.Tensor]


@dataclass
class World:
    """One engine, the learner beside it, and two sets of weights with their canaries."""

    name: str
    engine: VllmEngine
    learner: Learner
    folder: Path
    precision: str
    a: Tensors = field(default_factory=dict)
    b: Tensors = field(default_factory=dict)
    canary_a: tuple[np.ndarray, ...] = ()
    canary_b: tuple[np.ndarray, ...] = ()
    files: int = 100

    def write(self, tensors: Tensors) -> Manifest:
        self.files += 1
        return export(tensors.items(), version=self.files, folder=str(self.folder))

    async def load(self, tensors: Tensors) -> Manifest:
        manifest = self.write(tensors)
        await self.engine.prepare(manifest)
        await self.engine.swap(manifest)
        for whole in (False, True):
            assert await self.engine.read_back(manifest, seed=manifest.version, whole=whole) == len(tensors)
        await self.engine.stamp(0)
        return manifest

    @property
    def noise(self) -> float:
        return NOISE[self.precision]

    def bound(self, error: float) -> float:
        """Give the bound that a self-test with this error sets."""
        return max(CANARY_FLOOR[self.precision], CANARY_SLACK * error)

    async def error(self, truth: tuple[np.ndarray, ...]) -> float:
        scored = [await self.engine.score(ids.tolist()) for ids in SEQUENCES]
        return float(np.mean(np.abs(np.concatenate(scored) - np.concatenate(truth))))


@pytest_asyncio.fixture(
    loop_scope="module", scope="module", params=[("tied", "bfloat16"), ("untied", "float32")], ids=" ".join
)
async def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    name, precision = request.param
    folder = tiny_model(tmp_path_factory.mktemp("model"), tied=name == "tied", seed=3)
    learner = Learner(folder, Algorithm(learning_rate=1e-3), tokens_per_microbatch=256, threads=1, precision=precision)
    core = min(os.sched_getaffinity(0))  # one is enough for a tiny model, and threads would wait for each other
    settings = EngineSettings(
        model=str(folder), kind="cpu", max_model_len=640, max_num_seqs=16, kv_cache_gib=1, cores=(core,),
        dtype=precision,
    )  # fmt: skip
    engine = VllmEngine(settings)
    await engine.start()
    try:
        here = World(name, engine, learner, tmp_path_factory.mktemp("weights"), precision)
        here.a = {name: t.clone() for name, t in learner.tensors()}
        here.canary_a = tuple(learner.score(SEQUENCES))
        with learner.perturbed():
            here.b = {name: t.clone() for name, t in learner.tensors()}
            here.canary_b = tuple(learner.score(SEQUENCES))
        yield here
    finally:
        await engine.stop()


def names_of(world: World) -> list[str]:
    names = sorted(world.a)
    assert "lm_head.weight" in names and len(names) == 21
    return names


async def test_right_weights_are_proven_whole(world: World) -> None:
    for tensors, truth in ((world.a, world.canary_a), (world.b, world.canary_b)):
        manifest = await world.load(tensors)
        assert len(manifest.tensors) == 21
        assert await world.error(truth) < world.noise


async def test_every_tensor_left_out_of_a_push_is_named_and_nothing_live_is_touched(world: World) -> None:
    await world.load(world.a)
    true = world.write(world.b)
    for name in names_of(world):
        with pytest.raises(ValueError, match=f"the engine has .* but {name} was not sent"):
            await world.engine.prepare(true, skip=[name])
        with pytest.raises((ValueError, BoundaryError), match="no weights are prepared"):
            await world.engine.swap(true)
    assert await world.error(world.canary_a) < world.noise
    await world.engine.stamp(1)
    said = await world.engine.generate(PROMPT, sampling=Sampling(max_tokens=4, seed=1))
    assert [s.version for s in said.spans] == [1]


async def test_what_never_went_live_is_seen(world: World) -> None:
    await world.load(world.a)
    new = world.write(world.b)
    await world.engine.prepare(new)
    with pytest.raises(ValueError, match="they never went live"):
        await world.engine.read_back(new, seed=0)
    other = world.write(world.a)
    with pytest.raises((ValueError, BoundaryError), match="other weights were prepared"):
        await world.engine.swap(other)


async def test_every_stale_tensor_is_refused_before_and_seen_after(world: World) -> None:
    """Old bytes of one tensor: the digest refuses them; had they come in, the read-back names them. The canary, alone,
    is measured: how far the engine is from the learner with this one tensor stale.
    """
    await world.load(world.b)
    noise = await world.error(world.canary_b)
    true = world.write(world.b)
    stale_error = {}
    for name in names_of(world):
        stale = world.write(world.b | {name: world.a[name]})
        with pytest.raises(ValueError, match=f"the bytes of {name} do not match"):
            await world.engine.prepare(replace(true, path=stale.path))
        if world.name == "tied" and name in SHARED:  # one live tensor cannot be two
            with pytest.raises(ValueError, match="are one tensor in the engine but differ"):
                await world.engine.prepare(stale)
            continue
        await world.engine.prepare(stale)
        await world.engine.swap(stale)
        assert await world.engine.read_back(stale, seed=0, whole=True) == 21
        with pytest.raises(ValueError, match="differs between engine and learner") as caught:
            await world.engine.read_back(true, seed=0, whole=True)
        assert str(caught.value).split()[0].rpartition(".")[0].rpartition(".")[0] in name
        stale_error[name] = await world.error(world.canary_b)
    moved = float(np.mean(np.abs(np.concatenate(world.canary_a) - np.concatenate(world.canary_b))))
    report(world, noise, moved, stale_error)
    # what the canary can promise alone at this perturbation: in single precision it sees each of them
    seen = min if world.precision == "float32" else max
    assert seen(stale_error.values()) > world.bound(noise)
    await world.load(world.a)


def report(world: World, noise: float, moved: float, stale: dict[str, float]) -> None:
    least = min(stale, key=lambda n: stale[n])
    bound = world.bound(noise)
    unseen = sorted(n for n, error in stale.items() if error <= bound)
    row = {
        "model": world.name, "precision": world.precision, "noise": noise, "moved": moved, "least": least,
        "least_error": stale[least], "ratio": stale[least] / noise, "bound": bound, "unseen_by_canary": unseen,
        "all": stale,
    }  # fmt: skip
    print("CANARY " + json.dumps(row))


async def test_tokens_carry_the_version_that_is_stamped(world: World) -> None:
    await world.load(world.a)
    for version in (3, 4):
        await world.engine.stamp(version)
        said = await world.engine.generate(PROMPT, sampling=Sampling(max_tokens=8, seed=version))
        assert [(s.start, s.stop, s.version) for s in said.spans] == [(0, len(said.token_ids), version)]


async def test_scoring_and_sampling_agree(world: World) -> None:
    await world.load(world.a)
    said = await world.engine.generate(PROMPT, sampling=Sampling(max_tokens=64, seed=11))
    scored = await world.engine.score([*PROMPT, *said.token_ids.tolist()])
    assert np.abs(scored[len(PROMPT) - 1 :] - said.logprobs).mean() < world.noise
    ours = world.learner.score([np.array([*PROMPT, *said.token_ids], np.int32)])[0][len(PROMPT) - 1 :]
    assert np.abs(ours - said.logprobs).mean() < world.noise


async def test_a_seed_repeats_a_reply(world: World) -> None:
    await world.load(world.a)
    await world.engine.stamp(5)
    sampling = [Sampling(max_tokens=32, seed=s) for s in (1, 2, 1)]
    one, two, again = [await world.engine.generate(PROMPT, sampling=s) for s in sampling]
    assert one.token_ids.tolist() == again.token_ids.tolist() != two.token_ids.tolist()
    np.testing.assert_allclose(one.logprobs, again.logprobs, atol=0.05)
    greedy = [await world.engine.generate(PROMPT, sampling=Sampling(max_tokens=8, temperature=0.0)) for _ in range(2)]
    assert greedy[0].token_ids.tolist() == greedy[1].token_ids.tolist()


async def _follows(world: World, *, seed: int) -> float:
    """Sample behind the long prompt and give how far that is from a pass that reads no cache."""
    said = await world.engine.generate(PROMPT, sampling=Sampling(max_tokens=16, seed=seed))
    scored = await world.engine.score([*PROMPT, *said.token_ids.tolist()])
    return float(np.abs(scored[len(PROMPT) - 1 :] - said.logprobs).mean())


async def test_no_version_reads_the_cache_of_another(world: World) -> None:
    await world.load(world.a)
    await world.engine.stamp(6)
    assert await _follows(world, seed=1) < world.noise
    await world.load(world.b)
    await world.engine.stamp(7)
    assert await _follows(world, seed=1) < world.noise


async def test_weights_that_were_only_tested_leave_nothing_in_the_cache(world: World) -> None:
    """The self-test scores its canary with perturbed weights just before the version of that number is served."""
    await world.engine.stamp(0)
    await world.load(world.b)
    await world.engine.score(PROMPT)
    await world.load(world.a)
    await world.engine.stamp(0)
    assert await _follows(world, seed=2) < world.noise


async def test_a_reply_is_held_back_until_its_weights_are_proven(world: World) -> None:
    manifest = world.write(world.a)
    await world.engine.prepare(manifest)
    await world.engine.swap(manifest)
    asked = asyncio.create_task(world.engine.generate(PROMPT, sampling=Sampling(max_tokens=4, seed=1)))
    done, _ = await asyncio.wait({asked}, timeout=2)
    assert not done
    await world.engine.reject("the canary says no")
    with pytest.raises(EngineError, match="weights that were not proven: the canary says no"):
        await asked


@pytest.mark.parametrize("recompute", [False, True])
async def test_requests_that_run_outlive_a_push(world: World, recompute: bool) -> None:
    await world.load(world.a)
    await world.engine.stamp(8)
    manifest = world.write(world.b)
    asked = [
        asyncio.create_task(world.engine.generate(PROMPT, sampling=Sampling(max_tokens=500, seed=s))) for s in range(12)
    ]
    await asyncio.sleep(0.3)
    await world.engine.prepare(manifest)
    stall = await world.engine.swap(manifest, recompute=recompute)
    assert not all(task.done() for task in asked)
    await world.engine.stamp(9)
    replies = await asyncio.gather(*asked)
    assert 0 < stall < 5
    for said in replies:
        assert len(said.logprobs) == len(said.token_ids) and np.isfinite(said.logprobs).all()
        edges = [0, *(s.stop for s in said.spans)]
        assert [s.start for s in said.spans] == edges[:-1] and edges[-1] == len(said.token_ids)
    assert [8, 9] in [[s.version for s in said.spans] for said in replies]


def service_of(world: World, *, fault: Fault | None) -> WeightService:
    """Wire learner, runner and engine as a run does, without Ray."""

    async def export_here(*, version: int, folder: str, sequences: Any, perturbed: bool) -> Any:
        with world.learner.perturbed(perturbed):
            return export(world.learner.tensors(), version=version, folder=folder), world.learner.score(sequences)

    settings = RolloutSettings(max_new_tokens=8, temperature=1.0, max_model_len=64)
    nothing: Any = None
    runner = Runner("worker-0", engine=world.engine, renderer=nothing, environment=None, graders=nothing,
                    settings=settings, payoff=None)  # fmt: skip
    worker = Worker(receive=runner.receive, kill=lambda: None)
    return WeightService(
        export_here, {"worker-0": worker}, sequences=SEQUENCES, folder=str(world.folder / "service"), deadline_s=60,
        fault=fault,
    )  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
async def test_every_fault_ends_in_a_failed_proof(world: World, kind: str) -> None:
    service = service_of(world, fault=Fault(kind=kind, version=2))
    proof = await service.self_test(0)
    assert proof["proven_tensors"] == proof["total_tensors"] == 21
    kept = {n: p.detach().clone() for n, p in world.learner.model.named_parameters()}
    generator = torch.Generator().manual_seed(1)
    try:
        with torch.no_grad():
            for p in world.learner.model.parameters():
                p.mul_(1.0 + 0.02 * torch.randn(p.shape, generator=generator))
        assert (await service.publish(1)).receipts[0].canary_error < world.noise
        with torch.no_grad():
            for p in world.learner.model.parameters():
                p.mul_(1.0 + 0.02 * torch.randn(p.shape, generator=generator))
        with pytest.raises(WeightProofError, match="worker=worker-0 version=2 ") as caught:
            await service.publish(2)
        print(f"FAULT {world.name} {kind}: WeightProofError: {caught.value}")
    finally:
        with torch.no_grad():
            for n, p in world.learner.model.named_parameters():
                p.copy_(kept[n])
        service.close()


@pytest.mark.parametrize("kind", ["weights.duplicate", "weights.reorder", "weights.slow"])
async def test_what_an_engine_can_take_leaves_it_as_it_was(world: World, kind: str) -> None:
    """Deliveries twice, out of order and late; test_faults.py has the faults that a worker does not live through."""
    service = service_of(world, fault=Fault(kind=kind, version=1))
    try:
        await service.self_test(0)
        published = await service.publish(1)
        assert len(published.receipts) == 1 and len(published.notes) == 1
        said = await world.engine.generate(PROMPT, sampling=Sampling(max_tokens=8, seed=1))
        assert {span.version for span in said.spans} == {1}
        assert await world.error(world.canary_a) < world.noise
    finally:
        service.close()
