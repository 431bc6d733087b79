# ruff: noqa: E501 - programs are written as they would be sent
"""Programs that want more memory than they may have."""

_EVERY = ("call", "stdio", "assert")


def _eat(name: str, source: str, why: str, truths: tuple[str, ...] = ("call",), naive: str = "no") -> dict[str, object]:
    return {"name": name, "source": source, "why": why, "truths": truths, "naive": naive, "timeout_s": 1.0}


PROGRAMS = [
    _eat("bytearray", '''x = bytearray(64 * 2 ** 30)
for i in range(0, len(x), 4096):
    x[i] = 1''', "64 GiB at once", _EVERY),
    _eat("list_growth", '''x = []
while True:
    x.append(bytearray(10 ** 6))''', "it grows until it is stopped", _EVERY),
    _eat("string_doubling", "s = 'x'\nwhile True:\n    s += s", "doubling"),
    _eat("catches_memory_error", '''x = []
while True:
    try:
        x.append(bytearray(10 ** 7))
    except MemoryError:
        pass''', "it goes on after each refusal", _EVERY),
    _eat("recursion", '''import sys
sys.setrecursionlimit(10 ** 9)
def f(x):
    return f(x + 1) + 1
f(0)''', "the stack overflows in C or in Python: a crash of the candidate", _EVERY),
    _eat("c_stack_overflow", '''import sys
sys.setrecursionlimit(10 ** 9)
x = []
for _ in range(10 ** 7):
    x = [x]
def f(v):
    return repr(x)
f(1)''', "the C stack overflows", ("call", "assert")),
    _eat("mmap_anonymous", '''import mmap
keep = []
while True:
    m = mmap.mmap(-1, 2 ** 28)
    for i in range(0, 2 ** 28, 4096):
        m[i] = 1
    keep.append(m)''', "memory outside the interpreter's heap"),
    _eat("mmap_shared", '''import mmap, os
keep = []
while True:
    m = mmap.mmap(-1, 2 ** 28, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
    for i in range(0, 2 ** 28, 4096):
        m[i] = 1
    keep.append(m)''', "shared memory counts as well"),
    _eat("memfd", '''import os
fd = os.memfd_create('x')
chunk = b'x' * 2 ** 24
while True:
    os.write(fd, chunk)''', "a file in memory is bounded by no heap limit"),
    _eat("pipes_full", '''import os, fcntl
keep = []
while True:
    r, w = os.pipe()
    try:
        fcntl.fcntl(w, 1031, 2 ** 20)
    except OSError:
        pass
    os.set_blocking(w, False)
    try:
        os.write(w, b'x' * 2 ** 20)
    except OSError:
        pass
    keep.append((r, w))''', "kernel memory in pipes is bounded by the number of descriptors"),
    _eat("libc_malloc", '''import ctypes
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
while True:
    p = libc.malloc(ctypes.c_size_t(2 ** 26))
    if p:
        ctypes.memset(p, 1, 2 ** 26)''', "a C library's heap", ("call", "assert")),
    _eat("numpy_ones", '''import numpy
keep = []
while True:
    keep.append(numpy.ones(2 ** 24))''', "an extension's heap"),
    _eat("many_children", '''import os
for _ in range(64):
    try:
        if os.fork() == 0:
            x = []
            while True:
                x.append(bytearray(10 ** 6))
    except OSError:
        break
import time
time.sleep(60)''', "memory of a tree, not of one process"),
    _eat("int_growth", '''def f(x):
    n = 3
    while True:
        n = n * n
f(1)''', "an integer that squares itself", ("call", "assert")),
    _eat("raised_limits", '''import resource
for r in (resource.RLIMIT_AS, resource.RLIMIT_DATA, resource.RLIMIT_NPROC, resource.RLIMIT_FSIZE, resource.RLIMIT_STACK):
    try:
        resource.setrlimit(r, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except (OSError, ValueError):
        pass
x = []
while True:
    x.append(bytearray(10 ** 8))''', "limits cannot be raised again", _EVERY),
    _eat("compressed_bomb", '''import zlib
d = zlib.decompressobj()
b = zlib.compress(b'0' * 10 ** 7)
x = []
while True:
    x.append(zlib.decompress(b))''', "small data that becomes large"),
]  # fmt: skip
