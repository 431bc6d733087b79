"""The symbolic worker's processes: a fork server that imports math-verify once, and children that chew on model text.

The server never reads model text: it forks a child on request, hands it one end of a socket that the caller made, and
says how a child ended. A child answers requests until the socket closes. It has limits on memory and on CPU time per
request; both kill it, and no handler of ours runs then, so that a long call in C cannot escape them.
"""

from __future__ import annotations

import array
import ctypes
import gc
import json
import os
import resource
import select
import signal
import socket
import struct
import sys
from typing import Any

from rlvr.errors import BoundaryError, boundary

__all__ = ["main", "receive", "send"]

_LENGTH = struct.Struct("!I")
_PR_SET_PDEATHSIG = 1
_WARM = (
    "x^2+\\frac{1}{2}x-3",
    "\\sqrt{3}\\pi",
    "\\sin(2x)+\\ln y",
    "-2\\le x<5",
    "\\log_2 3",
    "(x+1)(x-2)",
    "e^{-x}",
    "3+4i",
)


def send(sock: socket.socket, message: dict[str, Any], *, fds: tuple[int, ...] = ()) -> None:
    """Send one message: its length, then JSON; open files may travel with it."""
    payload = json.dumps(message).encode()
    frame = _LENGTH.pack(len(payload)) + payload
    sent = socket.send_fds(sock, [frame], fds) if fds else 0
    sock.sendall(frame[sent:])


def receive(sock: socket.socket) -> dict[str, Any]:
    """Receive one message within the socket's timeout. Errors: EOFError where the other side is gone, TimeoutError."""
    message: dict[str, Any] = json.loads(_exactly(sock, _LENGTH.unpack(_exactly(sock, _LENGTH.size))[0]))
    return message


def _exactly(sock: socket.socket, size: int) -> bytes:
    chunks = bytearray()
    while len(chunks) < size:
        chunk = sock.recv(size - len(chunks))
        if not chunk:
            raise EOFError
        chunks += chunk
    return bytes(chunks)


def main(fd: int, parent: int, memory: int) -> None:
    """Serve forks on the socket `fd` until it closes or the parent is gone. `memory` is what a child may add, bytes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    from rlvr_rewards.mathematics import symbolic_leaf

    for text in _WARM:
        symbolic_leaf.equal(text, text)
    gc.collect()
    gc.freeze()
    with socket.socket(fileno=fd) as control:
        children: set[int] = set()
        send(control, {"ready": True})
        while os.getppid() == parent:
            _reap(children)
            if not select.select([control], [], [], 1.0)[0]:
                continue
            try:
                request, fds = _with_files(control)
            except (EOFError, ConnectionError):
                break
            if "status" in request:
                send(control, {"status": _ended(request["status"], children)})
                continue
            child = os.fork()
            if child == 0:
                control.detach()
                os.close(fd)
                _serve(fds[0], memory)
            children.add(child)
            os.close(fds[0])
            send(control, {"pid": child})


_STATUS: dict[int, int] = {}  # how children ended that nobody has asked about yet


def _reap(children: set[int]) -> None:
    """Collect the children that ended, so that none stays a zombie."""
    for child in list(children):
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            children.discard(child)
            _STATUS[child] = os.waitstatus_to_exitcode(status)
    while len(_STATUS) > 1000:
        _STATUS.pop(next(iter(_STATUS)))


def _ended(child: int, children: set[int]) -> int:
    """Kill a child unless it has ended, and give its exit code, negative for a signal."""
    if child in children:
        pid, status = os.waitpid(child, os.WNOHANG)
        if not pid:
            # Its socket closes a moment before it can be waited for: a death of its own must not look like ours.
            signal.sigtimedwait([], 0.05)
            pid, status = os.waitpid(child, os.WNOHANG)
        if not pid:
            os.kill(child, signal.SIGKILL)
            pid, status = os.waitpid(child, 0)
        children.discard(child)
        return os.waitstatus_to_exitcode(status)
    return _STATUS.pop(child, 0)


def _with_files(sock: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Receive one message and the files that came with its first bytes."""
    fds = array.array("i")
    head, ancillary, _, _ = sock.recvmsg(_LENGTH.size, socket.CMSG_LEN(fds.itemsize))
    if not head:
        raise EOFError
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
    head += _exactly(sock, _LENGTH.size - len(head))
    return json.loads(_exactly(sock, _LENGTH.unpack(head)[0])), list(fds)


def _serve(fd: int, memory: int) -> None:
    """Answer requests on the socket `fd` until it closes; never returns."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    with open("/proc/self/statm", encoding="ascii") as file:
        limit = int(file.read().split()[0]) * resource.getpagesize() + memory
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    sys.setrecursionlimit(3000)
    with socket.socket(fileno=fd) as sock:
        while True:
            try:
                request = receive(sock)
            except (EOFError, OSError):
                os._exit(0)
            # The profiling timer counts this process's CPU time; at its end the kernel kills the process.
            signal.setitimer(signal.ITIMER_PROF, request["cpu_s"])
            answer = _answer(request)
            signal.setitimer(signal.ITIMER_PROF, 0.0)
            try:
                send(sock, answer)
            except OSError:
                os._exit(0)


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    verdicts: list[bool | None] = []
    try:
        for said, gold in request["pairs"]:
            with boundary("math-verify"):
                verdicts.append(_judged(said, gold, request))
            if verdicts[-1]:
                break
    except BoundaryError as error:
        return {"exhausted": True} if isinstance(error.__cause__, MemoryError) else {"error": error.reason}
    return {"verdicts": verdicts}


def _judged(said: str, gold: str, request: dict[str, Any]) -> bool | None:
    from rlvr_rewards.mathematics import compare, symbolic_leaf

    try:
        if request["check"]:
            compare.check(gold, evaluate=symbolic_leaf.evaluate)
            return True
        asked, posed = request["percent_asked"], request["posed"]
        return compare.same(said, gold, equal=symbolic_leaf.equal, percent_asked=asked, posed=posed)
    except compare.GoldError:
        return None
