"""Keep verdicts of a judge by what it was asked: in memory and, where a path is given, in a file for all processes."""

from __future__ import annotations

import fcntl
import json
import os
import threading
from pathlib import Path
from typing import Any

from rlvr.types import Verdict

__all__ = ["Verdicts"]

_MOST = 200_000  # verdicts in memory


class Verdicts:
    """A cache that several threads and processes share: one JSON line a verdict, appended under a lock.

    A line that a crash cut short is skipped. A file that cannot be read or written is an OSError at the start.
    """

    def __init__(self, path: str | None) -> None:
        self._path = Path(path).expanduser() if path else None
        self._known: dict[str, Verdict] = {}
        self._read_to = 0
        self._lock = threading.Lock()
        if self._path:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.touch()
            self._catch_up()

    def __reduce__(self) -> tuple[Any, ...]:
        return Verdicts, (str(self._path) if self._path else None,)

    def get(self, key: str) -> Verdict | None:
        """Give the verdict, looking for what other processes wrote meanwhile."""
        with self._lock:
            if key not in self._known and self._path:
                self._catch_up()
            return self._known.get(key)

    def put(self, key: str, verdict: Verdict) -> None:
        """Keep a verdict. The first one stays, so that all who ask get the same."""
        with self._lock:
            if self._path:
                with self._path.open("ab") as file:
                    fcntl.flock(file, fcntl.LOCK_EX)
                    self._catch_up()
                    if key in self._known:
                        return
                    torn = self._torn()
                    file.write(
                        (b"\n" if torn else b"") + json.dumps({"key": key, "verdict": verdict.value}).encode() + b"\n"
                    )
            self._remember(key, verdict)

    def _torn(self) -> bool:
        assert self._path
        with self._path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            if file.tell() == 0:
                return False
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"

    def _catch_up(self) -> None:
        assert self._path
        with self._path.open("rb") as file:
            file.seek(self._read_to)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._read_to += len(line)
                try:
                    entry = json.loads(line)
                    self._remember(str(entry["key"]), Verdict(entry["verdict"]))
                except (ValueError, KeyError, TypeError, RecursionError):
                    continue

    def _remember(self, key: str, verdict: Verdict) -> None:
        self._known.setdefault(key, verdict)
        if len(self._known) > _MOST:
            self._known.pop(next(iter(self._known)))
