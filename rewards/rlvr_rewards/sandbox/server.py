"""Serve a grader: relay between its pipe and the jails that a zygote forks, and keep time and space for them.

The server speaks frames over standard input and output, so it runs as well behind `docker run -i` or `ssh`. What a
program sends is passed on as opaque bytes. Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import struct
import time
from typing import Any

from . import zygote
from .folders import empty, holds_more, make, remove
from .places import Places, find

__all__ = ["main"]

_HEAD = struct.Struct("!cI")
_CHUNK = 2**16
_BACKLOG = 2**20  # bytes for the grader from which a program is no longer listened to
_LOOK_S = 0.05  # how often a folder on a real disk is measured


def main(settings: dict[str, Any]) -> None:
    """Start the strongest of `settings["levels"]` that works here, say which, and serve until standard input closes."""
    os.umask(0o022)
    os.chdir("/")
    places = find(_packages(settings))
    failures: dict[str, str] = {}
    for level in settings["levels"]:
        # A file system of one's own needs no folder on the machine's.
        folder = "" if level == "namespaces" else make()
        try:
            control, failure = _start(level, places, folder)
            if control is not None:
                _Server(control, folder=folder).serve({"level": level, "failures": failures})
                return
            failures[level] = failure
        finally:
            if folder:
                remove(folder)
    text = json.dumps({"level": "", "failures": failures}).encode()
    _write(1, _HEAD.pack(b"R", len(text)) + text)


def _packages(settings: dict[str, Any]) -> list[str]:
    """Find the packages that programs may import; a container finds its own."""
    if settings["packages"] is not None:
        return list(settings["packages"])
    import site

    roots = [root for root in site.getsitepackages() if os.path.isdir(root)]
    wanted = [
        os.path.join(root, name + end) for root in roots for name in settings["names"] for end in ("", ".py", ".libs")
    ]
    return [path for path in wanted if os.path.exists(path)]


def _start(level: str, places: Places, folder: str) -> tuple[socket.socket | None, str]:
    """Fork a zygote. Give the socket that commands it, or why it could not enter the level."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        try:
            ours.close()
            trash = os.open("/dev/null", os.O_RDWR)
            os.dup2(trash, 0)
            os.dup2(trash, 1)
            zygote.serve(theirs, level=level, places=places, folder=folder)
        finally:
            os._exit(1)
    theirs.close()
    answer = json.loads(ours.recv(_CHUNK) or b'{"failed": "the process that forks jails died"}')
    if "failed" not in answer:
        return ours, ""
    ours.close()
    os.waitpid(pid, 0)
    return None, str(answer["failed"])


class _Server:
    def __init__(self, control: socket.socket, *, folder: str) -> None:
        self._control, self._folder = control, folder
        self._in, self._out = bytearray(), bytearray()  # from and to the grader
        self._open = True
        self._jail: _Jail | None = None
        os.set_blocking(0, False)
        os.set_blocking(1, False)

    def serve(self, greeting: dict[str, Any]) -> None:
        self._frame(b"R", json.dumps(greeting).encode())
        while self._open:
            self._turn()
        if self._jail:
            self._jail.close()
        self._control.close()  # the zygote kills the jail that runs, and leaves
        with contextlib.suppress(ChildProcessError):
            os.wait()

    def _turn(self) -> None:
        """Wait for something to do, and do it."""
        jail = self._jail
        channel = jail.channel.fileno() if jail and not jail.deaf else -1
        reading = [0, self._control.fileno()]
        if channel >= 0 and len(self._out) < _BACKLOG:
            reading.append(channel)
        writing = ([1] if self._out else []) + ([channel] if jail and channel >= 0 and jail.pending else [])
        patience = jail.patience(watch=bool(self._folder)) if jail else None
        ready, writable, _ = select.select(reading, writing, [], patience)
        if 1 in writable:
            self._flush()
        if jail and channel in writable:
            jail.write()
        if jail and channel in ready:
            self._frame(b"C", jail.read())
        if self._control.fileno() in ready:
            self._hear_zygote()
        if 0 in ready:
            self._hear_grader()
        if self._jail and (reason := self._jail.broke(self._folder)):
            self._kill(reason)

    def _hear_grader(self) -> None:
        try:
            data = os.read(0, _CHUNK * 4)
        except BlockingIOError:
            return
        self._open = bool(data)
        self._in += data
        while len(self._in) >= _HEAD.size:
            kind, size = _HEAD.unpack_from(self._in)
            if len(self._in) < _HEAD.size + size:
                return
            payload = bytes(self._in[_HEAD.size : _HEAD.size + size])
            del self._in[: _HEAD.size + size]
            self._obey(kind, payload)

    def _obey(self, kind: bytes, payload: bytes) -> None:
        if kind == b"J":
            size = int.from_bytes(payload[:4], "big")
            command = json.loads(payload[4 : 4 + size])
            self._jail = _Jail(command["limits"], stdin=payload[4 + size :], captures=command["captures"])
            if command["preload"]:
                self._control.send(json.dumps({"do": "preload", "modules": command["preload"]}).encode())
            packet = json.dumps({"do": "run", "limits": command["limits"]}).encode()
            socket.send_fds(self._control, [packet], self._jail.theirs)
            self._jail.hand_over()
        elif kind == b"C" and self._jail:
            self._jail.pending += payload
        elif kind == b"K" and self._jail:
            self._kill("")

    def _kill(self, reason: str) -> None:
        if self._jail and not self._jail.doomed:
            self._jail.doomed, self._jail.reason = True, reason
            self._control.send(b'{"do": "kill"}')

    def _hear_zygote(self) -> None:
        packet = self._control.recv(_CHUNK)
        if not packet:
            self._open = False  # our zygote was killed: the grader sees us leave, and starts another
            return
        jail = self._jail
        if jail is None:
            return
        self._jail = None
        self._frame(b"C", jail.rest())
        if self._folder:
            empty(self._folder)
        self._frame(b"O", jail.output())
        self._frame(b"X", json.dumps({**json.loads(packet), "reason": jail.reason}).encode())
        jail.close()

    def _frame(self, kind: bytes, payload: bytes) -> None:
        if payload or kind in b"XR":
            self._out += _HEAD.pack(kind, len(payload)) + payload
            self._flush()

    def _flush(self) -> None:
        try:
            del self._out[: os.write(1, self._out)]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._open = False


class _Jail:
    """Hold the server's ends of a running jail."""

    def __init__(self, limits: dict[str, int], *, stdin: bytes, captures: bool) -> None:
        self.channel, channel = socket.socketpair()
        self.channel.setblocking(False)
        self._stdout = os.memfd_create("stdout") if captures else -1
        self._given = [_file_of(stdin), os.dup(self._stdout) if captures else os.open("/dev/null", os.O_WRONLY)]
        self._channel = channel
        self._output_bytes = limits["file_mb"] * 2**20
        self._disk_bytes = limits["disk_mb"] * 2**20
        self._end = time.monotonic() + limits["wall_s"]
        self.pending = bytearray()
        self.deaf = self.doomed = False
        self.reason = ""

    @property
    def theirs(self) -> list[int]:
        return [self._channel.fileno(), *self._given]

    def hand_over(self) -> None:
        """Close the ends that the zygote has now."""
        self._channel.close()
        for fd in self._given:
            os.close(fd)

    def read(self) -> bytes:
        try:
            data = self.channel.recv(_CHUNK)
        except BlockingIOError:
            return b""
        except OSError:
            data = b""
        self.deaf = not data
        return data

    def write(self) -> None:
        try:
            del self.pending[: self.channel.send(self.pending)]
        except BlockingIOError:
            return
        except OSError:  # nobody listens any more
            self.pending.clear()
            self.deaf = True

    def rest(self) -> bytes:
        """Read what was sent and not yet read."""
        chunks = []
        while not self.deaf and (data := self.read()):
            chunks.append(data)
        return b"".join(chunks)

    def output(self) -> bytes:
        return os.pread(self._stdout, self._output_bytes, 0) if self._stdout >= 0 else b""

    def patience(self, *, watch: bool) -> float | None:
        left = max(0.0, self._end - time.monotonic())
        return None if self.doomed else min(left, _LOOK_S) if watch else left

    def broke(self, folder: str) -> str:
        """Say which limit of the whole program it broke."""
        if self.doomed:
            return ""
        if time.monotonic() >= self._end:
            return "time"
        return "disk" if folder and holds_more(folder, than=self._disk_bytes) else ""

    def close(self) -> None:
        self.channel.close()
        if self._stdout >= 0:
            os.close(self._stdout)


def _file_of(content: bytes) -> int:
    """Make an anonymous file with this content."""
    fd = os.memfd_create("stdin")
    view = memoryview(content)
    while view:
        view = view[os.write(fd, view) :]
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]
