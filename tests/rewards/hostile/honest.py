# ruff: noqa: E501 - programs are written as they would be sent
"""Honest programs at the edge of what a sandbox and a comparison take: each must be paid in full."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any


@dataclass(frozen=True, slots=True)
class Honest:
    """A right reply and the truth that it is graded against."""

    name: str
    truth: dict[str, Any]
    reply: str
    slow: bool = False


def _call(*cases: tuple[list[Any], Any], fn: str = "f", **more: Any) -> dict[str, Any]:
    return {"type": "call", "fn": fn, "cases": [{"args": args, "expected": value} for args, value in cases], **more}


def _stdio(*cases: tuple[str, str], **more: Any) -> dict[str, Any]:
    return {"type": "stdio", "cases": [{"input": given, "output": wanted} for given, wanted in cases], **more}


def _assert(*tests: str, **more: Any) -> dict[str, Any]:
    return {"type": "assert", "tests": list(tests), **more}


_ADD = _call(([1], 4), ([-5], -2))
_PAIRS = """
class Pair(object):
    def __init__(self, a, b):
        self.a = a
        self.b = b

def max_chain_length(arr, n):
    longest = [1] * n
    for i in range(1, n):
        for j in range(i):
            if arr[i].a > arr[j].b and longest[i] < longest[j] + 1:
                longest[i] = longest[j] + 1
    return max(longest)
"""
HONEST = [
    # what a reply may look like
    Honest("bare", _ADD, "def f(x):\n    return x + 3"),
    Honest("fenced_with_prose", _ADD, '''Sure! Here is the function:

```python
def f(x):
    return x + 3
```

It adds 3, so `f(1)` is 4.'''),
    Honest("fence_without_language", _ADD, "```\ndef f(x):\n    return x + 3\n```"),
    Honest("fence_named_py", _ADD, "Answer:\n```py\ndef f(x):\n    return x + 3\n```"),
    Honest("fence_never_closed", _ADD, "```python\ndef f(x):\n    return x + 3\n"),
    Honest("last_of_several_fences", _ADD, '''First try:
```python
def f(x):
    return x - 3
```
No, it must add:
```python
def f(x):
    return x + 3
```'''),
    Honest("example_output_after_the_code", _ADD, '''```python
def f(x):
    return x + 3
```
Output:
```
4
```'''),
    Honest("usage_in_a_second_fence", _ADD, '''```python
def f(x):
    return x + 3
```
Use it so:
```python
print(f(1))
```'''),
    Honest("windows_line_ends", _ADD, "def f(x):\r\n    y = x + 3\r\n    return y\r\n"),
    Honest("byte_order_mark", _ADD, "\ufeffdef f(x):\n    return x + 3"),
    Honest("coding_cookie", _call((["x"], "xé")), """# -*- coding: utf-8 -*-
def f(x):
    return x + 'é'"""),
    Honest("latin1_cookie", _call((["x"], "xé")), r"""# -*- coding: latin-1 -*-
def f(x):
    return x + '\xe9'"""),
    Honest("unicode_identifiers", _ADD, "def f(größe):\n    Δ = 3\n    return größe + Δ"),
    Honest("future_import", _ADD, '''"""Doc."""
from __future__ import annotations

def f(x: NoSuchName) -> Neither:
    return x + 3'''),
    Honest("tests_of_its_own", _ADD, '''def f(x):
    return x + 3

assert f(0) == 3

if __name__ == '__main__':
    print(f(5))'''),
    Honest("main_guard_that_reads_input", _ADD, '''def f(x):
    return x + 3

if __name__ == '__main__':
    print(f(int(input())))'''),
    Honest("exits_under_its_guard", _ADD, '''import sys
def f(x):
    return x + 3

def main():
    sys.exit(0)

if __name__ == '__main__':
    main()'''),
    Honest("print_debugging", _ADD, '''import sys
def f(x):
    print('x is', x)
    print('debug', file=sys.stderr)
    sys.stdout.flush()
    return x + 3'''),
    Honest("noisy", _call(([1], 4)), '''def f(x):
    for i in range(20000):
        print('step', i)
    return x + 3'''),
    Honest("class_solution", _call(([[2, 7, 11], 9], [0, 1]), fn="twoSum"), '''class Solution:
    def twoSum(self, nums, target):
        seen = {}
        for i, n in enumerate(nums):
            if target - n in seen:
                return [seen[target - n], i]
            seen[n] = i'''),
    Honest("typing_names", _call(([[1, 2]], 3)), '''from typing import List, Optional
def f(xs: List[int]) -> Optional[int]:
    return sum(xs)'''),
    Honest("lambda_and_partial", _ADD, '''from functools import partial
import operator
f = partial(operator.add, 3)'''),
    Honest("callable_object", _ADD, '''class Adder:
    def __init__(self, n):
        self.n = n
    def __call__(self, x):
        return x + self.n
f = Adder(3)'''),
    Honest("dataclass_inside", _call(([3, 4], 5.0)), '''from dataclasses import dataclass
@dataclass
class P:
    x: float
    y: float
    def norm(self):
        return (self.x ** 2 + self.y ** 2) ** 0.5
def f(x, y):
    return P(x, y).norm()'''),
    Honest("catches_its_own_errors", _call((["7"], 7), (["x"], None)), '''def f(s):
    try:
        return int(s)
    except ValueError:
        return None'''),
    Honest("mutates_its_argument", _call(([[3, 1]], [1, 3]), ([[5, 4]], [4, 5])), "def f(xs):\n    xs.sort()\n    return xs"),
    # values of many kinds
    Honest("named_tuple", _call(([1, 2], [3, -1])), '''from collections import namedtuple
R = namedtuple('R', 'sum diff')
def f(a, b):
    return R(a + b, a - b)'''),
    Honest("ordered_dict", _call((["aab"], {"a": 2, "b": 1})), '''from collections import OrderedDict
def f(s):
    d = OrderedDict()
    for c in s:
        d[c] = d.get(c, 0) + 1
    return d'''),
    Honest("default_dict", _call((["aab"], {"a": 2, "b": 1})), '''from collections import defaultdict
def f(s):
    d = defaultdict(int)
    for c in s:
        d[c] += 1
    return d'''),
    Honest("counter", _call((["aab"], {"a": 2, "b": 1})), '''from collections import Counter
def f(s):
    return Counter(s)'''),
    Honest("int_enum", _call(([1], 4)), '''from enum import IntEnum
class N(IntEnum):
    FOUR = 4
def f(x):
    return N.FOUR'''),
    Honest("tuple_for_list", _call(([[1, 2]], [2, 1])), "def f(xs):\n    return tuple(reversed(xs))"),
    Honest("float_rounding", _call(([0.1, 0.2], 0.3), ([1e20, 1.0], 1e20)), "def f(a, b):\n    return a + b"),
    Honest("rounding_near_zero", _call(([0.1, 0.2], 0.0)), "def f(a, b):\n    return a + b - 0.3"),
    Honest("tiny_values", _call(([2], 2e-7), ([5], 5e-7)), "def f(x):\n    return x / 10 ** 7"),
    Honest("int_for_float", _call(([2], 4.0)), "def f(x):\n    return x * x"),
    Honest("nested_floats", _call(([3], [[0.3333333333], {"a": 0.6666666667}])), "def f(n):\n    return [[1 / n], {'a': 2 / n}]"),
    Honest("big_ints", _call(([200], 2**200), ([64], 2**64)), "def f(n):\n    return 1 << n"),
    Honest("none_and_bool", _call(([0], None), ([1], True), ([2], False)), "def f(x):\n    return [None, True, False][x]"),
    Honest("unicode_values", _call((["naïve 😀 日本"], "本日 😀 evïan")), "def f(s):\n    return s[::-1]"),
    Honest("control_characters", _call((["a"], "a\x00\x1b\x7f\u2028")), "def f(s):\n    return s + '\\x00\\x1b\\x7f\\u2028'"),
    Honest("empty_things", _call(([0], []), ([1], {}), ([2], "")), "def f(x):\n    return [[], {}, ''][x]"),
    Honest("deeply_nested_value", _call(([40], json.loads("[" * 40 + "]" * 40))), '''def f(n):
    out = []
    for _ in range(n - 1):
        out = [out]
    return out'''),
    Honest("a_megabyte_back", _call(([10**6], "ab" * 500000)), "def f(n):\n    return 'ab' * (n // 2)"),
    Honest("a_hundred_thousand_numbers", _call(([100000], list(range(100000)))), "def f(n):\n    return list(range(n))"),
    Honest("a_large_argument", _call(([list(range(50000))], 1249975000)), "def f(xs):\n    return sum(xs)"),
    # what a program may do
    Honest("recursion_with_a_limit", _call(([20000], 20000)), '''import sys
sys.setrecursionlimit(10 ** 6)
def f(n):
    return 0 if n == 0 else 1 + f(n - 1)'''),
    Honest("deep_recursion_in_a_thread", _call(([50000], 50000), timeout_s=5), '''import sys, threading
sys.setrecursionlimit(10 ** 6)
threading.stack_size(256 * 2 ** 20)
def depth(n):
    return 0 if n == 0 else 1 + depth(n - 1)
def f(n):
    out = []
    t = threading.Thread(target=lambda: out.append(depth(n)))
    t.start()
    t.join()
    return out[0]'''),
    Honest("recursion_50000", _call(([50000], 50000), timeout_s=5), '''import sys
sys.setrecursionlimit(200000)
def f(n):
    return 0 if n == 0 else 1 + f(n - 1)'''),
    Honest("recursion_error_caught", _call(([1], "deep")), """def g(n):
    return g(n + 1)
def f(x):
    try:
        return g(0)
    except RecursionError:
        return 'deep'"""),
    Honest("lru_cache", _call(([90], 2880067194370816120)), '''from functools import lru_cache
@lru_cache(None)
def f(n):
    return n if n < 2 else f(n - 1) + f(n - 2)'''),
    Honest("slow_but_in_time", _call(([1], 4), timeout_s=4), '''import time
def f(x):
    time.sleep(1.5)
    return x + 3''', slow=True),
    Honest("busy_but_in_time", _call(([1], 4), timeout_s=8), '''import time
def f(x):
    end = time.process_time() + 1.0
    while time.process_time() < end:
        pass
    return x + 3''', slow=True),
    Honest("threads", _call(([8], 28)), '''from concurrent.futures import ThreadPoolExecutor
def f(n):
    with ThreadPoolExecutor(4) as pool:
        return sum(pool.map(lambda i: i, range(n)))'''),
    Honest("asyncio", _call(([3], 6)), '''import asyncio
async def g(x):
    await asyncio.sleep(0.01)
    return x
def f(n):
    async def main():
        return sum(await asyncio.gather(*(g(i) for i in range(n + 1))))
    return asyncio.run(main())'''),
    Honest("file_in_its_directory", _call((["hi"], "hi!")), '''def f(s):
    with open('note.txt', 'w') as out:
        out.write(s + '!')
    with open('note.txt') as file:
        return file.read()'''),
    Honest("tempfile", _call((["hi"], "hi!")), '''import os, tempfile
def f(s):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'x')
        with open(path, 'w') as out:
            out.write(s + '!')
        return open(path).read()'''),
    Honest("sqlite_in_memory", _call(([[3, 1, 2]], [1, 2, 3])), '''import sqlite3
def f(xs):
    db = sqlite3.connect(':memory:')
    db.execute('create table t (x)')
    db.executemany('insert into t values (?)', [(x,) for x in xs])
    return [r[0] for r in db.execute('select x from t order by x')]'''),
    Honest("seeded_random", _call(([7], [5, 2, 6])), '''import random
def f(seed):
    r = random.Random(seed)
    return [r.randint(0, 9) for _ in range(3)]'''),
    Honest("hundred_megabytes", _call(([100], 100 * 2**20)), '''def f(n):
    x = bytearray(n * 2 ** 20)
    return len(x)'''),
    Honest("standard_library", _call((["2024-02-28"], "2024-02-29")), '''import collections, datetime, decimal, fractions, heapq, itertools, json, math, re, statistics, string
def f(s):
    return str(datetime.date.fromisoformat(s) + datetime.timedelta(days=1))'''),
    Honest("sys_argv_and_name", _call(([0], True)), '''import sys
def f(x):
    return isinstance(sys.argv, list) and len(sys.argv) >= 0'''),
    # standard input and output
    Honest("stdio_plain", _stdio(("1\n", "4\n"), ("10\n", "13\n")), "print(int(input()) + 3)"),
    Honest("stdio_trailing_space", _stdio(("3\n", "1 2 3\n")), '''n = int(input())
for i in range(1, n + 1):
    print(i, end=' ')
print()
'''),
    Honest("stdio_without_last_newline", _stdio(("3", "6\n")), '''import sys
sys.stdout.write(str(int(input()) * 2))'''),
    Honest("stdio_sys_exit", _stdio(("1\n", "4\n")), "import sys\nprint(int(input()) + 3)\nsys.exit(0)"),
    Honest("stdio_exit", _stdio(("1\n", "4\n")), '''x = int(input())
if x > 0:
    print(x + 3)
    exit()
print('no')'''),
    Honest("stdio_open_0", _stdio(("1 2\n3 4\n", "10\n")), "print(sum(map(int, open(0).read().split())))"),
    Honest("stdio_buffer", _stdio(("1 2\n3 4\n", "10\n")), r'''import sys
data = sys.stdin.buffer.read().split()
sys.stdout.buffer.write(str(sum(map(int, data))).encode() + b'\n')'''),
    Honest("stdio_readline_alias", _stdio(("2\n5\n6\n", "11\n")), '''import sys
input = sys.stdin.readline
print(sum(int(input()) for _ in range(int(input()))))'''),
    Honest("stdio_until_eof", _stdio(("5\n6\n", "11\n")), '''total = 0
while True:
    try:
        total += int(input())
    except EOFError:
        break
print(total)'''),
    Honest("stdio_main_guard", _stdio(("1\n", "4\n")), '''def main():
    print(int(input()) + 3)

if __name__ == '__main__':
    main()'''),
    Honest("stdio_os_read", _stdio(("1\n", "4\n")), '''import os
os.write(1, str(int(os.read(0, 100)) + 3).encode())'''),
    Honest("stdio_unicode", _stdio(("日本\n", "本日\n")), "print(input()[::-1])"),
    Honest("stdio_windows_ends", _stdio(("1\n", "4\n5\n")), "import sys\nsys.stdout.write('4\\r\\n5\\r\\n')"),
    Honest("stdio_stderr_noise", _stdio(("1\n", "4\n")), '''import sys
print('debug ' * 1000, file=sys.stderr)
print(int(input()) + 3)'''),
    Honest("stdio_empty_input", _stdio(("", "hello\n")), "print('hello')"),
    Honest("stdio_five_megabytes", _stdio(("500000\n", "".join(f"line {i % 1000:04}\n" for i in range(500000))), timeout_s=8), '''n = int(input())
for i in range(n):
    print(f'line {i % 1000:04}')''', slow=True),
    Honest("stdio_five_megabytes_at_once", _stdio(("5\n", "x" * 5 * 10**6 + "\n")), "print('x' * (int(input()) * 10 ** 6))"),
    Honest("stdio_large_input", _stdio((" ".join(map(str, range(200000))), "19999900000\n"), timeout_s=5), "print(sum(map(int, input().split())))"),
    Honest("stdio_threaded_main", _stdio(("1\n", "4\n")), '''import sys, threading
sys.setrecursionlimit(10 ** 6)
threading.stack_size(128 * 1024 * 1024)
def main():
    print(int(input()) + 3)
t = threading.Thread(target=main)
t.start()
t.join()'''),
    # assertion tests
    Honest("assert_plain", _assert("assert f(1) == 4", "assert f(-5) == -2"), "def f(x):\n    return x + 3"),
    Honest("assert_many_lines_in_one", _assert('''assert f(1) == 4
for i in range(5):
    assert f(i) == i + 3
assert f(i) == 7'''), "def f(x):\n    return x + 3"),
    Honest("assert_sets", _assert("assert f([1, 2, 2]) == {1, 2}", "assert set(f((3, 3))) == set((3,))"), "def f(xs):\n    return set(xs)"),
    Honest("assert_tuples_and_lists", _assert("assert f((1, 2)) == (2, 1)", "assert f([1, 2]) == [2, 1]"), "def f(xs):\n    return xs[::-1]"),
    Honest("assert_bytes_none_complex", _assert("assert f(0) == b'x\\x00'", "assert f(1) is None", "assert f(2) == 1 + 2j", "assert f(3) is True"), r'''def f(n):
    return [b'x\x00', None, 1 + 2j, True][n]'''),
    Honest("assert_float_and_nan", _assert('''import math
assert math.isclose(f(2), 2 ** 0.5, rel_tol=1e-9)''', "import math\nassert math.isnan(f(-1))", "assert f(-2) == float('inf')"), '''def f(x):
    return x ** 0.5 if x >= 0 else float('nan') if x == -1 else float('inf')'''),
    Honest("assert_int_keys", _assert("assert f([1, 1, 2]) == {1: 2, 2: 1}", "assert f([(1, 2)]) == {(1, 2): 1}"), '''def f(xs):
    out = {}
    for x in xs:
        out[x] = out.get(x, 0) + 1
    return out'''),
    Honest("assert_generator", _assert("assert list(f(3)) == [0, 1, 2]", "assert sum(f(4)) == 6", "assert next(iter(f(2))) == 0"), "def f(n):\n    for i in range(n):\n        yield i"),
    Honest("assert_map_object", _assert("assert list(f([1, 2])) == [2, 4]"), "def f(xs):\n    return map(lambda x: x * 2, xs)"),
    Honest("assert_range_and_zip", _assert("assert list(f(3)) == [(0, 0), (1, 1), (2, 2)]"), "def f(n):\n    return zip(range(n), range(n))"),
    Honest("assert_raises", _assert('''try:
    f(-1)
except ValueError:
    pass
else:
    raise AssertionError''', "assert f(4) == 2"), '''def f(x):
    if x < 0:
        raise ValueError('negative')
    return int(x ** 0.5)'''),
    Honest("assert_raises_with_unittest", _assert('''import unittest
with unittest.TestCase().assertRaises(ZeroDivisionError):
    f(0)''', "assert f(2) == 0.5"), "def f(x):\n    return 1 / x"),
    Honest("assert_mutated_argument", _assert("x = [3, 1, 2]\nf(x)\nassert x == [1, 2, 3]", '''d = {}
y = [2, 1]
assert f(y) is None and y == [1, 2]'''), "def f(xs):\n    xs.sort()"),
    Honest("assert_handles", _assert("assert max_chain_length([Pair(5, 24), Pair(15, 25), Pair(27, 40), Pair(50, 60)], 4) == 3", "assert max_chain_length([Pair(1, 2), Pair(3, 4), Pair(5, 6), Pair(7, 8)], 4) == 4"), _PAIRS),
    Honest("assert_methods", _assert('''s = Stack()
s.push(1)
s.push(2)
assert s.pop() == 2
assert s.pop() == 1''', "assert Stack().size() == 0"), '''class Stack:
    def __init__(self):
        self.items = []
    def push(self, x):
        self.items.append(x)
    def pop(self):
        return self.items.pop()
    def size(self):
        return len(self.items)'''),
    Honest("assert_counter_result", _assert("assert f('aab') == {'a': 2, 'b': 1}", '''from collections import Counter
assert f('ab') == Counter('ba')'''), '''from collections import Counter
def f(s):
    return Counter(s)'''),
    Honest("assert_named_tuple_result", _assert("assert f(1, 2) == (3, -1)"), '''from collections import namedtuple
R = namedtuple('R', 'sum diff')
def f(a, b):
    return R(a + b, a - b)'''),
    Honest("assert_helper_in_prelude", _assert("assert close(f(2), 1.41421356)", prelude="def close(a, b):\n    return abs(a - b) < 1e-6\n"), "def f(x):\n    return x ** 0.5"),
    Honest("assert_composed", _assert("assert decode(encode('héllo')) == 'héllo'", "assert encode('a') != 'a'"), '''def encode(s):
    return s.encode().hex()
def decode(s):
    return bytes.fromhex(s).decode()'''),
    Honest("assert_keyword_arguments", _assert("assert f(1, scale=3) == 3", "assert f(x=2) == 2", "assert f(*[2], **{'scale': 4}) == 8"), "def f(x, *, scale=1):\n    return x * scale"),
    Honest("assert_in_a_loop", _assert('''import random
r = random.Random(0)
for _ in range(100):
    a = [r.randint(0, 99) for _ in range(20)]
    assert f(a) == sorted(a)'''), "def f(xs):\n    return sorted(xs)"),
    Honest("check_style", {"type": "assert", "entry_point": "f", "tests": ['''METADATA = {'author': 'x'}


def check(candidate):
    assert candidate(1) == 4, 'first'
    assert all(candidate(i) == i + 3 for i in range(10))
    assert True, 'a note'
''']}, "```python\ndef f(x):\n    return x + 3\n```"),
    Honest("quicksort_named_like_a_builtin", _assert("assert sum_list([1, 2]) == 3", "assert max_val([1, 3, 2]) == 3"), '''def sum_list(list):
    sum = 0
    for i in list:
        sum += i
    return sum
def max_val(xs):
    max = xs[0]
    for x in xs:
        if x > max:
            max = x
    return max'''),
]  # fmt: skip
if find_spec("numpy"):
    HONEST += [
        Honest(
            "numpy_scalars",
            _call(([[1, 2, 3]], 2.0), ([[4, 4]], 4.0)),
            """import numpy as np
def f(xs):
    return np.mean(xs)""",
            slow=True,
        ),
        Honest(
            "numpy_int_and_bool",
            _call(([[1, 2, 3]], [6, True])),
            """import numpy as np
def f(xs):
    return [np.sum(xs), np.any(np.array(xs) > 2)]""",
            slow=True,
        ),
        Honest(
            "numpy_array",
            _call(([[1, 2]], [2, 4])),
            """import numpy as np
def f(xs):
    return np.array(xs) * 2""",
            slow=True,
        ),
        Honest(
            "numpy_in_asserts",
            _assert(
                """import numpy as np
assert np.allclose(f([1.0, 2.0]), [2.0, 4.0])""",
                "assert len(f([1.0])) == 1",
            ),
            "def f(xs):\n    return [x * 2 for x in xs]",
            slow=True,
        ),
    ]
