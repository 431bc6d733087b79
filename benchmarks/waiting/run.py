"""Train the same recipe in step with its rollouts and asynchronously, and compare speed and accuracy.

python benchmarks/waiting/run.py [--timed 0 --untimed 1 2] [--staleness 3]    results: benchmarks/results/waiting.json

The environment has three turns, and its tool takes an exponential time, mean 2 s, over each reply. In step means
rollout.max_staleness = 0: all rollouts of a step wait for their tools at the same time, and the step for the last.
A run whose folder below runs/waiting is complete is not run again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rlvr.observe.metrics import read_lines, write_json

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "results" / "waiting.json"
RUNS = Path("runs/waiting")
RLVR = Path(sys.executable).with_name("rlvr")
WARM = 3  # steps at the start that `speed` leaves out: queues fill up
Z = 1.959964


def train(seeds: Sequence[int], staleness: int, *, timed: bool) -> list[Path]:
    """Train each seed once, at the same time, unless its run is there, and give their folders."""
    folders = [RUNS / f"{'alone' if timed else 'together'}-staleness-{staleness}-seed-{seed}" for seed in seeds]
    paths = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH", "")]))
    running = [
        subprocess.Popen(
            [RLVR, "train", HERE / "session.toml", "--run-dir", folder,
             "--set", f"seed={seed}", "--set", f"rollout.max_staleness={staleness}"],
            env=os.environ | {"PYTHONPATH": paths},
        )
        for seed, folder in zip(seeds, folders, strict=True)
        if not (folder / "summary.json").is_file()
    ]  # fmt: skip
    ends = [process.wait() for process in running]
    if any(ends):
        raise SystemExit("a run failed; what it said stands above")
    return folders


def speed(folder: Path, *, staleness: int) -> dict[str, float]:
    """Give samples a second over all steps, and without those in which queues fill up or run empty, and more."""
    lines = read_lines(folder / "metrics.jsonl")
    steady = lines[WARM : -staleness - 1]
    seconds = {
        name: sum(line["seconds"]["step"] for line in part) for name, part in (("all", lines), ("steady", steady))
    }
    found = {
        "samples_per_s": sum(line["rollouts"] for line in lines) / seconds["all"],
        "steady_samples_per_s": sum(line["rollouts"] for line in steady) / seconds["steady"],
        "step_s": seconds["all"] / len(lines),
    }
    for name in ("staleness", "push_stall", "mismatch"):
        values = [line[name] for line in lines if line.get(name) is not None]
        found |= {name: statistics.fmean(values)} if values else {}
    return {name: round(value, 4) for name, value in found.items()}


def row(seed: int, pair: Sequence[Path], *, staleness: int, timed: bool) -> dict[str, Any]:
    """Give what a seed's two runs came to, their speeds only where each had the machine for itself."""
    step, stream = (json.loads((folder / "summary.json").read_text()) for folder in pair)
    found = {
        "seed": seed, "before": step["eval_before"], "after_in_step": step["eval_after"],
        "after_asynchronous": stream["eval_after"],
    }  # fmt: skip
    if timed:
        in_step, asynchronous = (speed(folder, staleness=staleness) for folder in pair)
        found |= {"in_step": in_step, "asynchronous": asynchronous}
        for name in ("samples_per_s", "steady_samples_per_s"):
            found[f"ratio_{name}"] = round(asynchronous[name] / in_step[name], 2)
    return found


def right(folder: Path, name: str) -> dict[str, bool]:
    """Give for each held-out task whether its reply was right."""
    lines = map(json.loads, (folder / name).read_text().splitlines())
    return {line["task_id"]: line["verdict"] == "CORRECT" for line in lines}


def compare(pairs: Sequence[Sequence[Path]]) -> dict[str, Any]:
    """Give the difference of final accuracy, asynchronous minus in step, in points with its 95 % interval.

    A held-out task counts with its mean difference over the seeds, so that the interval is over tasks (a paired z
    interval); the spread over seeds stands beside it. Questions repeat among tasks, which the interval does not see.
    """
    finals = [(right(step, "eval_after.jsonl"), right(stream, "eval_after.jsonl")) for step, stream in pairs]
    tasks = sorted(finals[0][0])
    per_seed = np.array([[int(b[t]) - int(a[t]) for t in tasks] for a, b in finals]) * 100.0
    means = per_seed.mean(axis=0)
    half = Z * means.std(ddof=1) / np.sqrt(len(means))
    return {
        "points": round(float(means.mean()), 2), "low": round(float(means.mean() - half), 2),
        "high": round(float(means.mean() + half), 2), "tasks": len(tasks), "seeds": len(pairs),
        "by_seed": [round(float(row.mean()), 2) for row in per_seed],
    }  # fmt: skip


def main() -> None:
    """Run what is missing and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--timed", type=int, nargs="*", default=[0, 1, 2], help="seeds trained one after the other")
    parser.add_argument("--untimed", type=int, nargs="*", default=[], help="seeds trained at once, for accuracy only")
    parser.add_argument("--staleness", type=int, default=3)
    options = parser.parse_args()
    if twice := set(options.timed) & set(options.untimed):
        parser.error(f"seed {min(twice)} is to be timed and not to be timed")
    pairs, rows = [], []
    for seeds in filter(None, [*([seed] for seed in options.timed), options.untimed]):
        timed = seeds[0] in options.timed
        folders = [train(seeds, staleness, timed=timed) for staleness in (0, options.staleness)]
        for seed, *pair in zip(seeds, *folders, strict=True):
            rows.append(row(seed, pair, staleness=options.staleness, timed=timed))
            pairs.append(pair)
        found = {"staleness": options.staleness, "runs": rows, "difference": compare(pairs)}
        write_json(RESULTS, found)
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
