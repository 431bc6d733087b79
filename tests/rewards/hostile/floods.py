# ruff: noqa: E501 - programs are written as they would be sent
"""Programs that answer more than anybody wants to read."""

_CALLS = ("call", "assert", "check")


def _flood(name: str, source: str, why: str, truths: tuple[str, ...] = _CALLS, naive: str = "run") -> dict[str, object]:
    return {"name": name, "source": source, "why": why, "truths": truths, "naive": naive, "timeout_s": 1.0}


PROGRAMS = [
    _flood("stdout_endless", "while True:\n    print('x' * 100000)", "output is bounded", ("call", "stdio", "assert"), "no"),
    _flood("stderr_endless", '''import os
while True:
    os.write(2, b'x' * 100000)''', "errors are output too", ("call", "stdio", "assert"), "no"),
    _flood("stdout_without_newline", "import os\nwhile True:\n    os.write(1, b'9')", "one line that never ends", ("stdio",), "no"),
    _flood("right_then_flood", '''x = int(input())
print(x + 3)
while True:
    print()''', "the right line first, then blank lines without end", ("stdio",), "no"),
    _flood("gigabyte_result", "def f(x):\n    return 'x' * 10 ** 9", "results are bounded"),
    _flood("gigabyte_list", "def f(x):\n    return [0] * 10 ** 8", "results are bounded"),
    _flood("wide_after_sharing", '''def f(x):
    a = ['x' * 1000] * 1000
    for _ in range(6):
        a = [a] * 100
    return a''', "shared parts make a small object that is written out as terabytes"),
    _flood("nested_list", '''def f(x):
    a = []
    for _ in range(10 ** 6):
        a = [a]
    return a''', "depth is bounded"),
    _flood("nested_moderate", '''def f(x):
    a = []
    for _ in range(900):
        a = [a]
    return a''', "depth that one encoder takes and another decoder does not"),
    _flood("nested_dict", '''def f(x):
    a = {}
    for _ in range(10 ** 5):
        a = {'k': a}
    return a''', "depth is bounded"),
    _flood("cyclic_list", "def f(x):\n    a = []\n    a.append(a)\n    return a", "a cycle has no plain form"),
    _flood("cyclic_dict", "def f(x):\n    a = {}\n    a['a'] = a\n    return a", "a cycle has no plain form"),
    _flood("huge_int", "def f(x):\n    return 1 << (10 ** 8)", "writing a huge integer as decimals takes for ever or is refused"),
    _flood("int_over_digit_limit", "def f(x):\n    return 10 ** 5000", "more digits than Python converts by default"),
    _flood("lone_surrogates", "def f(x):\n    return '\\ud800\\udfff\\x00'", "text that no encoding writes"),
    _flood("surrogate_in_error", r'''def f(x):
    raise ValueError('\ud800\x00' * 1000)''', "an error text that no encoding writes"),
    _flood("gigabyte_error", "def f(x):\n    raise ValueError('x' * 10 ** 9)", "error texts are bounded"),
    _flood("exception_group", '''def f(x):
    e = ValueError('x')
    for _ in range(10000):
        e = ExceptionGroup('g', [e, e])
    raise e''', "errors within errors, doubling"),
    _flood("exception_chain", '''def f(x):
    e = None
    for _ in range(10 ** 5):
        n = ValueError('x')
        n.__cause__ = e
        e = n
    raise e''', "a chain of causes that a traceback would write out"),
    _flood("keys_of_all_kinds", '''def f(x):
    return {None: 1, 1.5: 2, (1, 2): 3, b'x': 4, frozenset({1}): 5, float('nan'): 6, True: 7}''', "keys that JSON does not have"),
    _flood("special_floats", '''def f(x):
    return [float('nan'), float('inf'), -float('inf'), -0.0, 5e-324]''', "numbers that JSON does not have"),
    _flood("odd_types", '''import datetime, decimal, fractions, uuid, re, array
def f(x):
    return [datetime.date(1, 1, 1), decimal.Decimal('sNaN'), fractions.Fraction(1, 3), uuid.UUID(int=0), re.compile('x'), array.array('i'), range(10 ** 12), slice(1), Ellipsis, NotImplemented, memoryview(b'x'), f, type, ValueError(), object()]''', "values of every odd kind"),
    _flood("dict_changes_while_read", '''class D(dict):
    def items(self):
        for i in range(10 ** 9):
            yield i, i
    keys = values = __iter__ = items
def f(x):
    return D(a=1)''', "a mapping that grows as it is read"),
    _flood("len_lies", '''class L(list):
    def __len__(self):
        return 10 ** 18
    def __iter__(self):
        return iter(int, 1)
    def __getitem__(self, i):
        return 4
def f(x):
    return L()''', "a list that lies about its length and never ends", ("call", "assert", "check", "assert_members")),
    _flood("warnings_flood", '''import warnings, sys
warnings.simplefilter('always')
for i in range(20000):
    warnings.warn('x' * 1000)
for i in range(100000):
    sys.stdout.write('passed')
def f(x):
    return 0''', "noise within the limits, wrong after it"),
]  # fmt: skip
