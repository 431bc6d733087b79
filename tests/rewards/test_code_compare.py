"""What counts as the expected value or output, and what does not."""

import math
from collections import deque
from decimal import Decimal
from fractions import Fraction

import pytest

from rlvr_rewards.sandbox.compare import same_output, same_value

NAN = math.nan


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (1, 1),
        (1.0, 1),
        (1, 1.0),
        (0.1 + 0.2, 0.3),
        (1e20 + 1e5, 1e20),
        (True, True),
        (None, None),
        ("a", "a"),
        ((1, 2), [1, 2]),
        ([1, (2, 3)], [1, [2, 3]]),
        (deque([1]), [1]),
        (range(3), [0, 1, 2]),
        ({1: "a", 2: "b"}, {"1": "a", "2": "b"}),
        ({True: 1}, {"true": 1}),
        ({None: 1, 1.5: 2}, {"null": 1, "1.5": 2}),
        ({"a": [1, (2,)]}, {"a": [1, [2]]}),
        (NAN, NAN),
        (math.inf, math.inf),
        (Fraction(1, 2), 0.5),
        (Decimal("0.5"), 0.5),
        (10**400, 10**400),
        (complex(1, 2), complex(1, 2)),
        (b"x", b"x"),
        (1e-17, 0.0),
        (0.0, 1.2e-16),
        ({1, 2}, {2, 1}),
    ],
)
def test_the_same(value: object, expected: object) -> None:
    assert same_value(value, expected)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, 1),
        (1, True),
        (0, False),
        (False, None),
        (0, None),
        ("1", 1),
        (1, "1"),
        (1.0000001, 1),
        (1.001, 1.0),
        (NAN, 1.0),
        (1.0, NAN),
        (math.inf, 1e308),
        (-math.inf, math.inf),
        ([1, 2], [2, 1]),
        ([1], [1, 1]),
        ({1, 2}, {1, 3}),
        ("ab", ["a", "b"]),
        (["a", "b"], "ab"),
        (b"a", "a"),
        ({"a": 1}, {"a": 1, "b": 2}),
        ({"a": 1, "b": 2}, {"a": 1}),
        ({"a": 1}, [["a", 1]]),
        (["a"], {"a": 1}),
        ({1: "a", "1": "a"}, {"1": "a", "2": "a"}),
        ([], None),
        ([], {}),
        ("", []),
        (Decimal("NaN"), 1),
        (Decimal("sNaN"), 1),
        (Decimal("1e999999"), 1),
        (10**400, 1.5),
        (10**400, math.inf),
        (complex(1, 1e-3), 1.0),
        (0.0, 1e-9),
        (1e-8, 0.0),
        ({1, 2, 3}, [1, 2, 3]),
        (set(), []),
    ],
)
def test_not_the_same(value: object, expected: object) -> None:
    assert not same_value(value, expected)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({3, 1, 2}, [1, 2, 3]),
        ({(1, 2), (0, 5)}, [[0, 5], [1, 2]]),
        (frozenset("ab"), ["b", "a"]),
        ({0.30000000000000004}, [0.3]),
        ([{1}, {2: {3, 4}}], [[1], {"2": [4, 3]}]),
    ],
)
def test_a_list_stands_for_a_set_where_the_truth_says_so(value: object, expected: object) -> None:
    assert same_value(value, expected, sets=True)
    assert not same_value(value, expected)


def test_deep_values_are_different_rather_than_a_crash() -> None:
    deep: list[object] = []
    for _ in range(5000):
        deep = [deep]
    other: list[object] = []
    for _ in range(5000):
        other = [other]
    assert not same_value(deep, other)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("7\n", "7"),
        ("7", "7\n\n"),
        ("1 2  3 \r\n4\n", "1 2 3\n4\n"),
        ("0.333333", "0.3333333"),
        ("a\n\nb\n", "a\n\nb"),
        ("2", "2.0"),
        ("1e-7", "0.0"),
    ],
)
def test_the_same_output(output: str, expected: str) -> None:
    assert same_output(output, expected)


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("", "7"),
        ("7\n8", "7"),
        ("7 8", "7\n8"),
        ("2.0", "2"),
        ("07", "7"),
        ("nan", "0.5"),
        ("inf", "1.5"),
        ("0.34", "0.33"),
        ("Yes", "YES"),
        ("1" * 100 + ".0", "1" * 99 + ".0"),
    ],
)
def test_another_output(output: str, expected: str) -> None:
    assert not same_output(output, expected)


@pytest.mark.parametrize(
    ("output", "expected", "same"),
    [
        ("0", "1e-9", False),
        ("0", "0.0000009", False),
        ("0", "0.000001", False),
        ("9e999", "8e999", False),
        ("9.0e999", "8.0e999", False),
        ("120e3", "12e4", False),
        ("0.000001", "1e-06", True),
        ("0.3333333", "0.333333", True),
        ("0.0", "0.000000", True),
        ("*\n***", " *\n***", False),
        (" *\n***", " *\n***\n", True),
        ("1 2\n3", "  1  2\n  3", True),
    ],
)
def test_small_and_huge_numbers_digests_and_drawings(output: str, expected: str, same: bool) -> None:
    assert same_output(output, expected) is same
