"""The code reward on each kind of tests, on each level that the machine offers, and when something breaks."""

import os
import pickle
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from rlvr.errors import PluginError
from rlvr.testing import rollout, task
from rlvr.types import Grade, Ungraded, Verdict
from rlvr_rewards.code import Code
from rlvr_rewards.sandbox import levels

pytestmark = pytest.mark.integration

CALL = {"type": "call", "fn": "f", "cases": [{"args": [n], "expected": n + 1} for n in range(3)], "timeout_s": 5.0}
STDIO = {
    "type": "stdio",
    "cases": [{"input": "3 4\n", "output": "7\n"}, {"input": "1 1", "output": "2"}],
    "timeout_s": 5.0,
}
ASSERT = {"type": "assert", "tests": ["assert f(1) == 2", "assert f(2) == 3"], "timeout_s": 5.0}
CHECK = {
    "type": "assert",
    "entry_point": "f",
    "tests": ["def check(candidate):\n    assert candidate(1) == 2\n    assert math.fabs(candidate(2) - 3) < 1e-9\n"],
    "timeout_s": 5.0,
}
RIGHT = "def f(x):\n    return x + 1"
SUM = "a, b = map(int, input().split())\nprint(a + b)"


def answer(code: Code, reply: str, truth: Any) -> Grade | Ungraded:
    posed = task("q", truth)
    return code.grade(posed, rollout(reply, of=posed))


def graded(code: Code, reply: str, truth: Any) -> Grade:
    grade = answer(code, reply, truth)
    assert isinstance(grade, Grade), grade
    return grade


def verdict(code: Code, reply: str, truth: Any) -> str:
    return str(graded(code, reply, truth).verdict)


def servers(code: Code) -> list[int]:
    """List the processes of the servers that run for a reward."""
    return [s.pid for w in code._pool._all for s in (w._programs, w._scripts) if s is not None]


def descendants(pid: int) -> set[int]:
    """List the processes below one."""
    found: set[int] = set()
    for task_folder in Path(f"/proc/{pid}/task").glob("*"):
        try:
            below = (task_folder / "children").read_text().split()
        except OSError:
            continue
        for child in map(int, below):
            found |= {child} | descendants(child)
    return found


@pytest.mark.parametrize("truth", [CALL, ASSERT, CHECK])
def test_a_right_function_is_paid_and_others_are_not(code: Code, truth: dict[str, Any]) -> None:
    grade = graded(code, f"```python\n{RIGHT}\n```", truth)
    assert (grade.verdict, grade.score, grade.parts["tests_passed"]) == (Verdict.CORRECT, 1.0, 1.0), grade.why
    for wrong in (
        "def f(x):\n    return x",
        "def f(x):\n    return x + 1.1",
        "import os\nos._exit(0)",
        "f = 5",
        "def f(:",
    ):
        assert verdict(code, wrong, truth) == "WRONG", wrong


def test_a_program_that_prints_is_judged_by_its_output(code: Code) -> None:
    assert verdict(code, SUM, STDIO) == "CORRECT"
    assert verdict(code, SUM + "\nimport sys; sys.exit(0)", STDIO) == "CORRECT"
    assert verdict(code, SUM + "\nexit()", STDIO) == "CORRECT"
    for wrong in (SUM + "\nraise ValueError", SUM + "\nimport os; os._exit(3)", "print(7)", "", SUM + "\nprint(1)"):
        assert verdict(code, wrong or "pass", STDIO) == "WRONG", wrong


def test_the_grade_says_the_level_and_the_first_failure(best: Code) -> None:
    grade = graded(best, "def f(x):\n    return 1", CALL)
    assert grade.parts["isolation"] >= 1
    assert grade.parts["format"] == 1
    assert grade.parts["tests_passed"] == pytest.approx(1 / 3)
    assert "test 2 of 3" in grade.why
    assert "returns 1, expected 2" in grade.why


def test_partial_credit_is_the_share_of_tests(best: Code) -> None:
    partial = Code(partial=True)
    crashing = "import os\ndef f(x):\n    if x == 1:\n        os._exit(0)\n    return x + 1"
    for reply, truth, share in (
        ("def f(x):\n    return 1", CALL, 1 / 3),
        (crashing, CALL, 2 / 3),
        ("print(7)", STDIO, 1 / 2),
        ("def f(x):\n    return 2", ASSERT, 1 / 2),
        (RIGHT, CALL, 1.0),
    ):
        grade = graded(partial, reply, truth)
        assert grade.score == pytest.approx(share), grade
        assert (grade.verdict is Verdict.CORRECT) == (share == 1.0)
    partial.close()


@pytest.mark.parametrize(
    ("reply", "verdict_name"),
    [("I don't know.", "ABSTAINED"), ("The answer is 5", "WRONG"), ("", "WRONG"), ("# I don't know\npass", "WRONG")],
)
def test_a_reply_without_a_program(best: Code, reply: str, verdict_name: str) -> None:
    assert verdict(best, reply, CALL) == verdict_name


@pytest.mark.parametrize(
    ("truth", "says"),
    [
        (None, "a table"),
        ({}, "call, stdio or assert"),
        ({"type": "call", "fn": "f()", "cases": [{"args": [], "expected": 1}]}, "fn"),
        ({"type": "call", "fn": "f", "cases": []}, "cases"),
        ({"type": "call", "fn": "f", "cases": [{"args": []}]}, "expected"),
        ({"type": "call", "fn": "f", "cases": [{"args": 5, "expected": 1}]}, "list"),
        ({"type": "stdio", "cases": [{"input": 5, "output": ""}]}, "text"),
        ({"type": "assert", "tests": [5]}, "text"),
        ({"type": "assert", "tests": ["assert f("]}, "SyntaxError"),
        ({"type": "assert", "tests": ["assert f(1) == 2"], "prelude": "1 / 0"}, "ZeroDivisionError"),
        ({**CALL, "timeout_s": 0}, "timeout_s"),
        ({"type": "assert", "tests": ["assert f(lambda x: x) == 2"]}, "no plain data"),
    ],
)
def test_a_truth_that_cannot_be_tested_is_ungraded(best: Code, truth: Any, says: str) -> None:
    grade = answer(best, RIGHT, truth)
    assert isinstance(grade, Ungraded), grade
    assert grade.boundary == "reward:code"
    assert says in grade.reason


@pytest.mark.parametrize(
    ("tests", "source"),
    [
        (["assert m([Pair(5, 24), Pair(1, 2)], 2) == 3"],
         "class Pair:\n    def __init__(s, a, b):\n        s.a, s.b = a, b\ndef m(ps, n):\n    return ps[0].a - n"),
        (["xs = [3, 1, 2]\nsrt(xs)\nassert xs == [1, 2, 3]"], "def srt(xs):\n    xs.sort()"),
        (["import itertools\nassert list(itertools.islice(g(), 3)) == [0, 1, 2]"],
         "import itertools\ndef g():\n    yield from itertools.count()"),
        (["try:\n    f(-1)\nexcept ValueError as e:\n    assert 'neg' in str(e)\nelse:\n    assert False"],
         "def f(x):\n    raise ValueError('negative')"),
        (["s = Stack()\ns.push(4)\nassert s.pop() == 4 and s.size == 0"],
         "class Stack:\n    def __init__(s):\n        s.x = []\n    size = property(lambda s: len(s.x))\n"
         "    def push(s, v):\n        s.x.append(v)\n    def pop(s):\n        return s.x.pop()"),
        (["assert f(2) == helper(2)"], "def f(x):\n    return x\ndef helper(x):\n    return x"),
        (["assert isinstance(make(), Thing)"], "class Thing: pass\ndef make():\n    return Thing()"),
        (["assert len(Box()) == 2 and 1 in Box() and 2 not in Box() and Box()[1] == 5"],
         "class Box:\n    def __len__(s): return 2\n    def __contains__(s, x): return x == 1\n"
         "    def __getitem__(s, i): return 5"),
        (["import numpy as np\nassert np.allclose(f([1, 2]), [0.5, 1.0])"],
         "import numpy as np\ndef f(xs):\n    return np.array(xs) / 2"),
    ],
)  # fmt: skip
def test_assertions_reach_objects_of_the_program(best: Code, tests: list[str], source: str) -> None:
    assert verdict(best, source, {"type": "assert", "tests": tests}) == "CORRECT"


LIAR = (
    "class Liar:\n    def __eq__(s, o): return True\n    def __ne__(s, o): return False\n"
    "    def __hash__(s): return 2\n    def __bool__(s): return False\n"
    "    def __repr__(s): return '2'\n    def __float__(s): return 2.0\n    __str__ = __repr__\n"
)


@pytest.mark.parametrize(
    "test",
    ["assert f(1) == 2", "assert 2 == f(1)", "assert str(f(1)) == '2'", "assert f(1) in (2, 3)", "assert f(1) in {2}",
     "assert {2: 'x'}[f(1)] == 'x'", "assert [f(1)] == [2]", "assert not f(1) != 2", "assert not f(1)"],
)  # fmt: skip
def test_a_handle_tells_no_lies(best: Code, test: str) -> None:
    truth = {"type": "assert", "tests": [test]}
    assert verdict(best, LIAR + "def f(x):\n    return Liar()", truth) == "WRONG"


@pytest.mark.parametrize(
    "error", ["StopIteration", "SystemExit", "KeyboardInterrupt", "GeneratorExit", "AssertionError"]
)
def test_exceptions_of_the_program_do_not_end_the_tests(best: Code, error: str) -> None:
    truth = {"type": "assert", "tests": ["assert all(map(lambda x: f(x) == x + 1, [1, 2]))"], "entry_point": "f"}
    assert verdict(best, RIGHT, truth) == "CORRECT"
    assert verdict(best, f"def f(x):\n    raise {error}", truth) == "WRONG"


def test_methods_and_named_arguments_are_called(best: Code) -> None:
    cases = [{"args": [2], "kwargs": {"y": 3}, "expected": 5}]
    method = "class Solution:\n    def add(self, x, y=0):\n        return x + y"
    assert verdict(best, method, {"type": "call", "fn": "add", "cases": cases}) == "CORRECT"
    assert verdict(best, method, {"type": "call", "fn": "Solution.add", "cases": cases}) == "CORRECT"


def test_limits_make_wrong(code: Code) -> None:
    for source, says in (
        ("def f(x):\n    while True: pass", "time"),
        ("while True: pass", "time"),
        ("def f(x):\n    return bytearray(2**32)", "MemoryError"),
        ("def f(x):\n    return 'x' * 2**25", "bytes"),
        ("def f(x):\n    return f(x)", "RecursionError"),
        ("import ctypes\ndef f(x):\n    return ctypes.string_at(0)", "signal 11"),
    ):
        grade = graded(code, source, {**CALL, "timeout_s": 0.5 if says == "time" else 5.0})
        assert (grade.verdict, says in grade.why) == (Verdict.WRONG, True), grade


def test_a_flood_of_output_ends(best: Code) -> None:
    grade = graded(best, "while True:\n    print('x' * 2**20)", {**STDIO, "timeout_s": 2.0})
    assert grade.verdict is Verdict.WRONG


def test_large_output_is_paid(best: Code) -> None:
    truth = {"type": "stdio", "cases": [{"input": "", "output": "y" * 10_000_000}]}
    assert verdict(best, "print('y' * 10_000_000)", truth) == "CORRECT"


def test_the_whole_program_has_a_limit_too() -> None:
    short = Code(total_s=0.6)
    truth = {**CALL, "timeout_s": 0.5, "cases": CALL["cases"] * 10}
    started = time.monotonic()
    assert verdict(short, "import time\ndef f(x):\n    time.sleep(0.2)\n    return x + 1", truth) == "WRONG"
    assert time.monotonic() - started < 5
    short.close()


@pytest.mark.parametrize("who", ["server", "zygote"])
def test_servers_killed_from_outside_are_replaced(who: str) -> None:
    code = Code()
    assert verdict(code, RIGHT, CALL) == "CORRECT"
    for pid in servers(code):
        victims = [pid] if who == "server" else sorted(descendants(pid))[-1:]
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
    assert verdict(code, RIGHT, CALL) == "CORRECT"
    code.close()


def test_a_program_killed_from_outside_is_tried_again_and_then_ungraded() -> None:
    code = Code()
    waits = "import time\ndef f(x):\n    time.sleep(0.4)\n    return x + 1"
    stop = threading.Event()

    def kill_jails(times: int) -> None:
        while times and not stop.is_set():
            below = [sorted(descendants(pid)) for pid in servers(code)]
            for tree in below:
                if len(tree) >= 3:  # whoever waits, the one that forks, and a jail
                    os.kill(tree[-1], signal.SIGKILL)
                    times -= 1
                    time.sleep(0.2)
            time.sleep(0.02)

    try:
        for times, outcome in ((1, Grade), (99, Ungraded)):
            killer = threading.Thread(target=kill_jails, args=(times,))
            killer.start()
            assert isinstance(answer(code, waits, {**CALL, "cases": CALL["cases"][:1]}), outcome)
            stop.set()
            killer.join()
            stop.clear()
    finally:
        stop.set()
        code.close()


def test_nothing_is_left_behind() -> None:
    code = Code(partial=True)
    spawning = "from threading import Timer\ndef f(x):\n    Timer(60, print).start()\n    return x + 1"
    answer(code, RIGHT, ASSERT)
    assert verdict(code, spawning, CALL) == "CORRECT"
    files, processes = len(os.listdir("/proc/self/fd")), descendants(os.getpid())
    for _ in range(3):
        for source in (RIGHT, spawning, "import os\nos._exit(0)", "x" * 5):
            answer(code, source, CALL)
            answer(code, source, ASSERT)
    assert len(os.listdir("/proc/self/fd")) == files
    assert descendants(os.getpid()) == processes
    mine = servers(code)
    code.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid in mine)


def test_threads_share_a_reward() -> None:
    code = Code(processes=2)
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(verdict(code, RIGHT, CALL))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["CORRECT"] * 6
    assert len(servers(code)) <= 2
    code.close()


def test_a_forked_process_starts_servers_of_its_own(best: Code) -> None:
    pid = os.fork()
    if pid == 0:
        right = verdict(best, RIGHT, CALL) == "CORRECT"
        best.close()
        os._exit(0 if right else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert verdict(best, RIGHT, CALL) == "CORRECT"


def test_a_reward_can_be_pickled(best: Code) -> None:
    again = pickle.loads(pickle.dumps(best))
    assert verdict(again, RIGHT, CALL) == "CORRECT"
    again.close()


def test_the_gold_is_the_solution_if_there_is_one(best: Code) -> None:
    assert verdict(best, best.gold(task("q", {**CALL, "solution": RIGHT})), CALL) == "CORRECT"
    with pytest.raises(ValueError, match="no solution"):
        best.gold(task("q", CALL))


@pytest.mark.parametrize(
    "options",
    [{"isolation": "x"}, {"isolation": "command"}, {"command": "docker run"},
     {"timeout_s": 0}, {"memory_mb": 1}, {"processes": 0},
     {"command": ["a"], "isolation": "landlock"}],
)  # fmt: skip
def test_wrong_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Code(**options)


def test_a_command_that_does_not_start_says_so() -> None:
    with pytest.raises(PluginError, match="no-such-program"):
        Code(command=["no-such-program"]).warm_up()
    with pytest.raises(PluginError, match="no isolation"):
        Code(command=["false"]).warm_up()


ANYTHING = "class Anything:\n    def __contains__(s, x): return True\n    def __iter__(s): return iter([])\n"


def test_a_result_that_claims_to_hold_everything_is_no_answer(best: Code) -> None:
    tests = {"type": "assert", "tests": ["assert 7 in f(1)"]}
    assert verdict(best, ANYTHING + "def f(x):\n    return Anything()", tests) == "WRONG"
    assert verdict(best, ANYTHING + "f = Anything", tests) == "WRONG"
    assert verdict(best, "def f(x):\n    return {7: x}", tests) == "CORRECT"


def test_a_fork_while_another_thread_holds_the_locks_does_not_hang() -> None:
    code = Code()
    with levels._lock, code._pool._lock:
        pid = os.fork()
        if pid == 0:
            signal.alarm(30)
            right = verdict(code, RIGHT, CALL) == "CORRECT"
            code.close()
            os._exit(0 if right else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
