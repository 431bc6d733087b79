"""Measure the mathematics grader: agreement with labelled cases, golds against themselves, and speed.

    python benchmarks/math_grader.py --cases FILE [--golds FILE...] [--list] [--speed]

A case is a JSON line with pred, gold, expected and kind; a bare answer (kind "equivalence") is handed over in a box. A
file of golds is JSON lines or a JSON list with an "answer" each; each is judged in a box and in a sentence.
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import time
from pathlib import Path
from typing import Any

from rlvr.testing import rollout, task
from rlvr.types import Grade
from rlvr_rewards.math import Math


def verdict(reply: str, truth: object, *, times: list[float]) -> str:
    """Give the verdict's name, or UNGRADED, and note the time it took."""
    posed = task("q", truth)
    reply_rollout = rollout(reply, of=posed)
    started = time.perf_counter()
    grade = Math().grade(posed, reply_rollout)
    times.append(time.perf_counter() - started)
    return str(grade.verdict) if isinstance(grade, Grade) else "UNGRADED"


def cases(path: Path, *, listed: bool) -> None:
    """Print agreement by kind, false positives first."""
    totals: dict[tuple[str, bool], list[int]] = collections.defaultdict(lambda: [0, 0])
    missed: dict[bool, list[str]] = {True: [], False: []}
    times: list[float] = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        case = json.loads(line)
        reply = f"\\boxed{{{case['pred']}}}" if case["kind"] == "equivalence" else case["pred"]
        said = verdict(reply, case["gold"], times=times)
        total = totals[case["kind"], case["expected"]]
        total[0] += (said == "CORRECT") is case["expected"]
        total[1] += 1
        if (said == "CORRECT") is not case["expected"]:
            text = f"line {number} {case['kind']}: {said}, pred {case['pred'][-100:]!r}, gold {case['gold'][-80:]!r}"
            missed[said == "CORRECT"].append(text)
    for kind in sorted({kind for kind, _ in totals}):
        right, wrong = totals[kind, True], totals[kind, False]
        share = 100 * (right[0] + wrong[0]) / (right[1] + wrong[1])
        print(f"{kind}: {share:.1f} % ({right[0]}/{right[1]} right answers paid, {wrong[0]}/{wrong[1]} wrong ones not)")
    report(times)
    if listed:
        print("\nfalse positives:", *(missed[True] or ["none"]), sep="\n  ")
        print("\nfalse negatives:", *(missed[False] or ["none"]), sep="\n  ")


def golds(path: Path, *, listed: bool) -> None:
    """Print how many golds are right against themselves."""
    times: list[float] = []
    for form in ("\\boxed{%s}", "So we conclude. The answer is $%s$."):
        failed = []
        answers = [row["answer"] for row in rows(path) if row["answer"] is not None]
        for answer in answers:
            inner = answer.rpartition("####")[2].strip()
            said = verdict(form % inner, answer, times=times)
            if said != "CORRECT":
                failed.append(f"{said} {inner!r}")
        print(f"{path.name} {form!r}: {len(answers) - len(failed)}/{len(answers)}")
        if listed:
            print(*failed, sep="\n")
    report(times)


def rows(path: Path) -> list[dict[str, Any]]:
    """Read JSON lines or a JSON list."""
    text = path.read_text()
    loaded: list[dict[str, Any]] = (
        json.loads(text) if text.startswith("[") else [json.loads(li) for li in text.splitlines()]
    )
    return loaded


def report(times: list[float]) -> None:
    """Print how long verdicts took."""
    ordered = sorted(times)
    middle, high = ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.99)]
    print(
        f"  {len(ordered)} verdicts, {sum(ordered):.2f} s, median {middle * 1e6:.0f} us, 99 % {high * 1e3:.2f} ms, "
        f"slowest {ordered[-1] * 1e3:.0f} ms"
    )


def speed(count: int = 10_000) -> None:
    """Time ordinary verdicts: arithmetic, school problems and expressions, a third of each, half of them wrong."""
    draw = random.Random(0)
    filler = "First we add what was given in the problem, then we look at the rest of it with some care. " * 3
    work = []
    for n in range(count):
        a, b, wrong = draw.randint(1, 99), draw.randint(1, 99), n % 2
        kind = n % 3
        if kind == 0:
            work.append((f"{filler}{a} + {b} = {a + b}\nAnswer: {a + b + wrong}", str(a + b)))
        elif kind == 1:
            work.append(
                (
                    f"{filler}She pays {a} x {b} = ${a * b + wrong}. So she pays {a * b + wrong} dollars in all.",
                    str(a * b),
                )
            )
        else:
            gold = draw.choice(
                [
                    f"\\frac{{{a}}}{{{b}}}",
                    f"{a}x^2+{b}x-1",
                    f"{a}\\sqrt{{{b}}}",
                    f"({a},{b})",
                    f"[{a}, \\infty)",
                    f"{a}+{b}i",
                    f"\\sin({a}x)+{b}",
                ]
            )
            said = (
                gold.replace(str(a), str(a + 1), 1)
                if wrong
                else draw.choice([gold, gold.replace("frac", "dfrac"), f"{gold} + 0" if "," not in gold else gold])
            )
            work.append((f"{filler}Therefore the result is \\(\\boxed{{{said}}}\\).", gold))
    Math().warm_up()
    times: list[float] = []
    started, used = time.perf_counter(), time.process_time()
    for reply, truth in work:
        verdict(reply, truth, times=times)
    wall, cpu = time.perf_counter() - started, time.process_time() - used
    print(f"speed: {count} ordinary verdicts in {wall:.2f} s, {cpu:.2f} s of them on the CPU without the worker")
    report(times)


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=Path)
    parser.add_argument("--golds", type=Path, nargs="*", default=[])
    parser.add_argument("--list", action="store_true", help="print every disagreement")
    parser.add_argument("--speed", action="store_true")
    options = parser.parse_args()
    Math().warm_up()
    if options.cases:
        cases(options.cases, listed=options.list)
    for path in options.golds:
        golds(path, listed=options.list)
    if options.speed:
        speed()


if __name__ == "__main__":
    main()
