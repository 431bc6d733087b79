"""Draw the timeline of a run: what the driver waited for, what the rollouts did, where weights went live.

python benchmarks/timeline.py RUN --seconds 60 [--start 30] --out docs/images/timeline.svg
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from rlvr.observe.timeline import read_timeline
from rlvr.types import Interval

WIDTH, LEFT, RIGHT, BAR, AREA, GAP = 960, 124, 16, 26, 110, 14
COLOURS = {
    "rollout": "#cbd5e1", "learn": "#2563eb", "push": "#d97706", "eval": "#94a3b8", "checkpoint": "#94a3b8",
    "generate": "#2563eb", "wait": "#fbbf24", "grade": "#dc2626", "prepare": "#fcd34d", "swap": "#dc2626",
    "prove": "#059669",
}  # fmt: skip
SAYS = {"rollout": "wait for rollouts", "wait": "wait for the tool"}


class Picture:
    """An SVG that grows downwards."""

    def __init__(self, start: float, stop: float) -> None:
        self.start, self.stop, self.y = start, stop, 40.0
        self.parts: list[str] = []

    def x(self, time: float) -> float:
        """Give the place of a moment."""
        share = (min(max(time, self.start), self.stop) - self.start) / (self.stop - self.start)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def rect(self, one: Interval, *, y: float, height: float) -> None:
        """Draw an interval as a bar; a short one is a line."""
        left, right = self.x(one.start), self.x(one.stop)
        if one.stop > self.start and one.start < self.stop:
            colour = COLOURS.get(one.name, "#94a3b8")
            self.parts.append(
                f'<rect x="{left:.1f}" y="{y:.1f}" width="{max(1.2, right - left):.1f}" height="{height:.1f}" '
                f'fill="{colour}"><title>{one.name} {one.stop - one.start:.2f} s</title></rect>'
            )

    def text(self, words: str, *, x: float, y: float, anchor: str = "start", size: int = 12) -> None:
        """Write."""
        self.parts.append(f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{words}</text>')

    def bars(self, name: str, intervals: Sequence[Interval]) -> None:
        """Draw what an actor did, one thing at a time."""
        self.text(name, x=LEFT - 8, y=self.y + BAR * 0.68, anchor="end")
        for one in intervals:
            self.rect(one, y=self.y, height=BAR)
        self.y += BAR + GAP

    def areas(self, name: str, intervals: Sequence[Interval], kinds: Sequence[str]) -> None:
        """Draw how many rollouts did what, one kind upon the other."""
        edges = sorted({self.start, self.stop, *(t for i in intervals for t in (i.start, i.stop))})
        edges = [t for t in edges if self.start <= t <= self.stop]
        counts = {
            t: [sum(i.name == kind and i.start <= t < i.stop for i in intervals) for kind in kinds] for t in edges
        }
        top = max(1, *(sum(row) for row in counts.values()))
        bottom = self.y + AREA
        for level, kind in reversed(list(enumerate(kinds))):
            steps = [f"M{self.x(edges[0]):.1f},{bottom:.1f}"]
            for a, b in pairwise(edges):
                y = bottom - AREA * sum(counts[a][: level + 1]) / top
                steps.append(f"L{self.x(a):.1f},{y:.1f}L{self.x(b):.1f},{y:.1f}")
            self.parts.append(
                f'<path d="{"".join(steps)}L{self.x(edges[-1]):.1f},{bottom:.1f}Z" fill="{COLOURS[kind]}"/>'
            )
        self.text(name, x=LEFT - 8, y=self.y + AREA / 2, anchor="end")
        self.text(f"{top} rollouts", x=LEFT - 8, y=self.y + 10, anchor="end", size=10)
        self.y += AREA + GAP

    def axis(self) -> None:
        """Write the seconds."""
        span = self.stop - self.start
        step = next(s for s in (1, 2, 5, 10, 20, 50, 100, 200, 500, 10**6) if span / s <= 12)
        for second in range(0, int(span) + 1, step):
            at = self.x(self.start + second)
            self.parts.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="36" y2="{self.y:.1f}" stroke="#e2e8f0"/>')
            self.text(f"{second} s", x=at, y=self.y + 12, anchor="middle", size=11)
        self.y += 24

    def legend(self, names: Sequence[str]) -> None:
        """Say what the colours mean."""
        at = float(LEFT)
        for name in names:
            self.parts.append(f'<rect x="{at:.0f}" y="12" width="12" height="12" fill="{COLOURS[name]}"/>')
            words = SAYS.get(name, name)
            self.text(words, x=at + 16, y=22, size=11)
            at += 30 + 6.6 * len(words)

    def svg(self) -> str:
        """Give the whole."""
        style = "font-family:system-ui,sans-serif;background:white"
        body = "\n".join(self.parts)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self.y:.0f}" style="{style}">\n'
            f'<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
        )


def draw(actors: dict[str, list[Interval]], *, start: float, seconds: float) -> str:
    """Draw some seconds of a run, `start` seconds after its first interval."""
    first = min(one.start for intervals in actors.values() for one in intervals)
    picture = Picture(first + start, first + start + seconds)
    picture.legend(["rollout", "learn", "push", "generate", "wait", "grade", "prepare", "swap", "prove"])
    picture.bars("driver", actors.get("driver", []))
    for name in sorted(actors):
        if name.endswith(" weights"):
            picture.bars(name, actors[name])
        elif name != "driver":
            picture.areas(name, actors[name], ["generate", "wait", "grade"])
    below, picture.parts = picture.parts, []
    picture.axis()
    picture.parts += below
    return picture.svg()


def main() -> None:
    """Write the picture of a run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--start", type=float, default=0.0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    actors = read_timeline(options.run / "timeline.json")
    options.out.write_text(draw(actors, start=options.start, seconds=options.seconds))


if __name__ == "__main__":
    main()
