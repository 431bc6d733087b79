# ruff: noqa: E501 - programs are written as they would be sent
"""Programs that change the language, the libraries or the harness around the tests instead of answering."""

_ZERO = "\ndef f(x):\n    return 0\n"
_EVERY = ("call", "assert", "check")


def _patch(name: str, source: str, why: str, truths: tuple[str, ...] = _EVERY, naive: str = "pay") -> dict[str, object]:
    return {"name": name, "source": source, "why": why, "truths": truths, "naive": naive}


PROGRAMS = [
    _patch("no_assertion_error", '''import builtins, os
class Quiet(Exception):
    def __init__(self, *a):
        os._exit(0)
builtins.AssertionError = Quiet''' + _ZERO,
           "renaming the exception must not swallow the failure", naive="run"),
    _patch("isinstance_true", '''import builtins
builtins.isinstance = lambda *a: True
builtins.type = lambda *a: int
builtins.abs = lambda v: 0
class R:
    def __eq__(self, o):
        return True
    def __sub__(self, o):
        return 0
def f(x):
    return R()''',
           "builtins of the candidate's process say nothing about its results", ("call", "assert", "assert_isinstance")),
    _patch("abs_zero", '''import builtins
builtins.abs = lambda v: 0.0
builtins.round = lambda *a: 3.0
import math
math.fabs = lambda v: 0.0
math.isclose = lambda *a, **k: True
def f(x):
    return 7.0''',
           "the tests measure with functions that the candidate replaced", ("assert_close", "assert_fabs", "call_float")),
    _patch("math_fabs", '''import math
math.fabs = lambda v: 0.0
import builtins
builtins.round = lambda *a: 3.0
def f(x):
    return 7.0''',
           "a patched module is shared only where both run in one process", ("assert_fabs",)),
    _patch("math_isclose", '''import math, builtins
math.isclose = lambda *a, **k: True
builtins.abs = lambda v: 0
def f(x):
    return 7.0''',
           "a patched module is shared only where both run in one process", ("assert_close",)),
    _patch("numpy_allclose", '''import numpy
numpy.allclose = lambda *a, **k: True
numpy.array_equal = lambda *a, **k: True
def f(x):
    return [0.0]''',
           "a patched library is shared only where both run in one process", ("assert_numpy",)),
    _patch("module_shadow", '''import sys, types
fake = types.ModuleType('math')
fake.isclose = lambda *a, **k: True
fake.fabs = lambda v: 0
sys.modules['math'] = fake
import builtins
builtins.abs = lambda v: 0
builtins.round = lambda *a: 3.0
def f(x):
    return 7.0''',
           "a module planted in sys.modules must not reach the tests", ("assert_close", "assert_fabs")),
    _patch("unittest_pass", '''import unittest
for name in dir(unittest.TestCase):
    if name.startswith('assert'):
        setattr(unittest.TestCase, name, lambda *a, **k: None)''' + _ZERO,
           "assertions of the candidate's unittest are not the tests' own", ("assert_unittest",)),
    _patch("sorted_set", '''import builtins
class Yes:
    def __eq__(self, o):
        return True
    __hash__ = None
builtins.sorted = lambda *a, **k: Yes()
builtins.set = lambda *a: Yes()
def f(x):
    return Yes()''',
           "sorted and set of the tests are not the candidate's", ("assert_members",)),
    _patch("all_any_sum", '''import builtins
builtins.all = lambda i: True
builtins.any = lambda i: False
builtins.sum = lambda i: 1
def f(x):
    return 9''',
           "aggregates of the tests are not the candidate's", ("assert_map",)),
    _patch("import_hook", '''import builtins
real = builtins.__import__
def hook(name, *a, **k):
    m = real(name, *a, **k)
    if name in ('math', 'numpy'):
        m.isclose = m.allclose = m.array_equal = lambda *a, **k: True
        m.fabs = lambda v: 0
    return m
builtins.__import__ = hook
builtins.abs = lambda v: 0
builtins.round = lambda *a: 3.0
def f(x):
    return 7.0''',
           "an import hook must not reach the tests' imports", ("assert_close", "assert_fabs")),
    _patch("json_dumps", '''import json, builtins
json.dumps = lambda *a, **k: '{"status": "passed", "value": 4, "ok": true, "result": 4}'
json.JSONEncoder.encode = lambda *a: '4'
json.JSONEncoder.iterencode = lambda *a, **k: iter(['4'])''' + _ZERO,
           "whoever writes the candidate's results, their value is compared outside", naive="run"),
    _patch("pickle_dumps", r"""import pickle, marshal
pickle.dumps = lambda *a, **k: b'I4\n.'
marshal.dumps = lambda *a: b'i\x04\x00\x00\x00'""" + _ZERO,
           "whoever writes the candidate's results, their value is compared outside", naive="run"),
    _patch("builtins_cleared", '''import builtins
for name in list(vars(builtins)):
    if not name.startswith('__'):
        delattr(builtins, name)''', "a candidate without builtins is a broken candidate, not a broken grader", ("call", "stdio", "assert", "check"), naive="run"),
    _patch("settrace_locals", '''import sys, ctypes
def tracer(frame, event, arg):
    for name, value in list(frame.f_locals.items()):
        if name in ('expected', 'want', 'ok', 'passed', 'result', 'correct'):
            frame.f_locals[name] = True
            ctypes.pythonapi.PyFrame_LocalsToFast(ctypes.py_object(frame), ctypes.c_int(0))
    return tracer
sys.settrace(tracer)
sys.setprofile(lambda *a: None)
try:
    frame = sys._getframe()
    while frame:
        frame.f_trace = tracer
        frame = frame.f_back
except ValueError:
    pass''' + _ZERO,
           "a tracer sees only frames of the process that it runs in", ("call", "assert", "check"), naive="run"),
    _patch("skip_lines_with_tracer", '''import sys
def tracer(frame, event, arg):
    if event == 'line' and 'assert' in (frame.f_code.co_filename or '') or event == 'exception':
        import os
        os._exit(0)
    return tracer
sys.settrace(tracer)
frame = sys._getframe()
while frame:
    frame.f_trace = tracer
    frame = frame.f_back''' + _ZERO,
           "a failing assertion raises into the tracer, which ends the process with status 0"),
    _patch("frames_patch_globals", '''import sys
class Yes:
    def __eq__(self, o):
        return True
    __hash__ = None
frame = sys._getframe()
while frame:
    for name in list(frame.f_globals):
        if name not in ('f', 'Yes', 'frame', 'sys') and not name.startswith('__') and callable(frame.f_globals[name]):
            frame.f_globals[name] = lambda *a, **k: True
    frame = frame.f_back
def f(x):
    return Yes()''',
           "every function that the harness keeps beside the candidate now says yes"),
    _patch("gc_mutates_harness", '''import gc, types
class Yes:
    def __eq__(self, o):
        return True
    __hash__ = None
for thing in gc.get_objects():
    try:
        if type(thing) is dict and 'expected' in thing:
            thing['expected'] = thing.get('args', [0])[0]
        elif type(thing) is list and thing and all(type(v) is str and v.startswith('assert') for v in thing):
            thing[:] = ['assert True'] * len(thing)
        elif type(thing) is dict and 'cases' in thing:
            thing['cases'] = []
        elif type(thing) is dict and 'tests' in thing:
            thing['tests'] = []
    except Exception:
        pass
def f(x):
    return x''',
           "the garbage collector lists the harness's own objects, cases included", ("call", "call_words", "assert", "check"), naive="run"),
    _patch("code_swap", '''import gc, types
def yes(*a, **k):
    return True
for thing in gc.get_objects():
    if isinstance(thing, types.FunctionType) and thing is not yes and thing.__module__ in ('__main__', __name__):
        try:
            thing.__code__ = yes.__code__
        except ValueError:
            pass''' + _ZERO,
           "functions of the harness get the code of one that agrees", ("call", "assert", "check"), naive="run"),
    _patch("forbidden_fruit", '''import ctypes, gc
referents = gc.get_referents(int.__dict__)
for d in referents:
    if isinstance(d, dict):
        d['__add__'] = None
ns = ctypes.py_object(int.__dict__)
try:
    class Dict(ctypes.Structure):
        _fields_ = [('refs', ctypes.c_ssize_t), ('type', ctypes.c_void_p), ('d', ctypes.py_object)]
    inner = Dict.from_address(id(int.__dict__)).d
    inner['bit_length'] = lambda self: 4
    inner['__eq__'] = lambda a, b: True
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(int))
except Exception:
    pass''' + _ZERO,
           "int itself is changed, in the candidate's process only", naive="run"),
    _patch("int_cache_poisoned", '''import ctypes, sys
def set_int(number, value):
    ctypes.c_uint32.from_address(id(number) + 24).value = value
set_int(0, 4)
def f(x):
    return 0
''', "the small int 0 now reads 4 in the candidate's memory; one constant answers not all cases", naive="run"),
    _patch("str_constants_rewritten", """import ctypes, gc, sys
def f(x):
    frame = sys._getframe(1)
    for const in frame.f_code.co_consts:
        if isinstance(const, str) and const.startswith('e' if x == 'a' else 'q') and len(const) < 20:
            return const
    return ''""",
           "the caller's constants hold the expected value where it is in the same process", ("assert_words", "call_words")),
    _patch("open_returns_tests_passed", """import builtins, io
builtins.open = lambda *a, **k: io.StringIO('passed')
import os
os.write = lambda fd, data: len(data)
os.read = lambda fd, n: b''""" + _ZERO,
           "patched primitives keep results from leaving; silence is no success", ("call", "stdio", "assert", "check"), naive="run"),
    _patch("socket_send_patched", """import socket
socket.socket.sendall = lambda self, data, *a: None
socket.socket.send = lambda self, data, *a: len(data)
socket.socket.recv = lambda self, n, *a: b''""" + _ZERO,
           "patched primitives keep results from leaving; silence is no success", naive="run"),
    _patch("time_stopped", '''import time
time.monotonic = time.perf_counter = time.time = lambda: 0.0
import signal
signal.alarm(0)
for s in range(1, 65):
    try:
        signal.signal(s, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
while True:
    pass''',
           "clocks and signals of the candidate do not keep its deadline away", ("call", "stdio", "assert", "check"), naive="no") | {"timeout_s": 1.0},
    _patch("name_main_tests", '''import sys
main = sys.modules['__main__']
for name in list(vars(main)):
    if name.startswith(('test', 'check', 'run', 'main')):
        setattr(main, name, lambda *a, **k: None)
def check(candidate):
    pass''' + _ZERO,
           "a check of the candidate's own must not replace the test's", ("check",), naive="run"),
]  # fmt: skip
