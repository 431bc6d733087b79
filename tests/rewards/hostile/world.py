"""What hostile programs could harm: canary files, a secret, listeners, processes. It says what has been harmed."""

from __future__ import annotations

import ctypes
import os
import secrets
import signal
import socket
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import rlvr
import rlvr_rewards

MARK = "hostile_mark"
SLEEP = "98765"  # seconds that programs left behind are asked to sleep: their command line is their mark
NAME = "RLVR_TEST_TOKEN"
_PR_SET_CHILD_SUBREAPER = 36


class World:
    """Canaries in every place that a program could reach, and the marks that lead programs to them."""

    def __init__(self, folder: Path) -> None:
        self.secret = f"canary-value-{secrets.token_hex(8)}"
        tag = f"rlvr-canary-{os.getpid()}-{secrets.token_hex(4)}"
        self.cwd = folder
        self.files = {
            "CWD": folder / "canary.txt",
            "HOME": Path.home() / f".{tag}",
            "TMP": Path(tempfile.gettempdir()) / tag,
            "SHM": Path("/dev/shm") / tag,
        }
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(("127.0.0.1", 0))
        self.abstract = _bound("\0" + tag, socket.SOCK_STREAM)
        self.abstract_datagram = _bound(f"\0{tag}-dgram", socket.SOCK_DGRAM)
        self.named = _bound(str(folder / "listener.sock"), socket.SOCK_STREAM)
        self.named_datagram = _bound(str(folder / "datagram.sock"), socket.SOCK_DGRAM)
        paths = sysconfig.get_paths()
        self.packages = sorted({
            paths["purelib"], paths["stdlib"], *(str(Path(m.__file__ or "").parent) for m in (rlvr, rlvr_rewards)),
        })  # fmt: skip
        self.marks = {
            **{f"@{name}@": str(path) for name, path in self.files.items()},
            "@CWD@": str(folder),
            "@PORT@": str(self.tcp.getsockname()[1]),
            "@UDP@": str(self.udp.getsockname()[1]),
            "@ABSTRACT@": tag,
            "@NAME@": NAME,
            "@PATHS@": repr(self.packages),
        }
        self.mend()

    def fill(self, source: str) -> str:
        """Put the canaries' whereabouts into a program."""
        for mark, value in self.marks.items():
            source = source.replace(mark, value)
        return source

    def harm(self) -> list[str]:
        """List what has been harmed, a sentence each. Processes get half a second to be gone."""
        found = [f"{path} was changed" for path, state in self._states.items() if _state(path) != state]
        found += [f"{path} was left behind" for path in self._left()]
        for name, listener in self._listeners():
            if _reached(listener):
                found.append(f"{name} was reached")
        deadline = time.monotonic() + 0.5
        while (pids := marked_processes()) and time.monotonic() < deadline:
            time.sleep(0.01)
        return found + [f"process {pid} was left behind" for pid in pids]

    def mend(self) -> None:
        """Put everything back as it was."""
        for path in self._left():
            with suppress(OSError):
                path.unlink()
        for path in self.files.values():
            with suppress(OSError):
                path.chmod(0o600)
            path.write_text(f"{self.secret}\n")
        self._states = {path: _state(path) for path in self.files.values()}
        for pid in marked_processes():
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        for _, listener in self._listeners():
            _reached(listener)

    def close(self) -> None:
        """Remove the canaries."""
        self.mend()
        for path in self.files.values():
            path.unlink(missing_ok=True)
        for _, listener in self._listeners():
            listener.close()

    def _listeners(self) -> list[tuple[str, socket.socket]]:
        return [
            ("the TCP listener", self.tcp), ("the UDP socket", self.udp), ("the abstract listener", self.abstract),
            ("the abstract datagram socket", self.abstract_datagram), ("the listener with a path", self.named),
            ("the datagram socket with a path", self.named_datagram),
        ]  # fmt: skip

    def _left(self) -> Iterator[Path]:
        folders = {self.cwd, *(path.parent for path in self.files.values()), *map(Path, self.packages)}
        folders |= {
            Path(p)
            for p in (
                "/",
                "/etc",
                "/etc/cron.d",
                "/etc/profile.d",
                "/usr",
                "/var",
                "/var/tmp",
                "/run",
                tempfile.gettempdir(),
            )
        }
        for folder in folders:
            with suppress(OSError):
                yield from (Path(e.path) for e in os.scandir(folder) if MARK in e.name or "hostile_kept" in e.name)


@contextmanager
def subreaper() -> Iterator[None]:
    """Adopt orphans of descendants for a while, so that a daemon cannot leave our tree."""
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def descendants(root: int) -> set[int]:
    """Give the living processes below `root`; zombies, which only wait to be collected, do not count."""
    parents: dict[int, int] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            state, parent = Path("/proc", name, "stat").read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                parents[int(name)] = int(parent)
    found: set[int] = set()
    while more := {pid for pid, parent in parents.items() if parent in found | {root}} - found:
        found |= more
    return found


def marked_processes() -> list[int]:
    """Find the processes that carry a mark of hostile programs."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with suppress(OSError):
            folder = Path("/proc", name)
            dead = folder.joinpath("stat").read_text().rpartition(")")[2].split()[0] == "Z"
            sleeper = folder.joinpath("cmdline").read_bytes().split(b"\0")[:2] == [b"sleep", SLEEP.encode()]
            if not dead and (sleeper or MARK in folder.joinpath("comm").read_text()):
                found.append(int(name))
    return found


def _bound(address: str, kind: int) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, kind)
    sock.bind(address)
    if kind == socket.SOCK_STREAM:
        sock.listen()
    return sock


def _reached(sock: socket.socket) -> bool:
    """Tell whether anything came in, and take it."""
    sock.setblocking(False)
    reached = False
    with suppress(BlockingIOError):
        while True:
            if sock.type == socket.SOCK_STREAM:
                sock.accept()[0].close()
            else:
                sock.recv(4096)
            reached = True
    return reached


def _state(path: Path) -> tuple[object, ...] | None:
    try:
        stat = path.lstat()
        return path.read_bytes(), stat.st_mode, stat.st_uid, stat.st_mtime_ns, stat.st_nlink
    except OSError:
        return None
