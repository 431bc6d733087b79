"""One grading process seen from its parent: start it, ask it under a deadline, kill it, say how it died."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import IO

from rlvr.errors import PluginError, RlvrError
from rlvr.rollout.grading_child import receive, send

__all__ = ["Death", "GradingProcess"]

_START_S = 60.0  # deadline for a process to import the rewards
_TAIL = 3  # last lines of its stderr that an error shows
_BOOT = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from rlvr.rollout.grading_child import main; main(int(sys.argv[2]), int(sys.argv[3]))"
)
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclass(frozen=True, slots=True)
class Death:
    """How a process ended without an answer."""

    how: str
    from_outside: bool = False


class GradingProcess:
    """A fresh interpreter and the socket to it. One thread at a time uses it; `close` may come from another."""

    def __init__(self, setup: bytes) -> None:
        self._setup = setup
        # Taken now, so that a replacement finds the user's modules wherever the parent has gone since.
        self._folder = os.getcwd()
        self._path = json.dumps([os.path.abspath(entry) for entry in sys.path])
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._said: deque[str] = deque(maxlen=_TAIL)
        self._lock = threading.Lock()  # between starting and closing
        self._closed = False
        self.by_group = False  # a reward wants all replies to a task at once
        self.worst_case_s = 0.0  # the longest that the rewards' own limits let one grade take

    def ensure(self) -> bool:
        """Start the process unless it runs. Gives whether it had died by itself. Errors: PluginError, OSError."""
        died = self._process is not None and self._process.poll() is not None
        if self._process is None or died:
            self.kill()
            self._start()
        return died

    def ask(self, request: object, *, timeout_s: float) -> bytes | Death:
        """Send a request and wait for the answer; without one the process is gone afterwards."""
        process, sock = self._process, self._socket
        if process is None or sock is None:
            raise RlvrError("the pool is closed")
        deadline = time.monotonic() + timeout_s
        try:
            sock.settimeout(timeout_s)
            send(sock, pickle.dumps(request))
            return receive(sock, deadline=deadline)
        except TimeoutError:
            death = Death(f"takes longer than {timeout_s:g} s")
        except (EOFError, OSError):
            death = _death(process)
        self.kill()
        return death

    def kill(self) -> None:
        """End the process and whatever it started; nothing happens where none runs."""
        process, self._process = self._process, None
        sock, self._socket = self._socket, None
        if process is not None:
            _kill_group(process)
        if sock is not None:
            sock.close()

    def close(self) -> None:
        """End the process for good. A thread that waits for its answer is told that it is gone."""
        with self._lock:
            self._closed = True
            process = self._process
            if process is not None:
                _kill_group(process)

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs, self._lock:
            if self._closed:
                ours.close()
                raise RlvrError("the pool is closed")
            self._process = subprocess.Popen(
                [sys.executable, "-c", _BOOT, self._path, str(theirs.fileno()), str(os.getpid())],
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,  # what rewards print goes to stderr: stdout belongs to the command line
                stderr=subprocess.STDOUT,
                env=os.environ | _ONE_THREAD,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # so that what a reward starts can be killed with it
            )
            self._socket = ours
        self._said = deque(maxlen=_TAIL)
        reader = threading.Thread(target=_pass_on, args=(self._process.stdout, self._said), daemon=True)
        reader.start()
        try:
            ours.settimeout(_START_S)
            send(ours, self._setup)
            ready = json.loads(receive(ours, deadline=time.monotonic() + _START_S))
        except TimeoutError as error:
            self.kill()
            raise PluginError(f"the rewards are not ready after {_START_S:g} s") from error
        except (EOFError, OSError) as error:
            how = _death(self._process).how
            self.kill()
            reader.join(timeout=2.0)
            said = f"; it said: {' / '.join(self._said)}" if self._said else ""
            raise PluginError(f"the grading process {how} while it made the rewards{said}") from error
        if "error" in ready:
            self.kill()
            raise PluginError(ready["error"])
        self.by_group, self.worst_case_s = ready["by_group"], ready["worst_case_s"]


def _pass_on(source: IO[bytes], said: deque[str]) -> None:
    """Copy what a process prints to our stderr, and keep its last lines for an error to show."""
    with source:
        for line in source:
            text = line.decode(errors="replace").rstrip()
            if text:
                said.append(text[-300:])
            with contextlib.suppress(OSError, ValueError):  # nobody reads our stderr any more
                sys.stderr.write(text + "\n")


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kill a process, which leads a group, and what it left behind."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _death(process: subprocess.Popen[bytes]) -> Death:
    """Say how a process ended whose socket closed."""
    try:
        code = process.wait(timeout=5.0)
    except subprocess.TimeoutExpired:
        return Death("closes its connection")
    if code in (-signal.SIGKILL, -signal.SIGTERM):
        return Death(f"killed from outside by {signal.Signals(-code).name}", from_outside=True)
    return Death(f"crashes with {signal.Signals(-code).name}" if code < 0 else f"exits with code {code}")
