"""Choose an isolation level and prove it: a program that tries to get out must fail before any other runs."""

from __future__ import annotations

import os
import secrets
import socket
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rlvr.errors import PluginError

from . import codec
from .client import JailEnded, Server, ServerLost

__all__ = ["STRENGTH", "start"]

STRENGTH = {"unsandboxed": 0.0, "landlock": 1.0, "namespaces": 2.0, "command": 3.0}
_AUTO = ("namespaces", "landlock")
_PROBE_LIMITS = {"memory_mb": 512, "disk_mb": 8, "file_mb": 8, "cpu_s": 20, "wall_s": 20}
_PROBE = """
import os, socket
def tried(what):
    try:
        return bool(what())
    except BaseException:
        return False
def fork():
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
    return True
def attempts(secret, beside, port, pid, level):
    found = {
        "reads files of the machine": tried(lambda: open(secret).read()),
        "writes outside its folder": tried(lambda: open(beside, "w")),
        "opens a connection": tried(lambda: socket.create_connection(("127.0.0.1", port), 2)),
    }
    if level != "command":
        found["starts processes"] = tried(fork)
        found["sends signals"] = tried(lambda: os.kill(pid, 0) is None)
        found["reads the environment of its grader"] = tried(lambda: open(f"/proc/{pid}/environ").read())
    return found
"""
_proven: dict[tuple[str, tuple[str, ...]], tuple[int, str]] = {}
_lock = threading.Lock()


def _after_fork() -> None:
    """Renew what another thread of the parent may have held."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)


def start(isolation: str, *, command: Sequence[str], packages: Sequence[str]) -> tuple[Server, str]:
    """Start a server at the level asked for ("auto": the strongest that holds here) and name the level.

    What a level keeps out is tried once per process; later servers of it start without.
    Errors: PluginError that says what is missing and what to set.
    """
    key, reasons = (isolation, tuple(command)), []
    with _lock:
        known = _proven.get(key)
        wanted = [known[1]] if known and known[0] == os.getpid() else _wanted(isolation, command)
        for level in wanted:
            try:
                server = Server(_inner(level), command=command if level == "command" else (), packages=packages)
            except ServerLost as lost:
                reasons.append(f"{level} ({lost})")
                continue
            if known and known[0] == os.getpid():
                return server, level
            breaches = [] if level == "unsandboxed" else _breaches(server, level)
            if not breaches:
                _proven[key] = (os.getpid(), level)
                return server, level
            server.close()
            reasons.append(f"{level} (a program inside {' and '.join(breaches)})")
    raise PluginError(
        f"the code reward finds no isolation that holds on this machine: {'; '.join(reasons)}; allow user namespaces "
        'or Landlock, set command to a container, or accept isolation = "unsandboxed"'
    )


def _wanted(isolation: str, command: Sequence[str]) -> list[str]:
    if isolation == "auto":
        return ["command"] if command else list(_AUTO)
    return [isolation]


def _inner(level: str) -> list[str]:
    """List what a server tries: within a container any level is more than the container alone."""
    return [*_AUTO, "unsandboxed"] if level == "command" else [level]


def _breaches(server: Server, level: str) -> list[str]:
    """Let a program try to get out. Give what it managed."""
    with (
        tempfile.TemporaryDirectory(prefix="rlvr-probe-") as folder,
        socket.create_server(("127.0.0.1", 0)) as listener,
    ):
        secret = Path(folder, "secret")
        secret.write_text(secrets.token_hex(8), encoding="ascii")
        # Others may read and write there: only the jail itself can be what keeps the program out.
        os.chmod(folder, 0o777)  # noqa: S103
        os.chmod(secret, 0o644)
        args = [str(secret), str(Path(folder, "beside")), listener.getsockname()[1], os.getpid(), level]
        try:
            return [name for name, managed in _attempts(server, args).items() if managed is not False]
        except (JailEnded, ServerLost, codec.WireError) as error:
            return [f"cannot even be tried: {error}"]


def _attempts(server: Server, args: list[Any]) -> dict[str, Any]:
    with server.jail(_PROBE_LIMITS) as jail:
        jail.order({"mode": "functions", "source": _PROBE})
        codec.loads(jail.receive(seconds=15.0))
        fields = {"n": 0, "op": "call", "target": "attempts", "args": codec.plain(args), "kwargs": {"d": []}}
        jail.send(codec.dumps(fields))
        found: dict[str, Any] = codec.loads(jail.receive(seconds=15.0))["value"]
        return found
