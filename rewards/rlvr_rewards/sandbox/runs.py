"""Run a program against tests in jails, and say which tests it passed."""

from __future__ import annotations

import math
import re
import reprlib
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from . import codec
from .client import Jail, JailEnded, Server
from .compare import same_output, same_value
from .truths import Assertions, Calls, Streams, Tests

__all__ = ["Limits", "Outcome", "run"]

_MUCH = 2**16  # characters of output beyond four times the expected ones that nobody reads
_SHOWN = 200
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _SHOWN
_REPR.maxlist = _REPR.maxtuple = _REPR.maxset = _REPR.maxfrozenset = _REPR.maxdict = _REPR.maxdeque = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one program may take: seconds by the clock for a test and for all, MiB of memory, folder and output."""

    timeout_s: float
    total_s: float
    memory_mb: int
    disk_mb: int = 64
    file_mb: int = 32

    def of_jail(self, seconds: float) -> dict[str, int | float]:
        """Write the limits of one jail that has so many seconds."""
        sizes = {"memory_mb": self.memory_mb, "disk_mb": self.disk_mb, "file_mb": self.file_mb}
        return {**sizes, "cpu_s": math.ceil(seconds) + 1, "wall_s": seconds + 1.0}


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What became of each test: passed, and why the first failing one did not."""

    total: int
    passed: int = 0
    why: str = ""
    limit: str = ""  # what our way of testing cannot do; the program is not to blame
    _failed: bool = field(default=False)

    def note(self, number: int, why: str) -> None:
        """Note a test as passed, or as failed where there is a reason."""
        if why:
            self.fail(number, why)
        else:
            self.passed += 1

    def fail(self, number: int, why: str) -> None:
        """Note a failing test. Numbers count from 1."""
        if not self._failed:
            self._failed, self.why = True, f"test {number} of {self.total}: {why}"

    @property
    def failed(self) -> bool:
        """Tell whether any test failed so far."""
        return self._failed


class _Clock:
    """Keep the time of a program: so much for each test, so much for all."""

    def __init__(self, limits: Limits) -> None:
        self._each, self._end = limits.timeout_s, time.monotonic() + limits.total_s
        self._test_end = 0.0
        self.restart()

    def restart(self) -> None:
        """Begin a test."""
        self._test_end = min(self._end, time.monotonic() + self._each)

    @property
    def left(self) -> float:
        """Give the seconds left for this test."""
        return max(0.0, self._test_end - time.monotonic())

    @property
    def over(self) -> bool:
        """Tell whether the time for all tests is over."""
        return time.monotonic() >= self._end

    @property
    def total_left(self) -> float:
        """Give the seconds left for all tests."""
        return max(0.0, self._end - time.monotonic())


@dataclass(frozen=True, slots=True, kw_only=True)
class Servers:
    """The servers of one grading at a time: programs run in the one, trusted scripts in the other."""

    programs: Server
    scripts: Server | None = None


def run(
    program: str, tests: Tests, *, servers: Servers, limits: Limits, every: bool, packages: Sequence[str]
) -> Outcome:
    """Test a program.

    Args:
        every: go on after a test failed, to count all that pass.
        packages: packages that are worth importing once for all programs that name them.
    Errors: ServerLost.
    """
    clock = _Clock(limits)
    if isinstance(tests, Calls):
        return _calls(program, tests, servers.programs, limits, clock, every, packages)
    if isinstance(tests, Streams):
        return _streams(program, tests, servers.programs, limits, clock, every, packages)
    assert servers.scripts is not None
    return _assertions(program, tests, servers, limits, clock, every, packages)


def _streams(
    program: str, tests: Streams, server: Server, limits: Limits, clock: _Clock, every: bool, packages: Sequence[str]
) -> Outcome:
    outcome = Outcome(total=len(tests.cases))
    wanted = _named(program, packages)
    for number, (given, expected) in enumerate(tests.cases, 1):
        if clock.over or (outcome.failed and not every):
            outcome.fail(number, "the time for all tests is over")
            break
        seconds = min(limits.timeout_s, clock.total_left)
        stdin = given.encode("utf-8", "surrogatepass")
        with server.jail(limits.of_jail(seconds), stdin=stdin, captures=True, preload=wanted) as jail:
            clock.restart()
            jail.order({"mode": "script", "source": program})
            how = jail.wait(seconds=clock.left)
        if how:
            outcome.fail(number, how)
            continue
        output = jail.output
        if len(output) > 4 * len(expected) + _MUCH:
            outcome.fail(number, f"it printed {len(output)} bytes")
        elif same_output(output.decode("utf-8", "replace"), expected):
            outcome.passed += 1
        else:
            said = output[: 4 * _SHOWN].decode("utf-8", "replace")
            outcome.fail(number, f"it printed {_short(said)}, expected {_short(expected)}")
    return outcome


def _calls(
    program: str, tests: Calls, server: Server, limits: Limits, clock: _Clock, every: bool, packages: Sequence[str]
) -> Outcome:
    outcome = Outcome(total=len(tests.cases))
    number, wanted = 1, _named(program, packages)
    while number <= outcome.total and not clock.over and (every or not outcome.failed):
        loaded = False
        with server.jail(limits.of_jail(clock.total_left), preload=wanted) as jail:
            try:
                clock.restart()
                if why := _loaded(jail, program, clock):
                    outcome.fail(number, why)
                    return outcome
                loaded = True
                while number <= outcome.total and (every or not outcome.failed):
                    clock.restart()
                    why = _called(jail, tests, number, clock)
                    outcome.note(number, why)
                    number += 1
            except JailEnded as ended:
                outcome.note(number, _how(ended))
                number += 1
                if not loaded:
                    return outcome
    if number <= outcome.total:
        outcome.fail(number, "the time for all tests is over")
    return outcome


def _loaded(jail: Jail, program: str, clock: _Clock) -> str:
    """Load the program and say why it does not load, or nothing. Errors: JailEnded."""
    jail.order({"mode": "functions", "source": program})
    try:
        answer = codec.loads(jail.receive(seconds=clock.left))
    except codec.WireError as error:
        return f"it sends {error}"
    return "" if answer.get("ok") is True else f"it does not load: {_raised(answer)}"


def _called(jail: Jail, tests: Calls, number: int, clock: _Clock) -> str:
    """Make one call and say what is wrong with the result, or nothing. Errors: JailEnded."""
    args, kwargs, expected = tests.cases[number - 1]
    token = secrets.token_hex(8)  # an answer that was sent before the question cannot know it
    request = {
        "n": token, "op": "call", "target": tests.fn,
        "args": codec.plain(args), "kwargs": codec.plain(kwargs),
    }  # fmt: skip
    jail.send(codec.dumps(request))
    try:
        answer = codec.loads(jail.receive(seconds=clock.left))
    except codec.WireError as error:
        return f"it sends {error}"
    if answer.get("n") != token:
        raise JailEnded("it sends an answer that belongs to no call")
    if "raised" in answer:
        return f"it raises {_raised(answer)}"
    if "value" not in answer:
        return f"it returns {_text(answer, 'unplain')}"
    if same_value(answer["value"], expected, sets=tests.sets):
        return ""
    return f"it returns {_short(answer['value'])}, expected {_short(expected)}"


def _assertions(
    program: str,
    tests: Assertions,
    servers: Servers,
    limits: Limits,
    clock: _Clock,
    every: bool,
    packages: Sequence[str],
) -> Outcome:
    assert servers.scripts is not None
    outcome = Outcome(total=len(tests.scripts))
    texts = "\n".join((tests.prelude, *tests.scripts))
    box = limits.of_jail(clock.total_left)
    with (
        servers.scripts.jail(box, preload=_named(texts, packages)) as judge,
        servers.programs.jail(box, preload=_named(program, packages)) as jail,
    ):
        try:
            clock.restart()
            if why := _loaded(jail, program, clock):
                outcome.fail(1, why)
                return outcome
            judge.order(
                {"mode": "tests", "tests": tests.scripts, "prelude": tests.prelude, "entry_point": tests.entry_point}
            )
            clock.restart()
            _follow(judge, jail, outcome, clock, every)
        except JailEnded as ended:
            outcome.fail(outcome.passed + 1, _how(ended))
    return outcome


def _follow(judge: Jail, jail: Jail, outcome: Outcome, clock: _Clock, every: bool) -> None:
    """Carry requests and answers between script and program until every test has reported. Errors: JailEnded."""
    reported = 0
    while True:
        message = judge.receive(seconds=clock.left)
        if message[:1] == b"o":
            jail.send(message[1:])
            judge.send(jail.receive(seconds=clock.left))
            continue
        try:
            report: Mapping[str, Any] = codec.loads(message[1:])
        except codec.WireError as error:
            raise JailEnded(f"the tests send {error}") from None
        if "broken" in report:
            outcome.limit = f"the truth's tests cannot run: {report['broken']}"
            return
        if report.get("done") == outcome.total == reported:
            return
        reported += 1
        if report.get("test") != reported - 1:
            raise JailEnded("the tests do not report in order")
        if report["passed"] is None:
            outcome.limit = f"test {reported} cannot run here: {report['why']}"
            return
        if report["passed"] is True:
            outcome.passed += 1
        else:
            outcome.fail(reported, str(report["why"]))
            if not every:
                return
        clock.restart()


def _named(text: str, packages: Sequence[str]) -> list[str]:
    """List the packages that a text imports, as far as the eye sees."""
    return [name for name in packages if re.search(rf"\b(?:import|from)\s+{re.escape(name)}\b", text)]


def _how(ended: JailEnded) -> str:
    return str(ended) or "it exited before all tests were over"


def _text(answer: Mapping[str, Any], key: str) -> str:
    """Take text from an answer, which a program may have forged."""
    text = answer.get(key)
    return text[:_SHOWN] if isinstance(text, str) else ""


def _raised(answer: Mapping[str, Any]) -> str:
    kind, text = _text(answer, "type"), _text(answer, "text")
    line = " ".join(f"{kind}: {text}".rstrip(": ").split())
    return line if len(line) <= _SHOWN else line[: _SHOWN - 1] + "…"


def _short(value: Any) -> str:
    """Show a value in one line, without looking at more of it than is shown."""
    try:
        text = _REPR.repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits, say
        text = f"a {type(value).__name__}"
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
