"""The weight law as a plain class: a version is published, proven on every worker, and only then committed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from rlvr.errors import WeightProofError
from rlvr.types import Canary, Manifest, Receipt, fingerprint
from rlvr.waiting import gather_or_cancel
from rlvr.weights.export import corrupt, leave_out

T = TypeVar("T")

__all__ = ["FAULTS", "Fault", "LearnerSide", "WeightService", "parse_fault"]

FAULTS = ("weights.corrupt", "weights.drop", "weights.partial", "weights.stale_head")

# A canary error below this is never an alarm: bfloat16 on both sides gives about 0.01 nats a token.
CANARY_FLOOR = 0.05
# The bound is this many times the error that true weights show at start-up.
CANARY_SLACK = 4.0
# Never above this: an engine that is further from the learner than rounding explains computes something else.
CANARY_CEILING = 0.15
# The perturbation of the self-test must move the canary by at least this many bounds.
CANARY_POWER = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A fault to inject at one version, to prove that it is caught."""

    kind: str
    version: int


class LearnerSide(Protocol):
    """What the service asks of the learner."""

    def __call__(
        self, *, version: int, folder: str, sequences: Sequence[NDArray[np.int32]], perturbed: bool
    ) -> Awaitable[tuple[Manifest, list[NDArray[np.float32]]]]:
        """Write the weights, or a visibly perturbed copy of every tensor, and score the canary with the same ones."""
        ...


Receive = Callable[..., Awaitable[Receipt]]


class WeightService:
    """Publishes versions to workers. Every wait has a deadline that names who waited for whom."""

    def __init__(
        self, export: LearnerSide, workers: Mapping[str, Receive], *, sequences: Sequence[NDArray[np.int32]],
        folder: str, deadline_s: float = 180.0, fault: Fault | None = None,
        send: Callable[[], Awaitable[None]] | None = None,
    ) -> None:  # fmt: skip
        self.export, self.workers = export, dict(workers)
        self.sequences, self.folder = tuple(sequences), folder
        self.deadline_s, self.fault = deadline_s, fault
        self.send = send
        self.bound = float("inf")
        self.committed: Manifest | None = None
        self._canary: Canary | None = None

    async def self_test(self, version: int) -> dict[str, float]:
        """Push a perturbed copy of every tensor, see the canary follow it, push the true weights back as `version`.

        Gives the canary's error under true weights, its bound from now on, and how far the perturbation moved it,
        all mean |difference| in nats per token. Errors: WeightProofError where the canary does not follow.
        """
        noisy, expected = await self._export(version, perturbed=True)
        # rounding grows with the perturbation, so this push is judged below, by how far it moved
        unjudged = Canary(sequences=self.sequences, logprobs=expected, bound=float("inf"))
        followed = await self._push(noisy, unjudged, serve=False)
        true, truth = await self._export(version, perturbed=False)
        first = Canary(sequences=self.sequences, logprobs=truth, bound=CANARY_CEILING)
        receipts = await self._push(true, first, serve=True)
        error = max(receipt.canary_error for receipt in receipts)
        self.bound = min(CANARY_CEILING, max(CANARY_FLOOR, CANARY_SLACK * error))
        moved = float(np.mean(np.abs(np.concatenate(truth) - np.concatenate(expected))))
        for receipt in followed:
            if moved < CANARY_POWER * self.bound or receipt.canary_error > moved / CANARY_POWER:
                raise WeightProofError(
                    receipt.worker, version,
                    f"self-test: perturbed weights moved the learner by {moved:.3f} nats, but the engine is "
                    f"{receipt.canary_error:.3f} nats away from it (bound {self.bound:.3f})",
                )  # fmt: skip
        self._commit(true, Canary(sequences=self.sequences, logprobs=truth, bound=self.bound))
        return {"canary_error": error, "canary_bound": self.bound, "canary_moved": moved,
                "proven_tensors": float(min(r.proven_tensors for r in receipts)),
                "total_tensors": float(len(true.tensors))}  # fmt: skip

    async def publish(self, version: int) -> list[Receipt]:
        """Push the learner's weights as `version`; commit once every worker has proven that it runs them."""
        if self.committed and version <= self.committed.version:
            raise ValueError(f"versions only grow: {version} after {self.committed.version}")
        manifest, truth = await self._export(version, perturbed=False)
        canary = Canary(sequences=self.sequences, logprobs=truth, bound=self.bound)
        receipts = await self._push(manifest, canary, serve=True)
        self._commit(manifest, canary)
        return receipts

    async def join(self, worker: str, receive: Receive) -> Receipt:
        """Bring a new or restarted worker to the committed version; it serves nothing before that."""
        if self.committed is None or self._canary is None:
            raise WeightProofError(worker, -1, "joined before any version was committed")
        if self.send is not None:
            raise WeightProofError(worker, self.committed.version, "cannot join a running ipc or nccl transport")
        self.workers[worker] = receive
        return await self._deliver(worker, self.committed, self._canary, serve=True)

    def close(self) -> None:
        """Remove the files of all versions."""
        for path in Path(self.folder).glob("version-*"):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            Path(self.folder).rmdir()

    async def _export(self, version: int, *, perturbed: bool) -> tuple[Manifest, tuple[NDArray[np.float32], ...]]:
        call = self.export(version=version, folder=self.folder, sequences=self.sequences, perturbed=perturbed)
        manifest, logprobs = await self._within(call, worker="learner", version=version, what="exporting the weights")
        return manifest, tuple(logprobs)

    async def _push(self, manifest: Manifest, canary: Canary, *, serve: bool) -> list[Receipt]:
        if serve and self.fault and self.fault.version == manifest.version:
            _tamper(manifest, self.fault.kind)
        calls: list[Awaitable[Receipt | None]] = [
            self._deliver(worker, manifest, canary, serve=serve) for worker in self.workers
        ]
        if self.send is not None:  # on GPU the learner itself moves the tensors, while the workers wait for them
            what = "sending the weights"
            calls.append(self._within(self.send(), worker="learner", version=manifest.version, what=what))
        answers = await gather_or_cancel(calls)  # the first failure tells the truth; those who wait for it do not
        return [receipt for receipt in answers if receipt is not None]

    async def _deliver(self, worker: str, manifest: Manifest, canary: Canary, *, serve: bool) -> Receipt:
        fault = self.fault.kind if serve and self.fault and self.fault.version == manifest.version else ""
        call = self.workers[worker](manifest, canary, serve=serve, fault=fault)
        receipt = await self._within(call, worker=worker, version=manifest.version, what="its receipt")
        if receipt.version != manifest.version or receipt.digest != fingerprint(manifest):
            raise WeightProofError(worker, manifest.version, f"sent a receipt for version {receipt.version}")
        if receipt.proven_tensors != len(manifest.tensors):
            said = f"read back {receipt.proven_tensors} of {len(manifest.tensors)} tensors"
            raise WeightProofError(worker, manifest.version, said)
        return receipt

    async def _within(self, call: Awaitable[T], *, worker: str, version: int, what: str) -> T:
        try:
            return await asyncio.wait_for(_resolve(call), timeout=self.deadline_s)
        except TimeoutError as error:
            reason = f"the weight service waited {self.deadline_s:g} s for {what}"
            raise WeightProofError(worker, version, reason) from error

    def _commit(self, manifest: Manifest, canary: Canary) -> None:
        if self.committed and self.committed.path != manifest.path:
            Path(self.committed.path).unlink(missing_ok=True)
        self.committed, self._canary = manifest, canary


async def _resolve(call: Awaitable[T]) -> T:
    return await call


def parse_fault(text: str) -> Fault:
    """Read FAULT@VERSION. Errors: ValueError names the faults that exist."""
    kind, _, version = text.partition("@")
    if kind not in FAULTS or not version.isdecimal():
        raise ValueError(f"--inject takes FAULT@VERSION with FAULT one of {', '.join(FAULTS)}, not {text!r}")
    return Fault(kind=kind, version=int(version))


def _tamper(manifest: Manifest, kind: str) -> None:
    if kind == "weights.corrupt":
        corrupt(manifest)
    elif kind == "weights.partial":
        leave_out(manifest)
