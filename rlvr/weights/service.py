"""The weight law as a plain class: a version is published, proven on every worker, and only then committed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from rlvr.errors import LostWorkerError, RlvrError, WeightProofError
from rlvr.types import Canary, Manifest, Receipt, fingerprint
from rlvr.waiting import gather_or_cancel
from rlvr.weights import faults
from rlvr.weights.faults import Fault

T = TypeVar("T")

__all__ = ["Fault", "LearnerSide", "Published", "WeightService", "Worker"]

# A canary error below this is never an alarm. Rounding on both sides gives about 0.01 nats a token in half precision,
# and 0.00001 in single.
CANARY_FLOOR = {"bfloat16": 0.05, "float16": 0.05, "float32": 0.001}
# The bound is this many times the error that true weights show at start-up.
CANARY_SLACK = 4.0
# Never above this: an engine that is further from the learner than rounding explains computes something else.
CANARY_CEILING = 0.15
# The perturbation of the self-test must move the canary by at least this many bounds.
CANARY_POWER = 3.0


class LearnerSide(Protocol):
    """What the service asks of the learner."""

    def __call__(
        self, *, version: int, folder: str, sequences: Sequence[NDArray[np.int32]], perturbed: bool
    ) -> Awaitable[tuple[Manifest, list[NDArray[np.float32]]]]:
        """Write the weights, or a visibly perturbed copy of every tensor, and score the canary with the same ones."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """The ways to one worker: bring it a version, and end its process for good.

    `receive` raises WeightProofError where a proof fails, LostWorkerError where the worker or the way to it is gone.
    """

    receive: Callable[..., Awaitable[Receipt]]
    kill: Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """What became of a push."""

    version: int
    receipts: tuple[Receipt, ...]  # of the workers that serve the version; none where all were lost
    lost: Mapping[str, str] = field(default_factory=dict)  # what happened to each worker that was lost, a clause
    notes: tuple[str, ...] = ()  # what an injected fault came to, a sentence each


@dataclass(frozen=True, slots=True)
class _Proven:
    manifest: Manifest
    canary: Canary


class WeightService:
    """Publishes versions to workers. Every wait has a deadline that names who waited for whom.

    A worker that dies or does not answer in time is lost: it is killed, so that it cannot wake up behind a later push,
    and the version is committed without it. A proof that fails is the failure of the whole push.
    """

    def __init__(
        self, export: LearnerSide, workers: Mapping[str, Worker], *, sequences: Sequence[NDArray[np.int32]],
        folder: str, deadline_s: float = 180.0, fault: Fault | None = None,
        send: Callable[[], Awaitable[None]] | None = None, base: LearnerSide | None = None,
    ) -> None:  # fmt: skip
        self.export, self.workers = export, dict(workers)
        self._export_base = base  # where `export` gives an adapter alone: what that belongs on, and never changes
        self._base: _Proven | None = None
        self.sequences, self.folder = tuple(sequences), folder
        self.deadline_s, self.fault = deadline_s, fault
        self.send = send
        self.bound = float("inf")
        self.committed: Manifest | None = None
        self._canary: Canary | None = None
        self._turn = (
            asyncio.Lock()
        )  # of a push or a join, so that nobody joins at a version that is just being replaced

    async def self_test(self, version: int) -> dict[str, float]:
        """Push a perturbed copy of every tensor, see the canary follow it, push the true weights back as `version`.

        Where an adapter is pushed, that goes for its base first, which then stays, and for the adapter on it.
        Gives the canary's error under true weights, its bound from now on, and how far the perturbation moved it,
        all mean |difference| in nats per token. Errors: WeightProofError where the canary does not follow,
        LostWorkerError where a worker is lost so early.
        """
        async with self._turn:
            if self._export_base is not None:
                self._base = _Proven(*(await self._tested(self._export_base, version, serve=False))[:2])
            true, canary, told = await self._tested(self.export, version, serve=True)
            self._commit(true, canary)
        return told

    async def _tested(
        self, export: LearnerSide, version: int, *, serve: bool
    ) -> tuple[Manifest, Canary, dict[str, float]]:
        """Run the self-test on what an export gives. The bound is from then on the widest that a test has found."""
        noisy, expected = await self._export(version, perturbed=True, by=export)
        # rounding grows with the perturbation, so this push is judged below, by how far it moved
        unjudged = Canary(sequences=self.sequences, logprobs=expected, bound=float("inf"))
        followed = _whole(await self._push(noisy, unjudged, serve=False))
        true, truth = await self._export(version, perturbed=False, by=export)
        first = self._canary_of(truth, bound=CANARY_CEILING)
        receipts = _whole(await self._push(true, first, serve=serve))
        error = max(max(receipt.canary_error, receipt.base_error or 0.0) for receipt in receipts)
        floor = max(CANARY_FLOOR[tensor.dtype] for tensor in true.tensors)
        bound = min(CANARY_CEILING, max(floor, CANARY_SLACK * error))
        self.bound = max(bound, self.bound) if self._base else bound
        moved = float(np.mean(np.abs(np.concatenate(truth) - np.concatenate(expected))))
        self._check_power(followed, moved, version)
        told = {"canary_error": error, "canary_bound": self.bound, "canary_moved": moved,
                "proven_tensors": float(min(r.proven_tensors for r in receipts)),
                "total_tensors": float(len(true.tensors))}  # fmt: skip
        return true, replace(first, bound=self.bound), told

    def _canary_of(self, truth: Sequence[NDArray[np.float32]], *, bound: float) -> Canary:
        below = self._base.canary.logprobs if self._base else ()
        return Canary(sequences=self.sequences, logprobs=tuple(truth), bound=bound, base=below)

    async def publish(self, version: int) -> Published:
        """Push the learner's weights as `version`; commit once every worker that is left has proven that it runs them.

        Where none is left the version is committed all the same: it is what the next worker must prove to join.
        """
        async with self._turn:
            if self.committed and version <= self.committed.version:
                raise ValueError(f"versions only grow: {version} after {self.committed.version}")
            manifest, truth = await self._export(version, perturbed=False)
            canary = self._canary_of(truth, bound=self.bound)
            published = await self._push(manifest, canary, serve=True)
            self._commit(manifest, canary)
        return published

    async def join(self, name: str, worker: Worker) -> Receipt:
        """Bring a new worker to the committed version; it serves nothing before that.

        Errors: LostWorkerError where it dies or does not answer; it is then killed.
        """
        async with self._turn:
            if self.committed is None or self._canary is None:
                raise WeightProofError(name, -1, "joined before any version was committed")
            if self.send is not None:
                raise WeightProofError(name, self.committed.version, "cannot join a running ipc or nccl transport")
            try:
                if self._base is not None:
                    await self._deliver(name, worker, self._base.manifest, self._base.canary, serve=False)
                receipt = await self._deliver(name, worker, self.committed, self._canary, serve=True)
            except LostWorkerError:
                worker.kill()
                raise
            self.workers[name] = worker
        return receipt

    def leave(self, name: str) -> None:
        """Send nothing more to a worker that somebody else found dead."""
        self.workers.pop(name, None)

    def close(self) -> None:
        """Remove the files of all versions."""
        for path in Path(self.folder).glob("version-*"):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            Path(self.folder).rmdir()

    async def _export(
        self, version: int, *, perturbed: bool, by: LearnerSide | None = None
    ) -> tuple[Manifest, tuple[NDArray[np.float32], ...]]:
        call = (by or self.export)(version=version, folder=self.folder, sequences=self.sequences, perturbed=perturbed)
        manifest, logprobs = await self._within(call, late=self._late_learner(version, "exporting the weights"))
        if manifest.kind == "adapter" and self._base:
            manifest = replace(manifest, base=fingerprint(self._base.manifest))
        return manifest, tuple(logprobs)

    async def _push(self, manifest: Manifest, canary: Canary, *, serve: bool) -> Published:
        kind = self.fault.kind if serve and self.fault and self.fault.version == manifest.version else ""
        lost: dict[str, str] = {}
        notes: list[str] = []

        async def bring(name: str, worker: Worker, fault: str) -> Receipt | None:
            try:
                return await self._deliver(name, worker, manifest, canary, serve=serve, fault=fault, notes=notes)
            except LostWorkerError as error:
                if self.send is not None:  # the channel to the others is broken too
                    raise
                worker.kill()
                self.leave(name)
                lost[name] = error.reason
                return None

        struck = list(self.workers)[:1] if kind in faults.SURVIVED else list(self.workers)
        async with self._file_of(manifest):
            faults.tamper(manifest, kind)
            calls: list[Awaitable[Receipt | None]] = [
                bring(name, worker, kind if name in struck else "") for name, worker in self.workers.items()
            ]
            # on GPU the learner itself moves the tensors, while the workers wait for them; an adapter lies in its file
            if self.send is not None and manifest.kind != "adapter":
                calls.append(
                    self._within(self.send(), late=self._late_learner(manifest.version, "sending the weights"))
                )
            answers = await gather_or_cancel(calls)  # the first failure tells the truth; those who wait for it do not
        if kind in ("weights.kill", "weights.hang") and struck and not lost:
            raise WeightProofError(struck[0], manifest.version, f"answered, although {kind} was injected")
        receipts = tuple(receipt for receipt in answers if receipt is not None)
        return Published(version=manifest.version, receipts=receipts, lost=lost, notes=tuple(notes))

    async def _deliver(
        self, name: str, worker: Worker, manifest: Manifest, canary: Canary, *, serve: bool, fault: str = "",
        notes: list[str] | None = None,
    ) -> Receipt:  # fmt: skip
        """Bring a version to a worker and see its receipt, over a way that is broken as `fault` says."""
        notes = [] if notes is None else notes
        if fault == "weights.slow":
            await asyncio.sleep(faults.SLOW_S)
        receipt = await self._receipt(name, worker, manifest, canary, serve=serve, fault=fault)
        if fault == "weights.slow":
            notes.append(f"{name} got version {manifest.version} {faults.SLOW_S:g} s late, and proved it")
        if fault == "weights.duplicate":
            if await self._receipt(name, worker, manifest, canary, serve=serve) != receipt:
                raise WeightProofError(name, manifest.version, "took up the same version a second time")
            notes.append(f"{name} got version {manifest.version} twice, and answered with the same receipt")
        if fault == "weights.reorder":
            notes.append(await self._refusal(name, worker, manifest, canary))
        return receipt

    async def _refusal(self, name: str, worker: Worker, manifest: Manifest, canary: Canary) -> str:
        """Bring an older version after a newer one; give the worker's word that it does not take it."""
        older = self.committed or replace(manifest, version=manifest.version - 1)
        try:
            await self._receipt(name, worker, older, self._canary or canary, serve=True)
        except WeightProofError as refusal:
            return f"{name} got version {older.version} after {manifest.version}, and refused it: {refusal.reason}"
        raise WeightProofError(name, older.version, f"was taken up after version {manifest.version}")

    async def _receipt(
        self, name: str, worker: Worker, manifest: Manifest, canary: Canary, *, serve: bool, fault: str = ""
    ) -> Receipt:
        waited = f"left the weight service waiting {self.deadline_s:g} s for its receipt of version {manifest.version}"
        call = worker.receive(manifest, canary, serve=serve, fault=fault)
        receipt = await self._within(call, late=LostWorkerError(name, waited))
        if receipt.version != manifest.version or receipt.digest != fingerprint(manifest):
            raise WeightProofError(name, manifest.version, f"sent a receipt for version {receipt.version}")
        if receipt.proven_tensors != len(manifest.tensors):
            said = f"read back {receipt.proven_tensors} of {len(manifest.tensors)} tensors"
            raise WeightProofError(name, manifest.version, said)
        return receipt

    def _late_learner(self, version: int, what: str) -> WeightProofError:
        return WeightProofError("learner", version, f"the weight service waited {self.deadline_s:g} s for {what}")

    async def _within(self, call: Awaitable[T], *, late: RlvrError) -> T:
        try:
            return await asyncio.wait_for(_resolve(call), timeout=self.deadline_s)
        except TimeoutError as error:
            raise late from error

    @contextlib.asynccontextmanager
    async def _file_of(self, manifest: Manifest) -> AsyncIterator[None]:
        """Remove a version's file where its push fails: nobody will ask for it again."""
        try:
            yield
        except BaseException:
            Path(manifest.path).unlink(missing_ok=True)
            raise

    def _check_power(self, followed: Sequence[Receipt], moved: float, version: int) -> None:
        for receipt in followed:
            if moved < CANARY_POWER * self.bound or receipt.canary_error > moved / CANARY_POWER:
                raise WeightProofError(
                    receipt.worker, version,
                    f"self-test: perturbed weights moved the learner by {moved:.3f} nats, but the engine is "
                    f"{receipt.canary_error:.3f} nats away from it (bound {self.bound:.3f})",
                )  # fmt: skip

    def _commit(self, manifest: Manifest, canary: Canary) -> None:
        if self.committed and self.committed.path != manifest.path:
            Path(self.committed.path).unlink(missing_ok=True)
        self.committed, self._canary = manifest, canary


def _whole(published: Published) -> tuple[Receipt, ...]:
    """Give the receipts of a push that nobody may be missing from. Errors: LostWorkerError."""
    for name, reason in published.lost.items():
        raise LostWorkerError(name, reason)
    return published.receipts


async def _resolve(call: Awaitable[T]) -> T:
    return await call
