# ruff: noqa: E501 - programs are written as they would be sent
"""Assertion tests whose names, objects and arguments come from the program: what it may say, and what it may not."""

import pytest

from rlvr.testing import rollout, task
from rlvr.types import Grade, Verdict
from rlvr_rewards.code import Code

pytestmark = pytest.mark.integration


def graded(code: Code, reply: str, truth: object) -> Grade:
    posed = task("q", truth)
    grade = code.grade(posed, rollout(reply, of=posed))
    assert isinstance(grade, Grade), grade
    return grade


def verdict(code: Code, reply: str, truth: object) -> str:
    return str(graded(code, reply, truth).verdict)


NESTED = "def g(n):\n    xs = []\n    for _ in range(n):\n        xs = [xs]\n    return xs\ndef f(x):\n    return 1\n"
HUGE = "def g(*a):\n    return (1 << 2**20) - 1\nf = g"


@pytest.mark.parametrize(
    ("source", "test", "prelude"),
    [
        (NESTED, "assert f(g(150)) == 2", ""),
        (NESTED, "assert f([g(99)]) == 2", ""),
        (HUGE, "assert f(g(1) + g(1)) == 2", ""),
        ("def helper():\n    return 0\nf = helper", "assert f() == 1", "V = 1 / helper()"),
        ("V = 0\ndef f():\n    return 0", "assert f() == 1", "W = 1 / V"),
    ],
)
def test_a_program_cannot_choose_to_be_ungraded(best: Code, source: str, test: str, prelude: str) -> None:
    assert verdict(best, source, {"type": "assert", "tests": [test], "prelude": prelude}) == "WRONG"


SAYS_YES = "isclose = allclose = sqrt = lambda *a, **k: True\nclass np:\n    allclose = allclose\n"


@pytest.mark.parametrize(
    "test",
    ["assert isclose(f(2), 1.5)", "x = f(2)\nassert isclose(x, 1.5)", "assert np.allclose(f(2), 1.5)",
     "assert allclose(f(2), 1.5)", "assert f(2) == sqrt(2.25)"],
)  # fmt: skip
def test_what_tests_forgot_to_import_never_comes_from_the_program(best: Code, test: str) -> None:
    truth = {"type": "assert", "tests": [test]}
    assert verdict(best, SAYS_YES + "def f(x):\n    return True", truth) == "WRONG"
    assert verdict(best, "def f(x):\n    return 1.5", truth) == "CORRECT"


def test_a_tested_function_may_have_the_name_of_a_library_function(best: Code) -> None:
    truth = {"type": "assert", "tests": ["assert factorial(3) == 6", "assert factorial(4) == 24"]}
    assert verdict(best, "def factorial(n):\n    return n and 6 if n < 4 else 24", truth) == "CORRECT"
    assert verdict(best, "def factorial(n):\n    return 6", truth) == "WRONG"
    truth["entry_point"] = "factorial"
    assert verdict(best, "def factorial(n):\n    return 6", truth) == "WRONG"


def test_a_module_getattr_defines_no_name(best: Code) -> None:
    truth = {"type": "assert", "tests": ["assert f(1) == 2 and missing(3) == 4"]}
    source = "def __getattr__(name):\n    return lambda x: x + 1\n"
    assert verdict(best, source, truth) == "WRONG"
    assert verdict(best, source + "f = missing = __getattr__('')", truth) == "CORRECT"


LIES = {
    "length": (
        "class L:\n    def __len__(s): return 2\n    def __iter__(s): return iter([])\n    def __getitem__(s, i): return i\n"
    ),
    "places": "class L:\n    def __iter__(s): return iter([3, 1])\n    def __getitem__(s, i): return i\n",
    "turns": "class L:\n    n = 0\n    def __iter__(s):\n        s.n += 1\n        return iter([[1, 2], [2, 1]][s.n % 2])\n",
    "endless": "class L:\n    def __iter__(s):\n        import itertools\n        return itertools.count()\n",
    "opaque": "class L:\n    n = 0\n    @property\n    def x(s):\n        s.n += 1\n        return s.n\n    def __call__(s): pass\n",
}


@pytest.mark.parametrize(
    ("lie", "test"),
    [
        ("length", "assert len(f(1)) == 2"),
        ("places", "xs = f(1)\nassert sorted(xs) == [1, 3] and all(xs[i] <= xs[i + 1] for i in range(1))"),
        ("turns", "xs = f(1)\nassert list(xs) == [1, 2] and list(xs) == [2, 1] or list(xs) != list(xs)"),
        ("endless", "assert 7 in f(1)"),
        ("endless", "assert len(f(1)) > 0"),
        ("opaque", "assert f(1) != 5"),
        ("opaque", "assert f(1)"),
        ("opaque", "assert callable(f(1))"),
        ("opaque", "assert len({f(1), f(2)}) == 2"),
        ("opaque", "assert all(f(x) for x in range(3))"),
        ("opaque", "r = f(1)\nassert r.x == 1 and r.x == 2"),
    ],
)
def test_a_mere_result_does_not_satisfy_properties_by_lies(best: Code, lie: str, test: str) -> None:
    assert verdict(best, LIES[lie] + "def f(x):\n    return L()", {"type": "assert", "tests": [test]}) == "WRONG"


@pytest.mark.parametrize(
    ("tests", "source"),
    [
        (["r = f([1, 2])\nassert r.v == 1 and r.next.v == 2 and r.next.next is None and r.next != None"],
         "class N:\n    def __init__(s, v, n):\n        s.v, s.next = v, n\ndef f(xs):\n    return N(xs[0], f(xs[1:])) if xs else None"),
        (["r, out = f(Node(1)), []\nwhile r:\n    out.append(r.v)\n    r = r.next\nassert out == [1, 0]"],
         "class Node:\n    def __init__(s, v, n=None):\n        s.v, s.next = v, n\ndef f(n):\n    n.next = Node(0)\n    return n"),
        (["g = f()\nassert next(g) == 0\nassert next(g) == 1 and next(g) == 2\nimport itertools\nassert list(itertools.islice(g, 2)) == [3, 4]"],
         "import itertools\ndef f():\n    yield from itertools.count()"),
        (["assert f(1)(2) == 3 and f(x=1)(5) == 6"], "def f(x):\n    return lambda y: x + y"),
        (["s = make()\ns.push(1)\nassert s.size == 1 and len(s) == 1\ns.push(2)\nassert s.size == 2 and list(s) == [1, 2]"],
         "class S(list):\n    push = list.append\n    size = property(len)\nmake = lambda: O()\nclass O:\n    def __init__(s): s.x = []\n"
         "    def push(s, v): s.x.append(v)\n    size = property(lambda s: len(s.x))\n    def __iter__(s): return iter(s.x)"),
        (["p = f(3, 4)\nassert p.x == 3 and p.y == 4 and p == (3, 4) and g(p) == 7"],
         "from collections import namedtuple\nP = namedtuple('P', 'x y')\ndef f(a, b):\n    return P(a, b)\ndef g(p):\n    return p.x + p.y"),
        (["c = f('aab')\nassert c.most_common(1) == [('a', 2)] and c['z'] == 0 and c == {'a': 2, 'b': 1}"],
         "from collections import Counter\ndef f(s):\n    return Counter(s)"),
        (["assert f({1: 2}) == {1}", "assert sorted(g({1: 2})) == [2]", "assert h({1: 2}) == {(1, 2)}"],
         "f, g, h = dict.keys, dict.values, dict.items"),
        (["with Bag(1) as b:\n    b['k'] = 4\n    assert b['k'] == 4 and len(b) == 1\n    del b['k']\n    assert len(b) == 0\nassert b.closed"],
         "class Bag:\n    closed = False\n    def __init__(s, n): s.d = {}\n    def __enter__(s): return s\n"
         "    def __exit__(s, *e): s.closed = True\n    def __len__(s): return len(s.d)\n    def __getitem__(s, k): return s.d[k]\n"
         "    def __setitem__(s, k, v): s.d[k] = v\n    def __delitem__(s, k): del s.d[k]"),
        (["v = Vec(1) + Vec(2)\nassert v.x == 3 and (2 * Vec(4)).x == 8 and Vec(2) @ Vec(3) == 6 and Vec(1) < Vec(2)"],
         "class Vec:\n    def __init__(s, x): s.x = x\n    def __add__(s, o): return Vec(s.x + o.x)\n    def __rmul__(s, k): return Vec(k * s.x)\n"
         "    def __matmul__(s, o): return s.x * o.x\n    def __lt__(s, o): return s.x < o.x"),
        (["nums = [1, 1, 2]\nk = f(nums)\nassert nums[:k] == [1, 2]"],
         "def f(xs):\n    xs[:] = sorted(set(xs))\n    return len(xs)"),
        (["grid = [[1, 2], [3]]\nrow, d = grid[0], {'a': 1}\nassert f(grid, seen=d) == 2 and grid == [[9, 2], [3]] and row[0] == 9 and d == {}"],
         "def f(g, seen):\n    g[0][0] = 9\n    seen.clear()\n    return len(g)"),
        (["from collections import deque\nq, b = deque([1, 2]), bytearray(b'a')\nassert f(q, b) == 1 and list(q) == [2] and b == b'ab'"],
         "def f(q, b):\n    b += b'b'\n    return q.popleft()"),
    ],
)  # fmt: skip
def test_honest_objects_are_usable(best: Code, tests: list[str], source: str) -> None:
    grade = graded(best, source, {"type": "assert", "tests": tests})
    assert grade.verdict is Verdict.CORRECT, grade.why


def test_a_class_that_the_tests_use_as_a_function_forges_no_number(best: Code) -> None:
    truth = {"type": "assert", "tests": ["assert abs(Diff(3) - 3.0) < 1e-6", "assert Diff(2) + 1 == 3"]}
    source = "class Diff(Exception):\n    def __sub__(s, o): return 0\n    def __add__(s, o): return 3\n    __radd__ = __add__\n"
    assert verdict(best, source, truth) == "WRONG"


@pytest.mark.parametrize(
    "test", ["xs = [3, 1, 2]\nassert f(xs) == sorted(xs)", "xs = [3, 1, 2]\nys = f(xs)\nassert ys == sorted(xs)"]
)
def test_emptying_the_argument_is_no_answer(best: Code, test: str) -> None:
    truth = {"type": "assert", "tests": [test]}
    assert verdict(best, "def f(xs):\n    xs.clear()\n    return []", truth) == "WRONG"
    assert verdict(best, "def f(xs):\n    xs.sort()\n    return list(xs)", truth) == "CORRECT"
