"""Who did what when, as a Chrome trace: open `timeline.json` of a run in Perfetto or chrome://tracing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from rlvr.errors import ResourceError
from rlvr.types import Interval

__all__ = ["Timeline", "read_timeline"]


class Timeline:
    """Appends intervals to a trace file. It may lack its closing bracket, so that a run that dies leaves a whole one.

    Every process of the trace is one actor; intervals of the same actor that overlap get rows of their own. The
    intervals of one row hang together: those of a rollout stay in one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._places: dict[str, int] = {}  # of actors, in the order in which they came
        self._rows: dict[str, list[float]] = {}  # by actor: when each row is free again
        if path.exists():  # of a run that goes on, and may have died within a line
            lines = [line for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
            events = [json.loads(line.rstrip(",\n")) for line in lines[1:]]
            self._places = {event["args"]["name"]: event["pid"] for event in events if event["ph"] == "M"}
            scratch = path.with_suffix(".part")
            scratch.write_text("".join(lines))
            scratch.replace(path)
        else:
            self._write("[\n")

    def add(self, actor: str, intervals: Sequence[Interval]) -> None:
        """Write what an actor did. Errors: ResourceError where the file cannot be written."""
        lines = []
        if actor not in self._places:
            self._places[actor] = len(self._places)
            lines.append({"ph": "M", "name": "process_name", "pid": self._places[actor], "args": {"name": actor}})
        for lane in sorted({one.lane for one in intervals}):
            ours = sorted((one for one in intervals if one.lane == lane), key=lambda one: one.start)
            row = self._row(actor, ours[0].start, max(one.stop for one in ours))
            lines += [_event(one, pid=self._places[actor], row=row) for one in ours]
        self._write("".join(f"{json.dumps(line)},\n" for line in lines))

    def _row(self, actor: str, start: float, stop: float) -> int:
        rows = self._rows.setdefault(actor, [])
        row = next((place for place, free in enumerate(rows) if free <= start), len(rows))
        rows[row:] = [stop, *rows[row + 1 :]]
        return row

    def _write(self, text: str) -> None:
        try:
            with self.path.open("a") as file:
                file.write(text)
        except OSError as error:
            raise ResourceError(f"the timeline cannot be written to {self.path}: {error.strerror}") from error


def read_timeline(path: Path) -> dict[str, list[Interval]]:
    """Give the intervals of every actor in a trace file, whether or not it ends with its bracket."""
    text = path.read_text().strip().rstrip(",").removesuffix("]")
    events = json.loads(text + "]")
    names = {event["pid"]: event["args"]["name"] for event in events if event["ph"] == "M"}
    found: dict[str, list[Interval]] = {name: [] for name in names.values()}
    for event in (event for event in events if event["ph"] == "X"):
        start = event["ts"] / 1e6
        one = Interval(name=event["name"], start=start, stop=start + event["dur"] / 1e6, lane=event["tid"])
        found[names[event["pid"]]].append(one)
    return found


def _event(one: Interval, *, pid: int, row: int) -> dict[str, object]:
    """Give an interval as a complete event of the trace format, microseconds."""
    return {
        "ph": "X", "name": one.name, "pid": pid, "tid": row, "ts": round(one.start * 1e6),
        "dur": max(1, round((one.stop - one.start) * 1e6)), "cat": one.name.partition(" ")[0],
    }  # fmt: skip
