import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlvr.errors import PluginError
from rlvr.rollout.grading import GradingPool, RewardSpec
from rlvr.testing import rollout, task
from rlvr.types import Grade, Ungraded, Verdict

pytestmark = pytest.mark.integration

SOURCE = '''
import ctypes, os, pathlib, subprocess, sys, time
from rlvr.types import Grade, Ungraded, Verdict

class Odd:
    """Does what the reply says."""
    def __init__(self, gold="ok"):
        self._gold = gold
    def gold(self, task):
        return self._gold
    def grade(self, task, rollout):
        what, _, argument = rollout.reply.partition(" ")
        if what == "sleep": time.sleep(float(argument))
        if what == "spin":
            while True: pass
        if what == "segv": ctypes.string_at(0)
        if what == "exit": os._exit(3)
        if what == "memory": bytearray(2 << 30)
        if what == "raise": raise KeyError("no\\nkey")
        if what == "float": return 1.0
        if what == "broken": return Ungraded(boundary="", reason="no data")
        if what == "loud": print("out loud")
        if what == "child":
            child = subprocess.Popen(["sleep", "60"])
            pathlib.Path(argument).write_text(str(child.pid))
            time.sleep(60)
        if what == "pid":
            pathlib.Path(argument).write_text(str(os.getpid()))
            time.sleep(60)
        if what == "modules":
            return Grade(verdict=None, score=0.0, why=" ".join(sys.modules))
        right = what == "ok"
        verdict = Verdict.CORRECT if right else Verdict.WRONG
        return Grade(verdict=verdict, score=float(right), parts={"len": 1}, why=what)

class Length:
    def __init__(self, of=1.0):
        self._of = of
    def grade(self, task, rollout):
        return Grade(verdict=None, score=self._of)

class Heavy:
    def warm_up(self):
        time.sleep(0.8)
        self.warm = True
    def grade(self, task, rollout):
        return Grade(verdict=None, score=float(self.warm))

class Together:
    worst_case_s = 0.3
    def grade(self, task, rollout):
        if rollout.reply == "sleep": time.sleep(60)
        if rollout.reply == "bad": raise ValueError("not a number")
        return Grade(verdict=None, score=-1.0)
    def grade_group(self, task, rollouts):
        if any(r.reply == "sleep" for r in rollouts): time.sleep(60)
        if any(r.reply == "wait" for r in rollouts): time.sleep(5)
        if any(r.reply == "short" for r in rollouts): return []
        if any(r.reply == "bad" for r in rollouts): raise ValueError("not a number")
        return [Grade(verdict=None, score=float(len(rollouts))) for _ in rollouts]

class Far:
    outside_unit = True
    def grade(self, task, rollout):
        return Grade(verdict=None, score=-1.0)

class Deep:
    def gold(self, task):
        return "ok"
    def grade(self, task, rollout):
        def nest(n): return nest(n + 1)
        if rollout.reply == "deep": nest(0)
        return Grade(verdict=Verdict.CORRECT, score=1.0)

class Dying:
    def __init__(self):
        print("no licence for this host", file=sys.stderr, flush=True)
        os._exit(7)
    def grade(self, task, rollout): ...

class Picky:
    def __init__(self, level):
        if level > 3:
            raise ValueError("level must be at most 3")
    def grade(self, task, rollout): ...
'''
TIMEOUT_S = 0.4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a user's folder with a module of rewards."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "odd.py").write_text(SOURCE)
    return folder


@pytest.fixture(scope="module")
def pool(folder: Path) -> Iterator[GradingPool]:
    """Share two processes that judge by what the reply says."""
    with contextlib.chdir(folder):
        pool = GradingPool([RewardSpec(name="odd:Odd")], processes=2, timeout_s=TIMEOUT_S, memory_mb=256)
        pool.start()
    yield pool
    pool.close()


@contextlib.contextmanager
def opened(*rewards: RewardSpec, folder: Path, timeout_s: float = TIMEOUT_S) -> Iterator[GradingPool]:
    """Open a pool of one process in a folder."""
    with contextlib.chdir(folder), contextlib.closing(GradingPool(rewards, processes=1, timeout_s=timeout_s)) as pool:
        yield pool


def gone(pid: int) -> bool:
    """Wait up to 3 s for a process to end."""
    for _ in range(60):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state in "ZX":
            return True
        time.sleep(0.05)
    return False


async def written(path: Path) -> int:
    """Wait for a process id to appear in a file."""
    for _ in range(200):
        if path.exists() and path.read_text():
            return int(path.read_text())
        await asyncio.sleep(0.01)
    raise AssertionError(f"{path} was not written")


async def test_a_grade_comes_back_whole(pool: GradingPool) -> None:
    grade = await pool.grade(task(), rollout("ok"))
    assert grade == Grade(verdict=Verdict.CORRECT, score=1.0, parts={"odd:Odd": 1.0, "odd:Odd/len": 1.0}, why="ok")


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ("sleep 60", "takes longer than 0.4 s"),
        ("spin", "takes longer than 0.4 s"),
        ("segv", "crashes with SIGSEGV"),
        ("exit", "exits with code 3"),
        ("memory", "runs out of memory"),
    ],
)
async def test_a_reply_that_hurts_the_grader_is_wrong(pool: GradingPool, reply: str, why: str) -> None:
    started = time.monotonic()
    grade = await pool.grade(task(), rollout(reply))
    assert isinstance(grade, Grade)
    assert (grade.verdict, grade.score, grade.parts) == (Verdict.WRONG, 0.0, {"odd:Odd": 0.0})
    assert why in grade.why
    assert time.monotonic() - started < 3.0
    assert isinstance(await pool.grade(task(), rollout("ok")), Grade)


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("raise", "KeyError: 'no\\nkey'"),
        ("float", "grade() gives float, not Grade or Ungraded"),
        ("broken", "no data"),
    ],
)
async def test_a_reward_that_breaks_leaves_the_reply_ungraded(pool: GradingPool, reply: str, reason: str) -> None:
    assert await pool.grade(task(), rollout(reply)) == Ungraded(boundary="reward:odd:Odd", reason=reason)


async def test_without_a_passing_gold_the_fault_is_ours(folder: Path) -> None:
    for gold in ("sleep 60", "bad"):
        with opened(RewardSpec(name="odd:Odd", options={"gold": gold}), folder=folder) as pool:
            answer = await pool.grade(task(), rollout("segv"))
            assert isinstance(answer, Ungraded)
            assert answer.boundary == "grading"
            assert "crashes with SIGSEGV, and the gold does not pass either" in answer.reason


async def test_a_process_killed_from_outside_is_counted_and_replaced(folder: Path, tmp_path: Path) -> None:
    with opened(RewardSpec(name="odd:Odd"), folder=folder, timeout_s=30) as pool:
        waiting = asyncio.create_task(pool.grade(task(), rollout(f"pid {tmp_path / 'pid'}")))
        os.kill(await written(tmp_path / "pid"), signal.SIGKILL)
        assert await waiting == Ungraded(
            boundary="grading", reason="the grading process was killed from outside by SIGKILL"
        )
        assert isinstance(await pool.grade(task(), rollout("ok")), Grade)
        assert pool.lost == 1


async def test_a_process_killed_between_replies_costs_no_reply(folder: Path) -> None:
    with opened(RewardSpec(name="odd:Odd"), folder=folder) as pool:
        pool.start()
        process = pool._all[0]._process
        assert process is not None
        os.kill(process.pid, signal.SIGTERM)
        assert gone(process.pid)
        assert isinstance(await pool.grade(task(), rollout("ok")), Grade)
        assert pool.lost == 1


async def test_cancelling_frees_the_process_in_time(folder: Path, tmp_path: Path) -> None:
    with opened(RewardSpec(name="odd:Odd"), folder=folder) as pool:
        waiting = [
            asyncio.create_task(pool.grade(task(), rollout(f"child {tmp_path / str(index)}"))) for index in range(3)
        ]
        started = await written(tmp_path / "0")
        for one in waiting:
            one.cancel()
        assert all(
            isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(*waiting, return_exceptions=True)
        )
        assert isinstance(await asyncio.wait_for(pool.grade(task(), rollout("ok")), 5.0), Grade)
        assert gone(started), "what a grader starts dies with it"
        assert not (tmp_path / "1").exists(), "a reply that nobody waits for is not judged"


async def test_closing_ends_the_processes_and_those_who_wait(folder: Path, tmp_path: Path) -> None:
    with opened(RewardSpec(name="odd:Odd"), folder=folder, timeout_s=60) as pool:
        waiting = asyncio.create_task(pool.grade(task(), rollout(f"pid {tmp_path / 'pid'}")))
        pid = await written(tmp_path / "pid")
        pool.close()
        assert isinstance(await waiting, Ungraded)
        assert gone(pid)
        pool.close()


async def test_several_rewards_are_one_grade(folder: Path) -> None:
    rewards = [
        RewardSpec(name="odd:Odd", weight=3.0),
        RewardSpec(name="odd:Length", weight=1.0, options={"of": 0.5}),
        RewardSpec(name="rlvr_rewards.math:Math", weight=0.0),
    ]
    with opened(*rewards, folder=folder) as pool:
        grade = await pool.grade(task(), rollout("ok"))
    assert isinstance(grade, Grade)
    assert grade.verdict is Verdict.CORRECT
    assert grade.score == pytest.approx((3 * 1.0 + 0.5) / 4)
    assert grade.parts == {"odd:Odd": 1.0, "odd:Odd/len": 1.0, "odd:Length": 0.5, "rlvr_rewards.math:Math": 0.0,
                           "rlvr_rewards.math:Math/format": 0.0}  # fmt: skip


async def test_a_group_is_judged_in_one_call_where_a_reward_can(folder: Path) -> None:
    rewards = [RewardSpec(name="odd:Together"), RewardSpec(name="odd:Length", weight=0.0)]
    with opened(*rewards, folder=folder, timeout_s=2.0) as pool:
        pool.start()
        grades = await pool.grade_group(task(), [rollout("a"), rollout("b"), rollout("c")])
        assert [grade.score for grade in grades if isinstance(grade, Grade)] == [3.0, 3.0, 3.0]
        assert grades[0] == Grade(verdict=None, score=3.0, parts={"odd:Together": 3.0, "odd:Length": 1.0})
        broken = await pool.grade_group(task(), [rollout("a"), rollout("short")])
        assert (
            broken
            == [Ungraded(boundary="reward:odd:Together", reason="grade_group() gives 0 grades for 2 rollouts")] * 2
        )


async def test_a_reply_that_breaks_a_group_call_is_alone_ungraded(folder: Path) -> None:
    with opened(RewardSpec(name="odd:Together"), folder=folder, timeout_s=2.0) as pool:
        pool.start()
        good, bad = await pool.grade_group(task(), [rollout("a"), rollout("bad")])
    assert good == Grade(verdict=None, score=-1.0, parts={"odd:Together": -1.0})
    assert bad == Ungraded(boundary="reward:odd:Together", reason="ValueError: not a number")


async def test_a_kill_during_a_group_call_is_counted(folder: Path) -> None:
    with opened(RewardSpec(name="odd:Together"), folder=folder, timeout_s=20.0) as pool:
        pool.start()
        waiting = asyncio.create_task(pool.grade_group(task(), [rollout("a"), rollout("wait")]))
        await asyncio.sleep(0.3)
        victim = pool._all[0]._process
        assert victim is not None
        victim.kill()
        grades = await waiting
    assert pool.lost == 1
    assert [grade.score for grade in grades if isinstance(grade, Grade)] == [-1.0, -1.0]


def test_a_score_that_cannot_stand_beside_verdicts_is_refused_at_start(folder: Path) -> None:
    rewards = [RewardSpec(name="odd:Odd"), RewardSpec(name="odd:Far")]
    refused = pytest.raises(PluginError, match=r"reward 'odd:Far' gives scores outside \[0, 1\]")
    with opened(*rewards, folder=folder) as pool, refused:
        pool.start()


async def test_a_reply_that_hangs_its_group_is_found_by_asking_one_by_one(folder: Path) -> None:
    with opened(RewardSpec(name="odd:Together"), folder=folder, timeout_s=0.4) as pool:
        pool.start()
        good, hanging = await pool.grade_group(task(), [rollout("a"), rollout("sleep")])
    assert good == Grade(verdict=None, score=-1.0, parts={"odd:Together": -1.0})
    assert isinstance(hanging, Grade)
    assert hanging.verdict is Verdict.WRONG


def test_a_deadline_below_what_a_reward_may_take_is_refused(folder: Path) -> None:
    refused = pytest.raises(PluginError, match=r"may take 0.3 s .* is 0.2 s: raise rollout.grading_timeout_s")
    with opened(RewardSpec(name="odd:Together"), folder=folder, timeout_s=0.2) as pool, refused:
        pool.start()


async def test_a_reply_that_exhausts_the_stack_is_wrong(folder: Path) -> None:
    with opened(RewardSpec(name="odd:Deep"), folder=folder, timeout_s=5.0) as pool:
        grade = await pool.grade(task(), rollout("deep"))
    assert isinstance(grade, Grade)
    assert grade.verdict is Verdict.WRONG
    assert "runs out of memory" in grade.why


def test_what_a_dying_process_said_is_part_of_the_error(folder: Path) -> None:
    told = pytest.raises(PluginError, match=r"exits with code 7 while it made the rewards.*no licence for this host")
    with opened(RewardSpec(name="odd:Dying"), folder=folder) as pool, told:
        pool.start()


async def test_a_score_outside_the_unit_interval_does_not_go_with_a_verdict(folder: Path) -> None:
    rewards = [RewardSpec(name="odd:Odd"), RewardSpec(name="odd:Length", options={"of": -2.0})]
    with opened(*rewards, folder=folder) as pool:
        answer = await pool.grade(task(), rollout("ok"))
    assert isinstance(answer, Ungraded)
    assert answer.boundary == "reward:odd:Length"
    with opened(RewardSpec(name="odd:Length", options={"of": -2.0}), folder=folder) as pool:
        assert await pool.grade(task(), rollout("ok")) == Grade(verdict=None, score=-2.0, parts={"odd:Length": -2.0})


def test_a_reward_that_cannot_be_made_is_told_at_start(folder: Path) -> None:
    with opened(RewardSpec(name="odd:Picky", options={"level": 9}), folder=folder) as pool:
        with pytest.raises(PluginError, match="reward 'odd:Picky' cannot be made: level must be at most 3"):
            pool.start()
        answer = asyncio.run(pool.grade(task(), rollout("ok")))
        assert isinstance(answer, Ungraded)
        assert "level must be at most 3" in answer.reason


async def test_warming_up_is_not_on_the_clock_of_a_reply(folder: Path) -> None:
    with opened(RewardSpec(name="odd:Heavy"), folder=folder) as pool:
        assert await pool.grade(task(), rollout("ok")) == Grade(verdict=None, score=1.0, parts={"odd:Heavy": 1.0})


async def test_a_grading_process_stays_small_and_alone(pool: GradingPool, capfd: pytest.CaptureFixture[str]) -> None:
    grade = await pool.grade(task(), rollout("modules"))
    assert isinstance(grade, Grade)
    assert not {"torch", "ray", "vllm", "transformers", "sympy", "pydantic"} & set(grade.why.split())
    await pool.grade(task(), rollout("loud"))
    assert capfd.readouterr().out == ""


def test_grading_processes_die_with_their_parent(folder: Path, tmp_path: Path) -> None:
    code = (
        "import asyncio, sys\n"
        "from rlvr.rollout.grading import GradingPool, RewardSpec\n"
        "from rlvr.testing import rollout, task\n"
        "pool = GradingPool([RewardSpec(name='odd:Odd')], processes=1, timeout_s=60)\n"
        "asyncio.run(pool.grade(task(), rollout('pid ' + sys.argv[1])))\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "pid")], cwd=folder)
    pid = asyncio.run(asyncio.wait_for(written(tmp_path / "pid"), 30))
    parent.kill()
    parent.wait()
    assert gone(pid)


@pytest.mark.parametrize(
    ("rewards", "processes", "timeout_s"),
    [
        ([], 1, 1.0),
        ([RewardSpec(name="a"), RewardSpec(name="a")], 1, 1.0),
        ([RewardSpec(name="a", weight=0.0)], 1, 1.0),
        ([RewardSpec(name="a")], 0, 1.0),
        ([RewardSpec(name="a")], 1, 0.0),
    ],
)
def test_a_pool_that_makes_no_sense_is_refused(rewards: list[RewardSpec], processes: int, timeout_s: float) -> None:
    with pytest.raises(ValueError, match="a grading pool needs"):
        GradingPool(rewards, processes=processes, timeout_s=timeout_s)


def test_a_weight_is_a_number_from_zero() -> None:
    with pytest.raises(ValueError, match="must be a number from 0"):
        RewardSpec(name="a", weight=-1.0)
