"""The weight service as a Ray actor."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from rlvr.errors import WeightProofError, brief, unwrapped
from rlvr.types import Canary, Manifest, Receipt
from rlvr.weights.export import export
from rlvr.weights.sender import Sender
from rlvr.weights.service import Fault, WeightService

__all__ = ["WeightServiceActor"]

FIRST = -2  # below every version, that of a self-test before a warm start too


@ray.remote(num_cpus=0)
class WeightServiceActor:
    """Wires the plain service to the learner's and the workers' handles."""

    def __init__(
        self, learner: Any, workers: dict[str, Any], *, sequences: Sequence[NDArray[np.int32]], folder: str,
        deadline_s: float, fault: Fault | None, transport: str,
    ) -> None:  # fmt: skip
        self._exported, self._progress = FIRST, asyncio.Condition()

        async def export_there(**request: Any) -> Any:
            answer = await learner.export.remote(export, **request)
            async with self._progress:
                self._exported = request["version"]
                self._progress.notify_all()
            return answer

        receivers = {name: _receiver(name, handle) for name, handle in workers.items()}
        send = (
            None
            if transport == "shm"
            else partial(
                learner.send.remote, partial(Sender, transport, _RayCall(list(workers.values())), workers=len(workers))
            )
        )
        self._service = WeightService(
            export_there, receivers, sequences=sequences, folder=folder, deadline_s=deadline_s, fault=fault, send=send
        )

    async def self_test(self, version: int) -> dict[str, float]:
        """See `WeightService.self_test`."""
        with unwrapped():
            return await self._service.self_test(version)

    async def publish(self, version: int) -> list[Receipt]:
        """See `WeightService.publish`."""
        with unwrapped():
            return await self._service.publish(version)

    async def exported(self, version: int) -> None:
        """Return once the learner has written a version down, so that it may change its weights again."""
        async with self._progress:
            await self._progress.wait_for(lambda: self._exported >= version)

    async def join(self, worker: str, handle: Any) -> Receipt:
        """See `WeightService.join`."""
        with unwrapped():
            return await self._service.join(worker, _receiver(worker, handle))

    def close(self) -> None:
        """See `WeightService.close`."""
        self._service.close()


def _receiver(name: str, handle: Any) -> Any:
    """Give the call that brings a version to a worker; a worker that dies in it is a proof that failed."""

    async def receive(manifest: Manifest, canary: Canary, **how: Any) -> Receipt:
        try:
            return await handle.receive.remote(manifest, canary, **how)
        except ray.exceptions.RayActorError as error:
            raise WeightProofError(name, manifest.version, f"the worker died: {brief(error)}") from error

    return receive


class _RayCall:
    """Runs one step of a transfer on all workers, from within the learner's process."""

    def __init__(self, workers: Sequence[Any]) -> None:
        self._workers = list(workers)

    def __call__(self, step: str, payloads: Sequence[Any]) -> None:
        pairs = zip(self._workers, payloads, strict=True)
        ray.get([worker.transfer.remote(step, payload) for worker, payload in pairs])
