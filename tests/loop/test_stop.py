"""Ctrl-C while a line is being written."""

from __future__ import annotations

import io
import signal

import pytest
from rich.console import Console

from rlvr.loop.stop import stop_signals
from rlvr.observe.progress import RunView


class Pressed(io.StringIO):
    """A terminal on which Ctrl-C is pressed as soon as the first text arrives."""

    pressed = False

    def write(self, text: str) -> int:
        length = super().write(text)
        if not self.pressed:
            self.pressed = True
            signal.raise_signal(signal.SIGINT)
        return length


def test_a_line_under_way_is_written_once() -> None:
    out = Pressed()
    with RunView("run", steps=3, console=Console(file=out)) as view, stop_signals(view.warn) as stop:
        view.phase("the line under way")
        assert stop.asked
    said = out.getvalue().splitlines()
    assert [line.split(";")[0] for line in said] == [
        "✓ the line under way", "! the run stops before its next step and is saved"
    ]  # fmt: skip


def test_the_second_press_stops_at_once_and_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    said: list[str] = []
    with pytest.raises(KeyboardInterrupt), stop_signals(said.append):
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
    assert len(said) == 1
    assert signal.getsignal(signal.SIGINT) is before
