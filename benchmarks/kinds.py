"""Train every preset and every kind of adapter on one small task, and say which of them learned.

python benchmarks/kinds.py [NAME...]      runs what has no result yet; results lie in benchmarks/results/kinds.json

A kind learned where the mean reward of its last five steps is above that of its first five. Its folder below
runs/kinds holds the run; a kind that is there already is not run again, so that the command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from rlvr.observe.metrics import read_lines, write_json

RECIPE = Path(__file__).with_name("kinds.toml")
RESULTS = Path(__file__).parent / "results" / "kinds.json"
RUNS = Path("runs/kinds")
RLVR = Path(sys.executable).with_name("rlvr")
EDGE = 5  # steps at either end that are compared

# What differs from kinds.toml. Learning rates were chosen by a few steps of each, once, and not searched.
PRESETS: dict[str, list[str]] = {
    "grpo": [],
    "dr_grpo": [],
    "dapo": [],
    "gspo": [],
    "cispo": [],
    "rloo": ["algorithm.learning_rate=1e-5"],
    "reinforce++": [],
    "reinforce++_baseline": [],
    "ppo": ["critic.learning_rate=3e-5", "algorithm.minibatches=2"],
    # 50 steps of critic alone and an alpha for long replies do not fit 12 steps of 15 tokens
    "vapo": [
        "critic.learning_rate=3e-5",
        "algorithm.minibatches=2",
        "critic.warmup_steps=2",
        "algorithm.decay_length_factor=1.0",
    ],
}
ADAPTERS: dict[str, list[str]] = {
    "lora": ["algorithm.learning_rate=5e-4"],
    "rslora": ["algorithm.learning_rate=1e-4"],  # its scale is four times that of LoRA at rank 16
    "dora": ["algorithm.learning_rate=5e-4"],
    "vera": ["algorithm.learning_rate=5e-3"],
    "pissa": ["algorithm.learning_rate=1e-5"],
    "loftq": ["algorithm.learning_rate=2e-4"],
    "lora+": ["algorithm.learning_rate=3e-5"],
    "adalora": ["algorithm.learning_rate=2e-3"],
}
KINDS = {name: [f'algorithm.preset="{name}"', *more] for name, more in PRESETS.items()}
KINDS |= {name: [f'adapter.kind="{name}"', *more] for name, more in ADAPTERS.items()}


def run(name: str) -> dict[str, Any]:
    """Train one kind, unless its run is over, and sum it up."""
    folder = RUNS / name
    if not (folder / "summary.json").is_file():
        overrides = [part for one in KINDS[name] for part in ("--set", one)]
        command = [str(RLVR), "train", str(RECIPE), "--run-dir", str(folder), *overrides]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            return {"failed": (done.stderr or done.stdout).strip().splitlines()[-1]}
    return summed_up(read_lines(folder / "metrics.jsonl"), json.loads((folder / "summary.json").read_text()))


def summed_up(lines: list[dict[str, Any]], summary: dict[str, Any]) -> dict[str, Any]:
    """Give what the table says of a run."""
    rewards = [line["reward"] for line in lines]
    first, last = statistics.fmean(rewards[:EDGE]), statistics.fmean(rewards[-EDGE:])
    return {
        "learned": last > first, "reward_first": round(first, 3), "reward_last": round(last, 3), "steps": len(lines),
        "seconds": summary["seconds"],
        "seconds_per_step": round(statistics.median(line["seconds"]["step"] for line in lines), 2),
        "seconds_per_learn": round(statistics.median(line["seconds"]["learn"] for line in lines), 2),
        "learner_peak_gb": round(max(line["learner_peak_gb"] for line in lines), 2),
        "before": summary["eval_before"], "after": summary["eval_after"], "gain": summary.get("gain"),
    }  # fmt: skip


def main() -> None:
    """Run the table and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[[], *KINDS], metavar="NAME", help="all, if none is given")
    names = parser.parse_args().names or list(KINDS)
    known = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    for name in names:
        known[name] = run(name)
        write_json(RESULTS, {kind: known[kind] for kind in KINDS if kind in known})
        found = known[name]
        said = (
            found.get("failed")
            or f"{found['reward_first']:.3f} -> {found['reward_last']:.3f}, {found['seconds']:.0f} s"
        )
        print(f"{name:<22}{said}", flush=True)


if __name__ == "__main__":
    main()
