"""The report page: one file, well-formed, escaped, and honest about what is missing."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.errors import CheckpointError, ConfigError
from rlvr.observe.metrics import METRICS, append_line, write_json
from rlvr.observe.report import _marks, _stack, render_report

NASTY = "<script>alert('x')</script> & \"q\" \udc80 $name"
SUMMARY = {
    "steps": 6,
    "seconds": 120.0,
    "eval_before": {"accuracy": 0.35, "low": 0.31, "high": 0.39, "n": 512},
    "eval_after": {"accuracy": 0.57, "low": 0.53, "high": 0.61, "n": 512},
    "gain": {"points": 22.0, "low": 17.0, "high": 26.0, "p_value": 1e-9},
}


def make_run(tmp_path, *, steps=6, summary=True, replies=40):
    run = tmp_path / "run"
    for step in range(1, steps + 1):
        line = {"step": step, "version": step, "reward": step / 10, "correct": 0.4, "wrong": 0.6, "abstained": 0.0}
        line |= {"truncated": 0.1, "flat": 0.3, "mismatch": None if step == 3 else 0.01, "tokens_per_s": 400.0}
        seconds = {"rollout": 6.0, "learn": 11.0} | ({"eval": 3.0} if step == 2 else {})
        append_line(run / "metrics.jsonl", line | {"seconds": seconds})
    for index in range(replies):
        append_line(
            run / "rollouts" / f"step-{steps:06d}.jsonl",
            {"index": index, "prompt": NASTY, "reply": f"reply {index} {NASTY}", "truth": NASTY, "verdict": "WRONG"}
            | {"value": None, "why": NASTY, "stop": "end", "tokens": 9},
        )
    write_json(run / "config.json", {"name": "quick<b>start"})
    if summary:
        write_json(run / "summary.json", SUMMARY)
    return run


class Tags(HTMLParser):
    """Check that tags close in order, and keep what was seen."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.attributes = [], [], []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.attributes += attrs
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parse(page):
    tags = Tags()
    tags.feed(page)
    assert tags.open == []
    return tags


def test_a_page_with_everything(tmp_path):
    path = render_report(make_run(tmp_path))
    page = path.read_text(encoding="utf-8")
    tags = parse(page)
    assert path.name == "report.html"
    for text in ("35.0 % [31.0, 39.0] of 512", "+22.0 points [+17.0, +26.0]", "p = 1e-09", "6 steps in 2.0 min"):
        assert text in page
    assert tags.seen.count("svg") == 6
    for svg in re.findall(r"<svg.*?</svg>", page, re.S):
        ET.fromstring(svg)  # well-formed
        assert not re.search(r"nan|inf|None", svg)
    assert METRICS["mismatch"] in page
    assert METRICS["entropy"] not in page  # this run has none


def test_nothing_is_loaded_and_no_script_runs(tmp_path):
    page = render_report(make_run(tmp_path)).read_text(encoding="utf-8")
    tags = parse(page)
    assert "script" not in tags.seen
    assert not {name for name, _ in tags.attributes} & {"src", "href", "onload", "onclick"}
    assert "url(" not in page
    assert "http" not in page


def test_what_a_model_writes_is_never_markup(tmp_path):
    page = render_report(make_run(tmp_path)).read_text(encoding="utf-8")
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "quick&lt;b&gt;start" in page
    assert " $name" in page  # text that looks like a template field stays text


def test_ten_replies_from_across_the_step(tmp_path):
    page = render_report(make_run(tmp_path)).read_text(encoding="utf-8")
    shown = [int(number) for number in re.findall(r"reply (\d+)", page)]
    assert shown == list(range(0, 40, 4))
    assert "value unknown" in page


def test_a_gap_in_the_data_is_a_gap_in_the_line(tmp_path):
    page = render_report(make_run(tmp_path)).read_text(encoding="utf-8")
    figure = page[page.index("Mismatch and canary") :].split("</figure>")[0]
    assert figure.count("<polyline") == 2


def test_a_run_that_has_just_begun(tmp_path):
    page = render_report(make_run(tmp_path, steps=1, summary=False, replies=0)).read_text(encoding="utf-8")
    parse(page)
    assert "no summary yet; last step 1" in page
    assert "No replies were recorded." in page
    assert "<circle" in page


def test_no_run_and_a_damaged_run_are_sentences(tmp_path):
    with pytest.raises(ConfigError, match=r"no steps in metrics\.jsonl"):
        render_report(tmp_path)
    run = make_run(tmp_path)
    (run / "summary.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"summary\.json is not a JSON object"):
        render_report(run)


def test_phases_stack_and_a_missing_one_takes_no_time():
    assert _stack([("a", [1.0, 2.0]), ("b", [None, 3.0])]) == [("a", [1.0, 2.0]), ("b", [1.0, 5.0])]


@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=9), st.sampled_from(["free", "zero", "stack"]))
def test_the_marks_hold_all_values(values, axis):
    known = [abs(value) for value in values] if axis != "free" else values
    marks = _marks(known, axis=axis)
    slack = 1e-6 * max(1e-300, marks[-1] - marks[0])
    assert 2 <= len(marks) <= 4
    assert marks[0] - slack <= min(known)
    assert max(known) <= marks[-1] + slack
    assert axis == "free" or marks[0] == 0
