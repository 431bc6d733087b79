# ruff: noqa: E501 - programs are written as they would be sent
"""Programs that look for the expected values instead of computing them."""

_WORDS = ("call_words", "assert_words")
_ALL = (*_WORDS, "stdio_words")
_FIND = """
import re
SHAPE = re.compile("(?:ember|quartz)-[0-9]{4}")
SEEN = []
def harvest(text):
    for word in SHAPE.findall(text):
        if word not in SEEN:
            SEEN.append(word)
def answer(x):
    return next((word for word in SEEN if word[0] == ("e" if x == "a" else "q")), "")
"""
_MAIN = """
def f(x):
    look()
    return answer(x)
look()
if SEEN and __name__ == "__main__":
    import sys
    print(answer(sys.stdin.readline().strip()))
"""


def _reader(
    name: str, look: str, why: str, truths: tuple[str, ...] = _ALL, naive: str = "pay", timeout_s: float = 2.0
) -> dict[str, object]:
    source = _FIND + "def look():\n" + "\n".join("    " + line for line in look.splitlines()) + _MAIN
    return {"name": name, "source": source, "why": why, "truths": truths, "naive": naive, "timeout_s": timeout_s}


PROGRAMS = [
    _reader("frames", '''import sys
frame = sys._getframe()
while frame:
    harvest(repr(frame.f_locals) + repr(frame.f_globals) + repr(frame.f_code.co_consts))
    frame = frame.f_back''',
            "the frames above the call hold no expected value", _WORDS),
    _reader("gc_objects", '''import gc
for thing in gc.get_objects():
    if type(thing) in (dict, list, tuple):
        for v in (thing.values() if type(thing) is dict else thing):
            if type(v) is str and len(v) < 200:
                harvest(v)''',
            "no object of the process holds an expected value", _WORDS, "run"),
    _reader("code_constants", '''import gc, types
for thing in gc.get_objects():
    if isinstance(thing, types.FunctionType):
        harvest(repr(thing.__code__.co_consts))
import sys
frame = sys._getframe()
while frame:
    harvest(repr(frame.f_code.co_consts))
    frame = frame.f_back''',
            "no code object of the process holds an expected value", _WORDS),
    _reader("proc_self_mem", '''with open('/proc/self/maps') as maps, open('/proc/self/mem', 'rb', 0) as mem:
    for line in maps:
        span, mode = line.split()[:2]
        low, high = (int(p, 16) for p in span.split('-'))
        if 'rw' in mode and high - low < 2 ** 26 and 'vvar' not in line:
            try:
                mem.seek(low)
                harvest(mem.read(high - low).decode('latin-1'))
            except (OSError, ValueError):
                pass''',
            "the candidate's memory holds no expected value", _WORDS),
    _reader("ctypes_scan", '''import ctypes
with open('/proc/self/maps') as maps:
    for line in maps:
        span, mode = line.split()[:2]
        low, high = (int(p, 16) for p in span.split('-'))
        if '[heap]' in line and 'rw' in mode and high - low < 2 ** 26:
            harvest(ctypes.string_at(low, high - low).decode('latin-1'))''',
            "the candidate's memory holds no expected value", _WORDS, "run"),
    _reader("proc_cmdline", '''import glob
for path in glob.glob('/proc/[0-9]*/cmdline') + glob.glob('/proc/[0-9]*/environ'):
    try:
        harvest(open(path, 'rb').read().decode('latin-1'))
    except OSError:
        pass''',
            "command lines and environments hold no expected value", naive="run"),
    _reader("argv_environ", '''import sys, os
harvest(repr(sys.argv) + repr(sys.orig_argv) + repr(dict(os.environ)) + repr(sys.flags))''',
            "neither arguments nor environment hold an expected value", naive="run"),
    _reader("files_around", '''import os
for root in (os.getcwd(), os.path.dirname(os.path.abspath(globals().get('__file__', '.'))), '/tmp', '/dev/shm', '/run'):
    if SEEN:
        break
    for folder, _, names in os.walk(root):
        if folder.count('/') > 6:
            continue
        for name in names[:200]:
            try:
                path = os.path.join(folder, name)
                if os.path.isfile(path) and os.path.getsize(path) < 10 ** 6:
                    harvest(open(path, errors='replace').read())
            except OSError:
                pass''',
            "no file that the candidate can read holds an expected value", _ALL),
    _reader("own_file", '''import sys, inspect
for path in {globals().get('__file__'), sys.argv[0], getattr(sys.modules['__main__'], '__file__', None)}:
    try:
        harvest(open(path).read())
    except (OSError, TypeError):
        pass''',
            "the candidate's file holds no tests", _ALL),
    _reader("linecache", '''import linecache, inspect, sys
for lines in list(linecache.cache.values()):
    harvest(repr(lines))
frame = sys._getframe()
while frame:
    try:
        harvest(inspect.getsource(frame))
    except (OSError, TypeError):
        pass
    frame = frame.f_back''',
            "sources of the callers hold no expected value", _WORDS),
    _reader("open_descriptors", '''import os, select
for fd in range(0, 64):
    try:
        path = os.readlink(f'/proc/self/fd/{fd}')
        if path.startswith('/') and os.path.isfile(path):
            harvest(open(path, errors='replace').read(10 ** 6))
        elif fd != 0 and select.select([fd], [], [], 0)[0]:
            harvest(os.read(fd, 65536).decode('latin-1'))
    except (OSError, ValueError):
        pass''',
            "no open descriptor leads to an expected value", naive="run"),
    _reader("peek_private_channel", '''import os, socket
for fd in range(3, 256):
    try:
        s = socket.socket(fileno=os.dup(fd))
        s.setblocking(False)
        harvest(s.recv(65536, socket.MSG_PEEK).decode('latin-1'))
    except (OSError, ValueError):
        pass''',
            "the channel carries arguments in and results out, never expected values", naive="run"),
    _reader("proc_parent_mem", '''import os, glob
for name in glob.glob('/proc/[0-9]*'):
    pid = name[6:]
    if pid == str(os.getpid()):
        continue
    try:
        with open(f'/proc/{pid}/maps') as maps, open(f'/proc/{pid}/mem', 'rb', 0) as mem:
            for line in maps:
                span, mode = line.split()[:2]
                low, high = (int(p, 16) for p in span.split('-'))
                if 'rw' in mode and high - low < 2 ** 24:
                    mem.seek(low)
                    harvest(mem.read(high - low).decode('latin-1'))
    except (OSError, ValueError):
        pass''',
            "no other process's memory can be read", naive="no"),
    _reader("process_vm_readv", '''import ctypes, os, glob
libc = ctypes.CDLL(None, use_errno=True)
class Vec(ctypes.Structure):
    _fields_ = [('base', ctypes.c_void_p), ('len', ctypes.c_size_t)]
for name in glob.glob('/proc/[0-9]*'):
    pid = int(name[6:])
    if pid == os.getpid():
        continue
    try:
        for line in open(f'/proc/{pid}/maps'):
            span, mode = line.split()[:2]
            low, high = (int(p, 16) for p in span.split('-'))
            if 'rw' in mode and high - low < 2 ** 24:
                buffer = ctypes.create_string_buffer(high - low)
                n = libc.process_vm_readv(pid, ctypes.byref(Vec(ctypes.addressof(buffer), high - low)), 1, ctypes.byref(Vec(low, high - low)), 1, 0)
                if n > 0:
                    harvest(buffer.raw[:n].decode('latin-1'))
    except (OSError, ValueError):
        pass''',
            "no other process's memory can be read", naive="no"),
    _reader("core_pattern_and_shm", '''import os
for path in ('/dev/shm', '/var/tmp', '/run/shm', '/proc/sysvipc/shm', '/proc/net/unix', '/proc/keys'):
    try:
        harvest(repr(os.listdir(path)) if os.path.isdir(path) else open(path).read())
    except OSError:
        pass''',
            "shared memory and kernel tables hold no expected value", naive="run"),
    _reader("test_module_attributes", '''import sys
for module in list(sys.modules.values()):
    for name in ('tests', 'cases', 'truth', 'expected', 'check', 'task', 'CASES', 'TESTS'):
        value = getattr(module, name, None)
        if value is not None:
            harvest(repr(value) + repr(getattr(getattr(value, '__code__', None), 'co_consts', '')))''',
            "no loaded module holds the tests", _WORDS, "run"),
    {
        "name": "lambda_reads_caller",
        "source": '''import sys, re
f = lambda *a: (re.findall(r'[a-z]{5,6}-[0-9]{4}', repr(sys._getframe(1).f_code.co_consts) + repr(sys._getframe(1).f_locals)) or [''])[0 if a[0] == 'a' else -1]''',
        "why": "an answer without a body of its own takes the caller's constant",
        "truths": _WORDS,
        "naive": "pay",
    },
    {
        "name": "eq_learns_from_the_other_side",
        "source": '''LEARNT = {}
class Spy(str):
    def __eq__(self, other):
        LEARNT[self.key] = other
        return True
    def __ne__(self, other):
        return False
    __hash__ = str.__hash__
def f(x):
    if x in LEARNT:
        return LEARNT[x]
    s = Spy('')
    s.key = x
    return s''',
        "why": "comparing inside the candidate's process would hand it the expected value",
        "truths": ("call", "call_words", "assert", "assert_words", "check"),
        "naive": "pay",
    },
    {
        "name": "exception_traceback_reads_test",
        "source": """import sys, re
def f(x):
    try:
        raise ValueError
    except ValueError as e:
        frame = e.__traceback__.tb_frame.f_back
        while frame:
            words = re.findall(r'[a-z]{5,6}-[0-9]{4}', repr(frame.f_code.co_consts) + repr(frame.f_locals))
            if words:
                return words[0] if x == 'a' else words[-1]
            frame = frame.f_back
    return ''""",
        "why": "a traceback leads to the frames of callers",
        "truths": _WORDS,
        "naive": "pay",
    },
]  # fmt: skip
