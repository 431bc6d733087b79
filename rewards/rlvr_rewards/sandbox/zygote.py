"""Fork jails on command. A zygote holds no program, no test and no expected value, so what it forks inherits none.

It is forked from the server before any of those arrives, hears commands over a socket of packets, and runs one jail at
a time. Standard library only.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import json
import os
import resource
import select
import signal
import site
import socket
import sys
import time
from collections.abc import Mapping
from typing import Any, NoReturn

from . import landlock, namespaces, seccomp
from .codec import dumps
from .folders import remove
from .jail import Wire, open_streams, run_functions, run_script
from .kernel import PR_SET_CHILD_SUBREAPER, PR_SET_PDEATHSIG, drop_capabilities, prctl, refuse_new_privileges
from .places import DEVICES, Places
from .script import run_tests

__all__ = ["serve"]

_STACK = 120 * 2**20  # what lies free below a main thread that was started with the usual limit
_FILES = 256
# On the machine's own disk a file that was removed but is still open cannot be measured: few and small ones may be.
_FILES_ON_HOST, _FILE_MB_ON_HOST = 64, 16
_TASKS = 256
_PACKET = 2**16
_CHANNEL = 3  # where a jail finds its end of the private channel
_COMMON = (
    "bisect",
    "collections",
    "copy",
    "dataclasses",
    "functools",
    "heapq",
    "itertools",
    "math",
    "operator",
    "random",
)


def serve(control: socket.socket, *, level: str, places: Places, folder: str) -> None:
    """Enter an isolation level, say so, and run jails until the server is gone. Does not return.

    Args:
        control: packets from and to the server.
        level: "namespaces", "landlock" or "unsandboxed".
        places: files and folders of the machine that a program may read.
        folder: where programs write at the levels without a file system of their own.
    """
    zygote = _Zygote(control, level=level, folder=folder)
    try:
        zygote.enter(places)
    except OSError as error:
        zygote.say({"failed": error.strerror or str(error)})
        os._exit(1)
    for name in _COMMON:
        importlib.import_module(name)
    site.setquit()  # `exit()`, which a program may expect and -S leaves out
    zygote.say({"level": level})
    while True:
        packet, fds, _, _ = socket.recv_fds(control, _PACKET, 3)
        if not packet:
            zygote.leave()
        command = json.loads(packet)
        if command["do"] == "run":
            zygote.run(command, fds)
        elif command["do"] == "preload":
            _preload(command["modules"])


class _Zygote:
    def __init__(self, control: socket.socket, *, level: str, folder: str) -> None:
        self._control, self._level, self._folder = control, level, folder
        self._home = self._rules = -1
        self._scratch = ""
        self._nobody = False

    def enter(self, places: Places) -> None:
        sys.path[:] = places.search
        if self._level == "namespaces":
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            seccomp.program(on_host=False, pid=1)
            self._scratch = namespaces.enter(readable=places.readable, hidden=places.hidden)
            self._into_own_pids()
        elif self._level == "landlock":
            seccomp.program(on_host=True, pid=1)
            self._rules = landlock.ruleset(
                readable=places.readable_without_hidden(),
                listable=places.search,
                devices=DEVICES,
                writable=self._folder,
            )
            self._nobody = os.geteuid() == 0 and places.open_to_all()
            if self._nobody:
                os.chown(self._folder, namespaces.NOBODY, namespaces.NOBODY)
        else:
            prctl(PR_SET_CHILD_SUBREAPER, 1)

    def run(self, command: dict[str, Any], fds: list[int]) -> None:
        """Fork one jail and stay with it until it is dead, whether by itself, on command or with the server."""
        try:
            pid = namespaces.new_pids(self._home) if self._level == "namespaces" else os.fork()
        except OSError as error:
            pid = -1
            self.say({"failed": error.strerror or str(error)})
        if pid == 0:
            self._jail(command, fds)
        for fd in fds:
            os.close(fd)
        if pid < 0:
            return
        self._wait_for(pid)
        _, status, usage = os.wait4(pid, 0)
        if self._level == "unsandboxed":
            _sweep()
        cpu = usage.ru_utime + usage.ru_stime
        self.say({"ended": os.waitstatus_to_exitcode(status), "cpu_s": cpu, "memory_mb": usage.ru_maxrss // 1024})

    def say(self, fields: dict[str, Any]) -> None:
        """Send a packet to the server; without a server there is nothing to live for."""
        try:
            self._control.send(json.dumps(fields).encode())
        except OSError:
            self.leave()

    def leave(self) -> NoReturn:
        """End, since the server is gone; it may have been killed before it could remove the folder."""
        if self._folder:
            remove(self._folder)
        os._exit(0)

    def _wait_for(self, pid: int) -> None:
        watch = os.pidfd_open(pid)
        try:
            while True:
                ready, _, _ = select.select([watch, self._control.fileno()], [], [])
                if watch in ready:
                    return
                packet = self._control.recv(_PACKET)
                os.kill(pid, signal.SIGKILL)
                if not packet:
                    os.waitpid(pid, 0)
                    self.leave()
        finally:
            os.close(watch)

    def _into_own_pids(self) -> None:
        """Fork the process that really serves, first of its pid namespace; this one waits, to live and die with it."""
        pid = os.fork()
        if pid:
            self._control.close()
            os.waitpid(pid, 0)
            os._exit(0)
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        self._home = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)

    def _jail(self, command: dict[str, Any], fds: list[int]) -> None:
        """Become a jail: fence this process in, then run the program that comes over the channel. Does not return."""
        status = 1
        try:
            _take_streams(fds, keep=self._rules)
            wire = Wire(_CHANNEL)
            try:
                self._fence(command["limits"])
            except OSError as error:
                wire.send(dumps({"broken": error.strerror or str(error)}))
                os._exit(1)
            wire.send(dumps({"ready": True}))
            status = _follow(wire, json.loads(wire.receive()))
        except (EOFError, OSError):  # the server is gone, or gave up on us
            status = 1
        finally:
            os._exit(status)

    def _fence(self, limits: Mapping[str, int]) -> None:
        mapped = _mapped()
        if self._level == "namespaces":
            namespaces.enter_jail(self._scratch, disk_mb=limits["disk_mb"])
        else:
            os.chdir(self._folder)
        os.environ.update(HOME=os.getcwd(), TMPDIR=os.getcwd())
        os.setsid()
        _limit(limits, mapped=mapped, level=self._level)
        if self._level == "unsandboxed":
            return
        if self._nobody:
            os.setgroups([])
            os.setresgid(namespaces.NOBODY, namespaces.NOBODY, namespaces.NOBODY)
            os.setresuid(namespaces.NOBODY, namespaces.NOBODY, namespaces.NOBODY)
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        refuse_new_privileges()
        if self._level == "landlock":
            landlock.restrict(self._rules)
            os.close(self._rules)
        drop_capabilities()
        seccomp.install(on_host=self._level == "landlock")


def _follow(wire: Wire, order: dict[str, Any]) -> int:
    sys.argv[:] = ["main.py"]
    open_streams()
    if order["mode"] == "script":
        return run_script(order["source"])
    if order["mode"] == "functions":
        run_functions(wire, order["source"])
    else:
        run_tests(wire, order)
    return 0


def _take_streams(fds: list[int], *, keep: int) -> None:
    """Put the channel, the input and the output where a program expects them; close everything else but `keep`."""
    channel, source, sink = (fcntl.fcntl(fd, fcntl.F_DUPFD, _FILES) for fd in fds)
    trash = os.open("/dev/null", os.O_RDWR)
    for fd, place in ((source, 0), (sink, 1), (trash, 2), (channel, _CHANNEL)):
        if place != keep:
            os.dup2(fd, place)
    last = os.sysconf("SC_OPEN_MAX")
    for start, stop in ((_CHANNEL + 1, keep), (max(keep, _CHANNEL) + 1, last)):
        os.closerange(start, stop)


def _limit(limits: Mapping[str, int], *, mapped: int, level: str) -> None:
    on_host = level != "namespaces"
    file_mb = min(limits["file_mb"], _FILE_MB_ON_HOST) if on_host else limits["file_mb"]
    wanted = {
        resource.RLIMIT_AS: mapped + limits["memory_mb"] * 2**20,
        resource.RLIMIT_CPU: limits["cpu_s"],
        resource.RLIMIT_FSIZE: file_mb * 2**20,
        resource.RLIMIT_NOFILE: _FILES_ON_HOST if on_host else _FILES,
        resource.RLIMIT_CORE: 1,  # with 0 a machine's collector of crashes would still be started
        resource.RLIMIT_MSGQUEUE: 0,
        resource.RLIMIT_MEMLOCK: 0,
    }
    if level == "namespaces":
        wanted[resource.RLIMIT_NPROC] = _TASKS
    for kind, most in wanted.items():
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    stack = _STACK if hard == resource.RLIM_INFINITY else min(_STACK, hard)
    resource.setrlimit(resource.RLIMIT_STACK, (stack, stack))


def _mapped() -> int:
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[0]) * resource.getpagesize()
    except OSError:
        return 2**28


def _preload(modules: list[str]) -> None:
    for name in modules:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def _sweep(*, seconds: float = 2.0) -> None:
    """Kill what the program left behind: orphans become our children."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            with open(f"/proc/self/task/{os.getpid()}/children", encoding="ascii") as file:
                pids = [int(word) for word in file.read().split()]
        except OSError:
            return
        if not pids:
            return
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
