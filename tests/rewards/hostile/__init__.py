# ruff: noqa: E501 - programs are written as they would be sent
"""Hostile programs as data: a module for each class, and what they have in common.

Each program either answers wrong, or answers right only after its attack has succeeded, so that being paid proves a hole.
Marks such as @CWD@, @HOME@ and @PORT@ are filled in by the test, which owns the canaries behind them.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

CLASSES = (
    "early_exit", "forged_equality", "patched", "reading", "forged_reports", "stdout_tricks", "timeouts", "processes",
    "memory", "disk", "floods", "parser_bombs", "signals", "escapes", "network", "secrets", "outside", "proxies",
)  # fmt: skip

_CHECK = """def check(candidate):
    assert candidate(1) == 4
    assert candidate(10) == 13
    assert candidate(-5) == -2
"""
TRUTHS: Mapping[str, Mapping[str, Any]] = {
    "call": {
        "type": "call",
        "fn": "f",
        "cases": [{"args": [1], "expected": 4}, {"args": [10], "expected": 13}, {"args": [-5], "expected": -2}],
    },
    "call_words": {
        "type": "call",
        "fn": "f",
        "cases": [{"args": ["a"], "expected": "ember-4182"}, {"args": ["b"], "expected": "quartz-9377"}],
    },
    "call_list": {
        "type": "call",
        "fn": "f",
        "cases": [{"args": [[3, 1, 2]], "expected": [1, 2, 3]}, {"args": [[9, 7]], "expected": [7, 9]}],
    },
    "call_float": {
        "type": "call",
        "fn": "f",
        "cases": [{"args": [2.0], "expected": 1.4142135623730951}, {"args": [9.0], "expected": 3.0}],
    },
    "call_tiny": {
        "type": "call",
        "fn": "f",
        "cases": [{"args": [2.0], "expected": 2e-7}, {"args": [5.0], "expected": 5e-7}],
    },
    "call_dict": {
        "type": "call",
        "fn": "f",
        "cases": [{"args": ["ab"], "expected": {"a": 1, "b": 1}}, {"args": ["ccd"], "expected": {"c": 2, "d": 1}}],
    },
    "stdio": {
        "type": "stdio",
        "cases": [{"input": "1\n", "output": "4\n"}, {"input": "10\n", "output": "13\n"}],
    },
    "stdio_words": {
        "type": "stdio",
        "cases": [{"input": "a\n", "output": "ember-4182\n"}, {"input": "b\n", "output": "quartz-9377\n"}],
    },
    "assert": {"type": "assert", "tests": ["assert f(1) == 4", "assert f(10) == 13", "assert f(-5) == -2"]},
    "assert_words": {"type": "assert", "tests": ["assert f('a') == 'ember-4182'", "assert f('b') == 'quartz-9377'"]},
    "assert_isinstance": {
        "type": "assert",
        "tests": ["assert isinstance(f(1), int) and f(1) == 4", "assert type(f(2)) is int and abs(f(2) - 5) == 0"],
    },
    "assert_close": {
        "type": "assert",
        "tests": ['''import math
assert math.isclose(f(2.0), 1.4142135623730951)''', "assert abs(f(9.0) - 3.0) < 1e-6"],
    },
    "assert_fabs": {
        "type": "assert",
        "tests": ['''import math
assert math.fabs(f(2.0) - 1.4142135623730951) < 1e-6''', "assert round(f(9.0), 3) == 3.0"],
    },
    "assert_numpy": {
        "type": "assert",
        "tests": ['''import numpy as np
assert np.allclose(f([1.0, 2.0]), [2.0, 4.0])
assert np.array_equal(f([3.0]), [6.0])'''],
    },
    "assert_members": {
        "type": "assert",
        "tests": ["assert f(1) in (4, 40)", "assert sorted(f(2)) == [2, 3]", "assert set(f(3)) == {3, 4}"],
    },
    "assert_raises": {
        "type": "assert",
        "tests": [
            '''try:
    f(-1)
except ValueError:
    pass
else:
    raise AssertionError('no error')''',
            '''try:
    f(-2)
    raise RuntimeError('no error')
except ValueError:
    pass''',
            "assert f(4) == 2",
        ],
    },
    "assert_map": {
        "type": "assert",
        "tests": ["assert all(map(f, [2, 4, 6]))", "assert not any(map(f, [1, 3, 5]))", "assert sum(map(f, [1, 2, 3])) == 1"],
    },
    "assert_in_place": {
        "type": "assert",
        "tests": ["x = [3, 1, 2]\nf(x)\nassert x == [1, 2, 3]", '''y = [5, 4]
f(y)
assert y == [4, 5] and len(y) == 2'''],
    },
    "assert_prelude": {
        "type": "assert",
        "prelude": '''def reference(x):
    return x * 7 + 1

def same(a, b):
    return a == b
''',
        "tests": ["assert f(5) == reference(5)", "assert same(f(6), reference(6))"],
    },
    "assert_unittest": {
        "type": "assert",
        "tests": [
            '''import unittest
case = unittest.TestCase()
case.assertEqual(f(1), 4)
case.assertAlmostEqual(f(10), 13)''',
            '''import unittest
unittest.TestCase().assertTrue(f(-5) == -2)''',
        ],
    },
    "check": {"type": "assert", "tests": [_CHECK], "entry_point": "f"},
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One program that must earn nothing, and why.

    `naive` says whether the naive harness may run it: "pay" (it is paid there, or does its harm), "run" (it may run, but
    fools or harms nothing there), "no" (it would harm the machine that runs the test, or ends at no limit).
    """

    name: str
    kind: str
    source: str
    why: str
    truths: tuple[str, ...] = ("call",)
    before: tuple[str, ...] = ()  # programs graded earlier, whose traces this one looks for
    naive: str = "run"
    timeout_s: float = 2.0


def programs() -> Iterator[Program]:
    """Yield the programs of all classes."""
    for kind in CLASSES:
        for fields in importlib.import_module(f"hostile.{kind}").PROGRAMS:
            yield Program(kind=kind, **fields)


def truth_of(program: Program, name: str) -> dict[str, Any]:
    """Give the truth called `name` with the program's time limit."""
    return {**TRUTHS[name], "timeout_s": program.timeout_s}
