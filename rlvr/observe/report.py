"""Render a run directory as one HTML page that needs nothing else: inline SVG, no script, light and dark."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from itertools import groupby
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

from rlvr.errors import CheckpointError, ConfigError
from rlvr.observe.metrics import METRICS, read_lines, replacing
from rlvr.observe.progress import abstention_lines, clock, interval_text
from rlvr.types import StepReport

__all__ = ["load_run", "render_report", "truthfulness_weights"]

Line = Mapping[str, Any]
Series = Sequence[tuple[str, Sequence[float | None]]]


class _Chart(NamedTuple):
    """A chart: `axis` is free, zero (from 0 up), share (0 to 1), sparse (shares, gaps bridged) or stack (seconds)."""

    title: str
    names: tuple[str, ...]
    axis: str
    note: str


_CHARTS = (
    _Chart("Reward", ("reward",), "free", "mean value of the graded rollouts"),
    _Chart("Held-out", ("eval_accuracy", "eval_unc", "eval_hall"), "sparse", "at the steps that measured it"),
    _Chart("Truthfulness", ("truthfulness", "eval_truthfulness"), "free", "T of the rollouts, and held out"),
    _Chart("Verdicts", ("correct", "wrong", "abstained", "ungraded"), "share", "shares"),
    _Chart("Truncated replies and flat groups", ("truncated", "flat"), "share", "shares"),
    _Chart("Mismatch and canary", ("mismatch", "canary_error"), "zero", "nats"),
    _Chart("Seconds by phase", ("rollout", "learn", "push", "eval", "checkpoint"), "stack", "stacked"),
    _Chart("Tokens a second", ("tokens_per_s",), "zero", "reply tokens that carry loss"),
)
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 520, 190, 50, 24, 10
SAMPLES = 10
# As the verdicts of the replies below.
_COLOURS = {"correct": 2, "abstained": 3, "wrong": 4, "ungraded": 5, "eval_accuracy": 2, "eval_unc": 3, "eval_hall": 4}
_PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>$name</title><style>
:root { color-scheme: light dark; --ink: #1c2330; --soft: #68707f; --line: #d9dde4; --page: #fff; --card: #f6f7f9;
  --c0: #2563c9; --c1: #c2590c; --c2: #17804a; --c3: #8b3fc0; --c4: #b3263a; --c5: #5c6675; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ef; --soft: #98a1b0; --line: #343b47; --page: #14171c;
  --card: #1c2027; --c0: #6ea3f7; --c1: #f0955a; --c2: #57c98c; --c3: #c792ee; --c4: #f07a8a; --c5: #9aa5b5; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--page); max-width: 1100px;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0 } h2 { font-size: 1.1rem; margin: 2rem 0 .6rem } .soft { color: var(--soft) }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); gap: 1rem }
figure, .card { margin: 0; padding: .8rem 1rem; background: var(--card); border: 1px solid var(--line);
  border-radius: 8px; overflow-wrap: anywhere } figcaption { font-weight: 600 }
figcaption .soft { font-weight: 400 } svg { width: 100%; height: auto }
svg text { font: 11px system-ui, sans-serif; fill: var(--soft) } .rule { stroke: var(--line); stroke-width: 1 }
.key { display: inline-block; width: .8em; height: .8em; border-radius: 2px; margin: 0 .3em 0 .8em }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1.2rem; margin: 1rem 0 }
dt { color: var(--soft) }
dd { margin: 0; font-variant-numeric: tabular-nums }
pre { white-space: pre-wrap; max-height: 22em; overflow: auto; margin: .4rem 0 0;
  font: 13px/1.45 ui-monospace, monospace }
.card { margin-bottom: .8rem } .CORRECT { color: var(--c2) } .WRONG { color: var(--c4) } .ABSTAINED { color: var(--c3) }
</style></head><body>
<h1>$name</h1><div class="soft">$subtitle</div><dl>$summary</dl>
<h2>Curves</h2><div class="grid">$charts</div>
<h2>Replies of step $last</h2>$samples
<h2>What the names mean</h2><dl>$glossary</dl>
</body></html>
""")


def render_report(run_dir: Path) -> Path:
    """Write report.html into a run directory and give its path.

    Errors: ConfigError where the folder holds no metrics.jsonl; CheckpointError where a file is damaged.
    """
    run_dir = Path(run_dir)
    lines = read_lines(run_dir / "metrics.jsonl")
    if not lines:
        raise ConfigError(f"{run_dir} has no steps in metrics.jsonl; name a run directory that rlvr train wrote")
    lines.sort(key=lambda line: line["step"])
    config, summary = _read(run_dir / "config.json"), _read(run_dir / "summary.json")
    rollouts = sorted((run_dir / "rollouts").glob("step-*.jsonl"))
    replies = read_lines(rollouts[-1]) if rollouts else []
    shown = {name for line in lines for name in line if name in METRICS}
    page = _PAGE.substitute(
        name=escape(str(config.get("name", run_dir.name))),
        subtitle=escape(f"{run_dir.name}, {len(lines)} steps, weight version {lines[-1].get('version', 'unknown')}"),
        summary=_terms(_summary(summary, lines=lines)),
        charts=_charts(lines),
        last=int(rollouts[-1].stem.removeprefix("step-")) if rollouts else lines[-1]["step"],
        samples=_samples(replies) or '<p class="soft">No replies were recorded.</p>',
        glossary=_terms([(name, text) for name, text in METRICS.items() if name in shown]),
    )
    target = run_dir / "report.html"
    with replacing(target) as temporary:
        temporary.write_text(page, encoding="utf-8", errors="replace")
    return target


def truthfulness_weights(run_dir: Path) -> tuple[float, float, float]:
    """Give the weights of T in a run's recipe: (1, 0, 1) where it names none."""
    right, abstained, wrong = _read(run_dir / "config.json").get("eval", {}).get("truthfulness", (1.0, 0.0, 1.0))
    return right, abstained, wrong


def load_run(run_dir: Path) -> tuple[list[StepReport], dict[str, Any], int]:
    """Read a run back: its steps so far, its summary ({} while it goes on), and how many steps it was to take.

    Errors: ConfigError where the folder is no run; CheckpointError where a file is damaged.
    """
    config, lines = _read(run_dir / "config.json"), read_lines(run_dir / "metrics.jsonl")
    if not config:
        raise ConfigError(f"{run_dir} has no config.json; name a run directory that rlvr train wrote")
    reports = [
        StepReport(
            step=line["step"],
            version=line["version"],
            metrics={k: v for k, v in line.items() if k not in ("step", "version", "seconds") and v is not None},
            seconds=line["seconds"],
        )
        for line in lines
    ]
    return reports, _read(run_dir / "summary.json"), int(config["steps"])


def _read(path: Path) -> dict[str, Any]:
    """Read a JSON object; a missing file is an empty one."""
    try:
        value = json.loads(path.read_bytes()) if path.exists() else {}
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} is not a JSON object; mend or delete it, then render the report again")
    return value


def _summary(summary: Line, *, lines: Sequence[Line]) -> list[tuple[str, str]]:
    """Say the results as (name, text); a run that is still going has only its last step."""
    said: list[tuple[str, str]] = []
    for name, when in (("before", "before"), ("after_sft", "after the warm start"), ("after", "after")):
        if found := summary.get(f"eval_{name}"):
            text = interval_text(found["accuracy"], found["low"], found["high"], n=found["n"])
            said.append((f"accuracy {when}", f"{text} (95 %, Wilson)"))
    if gain := summary.get("gain"):
        p_value = gain.get("p_value")
        tail = "" if p_value is None else f"; exact McNemar p = {p_value:.2g}"
        span = f"[{gain['low']:+.1f}, {gain['high']:+.1f}]"
        said.append(("gain", f"{gain['points']:+.1f} points {span} (95 %, paired by task{tail})"))
    said += abstention_lines(summary)
    if "seconds" in summary:
        said.append(("time", f"{summary.get('steps', len(lines))} steps in {clock(summary['seconds'])}"))
    else:
        said.append(("state", f"no summary yet; last step {lines[-1]['step']}"))
    return said


def _terms(pairs: Sequence[tuple[str, str]]) -> str:
    return "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in pairs)


def _charts(lines: Sequence[Line]) -> str:
    """Draw every chart that has anything to show."""
    steps = [line["step"] for line in lines]
    drawn = []
    for chart in _CHARTS:
        rows = [line.get("seconds") or {} for line in lines] if chart.axis == "stack" else lines
        series = [(name, [_known(row.get(name)) for row in rows]) for name in chart.names]
        shown = [(name, values) for name, values in series if any(value is not None for value in values)]
        if shown:
            drawn.append(_figure(chart, steps, _stack(shown) if chart.axis == "stack" else shown))
    return "".join(drawn)


def _known(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _stack(series: Series) -> Series:
    """Add each phase to those below it; a phase that a step did not have takes no time."""
    total, stacked = [0.0] * len(series[0][1]), []
    for name, values in series:
        total = [below + (value or 0.0) for below, value in zip(total, values, strict=True)]
        stacked.append((name, total))
    return stacked


def _figure(chart: _Chart, steps: Sequence[int], series: Series) -> str:
    """Draw lines (stacked areas for a stack) over steps; a gap in the data is a gap in the line."""
    marks = _marks([value for _, values in series for value in values if value is not None], axis=chart.axis)
    low, high = marks[0], marks[-1]
    span = max(1, steps[-1] - steps[0])

    def x(step: int) -> float:
        return LEFT + (step - steps[0]) / span * (WIDTH - LEFT - 8)

    def y(value: float) -> float:
        return TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = []
    for mark in marks:
        parts.append(f'<line class="rule" x1="{LEFT}" x2="{WIDTH - 8}" y1="{y(mark):.1f}" y2="{y(mark):.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y(mark) + 4:.1f}" text-anchor="end">{mark:.3g}</text>')
    for step, anchor in ((steps[0], "start"), (steps[-1], "end"))[: len(set(steps))]:
        parts.append(f'<text x="{x(step):.1f}" y="{HEIGHT - 6}" text-anchor="{anchor}">step {step}</text>')
    # Stacked areas are drawn from the top one down, so that each covers the part below it.
    colours = [f"var(--c{_COLOURS.get(name, i % 6)})" for i, (name, _) in enumerate(series)]
    for colour, (_, values) in list(zip(colours, series, strict=True))[:: -1 if chart.axis == "stack" else 1]:
        points = [(x(step), None if value is None else y(value)) for step, value in zip(steps, values, strict=True)]
        if chart.axis == "sparse":
            points = [point for point in points if point[1] is not None]
        parts += _runs(points, colour=colour, floor=y(low) if chart.axis == "stack" else None)
    keys = "".join(
        f'<span class="key" style="background: {colour}"></span>{name}'
        for colour, (name, _) in zip(colours, series, strict=True)
    )
    return (
        f'<figure><figcaption>{chart.title} <span class="soft">{chart.note}</span></figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{chart.title} by step">{"".join(parts)}</svg>'
        f"<div>{keys if len(series) > 1 else ''}</div></figure>"
    )


def _marks(known: Sequence[float], *, axis: str) -> list[float]:
    """Choose three or four round values for an axis that hold all known ones between them."""
    if axis in ("share", "sparse"):
        return [0.0, 0.5, 1.0]
    low, high = (min(known) if axis == "free" else min(0.0, *known)), max(known)
    rough = (high - low) / 2 or abs(high) / 2 or 0.5
    unit = 10.0 ** math.floor(math.log10(rough))
    gap = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= rough * 0.999)
    first = math.floor(low / gap + 1e-9)
    return [gap * i for i in range(first, max(first + 1, math.ceil(high / gap - 1e-9)) + 1)]


def _runs(points: Sequence[tuple[float, float | None]], *, colour: str, floor: float | None) -> list[str]:
    """Draw each unbroken run of points: an area down to `floor`, a line, or a dot where a point stands alone."""
    drawn = []
    for known, run in groupby(points, key=lambda point: point[1] is not None):
        dots = list(run) if known else []
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in dots)
        if len(dots) == 1:
            drawn.append(f'<circle cx="{dots[0][0]:.1f}" cy="{dots[0][1]:.1f}" r="2.5" style="fill: {colour}"/>')
        elif dots and floor is not None:
            corners = f"{dots[-1][0]:.1f},{floor:.1f} {dots[0][0]:.1f},{floor:.1f}"
            drawn.append(f'<polygon points="{path} {corners}" style="fill: {colour}"/>')
        elif dots:
            drawn.append(f'<polyline points="{path}" style="fill: none; stroke: {colour}; stroke-width: 2"/>')
    return drawn


def _samples(replies: Sequence[Line]) -> str:
    """Show replies spread over the step, escaped: what a model writes is never markup."""
    count = min(SAMPLES, len(replies))
    cards = []
    for line in (replies[i * len(replies) // count] for i in range(count)):
        verdict = str(line.get("verdict") or "no verdict")
        value = "unknown" if line.get("value") is None else f"{line['value']:.3g}"
        facts = f"value {value} · stop {line.get('stop')} · {line.get('tokens')} tokens · "
        facts += f"truth {str(line.get('truth'))[:200]}"  # a coding task's truth is a whole test suite
        prompt = line.get("prompt")
        cards.append(
            f'<div class="card"><b class="{escape(verdict)}">{escape(verdict)}</b> <span class="soft">{escape(facts)}'
            f"</span>{f'<details><summary>prompt</summary><pre>{escape(prompt)}</pre></details>' if prompt else ''}"
            f"<pre>{escape(str(line.get('reply', '')))}</pre>"
            f'<div class="soft">{escape(str(line.get("why") or ""))}</div></div>'
        )
    return "".join(cards)
