"""Push a LoRA adapter alone into a real engine, and merged into another, and compare what the two compute.

nice -n 5 python benchmarks/adapter_push.py > adapter_push.json     # --files FOLDER keeps and reuses the weights

SmolLM2-135M with rank 16 on all linear layers, on CPU, one engine at a time. Two adapters: `trained` by supervised
updates on demonstrations of the arithmetic environment, and `drawn`, whose matrices B are noise, so that replies are
long and near ties are many. Beside each comparison stands what the merged engine differs from itself by.
"""

from __future__ import annotations

import argparse
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
from rlvr.observe.libraries import bfloat16_instructions
from rlvr.plugins import ENVIRONMENTS, create
from rlvr.rollout.engine import Completion, EngineSettings, Sampling
from rlvr.rollout.render import Renderer
from rlvr.rollout.vllm_engine import VllmEngine
from rlvr.types import Manifest, fingerprint
from rlvr.weights.export import export
from rlvr.weights.manifest import describe, open_tensors

RANK, REPLIES, TOKENS, PUSHES = 16, 64, 48, 20
UPDATES, BATCH = 8, 32  # of the warm start
PRECISION = "bfloat16" if bfloat16_instructions() else "float32"
NOISE = 0.02  # of the drawn B, per number
Tokens = list[list[int]]


def main() -> int:
    """Print figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=Path)
    model, environment = prepare("smollm2-135m"), create(ENVIRONMENTS, "arithmetic", {})
    renderer = Renderer(model)
    tasks = itertools.islice(environment.tasks("eval", seed=0), REPLIES)
    prompts = [renderer.prompt(task.messages).tolist() for task in tasks]
    with tempfile.TemporaryDirectory(prefix="rlvr-bench-", dir="/dev/shm") as scratch:
        folder = parser.parse_args().files or Path(scratch)
        if not (folder / "drawn-merged-1.safetensors").exists():
            write(model, renderer, environment, folder)
        made = {"base": read(folder / "base-0.safetensors")}
        for name in ("trained", "drawn"):
            alone = read(folder / f"{name}-1.safetensors", kind="adapter")
            made[name] = dataclasses.replace(alone, base=fingerprint(made["base"]))
            made[f"{name} merged"] = read(folder / f"{name}-merged-1.safetensors")
        found = asyncio.run(measured(model, made, prompts, Path(scratch)))
    print(json.dumps(found, indent=1))
    return 0


def read(path: Path, *, kind: str = "full") -> Manifest:
    """Give the manifest of a file."""
    return Manifest(version=1, kind=kind, tensors=describe(open_tensors(path).items()), path=str(path))


def write(model: Path, renderer: Renderer, environment: Any, folder: Path) -> None:
    """Write the base, and each adapter alone and merged."""
    settings = AdapterSettings(kind="lora", rank=RANK, alpha=2.0 * RANK)
    learner = Learner(
        model, Algorithm(learning_rate=1e-4), tokens_per_microbatch=4096, precision=PRECISION, adapter=settings
    )
    export(learner.tensors("base"), version=0, folder=str(folder), stem="base")

    def both(name: str) -> None:
        export(learner.tensors("adapter"), version=1, folder=str(folder), kind="adapter", stem=name)
        export(learner.tensors(), version=1, folder=str(folder), stem=f"{name}-merged")

    conversations = itertools.islice(environment.demonstrations(seed=1), UPDATES * BATCH)
    shown = [(renderer.prompt(c[:-1]), renderer.reply(c)) for c in conversations]
    for told in warm_start(learner, shown, SftSettings(batch_size=BATCH, learning_rate=2e-4)):
        note(f"update {told['update']:g}, loss {told['loss']:.3f}")
    both("trained")
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, p in learner.model.named_parameters():
            if ".lora_B." in name:
                p.copy_(NOISE * torch.randn(p.shape, generator=draw))
    both("drawn")


def note(text: str) -> None:
    """Tell how far it has come."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


async def measured(model: Path, made: dict[str, Manifest], prompts: Tokens, folder: Path) -> dict[str, Any]:
    """Measure the engine with adapters, then the one without, and compare them."""
    found: dict[str, Any] = {
        "precision": PRECISION,
        "bytes": {n: m.bytes for n, m in made.items()},
        "load": os.getloadavg()[0],
    }
    sampled, greedy = {}, {}
    async with Running(model, rank=RANK) as engine:
        await engine.push(made["base"])
        _, found["decode, room for an adapter, none there"] = await engine.sample(prompts)
        for name in ("trained", "drawn"):
            await engine.push(made[name])
            greedy[name], _ = await engine.sample(prompts, temperature=0.0)
            sampled[name], found[f"decode, {name} adapter"] = await engine.sample(prompts)
            note(f"{name} adapter sampled")
        found["adapter pushes"] = await engine.pushes(folder, made["drawn"], prompts)
        note("adapters pushed")
    async with Running(model, rank=0) as engine:
        await engine.push(made["base"])
        await engine.sample(prompts)
        for name in ("trained", "drawn"):
            replies, ours = [r.token_ids for r in sampled[name]], [r.logprobs for r in sampled[name]]
            moved = apart(ours, await engine.score(prompts, replies))
            await engine.push(made[f"{name} merged"])
            first, _ = await engine.sample(prompts, temperature=0.0)
            again, found[f"decode, {name} merged"] = await engine.sample(prompts)
            theirs = await engine.score(prompts, replies)
            own = await engine.score(prompts, [r.token_ids for r in again])
            repeated, _ = await engine.sample(prompts, temperature=0.0)
            found[name] = {
                "mean |difference of log-probability|, adapter and merged": apart(ours, theirs),
                "the same, merged engine alone, sampling and scoring": apart([r.logprobs for r in again], own),
                "the same, adapter and base": moved,
                "equal greedy replies": equal(greedy[name], first),
                "equal greedy replies, merged engine twice": equal(first, repeated),
                "tokens of a greedy reply": statistics.mean(len(r.token_ids) for r in first),
            }
            await engine.push(made["base"])
            note(f"{name} compared")
        await engine.push(made["drawn merged"])
        found["merged pushes"] = await engine.pushes(folder, made["drawn merged"], prompts)
    return found


class Running:
    """An engine that runs within the block."""

    def __init__(self, model: Path, *, rank: int) -> None:
        settings = EngineSettings(
            model=str(model),
            kind="cpu",
            max_model_len=512,
            max_num_seqs=64,
            kv_cache_gib=1,
            lora_rank=rank,
            dtype=PRECISION,
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

    async def pushes(self, folder: Path, manifest: Manifest, prompts: Tokens) -> dict[str, Any]:
        """Push the same tensors under new paths, with 16 requests running; give median and longest."""
        told: list[dict[str, float]] = []
        seeds = itertools.count()

        async def busy() -> None:
            while len(told) < PUSHES:
                await self.vllm.generate(prompts[0], sampling=Sampling(max_tokens=240, seed=next(seeds)))

        asked = [asyncio.create_task(busy()) for _ in range(16)]
        await asyncio.sleep(1)
        for number in range(PUSHES):
            path = folder / f"push-{number}.safetensors"
            shutil.copyfile(manifest.path, path)
            told.append(await self.push(dataclasses.replace(manifest, path=str(path))))
            path.unlink()
        await asyncio.gather(*asked)
        both = {k: (statistics.median(t[k] for t in told), max(t[k] for t in told)) for k in told[0]}
        return both | {"stalls": [round(t["stall"], 4) for t in told], "replies meanwhile": next(seeds)}

    async def sample(self, prompts: Tokens, *, temperature: float = 1.0) -> tuple[list[Completion], float]:
        """Give a reply to each prompt, once the prompts are in the cache, and the tokens a second."""
        seeds = [Sampling(max_tokens=TOKENS, temperature=temperature, seed=n) for n in range(len(prompts))]
        once = Sampling(max_tokens=1, temperature=0.0)
        await asyncio.gather(*(self.vllm.generate(p, sampling=once) for p in prompts))
        start = time.perf_counter()
        said = await asyncio.gather(*(self.vllm.generate(p, sampling=s) for p, s in zip(prompts, seeds, strict=True)))
        return said, sum(len(one.token_ids) for one in said) / (time.perf_counter() - start)

    async def score(self, prompts: Tokens, replies: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Give log p of the replies' tokens."""
        pairs = zip(prompts, replies, strict=True)
        found = await asyncio.gather(*(self.vllm.score([*p, *r.tolist()]) for p, r in pairs))
        return [one[len(p) - 1 :] for one, p in zip(found, prompts, strict=True)]


def apart(ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> float:
    """Give the mean |difference|."""
    return float(np.mean(np.abs(np.concatenate(ours) - np.concatenate(theirs))))


def equal(ours: Sequence[Completion], theirs: Sequence[Completion]) -> int:
    """Count the replies that are equal to the last token."""
    return sum(a.token_ids.tolist() == b.token_ids.tolist() for a, b in zip(ours, theirs, strict=True))


if __name__ == "__main__":
    sys.exit(main())
