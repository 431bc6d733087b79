"""The weight service as a Ray actor."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from rlvr.errors import LostWorkerError, brief, unwrapped
from rlvr.types import Canary, Manifest, Receipt
from rlvr.weights.export import export, export_for_hosts
from rlvr.weights.sender import Sender
from rlvr.weights.service import Fault, Published, WeightService, Worker

__all__ = ["WeightServiceActor"]

# How what is exported is written; the base of an adapter stays, beside the adapter's versions.
FILES: dict[str, dict[str, Any]] = {"model": {}, "base": {"stem": "version-base"}, "adapter": {"kind": "adapter"}}
FIRST = -2  # below every version, that of a self-test before a warm start too


@ray.remote(num_cpus=0)
class WeightServiceActor:
    """Wires the plain service to the learner's and the workers' handles."""

    def __init__(
        self, learner: Any, workers: dict[str, Any], *, sequences: Sequence[NDArray[np.int32]], folder: str,
        deadline_s: float, fault: Fault | None, transport: str, adapter: bool = False,
    ) -> None:  # fmt: skip
        write = partial(_export_here, token=secrets.token_hex(16)) if transport == "tcp" else export
        self._exported, self._progress = FIRST, asyncio.Condition()

        async def export_there(*, part: str = "adapter" if adapter else "model", **request: Any) -> Any:
            answer = await learner.export.remote(partial(write, **FILES[part]), part=part, **request)
            async with self._progress:
                self._exported = request["version"]
                self._progress.notify_all()
            return answer

        send = (
            None
            if transport not in ("ipc", "nccl")
            else partial(
                learner.send.remote, partial(Sender, transport, _RayCall(list(workers.values())), workers=len(workers))
            )
        )
        self._service = WeightService(
            export_there, {name: _worker(name, handle) for name, handle in workers.items()}, sequences=sequences,
            folder=folder, deadline_s=deadline_s, fault=fault, send=send,
            base=partial(export_there, part="base") if adapter else None,
        )  # fmt: skip

    async def self_test(self, version: int) -> dict[str, float]:
        """See `WeightService.self_test`."""
        with unwrapped():
            return await self._service.self_test(version)

    async def publish(self, version: int) -> Published:
        """See `WeightService.publish`."""
        with unwrapped():
            return await self._service.publish(version)

    async def exported(self, version: int) -> None:
        """Return once the learner has written a version down, so that it may change its weights again."""
        async with self._progress:
            await self._progress.wait_for(lambda: self._exported >= version)

    async def join(self, name: str, handle: Any, started: Any) -> Receipt:
        """See `WeightService.join`. Ray waits for `started`, what the worker's start gives, before it calls this."""
        with unwrapped():
            return await self._service.join(name, _worker(name, handle))

    async def inject(self, fault: Fault | None) -> None:
        """Break the push of a version to come."""
        self._service.fault = fault

    async def leave(self, name: str) -> None:
        """See `WeightService.leave`."""
        self._service.leave(name)

    def close(self) -> None:
        """See `WeightService.close`."""
        self._service.close()


def _worker(name: str, handle: Any) -> Worker:
    """Give the ways to a worker; one that dies while a version is brought to it is lost."""

    async def receive(manifest: Manifest, canary: Canary, **how: Any) -> Receipt:
        try:
            return await handle.receive.remote(manifest, canary, **how)
        except (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError) as error:
            raise LostWorkerError(name, f"died as it took up version {manifest.version} ({brief(error)})") from error

    return Worker(receive=receive, kill=partial(ray.kill, handle, no_restart=True))


def _export_here(
    tensors: Any, *, version: int, folder: str, token: str, kind: str = "full", stem: str = "version"
) -> Manifest:
    """Write a version on the learner's host, and offer it there to the other nodes."""
    host = ray.util.get_node_ip_address()
    return export_for_hosts(tensors, version=version, folder=folder, token=token, host=host, kind=kind, stem=stem)


class _RayCall:
    """Runs one step of a transfer on all workers, from within the learner's process."""

    def __init__(self, workers: Sequence[Any]) -> None:
        self._workers = list(workers)

    def __call__(self, step: str, payloads: Sequence[Any]) -> None:
        pairs = zip(self._workers, payloads, strict=True)
        ray.get([worker.transfer.remote(step, payload) for worker, payload in pairs])
