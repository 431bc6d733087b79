"""Adapters pushed alone into the real vLLM: proven with and without, in flight, and every way to be wrong named."""

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio
import torch

from rlvr.errors import WeightProofError
from rlvr.learner.adapter import AdapterSettings
from rlvr.learner.algorithm import Algorithm
from rlvr.learner.step import Learner
from rlvr.rollout.engine import EngineSettings, Sampling
from rlvr.rollout.runner import RolloutSettings, Runner
from rlvr.rollout.vllm_engine import VllmEngine
from rlvr.testing import tiny_model
from rlvr.types import Manifest, fingerprint
from rlvr.weights.export import export
from rlvr.weights.faults import Fault
from rlvr.weights.service import WeightService, Worker

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(900)]

PROMPT = [257, *b"What is 12 + 7? Answer with a number, please. " * 2]
SEQUENCES = tuple(
    np.array([257, *np.random.default_rng(n).permutation(np.arange(32, 120))[:63]], np.int32) for n in range(4)
)
NOISE = {"bfloat16": 0.04, "float32": 1e-4}  # nats per token between engine and learner with the same weights
FULL, ADAPTED = 21, 28  # tensors
Q_PROJ = "model.layers.1.self_attn.q_proj"


class Engine(VllmEngine):
    """The engine of the product, whose processes a test can reach into."""

    def _arguments(self) -> dict[str, Any]:
        return super()._arguments() | {"worker_extension_cls": "spoiled.Spoiled"}

    async def reach(self, method: str, *arguments: Any) -> None:
        assert all(await self._rpc(method, *arguments))


@dataclass
class World:
    engine: Engine
    learner: Learner
    folder: Path
    base: Manifest
    files: int = 10

    @property
    def noise(self) -> float:
        return NOISE[self.engine.settings.dtype]

    def draw(self, seed: int) -> tuple[Manifest, tuple[np.ndarray, ...]]:
        """Make another adapter, write it and give the learner's canary with it."""
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, p in self.learner.model.named_parameters():
                if ".lora_" in name:
                    p.copy_(0.2 * torch.randn(p.shape, generator=generator))
        self.files += 1
        made = export(self.learner.tensors("adapter"), version=self.files, folder=str(self.folder), kind="adapter")
        return replace(made, base=fingerprint(self.base)), tuple(self.learner.score(SEQUENCES))

    async def push(self, manifest: Manifest, *, version: int = 0) -> int:
        await self.engine.prepare(manifest)
        await self.engine.swap(manifest)
        found = await self.engine.read_back(manifest, seed=0)
        await self.engine.stamp(version)
        return found

    async def error(self, truth: Any, *, base: bool = False) -> float:
        scored = [await self.engine.score(ids.tolist(), base=base) for ids in SEQUENCES]
        return float(np.mean(np.abs(np.concatenate(scored) - np.concatenate(truth))))


@pytest_asyncio.fixture(
    loop_scope="module", scope="module", params=[("tied", "bfloat16"), ("untied", "float32")], ids=" ".join
)
async def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    name, precision = request.param
    folder = tiny_model(tmp_path_factory.mktemp("model"), tied=name == "tied", seed=3)
    adapter = AdapterSettings(kind="rslora", rank=3, alpha=5.0)
    learner = Learner(
        folder, Algorithm(learning_rate=1e-3), tokens_per_microbatch=256, threads=1, adapter=adapter,
        precision=precision,
    )  # fmt: skip
    settings = EngineSettings(
        model=str(folder), kind="cpu", max_model_len=640, max_num_seqs=16, kv_cache_gib=1, lora_rank=3,
        cores=(min(os.sched_getaffinity(0)),), dtype=precision,
    )  # fmt: skip
    engine = Engine(settings)
    await engine.start()
    try:
        weights = tmp_path_factory.mktemp("weights")
        base = export(learner.tensors("base"), version=0, folder=str(weights), stem="version-base")
        yield World(engine, learner, weights, base)
    finally:
        await engine.stop()


async def test_base_and_adapter_are_proven_each_by_itself(world: World) -> None:
    assert await world.push(world.base) == FULL
    assert await world.engine.read_back(world.base, seed=0, whole=True) == FULL
    with world.learner.perturbed(False, part="base"):
        below = world.learner.score(SEQUENCES)
    for seed in (1, 2):
        manifest, truth = world.draw(seed)
        assert await world.push(manifest, version=seed) == ADAPTED == len(manifest.tensors)
        assert await world.error(truth) < world.noise
        assert await world.error(below, base=True) < world.noise < 0.2 < await world.error(below)
        said = await world.engine.generate(PROMPT, sampling=Sampling(max_tokens=8, seed=seed))
        assert [s.version for s in said.spans] == [seed]
        scored = await world.engine.score([*PROMPT, *said.token_ids.tolist()])
        assert np.abs(scored[len(PROMPT) - 1 :] - said.logprobs).mean() < world.noise
    assert await world.push(world.base) == FULL
    assert await world.error(below) < world.noise


async def test_an_adapter_without_its_base_is_refused(world: World) -> None:
    await world.push(world.base)
    manifest, _ = world.draw(3)
    await world.push(manifest)
    with pytest.raises(ValueError, match="was not proven to run the base"):
        await world.engine.read_back(replace(manifest, base="another"), seed=0)


@pytest.mark.parametrize("half", ["A", "B"])
@pytest.mark.parametrize("name", [Q_PROJ, "model.layers.0.mlp.down_proj"])
async def test_a_stale_buffer_is_named(world: World, name: str, half: str) -> None:
    await world.push(world.base)
    manifest, _ = world.draw(4)
    await world.push(manifest)
    await world.engine.reach("spoil", name, half)
    with pytest.raises(ValueError, match=f"{name}.lora_{half}.weight differs between engine and learner"):
        await world.engine.read_back(manifest, seed=0)
    assert await world.push(manifest) == ADAPTED


async def test_a_second_adapter_a_missing_one_and_one_left_behind_are_errors(world: World) -> None:
    await world.push(world.base)
    manifest, _ = world.draw(5)
    for method, listed in (("second", r"\[2\]"), ("forget", r"\[\]")):
        await world.push(manifest)
        await world.engine.reach(method)
        with pytest.raises(ValueError, match=f"lists the adapters {listed}.* instead of the one pushed"):
            await world.engine.read_back(manifest, seed=0)
    await world.push(world.base)
    await world.engine.reach("spoil", Q_PROJ, "B")
    with pytest.raises(ValueError, match=f"still holds {Q_PROJ}.lora_B.weight"):
        await world.engine.read_back(world.base, seed=0)
    await world.push(world.base)
    await world.engine.reach("second")
    with pytest.raises(ValueError, match="still lists the adapters"):
        await world.engine.read_back(world.base, seed=0)
    await world.push(world.base)


async def test_what_does_not_fit_is_refused_before_anything_live_is_touched(world: World) -> None:
    await world.push(world.base)
    good, truth = world.draw(6)
    await world.push(good, version=6)
    new, _ = world.draw(7)
    with pytest.raises(ValueError, match=f"{Q_PROJ}.lora_A.weight was not sent"):
        await world.engine.prepare(new, skip=[f"{Q_PROJ}.lora_A.weight"])
    dtype = getattr(torch, world.engine.settings.dtype)
    one, half = torch.zeros(3, 64, dtype=dtype), torch.zeros(64, 3, dtype=dtype)
    for name, a, said in (
        ("model.layers.9.self_attn.q_proj", one, "1 adapted matrices have no place in the engine, model.layers.9"),
        (Q_PROJ, one[:, :32], "has shape .*, the engine has room for"),
        (Q_PROJ, one.half(), f"is torch.float16, the engine computes in {dtype}"),
        (Q_PROJ, torch.zeros(9, 64, dtype=dtype), "has rank 9 and .* rank 3"),
    ):
        tensors = {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": half}
        wrong = export(tensors.items(), version=99, folder=str(world.folder), kind="adapter")
        with pytest.raises(ValueError, match=said):
            await world.engine.prepare(wrong)
    with pytest.raises(ValueError, match="it never went live"):
        await world.engine.read_back(new, seed=0)
    assert await world.engine.read_back(good, seed=0) == ADAPTED
    assert await world.error(truth) < world.noise


async def test_requests_go_on_across_an_adapter_push(world: World) -> None:
    await world.push(world.base)
    first, _ = world.draw(8)
    await world.push(first, version=8)
    second, truth = world.draw(9)
    sampling = [Sampling(max_tokens=500, seed=s) for s in range(12)]
    asked = [asyncio.create_task(world.engine.generate(PROMPT, sampling=s)) for s in sampling]
    await asyncio.sleep(0.5)
    with pytest.raises(ValueError, match=r"\d+ requests run through the adapter; let them end before it goes"):
        await world.engine.prepare(world.base)
        await world.engine.swap(world.base)
    await world.engine.prepare(second)
    assert 0 < await world.engine.swap(second) < 5
    assert not all(task.done() for task in asked)
    assert await world.engine.read_back(second, seed=0) == ADAPTED
    assert await world.error(truth) < world.noise
    await world.engine.stamp(9)
    versions = [[s.version for s in said.spans] for said in await asyncio.gather(*asked)]
    assert [8, 9] in versions and all(found in ([8], [9], [8, 9]) for found in versions)


async def test_no_request_that_began_without_an_adapter_goes_on_beside_one(world: World) -> None:
    await world.push(world.base)
    manifest, _ = world.draw(10)
    await world.engine.prepare(manifest)
    # Several, since any one of them may end early.
    sampling = [Sampling(max_tokens=500, seed=s) for s in range(12)]
    asked = [asyncio.create_task(world.engine.generate(PROMPT, sampling=s)) for s in sampling]
    await asyncio.sleep(0.2)
    with pytest.raises(ValueError, match=r"\d+ requests run without an adapter; let them end before it comes"):
        await world.engine.swap(manifest)
    await asyncio.gather(*asked)
    assert await world.push(manifest) == ADAPTED


@pytest.mark.parametrize("kind", ["", "weights.corrupt", "weights.drop", "weights.partial", "weights.duplicate"])
async def test_the_law_holds_for_adapters(world: World, kind: str) -> None:
    async def export_here(*, version: int, folder: str, sequences: Any, perturbed: bool, part: Any) -> Any:
        how = {"stem": "version-base"} if part == "base" else {"kind": "adapter"}
        with world.learner.perturbed(perturbed, part=part):
            tensors = world.learner.tensors(part)
            return export(tensors, version=version, folder=folder, **how), world.learner.score(sequences)

    nothing: Any = None
    runner = Runner(
        "worker-0", engine=world.engine, renderer=nothing, environment=None, graders=nothing, payoff=None,
        settings=RolloutSettings(max_new_tokens=8, temperature=1.0, max_model_len=64),
    )  # fmt: skip
    service = WeightService(
        partial(export_here, part="adapter"), {"worker-0": Worker(receive=runner.receive, kill=lambda: None)},
        sequences=SEQUENCES, folder=str(world.folder / "service"), deadline_s=60,
        fault=Fault(kind=kind, version=2) if kind else None, base=partial(export_here, part="base"),
    )  # fmt: skip
    world.draw(11)
    proof = await service.self_test(0)
    assert proof["proven_tensors"] == proof["total_tensors"] == ADAPTED
    world.draw(12)
    receipt = (await service.publish(1)).receipts[0]
    assert receipt.canary_error < world.noise and receipt.base_error is not None and receipt.base_error < world.noise
    world.draw(13)
    if kind in ("", "weights.duplicate"):
        assert (await service.publish(2)).receipts[0].version == 2
    else:
        with pytest.raises(WeightProofError, match="worker=worker-0 version=2 "):
            await service.publish(2)
    service.close()
