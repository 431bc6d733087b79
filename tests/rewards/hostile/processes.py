# ruff: noqa: E501 - programs are written as they would be sent
"""Programs that start others: all of them must be gone when the verdict is there. What is left is found by its mark."""

_EVERY = ("call", "stdio", "assert")
_MARK = """
import os, sys, time, signal, subprocess
def marked():
    try:
        with open('/proc/self/comm', 'w') as comm:
            comm.write('hostile_mark')
    except OSError:
        pass
"""


def _fork(
    name: str, source: str, why: str, truths: tuple[str, ...] = ("call",), naive: str = "no", timeout_s: float = 1.0
) -> dict[str, object]:
    return {
        "name": name,
        "source": _MARK + source,
        "why": why,
        "truths": truths,
        "naive": naive,
        "timeout_s": timeout_s,
    }


PROGRAMS = [
    _fork("child_outlives", '''if os.fork() == 0:
    marked()
    time.sleep(3600)
def f(x):
    return 0''', "a child must not outlive the verdict", _EVERY),
    _fork("daemon", '''if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        marked()
        os.chdir('/')
        os.closerange(0, 256)
        time.sleep(3600)
    os._exit(0)
def f(x):
    return 0''', "a daemon has left its parent, its session and its group", _EVERY, "pay"),
    _fork("daemon_deaf", '''if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        marked()
        for s in range(1, 65):
            try:
                signal.signal(s, signal.SIG_IGN)
            except (OSError, ValueError):
                pass
        while True:
            time.sleep(1)
    os._exit(0)
os._exit(0)''', "a daemon that ignores every signal", _EVERY, "pay"),
    _fork("subprocess_sleep", '''subprocess.Popen(['sleep', '98765'], start_new_session=True)
def f(x):
    return 0''', "a program in a session of its own", _EVERY, "pay"),
    _fork("nohup_shell", r'''os.system('setsid sh -c "trap : TERM HUP INT; sleep 98765; true" >/dev/null 2>&1 &')
def f(x):
    return 0''', "a shell job that shrugs off signals", ("call", "stdio"), "pay"),
    _fork("fork_bomb", '''marked()
while True:
    try:
        os.fork()
    except OSError:
        pass''', "processes are limited, and all die at the deadline", _EVERY),
    _fork("fork_bomb_setsid", '''marked()
while True:
    try:
        if os.fork() == 0:
            os.setsid()
    except OSError:
        pass''', "each process flees into a session of its own"),
    _fork("fork_chain", '''marked()
while True:
    try:
        if os.fork():
            os._exit(0)
    except OSError:
        os._exit(0)''', "each process is replaced by its child faster than a list of them can be read", ("call", "stdio")),
    _fork("vfork_exec_chain", r'''marked()
import sys
try:
    subprocess.Popen([sys.executable, '-c', 'import os,sys,time;exec("while 1:\\n os.fork();time.sleep(.01)")'], start_new_session=True)
except OSError:
    pass
time.sleep(60)''', "the bomb goes off in another program"),
    _fork("thread_bomb", '''import threading
while True:
    try:
        threading.Thread(target=time.sleep, args=(3600,)).start()
    except (RuntimeError, MemoryError):
        time.sleep(0.01)''', "threads count as processes do"),
    _fork("child_answers", '''r, w = os.pipe()
pid = os.fork()
if pid == 0:
    marked()
def f(x):
    return 0
print(0)''', "two processes answer on one channel, both wrong", ("call", "stdio", "assert"), "run"),
    _fork("forks_per_call", '''def f(x):
    for _ in range(20):
        if os.fork() == 0:
            marked()
            os.setsid()
            time.sleep(3600)
    return 0''', "children of the call, not of the import", ("call", "assert", "check")),
    _fork("holds_the_pipes", '''if os.fork() == 0:
    marked()
    time.sleep(3600)
os._exit(0)''', "the child keeps stdout and the channel open, the parent is gone: no waiting for end of file", _EVERY),
    _fork("multiprocessing_pool", '''import multiprocessing
def g(x):
    time.sleep(3600)
def f(x):
    ctx = multiprocessing.get_context('fork')
    ps = [ctx.Process(target=g, args=(x,)) for _ in range(4)]
    [p.start() for p in ps]
    [p.join() for p in ps]
    return 0''', "workers that sleep", ("call",)),
    _fork("zombies", '''for _ in range(500):
    try:
        if os.fork() == 0:
            os._exit(0)
    except OSError:
        break
def f(x):
    return 0''', "children that nobody waits for", ("call", "stdio"), "run"),
    _fork("init_of_namespace", '''import ctypes
libc = ctypes.CDLL(None)
libc.unshare(0x10000000 | 0x20000000)
if os.fork() == 0:
    marked()
    if os.fork() == 0:
        time.sleep(3600)
    time.sleep(3600)
def f(x):
    return 0''', "processes of an inner pid namespace die too", ("call",)),
]  # fmt: skip
