"""A judge's endpoint that fails, hangs, drips or refuses, and several questions at once."""

import socket
import threading
import time
from typing import Any

import pytest
from scripted_judge import ASKED, Answer, judged, said, verdict

from rlvr.testing import rollout
from rlvr.types import Grade, Ungraded, Verdict
from rlvr_rewards.judge import Judge

pytestmark = pytest.mark.usefixtures("quick")


def test_what_may_pass_is_tried_again(scripted: Any) -> None:
    broken = {0: (500, {}, "oops"), 1: (429, {"Retry-After": "0.2"}, ""), 2: (503, {"Retry-After": "soon"}, "")}
    server = scripted(lambda body, number: broken.get(number) or verdict("CORRECT")(body, number))
    started = time.monotonic()
    grade = judged(Judge(url=server.url, model="m", retries=3), "The man from Leiden")
    assert isinstance(grade, Grade) and grade.verdict is Verdict.CORRECT
    assert len(server.requests) == 4
    assert time.monotonic() - started >= 0.2


def test_retries_end(scripted: Any) -> None:
    server = scripted(lambda *_: (502, {}, ""))
    grade = judged(Judge(url=server.url, model="m", retries=2), "The man from Leiden")
    assert isinstance(grade, Ungraded) and grade.boundary == "judge"
    assert "after 3 attempts: it answers 502" in grade.reason
    assert len(server.requests) == 3


def test_a_wait_that_the_server_asks_for_is_bounded() -> None:
    endpoint = Judge(url="http://localhost:1/v1", model="m", retries=2, timeout_s=5)._endpoint
    assert endpoint._pause(0, 9999.0) == endpoint.longest_wait_s
    assert endpoint._pause(40, None) <= endpoint.longest_wait_s
    assert endpoint.worst_case_s == 3 * 5 + 2 * endpoint.longest_wait_s


def test_a_server_that_hangs_is_left(scripted: Any) -> None:
    done = threading.Event()
    server = scripted(lambda body, _: (done.wait(5), said("late"))[1])
    started = time.monotonic()
    grade = judged(Judge(url=server.url, model="m", retries=1, timeout_s=0.2), "The man from Leiden")
    done.set()
    assert isinstance(grade, Ungraded) and "no answer in time" in grade.reason
    assert time.monotonic() - started < 3


HEAD = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("first", "dripped"),
    [
        (HEAD + b"Content-Length: 1000\r\n\r\n", b" "),
        (HEAD + b"Connection: close\r\n\r\n", b" "),
        (b"", b"H"),
        (HEAD, b"X"),
        (HEAD, b"X-Mark: 1\r\n"),
        (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"0"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    ],
)
def test_a_server_that_drips_is_left(first: bytes, dripped: bytes) -> None:
    before = threading.active_count()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        dripper = threading.Thread(target=drip, args=(listener, first, dripped), daemon=True)
        dripper.start()
        started = time.monotonic()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        grade = judged(Judge(url=url, model="m", retries=0, timeout_s=0.12), "The man from Leiden")
        assert isinstance(grade, Ungraded) and "no answer in time" in grade.reason
        assert time.monotonic() - started < 2
        dripper.join(2)  # the connection is closed, so it ends
    deadline = time.monotonic() + 2
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before


def drip(listener: socket.socket, first: bytes, dripped: bytes) -> None:
    peer, _ = listener.accept()
    with peer:
        try:
            peer.sendall(first)
            for _ in range(150):
                peer.sendall(dripped)
                time.sleep(0.03)
        except OSError:
            pass


def test_looking_a_name_up_counts_as_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up, done = socket.getaddrinfo, threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args: (done.wait(5), looked_up(*args))[1])
    started = time.monotonic()
    grade = judged(Judge(url="http://127.0.0.1:1/v1", model="m", retries=0, timeout_s=0.12), "The man from Leiden")
    done.set()
    assert isinstance(grade, Ungraded) and "no answer in time" in grade.reason
    assert time.monotonic() - started < 2


def test_an_endpoint_that_is_down_is_left_alone_and_then_probed(scripted: Any) -> None:
    up, down = threading.Event(), (503, {}, "")
    server = scripted(lambda body, number: verdict("CORRECT")(body, number) if up.is_set() else down)
    judge = Judge(url=server.url, model="m", retries=2, pause_s=0.4)
    first, second = (judged(judge, reply) for reply in ("The man from Leiden", "The man with the hat"))
    assert first == second
    assert isinstance(first, Ungraded) and "it answers 503; nothing is sent to it for 0.4 s" in first.reason
    assert len(server.requests) == 3  # all of the first question, none of the second
    time.sleep(0.5)
    probe, after = (judged(judge, reply) for reply in ("The man from Leiden", "The man with the hat"))
    assert isinstance(probe, Ungraded) and "after one attempt" in probe.reason and after == probe
    assert len(server.requests) == 4
    up.set()
    time.sleep(0.5)
    for reply in ("The man from Leiden", "The man with the hat"):
        assert isinstance(judged(judge, reply), Grade)
    assert len(server.requests) == 6


def test_a_silent_endpoint_costs_a_few_groups_no_more_than_one(scripted: Any) -> None:
    done = threading.Event()
    server = scripted(lambda *_: (done.wait(5), said("late"))[1])
    judge = Judge(url=server.url, model="m", timeout_s=0.2, retries=1, concurrency=4)
    started = time.monotonic()
    for group in range(5):
        replies = [rollout(f"Painter {group} {i}", of=ASKED) for i in range(8)]
        assert all(isinstance(grade, Ungraded) for grade in judge.grade_group(ASKED, replies))
    done.set()
    assert time.monotonic() - started < 3  # 0.4 s and the waits between; without a pause it is over 4 s
    assert len(server.requests) <= 8


def test_one_question_that_hangs_does_not_stop_the_others(scripted: Any) -> None:
    done = threading.Event()

    def answer(body: dict[str, Any], number: int) -> Answer:
        if "hangs" in body["messages"][1]["content"]:
            done.wait(5)
        else:
            time.sleep(0.1)
        return verdict("WRONG")(body, number)

    judge = Judge(url=scripted(answer).url, model="m", timeout_s=0.8, retries=0, concurrency=2)
    grades = judge.grade_group(ASKED, [rollout(text, of=ASKED) for text in ("It hangs", "One", "Two", "Three")])
    assert [isinstance(grade, Grade) for grade in grades] == [False, True, True, True]
    assert isinstance(judged(judge, "Four"), Grade)
    done.set()


def test_the_time_that_one_question_may_take_by_default() -> None:
    judge = Judge(url="http://localhost:1/v1", model="m")
    assert judge.worst_case_s == pytest.approx(100.0)


def test_nobody_there() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    grade = judged(Judge(url=f"http://127.0.0.1:{port}", model="m", retries=1), "The man from Leiden")
    assert isinstance(grade, Ungraded) and "ConnectionRefusedError" in grade.reason


@pytest.mark.parametrize(
    ("status", "body", "hint"),
    [
        (401, '{"error": {"message": "bad key sk-secret"}}', "check the key in JUDGE_KEY"),
        (404, '{"error": {"message": "the model m does not exist"}}', "the model m does not exist"),
        (404, "<html>", "check url and model"),
        (400, '{"error": "sk-secret is too long"}', "[key] is too long"),
        (302, "", "check url, model and options"),
    ],
)
def test_a_wrong_set_up_is_one_sentence_and_not_repeated(
    scripted: Any, monkeypatch: pytest.MonkeyPatch, status: int, body: str, hint: str
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "sk-secret")
    server = scripted(lambda *_: (status, {}, body))
    grade = judged(Judge(url=server.url, model="m", api_key_env="JUDGE_KEY"), "The man from Leiden")
    assert isinstance(grade, Ungraded)
    assert str(status) in grade.reason and hint in grade.reason and "sk-secret" not in grade.reason
    assert len(server.requests) == 1
    assert server.requests[0][1]["Authorization"] == "Bearer sk-secret"


def test_no_key_no_header(scripted: Any) -> None:
    server = scripted(verdict("CORRECT"))
    judged(Judge(url=server.url, model="m"), "The man from Leiden")
    assert "Authorization" not in server.requests[0][1]


def test_groups_ask_at_once_within_the_limit(scripted: Any) -> None:
    def slow(body: dict[str, Any], number: int) -> Answer:
        time.sleep(0.05)
        return verdict("CORRECT" if "number 3" in body["messages"][1]["content"] else "WRONG")(body, number)

    server = scripted(slow)
    judge = Judge(url=server.url, model="m", concurrency=3)
    replies = [*(f"Painter number {i}" for i in range(9)), "", "Painter number 3", "I don't know"]
    grades = judge.grade_group(ASKED, [rollout(reply, of=ASKED) for reply in replies])
    assert [str(g.verdict) for g in grades if isinstance(g, Grade)] == [
        "WRONG", "WRONG", "WRONG", "CORRECT", *["WRONG"] * 5, "WRONG", "CORRECT", "ABSTAINED",
    ]  # fmt: skip
    assert server.most_at_once == 3
    assert len(server.requests) == 9  # equal replies by one question
