"""Read the tests of a task: calls, standard input and output, or scripts of assertions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["Assertions", "Calls", "Streams", "Tests", "parse", "wanted_name"]

_MOST_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """Calls of a function: positional arguments, named ones, and what is expected."""

    fn: str
    sets: bool  # a list stands for a set, too
    cases: tuple[tuple[list[Any], dict[str, Any], Any], ...]
    timeout_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Streams:
    """What a program reads from standard input, and what it is to print."""

    cases: tuple[tuple[str, str], ...]
    timeout_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Assertions:
    """Scripts that assert, trusted helpers that run before them, and the name that `check(candidate)` is handed."""

    scripts: tuple[str, ...]
    entry_point: str
    prelude: str
    timeout_s: float | None


Tests = Calls | Streams | Assertions


def parse(truth: object) -> Tests:
    """Read a task's truth. Errors: ValueError with a sentence that says what is wrong with it."""
    if not isinstance(truth, Mapping):
        raise ValueError(f"the truth must be a table with a type, not {type(truth).__name__}")
    kind = truth.get("type")
    if kind == "call":
        fn = truth.get("fn")
        if not isinstance(fn, str) or not all(part.isidentifier() for part in fn.split(".")):
            raise ValueError(f"the truth's fn must be the name of a function, not {fn!r}")
        sets = truth.get("sets", False)
        if not isinstance(sets, bool):
            raise ValueError(f"the truth's sets must be true or false, not {sets!r}")
        return Calls(fn=fn, sets=sets, cases=tuple(map(_call, _entries(truth, "cases"))), timeout_s=_timeout(truth))
    if kind == "stdio":
        return Streams(cases=tuple(map(_stream, _entries(truth, "cases"))), timeout_s=_timeout(truth))
    if kind == "assert":
        scripts = _entries(truth, "tests")
        entry, prelude = truth.get("entry_point") or "", truth.get("prelude") or ""
        if not all(isinstance(text, str) for text in (*scripts, entry, prelude)):
            raise ValueError("the truth's tests, entry_point and prelude must be text")
        if entry and not entry.isidentifier():
            raise ValueError(f"the truth's entry_point must be a name, not {entry!r}")
        return Assertions(scripts=tuple(scripts), entry_point=entry, prelude=prelude, timeout_s=_timeout(truth))
    raise ValueError(f"the truth's type must be call, stdio or assert, not {kind!r}")


def wanted_name(tests: Tests) -> str:
    """Name the function that tests want; "" where they say nothing."""
    if isinstance(tests, Calls):
        return tests.fn
    return tests.entry_point if isinstance(tests, Assertions) else ""


def _entries(truth: Mapping[str, Any], name: str) -> list[Any]:
    entries = truth.get(name)
    if not isinstance(entries, list | tuple) or not entries:
        raise ValueError(f"the truth's {name} must be a list that is not empty")
    return list(entries)


def _timeout(truth: Mapping[str, Any]) -> float | None:
    seconds = truth.get("timeout_s")
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= _MOST_S:
        raise ValueError(f"the truth's timeout_s must be seconds above 0, at most {_MOST_S:g}, not {seconds!r}")
    return float(seconds)


def _call(case: object) -> tuple[list[Any], dict[str, Any], Any]:
    if not isinstance(case, Mapping) or "expected" not in case:
        raise ValueError("each call case of the truth needs args and expected")
    args, kwargs = case.get("args", []), case.get("kwargs") or {}
    if not isinstance(args, list | tuple) or not isinstance(kwargs, Mapping):
        raise ValueError("the args of a call case must be a list, its kwargs a table")
    return list(args), dict(kwargs), case["expected"]


def _stream(case: object) -> tuple[str, str]:
    fields = (case.get("input", ""), case.get("output")) if isinstance(case, Mapping) else (None, None)
    if not all(isinstance(text, str) for text in fields):
        raise ValueError("each stdio case of the truth needs an input and an output, both text")
    return fields  # type: ignore[return-value]
