"""An engine and a learner of a few tensors, which keep the contracts of the real ones."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from hashlib import blake2b
from itertools import groupby, pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlvr.rollout.engine import Completion, Sampling
from rlvr.rollout.proofs import Proofs
from rlvr.types import Manifest, Span, Stop, fingerprint

__all__ = ["FakeEngine", "FakeLearner", "fake_digest", "fake_logprobs", "fake_scores"]


class FakeEngine:
    """An `Engine` of a few tensors: what it samples follows from live tensors, prompt and seed, and from nothing else.

    A test switches failures on in `faults`: "drop" (a swap changes nothing), "partial" (a swap stops half-way and says
    nothing), "broken" (a swap raises half-way), "hang" (a swap waits for `released`), "slow" (a swap takes `delay_s`),
    "blind" (reading back finds no difference), "deaf" (the canary is answered with NaN), "leak" (full weights leave an
    adapter in). No swap changes a tensor named in `keep`.
    """

    def __init__(self, *, vocabulary: int = 260, end: int = 258, longest: int = 12) -> None:
        self.vocabulary, self.end, self.longest = vocabulary, end, longest
        self.live: dict[str, Any] = {}
        self.proofs = Proofs()
        self.faults: set[str] = set()
        self.keep: set[str] = set()
        self.delay_s = 0.01
        self.script: list[Sequence[int]] = []  # replies to give, in this order, instead of sampled ones
        self.calls: list[str] = []
        self.requests: list[tuple[list[int], Sampling]] = []
        self.sampled: list[tuple[int, str]] = []  # of every token given out: its version, digest of its tensors
        self.released = asyncio.Event()
        self._digest = ""
        self._next: tuple[str, dict[str, Any]] | None = None
        self._unpaused = asyncio.Event()
        self._unpaused.set()

    @property
    def version(self) -> int | None:
        """Give the version of the live tensors; None while they are not proven."""
        return self.proofs.version

    async def start(self) -> None:
        """Hold no tensors yet."""
        self.calls.append("start")

    async def stop(self) -> None:
        """Hold nothing to release."""
        self.calls.append("stop")

    async def generate(self, prompt_ids: Sequence[int], *, sampling: Sampling) -> Completion:
        """Sample token by token; other tasks, a swap among them, get their turn after each."""
        self.calls.append("generate")
        ids = [int(i) for i in prompt_ids]
        self.requests.append((list(ids), sampling))
        script = list(self.script.pop(0)) if self.script else None
        length = len(script) if script else 1 + _seed_of(ids, sampling.seed) % self.longest
        reply: list[int] = []
        logprobs: list[float] = []
        origins: list[tuple[int, str]] = []
        while len(reply) < min(length, sampling.max_tokens):
            await asyncio.sleep(0)
            await self._unpaused.wait()
            row = fake_logprobs(self.live, (ids + reply)[-1], vocabulary=self.vocabulary)
            token = (
                script[len(reply)] if script else self._draw(row, ids + reply, sampling, last=length - 1 - len(reply))
            )
            reply.append(token)
            logprobs.append(float(row[token]))
            origins.append((self.proofs.load, self._digest))
        versions = await self.proofs.versions(load for load, _ in origins)
        self.sampled += zip(versions, (digest for _, digest in origins), strict=True)
        return Completion(
            token_ids=np.array(reply, dtype=np.int32),
            logprobs=np.array(logprobs, dtype=np.float32),
            stop=Stop.END if reply[-1] == self.end else Stop.LENGTH,
            spans=tuple(_spans(versions)),
        )

    async def score(self, token_ids: Sequence[int], *, base: bool = False) -> NDArray[np.float32]:
        """Give log p of every token but the first, whether or not the engine is paused."""
        self.calls.append("score")
        await asyncio.sleep(0)
        if "deaf" in self.faults:
            return np.full(len(token_ids) - 1, np.nan, dtype=np.float32)
        live = {name: t for name, t in self.live.items() if not (base and _is_adapters(name))}
        return fake_scores(live, token_ids, vocabulary=self.vocabulary)

    async def prepare(self, manifest: Manifest, *, skip: Sequence[str] = ()) -> None:
        """Check the bytes as the real engine does, and keep those that have a place in it."""
        from rlvr.weights.manifest import check, open_tensors

        self.calls.append("prepare")
        await asyncio.sleep(0)
        tensors = open_tensors(manifest.path)
        check(manifest, tensors)
        if skip:
            raise ValueError(f"the engine has {skip[0].rpartition('.')[0]} but {skip[0]} was not sent")
        if manifest.kind == "adapter" and not self.live:
            raise ValueError("the engine was not proven to run the base that this adapter belongs to")
        self._next = fingerprint(manifest), tensors

    async def swap(self, manifest: Manifest, *, recompute: bool = False) -> float:
        """Replace the live tensors, a tensor at a time; running requests are kept and wait."""
        self.calls.append("swap")
        if self._next is None or self._next[0] != fingerprint(manifest):
            raise ValueError("other weights were prepared than are to go live")
        tensors, self._next = self._next[1], None
        self._unpaused.clear()
        try:
            await self.proofs.begin()
            await self._replace(manifest, tensors)
        finally:
            self._digest = fake_digest(self.live)
            self._unpaused.set()
        return 0.001

    async def _replace(self, manifest: Manifest, tensors: Mapping[str, Any]) -> None:
        if "hang" in self.faults:
            await self.released.wait()
        if "slow" in self.faults:
            await asyncio.sleep(self.delay_s)
        if manifest.kind != "adapter" and "leak" not in self.faults:
            self.live = {name: tensor for name, tensor in self.live.items() if not _is_adapters(name)}
        names = sorted(tensors)[: len(tensors) // 2] if "partial" in self.faults else sorted(tensors)
        for name in [] if "drop" in self.faults else names:
            await asyncio.sleep(0)
            if name not in self.keep:
                self.live[name] = tensors[name]
            if "broken" in self.faults:
                raise RuntimeError("the engine broke within a swap")

    async def read_back(self, manifest: Manifest, *, seed: int, whole: bool = False) -> int:
        """Compare every live tensor with the manifest's bytes."""
        import torch

        from rlvr.weights.manifest import open_tensors

        self.calls.append("read_back")
        await asyncio.sleep(0)
        if manifest.kind != "adapter" and "blind" not in self.faults and any(map(_is_adapters, self.live)):
            raise ValueError("the engine still lists an adapter")
        for name, sent in open_tensors(manifest.path).items():
            if "blind" not in self.faults and not (name in self.live and torch.equal(self.live[name], sent)):
                raise ValueError(f"{name} differs between engine and learner")
        return len(manifest.tensors)

    async def stamp(self, version: int) -> None:
        """See `Proofs.stamp`."""
        self.calls.append("stamp")
        await self.proofs.stamp(version)

    async def reject(self, reason: str) -> None:
        """See `Proofs.reject`."""
        self.calls.append("reject")
        await self.proofs.reject(reason)

    def _draw(self, row: NDArray[np.float64], ids: list[int], sampling: Sampling, *, last: int) -> int:
        if not last:
            return self.end
        if not sampling.temperature:
            return int(row.argmax())
        noise = np.random.default_rng(_seed_of([*ids, *self._digest.encode()], sampling.seed)).gumbel(size=len(row))
        return int((row / sampling.temperature + noise).argmax())


class FakeLearner:
    """The learner's side of the weight service: bfloat16 tensors that follow from the version alone."""

    SHAPES: Mapping[str, tuple[int, ...]] = {
        "lm_head.weight": (16, 16),
        "model.embed_tokens.weight": (16, 16),
        "model.layers.0.mlp.down_proj.weight": (16, 16),
        "model.norm.weight": (16,),
    }

    ADAPTER: Mapping[str, tuple[int, ...]] = {
        "model.layers.0.mlp.down_proj.lora_A.weight": (4, 16),
        "model.layers.0.mlp.down_proj.lora_B.weight": (16, 4),
    }

    def __init__(self, *, vocabulary: int = 260) -> None:
        self.vocabulary = vocabulary

    def adapter(self, version: int, *, perturbed: bool = False) -> dict[str, Any]:
        """Give an adapter for the tensors of version 0, or that copy of it which the self-test pushes."""
        import torch

        noise = torch.Generator().manual_seed(2 * version + perturbed)
        return {name: torch.randn(shape, generator=noise).bfloat16() for name, shape in self.ADAPTER.items()}

    def tensors(self, version: int, *, perturbed: bool = False) -> dict[str, Any]:
        """Give all tensors of a version, or that copy of them which the self-test pushes."""
        import torch

        noise = torch.Generator().manual_seed(version)
        named = {}
        for place, (name, shape) in enumerate(self.SHAPES.items()):
            base = torch.randn(shape, generator=torch.Generator().manual_seed(1000 + place))
            named[name] = base + 0.1 * torch.randn(shape, generator=noise)
            if perturbed:
                named[name] *= 1.0 + 0.2 * torch.randn(shape, generator=noise)
        return {name: tensor.bfloat16() for name, tensor in named.items()}

    async def export(
        self, *, version: int, folder: str, sequences: Sequence[NDArray[np.int32]], perturbed: bool,
        part: str = "model",
    ) -> tuple[Manifest, list[NDArray[np.float32]]]:  # fmt: skip
        """Write the tensors, or the base of an adapter or the adapter alone, and score the canary with the same."""
        from rlvr.weights.export import export

        if part == "model":
            live = sent = self.tensors(version, perturbed=perturbed)
        elif part == "base":
            live = sent = self.tensors(0, perturbed=perturbed)
        else:
            sent = self.adapter(version, perturbed=perturbed)
            live = self.tensors(0) | sent
        kind, stem = "adapter" if part == "adapter" else "full", "version-base" if part == "base" else "version"
        manifest = export(sent.items(), version=version, folder=folder, kind=kind, stem=stem)
        return manifest, [fake_scores(live, ids, vocabulary=self.vocabulary) for ids in sequences]


def _spans(versions: Sequence[int]) -> Iterator[Span]:
    start = 0
    for version, run in groupby(versions):
        stop = start + len(list(run))
        yield Span(start=start, stop=stop, version=version)
        start = stop


def _is_adapters(name: str) -> bool:
    """Tell whether a tensor is a part of an adapter."""
    return ".lora_" in name


def fake_digest(tensors: Mapping[str, Any]) -> str:
    """Give one digest of names and bytes."""
    from rlvr.weights.manifest import digest

    return blake2b("".join(f"{n}{digest(t)}" for n, t in sorted(tensors.items())).encode(), digest_size=8).hexdigest()


def fake_logprobs(tensors: Mapping[str, Any], token: int, *, vocabulary: int) -> NDArray[np.float64]:
    """Give log p of every next token [V]: random features of all tensors, turned by the token before."""
    weights = np.concatenate([t.float().numpy().ravel() for _, t in sorted(tensors.items())])
    logits = 4.0 * _features(vocabulary, len(weights)) @ np.roll(weights, token) / np.sqrt(len(weights))
    return logits - np.logaddexp.reduce(logits)


def fake_scores(tensors: Mapping[str, Any], token_ids: Iterable[int], *, vocabulary: int) -> NDArray[np.float32]:
    """Give log p of every token but the first [T-1], nats."""
    pairs = pairwise(int(i) for i in token_ids)
    return np.array([fake_logprobs(tensors, a, vocabulary=vocabulary)[b] for a, b in pairs], dtype=np.float32)


@lru_cache(maxsize=4)
def _features(vocabulary: int, size: int) -> NDArray[np.float64]:
    return np.random.default_rng(0).standard_normal((vocabulary, size))


def _seed_of(ids: Sequence[int], seed: int | None) -> int:
    return int.from_bytes(blake2b(f"{list(ids)} {seed}".encode(), digest_size=6).digest(), "big")
