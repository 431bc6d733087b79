# ruff: noqa: E501 - programs are written as they would be sent
"""Programs that end the process before a test can fail: an exit status of 0 is no evidence."""

ALL = ("call", "stdio", "assert", "check")
_EXITS = {
    "sys_exit": ("import sys\nsys.exit(0)", "pay", "the exit status is 0, but no case has reported"),
    "os_exit": ("import os\nos._exit(0)", "pay", "it skips every handler and ends with status 0"),
    "quit": ("quit()", "pay", "the site helper raises SystemExit"),
    "system_exit_subclass": (
        "class Bye(SystemExit):\n    code = 0\nraise Bye()", "pay", "a subclass of SystemExit is no result either"),
    "exec_true": ("import os\nos.execv('/bin/true', ['true'])", "pay", "the process becomes a program that succeeds"),
    "excepthook": (
        '''import sys, os
sys.excepthook = lambda *a: os._exit(0)
def f(x):
    return 0''', "pay",
        "a failing assertion would end with status 0"),
    "atexit": (
        '''import atexit, os
atexit.register(os._exit, 0)
def f(x):
    return 0''', "pay",
        "the handler replaces the status of a failure"),
    "thread_exit": (
        '''import threading, os
threading.Thread(target=os._exit, args=(0,)).start()
import time
time.sleep(0.5)''', "pay",
        "a thread ends the process while the main one is busy"),
    "sigkill_self": ('''import os, signal
os.kill(os.getpid(), signal.SIGKILL)''', "run", "a killed candidate has not answered"),
    "sigterm_self": ('''import os, signal
os.kill(os.getpid(), signal.SIGTERM)''', "run", "a killed candidate has not answered"),
    "sigterm_handler_exit": (
        '''import os, signal
signal.signal(signal.SIGTERM, lambda *a: os._exit(0))
os.kill(os.getpid(), signal.SIGTERM)''',
        "pay", "a handler turns a signal into status 0"),
    "abort": ("import os\nos.abort()", "run", "a crash is no answer, and no failure of the grader"),
    "segfault": ("import ctypes\nctypes.string_at(0)", "run", "a crash is no answer, and no failure of the grader"),
    "keyboard_interrupt": ("raise KeyboardInterrupt", "run", "a BaseException must not fell the harness"),
    "generator_exit": ("raise GeneratorExit", "run", "a BaseException must not fell the harness"),
}  # fmt: skip

PROGRAMS = [
    {"name": name, "source": source, "naive": naive, "why": why, "truths": ALL}
    for name, (source, naive, why) in _EXITS.items()
] + [
    {
        "name": "exit_when_called",
        "source": "import sys\ndef f(x):\n    sys.exit(0)",
        "why": "the exit comes inside the call, where an import guard no longer looks",
        "truths": ("call", "assert", "check"),
        "naive": "pay",
    },
    {
        "name": "os_exit_when_called",
        "source": "import os\ndef f(x):\n    os._exit(0)",
        "why": "the process is gone in the middle of the call",
        "truths": ("call", "assert", "check"),
        "naive": "pay",
    },
    {
        "name": "exit_in_eq",
        "source": """class R:
    def __eq__(self, other):
        raise SystemExit(0)
    __hash__ = None
def f(x):
    return R()""",
        "why": "comparing raises an exit with status 0",
        "truths": ("call", "assert", "check"),
        "naive": "pay",
    },
    {
        "name": "os_exit_in_del",
        "source": """import os
class R:
    def __del__(self):
        os._exit(0)
def f(x):
    return R()""",
        "why": "dropping the result ends the process with status 0",
        "truths": ("call", "assert", "check"),
        "naive": "pay",
    },
    {
        "name": "os_exit_in_reduce",
        "source": "import os\nclass R:\n    def __reduce__(self):\n        os._exit(0)\n    def __iter__(self):\n        os._exit(0)\n"
        "    def __len__(self):\n        os._exit(0)\n    def __eq__(self, o):\n        os._exit(0)\ndef f(x):\n    return R()",
        "why": "any look at the result ends the process with status 0",
        "truths": ("call", "assert", "check"),
        "naive": "pay",
    },
    {
        "name": "right_once_then_exit",
        "source": """import os
done = []
def f(x):
    if done:
        os._exit(0)
    done.append(x)
    return 4""",
        "why": "the first case is right and the others never report: every test must",
        "truths": ("call", "assert", "check"),
        "naive": "pay",
    },
    {
        "name": "close_every_descriptor",
        "source": """import os
os.closerange(0, 65536)
def f(x):
    return 0""",
        "why": "a harness that cannot hear failures must not take silence for success",
        "truths": ("call", "stdio", "assert", "check"),
        "naive": "run",
    },
    {
        "name": "empty_reply",
        "source": "pass",
        "why": "nothing defined, nothing printed, status 0",
        "truths": ALL,
        "naive": "run",
    },
]
