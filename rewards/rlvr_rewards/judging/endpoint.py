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
from dataclasses import dataclass, field, fields
from typing import Any
from urllib.parse import urlsplit

from rlvr.errors import RlvrError
from rlvr_rewards.judging.breaker import Breaker
from rlvr_rewards.judging.exchange import LARGEST, Answer, post

__all__ = ["Endpoint", "EndpointError"]

_AGAIN = frozenset((408, 409, 425, 429))
_DOWN = frozenset((502, 503, 504))  # a gateway's word that nobody stands behind it
_FIRST_WAIT_S = 0.5


class EndpointError(RlvrError):
    """The endpoint gave no answer, or none that can be read."""


class _Again(Exception):
    """The attempt failed in a way that may pass. `wait_s` is what the server asks for; `down`: nobody was there."""

    def __init__(self, reason: str, *, wait_s: float | None = None, down: bool = False) -> None:
        super().__init__(reason)
        self.wait_s, self.down = wait_s, down


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a judge lives and how patiently it is asked. Picklable; what runs at once is counted per process."""

    url: str  # "http://host:port/v1"; the path /chat/completions is added
    api_key_env: str | None
    timeout_s: float
    retries: int
    concurrency: int
    longest_wait_s: float = 5.0
    pause_s: float = 30.0  # for which an endpoint that is down is left alone
    _gate: threading.BoundedSemaphore = field(init=False, repr=False, compare=False)
    _breaker: Breaker = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
            raise ValueError(
                f"url '{_bare(self.url)}' is no http(s) address without a user, such as http://localhost:8000/v1"
            )
        if not self.timeout_s > 0 or self.retries < 0 or self.concurrency < 1 or not self.pause_s >= 0:
            raise ValueError(
                "a judge needs timeout_s above 0, retries and pause_s of 0 or more and concurrency of 1 or more"
            )
        if self.api_key_env and not os.environ.get(self.api_key_env):
            raise ValueError(f"api_key_env names {self.api_key_env}, which is not set: export it or drop api_key_env")
        if not re.fullmatch(r"[!-~]*", self._key()):
            raise ValueError(f"the key in {self.api_key_env} holds spaces or signs that no header may carry")
        object.__setattr__(self, "_gate", threading.BoundedSemaphore(self.concurrency))
        object.__setattr__(self, "_breaker", Breaker(self.pause_s))

    def __reduce__(self) -> tuple[Any, ...]:
        return _made, tuple(getattr(self, one.name) for one in fields(self) if one.init)

    @property
    def worst_case_s(self) -> float:
        """Give the longest that one question can take, seconds: all attempts, and the waits between them."""
        return (self.retries + 1) * self.timeout_s + self.retries * self.longest_wait_s

    def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        """Ask once, again where that may help, and give the first choice of the answer.

        Errors: EndpointError with one sentence that never holds the key.
        """
        payload = json.dumps(body).encode()
        probe, shut = self._breaker.admit(probe_s=self.timeout_s)
        if shut:
            raise EndpointError(shut)
        retries = 0 if probe else self.retries
        started = time.monotonic()
        for attempt in range(retries + 1):
            try:
                with self._gate:
                    return self._attempt(payload)
            except _Again as error:
                if attempt == retries:
                    raise EndpointError(self._gave_up(error, attempts=attempt + 1, since=started)) from error
                if shut := self._breaker.open_because():
                    raise EndpointError(shut) from error
                time.sleep(self._pause(attempt, error.wait_s))
        raise AssertionError("the last attempt returns or raises")

    def _gave_up(self, error: _Again, *, attempts: int, since: float) -> str:
        """Say that a question got no answer; where nobody got one, the endpoint is left alone for a while."""
        tries = f"{attempts} attempts" if attempts > 1 else "one attempt"
        reason = f"{self._where()} gives no answer after {tries}: {error}"
        paused = f"{reason}; nothing is sent to it for {self.pause_s:g} s, so see that it runs and can be reached"
        return paused if error.down and self._breaker.fails(paused, since=since) else reason

    def _pause(self, attempt: int, wanted: float | None) -> float:
        backoff = _FIRST_WAIT_S * 2**attempt * random.uniform(0.5, 1.0)
        return min(self.longest_wait_s, max(backoff, wanted or 0.0))

    def _attempt(self, payload: bytes) -> dict[str, Any]:
        try:
            status, headers, text = self._post(payload)
        except (OSError, http.client.HTTPException) as error:
            name = "no answer in time" if isinstance(error, TimeoutError) else f"{type(error).__name__}: {error}"
            raise _Again(self._clean(name), down=True) from error
        if status in _DOWN:
            raise _Again(f"it answers {status}", wait_s=_retry_after(headers), down=True)
        self._breaker.lives()
        if status in _AGAIN or status >= 500:
            raise _Again(f"it answers {status}", wait_s=_retry_after(headers))
        if len(text) > LARGEST:
            raise EndpointError(f"{self._where()} answers with more than 1 MiB: is it the right url?")
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

    def _post(self, payload: bytes) -> Answer:
        path = urlsplit(self.url).path.rstrip("/")
        path = path if path.endswith("/chat/completions") else f"{path}/chat/completions"
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if key := self._key():
            headers["Authorization"] = f"Bearer {key}"
        return post(urlsplit(self.url)._replace(path=path).geturl(), payload, headers=headers, timeout_s=self.timeout_s)

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
    url: str, env: str | None, timeout_s: float, retries: int, concurrency: int, longest_wait_s: float, pause_s: float
) -> Endpoint:
    return Endpoint(
        url=url, api_key_env=env, timeout_s=timeout_s, retries=retries, concurrency=concurrency,
        longest_wait_s=longest_wait_s, pause_s=pause_s,
    )  # fmt: skip


def _bare(url: str) -> str:
    """Give an address without user, password and query, which may be secrets."""
    return url.partition("?")[0].rpartition("@")[2]


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
