"""Ask an OpenAI-compatible chat endpoint: with deadlines, retries, back-off and a bound on what runs at once."""

from __future__ import annotations

import email.utils
import http.client
import json
import math
import os
import random
import re
import threading
import time
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from rlvr.errors import RlvrError

__all__ = ["Endpoint", "EndpointError"]

_LARGEST = 2**20  # bytes of an answer
_AGAIN = frozenset((408, 409, 425, 429))
_FIRST_WAIT_S = 0.5


class EndpointError(RlvrError):
    """The endpoint gave no answer, or none that can be read."""


class _Again(Exception):
    """The attempt failed in a way that may pass. `wait_s` is what the server asks for."""

    def __init__(self, reason: str, *, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a judge lives and how patiently it is asked. Picklable; what runs at once is counted per process."""

    url: str  # "http://host:port/v1"; the path /chat/completions is added
    api_key_env: str | None
    timeout_s: float
    retries: int
    concurrency: int
    longest_wait_s: float = 30.0
    _gate: threading.BoundedSemaphore = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
            raise ValueError(
                f"url '{_bare(self.url)}' is no http(s) address without a user, such as http://localhost:8000/v1"
            )
        if not self.timeout_s > 0 or self.retries < 0 or self.concurrency < 1 or not self.longest_wait_s >= 0:
            raise ValueError("a judge needs timeout_s above 0, retries of 0 or more and concurrency of 1 or more")
        if self.api_key_env and not os.environ.get(self.api_key_env):
            raise ValueError(f"api_key_env names {self.api_key_env}, which is not set: export it or drop api_key_env")
        if not re.fullmatch(r"[!-~]*", self._key()):
            raise ValueError(f"the key in {self.api_key_env} holds spaces or signs that no header may carry")
        object.__setattr__(self, "_gate", threading.BoundedSemaphore(self.concurrency))

    def __reduce__(self) -> tuple[Any, ...]:
        return _made, (self.url, self.api_key_env, self.timeout_s, self.retries, self.concurrency, self.longest_wait_s)

    @property
    def worst_case_s(self) -> float:
        """Give the longest that one question can take, seconds: all attempts, and the waits between them."""
        return (self.retries + 1) * self.timeout_s + self.retries * self.longest_wait_s

    def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        """Ask once, again where that may help, and give the first choice of the answer.

        Errors: EndpointError with one sentence that never holds the key.
        """
        payload = json.dumps(body).encode()
        for attempt in range(self.retries + 1):
            try:
                with self._gate:
                    return self._attempt(payload)
            except _Again as error:
                if attempt == self.retries:
                    tries = f"{attempt + 1} attempts" if attempt else "one attempt"
                    raise EndpointError(f"{self._where()} gives no answer after {tries}: {error}") from error
                time.sleep(self._pause(attempt, error.wait_s))
        raise AssertionError("the last attempt returns or raises")

    def _pause(self, attempt: int, wanted: float | None) -> float:
        backoff = _FIRST_WAIT_S * 2**attempt * random.uniform(0.5, 1.0)
        return min(self.longest_wait_s, max(backoff, wanted or 0.0))

    def _attempt(self, payload: bytes) -> dict[str, Any]:
        try:
            status, headers, text = self._post(payload)
        except (OSError, http.client.HTTPException) as error:
            name = "no answer in time" if isinstance(error, TimeoutError) else f"{type(error).__name__}: {error}"
            raise _Again(self._clean(name)) from error
        if status in _AGAIN or status >= 500:
            raise _Again(f"it answers {status}", wait_s=_retry_after(headers))
        if status != 200:
            raise EndpointError(f"{self._where()} answers {status}: {self._advice(status, text)}")
        try:
            choice = json.loads(text)["choices"][0]
            if not isinstance(choice["message"], dict):
                raise TypeError("a message is a table")
        except (ValueError, KeyError, IndexError, TypeError, RecursionError) as error:
            raise EndpointError(
                f"{self._where()} answers something other than a chat completion: is it the right url?"
            ) from error
        return dict(choice)

    def _post(self, payload: bytes) -> tuple[int, http.client.HTTPMessage, bytes]:
        parts = urlsplit(self.url)
        assert parts.hostname
        path = parts.path.rstrip("/")
        path = path if path.endswith("/chat/completions") else f"{path}/chat/completions"
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key := self._key():
            headers["Authorization"] = f"Bearer {key}"
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        deadline = time.monotonic() + self.timeout_s
        connection = kind(parts.hostname, parts.port, timeout=self.timeout_s)
        try:
            connection.request("POST", path, body=payload, headers=headers)
            _expire(connection, deadline)
            response = connection.getresponse()
            return response.status, response.headers, _read(connection, response, deadline)
        finally:
            connection.close()

    def _key(self) -> str:
        return os.environ.get(self.api_key_env, "").strip() if self.api_key_env else ""

    def _where(self) -> str:
        return f"the judge at {_bare(self.url)}"

    def _advice(self, status: int, text: bytes) -> str:
        if status in (401, 403):
            named = f"check the key in {self.api_key_env}" if self.api_key_env else "set api_key_env"
            return f"it refuses the key; {named}"
        try:
            said = json.loads(text)
            said = said.get("error", said)
            said = said.get("message", "") if isinstance(said, dict) else said
        except (ValueError, AttributeError, RecursionError):
            said = ""
        said = self._clean(" ".join(str(said).split())[:200])
        return said or ("check url and model" if status == 404 else "check url, model and options")

    def _clean(self, text: str) -> str:
        """Take the key out of a text, whoever wrote it there."""
        key = self._key()
        return text.replace(key, "[key]") if key else text


def _made(
    url: str, env: str | None, timeout_s: float, retries: int, concurrency: int, longest_wait_s: float
) -> Endpoint:
    return Endpoint(
        url=url, api_key_env=env, timeout_s=timeout_s, retries=retries, concurrency=concurrency,
        longest_wait_s=longest_wait_s,
    )  # fmt: skip


def _bare(url: str) -> str:
    """Give an address without user, password and query, which may be secrets."""
    return url.partition("?")[0].rpartition("@")[2]


def _expire(connection: http.client.HTTPConnection, deadline: float) -> None:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    if connection.sock is not None:
        connection.sock.settimeout(left)


def _read(connection: http.client.HTTPConnection, response: http.client.HTTPResponse, deadline: float) -> bytes:
    """Read a bounded answer; a server that drips bytes does not outlast the deadline."""
    text = bytearray()
    while chunk := response.read1(65536):
        text += chunk
        if len(text) > _LARGEST:
            raise EndpointError("the judge answers with more than 1 MiB: is it the right url?")
        _expire(connection, deadline)
    return bytes(text)


def _retry_after(headers: http.client.HTTPMessage) -> float | None:
    """Read Retry-After: seconds, or a date."""
    said = (headers.get("Retry-After") or "").strip()
    try:
        seconds = float(said)
        return seconds if math.isfinite(seconds) and seconds >= 0 else None
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(said).timestamp() - time.time())
    except (ValueError, TypeError):
        return None
