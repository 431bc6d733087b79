"""A chat endpoint whose answers a test writes, and judges that ask it."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from rlvr.testing import rollout, task
from rlvr.types import Grade, Ungraded
from rlvr_rewards.judge import Judge

QUESTION = "Who painted it?"
ASKED = task(QUESTION, "Rembrandt van Rijn")
Answer = tuple[int, dict[str, str], str]  # status, headers, body
Answering = Callable[[dict[str, Any], int], Answer]  # of the body and the number of a request


class Scripted:
    """A chat endpoint whose answers a test writes; it notes what it is asked and how much of that at once."""

    def __init__(self, answer: Answering) -> None:
        self.requests: list[tuple[dict[str, Any], dict[str, str]]] = []
        self.at_once = self.most_at_once = 0
        lock, outer = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    number = len(outer.requests)
                    outer.requests.append((body, dict(self.headers)))
                    outer.at_once += 1
                    outer.most_at_once = max(outer.most_at_once, outer.at_once)
                status, headers, text = answer(body, number)
                with lock:
                    outer.at_once -= 1
                try:
                    self.send_response(status)
                    for name, value in headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Length", str(len(text.encode())))
                    self.end_headers()
                    self.wfile.write(text.encode())
                except OSError:
                    pass  # who asked has gone

            def log_message(self, format: str, *args: object) -> None:
                return None

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


def said(text: str | None, *, finish: str = "stop") -> Answer:
    return (
        200,
        {},
        json.dumps({"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": finish}]}),
    )


def nonce_of(body: dict[str, Any]) -> str:
    found = re.search(r"<verdict-([0-9a-f]+)>WORD", body["messages"][1]["content"])
    assert found
    return found[1]


def verdict(word: str, *, before: str = "") -> Answering:
    """Answer with a readable verdict."""
    return lambda body, _: said(f"{before}<verdict-{nonce_of(body)}>{word}</verdict-{nonce_of(body)}>")


def judged(judge: Judge, reply: str, *, of: Any = ASKED) -> Grade | Ungraded:
    return judge.grade(of, rollout(reply, of=of))
