"""Fence a process in with Landlock: which files it may read, the one folder it may write, no network, no signals out.

Standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from collections.abc import Iterable

from .kernel import syscall

__all__ = ["abi", "restrict", "ruleset"]

_CREATE, _ADD, _RESTRICT = 444, 445, 446
_EXECUTE, _WRITE, _READ, _READ_DIR = 1, 2, 4, 8
_PATH_BENEATH = 1
# Rights over files that each version of the interface knows: 13, then REFER, TRUNCATE, and from version 5 IOCTL_DEV.
_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}
_NET, _SCOPE = 0b11, 0b11  # bind and connect (4); abstract sockets and signals (6)
_MAKE_SPECIAL = (1 << 6) | (1 << 10) | (1 << 11)  # character devices, FIFOs, block devices
_ONLY_DIRECTORIES = ~(_EXECUTE | _WRITE | _READ | (1 << 14) | (1 << 15))


def abi() -> int:
    """Give the kernel's version of Landlock. Errors: OSError where it has none."""
    return syscall(_CREATE, None, 0, 1, name="landlock_create_ruleset")


def ruleset(*, readable: Iterable[str], listable: Iterable[str], devices: Iterable[str], writable: str) -> int:
    """Make a set of rules and give its file descriptor.

    Args:
        readable: files and folders to read, with all below.
        listable: folders whose names may be listed, with all below.
        devices: files to read and write.
        writable: the one folder to write in.
    Errors: OSError where the kernel has no Landlock.
    """
    version = abi()
    rights = (1 << _RIGHTS.get(version, 16)) - 1
    attributes = struct.pack("=QQQ", rights, _NET, _SCOPE)[: 8 if version < 4 else 16 if version < 6 else 24]
    rules = syscall(_CREATE, ctypes.c_char_p(attributes), len(attributes), 0, name="landlock_create_ruleset")
    for paths, allowed in (
        (readable, _EXECUTE | _READ | _READ_DIR),
        (listable, _READ_DIR),
        (devices, _READ | _WRITE),
        ([writable], rights & ~_MAKE_SPECIAL & ~_EXECUTE),
    ):
        for path in paths:
            with contextlib.suppress(FileNotFoundError):
                _allow(rules, path, allowed & rights)
    return rules


def restrict(rules: int) -> None:
    """Fence this process and its future threads in, for good. It must have refused new privileges before."""
    syscall(_RESTRICT, rules, 0, name="landlock_restrict_self")


def _allow(rules: int, path: str, allowed: int) -> None:
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not os.path.isdir(path):
            allowed &= ~_ONLY_DIRECTORIES
        rule = struct.pack("=Qi", allowed, fd)
        syscall(_ADD, rules, _PATH_BENEATH, ctypes.c_char_p(rule), 0, name=f"landlock_add_rule for {path}")
    finally:
        os.close(fd)
