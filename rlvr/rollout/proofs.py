"""Which loads of weights are proven, and as which version: tokens of the others never leave an engine."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from rlvr.errors import EngineError

__all__ = ["Proofs"]


class Proofs:
    """Numbers every load of weights from 1. A load is pending until it is stamped with a version or rejected.

    An engine labels its tokens with the load that they come from. So weights can go live before they are proven: what
    is sampled from them waits here for the proof.
    """

    def __init__(self) -> None:
        self.load = 0  # the live one; 0: what the engine started with, which nobody proves
        self._verdicts: dict[int, int | str] = {0: "came from weights that the engine started with"}
        self._decided = asyncio.Condition()

    @property
    def version(self) -> int | None:
        """Give the version of the live load; None while it is not proven."""
        verdict = self._verdicts.get(self.load)
        return verdict if isinstance(verdict, int) else None

    async def begin(self) -> int:
        """Count a new load, which is live from now on. One that was still pending can no longer be proven."""
        await self._decide("came from weights that were replaced before they were proven")
        self.load += 1
        return self.load

    async def stamp(self, version: int) -> None:
        """Say that the live load is proven to be `version`."""
        assert self.load == 0 or not isinstance(self._verdicts.get(self.load), str), "a load that was rejected"
        await self._decide(version)

    async def reject(self, reason: str) -> None:
        """Say that the live load could not be proven."""
        await self._decide(f"came from weights that were not proven: {reason}")

    async def versions(self, loads: Iterable[int]) -> list[int]:
        """Wait until every load is decided, and give their versions. Errors: EngineError where one was not proven."""
        found = []
        for load in loads:
            async with self._decided:
                while load not in self._verdicts:
                    await self._decided.wait()
            verdict = self._verdicts[load]
            if isinstance(verdict, str):
                raise EngineError(f"a reply {verdict}")
            found.append(verdict)
        return found

    async def _decide(self, verdict: int | str) -> None:
        async with self._decided:
            if isinstance(verdict, int) or self.load not in self._verdicts:
                self._verdicts[self.load] = verdict
            self._decided.notify_all()
