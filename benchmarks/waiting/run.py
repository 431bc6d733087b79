"""Train the same recipe in step with its rollouts and asynchronously, and compare speed and accuracy.

python benchmarks/waiting/run.py [--seeds 0 1 2] [--staleness 2]      results: benchmarks/results/waiting.json

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
from pathlib import Path
from typing import Any

import numpy as np

from rlvr.observe.metrics import read_lines, write_json

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "results" / "waiting.json"
RUNS = Path("runs/waiting")
RLVR = Path(sys.executable).with_name("rlvr")
WARM = 3  # steps at the start that are not timed: queues fill up
Z = 1.959964


def run(seed: int, staleness: int) -> Path:
    """Train once, unless the run is there, and give its folder."""
    folder = RUNS / f"staleness-{staleness}-seed-{seed}"
    if not (folder / "summary.json").is_file():
        changes = [f"seed={seed}", f"rollout.max_staleness={staleness}"]
        command = [
            RLVR,
            "train",
            HERE / "session.toml",
            "--run-dir",
            folder,
            *(p for c in changes for p in ("--set", c)),
        ]
        paths = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH", "")]))
        subprocess.run(command, check=True, env=os.environ | {"PYTHONPATH": paths})
    return folder


def speed(folder: Path) -> dict[str, float]:
    """Give samples a second and what a step spent, over the steps after the first few."""
    lines = read_lines(folder / "metrics.jsonl")[WARM:]
    seconds = sum(line["seconds"]["step"] for line in lines)
    found = {"samples_per_s": sum(line["rollouts"] for line in lines) / seconds, "step_s": seconds / len(lines)}
    for name in ("staleness", "push_stall", "mismatch"):
        values = [line[name] for line in lines if line.get(name) is not None]
        found |= {name: statistics.fmean(values)} if values else {}
    return {name: round(value, 4) for name, value in found.items()}


def right(folder: Path, name: str) -> dict[str, bool]:
    """Give for each held-out task whether its reply was right."""
    lines = map(json.loads, (folder / name).read_text().splitlines())
    return {line["task_id"]: line["verdict"] == "CORRECT" for line in lines}


def compare(pairs: list[tuple[Path, Path]]) -> dict[str, Any]:
    """Give the difference of final accuracy, asynchronous minus in step, in points with its 95 % interval.

    A held-out task counts with its mean difference over the seeds, so that the interval is over tasks (a paired z
    interval); the spread over seeds stands beside it.
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
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--staleness", type=int, default=2)
    options = parser.parse_args()
    pairs, rows = [], []
    for seed in options.seeds:
        pair = run(seed, 0), run(seed, options.staleness)
        pairs.append(pair)
        accuracies = [json.loads((folder / "summary.json").read_text()) for folder in pair]
        speeds = [speed(folder) for folder in pair]
        rows.append({
            "seed": seed, "in_step": speeds[0], "asynchronous": speeds[1],
            "ratio": round(speeds[1]["samples_per_s"] / speeds[0]["samples_per_s"], 2),
            "before": accuracies[0]["eval_before"], "after_in_step": accuracies[0]["eval_after"],
            "after_asynchronous": accuracies[1]["eval_after"],
        })  # fmt: skip
        found = {"staleness": options.staleness, "runs": rows, "difference": compare(pairs)}
        write_json(RESULTS, found)
        print(json.dumps({"seed": seed, "ratio": rows[-1]["ratio"], "difference": found["difference"]}), flush=True)


if __name__ == "__main__":
    main()
