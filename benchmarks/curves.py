"""Plot the training reward of runs and print their results as a Markdown table.

python benchmarks/curves.py RUN... --out docs/images/quickstart.svg
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rlvr.observe.metrics import read_lines

PHASES = ("rollout", "learn", "push", "step")
WINDOW = 5
COLOURS = ("#2563eb", "#d97706", "#059669", "#9333ea", "#dc2626", "#0891b2")


class Run(NamedTuple):
    """What a run directory says."""

    name: str
    seed: int
    lines: list[dict[str, Any]]
    summary: dict[str, Any]


def read(folder: Path) -> Run:
    """Read a run that is over. Errors: SystemExit names what is missing."""
    missing = [name for name in ("config.json", "metrics.jsonl", "summary.json") if not (folder / name).is_file()]
    if missing:
        sys.exit(f"{folder} has no {missing[0]}: give run directories of runs that are over")
    config, summary = (json.loads((folder / f"{name}.json").read_text()) for name in ("config", "summary"))
    return Run(folder.name, config["seed"], read_lines(folder / "metrics.jsonl"), summary)


def smoothed(values: Sequence[float], *, window: int = WINDOW) -> NDArray[np.float64]:
    """Give the mean of the `window` values around each; fewer at the ends. Unknown values are NaN and left out."""
    known = np.array(values, dtype=np.float64)
    half = window // 2
    return np.array([np.nanmean(known[max(0, i - half) : i + half + 1]) for i in range(len(known))])


def table(runs: Sequence[Run]) -> str:
    """Give one row a run, and their means."""
    seconds = " | ".join(f"{phase} s" for phase in PHASES)
    head = f"| run | seed | before [95 %] | after [95 %] | gain, points [95 %] | minutes | {seconds} |"
    rule = "|---|---|---|---|---|" + "---:|" * (1 + len(PHASES))
    rows = [_row(run) for run in runs]
    return "\n".join([head, rule, *rows, *([_mean_row(runs)] if len(runs) > 1 else [])])


def plot(runs: Sequence[Run], out: Path) -> None:
    """Draw the reward of each run by step: faint as it was, strong as a moving mean."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams |= {"svg.hashsalt": "rlvr", "font.size": 10}
    figure, axes = plt.subplots(figsize=(7.5, 3.6), layout="constrained")
    figure.patch.set_facecolor("white")
    for place, run in enumerate(runs):
        colour = COLOURS[place % len(COLOURS)]
        steps = [line["step"] for line in run.lines]
        rewards = [np.nan if line.get("reward") is None else line["reward"] for line in run.lines]
        axes.plot(steps, rewards, color=colour, alpha=0.25, linewidth=1)
        axes.plot(steps, smoothed(rewards), color=colour, linewidth=2, label=f"seed {run.seed}")
    axes.set(xlabel="step", ylabel="mean reward", title="Training reward")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower right")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, metadata={"Date": None})  # the same runs give the same bytes
    plt.close(figure)


def _row(run: Run) -> str:
    gain = run.summary["gain"]
    cells = [
        run.name,
        str(run.seed),
        *(_accuracy(run.summary[name]) for name in ("eval_before", "eval_after")),
        f"{gain['points']:+.1f} [{gain['low']:+.1f}, {gain['high']:+.1f}]",
        f"{run.summary['seconds'] / 60:.1f}",
        *(f"{_seconds(run, phase):.1f}" for phase in PHASES),
    ]
    return f"| {' | '.join(cells)} |"


def _mean_row(runs: Sequence[Run]) -> str:
    before, after = (np.mean([run.summary[f"eval_{name}"]["accuracy"] for run in runs]) for name in ("before", "after"))
    gain = np.mean([run.summary["gain"]["points"] for run in runs])
    minutes = np.mean([run.summary["seconds"] for run in runs]) / 60
    seconds = [f"{np.mean([_seconds(run, phase) for run in runs]):.1f}" for phase in PHASES]
    cells = ["mean", "", f"{100 * before:.1f} %", f"{100 * after:.1f} %", f"{gain:+.1f}", f"{minutes:.1f}", *seconds]
    return f"| {' | '.join(cells)} |"


def _accuracy(found: dict[str, float]) -> str:
    return f"{100 * found['accuracy']:.1f} % [{100 * found['low']:.1f}, {100 * found['high']:.1f}]"


def _seconds(run: Run, phase: str) -> float:
    return float(np.mean([line["seconds"][phase] for line in run.lines if phase in line["seconds"]]))


def main() -> None:
    """Read the command line, draw, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="a run directory")
    parser.add_argument("--out", required=True, type=Path, help="where the figure is written; .svg, .png or .pdf")
    arguments = parser.parse_args()
    runs = [read(folder) for folder in arguments.runs]
    plot(runs, arguments.out)
    print(table(runs))


if __name__ == "__main__":
    main()
