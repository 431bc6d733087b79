"""Files of weights over TCP: a server beside the learner, and the download that a worker's host calls.

A request and its answer are JSON behind their length in four bytes; after the answer come the bytes of the file from
the offset that was asked for. Nothing is encrypted: the token keeps others from asking, not from listening.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rlvr.errors import ResourceError, brief
from rlvr.types import Manifest, Source, fingerprint
from rlvr.weights import delta

__all__ = ["Deadline", "Delivered", "FileServer", "download", "mark_of"]

DELTA_MOST = 0.25  # of the bytes of the whole file; above, comparing and rebuilding take longer than a link of 1 Gbit/s
ATTEMPTS = 6  # connections for one file
SILENCE_S = 30.0  # without a byte, until a connection is given up
ASKING_S = 5.0  # for each part of a request
CONNECTIONS = 64  # at once
_LENGTH = struct.Struct("<I")
_LONGEST = 4096  # bytes of a request or an answer
_CHUNK = 4 * 2**20
_KEPT = 3  # versions that a server offers: the committed one, the one under way, and one that is being read


def mark_of(path: str | Path) -> str:
    """Give the mark of a file: the same for whoever sees that very file, "" where there is none."""
    try:
        return _mark(os.stat(path))
    except OSError:
        return ""


@dataclass(frozen=True, slots=True)
class Deadline:
    """The end of a wait, and who waits for it."""

    who: str
    seconds: float
    end: float

    @classmethod
    def of(cls, who: str, seconds: float) -> Deadline:
        """Let a wait begin now."""
        return cls(who, seconds, time.monotonic() + seconds)

    def left(self, what: str) -> float:
        """Give the seconds that are left. Errors: ResourceError where none is, saying who waited for what."""
        left = self.end - time.monotonic()
        if left <= 0:
            raise ResourceError(f"{self.who} waited {self.seconds:g} s for {what}")
        return left


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """What came over the wire: the file itself or a delta, and how many bytes, repeated ones included."""

    kind: str  # whole, delta
    bytes: int


class FileServer:
    """Gives the files of the last versions to whoever has the token. One thread a connection."""

    def __init__(self, *, token: str, host: str, port: int = 0, silence_s: float = SILENCE_S) -> None:
        self._token, self._host, self._silence_s = token, host, silence_s
        self._offers: dict[str, Manifest] = {}  # by digest, oldest first
        self._comparing, self._dense = threading.Lock(), set[str]()  # deltas that would be no smaller
        self._room, self._closed = threading.BoundedSemaphore(CONNECTIONS), False
        try:
            self._listener = socket.create_server((host, port), backlog=64)
        except OSError as error:
            raise ResourceError(f"no port to offer the weights at: {error}") from error
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, name="weights-server", daemon=True).start()

    def offer(self, manifest: Manifest) -> Manifest:
        """Offer a version from now on, and give its manifest with the source that names this server."""
        digest = fingerprint(manifest)
        kept = [(key, old) for key, old in self._offers.items() if old.path != manifest.path and key != digest]
        last = {} if manifest.kind != "adapter" else dict([pair for pair in kept if pair[1].kind != "adapter"][-1:])
        self._offers = {**last, **dict(kept[1 - _KEPT :]), digest: manifest}  # adapters belong on the last full one
        folder, names = Path(manifest.path).parent, {_delta_name(new, old) for old, new in self._pairs()}
        for left in folder.glob("version-*.delta"):
            if left.name not in names:
                left.unlink(missing_ok=True)
        source = Source(host=self._host, port=self.port, mark=mark_of(manifest.path), token=self._token)
        return replace(manifest, source=source)

    def close(self) -> None:
        """Take no connection any more."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _pairs(self) -> list[tuple[Manifest, Manifest]]:
        offers = list(self._offers.values())
        return [(old, new) for old in offers for new in offers if old is not new]

    def _accept(self) -> None:
        while True:
            self._room.acquire()  # before one that would find no thread
            try:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), name="weights-sender", daemon=True).start()
            except (OSError, RuntimeError):  # of one connection, or for want of descriptors: others may do better
                self._room.release()
                if self._closed:
                    return
                time.sleep(0.05)

    def _serve(self, connection: socket.socket) -> None:
        try:
            # whoever asks sees it
            with contextlib.suppress(OSError, ValueError, TypeError, LookupError, RecursionError), connection:
                self._answer(connection)
        finally:
            self._room.release()

    def _answer(self, connection: socket.socket) -> None:
        connection.settimeout(ASKING_S)
        request = _hear(connection)
        connection.settimeout(self._silence_s)
        if not hmac.compare_digest(str(request.get("token", "")).encode(), self._token.encode()):
            return
        try:
            path, kind = self._choose(request)
            file = open(path, "rb")  # noqa: SIM115 - closed below
        except (LookupError, OSError) as error:
            _say(connection, {"error": f"it is not offered any more ({brief(error)})"})
            return
        with file:
            found = os.fstat(file.fileno())
            start = int(request["offset"]) if request["mark"] == _mark(found) else 0  # of another file
            _say(connection, {"kind": kind, "size": found.st_size, "mark": _mark(found), "offset": start})
            if start < found.st_size:
                connection.sendfile(file, offset=start, count=found.st_size - start)

    def _choose(self, request: Mapping[str, Any]) -> tuple[Path, str]:
        """Give the file to send, and its kind. Errors: LookupError where the version is not offered."""
        offered = self._offers[str(request["digest"])]
        base = self._offers.get(str(request["base"]))
        if base is not None and base is not offered:
            out = Path(offered.path).with_name(_delta_name(offered, base))
            with self._comparing, contextlib.suppress(OSError):  # the base is gone, or there is no room
                if out.exists():
                    return out, "delta"
                if out.name not in self._dense:
                    if delta.write(Path(base.path), Path(offered.path), out, most=DELTA_MOST):
                        return out, "delta"
                    self._dense = {out.name}
        return Path(offered.path), "whole"


def download(
    source: Source, path: Path, *, manifest: Manifest, deadline: Deadline, base: str = "", silence_s: float = SILENCE_S,
) -> Delivered:  # fmt: skip
    """Bring the file of a version to `path`, or the delta from the version with the digest `base` if that is smaller.

    A connection that breaks is made again, from the offset reached. Errors: ResourceError says who waited for whom, or
    what is missing.
    """
    request = {"token": source.token, "digest": fingerprint(manifest), "base": base}
    with open(path, "wb") as file:
        what = f"the learner's host, {source.host}:{source.port}, to send version {manifest.version}"
        stream = _Stream(file.fileno(), what=what, deadline=deadline, silence_s=silence_s)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                stream.go_on(source, request)
                return Delivered(kind=stream.kind, bytes=stream.came)
            except (OSError, ValueError, LookupError) as error:
                if attempt == ATTEMPTS:
                    raise ResourceError(
                        f"{deadline.who} gave up after {ATTEMPTS} connections waiting for {stream}, the last time "
                        f"because of {brief(error)}"
                    ) from error
            time.sleep(min(0.05 * 2**attempt, deadline.left(str(stream))))
    raise AssertionError("unreachable")


class _Stream:
    """A file that comes in one connection or several."""

    def __init__(self, file: int, *, what: str, deadline: Deadline, silence_s: float) -> None:
        self._file, self._what, self._deadline, self._silence_s = file, what, deadline, silence_s
        self._buffer = bytearray(_CHUNK)
        self.kind, self.mark = "", ""
        self.offset = self.size = self.came = 0

    def __str__(self) -> str:
        return f"{self._what} ({self.offset} of {self.size or 'unknown'} bytes came)"

    def go_on(self, source: Source, request: Mapping[str, Any]) -> None:
        """Take what is missing. Errors: OSError, ValueError, LookupError where the connection or its words are bad."""
        with socket.create_connection((source.host, source.port), timeout=self._wait()) as connection:
            _say(connection, {**request, "offset": self.offset, "mark": self.mark})
            comparing = bool(request["base"]) and not self.size  # of two files, before the first answer
            connection.settimeout(self._deadline.left(str(self)) if comparing else self._wait())
            answer = _hear(connection)
            if "error" in answer:
                raise ResourceError(f"{self._deadline.who} waits in vain for {self._what}: {answer['error']}")
            self.offset = int(answer["offset"])
            self.kind, self.mark, self.size = str(answer["kind"]), str(answer["mark"]), int(answer["size"])
            os.ftruncate(self._file, self.offset)
            while self.offset < self.size:
                connection.settimeout(self._wait())
                self._take(connection)

    def _wait(self) -> float:
        return min(self._silence_s, self._deadline.left(str(self)))

    def _take(self, connection: socket.socket) -> None:
        view = memoryview(self._buffer)[: min(_CHUNK, self.size - self.offset)]
        got = connection.recv_into(view)
        if not got:
            raise ConnectionError("the connection was closed in the middle")
        view = view[:got]
        try:
            while view:
                written = os.pwrite(self._file, view, self.offset)
                self.offset, self.came, view = self.offset + written, self.came + written, view[written:]
        except OSError as error:
            raise ResourceError(f"no room for the weights that come from another host: {error}") from error


def _delta_name(new: Manifest, base: Manifest) -> str:
    return f"version-{new.version}-{fingerprint(base)[:8]}-{fingerprint(new)[:8]}.delta"


def _mark(found: os.stat_result) -> str:
    return f"{found.st_ino}-{found.st_size}-{found.st_mtime_ns}"


def _say(connection: socket.socket, message: Mapping[str, Any]) -> None:
    data = json.dumps(message).encode()
    connection.sendall(_LENGTH.pack(len(data)) + data)


def _hear(connection: socket.socket) -> dict[str, Any]:
    """Take one message. Errors: OSError, ValueError where it is none."""
    (length,) = _LENGTH.unpack(_exactly(connection, _LENGTH.size))
    if length > _LONGEST:
        raise ValueError("a message that is too long")
    message = json.loads(_exactly(connection, length))
    if not isinstance(message, dict):
        raise ValueError("a message that is no object")
    return message


def _exactly(connection: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        part = connection.recv(count - len(data))
        if not part:
            raise ConnectionError("the connection was closed before an answer came")
        data += part
    return data
