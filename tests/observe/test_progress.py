"""What the user watches: plain lines without control codes, and a terminal that stays tidy."""

from __future__ import annotations

import io
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from rlvr.core.stats import wilson_interval
from rlvr.observe.progress import RunView, abstention_lines, clock, interval_text, sparkline
from rlvr.types import StepReport

SUMMARY = {
    "steps": 40,
    "seconds": 745.0,
    "eval_before": {"accuracy": 0.3516, "low": 0.311, "high": 0.394, "n": 512},
    "eval_after": {"accuracy": 0.5703, "low": 0.527, "high": 0.612, "n": 512},
    "gain": {"points": 21.9, "low": 17.1, "high": 26.4, "p_value": 1.3e-18},
}


def report(step, *, seconds=None, **metrics):
    known = {"reward": 0.31, "correct": 0.652, "abstained": 0.0, "truncated": 0.016, "flat": 0.25, "mismatch": 0.0123}
    known |= {"tokens_per_s": 412.4} | metrics
    given = seconds or {"rollout": 6.4, "learn": 11.0, "push": 0.9, "step": 18.0}
    return StepReport(step=step, version=step, metrics=known, seconds=given)


def view(*, terminal=False, width=110, steps=40, **more):
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=width, legacy_windows=False, _environ={}, **more)
    return RunView("quickstart", steps=steps, console=console), stream


def test_a_whole_run_as_plain_lines():
    run, stream = view(width=80)
    with run:
        run.header({"model": "smollm2-135m", "algorithm": "grpo"})
        run.phase("weights proven: 272 of 272 tensors read back, canary 0.004 nats")
        run.evaluation("before", wilson_interval(180, 512))
        run.working("rollout")
        run.step(report(1))
        run.warn("2 replies went ungraded:\n  [payoff] grading.math")
        run.step(report(2, reward=0.5))
        run.finish(SUMMARY, run_dir="runs/quickstart")
    text = stream.getvalue()
    assert text.splitlines() == [
        "rlvr quickstart  model smollm2-135m  algorithm grpo",
        "✓ weights proven: 272 of 272 tensors read back, canary 0.004 nats",
        "eval before: 35.2 % [31.1, 39.4] of 512",
        "  step reward correct truncated   flat mismatch tokens/s  rollout  learn  push     left",
        "  1/40  0.310   65.2%      1.6%  25.0%    0.012      412     6.4s  11.0s  0.9s 11.7 min",
        "! 2 replies went ungraded: [payoff] grading.math",
        "  2/40  0.500   65.2%      1.6%  25.0%    0.012      412     6.4s  11.0s  0.9s 11.4 min",
        "quickstart: done",
        "before  35.2 % [31.1, 39.4] of 512",
        "after   57.0 % [52.7, 61.2] of 512",
        "gain    +21.9 points [+17.1, +26.4], p = 1.3e-18 (exact McNemar)",
        "reward  ▁█  0.310 to 0.500",
        "time    40 steps in 12.4 min",
        "run     runs/quickstart",
        "next    rlvr view runs/quickstart",
        "        rlvr report runs/quickstart",
    ]
    assert "\x1b" not in text
    assert "\r" not in text


def test_plain_rows_fit_110_columns_at_their_widest():
    run, stream = view(steps=99999)
    full = {"abstained": 1.0, "correct": 1.0, "truncated": 1.0, "flat": 1.0, "reward": -1.0, "refills": 99.0}
    run.step(report(99999, **full, seconds={"step": 9e4}))
    assert max(map(len, stream.getvalue().splitlines())) <= 110


def test_refills_get_a_column_with_dynamic_sampling():
    run, stream = view()
    run.step(report(1, refills=0.0))
    run.step(report(2, refills=3.0))
    heading, first, second = stream.getvalue().splitlines()
    end = heading.index(" refill") + len(" refill")
    assert (first[:end].split()[-1], second[:end].split()[-1]) == ("0", "3")
    run, stream = view()
    run.step(report(1))
    assert "refill" not in stream.getvalue()


def test_abstentions_get_a_column_once_there_are_any_and_keep_it():
    run, stream = view()
    for step, abstained in ((1, 0.0), (2, 0.125), (3, 0.0)):
        run.step(report(step, abstained=abstained))
    lines = stream.getvalue().splitlines()
    assert ["abstained" in line for line in lines] == [False, False, True, False, False]
    assert "12.5%" in lines[3]
    assert lines[4].split()[3] == "0.0%"


def test_the_heading_returns_every_25_rows():
    run, stream = view()
    for step in range(1, 31):
        run.step(report(step))
    assert [i for i, line in enumerate(stream.getvalue().splitlines()) if "reward" in line] == [0, 26]


def test_what_nobody_knows_is_a_dash():
    run, stream = view()
    run.step(StepReport(step=1, version=1, metrics={"reward": math.nan}, seconds={}))
    assert stream.getvalue().splitlines()[1].split() == ["1/40"] + ["–"] * 10


def test_an_incomplete_summary_still_closes():
    run, stream = view()
    run.finish({"steps": 3, "seconds": 4.0})
    assert stream.getvalue().splitlines() == ["quickstart: done", "time    3 steps in 4 s"]


@pytest.mark.parametrize("width", [80, 60, 20])
def test_terminal_rows_never_wrap(width):
    run, stream = view(terminal=True, width=width, color_system=None)
    run.step(report(1))
    lines = [line for line in stream.getvalue().splitlines() if line.strip()]
    assert len(lines) == 2
    assert max(map(len, lines)) <= width


def test_a_terminal_gets_a_bar_a_panel_and_its_cursor_back():
    run, stream = view(terminal=True, width=100)
    with run:
        run.step(report(1))
        run.working("learning [now]")
        run._bar.refresh()
        run.finish(SUMMARY)
    text = stream.getvalue()
    assert "step 1/40, 11.7 min left" in text
    assert "learning [now]" in text
    assert "╭─ quickstart: done" in text
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")


def test_a_failure_takes_the_bar_away():
    run, stream = view(terminal=True)
    with pytest.raises(KeyError), run:
        raise KeyError
    assert stream.getvalue().endswith(("\x1b[?25h", "\x1b[2K"))
    assert "\x1b[?25h" in stream.getvalue()


def test_an_ascii_output_is_not_a_crash():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    RunView("r", steps=1, console=Console(file=stream)).phase("ready – 1")
    stream.flush()
    assert raw.getvalue() == b"? ready ? 1\n"


def test_durations_and_intervals_read_well():
    assert [clock(s) for s in (0.4, 89, 90, 745, 5400, 11520)] == [
        "0 s",
        "89 s",
        "1.5 min",
        "12.4 min",
        "1.5 h",
        "3.2 h",
    ]
    assert interval_text(0.3516, 0.311, 0.394, n=512) == "35.2 % [31.1, 39.4] of 512"


@given(st.lists(st.floats(-1e6, 1e6) | st.just(math.nan), max_size=120), st.integers(1, 50))
def test_a_sparkline_has_one_block_a_value_up_to_its_width(values, width):
    known = [value for value in values if not math.isnan(value)]
    assert len(sparkline(values, width=width)) == min(width, len(known))


def test_a_sparkline_rises_with_its_values():
    assert sparkline(range(8)) == "▁▂▃▄▅▆▇█"
    assert sparkline([2.0, 2.0]) == "▄▄"
    assert sparkline([0, 1, 10, 11], width=2) == "▁█"


def test_truthfulness_is_told_only_where_the_model_abstains() -> None:
    moved = {"points": 4.0, "low": 1.0, "high": 7.0, "n": 9}
    summary = {"eval_before": {"unc": {"estimate": 0.0}}, "eval_after": {"unc": {"estimate": 0.2}},
               "gains": {"unc": moved, "hall": moved, "truthfulness": moved}}  # fmt: skip
    assert abstention_lines(summary)[0] == ("Unc", "+4.0 points [+1.0, +7.0]")
    assert [name for name, _ in abstention_lines(summary)] == ["Unc", "Hall", "100 T"]
    assert abstention_lines(summary | {"eval_after": {"unc": {"estimate": 0.0}}}) == []
    assert abstention_lines({}) == []
