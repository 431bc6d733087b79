"""The timeline: what is written is read again, and what overlaps lies in rows of its own."""

import json
from itertools import combinations
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from rlvr.observe.timeline import Timeline, read_timeline
from rlvr.types import Interval


def test_a_trace_is_readable_after_every_line(tmp_path: Path) -> None:
    path = tmp_path / "timeline.json"
    line = Timeline(path)
    assert read_timeline(path) == {}
    line.add("worker-0", [Interval(name="generate", start=10.0, stop=12.5, lane=1)])
    line.add("learner", [Interval(name="learn", start=11.0, stop=12.0)])
    found = read_timeline(path)
    assert found["worker-0"] == [Interval(name="generate", start=10.0, stop=12.5, lane=0)]
    assert found["learner"] == [Interval(name="learn", start=11.0, stop=12.0, lane=0)]
    json.loads(path.read_text().rstrip().rstrip(",") + "]")
    assert all(json.loads(row.rstrip(",")) for row in path.read_text().splitlines()[1:])


def test_a_run_that_died_within_a_line_goes_on_with_its_actors(tmp_path: Path) -> None:
    path = tmp_path / "timeline.json"
    first, later = (Interval(name="generate", start=t, stop=t + 1.0) for t in (1.0, 9.0))
    line = Timeline(path)
    line.add("worker-0", [first])
    line.add("worker-1", [first])
    with path.open("a") as file:
        file.write('{"ph": "X", "na')
    again = Timeline(path)
    again.add("worker-1", [later])
    assert read_timeline(path) == {"worker-0": [first], "worker-1": [first, later]}


spans = st.lists(st.tuples(st.integers(0, 50), st.integers(1, 20)), min_size=1, max_size=12)


@given(rollouts=spans)
def test_what_overlaps_lies_in_different_rows(tmp_path_factory, rollouts: list[tuple[int, int]]) -> None:
    path = tmp_path_factory.mktemp("line") / "timeline.json"
    line = Timeline(path)
    for start, length in rollouts:
        parts = [Interval(name="generate", start=float(start), stop=float(start + length), lane=1)]
        line.add("worker-0", parts)
    found = read_timeline(path)["worker-0"]
    assert len(found) == len(rollouts)
    for a, b in combinations(found, 2):
        assert a.lane != b.lane or a.stop <= b.start or b.stop <= a.start
