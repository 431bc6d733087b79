"""Reach the Linux calls that the standard library lacks: raw system calls, mounts, capabilities, process controls.

Standard library only: this file also runs inside containers and on remote machines, shipped as text.
"""

from __future__ import annotations

import ctypes
import os
import platform

__all__ = ["MS", "call", "drop_capabilities", "machine", "mount", "prctl", "refuse_new_privileges", "syscall"]

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]
_LIBC.syscall.restype = ctypes.c_long

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_CAPBSET_DROP = 24
PR_SET_SECUREBITS = 28
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_LOCKED_DOWN = 0x2F  # keep-caps off; no-setuid-fixup, no-root and no-ambient-raise, each set and locked
_CAPSET = {"x86_64": 126, "aarch64": 91}


class MS:
    """Name the flags of mount(2)."""

    RDONLY, NOSUID, NODEV, NOEXEC, REMOUNT, BIND, REC, PRIVATE = 1, 2, 4, 8, 32, 4096, 16384, 1 << 18


def machine() -> str:
    """Name the processor as our tables of system calls do. Errors: OSError for one that they lack."""
    name = platform.machine()
    if name not in _CAPSET:
        raise OSError(f"no table of system calls for the processor {name}")
    return name


def call(name: str, *args: object) -> int:
    """Call a function of the C library. Errors: OSError with the name of what failed."""
    result: int = getattr(_LIBC, name)(*args)
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def syscall(number: int, *args: object, name: str) -> int:
    """Make a system call by its number. Numbers go as long, pointers as they are. Errors: OSError, saying `name`."""
    result: int = _LIBC.syscall(
        ctypes.c_long(number), *(ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args)
    )
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}")
    return result


def prctl(option: int, *args: int) -> int:
    """Set a property of this process."""
    return call("prctl", option, *(ctypes.c_ulong(arg) for arg in (*args, 0, 0, 0, 0)[:4]))


def mount(source: str | None, target: str, *, kind: str | None = None, flags: int = 0, data: str = "") -> None:
    """Mount, bind or remount."""
    call(
        "mount",
        source.encode() if source else None,
        target.encode(),
        kind.encode() if kind else None,
        flags,
        data.encode() or None,
    )


def refuse_new_privileges() -> None:
    """Promise that no exec of this process or its children gains rights."""
    prctl(PR_SET_NO_NEW_PRIVS, 1)


def drop_capabilities() -> None:
    """Give up every capability, for good where the process may."""
    for capability in range(64):
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except OSError:
            break  # past the last one, or nothing there to drop
    for option, value in ((PR_SET_SECUREBITS, _LOCKED_DOWN), (_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)):
        try:
            prctl(option, value)
        except OSError:  # without capabilities there is nothing to lock
            continue
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    syscall(_CAPSET[machine()], ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)()), name="capset")
