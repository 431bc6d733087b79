"""Show a run to the person who waits for it: phases, one row a step, results.

On a terminal a progress bar stays below the rows; elsewhere the same rows are plain lines without control codes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from rich.box import ROUNDED
from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from rlvr.core.stats import Interval
from rlvr.types import StepReport

__all__ = ["RunView", "abstention_lines", "clock", "gain_lines", "interval_text", "replay_table", "sparkline"]

UNKNOWN = "–"


class _Column(NamedTuple):
    """A column of the step rows: its heading, how wide it is, and how its cell reads."""

    name: str
    width: int
    cell: Callable[[StepReport], str]
    style: str = ""


def clock(seconds: float) -> str:
    """Say a duration: 42 s, 12.4 min, 3.2 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def interval_text(accuracy: float, low: float, high: float, *, n: int) -> str:
    """Say an accuracy with its interval, from fractions: 35.2 % [31.1, 39.4] of 512."""
    return f"{100 * accuracy:.1f} % [{100 * low:.1f}, {100 * high:.1f}] of {n}"


def sparkline(values: Sequence[float], *, width: int = 40) -> str:
    """Draw finite values as blocks, averaged into at most `width` of them; a constant lies in the middle."""
    known = [value for value in values if math.isfinite(value)]
    count = min(width, len(known))
    edges = [round(i * len(known) / count) for i in range(count + 1)] if count else []
    means = [math.fsum(known[a:b]) / (b - a) for a, b in pairwise(edges)]
    if not means:
        return ""
    low, span = min(means), max(means) - min(means)
    return "".join("▁▂▃▄▅▆▇█"[min(7, int(8 * (m - low) / span)) if span else 3] for m in means)


def _number(name: str, form: str) -> Callable[[StepReport], str]:
    def cell(report: StepReport) -> str:
        value = report.metrics.get(name)
        return UNKNOWN if value is None or not math.isfinite(value) else format(value, form)

    return cell


def _seconds(name: str) -> Callable[[StepReport], str]:
    def cell(report: StepReport) -> str:
        if name not in report.seconds:
            return UNKNOWN
        value = report.seconds[name]
        return f"{value:.1f}s" if value < 99.95 else f"{value:.0f}s"

    return cell


class RunView:
    """Print what happens in a run. Use it as a context manager, so that a failure leaves a clean terminal."""

    def __init__(self, name: str, *, steps: int, console: Console | None = None) -> None:
        self.name, self.steps = name, steps
        self.console = console or Console()
        self.live = self.console.is_terminal and not self.console.is_dumb_terminal
        self.rewards: list[float] = []
        self._durations: list[float] = []
        self._abstains = self._refills = False
        self._rows = 0
        self._heading = ""
        self._bar = Progress(
            TextColumn("[bold]{task.fields[run]}[/]"),
            BarColumn(bar_width=24, complete_style="cyan", finished_style="green"),
            TextColumn("step {task.completed:.0f}/{task.total:.0f}{task.fields[left]}  [dim]{task.fields[note]}[/]"),
            console=self.console,
            disable=not self.live,
            transient=True,
            refresh_per_second=4,  # the cores belong to the run
        )
        self._task = self._bar.add_task("", total=steps, run=escape(name), left="", note="starting")

    def __enter__(self) -> RunView:
        """Show the bar."""
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take the bar away."""
        self._bar.stop()

    def header(self, facts: Mapping[str, str]) -> None:
        """Print the run's name and what it is made of, for example {"model": "smollm2-135m", "algorithm": "grpo"}."""
        text = Text(f"rlvr {self.name}", style="bold")
        for name, value in facts.items():
            text.append(f"  {name} ", style="dim not bold").append(value, style="not bold")
        self._print(text)

    def phase(self, text: str) -> None:
        """Print one line about a phase that is over: "engine ready in 21 s"."""
        self._print(Text("✓ ", style="green").append(_one_line(text), style="default"))

    def working(self, text: str) -> None:
        """Say next to the bar what is going on; only a terminal shows it."""
        self._bar.update(self._task, note=escape(_one_line(text)))

    def warn(self, text: str) -> None:
        """Print a warning, in one line."""
        self._print(Text(f"! {_one_line(text)}", style="yellow"))

    def step(self, report: StepReport) -> None:
        """Print the row of a step and move the bar."""
        self.rewards.append(float(report.metrics.get("reward", math.nan)))
        if "step" in report.seconds:
            self._durations.append(report.seconds["step"])
        self._abstains = self._abstains or report.metrics.get("abstained", 0) > 0
        self._refills = self._refills or "refills" in report.metrics
        columns = self._columns()
        heading = "".join(column.name.rjust(column.width) for column in columns)
        if heading != self._heading or self._rows % 25 == 0:
            self._print(Text(heading, style="dim"))
            self._heading = heading
        self._rows += 1
        row = Text()
        for column in columns:
            row.append(column.cell(report).rjust(column.width), style=column.style)
        self._print(row)
        self._bar.update(self._task, completed=report.step, left=f", {self._left(report)} left", note="")

    def evaluation(self, label: str, interval: Interval) -> None:
        """Print a measured accuracy; `label` is "before", "after" or "at step 10"."""
        said = interval_text(interval.estimate, interval.low, interval.high, n=interval.n)
        self._print(Text(f"eval {label}: ", style="cyan").append(said, style="bold default"))

    def truthfulness(self, unc: Interval, hall: Interval, score: Interval) -> None:
        """Print, below an accuracy, the shares of abstentions and of wrong answers, and T."""
        shares = (f"{name} {100 * i.estimate:.1f} % [{100 * i.low:.1f}, {100 * i.high:.1f}]" for name, i in
                  (("Unc", unc), ("Hall", hall)))  # fmt: skip
        said = f"{'  '.join(shares)}  T {score.estimate:+.3f} [{score.low:+.3f}, {score.high:+.3f}]"
        self._print(Text("  ").append(said, style="default"))

    def finish(self, summary: Mapping[str, Any], *, run_dir: Path | str | None = None) -> None:
        """Print the closing panel from summary.json's content; what the summary lacks is left out."""
        self._bar.stop()
        body = Text()
        for name, value in _closing_lines(summary, rewards=self.rewards, run_dir=run_dir):
            body.append("\n" if body else "").append(f"{name:<8}", style="dim").append(value)
        if self.live:
            panel = Panel(body, title=f"{self.name}: done", title_align="left", box=ROUNDED, expand=False)
            self.console.print(panel, highlight=False)
        else:
            self._print(Text(f"{self.name}: done\n").append(body))

    def _columns(self) -> list[_Column]:
        """Choose the columns: what is rare once there is any, the time left where there is no bar, and what fits."""
        columns = [
            _Column("step", 2 * len(str(self.steps)) + 2, lambda report: f"{report.step}/{self.steps}"),
            _Column("reward", 7, _number("reward", ".3f"), "bold"),
            _Column("correct", 8, _number("correct", ".1%"), "green"),
            _Column("abstained", 10, _number("abstained", ".1%")),
            _Column("truncated", 10, _number("truncated", ".1%")),
            _Column("flat", 7, _number("flat", ".1%")),
            _Column("refill", 7, _number("refills", ".0f")),
            _Column("mismatch", 9, _number("mismatch", ".2g")),
            _Column("tokens/s", 9, _number("tokens_per_s", ".0f")),
            *(_Column(name, len(name) + 2, _seconds(name), "dim") for name in ("rollout", "learn", "push")),
        ]
        seldom = {"abstained": self._abstains, "refill": self._refills}
        columns = [column for column in columns if seldom.get(column.name, True)]
        if not self.live:
            return [*columns, _Column("left", 9, self._left)]
        while sum(column.width for column in columns) > self.console.width and len(columns) > 2:
            columns.pop()
        return columns

    def _left(self, report: StepReport) -> str:
        """Estimate the time left from the mean step so far, evaluation included."""
        if not self._durations:
            return UNKNOWN
        return clock(math.fsum(self._durations) / len(self._durations) * max(0, self.steps - report.step))

    def _print(self, text: Text) -> None:
        """Print without markup, and wrap on a terminal only; signs that the output cannot encode become "?"."""
        encoding = self.console.encoding
        if encoding.lower().replace("-", "") != "utf8":
            text = Text(text.plain.encode(encoding, "replace").decode(encoding), style=text.style)
        self.console.print(text, soft_wrap=not self.live, highlight=False)


def abstention_lines(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Say how truthfulness moved, from summary.json's content; nothing where the model never abstained."""
    shares = [summary.get(f"eval_{name}", {}).get("unc", {}).get("estimate") for name in ("before", "after")]
    return gain_lines(summary.get("gains", {})) if any(shares) else []


def gain_lines(gains: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Say how abstentions, wrong answers and T moved, as (name, value) lines."""
    named = [(title, gains[name]) for name, title in (("unc", "Unc"), ("hall", "Hall"), ("truthfulness", "100 T"))
             if name in gains]  # fmt: skip
    return [(title, f"{g['points']:+.1f} points [{g['low']:+.1f}, {g['high']:+.1f}]") for title, g in named]


def replay_table(samples: Sequence[Any]) -> Table:
    """Lay out what `rlvr replay` found, a row for each reply; a reply that is not finite is red."""
    table = Table(box=None, pad_edge=False)
    for heading in ("task", "reply"):
        table.add_column(heading)
    for heading in ("tokens", "value", "advantage", "max ratio", "mismatch", "loss", "gradient"):
        table.add_column(heading, justify="right")
    table.add_column("finite")
    for one in samples:
        numbers = (one.value, one.advantage, one.ratio, one.mismatch, one.loss, one.grad_norm)
        table.add_row(
            Text(one.group_id.partition("-")[0]), str(one.index), str(one.tokens),
            *(f"{number:.4g}" for number in numbers), "no" if one.broken else "yes",
            style="red" if one.broken else None,
        )  # fmt: skip
    return table


def _one_line(text: str) -> str:
    """Fold white space, line ends included."""
    return " ".join(text.split())


def _closing_lines(
    summary: Mapping[str, Any], *, rewards: Sequence[float], run_dir: Path | str | None
) -> list[tuple[str, str]]:
    """Say a summary as (name, value) lines."""
    lines: list[tuple[str, str]] = []
    for name, title in (("before", "before"), ("after_sft", "sft"), ("after", "after")):
        if found := summary.get(f"eval_{name}"):
            lines.append((title, interval_text(found["accuracy"], found["low"], found["high"], n=found["n"])))
    if gain := summary.get("gain"):
        said = f"{gain['points']:+.1f} points [{gain['low']:+.1f}, {gain['high']:+.1f}]"
        p_value = gain.get("p_value")
        lines.append(("gain", said if p_value is None else f"{said}, p = {p_value:.2g} (exact McNemar)"))
    lines += abstention_lines(summary)
    known = [reward for reward in rewards if math.isfinite(reward)]
    if len(known) > 1:
        lines.append(("reward", f"{sparkline(known)}  {known[0]:.3f} to {known[-1]:.3f}"))
    if "steps" in summary and "seconds" in summary:
        lines.append(("time", f"{summary['steps']} steps in {clock(summary['seconds'])}"))
    if run_dir is not None:
        lines += [("run", str(run_dir)), ("next", f"rlvr view {run_dir}"), ("", f"rlvr report {run_dir}")]
    return lines
