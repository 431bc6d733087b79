"""Notice that a server is down, so that questions to it fail at once and only a probe now and then waits for it."""

from __future__ import annotations

import threading
import time

__all__ = ["Breaker"]


class Breaker:
    """A circuit breaker: closed while the server lives, open for `pause_s` seconds at a time while it does not."""

    def __init__(self, pause_s: float) -> None:
        self._pause_s = pause_s
        self._lock = threading.Lock()
        self._reason = ""  # why it is open; empty where it is closed
        self._until = 0.0
        self._lived_at = 0.0

    def open_because(self) -> str:
        """Give why a question already under way has no chance; empty where it has one."""
        with self._lock:
            return self._reason

    def admit(self, *, probe_s: float) -> tuple[bool, str]:
        """Let a question in, or not.

        Args:
            probe_s: the longest that a probe takes; no second one is let in meanwhile.

        Gives: whether it is a probe, and why it is not let in (empty where it is).
        """
        with self._lock:
            now = time.monotonic()
            if self._reason and now < self._until:
                return False, self._reason
            if self._reason:
                self._until = now + probe_s
            return bool(self._reason), ""

    def lives(self) -> None:
        """Note that the server answered."""
        with self._lock:
            self._reason, self._lived_at = "", time.monotonic()

    def fails(self, reason: str, *, since: float) -> bool:
        """Note that a question asked at `since` got no answer, and tell whether that opens the breaker.

        It does not where another question was answered meanwhile: one reply that a server cannot digest then costs the
        others nothing.
        """
        with self._lock:
            now = time.monotonic()
            if self._lived_at > since:
                return False
            self._reason, self._until = reason, now + self._pause_s
            return True
