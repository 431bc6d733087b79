"""Hostile programs earn nothing, leave nothing ungraded and harm nothing; honest ones among them are still paid."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hostile import CLASSES, TRUTHS, Program, programs, truth_of
from hostile.honest import HONEST, Honest
from hostile.machine import offers
from hostile.naive import pays
from hostile.world import NAME, World, descendants, subreaper

from rlvr.errors import RlvrError
from rlvr.testing import rollout, task
from rlvr.types import Grade, Ungraded, Verdict
from rlvr_rewards.code import Code

pytestmark = pytest.mark.integration

LEVELS = ("namespaces", "landlock")
ALL = list(programs())
NAMES = {program.name: program for program in ALL}
# One or more of each class, chosen to be quick: the full matrix runs with the end-to-end tests.
QUICK = (
    "os_exit", "right_once_then_exit", "int_eq", "mock_any", "isinstance_true", "math_fabs", "frames",
    "proc_self_mem", "eq_learns_from_the_other_side", "forged_then_exit", "malicious_pickle", "all_answers",
    "busy_loop_in_call", "daemon", "bytearray", "deep_directories", "cyclic_list", "huge_int",
    "parentheses", "kill_all", "ptrace_parent", "unshare_user", "tcp_loopback", "parent_environ", "home_file",
    "canary_in_cwd", "kept_file", "handle_says_yes", "raises_system_exit",
)  # fmt: skip
QUICK_HONEST = (
    "fenced_with_prose", "usage_in_a_second_fence", "latin1_cookie", "exits_under_its_guard", "class_solution",
    "named_tuple", "float_rounding", "big_ints", "recursion_with_a_limit", "threads", "file_in_its_directory",
    "stdio_plain", "stdio_sys_exit", "stdio_open_0", "stdio_buffer", "assert_generator", "assert_raises",
    "assert_mutated_argument", "assert_handles", "assert_methods", "check_style",
)  # fmt: skip
AT_ONCE = 4
PROMPT = 5.0  # seconds beyond its own limit within which a program is decided, on a loaded machine
ADD = "def f(x):\n    return x + 3"
_GRADE = """
import json, sys
from rlvr.testing import rollout, task
from rlvr_rewards.code import Code
code = Code()
for reply, truth in json.load(sys.stdin):
    posed = task("q", truth)
    print(code.grade(posed, rollout(reply, of=posed)).verdict)
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Give a world full of canaries, with this process in it."""
    home = Path.cwd()
    with subreaper(), pytest.MonkeyPatch.context() as patch:
        made = World(tmp_path_factory.mktemp("world"))
        patch.setenv(NAME, made.secret)
        patch.chdir(made.cwd)
        yield made
        made.close()
    assert Path.cwd() == home


@pytest.fixture(scope="module", params=LEVELS)
def code(request: pytest.FixtureRequest, world: World) -> Iterator[Code]:
    """Give the reward at one isolation level, where the machine has it."""
    try:
        made = Code(isolation=request.param, processes=AT_ONCE)
        grade = grade_of(made, ADD, TRUTHS["call"])
    except (RlvrError, ValueError) as error:
        if "a program inside" in str(error) or offers(request.param):
            raise
        pytest.skip(f"{request.param}: {error}")
    assert isinstance(grade, Grade), grade
    assert grade.verdict is Verdict.CORRECT, grade
    yield made
    made.close()


def grade_of(code: Code, reply: str, truth: Any) -> Grade | Ungraded:
    posed = task("q", dict(truth))
    return code.grade(posed, rollout(reply, of=posed))


def verdict_on(code: Code, world: World, program: Program, truth: str, *, prompt_s: float = PROMPT) -> list[str]:
    """Say what is wrong with the grade that one program gets against one truth."""
    meant = truth_of(program, truth)
    for source in program.before:
        grade_of(code, world.fill(source), meant)
    started = time.monotonic()
    grade = grade_of(code, world.fill(program.source), meant)
    seconds = time.monotonic() - started
    found = []
    if not isinstance(grade, Grade):
        found.append(f"left ungraded: {grade.reason}")
    elif grade.verdict is not Verdict.WRONG or grade.score != 0.0:
        found.append(f"judged {grade.verdict} with {grade.score}, though {program.why}")
    if seconds > program.timeout_s + prompt_s:
        found.append(f"decided after {seconds:.1f} s, the limit being {program.timeout_s} s")
    if world.secret in repr(grade):
        found.append("the grade holds the secret")
    honest = grade_of(code, ADD, {**TRUTHS["call"], "timeout_s": 10.0})
    if not isinstance(honest, Grade) or honest.verdict is not Verdict.CORRECT:
        found.append(f"an honest program after it got {honest}")
    return [f"{program.name} [{truth}]: {line}" for line in found]


def complaints(code: Code, world: World, program: Program, truth: str) -> list[str]:
    """Say what grading one program against one truth did wrong, harm included."""
    found = verdict_on(code, world, program, truth)
    harm = world.harm()
    if harm:
        world.mend()
    return found + [f"{program.name} [{truth}]: {line}" for line in harm]


def unpaid(code: Code, honest: Honest) -> list[str]:
    """Say why an honest program was not paid in full."""
    grade = grade_of(code, honest.reply, honest.truth)
    paid = isinstance(grade, Grade) and (grade.verdict, grade.score) == (Verdict.CORRECT, 1.0)
    return [] if paid else [f"{honest.name}: {grade.why if isinstance(grade, Grade) else grade.reason}"]


@pytest.mark.parametrize("name", QUICK)
def test_hostile_programs_of_each_class_earn_and_harm_nothing(code: Code, world: World, name: str) -> None:
    program = NAMES[name]
    assert complaints(code, world, program, program.truths[0]) == []


@pytest.mark.e2e
@pytest.mark.parametrize("kind", CLASSES)
def test_a_whole_class_at_once_earns_and_harms_nothing(code: Code, world: World, kind: str) -> None:
    chosen = [program for program in ALL if program.kind == kind]
    with ThreadPoolExecutor(AT_ONCE) as threads:
        judged = threads.map(lambda p: verdict_on(code, world, p, p.truths[0], prompt_s=2 * AT_ONCE), chosen)
        found = [line for lines in judged for line in lines]
    harm = world.harm()
    world.mend()
    assert found + harm == []


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("program", ALL, ids=lambda p: f"{p.kind}-{p.name}")
def test_each_program_alone_against_every_kind_of_test(code: Code, world: World, program: Program) -> None:
    assert [line for truth in program.truths for line in complaints(code, world, program, truth)] == []


@pytest.mark.parametrize("name", QUICK_HONEST)
def test_honest_programs_are_paid(code: Code, name: str) -> None:
    (honest,) = (h for h in HONEST if h.name == name)
    assert unpaid(code, honest) == []


@pytest.mark.e2e
def test_all_honest_programs_are_paid(code: Code) -> None:
    with ThreadPoolExecutor(2) as threads:
        assert [line for lines in threads.map(lambda h: unpaid(code, h), HONEST) for line in lines] == []


@pytest.mark.e2e
def test_the_truths_of_honest_programs_pay_nothing_else(code: Code) -> None:
    grades = {h.name: grade_of(code, "def f(*a):\n    return 'other'\nprint('other')", h.truth) for h in HONEST}
    paid = [
        name for name, grade in grades.items() if not isinstance(grade, Grade) or grade.verdict is not Verdict.WRONG
    ]
    assert paid == []


def test_nothing_outlives_the_process_that_graded(world: World, tmp_path: Path) -> None:
    script = tmp_path / "grade.py"
    script.write_text(_GRADE)
    names = ("daemon", "child_outlives", "subprocess_sleep", "os_exit")
    cases = [[world.fill(NAMES[name].source), truth_of(NAMES[name], "call")] for name in names] + [
        [ADD, TRUTHS["call"]]
    ]
    before = descendants(os.getpid())
    done = subprocess.run(
        [sys.executable, str(script)], input=json.dumps(cases), capture_output=True, text=True, timeout=60, check=True
    )
    deadline = time.monotonic() + 2
    while (left := descendants(os.getpid()) - before) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert left == set()
    assert done.stdout.split() == ["WRONG"] * len(names) + ["CORRECT"]


@pytest.mark.e2e
def test_the_programs_are_attacks_indeed(world: World, tmp_path: Path) -> None:
    """A harness that trusts the exit status pays these, or is harmed by them; so the suite can fail."""
    tried, hit, tame = Counter(), Counter(), []
    for program in (p for p in ALL if p.naive == "pay"):
        paid = pays(world.fill(program.source), truth_of(program, program.truths[0]), folder=tmp_path)
        harmed = bool(world.harm())
        world.mend()
        tried[program.kind] += 1
        hit[program.kind] += paid or harmed
        if not (paid or harmed):
            tame.append(program.name)
    print({kind: f"{hit[kind]} of {tried[kind]}" for kind in CLASSES if tried[kind]})
    assert tame == []
    assert sum(hit.values()) >= 90, "too few attacks to say that the suite can fail"


def test_the_suite_is_as_large_as_it_says() -> None:
    kinds = Counter(program.kind for program in ALL)
    assert len(ALL) == len(NAMES) >= 120
    assert set(kinds) == set(CLASSES)
    assert min(kinds.values()) >= 8
    assert len({(program.source, program.before) for program in ALL}) == len(ALL)
    assert {name for program in ALL for name in program.truths} == set(TRUTHS)
