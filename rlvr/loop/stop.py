"""Ctrl-C and SIGTERM: the first ends the run after the step under way, the second at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue

__all__ = ["Interrupted", "Stop", "stop_signals"]


class Interrupted(Exception):
    """The run was stopped by Ctrl-C or SIGTERM after a whole step, and saved; or within its warm start."""


class Stop:
    """Whether a stop was asked for, and what comes of it in the phase under way."""

    asked = False
    then = "the run stops before its next step and is saved"


@contextmanager
def stop_signals(say: Callable[[str], None]) -> Iterator[Stop]:
    """Let the first Ctrl-C or SIGTERM ask for a stop, and the second raise KeyboardInterrupt."""
    stop, answers = Stop(), SimpleQueue[str | None]()

    def ask(number: int, _: object) -> None:
        if stop.asked:
            raise KeyboardInterrupt
        stop.asked = True
        answers.put(f"{stop.then}; press Ctrl-C again to stop at once")

    def answer() -> None:
        for text in iter(answers.get, None):
            say(text)

    # A handler runs in the middle of whatever the main thread does, a half-written row for one: another thread speaks.
    speaker = threading.Thread(target=answer, name="stop", daemon=True)
    speaker.start()
    old = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
        answers.put(None)
        speaker.join(timeout=10)
