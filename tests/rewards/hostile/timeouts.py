# ruff: noqa: E501 - programs are written as they would be sent
"""Programs that do not end. Each must be killed at its deadline, whatever it does with signals, threads and C code."""

_EVERY = ("call", "stdio", "assert", "check")


def _hang(name: str, source: str, why: str, truths: tuple[str, ...] = ("call",)) -> dict[str, object]:
    return {"name": name, "source": source, "why": why, "truths": truths, "naive": "no", "timeout_s": 1.0}


PROGRAMS = [
    _hang("busy_loop", "while True:\n    pass", "it never ends", _EVERY),
    _hang("busy_loop_in_call", "def f(x):\n    while True:\n        pass", "it never ends", ("call", "assert", "check")),
    _hang("sleep", "import time\ntime.sleep(10 ** 6)", "it waits without using any processor time"),
    _hang("right_after_the_deadline", '''import time
def f(x):
    time.sleep(4)
    return x + 3''', "a right answer past the deadline is late", ("call", "assert")),
    _hang("slow_every_case", '''import time
def f(x):
    time.sleep(0.6)
    return x + 4''', "a wrong answer just in time, case after case"),
    _hang("deadlock", '''import threading
lock = threading.Lock()
lock.acquire()
lock.acquire()''', "it waits for itself"),
    _hang("joins_itself", '''import threading
ready = threading.Event()
t = threading.Thread(target=ready.wait)
t.start()
t.join()''', "it waits for a thread that waits"),
    _hang("nondaemon_thread", '''import threading, time
threading.Thread(target=time.sleep, args=(10 ** 6,)).start()
def f(x):
    return 0''', "a thread keeps the interpreter from ending", ("call", "stdio", "assert")),
    _hang("huge_power", "def f(x):\n    return 10 ** 10 ** 8 % 7", "one long C call holds the interpreter lock", ("call", "assert")),
    _hang("sum_range", "def f(x):\n    return sum(range(10 ** 12))", "one long C call with no bytecode between", ("call", "stdio")),
    _hang("regex_backtracking", '''import re
def f(x):
    return re.match(r'(a+)+$', 'a' * 64 + 'b') and 4
f(1)''', "the regex engine checks no signal handler"),
    _hang("sorted_endless", '''import itertools
def f(x):
    return any(v < 0 for v in itertools.repeat(1))
f(1)''', "an endless iterator in C"),
    _hang("max_repeat", "import itertools\nmax(itertools.repeat(1))", "an endless C loop without memory growth"),
    _hang("signals_blocked", '''import signal
signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))
while True:
    pass''', "blocked signals do not hold off the kill", ("call", "stdio")),
    _hang("stopped", '''import os, signal
os.kill(os.getpid(), signal.SIGSTOP)
def f(x):
    return 0''', "a stopped process dies at its deadline all the same", ("call", "stdio", "assert")),
    _hang("catch_everything", '''def f(x):
    while True:
        try:
            while True:
                pass
        except BaseException:
            pass''', "an exception thrown in would be caught"),
    _hang("del_loops", '''class Stay:
    def __del__(self):
        while True:
            pass
def f(x):
    return Stay()''', "it hangs when the result is dropped", ("call", "assert")),
    _hang("str_loops", '''class Stay:
    def __repr__(self):
        while True:
            pass
    __str__ = __eq__ = __len__ = __iter__ = __reduce__ = __repr__
def f(x):
    return Stay()''', "it hangs when the result is looked at", ("call", "assert", "check")),
    _hang("exception_str_loops", '''class Stay(Exception):
    def __str__(self):
        while True:
            pass
    __repr__ = __str__
def f(x):
    raise Stay''', "it hangs when the error is written down", ("call", "assert")),
    _hang("atexit_loops", '''import atexit
def stay():
    while True:
        pass
atexit.register(stay)
print(0)
def f(x):
    return 0''', "it hangs at exit", ("call", "stdio")),
    _hang("infinite_generator", '''def f(x):
    n = 0
    while True:
        n += 1
        yield n''', "an endless generator must not be drained without bound", ("call", "assert", "assert_members")),
    _hang("import_hang", '''import sys
class Finder:
    def find_spec(self, *a):
        while True:
            pass
sys.meta_path.insert(0, Finder())
def f(x):
    return 0
import xml.dom.minidom, wave''', "imports hang from now on", ("call", "assert")),
    _hang("waits_for_input", '''import sys
sys.stdin.read()
sys.stdin.read()
import os
os.read(0, 1)
open('/dev/stdin').read()
import time
time.sleep(100)''', "input that never comes", ("call", "stdio")),
    _hang("setitimer_storm", '''import signal, itertools
signal.signal(signal.SIGALRM, lambda *a: None)
signal.setitimer(signal.ITIMER_REAL, 1e-5, 1e-5)
while True:
    pass''', "a storm of signals to itself"),
]  # fmt: skip
