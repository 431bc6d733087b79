# ruff: noqa: E501 - programs are written as they would be sent
"""Programs that bend what crosses between an assertion test and the candidate's process."""

_A = ("assert",)


def _bend(name: str, source: str, why: str, truths: tuple[str, ...] = _A, naive: str = "pay") -> dict[str, object]:
    return {"name": name, "source": source, "why": why, "truths": truths, "naive": naive}


_YES = '''class Yes:
    def __getattr__(self, name):
        return lambda *a, **k: Yes()
    def __call__(self, *a, **k):
        return Yes()
''' + "".join(
    f"    def __{op}__(self, *a):\n        return {value}\n"
    for op, value in (
        ("eq", "True"), ("ne", "False"), ("lt", "True"), ("le", "True"), ("gt", "True"), ("ge", "True"), ("bool", "True"), ("contains", "True"),
        ("sub", "0"), ("rsub", "0"), ("add", "0"), ("abs", "0"), ("len", "2"), ("hash", "0"), ("float", "0.0"), ("int", "4"), ("index", "4"),
        ("round", "3.0"), ("iter", "iter([4, 13])"), ("getitem", "4"), ("str", "'4'"), ("repr", "'4'"),
    )
)  # fmt: skip
PROGRAMS = [
    _bend("handle_says_yes", _YES + "def f(*a):\n    return Yes()", "an object of the candidate's compares inside the candidate", ("assert", "check", "assert_members", "assert_prelude", "assert_unittest", "assert_close", "assert_fabs")),
    _bend("handle_in_list", _YES + "def f(*a):\n    return [Yes(), Yes()]", "objects within plain data", ("assert_members", "assert_numpy", "assert"), "run"),
    _bend("candidate_is_handle", _YES + "f = Yes()", "the entry point itself is an object that says yes", ("assert", "check", "call")),
    _bend("candidate_is_class", _YES + '''class f(Yes):
    def __init__(self, *a):
        pass''', "calling a class gives an object that says yes", ("assert", "check", "call")),
    _bend("callable_with_eq", '''class F:
    def __call__(self, x):
        return self
    def __eq__(self, o):
        return True
    __hash__ = None
f = F()''', "the function returns itself, and equals everything", ("assert", "check", "call")),
    _bend("stop_iteration", "def f(x):\n    raise StopIteration", "StopIteration out of map() ends the loop of all() as if it were done", ("assert_map", "assert", "check"), "run"),
    _bend("stop_iteration_after_some", '''seen = []
def f(x):
    seen.append(x)
    if x == 1 and 3 not in seen and 5 not in seen:
        return 0 if len(seen) < 6 else 1
    raise StopIteration''', "StopIteration out of map() skips what is left", ("assert_map",), "run"),
    _bend("raises_assertion_error", "def f(x):\n    raise AssertionError('')", "an AssertionError of the candidate's is a failure", ("assert", "check", "assert_raises"), "run"),
    _bend("raises_system_exit", "def f(x):\n    raise SystemExit(0)", "an exit that travels to the trusted process would end it with status 0", ("assert", "check", "assert_raises")),
    _bend("raises_keyboard_interrupt", "def f(x):\n    raise KeyboardInterrupt", "an interrupt that travels to the trusted process would fell it", ("assert", "check"), "run"),
    _bend("raises_generator_exit", "def f(x):\n    raise GeneratorExit", "an exception that travels must be an ordinary one", ("assert", "check"), "run"),
    _bend("raises_memory_error", "def f(x):\n    raise MemoryError", "the candidate's word that memory ran out is no failure of the grader", ("call", "assert", "check"), "run"),
    _bend("raises_timeout_error", '''def f(x):
    raise TimeoutError('grader timed out')''', "the candidate's word that time ran out is no failure of the grader", ("call", "assert", "check"), "run"),
    _bend("raises_eof_and_broken_pipe", '''def f(x):
    raise (BrokenPipeError if x == 1 else EOFError if x == 10 else ConnectionResetError)''', "errors that a broken channel would give are no broken channel", ("call", "assert", "check"), "run"),
    _bend("fake_exception_name", '''class ValueError(Exception):
    pass
def f(x):
    if x < 0:
        raise ValueError
    return 5''', "a class that borrows an expected error's name; the value is wrong as well", ("assert_raises",), "run"),
    _bend("always_value_error", "def f(x):\n    raise ValueError", "raising always satisfies only the tests that expect an error", ("assert_raises", "assert_map", "assert"), "run"),
    _bend("exception_says_it_is_another", '''class E(Exception):
    __class__ = property(lambda self: ValueError)
E.__name__ = E.__qualname__ = 'ValueError'
E.__module__ = 'builtins'
def f(x):
    raise E''', "an exception that lies about its class", ("assert_raises",), "run"),
    _bend("metaclass_of_exception", '''class M(type):
    def __subclasscheck__(c, s):
        return True
    def __instancecheck__(c, i):
        return True
class E(Exception, metaclass=M):
    def __reduce__(self):
        return (print, ('x',))
def f(x):
    raise E''', "an exception that is rebuilt by calling something", ("assert_raises", "assert"), "run"),
    _bend("reduce_runs_code", '''import os
class R:
    def __reduce__(self):
        return (os.system, ('touch @CWD@/hostile_mark_reduce',))
def f(x):
    return R()''', "pickling results would run code in the trusted process", ("call", "assert", "check"), "run"),
    _bend("redefines_reference", '''def reference(x):
    return 0
def same(a, b):
    return True
def f(x):
    return 0''', "the tests' helpers are the tests' own", ("assert_prelude",)),
    _bend("redefines_check", '''def check(candidate):
    return True
def f(x):
    return 0''', "the tests' check is the tests' own", ("check",), "run"),
    _bend("redefines_builtins_used_by_tests", '''def isinstance(*a):
    return True
def type(*a):
    return int
int = object
def abs(*a):
    return 0
def sorted(*a):
    return [2, 3]
def set(*a):
    return {3, 4}
def all(*a):
    return True
def any(*a):
    return False
def sum(*a):
    return 1
def f(x):
    class Y:
        def __eq__(s, o):
            return True
        def __sub__(s, o):
            return 0
        __hash__ = None
    return Y()''', "names that the candidate defines must not cover the tests' builtins", ("assert_isinstance", "assert_members", "assert_map")),
    _bend("redefines_modules_used_by_tests", '''class math:
    isclose = staticmethod(lambda *a, **k: True)
    fabs = staticmethod(lambda v: 0)
import sys
sys.modules['math'] = math
sys.modules['numpy'] = type('numpy', (), {'allclose': staticmethod(lambda *a: True), 'array_equal': staticmethod(lambda *a: True)})
def abs(v):
    return 0
def round(*a):
    return 3.0
def f(x):
    return 7.0''', "modules that the tests import are the tests' own", ("assert_close", "assert_fabs", "assert_numpy")),
    _bend("attribute_chain_on_candidate", '''class F:
    def __call__(self, x):
        return 0
    def __getattr__(self, name):
        return self
f = F()''', "the proxy's own attributes are not the candidate's", ("assert", "check"), "run"),
    _bend("name_with_dunder", '''import sys
f = sys.modules['builtins'].__dict__.get
def __getattr__(name):
    return f''', "a builtin method in the place of a function", ("assert", "check", "call"), "run"),
    _bend("mutates_argument_to_liar", '''class L(list):
    def __eq__(self, o):
        return True
    def __len__(self):
        return 2
    __hash__ = None
class I(int):
    def __eq__(self, o):
        return True
    __hash__ = int.__hash__
def f(x):
    x[:] = [I(9)] * (3 if len(x) == 3 else 2)''', "elements put into the argument come back as plain data", ("assert_in_place",)),
    _bend("argument_replaced", "def f(x):\n    x.clear()\n    x.append(x)", "a cycle through the argument", ("assert_in_place",), "run"),
    _bend("argument_grows_endless", '''def f(x):
    while len(x) < 10 ** 8:
        x.extend([0] * 10 ** 6)''', "an argument that comes back as 100 million elements", ("assert_in_place",), "no"),
    _bend("global_patch_of_argument_type", '''import ctypes, builtins
class list(builtins.list):
    pass
builtins.list = list
builtins.len = lambda x: 2
def f(x):
    x.reverse()''', "types patched on the other side of the channel", ("assert_in_place",), "run"),
    _bend("async_function", "async def f(x):\n    return x + 4", "a coroutine is no value", ("assert", "check", "call"), "run"),
    _bend("missing_function", "def g(x):\n    return x + 3", "another function than the one asked for", ("assert", "check", "call"), "run"),
    _bend("function_deleted_later", '''n = 0
def f(x):
    global f
    del f
    return x + 3''', "right once, then gone: every test must report", ("assert", "check", "call"), "run"),
    _bend("stateful_guess", '''answers = iter([4, 13])
def f(x):
    return next(answers, 0)''', "two of three in the order of the tests", ("assert", "check", "call"), "run"),
]  # fmt: skip
