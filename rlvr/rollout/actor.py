"""The rollout worker as a Ray actor."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import psutil
import ray
from numpy.typing import NDArray

from rlvr import plugins
from rlvr.core.payoff import Payoff
from rlvr.errors import BoundaryError, LostWorkerError, ResourceError, WeightProofError
from rlvr.rollout.engine import EngineSettings
from rlvr.rollout.grading import GradingPool, RewardSpec
from rlvr.rollout.render import Renderer
from rlvr.rollout.runner import RolloutSettings, Runner
from rlvr.rollout.vllm_engine import VllmEngine
from rlvr.types import Canary, Group, GroupHeader, Manifest, Message, Receipt, Task

__all__ = ["RolloutActor"]

# Faults that strike the worker's own process, so many seconds into a push.
SIGNALS = {"weights.kill": signal.SIGKILL, "weights.hang": signal.SIGSTOP}
STRUCK_AFTER_S = 0.05


@ray.remote(num_cpus=0, max_concurrency=4096)
class RolloutActor:
    """A coat around `Runner` with a vLLM engine and a grading pool of its own."""

    def __init__(
        self, name: str, *, engine: EngineSettings, settings: RolloutSettings, payoff: Payoff | None,
        environment: tuple[str, Mapping[str, Any]], rewards: Sequence[RewardSpec], grading: Mapping[str, Any],
        receiver: Any = None,  # brings the bytes of a version to this host, where they are not here already
    ) -> None:  # fmt: skip
        self._engine, self._receiver = VllmEngine(engine), receiver
        self._graders = GradingPool(rewards, **grading)
        self._runner = Runner(
            name,
            engine=self._engine,
            renderer=Renderer(engine.model),
            environment=plugins.create(plugins.ENVIRONMENTS, environment[0], environment[1]),
            graders=self._graders,
            settings=settings,
            payoff=payoff,
        )

    async def start(self) -> tuple[str, list[tuple[int, float]]]:
        """Start graders, then the engine.

        Gives the node, and the processes to end there with the worker: its own, and the engine's, which can outlive
        it; each by its id and the time of its start, since ids come again.
        """
        await asyncio.get_running_loop().run_in_executor(None, self._graders.start)
        await self._engine.start()
        own = psutil.Process()
        engine = [p for p in own.children(recursive=True) if any("VLLM" in word for word in p.cmdline()[:1])]
        return ray.get_runtime_context().get_node_id(), [(p.pid, p.create_time()) for p in [own, *engine]]

    @ray.method(num_returns=2)
    async def run(self, task: Task, group_size: int, seed: int, greedy: bool = False) -> tuple[GroupHeader, Group]:
        """See `Runner.run`. Header and group are two results, so that the driver owns both."""
        try:
            return await self._runner.run(task, group_size, seed, greedy=greedy)
        except BoundaryError as error:
            if "EngineDeadError" in error.reason:
                os._exit(1)  # a worker without its engine is dead: the driver starts another and samples again
            raise

    async def render(self, messages: Sequence[Message]) -> NDArray[np.int32]:
        """Give the token ids of a prompt."""
        return self._runner.renderer.prompt(messages)

    async def render_demonstrations(
        self, conversations: Sequence[Sequence[Message]]
    ) -> list[tuple[NDArray[np.int32], NDArray[np.int32]]]:
        """Give the token ids of prompt and reply of each conversation, whose last message is the reply."""
        renderer = self._runner.renderer
        return [(renderer.prompt(messages[:-1]), renderer.reply(messages)) for messages in conversations]

    async def receive(self, manifest: Manifest, canary: Canary, *, serve: bool = True, fault: str = "") -> Receipt:
        """See `Runner.receive`. Some faults kill this process, or stop it, while it takes the version up."""
        push = asyncio.ensure_future(self._take(manifest, canary, serve=serve, fault=fault))
        if fault in SIGNALS:
            await asyncio.sleep(STRUCK_AFTER_S)
            os.kill(os.getpid(), SIGNALS[fault])
        try:
            return await push
        except WeightProofError as error:
            if "EngineDeadError" in error.reason:
                os._exit(1)  # as in `run`
            raise

    async def _take(self, manifest: Manifest, canary: Canary, *, serve: bool, fault: str) -> Receipt:
        """Bring the bytes of a version to this host, then take it up."""
        if self._receiver is None or (serve and self._runner.has_seen(manifest)):
            return await self._runner.receive(manifest, canary, serve=serve, fault=fault)
        try:
            fetched = await asyncio.get_running_loop().run_in_executor(None, self._receiver.fetch, manifest)
        except ValueError as reason:
            raise WeightProofError(self._runner.name, manifest.version, str(reason)) from reason
        except ResourceError as error:
            raise LostWorkerError(self._runner.name, f"cannot get its weights ({error})") from error
        receipt = await self._runner.receive(fetched.manifest, canary, serve=serve, fault=fault)
        return replace(receipt, wire_bytes=fetched.bytes, fetch_seconds=fetched.seconds)

    async def transfer(self, step: str, payload: Any) -> None:
        """See `VllmEngine.transfer`."""
        await self._engine.transfer(step, payload)

    async def lost_graders(self) -> int:
        """Give the grading processes that somebody else killed."""
        return self._graders.lost

    async def stop(self) -> None:
        """Shut engine and graders down."""
        await self._engine.stop()
        self._graders.close()
        if self._receiver is not None:
            self._receiver.close()
