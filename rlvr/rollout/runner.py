"""The rollout worker as a plain class: generate, let the environment reply, await the graders, and take new weights."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from rlvr.core.payoff import Payoff, lacks_format, value_of
from rlvr.errors import BoundaryError, EngineError, WeightProofError, boundary
from rlvr.rollout.engine import Completion, Engine, Sampling
from rlvr.rollout.grading import GradingPool
from rlvr.rollout.render import Renderer
from rlvr.rollout.watch import Watch
from rlvr.types import (
    Canary,
    Done,
    Grade,
    Group,
    GroupHeader,
    Interval,
    Manifest,
    Message,
    Receipt,
    Rollout,
    Span,
    Stop,
    Task,
    Ungraded,
    Verdict,
    fingerprint,
)
from rlvr.waiting import gather_or_cancel

__all__ = ["RolloutSettings", "Runner", "header_of", "seed_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RolloutSettings:
    """How replies are sampled, and what becomes of those that the token budget cut."""

    max_new_tokens: int  # over all turns
    temperature: float
    max_model_len: int
    truncated: Literal["score", "wrong", "mask"] = "score"
    in_flight: bool = True  # weights go live under running groups; else those end first
    recompute_kv: bool = False  # then running groups compute their keys and values again


def seed_of(*parts: int | str) -> int:
    """Derive a seed of 63 bits; every rollout of a run has one of its own, whatever worker draws it."""
    words = [p if isinstance(p, int) else int.from_bytes(p.encode(), "little") for p in parts]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0] >> np.uint64(1))


class Runner:
    """Drives one engine. It is fenced until its weights are proven, and again once a push fails.

    During a push groups go on, unless they are to end first: what they sample from weights that are not proven yet
    is held back by the engine.
    """

    def __init__(
        self, name: str, *, engine: Engine, renderer: Renderer, environment: Any, graders: GradingPool,
        settings: RolloutSettings, payoff: Payoff | None,
    ) -> None:  # fmt: skip
        self.name = name
        self.engine, self.renderer, self.environment, self.graders = engine, renderer, environment, graders
        self.settings, self.payoff = settings, payoff
        if settings.truncated == "wrong" and payoff is None:
            raise ValueError('truncated = "wrong" needs a payoff: a score has no least value')
        self._cut = payoff.of(Verdict.WRONG) if payoff and settings.truncated == "wrong" else math.nan
        self._open = asyncio.Event()
        self._served: Receipt | None = None
        self._refused: WeightProofError | None = None  # why it is fenced, where a push failed
        self._push = asyncio.Lock()  # a push that hung must not go on behind the back of a later one
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def run(self, task: Task, group_size: int, seed: int, *, greedy: bool = False) -> tuple[GroupHeader, Group]:
        """Sample and grade one group. Waits while the worker is fenced. Errors: EngineError, BoundaryError."""
        while not self._open.is_set():  # opened and fenced again before this task had its turn: wait on
            await self._open.wait()
        self._running += 1
        self._idle.clear()
        start, watch = time.perf_counter(), Watch()
        try:
            temperature = 0.0 if greedy else self.settings.temperature
            prompt = self.renderer.prompt(task.messages)
            self._check_room(len(prompt))
            samples = [
                self._rollout(task, prompt, index, seed=seed_of(seed, index), temperature=temperature, watch=watch)
                for index in range(group_size)
            ]
            rollouts = await self._unless_refused(gather_or_cancel(samples))
            with watch.over("grade"):
                grades = tuple(await self.graders.grade_group(task, rollouts))
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()
        paid = [self._value(task, *pair) for pair in zip(rollouts, grades, strict=True)]
        values = np.array(paid, dtype=np.float32)
        group = Group(group_id=f"{task.id}-{seed:x}", task=task, rollouts=tuple(rollouts), grades=grades, values=values)
        seconds = time.perf_counter() - start
        return header_of(group, worker=self.name, seed=seed, seconds=seconds, intervals=watch.seen), group

    async def _unless_refused(self, replies: Awaitable[list[Rollout]]) -> list[Rollout]:
        """Await replies; where they fail since a proof did, that is the failure to tell. Errors: WeightProofError."""
        try:
            return await replies
        except EngineError:
            if self._refused:
                raise self._refused from None
            raise

    def _value(self, task: Task, rollout: Rollout, grade: Grade | Ungraded) -> float:
        """Give what a reply is worth by payoff and truncation policy; NaN where it is ungraded or masked."""
        value = value_of(grade, self.payoff, truth=task.truth)
        if not rollout.truncated or self.settings.truncated == "score" or isinstance(grade, Ungraded):
            return value
        return self._cut

    async def receive(self, manifest: Manifest, canary: Canary, *, fault: str = "", serve: bool = True) -> Receipt:
        """Take up a version by the weight law; what it served before, it serves until the new weights go live.

        Order: check bytes and make them ready, swap them in, read back, canary, stamp. After a failure the worker is
        fenced, and without `serve` it is too: the self-test's perturbed weights are proven, but no token may come from
        them. The version that it serves already is answered with the same receipt, and an older one is refused.
        Errors: WeightProofError says what does not hold.
        """
        start, watch = time.perf_counter(), Watch()
        async with self._push:
            if serve and self._served and self.has_seen(manifest):
                return self._again(manifest, self._served)
            try:
                with watch.over("prepare"):
                    await self.engine.prepare(manifest, skip=_skipped(fault, manifest))
                if not (serve and self.settings.in_flight):
                    self._open.clear()
                    await self._idle.wait()
                whole = not serve or self._served is None
                proven, stall, error, below = await self._prove(manifest, canary, fault, whole=whole, watch=watch)
            except BaseException as reason:  # a push that was given up too: nobody will prove what it left behind
                refused = WeightProofError(self.name, manifest.version, str(reason) or type(reason).__name__)
                self._open.clear()
                self._refused = refused
                await self.engine.reject(refused.reason)
                if isinstance(reason, ValueError | BoundaryError):
                    raise refused from reason
                raise
            receipt = Receipt(
                worker=self.name, version=manifest.version, digest=fingerprint(manifest), proven_tensors=proven,
                total_tensors=len(manifest.tensors), canary_error=error, seconds=time.perf_counter() - start,
                stall_seconds=stall, bytes=manifest.bytes, base_error=below, intervals=watch.seen,
            )  # fmt: skip
            if serve:
                await self.engine.stamp(manifest.version)
                self._served, self._refused = receipt, None
                self._open.set()
        return receipt

    def has_seen(self, manifest: Manifest) -> bool:
        """Tell whether a version as new as this one is served already, so that nothing more of it is needed."""
        return self._served is not None and manifest.version <= self._served.version

    def _again(self, manifest: Manifest, served: Receipt) -> Receipt:
        if self._open.is_set() and manifest.version == served.version and fingerprint(manifest) == served.digest:
            return served
        said = f"comes after version {served.version}, which the worker has served: versions only grow"
        if self._refused:
            said = "comes to a worker that is fenced since a push failed: it takes a newer version only"
        raise WeightProofError(self.name, manifest.version, said)

    async def _prove(
        self, manifest: Manifest, canary: Canary, fault: str, *, whole: bool, watch: Watch
    ) -> tuple[int, float, float, float | None]:
        """Give tensors found equal, seconds without generation, and the canary's error, then without an adapter.

        Errors: ValueError.
        """
        stall = 0.0
        if fault != "weights.drop":
            with watch.over("swap"):
                stall = await self.engine.swap(manifest, recompute=self.settings.recompute_kv)
        with watch.over("prove"):
            proven = await self.engine.read_back(manifest, seed=max(0, manifest.version), whole=whole)
            if proven != len(manifest.tensors):
                raise ValueError(f"read back {proven} of {len(manifest.tensors)} tensors")
            error = await self._canary_error(canary, canary.logprobs)
            below = await self._canary_error(canary, canary.base, base=True) if canary.base else None
        return proven, stall, error, below

    async def _canary_error(self, canary: Canary, truth: Sequence[np.ndarray], *, base: bool = False) -> float:
        """Give how far the engine is from the learner, with or without its adapter. Errors: ValueError."""
        scored = await gather_or_cancel([self.engine.score(ids.tolist(), base=base) for ids in canary.sequences])
        gaps = [np.abs(ours - theirs) for ours, theirs in zip(scored, truth, strict=True)]
        error = float(np.mean(np.concatenate(gaps)))
        if not error <= canary.bound:
            which = "the canary without the adapter" if base else "the canary"
            raise ValueError(f"{which} is {error:.4f} nats from the learner, bound {canary.bound:.4f}")
        return error

    async def _rollout(
        self, task: Task, prompt: np.ndarray, index: int, *, seed: int, temperature: float, watch: Watch
    ) -> Rollout:
        start = time.perf_counter()
        transcript = _Transcript(prompt)
        messages: list[Message] = list(task.messages)
        replies: list[str] = []
        stop = Stop.END
        for turn in range(self.settings.max_new_tokens):
            room = self.settings.max_new_tokens - len(transcript.tokens)
            own = seed_of(seed, turn) if temperature else None
            sampling = Sampling(max_tokens=room, temperature=temperature, seed=own)
            with watch.over("generate", lane=index + 1):
                completion = await self.engine.generate(transcript.ids(), sampling=sampling)
            transcript.sampled(completion)
            stop = completion.stop
            replies.append(self.renderer.decode(completion.token_ids))
            messages.append(Message(role="assistant", content=replies[-1]))
            with watch.over("wait", lane=index + 1):
                answer = await self._reply(task, messages) if stop is Stop.END else Done()
            if isinstance(answer, Done):
                break
            gap = self.renderer.between(messages, answer, ended=stop is Stop.END)
            if len(gap) >= self.settings.max_new_tokens - len(transcript.tokens):
                stop = Stop.LENGTH
                break
            transcript.written(gap)
            messages += answer
        return Rollout(
            task_id=task.id, index=index, prompt_ids=prompt, token_ids=np.array(transcript.tokens, dtype=np.int32),
            logprobs=np.array(transcript.logprobs, dtype=np.float32), spans=tuple(transcript.spans),
            messages=tuple(messages), reply=replies[-1], stop=stop, seconds=time.perf_counter() - start,
        )  # fmt: skip

    async def _reply(self, task: Task, messages: Sequence[Message]) -> Sequence[Message] | Done:
        reply = getattr(self.environment, "reply", None)
        if reply is None:
            return Done()
        with boundary("environment"):
            answer: Sequence[Message] | Done = await reply(task, tuple(messages))
            return answer

    def _check_room(self, prompt: int) -> None:
        if prompt + self.settings.max_new_tokens > self.settings.max_model_len:
            raise EngineError(
                f"a prompt of {prompt} tokens and rollout.max_new_tokens = {self.settings.max_new_tokens} exceed "
                f"rollout.max_model_len = {self.settings.max_model_len}; raise it"
            )


class _Transcript:
    """The tokens behind the prompt as they come: sampled ones with their spans, others between them."""

    def __init__(self, prompt: np.ndarray) -> None:
        self.prompt = prompt.tolist()
        self.tokens: list[int] = []
        self.logprobs: list[float] = []
        self.spans: list[Span] = []

    def ids(self) -> list[int]:
        return self.prompt + self.tokens

    def sampled(self, completion: Completion) -> None:
        at = len(self.tokens)
        self.tokens += completion.token_ids.tolist()
        self.logprobs += completion.logprobs.tolist()
        self.spans += [Span(start=at + s.start, stop=at + s.stop, version=s.version) for s in completion.spans]

    def written(self, token_ids: np.ndarray) -> None:
        self.tokens += token_ids.tolist()
        self.logprobs += [0.0] * len(token_ids)


def header_of(
    group: Group, *, worker: str, seed: int, seconds: float, intervals: tuple[Interval, ...] = ()
) -> GroupHeader:
    """Sum a group up for the driver."""
    graded = tuple(not isinstance(grade, Ungraded) for grade in group.grades)
    masked = tuple(known and math.isnan(value) for known, value in zip(graded, group.values.tolist(), strict=True))
    verdicts = ("UNGRADED" if isinstance(g, Ungraded) else g.verdict.value if g.verdict else "" for g in group.grades)
    return GroupHeader(
        group_id=group.group_id,
        task_id=group.task.id,
        worker=worker,
        min_version=min(r.min_version for r in group.rollouts),
        max_version=max(r.max_version for r in group.rollouts),
        values=tuple(group.values.tolist()),
        verdicts=tuple(verdicts),
        graded=graded,
        lengths=tuple(sum(s.stop - s.start for s in r.spans) for r in group.rollouts),
        truncated=tuple(r.truncated for r in group.rollouts),
        seed=seed,
        reasons=tuple(f"{g.boundary}: {g.reason}" for g in group.grades if isinstance(g, Ungraded)),
        unformatted=tuple(None if isinstance(g, Ungraded) else lacks_format(g.parts) for g in group.grades),
        masked=masked if any(masked) else (),
        seconds=seconds,
        intervals=intervals,
    )


def _skipped(fault: str, manifest: Manifest) -> list[str]:
    if fault != "weights.stale_head":
        return []
    return [t.name for t in manifest.tensors if t.name == "lm_head.weight"]
