"""Grade for long with faults injected, then look for what was left behind: processes, descriptors, memory, files.

python benchmarks/soak.py --math 100000 --programs 5000 --faults
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import os
import random
import re
import resource
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "rewards"))
from hostile import TRUTHS, programs
from hostile.world import descendants, marked_processes, subreaper

from rlvr.rollout.grading import GradingPool, RewardSpec
from rlvr.testing import rollout, task
from rlvr.types import Grade

_AT_ONCE = 64  # replies that wait at the same time
_GROWTH_MB = 32.0  # what this process may grow by, the allocator's slack included


class Case(NamedTuple):
    """A reply, its truth, and what it is: honest, wrong or hostile."""

    kind: str
    reply: str
    truth: Any


class Held(NamedTuple):
    """What this process and its descendants hold."""

    processes: int
    descriptors: int
    memory_mb: float
    files: int


def mathematics(count: int) -> Iterator[Case]:
    """Yield replies to mathematics: right ones in several forms, wrong ones, and some made to hang a parser."""
    rng = random.Random(0)
    hostile = (
        "\\boxed{9^{9^{9^{9}}}}",
        "\\boxed{" * 5000,
        "\\boxed{" + "(" * 3000 + ")" * 3000 + "}",
        "\\boxed{10^{10^{10}}!}",
        "Answer: " + "\\frac{1}{" * 500 + "2" + "}" * 500,
        "\\boxed{\\sum_{i=1}^{10^{12}} \\sin(i)}",
        "\ud800\x00" * 100,
    )
    for _ in range(count):
        a, b = rng.randint(2, 999), rng.randint(2, 99)
        right = rng.choice((f"\\boxed{{{a * b}}}", f"Answer: {a * b}", f"so ${a * b}$.", f"\\boxed{{{a * b}.0}}"))
        surd = f"{a}\\sqrt{{{b}}}"
        yield rng.choices(
            (
                Case("honest", right, str(a * b)),
                Case("honest", f"\\boxed{{\\sqrt{{{b}}} \\cdot {a}}}", surd),
                Case("wrong", f"\\boxed{{{a * b + 1}}}", str(a * b)),
                Case("hostile", rng.choice(hostile), rng.choice((str(a * b), surd))),
            ),
            weights=(70, 5, 20, 5),
        )[0]


def code(count: int) -> Iterator[Case]:
    """Yield programs: right ones, wrong ones, and one hostile in ten, whose marks need no canaries."""
    rng = random.Random(0)
    hostile = [p for p in programs() if not p.before and not re.search(r"@[A-Z]+@", p.source)]
    for number in range(count):
        kind = rng.choices(("honest", "wrong", "hostile"), weights=(70, 20, 10))[0]
        if kind == "hostile":
            program = rng.choice(hostile)
            yield Case(kind, program.source, {**TRUTHS[rng.choice(program.truths)], "timeout_s": 1.0})
        else:
            source = f"def f(x):\n    return x + {3 if kind == 'honest' else 4}  # {number}"
            yield Case(kind, source, TRUTHS[rng.choice(("call", "call", "assert", "check"))])


class Faults(threading.Thread):
    """Kill a descendant, chosen by chance, every so often."""

    def __init__(self, every_s: float) -> None:
        super().__init__(daemon=True)
        self._every_s, self._over, self.kills = every_s, threading.Event(), 0

    def run(self) -> None:
        """Kill until `stop`."""
        rng = random.Random(0)
        while not self._over.wait(self._every_s):
            below = sorted(descendants(os.getpid()))
            if below:
                with suppress(OSError):
                    os.kill(rng.choice(below), signal.SIGKILL)
                    self.kills += 1

    def stop(self) -> None:
        """End the faults."""
        self._over.set()
        self.join()


async def grade(pool: GradingPool, cases: Iterator[Case]) -> Counter[tuple[str, str]]:
    """Grade all cases. Gives how often each kind got each verdict."""
    found: Counter[tuple[str, str]] = Counter()
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(case: Case) -> None:
        try:
            posed = task("q", case.truth)
            judged = await pool.grade(posed, rollout(case.reply, of=posed))
            found[case.kind, str(judged.verdict) if isinstance(judged, Grade) else "UNGRADED"] += 1
        finally:
            gate.release()

    async with asyncio.TaskGroup() as group:
        for case in cases:
            await gate.acquire()
            group.create_task(one(case))
    return found


def held() -> Held:
    """Count what is held now. Freed memory is given back first, or replies of megabytes would look like growth."""
    ctypes.CDLL(None).malloc_trim(0)
    own = Path("/proc/self/statm").read_text().split()
    memory = int(own[1]) * resource.getpagesize() / 2**20
    shared = [name for name in os.listdir("/dev/shm") if name.startswith("rlvr-jail")]
    files = sum(len(names) + len(folders) for _, folders, names in os.walk(tempfile.gettempdir()))
    return Held(len(descendants(os.getpid())), len(os.listdir("/proc/self/fd")), memory, files + len(shared))


def soak(reward: str, options: dict[str, Any], cases: Iterator[Case], *, faults_s: float) -> list[str]:
    """Grade by one reward, print the figures, and give what is wrong, a sentence each."""
    before = _first_use(reward, options)
    pool = GradingPool([RewardSpec(name=reward, options=options)], processes=2)
    pool.start()
    faults = Faults(faults_s) if faults_s else None
    started = time.perf_counter()
    if faults:
        faults.start()
    found = asyncio.run(grade(pool, cases))
    seconds = time.perf_counter() - started
    if faults:
        faults.stop()
    pool.close()
    after = _settled(before)
    total, kills = sum(found.values()), faults.kills if faults else 0
    pace = total / max(seconds, 1e-9)
    print(f"{reward}: {total} graded in {seconds:.1f} s ({pace:.0f}/s), {kills} kills, {pool.lost} lost")
    print(f"{reward}: " + ", ".join(f"{kind} {verdict} {n}" for (kind, verdict), n in sorted(found.items())))
    print(f"{reward}: before {before}, after {after}")
    return [f"{reward}: {line}" for line in _findings(found, before, after, kills=kills)]


def _first_use(reward: str, options: dict[str, Any]) -> Held:
    """Start, use and close a pool, so that what a first use loads for good is no growth."""
    pool = GradingPool([RewardSpec(name=reward, options=options)], processes=2)
    pool.start()
    asyncio.run(grade(pool, mathematics(8) if reward == "math" else code(8)))
    pool.close()
    return _settled(Held(0, 64, 0.0, 0))


def _settled(before: Held) -> Held:
    """Give what is held once killed processes are collected and their pipes read to the end, within five seconds."""
    deadline = time.monotonic() + 5
    while (now := held())[:2] > before[:2] and time.monotonic() < deadline:
        time.sleep(0.1)
    return now


def _findings(found: Counter[tuple[str, str]], before: Held, after: Held, *, kills: int) -> Iterator[str]:
    for (kind, verdict), n in found.items():
        if verdict in (("WRONG", "ABSTAINED") if kind == "honest" else ("CORRECT",)):
            yield f"{n} {kind} replies were judged {verdict}"
    ungraded = sum(n for (_, verdict), n in found.items() if verdict == "UNGRADED")
    if ungraded > 4 * kills:
        yield f"{ungraded} replies went ungraded after {kills} kills"
    for name, was, now in zip(Held._fields, before, after, strict=True):
        if now > was + (_GROWTH_MB if name == "memory_mb" else 0):
            yield f"{name} grew from {was:g} to {now:g}"
    if pids := marked_processes():
        yield f"hostile processes are left: {pids}"


def main() -> int:
    """Run what the arguments ask for. Gives 1 where something was left behind or judged as it should not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--math", type=int, default=0, help="mathematics replies")
    parser.add_argument("--programs", type=int, default=0, help="programs, one in ten hostile")
    parser.add_argument("--faults", action="store_true", help="kill processes below this one by chance")
    parser.add_argument("--every", type=float, default=2.0, help="seconds between two kills")
    parser.add_argument("--isolation", default="auto", help="isolation of the programs")
    arguments = parser.parse_args()
    findings = []
    with tempfile.TemporaryDirectory() as folder, subreaper():
        os.environ["TMPDIR"] = tempfile.tempdir = folder
        faults_s = arguments.every if arguments.faults else 0.0
        if arguments.math:
            findings += soak("math", {}, mathematics(arguments.math), faults_s=faults_s)
        if arguments.programs:
            options = {"isolation": arguments.isolation}
            findings += soak("code", options, code(arguments.programs), faults_s=faults_s)
    print("\n".join(findings) or "nothing was left behind")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
