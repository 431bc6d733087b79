"""Write and read the plain values that may cross between a program and us: JSON, with a tag where JSON lacks a type.

`plain` and `dumps` run next to the program and are not trusted. `loads` is: it takes hostile bytes, builds only plain
data of bounded size, never more, and raises `WireError` for all else. Standard library only.
"""

from __future__ import annotations

import base64
import collections
import datetime
import functools
import itertools
import json
from collections import deque
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Any

__all__ = ["MAX_BYTES", "MAX_ITEMS", "Unplain", "WireError", "dumps", "loads", "plain"]

MAX_BYTES = 16 * 2**20  # of one message
MAX_ITEMS = 2**20  # values in one message
MAX_DEPTH = 100
_MAX_BITS = 2**20  # of an integer
_MOST_FIELDS = 64
_SMALL = 2**62
_SUSPICIOUS = 512  # elements from which a set or dict is checked for colliding hashes


class WireError(ValueError):
    """What came over the wire is no bounded plain data."""


class Unplain(TypeError):
    """A value is no plain data, or too large or too deep."""


def dumps(fields: dict[str, Any]) -> bytes:
    """Write a message whose values are what `plain` gave. Text is ASCII, with lone surrogates escaped."""
    return json.dumps({"d": list(fields.items())}, separators=(",", ":")).encode("ascii")


def plain(
    value: Any, *, other: Callable[[Any], Any] | None = None, as_list: bool = False, depth: int = MAX_DEPTH
) -> Any:
    """Turn a value into what `dumps` can write; a subclass of a plain type counts as that type.

    Args:
        other: what to write for a value that is no plain data; without it such a value is an error.
        as_list: turn iterators and views into lists.
    Errors: Unplain.
    """
    kind = type(value)
    if value is None or kind is bool or kind is float or kind is str:
        return value
    if kind is int:
        return value if -_SMALL < value < _SMALL else {"i": _hex(value)}
    if depth == 0:
        raise Unplain("a value nested too deep, or one that contains itself")
    if kind is list or kind is tuple or kind is set or kind is frozenset or kind is deque:
        items = [plain(item, other=other, as_list=as_list, depth=depth - 1) for item in value]
        return items if kind is list else {_SEQUENCES[kind]: items}
    if kind is dict:
        below = depth - 1
        return {
            "d": [
                [
                    plain(k, other=other, as_list=as_list, depth=below),
                    plain(v, other=other, as_list=as_list, depth=below),
                ]
                for k, v in value.items()
            ]
        }
    return _rarer(value, other, as_list, depth)


def loads(data: bytes, *, handle: Callable[[Any], Any] | None = None, bounded: bool = True) -> dict[Any, Any]:
    """Read one message. Errors: WireError.

    Args:
        handle: what to make of a reference to an object that stayed behind; without it, such a message is an error.
        bounded: refuse what is too large; off where the sender is trusted.
    """
    if bounded and len(data) > MAX_BYTES:
        raise WireError(f"a message of {len(data)} bytes, over {MAX_BYTES}")
    if bounded and data.count(b",") + data.count(b"[") + data.count(b"{") > MAX_ITEMS:
        raise WireError(f"a message of more than {MAX_ITEMS} values")

    def tagged(fields: list[tuple[str, Any]]) -> Any:
        if len(fields) != 1 or fields[0][0] not in _READERS:
            if len(fields) == 1 and handle is not None:
                if fields[0][0] == "h":
                    return handle(fields[0][1])
                if fields[0][0] in _RICHER:
                    return _RICHER[fields[0][0]](fields[0][1])
            raise WireError("an unknown tag")
        tag, content = fields[0]
        return _READERS[tag](content)

    try:
        message = json.loads(data, object_pairs_hook=tagged)
        if type(message) is not dict:
            raise WireError("a message without fields")
        if bounded:
            _check_depth(message)
        return message
    except WireError:
        raise
    except (ValueError, TypeError, ArithmeticError, RecursionError) as error:
        raise WireError(f"no plain data: {type(error).__name__}") from None


def _check_depth(message: Any) -> None:
    """Refuse what `plain` would not have written. A field holds a value, or a list or table of values."""
    level = [message]
    for _ in range(MAX_DEPTH + 2):
        level = [
            inner
            for outer in level
            for inner in (itertools.chain(outer, outer.values()) if isinstance(outer, dict) else outer)
            if isinstance(inner, _CONTAINERS)
        ]
        if not level:
            return
    raise WireError("a value nested too deep")


def _rarer(value: Any, other: Callable[[Any], Any] | None, as_list: bool, depth: int) -> Any:
    def again(value: Any) -> Any:
        return plain(value, other=other, as_list=as_list, depth=depth - 1)

    kind = type(value)
    if kind is bytes or kind is bytearray:
        return {"b" if kind is bytes else "B": base64.b64encode(value).decode()}
    if kind is complex:
        return {"c": [value.real, value.imag]}
    if kind is range:
        return {"r": [again(value.start), again(value.stop), again(value.step)]}
    if kind is Fraction:
        return {"F": [again(value.numerator), again(value.denominator)]}
    if kind is Decimal:
        return {"D": str(value)}
    if kind is datetime.datetime and value.tzinfo is None:
        return {"T": [value.year, value.month, value.day, value.hour, value.minute, value.second, value.microsecond]}
    if kind is datetime.date:
        return {"Y": [value.year, value.month, value.day]}
    if kind is datetime.timedelta:
        return {"E": [value.days, value.seconds, value.microseconds]}
    if (kind.__module__ or "").partition(".")[0] == "numpy" and hasattr(value, "tolist"):
        return again(value.tolist())
    if other is not None:
        for base, tag, content in _RICH:
            if isinstance(value, base) and (tag != "n" or hasattr(kind, "_fields")):
                return {tag: [again(part) for part in content(value)]}
    for base, convert in _BASES:
        if isinstance(value, base):
            return again(convert(value))
    if as_list and (hasattr(value, "__next__") or type(value) in _VIEWS):
        return again(list(itertools.islice(value, MAX_ITEMS)))
    if other is not None:
        return other(value)
    raise Unplain(f"a {kind.__name__}, which is no plain data")


def _hex(value: int) -> str:
    if value.bit_length() > _MAX_BITS:
        raise Unplain(f"an integer of {value.bit_length()} bits")
    return hex(value)


def _int(text: str) -> int:
    if type(text) is not str or len(text) > _MAX_BITS // 4 + 3:
        raise WireError("an integer that is too long")
    return int(text, 16)


def _ints(content: Any, *, count: int, bits: int = _MAX_BITS) -> list[int]:
    if type(content) is not list or len(content) != count or any(type(n) is not int for n in content):
        raise WireError("integers expected")
    if any(n.bit_length() > bits for n in content):
        raise WireError("an integer that is too long")
    return content


def _named_tuple(content: Any) -> Any:
    names, items = _list(content) if len(_list(content)) == 2 else ((), ())
    if type(names) is not tuple or len(names) > _MOST_FIELDS or any(type(name) is not str for name in names):
        raise WireError("names of fields expected")
    return _type_of(names)._make(_list(items))


@functools.lru_cache(maxsize=256)
def _type_of(names: tuple[str, ...]) -> Any:
    return collections.namedtuple("Result", names)


def _list(content: Any) -> list[Any]:
    if type(content) is not list:
        raise WireError("a list expected")
    return content


def _hashable(content: Any) -> list[Any]:
    """Refuse elements made to collide: a set of them would take quadratic time."""
    items = _list(content)
    if len(items) > _SUSPICIOUS and len(set(map(hash, items))) < len(items) - _SUSPICIOUS:
        raise WireError("elements with colliding hashes")
    return items


def _dict(content: Any) -> dict[Any, Any]:
    pairs = _list(content)
    if any(type(pair) is not list or len(pair) != 2 for pair in pairs):
        raise WireError("pairs expected")
    _hashable([pair[0] for pair in pairs])
    return {pair[0]: pair[1] for pair in pairs}


def _dicts(content: Any) -> list[dict[Any, Any]]:
    if len(_list(content)) != 1 or type(content[0]) is not dict:
        raise WireError("a table expected")
    return content


def _decimal(content: Any) -> Decimal:
    if type(content) is not str or len(content) > 200:
        raise WireError("a decimal that is too long")
    try:
        return Decimal(content)
    except InvalidOperation:
        raise WireError("no decimal") from None


def _bytes(content: Any) -> bytes:
    if type(content) is not str:
        raise WireError("text expected")
    return base64.b64decode(content, validate=True)


def _datetime(content: Any) -> datetime.datetime:
    year, month, day, hour, minute, second, microsecond = _ints(content, count=7, bits=64)
    return datetime.datetime(year, month, day, hour, minute, second, microsecond)


def _complex(content: Any) -> complex:
    parts = _list(content)
    if len(parts) != 2 or any(type(part) is not float for part in parts):
        raise WireError("two floats expected")
    return complex(*parts)


_CONTAINERS = (list, tuple, dict, set, frozenset, deque)
_SEQUENCES: dict[type, str] = {tuple: "t", set: "s", frozenset: "f", deque: "q"}
_VIEWS: tuple[type, ...] = (type({}.keys()), type({}.values()), type({}.items()))
_BASES: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (int, lambda v: int.__int__(v)),
    (float, lambda v: float.__float__(v)),
    (str, lambda v: str.__str__(v)),
    (list, lambda v: list(list.__iter__(v))),
    (tuple, lambda v: tuple(tuple.__iter__(v))),
    (dict, lambda v: dict(dict.items(v))),
    (set, lambda v: set(set.__iter__(v))),
    (frozenset, lambda v: frozenset(frozenset.__iter__(v))),
    (bytes, lambda v: bytes(v)),
    (bytearray, lambda v: bytearray(v)),
    (deque, lambda v: deque(v)),
    (memoryview, lambda v: v.tobytes()),
)
# What keeps its type only between a program and a test script, which may use its methods.
_RICH: tuple[tuple[type, str, Callable[[Any], Any]], ...] = (
    (collections.Counter, "C", lambda v: (dict(dict.items(v)),)),
    (tuple, "n", lambda v: (tuple(map(str, type(v)._fields)), list(tuple.__iter__(v)))),
    (_VIEWS[0], "k", list),
    (_VIEWS[1], "v", list),
    (_VIEWS[2], "w", list),
)
_RICHER: dict[str, Callable[[Any], Any]] = {
    "C": lambda c: collections.Counter(*_dicts(c)),
    "n": _named_tuple,
    "k": lambda c: dict.fromkeys(_hashable(c)).keys(),
    "v": lambda c: dict(enumerate(_list(c))).values(),
    "w": lambda c: _dict([list(pair) for pair in _list(c)]).items(),
}
_READERS: dict[str, Callable[[Any], Any]] = {
    "i": _int,
    "t": lambda c: tuple(_list(c)),
    "s": lambda c: set(_hashable(c)),
    "f": lambda c: frozenset(_hashable(c)),
    "q": lambda c: deque(_list(c)),
    "d": _dict,
    "b": _bytes,
    "B": lambda c: bytearray(_bytes(c)),
    "c": _complex,
    "r": lambda c: range(*_ints(c, count=3, bits=1024)),
    "F": lambda c: Fraction(*_ints(c, count=2, bits=4096)),
    "D": _decimal,
    "T": _datetime,
    "Y": lambda c: datetime.date(*_ints(c, count=3, bits=64)),
    "E": lambda c: datetime.timedelta(*_ints(c, count=3, bits=64)),
}
