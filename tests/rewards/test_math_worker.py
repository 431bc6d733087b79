"""Hostile replies, and the symbolic worker: limits, kills, threads, forks, and what it leaves behind."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr.testing import JUNK, rollout, task
from rlvr.types import Grade, Ungraded
from rlvr_rewards.math import Math
from rlvr_rewards.mathematics import symbolic

pytestmark = pytest.mark.integration

# Right, unlike its gold in form, and beyond the exact rules: the worker must be asked.
SYMBOLIC = ("\\boxed{\\frac{1}{\\cos x}}", "\\sec x")
PATIENCE_S = 20.0  # a machine that other work starves


@pytest.fixture(scope="module", autouse=True)
def worker() -> Iterator[None]:
    patient = pytest.MonkeyPatch()
    patient.setattr(symbolic, "_WALL_S", PATIENCE_S)
    Math().warm_up()
    yield
    symbolic.close()
    patient.undo()


def graded(reply: str, truth: object) -> Grade | Ungraded:
    posed = task("q", truth)
    return Math().grade(posed, rollout(reply, of=posed))


def verdict(reply: str, truth: object) -> str:
    grade = graded(reply, truth)
    return str(grade.verdict) if isinstance(grade, Grade) else "UNGRADED"


def server() -> int:
    assert symbolic._worker is not None
    return symbolic._worker._process.pid


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found]


def eventually(true: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + PATIENCE_S
    while not true() and time.monotonic() < deadline:
        time.sleep(0.01)
    return true()


LONG = [
    " " * 10**6, "\n" * 10**6, "$" * 20001, "1," * 20000, "a " * 20000, "\\[" * 20000, "answer is " * 10000,
    "Answer: " + "9" * 10**6, "Answer: " + "{" * 10**6, "\\boxed{" * 20000, "\\boxed{1}" * 20000,
    "\\boxed{" + "{" * 10**5 + "}" * 10**5 + "}", "\\boxed{1}, " * 10000, "\\boxed{1}" + " $" * 30000 + "\\boxed{2}",
    "1 and " * 20000, "$1$ and " * 10000, "or " * 30000 + "about 5", ", " * 30000 + "about", "not " * 20000 + "5",
    "-" * 50000, "(A) or " * 10000, "\\text{" * 20000, "\\frac" * 10**5, "approximately " * 8000, "1 " * 50000,
]  # fmt: skip
DEEP = [
    "\\frac{1}{" * 60 + "1" + "}" * 60, "\\sqrt{" * 90 + "2" + "}" * 90, "(" * 400, "[" * 200 + "1" + "]" * 200,
    "{" * 200 + "1" + "}" * 200, "-" * 400 + "1", "|" * 400, "=" * 400, "x<" * 200, "\\cup" * 100, "\\pm" * 150,
    "1\\pm 2," * 60 + "1", "\\begin{pmatrix}" + "1&" * 200 + "1" + "\\\\1" * 200 + "\\end{pmatrix}", "1/" * 100,
    "+".join(f"x_{{{i}}}" for i in range(80)), "\\sin(" * 60 + "x" + ")" * 60, "e^{" * 60 + "x" + "}" * 60,
    "\x00\x00", "\ud800\udfff", "٣٣٣^٣", "__import__('os').system('x')", "1/0", "0^0", "\\frac{0}{0}",
    "\\infty-\\infty",
]  # fmt: skip
BOMBS = [
    "9^{9^{9^9}}", "99999999!", "(99999999)!!", "10^{10^{10}}", "1e999999999", "2^{2^{100}}x", "\\sqrt{2}^{10^{9}}",
    "\\sum_{k=1}^{10^9} k^k", "\\int_0^1 x^{x^x} dx", "\\prod_{k=1}^{1000000} k", "(x+1)^{1000000}", "(x+y+z)^{500}",
    "\\log_{2}(3^{3^{30}})", "x^{x^{x^{x^x}}}", "\\sqrt[10^{9}]{x}", "\\tan(10^{400})", "10**10**10",
    "2**2**2**2**2**2",
    "x^{" + "9" * 300 + "}", "\\frac{1}{x^{-" + "9" * 99 + "}}", "(1+\\sqrt2)^{99999999}", "\\binom{10^9}{10^8}",
    "\\lim_{x\\to\\infty} (1+1/x)^{x^x}", "\\gamma(10^{30})", "\\frac{d^{99}}{dx^{99}} \\tan x",
]  # fmt: skip


@pytest.mark.parametrize("reply", [*JUNK, *LONG], ids=range(len(JUNK) + len(LONG)))
@pytest.mark.parametrize("gold", ["19", "\\{1,2,3\\}"])
def test_long_replies_are_judged_at_once(reply: str, gold: str) -> None:
    started = time.thread_time()
    assert verdict(reply, gold) == "WRONG"
    assert time.thread_time() - started < 1.0


@pytest.mark.parametrize("said", [*DEEP, *BOMBS], ids=range(len(DEEP) + len(BOMBS)))
@pytest.mark.parametrize("gold", ["19", "x^2+1", "\\sin x", "[0,\\infty)"])
def test_bombs_are_wrong_within_seconds(said: str, gold: str) -> None:
    started = time.monotonic()
    assert verdict(f"\\boxed{{{said}}}", gold) == "WRONG"
    assert (
        time.monotonic() - started < PATIENCE_S
    )  # 2 s on a machine of one's own: benchmarks/math_grader.py measures that


def test_a_text_that_exhausts_the_worker_is_wrong_where_the_gold_is_not() -> None:
    grade = graded("\\boxed{99999999!}", "9!")
    assert isinstance(grade, Grade)
    assert grade.score == 0.0
    assert "runs out of time" in grade.why


def test_a_gold_that_exhausts_the_worker_is_our_failure() -> None:
    grade = graded("\\boxed{99999998!+x}", "99999999!+x")
    assert isinstance(grade, Ungraded)
    assert grade.boundary == "reward:math"


@pytest.mark.slow  # two workers start
def test_a_request_that_needs_much_memory_ends_the_child_only(monkeypatch: pytest.MonkeyPatch) -> None:
    symbolic.close()
    monkeypatch.setattr(symbolic, "_MEMORY", 1 << 22)
    outcome = symbolic.ask([("\\sin(x)+" * 40 + "1", "\\binom{400}{200}^{99}x^{9999}")])
    assert isinstance(outcome, symbolic.Overrun | list)
    monkeypatch.undo()
    symbolic.close()
    assert verdict(*SYMBOLIC) == "CORRECT"


@pytest.mark.parametrize("whom", ["child", pytest.param("server", marks=pytest.mark.slow), "both"])
def test_a_kill_from_outside_is_mended(whom: str) -> None:
    assert verdict(*SYMBOLIC) == "CORRECT"
    for pid in {"child": children(server()), "server": [server()], "both": [*children(server()), server()]}[whom]:
        os.kill(pid, signal.SIGKILL)
    assert verdict(*SYMBOLIC) == "CORRECT"


def test_a_server_that_answers_late_is_replaced() -> None:
    assert verdict(*SYMBOLIC) == "CORRECT"
    worker = symbolic._worker
    assert worker is not None
    while worker._idle:
        worker._idle.pop().sock.close()
    worker._control.settimeout(0.2)
    os.kill(server(), signal.SIGSTOP)
    assert verdict(*SYMBOLIC) == "UNGRADED"
    assert not worker.alive  # its late answer would be read as the answer to the next question
    assert verdict("\\boxed{99999999!}", "9!") == "WRONG"
    assert verdict(*SYMBOLIC) == "CORRECT"


def test_two_kills_leave_a_reply_ungraded() -> None:
    done = threading.Event()

    def assassin() -> None:
        while not done.is_set():
            for pid in children(server()) if symbolic._worker else []:
                os.kill(pid, signal.SIGKILL)
            time.sleep(0.002)

    thread = threading.Thread(target=assassin)
    thread.start()
    try:
        grade = graded("\\boxed{99999999!}", "9!")  # busy until it is killed
    finally:
        done.set()
        thread.join()
    assert isinstance(grade, Ungraded)
    assert grade.boundary == "reward:math"
    assert "SIGKILL" in grade.reason
    assert verdict(*SYMBOLIC) == "CORRECT"


def test_threads_and_asyncio_judge_alike() -> None:
    cases = [SYMBOLIC, ("\\boxed{\\ln 4}", "2\\ln 2"), ("\\boxed{\\ln 5}", "2\\ln 2"), ("Answer: 3", "3")] * 5
    expected = [verdict(*case) for case in cases]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda case: verdict(*case), cases)) == expected

    async def both() -> list[str]:
        here = verdict(*cases[0])
        return [here, *await asyncio.gather(*(asyncio.to_thread(verdict, *case) for case in cases[1:]))]

    assert asyncio.run(both()) == expected


def run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=90)


SETUP = """
import os, sys, signal
from rlvr.testing import task, rollout
from rlvr_rewards.mathematics import symbolic
from rlvr_rewards.math import Math
def judged():
    grade = Math().grade(task("q", r"\\sec x"), rollout(r"\\boxed{\\frac{1}{\\cos x}}"))
    return str(getattr(grade, "verdict", grade))
print(judged(), symbolic._worker._process.pid, flush=True)
"""


@pytest.mark.slow  # three interpreters start
def test_a_fork_of_the_owner_gets_a_worker_of_its_own() -> None:
    script = (
        SETUP
        + """
if os.fork() == 0:
    print(judged(), symbolic._worker._process.pid, flush=True)
    os._exit(0)
os.wait()
print(judged(), symbolic._worker._process.pid, flush=True)
"""
    )
    done = run(script)
    verdicts, servers = zip(*(line.split() for line in done.stdout.splitlines()), strict=True)
    assert verdicts == ("CORRECT",) * 3, done.stderr
    assert servers[0] == servers[2] != servers[1]
    assert all(eventually(lambda pid=pid: not Path(f"/proc/{pid}").exists()) for pid in set(servers))


@pytest.mark.slow  # six interpreters start
@pytest.mark.parametrize("end", ["sys.exit(0)", "os._exit(1)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_the_worker_goes_with_its_owner(end: str) -> None:
    done = run(SETUP + end)
    judged, pid = done.stdout.split()
    assert judged == "CORRECT"
    assert eventually(lambda: not Path(f"/proc/{pid}").exists())


def test_nothing_is_left_behind() -> None:
    symbolic.close()
    assert verdict(*SYMBOLIC) == "CORRECT"
    files, processes = len(os.listdir("/proc/self/fd")), len(children(os.getpid()))
    for turn in range(40):
        if turn % 20 == 10:
            os.kill(children(server())[0], signal.SIGKILL)
        said = "\\frac{1}{\\cos x}" if turn % 2 else f"\\frac{{{turn + 2}}}{{\\cos x}}"
        assert verdict(f"\\boxed{{{said}}}", "\\sec x") == ("CORRECT" if turn % 2 else "WRONG")
    assert len(os.listdir("/proc/self/fd")) == files
    assert len(children(os.getpid())) == processes
    assert eventually(lambda: len(children(server())) == 1)


# fmt: off
FRAGMENTS = st.sampled_from([
    "\\frac{", "}", "{", "1", "19", "-", "+", "x", "^", "_", "\\sqrt{", "\\pi", "!", "(", ")", "[", "]", ",", " and ",
    " or ", "\\boxed{", "Answer: ", "$", "\\(", "\\)", "\n", "\\text{", "=", "<", "\\le ", "\\cup ", "\\{", "\\}",
    "\\pm ", "\\sin ", "\\int ", "\\sum_{k=1}^{9}", "\\begin{pmatrix}", "\\end{pmatrix}", "&", "\\\\", "%", "e",
    "i", "|",
    "\\infty", "\x00", "I don't know", "not ", "é", "答案：", "\ud800", ".", "0.5", "10^{", "\\overline{3}", "1e9", ":",
    ";", "####", "</think>",
])
# fmt: on
TRUTHS = st.sampled_from(["19", "1/2", "x+1", "\\sin x", "\\{1,2\\}", "[0,1)", "east"])


@given(
    st.lists(FRAGMENTS, max_size=14).map("".join),
    st.sampled_from(["19", "1/2", "x+1", "\\sin x", "\\{1,2\\}", "[0,1)", "east"]),
)
@settings(max_examples=100)
def test_no_reply_makes_the_grader_raise_or_hang(reply: str, truth: str) -> None:
    started = time.monotonic()
    assert verdict(reply, truth) in {"CORRECT", "ABSTAINED", "WRONG"}
    assert time.monotonic() - started < PATIENCE_S


@given(st.lists(FRAGMENTS, min_size=1, max_size=8).map("".join))
@settings(max_examples=50)
def test_no_gold_makes_the_grader_raise(gold: str) -> None:
    assert verdict("Answer: 5x", gold) in {"CORRECT", "ABSTAINED", "WRONG", "UNGRADED"}
