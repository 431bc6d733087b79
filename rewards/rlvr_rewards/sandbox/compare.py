"""Decide whether a result is the expected one: strict where a policy could profit, lenient where JSON cannot tell."""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from typing import Any

__all__ = ["same_output", "same_value"]

_RELATIVE = 1e-6
_PRINTED = 1e-6  # absolute, for what was printed with so many digits
_NOISE, _ZERO = 1e-9, 1e-12  # what may stand for an expected 0, and what is expected as 0
_NUMBER = re.compile(r"[+-]?(?:\d+\.\d*|\.\d+|\d+)(?:e[+-]?\d{1,3})?", re.IGNORECASE)
_LONGEST = 64  # characters of a number that is compared as one
_SORTABLE = 2**14  # elements up to which sets of floats are matched by order


def same_value(value: Any, expected: Any, *, sets: bool = False) -> bool:
    """Compare a function's result, plain data, with an expected value that came from JSON.

    JSON has one kind of list, and text as keys only: a list stands for any sequence, the key "1" also for 1. True is
    not 1, text is no number, and a number written as an integer is met by a float of the same value only. Floats agree
    within 1e-6 of the expected one.

    Args:
        sets: a list stands for a set of as many elements, too. Without it a set, which has no order, would pass for a
            sorted list.
    """
    try:
        return _same(value, expected, sets)
    except (RecursionError, TypeError, ValueError, ArithmeticError):
        return False


def same_output(output: str, expected: str) -> bool:
    """Compare what a program printed: by lines and words; a word that is a decimal fraction within 1e-6."""
    if output == expected:
        return True
    lines, wanted = _lines(output), _lines(expected)
    if len(lines) != len(wanted) or not all(map(_same_line, lines, wanted)):
        return False
    # Where the expected lines begin at different places, something is drawn.
    drawn = len({_indent(line) for line in wanted if line.strip()}) > 1
    return not drawn or [_indent(line) for line in lines] == [_indent(line) for line in wanted]


def _same(value: Any, expected: Any, sets: bool) -> bool:
    if expected is None or value is None:
        return value is expected
    if isinstance(expected, bool) or isinstance(value, bool):
        return isinstance(value, bool) and isinstance(expected, bool) and value == expected
    if isinstance(expected, str):
        return type(value) is str and value == expected
    if isinstance(expected, int | float | complex | Fraction | Decimal):
        return _same_number(value, expected)
    if isinstance(expected, dict):
        return type(value) is dict and _same_dict(value, expected, sets)
    if isinstance(expected, list | tuple):
        if sets and type(value) in (set, frozenset):
            return _same_set(value, expected)
        if type(value) not in (list, tuple, deque, range) or len(value) != len(expected):
            return False
        return all(_same(a, b, sets) for a, b in zip(value, expected, strict=True))
    if isinstance(expected, set | frozenset):
        return type(value) in (set, frozenset) and _same_set(value, list(expected))
    return bool(type(value) is type(expected) and value == expected)


def _same_number(value: Any, expected: Any) -> bool:
    if type(value) not in (int, float, complex, Fraction, Decimal):
        return False
    if type(value) is int and type(expected) is int:
        return value == expected
    if type(value) is complex or type(expected) is complex:
        left, right = complex(value), complex(expected)
        return _close(left.real, right.real) and _close(left.imag, right.imag)
    if type(value) is not type(expected) and type(expected) is int:
        return bool(value == expected)
    return _close(float(value), float(expected))


def _close(value: float, expected: float, *, least: float = 0.0) -> bool:
    if math.isnan(value) or math.isnan(expected):
        return math.isnan(value) and math.isnan(expected)
    if math.isinf(value) or math.isinf(expected):
        return value == expected
    absolute = least or (_NOISE if abs(expected) <= _ZERO else 0.0)
    return abs(value - expected) <= max(absolute, _RELATIVE * abs(expected))


def _same_dict(value: dict[Any, Any], expected: dict[Any, Any], sets: bool) -> bool:
    if len(value) != len(expected):
        return False
    if not all(key in value and type(key) is str for key in expected) or any(type(key) is not str for key in value):
        named = {_key(key): held for key, held in value.items()}
        if len(named) != len(value):
            return False
        value, expected = named, {_key(key): held for key, held in expected.items()}
    return all(key in value and _same(value[key], held, sets) for key, held in expected.items())


def _key(key: Any) -> str:
    """Write a key as JSON does."""
    if key is None or isinstance(key, bool):
        return {None: "null", True: "true", False: "false"}[key]
    if isinstance(key, str | int):
        return str(key)
    if isinstance(key, float):
        return repr(key)
    return str(tuple(key)) if isinstance(key, tuple) else repr(key)


def _same_set(value: set[Any] | frozenset[Any], expected: Sequence[Any]) -> bool:
    """Match a set with a list of different elements, each element with another one."""
    if len(value) != len(expected) or len(value) > _SORTABLE:
        return len(value) == len(expected) and value == set(map(_frozen, expected))
    left = sorted(value, key=_order)
    right = sorted((_frozen(item) for item in expected), key=_order)
    return all(_same(a, b, True) for a, b in zip(left, right, strict=True))


def _frozen(item: Any) -> Any:
    return tuple(map(_frozen, item)) if isinstance(item, list | tuple) else item


def _order(item: Any) -> tuple[Any, ...]:
    if isinstance(item, bool):
        return (1, str(item))
    if isinstance(item, int | float):
        return (2, item)
    if isinstance(item, tuple | list):
        return (3, tuple(map(_order, item)))
    if isinstance(item, set | frozenset):
        return (4, tuple(sorted(map(_order, item))))
    return (5, type(item).__name__, repr(item))


def _lines(text: str) -> list[str]:
    lines = [line.rstrip() for line in text.replace("\r\n", "\n").split("\n")]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _indent(line: str) -> str:
    return line[: len(line) - len(line.lstrip())]


def _same_line(line: str, wanted: str) -> bool:
    if line == wanted:
        return True
    words, targets = line.split(), wanted.split()
    return len(words) == len(targets) and all(map(_same_word, words, targets))


def _absolute(expected: float) -> float:
    if expected == 0.0:
        return _PRINTED
    return 0.0 if abs(expected) < _PRINTED else min(_PRINTED, abs(expected) / 100)


def _same_word(word: str, target: str) -> bool:
    if word == target:
        return True
    if max(len(word), len(target)) > _LONGEST or not (_NUMBER.fullmatch(word) and _NUMBER.fullmatch(target)):
        return False
    value, expected = float(word), float(target)
    # Without a point it may be an id or a digest, unless it is how a float is written: 1e-06.
    if math.isinf(value) or math.isinf(expected) or not ("." in target or repr(expected) == target):
        return False
    return _close(value, expected, least=_absolute(expected))
