"""Plain values cross the wire unchanged; nothing else crosses, and garbage never raises anything but WireError."""

import json
import math
import time
from collections import Counter, OrderedDict, deque, namedtuple
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import IntEnum
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr_rewards.sandbox import codec
from rlvr_rewards.sandbox.codec import Unplain, WireError, dumps, loads, plain

ATOMS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=10**4400, max_value=10**4401)
    | st.floats(allow_nan=False)
    | st.text(st.characters())
    | st.binary()
    | st.complex_numbers(allow_nan=False)
    | st.fractions()
    | st.decimals(allow_nan=False)
    | st.dates()
    | st.datetimes()
    | st.timedeltas()
    | st.builds(range, st.integers(-9, 9), st.integers(-9, 9), st.integers(1, 3))
)
KEYS = st.integers() | st.text() | st.booleans() | st.tuples(st.integers(), st.text())
VALUES = st.recursive(
    ATOMS,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.lists(inner).map(deque)
        | st.dictionaries(KEYS, inner)
        | st.sets(KEYS)
        | st.frozensets(KEYS)
    ),
    max_leaves=12,
)


def crossed(value: object) -> object:
    return loads(dumps({"value": plain(value)}))["value"]


def shape(value: object) -> object:
    """Spell out the types of a value, which == does not look at."""
    if isinstance(value, dict):
        return dict, [(shape(k), shape(v)) for k, v in value.items()]
    if isinstance(value, list | tuple | deque):
        return type(value), [shape(item) for item in value]
    return type(value)


@given(VALUES)
@settings(max_examples=40, deadline=None)
def test_plain_values_cross_unchanged(value: object) -> None:
    there = crossed(value)
    assert there == value
    assert shape(there) == shape(value)


@pytest.mark.parametrize("text", ["\ud800", "a\x00b", "\u2028", "ßé日本", '"\\'])
def test_odd_text_crosses(text: str) -> None:
    assert crossed(text) == text


def test_floats_without_a_number_cross() -> None:
    there = crossed([math.nan, math.inf, -math.inf])
    assert isinstance(there, list)
    assert math.isnan(there[0])
    assert there[1:] == [math.inf, -math.inf]


class Colour(IntEnum):
    RED = 1


class Loud(str):
    def __str__(self) -> str:
        return "other"


Point = namedtuple("Point", "x y")


@pytest.mark.parametrize(
    ("value", "there"),
    [
        (Colour.RED, 1),
        (Loud("x"), "x"),
        (Point(1, 2), (1, 2)),
        (OrderedDict(a=1), {"a": 1}),
        (Counter("aa"), {"a": 2}),
        (np.int64(3), 3),
        (np.float32(0.5), 0.5),
        (np.bool_(True), True),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
    ],
)
def test_kin_of_plain_types_cross_as_those(value: object, there: object) -> None:
    assert crossed(value) == there
    assert shape(crossed(value)) == shape(there)


def test_what_is_not_plain_is_refused_or_replaced() -> None:
    with pytest.raises(Unplain, match="object"):
        plain([object()])
    assert plain([object()], other=lambda value: {"h": [0, False]}) == [{"h": [0, False]}]
    assert plain({"a": 1}.keys(), as_list=True) == ["a"]
    assert plain(iter((1, 2)), as_list=True) == [1, 2]
    circle: list[object] = []
    circle.append(circle)
    with pytest.raises(Unplain, match="deep"):
        plain(circle)
    with pytest.raises(Unplain, match="bits"):
        plain(1 << 2**21)


@pytest.mark.parametrize(
    "content",
    [
        {"h": [0, True]},
        {"x": 1},
        {"i": "0x1", "t": []},
        {"i": 5},
        {"i": "0x" + "f" * 2**20},
        {"t": 5},
        {"s": [[]]},
        {"d": [[1]]},
        {"d": [[[], 1]]},
        {"r": [1, 2, 0]},
        {"r": [1, 2, "3"]},
        {"F": [1, 0]},
        {"D": "1e" + "9" * 300},
        {"T": [0, 0, 0, 0, 0, 0, 0]},
        {"Y": [10**30, 1, 1]},
        {"E": [10**30, 1, 1]},
        {"b": "é"},
        {"c": [1, "x"]},
    ],
)
def test_forged_values_are_refused(content: object) -> None:
    with pytest.raises(WireError):
        loads(json.dumps({"d": [["value", content]]}).encode())


@pytest.mark.parametrize(
    "data",
    [
        b"", b"[]", b"5", b"{", b"\xff\xfe", b"[" * 10**6, b'{"d":' * 5000 + b"1" + b"}" * 5000,
        b"[" + b"1," * (codec.MAX_ITEMS + 1) + b"1]", b"1" * 100_000, b"[" * 3000 + b"]" * 3000,
        b'"' + b"x" * codec.MAX_BYTES + b'"',
    ],
)  # fmt: skip
def test_hostile_bytes_are_refused_at_once(data: bytes) -> None:
    started = time.process_time()
    with pytest.raises(WireError):
        loads(data)
    assert time.process_time() - started < 2


def test_colliding_hashes_are_refused_at_once() -> None:
    modulus = 2**61 - 1
    forged = [{"i": hex(n * modulus)} for n in range(1, 10_000)]
    started = time.process_time()
    for content in ({"s": forged}, {"f": forged}, {"d": [[key, 1] for key in forged]}):
        with pytest.raises(WireError, match="colliding"):
            loads(json.dumps({"d": [["value", content]]}).encode())
    assert time.process_time() - started < 5


def test_large_sets_without_collisions_pass() -> None:
    assert crossed(set(range(5000))) == set(range(5000))
    assert crossed({str(n): n for n in range(5000)}) == {str(n): n for n in range(5000)}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(list("itsfqdbBcrFDTYEhn")), inner, max_size=2),
    max_leaves=10,
)


@given(JSON)
@settings(max_examples=60, deadline=None)
def test_structured_garbage_is_read_or_refused(content: object) -> None:
    try:
        assert isinstance(loads(json.dumps({"d": [["value", content]]}).encode()), dict)
    except WireError as error:
        assert str(error)


@given(st.binary())
@settings(max_examples=25, deadline=None)
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        loads(data)


def test_dates_cross() -> None:
    values = [date(2024, 2, 29), datetime(2024, 2, 29, 1, 2, 3, 4), timedelta(days=-1, microseconds=5)]
    assert crossed([*values, Decimal("1.10"), Fraction(1, 3)]) == [*values, Decimal("1.10"), Fraction(1, 3)]


def test_what_is_nested_too_deep_is_refused() -> None:
    deep = json.loads("[" * 100 + "]" * 100)
    assert crossed(deep) == deep
    assert loads(dumps({"args": [plain(deep)]}))["args"] == [deep]
    with pytest.raises(Unplain):
        plain([deep])
    for opened, closed in (("[", "]"), ('{"t":[', "]}"), ('{"d":[[1,', "]]}")):
        with pytest.raises(WireError, match="too deep"):
            loads(b'{"d":[["value",' + (opened * 150 + "1" + closed * 150).encode() + b"]]}")
