"""Start servers and run programs in their jails, from the grader's side."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import struct
import subprocess
import tempfile
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any, NoReturn

from . import codec, launch

__all__ = ["GRACE_S", "START_S", "Jail", "JailEnded", "Server", "ServerLost"]

_HEAD = struct.Struct("!cI")
_LENGTH = struct.Struct("!I")
START_S = 20.0  # for a server to start
_MUCH_MEMORY = 8  # the share of its limit from which a program may be killed for its memory
GRACE_S = 10.0  # beyond a jail's own time, until the server counts as lost


class ServerLost(Exception):
    """The server died, or could not make a jail: our failure, not the program's."""


class JailEnded(Exception):
    """The program's process is gone, or was killed for what it did: `args[0]` says how."""


class Server:
    """Run one jail at a time on this machine, in a container or on another machine.

    Args:
        levels: isolation levels to try, strongest first.
        command: what starts an interpreter elsewhere, for example ("docker", "run", "--rm", "-i", "image", "python3").
        packages: names of packages that programs may import where they are installed.
    Errors: ServerLost where it cannot start; it says why for each level.
    """

    def __init__(self, levels: Sequence[str], *, command: Sequence[str] = (), packages: Sequence[str] = ()) -> None:
        self._in, self._channel = bytearray(), bytearray()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the server
        try:
            self._process = launch.start(command, errors=self._errors)
        except OSError as error:
            self._errors.close()
            raise ServerLost(f"cannot start {command[0] if command else 'an interpreter'}: {error.strerror}") from None
        self._release = weakref.finalize(self, _let_go, self._process, self._errors, os.getpid())
        self._write(launch.greeting(levels, packages=packages, local=not command))
        try:
            kind, payload = self._frame(time.monotonic() + START_S)
            greeting = json.loads(payload)
        except TimeoutError:
            self._lose(f"it does not start within {START_S:g} s")
        except ValueError:
            self._lose("it speaks another language")
        if kind != b"R" or not greeting["level"]:
            failures = "; ".join(f"{level}: {why}" for level, why in greeting["failures"].items())
            self._lose(failures or "it says nothing")
        self.level: str = greeting["level"]
        self.failures: dict[str, str] = greeting["failures"]

    @property
    def pid(self) -> int:
        """Give the number of the server's process."""
        return self._process.pid

    def close(self) -> None:
        """Let the server go, with all that runs in it. A second call does nothing."""
        self._release()

    @contextlib.contextmanager
    def jail(
        self,
        limits: Mapping[str, int | float],
        *,
        stdin: bytes = b"",
        captures: bool = False,
        preload: Sequence[str] = (),
    ) -> Iterator[Jail]:
        """Open a jail, and kill it at the end of the block. Errors: ServerLost.

        Args:
            limits: memory_mb, disk_mb and file_mb (MiB), cpu_s and wall_s (seconds), for the whole program.
            captures: keep what the program writes to its standard output.
            preload: packages to import before the jail is made, once per server.
        """
        self._channel.clear()
        command = json.dumps({"limits": dict(limits), "captures": captures, "preload": list(preload)}).encode()
        self._send(b"J", len(command).to_bytes(4, "big") + command + stdin)
        jail = Jail(self, limits)
        try:
            jail.expect_ready()
            yield jail
        finally:
            jail.kill()

    def _send(self, kind: bytes, payload: bytes) -> None:
        self._write(_HEAD.pack(kind, len(payload)) + payload)

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[self._process.stdin.write(view) or 0 :]  # type: ignore[union-attr]
        except (OSError, ValueError):
            self._lose("it does not listen any more")

    def _frame(self, deadline: float) -> tuple[bytes, bytes]:
        """Read one frame. Errors: TimeoutError past the deadline (monotonic clock), ServerLost."""
        while True:
            if len(self._in) >= _HEAD.size:
                kind, size = _HEAD.unpack_from(self._in)
                if len(self._in) >= _HEAD.size + size:
                    payload = bytes(self._in[_HEAD.size : _HEAD.size + size])
                    del self._in[: _HEAD.size + size]
                    return kind, payload
            out = self._process.stdout
            assert out is not None
            try:
                if not _readable(out.fileno(), deadline - time.monotonic()):
                    raise TimeoutError
                data = os.read(out.fileno(), 2**18)
            except (ValueError, ConnectionError):
                data = b""
            if not data:
                self._lose("it died")
            self._in += data

    def _lose(self, why: str) -> NoReturn:
        self._process.kill()
        self._process.wait()
        said = ""
        if not self._errors.closed:
            self._errors.seek(0)
            said = self._errors.read()[-300:].decode(errors="replace").strip().rpartition("\n")[2]
        self.close()
        raise ServerLost(f"{why} ({said})" if said else why)


class Jail:
    """Talk with one program. It is not trusted: messages are bounded, and every wait has an end."""

    def __init__(self, server: Server, limits: Mapping[str, int | float]) -> None:
        self._server, self._limits = server, limits
        self._lost_at = time.monotonic() + limits["wall_s"] + GRACE_S
        self.status: dict[str, Any] | None = None  # how it ended
        self.output = b""

    def expect_ready(self) -> None:
        """Wait until the process has fenced itself in. Errors: ServerLost where it cannot."""
        try:
            answer = codec.loads(self.receive(seconds=GRACE_S))
        except (JailEnded, codec.WireError) as error:
            raise ServerLost(f"a jail cannot be made: {error}") from None
        if "ready" not in answer:
            raise ServerLost(f"a jail cannot be made: {answer.get('broken')}")

    def order(self, fields: Mapping[str, Any]) -> None:
        """Hand the program over."""
        self.send(json.dumps(fields).encode())

    def send(self, payload: bytes) -> None:
        """Send one message."""
        self._server._send(b"C", _LENGTH.pack(len(payload)) + payload)

    def receive(self, *, seconds: float) -> bytes:
        """Receive one message. Errors: JailEnded where none comes in time or ever, ServerLost."""
        deadline = time.monotonic() + seconds
        buffer = self._server._channel
        while True:
            if len(buffer) >= _LENGTH.size:
                (length,) = _LENGTH.unpack_from(buffer)
                if length > codec.MAX_BYTES:
                    self.kill()
                    raise JailEnded(f"a value of over {codec.MAX_BYTES} bytes")
                if len(buffer) >= _LENGTH.size + length:
                    message = bytes(buffer[_LENGTH.size : _LENGTH.size + length])
                    del buffer[: _LENGTH.size + length]
                    return message
            if self.status is not None:
                raise JailEnded(self.how())
            if not self._hear(deadline):
                self.kill()
                raise JailEnded("the time is over")

    def wait(self, *, seconds: float) -> str:
        """Wait for the program's end and say how it ended: "" for an exit with status 0. Errors: ServerLost."""
        deadline = time.monotonic() + seconds
        while self.status is None:
            self._server._channel.clear()  # nothing that a script sends there counts
            if not self._hear(deadline):
                self.kill()
                return "the time is over"
        return self.how()

    def kill(self) -> None:
        """End the program, if it has not ended, and wait until it is dead. Errors: ServerLost."""
        if self.status is None:
            self._server._send(b"K", b"")
        while self.status is None:
            self._hear(self._lost_at)

    def how(self) -> str:
        """Say how the program ended. Errors: ServerLost where somebody else ended it."""
        status = self.status or {}
        if "failed" in status:
            raise ServerLost(f"a jail cannot be made: {status['failed']}")
        if status.get("reason"):
            return {"time": "the time is over", "disk": "it wrote too much to disk"}[status["reason"]]
        code = status.get("ended", 0)
        if code == -signal.SIGKILL:
            if status["cpu_s"] >= self._limits["cpu_s"] - 0.5:
                return "the time is over"
            # No jailed program can do this to itself; the kernel does it to one that takes much memory.
            if self._server.level != "unsandboxed" and status["memory_mb"] < self._limits["memory_mb"] / _MUCH_MEMORY:
                raise ServerLost("somebody else killed the program")
        return "" if code == 0 else f"signal {-code} ended it" if code < 0 else f"it exited with status {code}"

    def _hear(self, deadline: float) -> bool:
        """Take in one frame; false where none comes before the deadline."""
        try:
            kind, payload = self._server._frame(min(deadline, self._lost_at))
        except TimeoutError:
            if time.monotonic() >= self._lost_at:
                self._server._lose("it does not answer")
            return False
        if kind == b"C":
            self._server._channel.extend(payload)
        elif kind == b"O":
            self.output = payload
        elif kind == b"X":
            self.status = json.loads(payload)
        return True


def _readable(fd: int, seconds: float) -> bool:
    """Wait until there is something to read. Unlike select, this takes file descriptors of any number."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(max(0.0, seconds) * 1000))


def _let_go(process: subprocess.Popen[bytes], errors: IO[bytes], owner: int) -> None:
    """Close the pipes, upon which the server cleans up and leaves; kill it where it does not."""
    for pipe in (process.stdin, process.stdout, errors):
        with contextlib.suppress(OSError):
            pipe.close()  # type: ignore[union-attr]
    if owner != os.getpid():  # a forked copy of us: the server is not ours to end
        return
    try:
        process.wait(5.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
