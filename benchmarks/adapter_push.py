"""Push a LoRA adapter alone into a real engine, and merged into another, and compare what the two compute.

nice -n 5 python benchmarks/adapter_push.py > adapter_push.json

SmolLM2-135M with rank 16 on all linear layers, on CPU, one engine at a time. Two adapters: `trained` by supervised
updates on demonstrations of the arithmetic environment, and `drawn`, whose matrices B are noise, so that replies are
long and near ties are many. `again` is a second run of the merged engine on the same weights: what rounding alone does.
"""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlvr.learner.adapter import AdapterSettings
from rlvr.learner.algorithm import Algorithm
from rlvr.learner.model import prepare
from rlvr.learner.sft import SftSettings, warm_start
from rlvr.learner.step import Learner
from rlvr.plugins import ENVIRONMENTS, create
from rlvr.rollout.engine import EngineSettings, Sampling
from rlvr.rollout.render import Renderer
from rlvr.rollout.vllm_engine import VllmEngine
from rlvr.types import Manifest, fingerprint
from rlvr.weights.export import export

RANK, REPLIES, TOKENS, PUSHES = 16, 64, 48, 20
NOISE = 0.02  # of the drawn B, per number
Replies = list[list[int]]


def main() -> int:
    """Print figures as JSON."""
    model = prepare("smollm2-135m")
    settings = AdapterSettings(kind="lora", rank=RANK, alpha=2.0 * RANK)
    learner = Learner(model, Algorithm(learning_rate=1e-4), tokens_per_microbatch=4096, adapter=settings)
    environment, renderer = create(ENVIRONMENTS, "arithmetic", {}), Renderer(model)
    prompts = [
        renderer.prompt(t.messages).tolist() for t in itertools.islice(environment.tasks("eval", seed=0), REPLIES)
    ]
    with tempfile.TemporaryDirectory(prefix="rlvr-bench-", dir="/dev/shm") as folder:
        made = written(learner, renderer, environment, Path(folder))
        found = asyncio.run(measured(model, made, prompts, Path(folder)))
    print(json.dumps(found, indent=1))
    return 0


def written(learner: Learner, renderer: Renderer, environment: Any, folder: Path) -> dict[str, Manifest]:
    """Write the base, and each adapter alone and merged."""
    made = {"base": export(learner.tensors("base"), version=0, folder=str(folder), stem="base")}

    def write(name: str) -> None:
        alone = export(learner.tensors("adapter"), version=1, folder=str(folder), kind="adapter", stem=name)
        made[name] = dataclasses.replace(alone, base=fingerprint(made["base"]))
        made[f"{name} merged"] = export(learner.tensors(), version=1, folder=str(folder), stem=f"{name}-merged")

    conversations = itertools.islice(environment.demonstrations(seed=1), 256)
    shown = [(renderer.prompt(c[:-1]), renderer.reply(c)) for c in conversations]
    for told in warm_start(learner, shown, SftSettings(batch_size=32, learning_rate=2e-4)):
        print({k: round(v, 4) for k, v in told.items()}, file=sys.stderr)
    write("trained")
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in learner.model.named_parameters():
            if ".lora_B." in name:
                p.copy_(NOISE * torch.randn(p.shape, generator=draw))
    write("drawn")
    return made


async def measured(model: Path, made: dict[str, Manifest], prompts: Replies, folder: Path) -> dict[str, Any]:
    """Measure the engine with adapters, then the one without, and compare them."""
    found: dict[str, Any] = {"bytes": {n: m.bytes for n, m in made.items()}, "load": os.getloadavg()[0]}
    replies, scores = {}, {}
    async with Running(model, rank=RANK) as engine:
        found["decode, adapters enabled, none there"] = await engine.pace(made["base"], prompts)
        await engine.push(made["base"])
        base = [await engine.vllm.score(p) for p in prompts[:8]]
        for name in ("trained", "drawn"):
            found[f"decode, {name} adapter"] = await engine.pace(made[name], prompts)
            replies[name] = await engine.greedy(prompts)
            scores[name] = await engine.scored(prompts, replies[name])
            moved = [await engine.vllm.score(p) for p in prompts[:8]]
            found[f"moved by the {name} adapter, nats"] = apart(base, moved)
        found["adapter pushes"] = await engine.pushes(folder, made["drawn"], prompts)
    async with Running(model, rank=0) as engine:
        for name in ("trained", "drawn"):
            found[f"decode, {name} merged"] = await engine.pace(made[f"{name} merged"], prompts)
            merged, again = await engine.greedy(prompts), await engine.greedy(prompts)
            theirs = await engine.scored(prompts, replies[name])
            found[name] = {
                "mean |difference of log-probability|, nats": apart(scores[name], theirs),
                "equal greedy replies": equal(replies[name], merged),
                "equal greedy replies, again": equal(merged, again),
                "tokens a reply": statistics.mean(map(len, merged)),
            }
        found["merged pushes"] = await engine.pushes(folder, made["drawn merged"], prompts)
    return found


class Running:
    """An engine that runs within the block."""

    def __init__(self, model: Path, *, rank: int) -> None:
        settings = EngineSettings(
            model=str(model), kind="cpu", max_model_len=512, max_num_seqs=64, kv_cache_gib=1, lora_rank=rank
        )
        self.vllm = VllmEngine(settings)

    async def __aenter__(self) -> Running:
        await self.vllm.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.vllm.stop()

    async def push(self, manifest: Manifest) -> dict[str, float]:
        """Push and prove; give the seconds of each part."""
        times = [time.perf_counter()]
        await self.vllm.prepare(manifest)
        times.append(time.perf_counter())
        stall = await self.vllm.swap(manifest)
        times.append(time.perf_counter())
        assert await self.vllm.read_back(manifest, seed=0) == len(manifest.tensors)
        times.append(time.perf_counter())
        await self.vllm.stamp(manifest.version)
        parts = [b - a for a, b in itertools.pairwise(times)]
        return {"prepare": parts[0], "stall": stall, "read back": parts[2]}

    async def pushes(self, folder: Path, manifest: Manifest, prompts: Replies) -> dict[str, Any]:
        """Push the same tensors under new paths, with requests running; give median and longest."""
        sampling = [Sampling(max_tokens=400, seed=seed) for seed in range(16)]
        asked = [asyncio.create_task(self.vllm.generate(prompts[0], sampling=s)) for s in sampling]
        await asyncio.sleep(1)
        told = []
        for number in range(PUSHES):
            path = folder / f"push-{number}.safetensors"
            shutil.copyfile(manifest.path, path)
            running = sum(not task.done() for task in asked)
            told.append(await self.push(dataclasses.replace(manifest, path=str(path))) | {"running": running})
            path.unlink()
        await asyncio.gather(*asked)
        both = {k: (statistics.median(t[k] for t in told), max(t[k] for t in told)) for k in told[0]}
        return both | {"stalls": [round(t["stall"], 4) for t in told], "running last": told[-1]["running"]}

    async def pace(self, manifest: Manifest, prompts: Replies) -> float:
        """Push, and give the tokens a second of 32 replies of 64 tokens at most."""
        await self.push(manifest)
        start = time.perf_counter()
        sampling = [Sampling(max_tokens=64, seed=seed) for seed in range(32)]
        said = await asyncio.gather(
            *(self.vllm.generate(p, sampling=s) for p, s in zip(prompts, sampling, strict=False))
        )
        return sum(len(one.token_ids) for one in said) / (time.perf_counter() - start)

    async def greedy(self, prompts: Replies) -> Replies:
        """Give the likeliest reply to each."""
        sampling = Sampling(max_tokens=TOKENS, temperature=0.0)
        said = await asyncio.gather(*(self.vllm.generate(p, sampling=sampling) for p in prompts))
        return [one.token_ids.tolist() for one in said]

    async def scored(self, prompts: Replies, replies: Replies) -> list[np.ndarray]:
        """Give log p of the replies' tokens."""
        found = await asyncio.gather(*(self.vllm.score(p + r) for p, r in zip(prompts, replies, strict=True)))
        return [one[len(p) - 1 :] for one, p in zip(found, prompts, strict=True)]


def apart(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> float:
    """Give the mean |difference|."""
    return float(np.mean(np.abs(np.concatenate(ours) - np.concatenate(theirs))))


def equal(ours: Replies, theirs: Replies) -> int:
    """Count the replies that are equal to the last token."""
    return sum(a == b for a, b in zip(ours, theirs, strict=True))


if __name__ == "__main__":
    sys.exit(main())
