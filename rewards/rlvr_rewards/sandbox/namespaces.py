"""Give a fork-server a world of its own: user, pid, mount, net, ipc and uts namespaces over a read-only root.

The root holds the interpreter, its libraries and a few devices, nothing else. Each program then gets a pid, mount and
ipc namespace of its own, with a private folder of limited size in memory. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence

from .kernel import MS, PR_SET_DUMPABLE, call, mount, prctl, syscall
from .places import DEVICES

__all__ = ["NOBODY", "enter", "enter_jail", "new_pids"]

NOBODY = 65534
_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_MOUNT_SETATTR, _AT_RECURSIVE, _READ_ONLY = 442, 0x8000, 1 | 2 | 4  # read-only, no set-uid, no devices

_SCAFFOLDS = ("/sys", "/mnt", "/srv", "/media")  # where the new root is built: no interpreter lives below these
_TMPFS = MS.NOSUID | MS.NODEV


def enter(*, readable: Sequence[str], hidden: Sequence[str]) -> str:
    """Move this process into the new world; children forked from now on live in its pid namespace.

    Args:
        readable: files and folders of the machine that stay visible, at the same paths.
        hidden: folders below those that appear empty.
    Gives: the folder that each jail gets for itself: /tmp, unless the interpreter or a package lies below it.
    Errors: OSError where the kernel or the container around us does not allow it.
    """
    scratch = "/scratch" if any(path.startswith("/tmp/") for path in readable) else "/tmp"
    if os.geteuid() == 0:
        # Root sees every path of the interpreter, so it builds the root; then it becomes nobody, outside too.
        _unshare(_NEWNS)
        _build_root(readable, hidden, scratch=scratch)
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        prctl(PR_SET_DUMPABLE, 1)
        _new_user(_NEWNS)
    else:
        _new_user(_NEWNS)
        _build_root(readable, hidden, scratch=scratch)
    return scratch


def new_pids(home: int) -> int:
    """Fork into a pid namespace of its own and give the child's number, 0 in the child, as os.fork does.

    Args:
        home: an open file of this process's own pid namespace, to which it returns.
    """
    _unshare(_NEWPID)
    pid = os.fork()
    if pid:
        call("setns", home, _NEWPID)
    return pid


def enter_jail(scratch: str, *, disk_mb: int) -> None:
    """Give this process its own mounts: a private folder, which becomes the working one, and its own /proc."""
    _unshare(_NEWNS | _NEWIPC)
    options = f"size={disk_mb}m,nr_inodes=4096,mode=700,uid={NOBODY},gid={NOBODY}"
    mount("tmpfs", scratch, kind="tmpfs", flags=_TMPFS, data=options)
    try:
        mount("proc", "/proc", kind="proc", flags=MS.NOSUID | MS.NODEV | MS.NOEXEC | MS.RDONLY)
    except OSError:  # a container whose /proc is masked allows no new one: then there is none
        mount("tmpfs", "/proc", kind="tmpfs", flags=_TMPFS | MS.RDONLY, data="size=4k,nr_inodes=1")
    os.chdir(scratch)


def _unshare(flags: int) -> None:
    call("unshare", flags)


def _new_user(more: int) -> None:
    uid, gid = os.geteuid(), os.getegid()
    _unshare(_NEWUSER | _NEWNET | _NEWIPC | _NEWUTS | _NEWPID | more)
    for name, text in (("setgroups", "deny"), ("uid_map", f"{NOBODY} {uid} 1"), ("gid_map", f"{NOBODY} {gid} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)


def _build_root(readable: Sequence[str], hidden: Sequence[str], *, scratch: str) -> None:
    root = next(path for path in _SCAFFOLDS if os.path.isdir(path))
    mount(None, "/", flags=MS.REC | MS.PRIVATE)
    mount("tmpfs", root, kind="tmpfs", flags=_TMPFS, data="size=1m,mode=755")
    for path in {"/tmp", scratch, "/proc", "/dev"}:
        os.makedirs(root + path, mode=0o755, exist_ok=True)
    for path in sorted(set(readable)):
        _bind(path, root=root)
    for path in hidden:
        if os.path.isdir(root + path):
            mount("tmpfs", root + path, kind="tmpfs", flags=_TMPFS | MS.RDONLY, data="size=4k,mode=755")
    for path in DEVICES:
        _bind(path, root=root, writable=True)
    for name, target in (("stdin", "/proc/self/fd/0"), ("stdout", "/proc/self/fd/1"), ("fd", "/proc/self/fd")):
        os.symlink(target, f"{root}/dev/{name}")
    os.symlink(scratch, f"{root}/dev/shm")
    # A new /proc may be mounted only where a whole one is visible; every jail covers this one with its own.
    mount("/proc", f"{root}/proc", flags=MS.BIND | MS.REC)
    os.chdir(root)
    syscall(_PIVOT_ROOT[os.uname().machine], b".", b".", name="pivot_root")
    call("umount2", b".", 2)  # the old root, detached
    os.chdir("/")
    mount(None, "/", flags=MS.REMOUNT | MS.BIND | MS.RDONLY | _TMPFS)


def _bind(path: str, *, root: str, writable: bool = False) -> None:
    """Show a file or folder of the machine at the same path below the new root; links stay links."""
    target = root + path
    if os.path.lexists(target) or not os.path.lexists(path):
        return
    os.makedirs(os.path.dirname(target), mode=0o755, exist_ok=True)
    if os.path.islink(path):
        os.symlink(os.readlink(path), target)
        return
    if os.path.isdir(path):
        os.mkdir(target, 0o755)
    else:
        with contextlib.suppress(FileExistsError):
            os.close(os.open(target, os.O_CREAT | os.O_EXCL, 0o644))
    mount(path, target, flags=MS.BIND | MS.REC)
    if not writable:
        # struct mount_attr: set, clear, propagation, user namespace
        attributes = b"".join(value.to_bytes(8, "little") for value in (_READ_ONLY, 0, 0, 0))
        syscall(_MOUNT_SETATTR, -1, target.encode(), _AT_RECURSIVE, attributes, 32, name=f"mount_setattr {target}")
