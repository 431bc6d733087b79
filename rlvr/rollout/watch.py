"""What a worker does when, for the timeline of a run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rlvr.types import Interval

__all__ = ["Watch"]


class Watch:
    """Notes what goes on for how long."""

    def __init__(self) -> None:
        self._seen: list[Interval] = []

    @property
    def seen(self) -> tuple[Interval, ...]:
        """Give the intervals that are over."""
        return tuple(self._seen)

    @contextmanager
    def over(self, name: str, *, lane: int = 0) -> Iterator[None]:
        """Note how long the block takes, if it ends well."""
        start = time.time()
        yield
        self._seen.append(Interval(name=name, start=start, stop=time.time(), lane=lane))
