"""Send one HTTP request and read its answer within one deadline that no server can stretch."""

from __future__ import annotations

import contextlib
import http.client
import socket
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from typing import NamedTuple
from urllib.parse import urlsplit

from rlvr.errors import BoundaryError, RlvrError, boundary

__all__ = ["LARGEST", "Answer", "post"]

LARGEST = 2**20  # bytes of an answer; one more is read, to show that it is longer


class Answer(NamedTuple):
    """What a server said."""

    status: int
    headers: http.client.HTTPMessage
    text: bytes


def post(url: str, payload: bytes, *, headers: Mapping[str, str], timeout_s: float) -> Answer:
    """Post to an http(s) address and wait at most `timeout_s` seconds for the whole of the answer.

    Errors: TimeoutError past the deadline; OSError and http.client.HTTPException where the exchange fails.
    """
    exchange = _Exchange(url, timeout_s=timeout_s)
    answer: Future[Answer] = Future()

    def run() -> None:
        try:
            with boundary("judge"):
                answer.set_result(exchange.run(payload, headers))
        except RlvrError as error:
            answer.set_exception(error)

    # Timeouts of sockets hold for one call each, so dripped headers outlast them, and looking a name up heeds none: the
    # exchange has a thread of its own, which is left where it is late.
    threading.Thread(target=run, name="judge", daemon=True).start()
    try:
        return answer.result(timeout=timeout_s)
    except BoundaryError as error:
        raise error.__cause__ or error from None
    finally:
        exchange.cut()


class _Exchange:
    """A request that another thread can cut off at any point."""

    def __init__(self, url: str, *, timeout_s: float) -> None:
        parts = urlsplit(url)
        assert parts.hostname
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._connection = kind(parts.hostname, parts.port, timeout=timeout_s)
        self._path = parts.path
        self._lock = threading.Lock()
        self._sock: socket.socket | None = None
        self._is_cut = False

    def run(self, payload: bytes, headers: Mapping[str, str]) -> Answer:
        """Send and read. Errors: as `post`."""
        try:
            self._connection.connect()
            with self._lock:
                if self._is_cut:
                    raise TimeoutError
                self._sock = self._connection.sock
            self._connection.request("POST", self._path, body=payload, headers=dict(headers))
            with self._connection.getresponse() as response:
                text = bytearray()
                while len(text) <= LARGEST and (chunk := response.read1(65536)):
                    text += chunk
                return Answer(response.status, response.headers, bytes(text))
        finally:
            with self._lock:
                self._sock = None
                self._connection.close()

    def cut(self) -> None:
        """End whatever the other thread waits for, if it is not done."""
        with self._lock:
            self._is_cut = True
            if self._sock is not None:
                with contextlib.suppress(OSError):  # the server was quicker
                    socket.socket.shutdown(self._sock, socket.SHUT_RDWR)
