"""What a run writes down of each step: metrics, the timeline, progress on the screen, trackers."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rlvr.config import Recipe
from rlvr.loop.ledger import RunDirectory
from rlvr.observe.metrics import append_line, as_line, push_metrics, step_metrics
from rlvr.observe.progress import RunView
from rlvr.observe.timeline import Timeline
from rlvr.observe.trackers import TrackerSet, make_trackers
from rlvr.types import GroupHeader, Interval, Receipt, StepReport

__all__ = ["Clock", "StepBook"]


class Clock:
    """What the driver spends a step on, by phase."""

    def __init__(self) -> None:
        self._start = time.time()
        self.intervals: list[Interval] = []

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Note how long the block takes, if it ends well."""
        start = time.time()
        yield
        self.intervals.append(Interval(name=name, start=start, stop=time.time()))

    def total(self) -> dict[str, float]:
        """Give the seconds by phase, and those of the step until now."""
        phases = {one.name: one.stop - one.start for one in self.intervals}
        return phases | {"step": time.time() - self._start}


class StepBook:
    """Writes down what a step did, in all the places where somebody may look for it."""

    def __init__(self, run: RunDirectory, recipe: Recipe, view: RunView) -> None:
        t, config = recipe.track, recipe.model_dump(mode="json")
        self._recipe, self._metrics, self._view = recipe, run.metrics, view
        self._timeline = Timeline(run.timeline)
        self._trackers = TrackerSet(
            make_trackers(
                recipe.name, run_dir=run.path, config=config, wandb=t.wandb, trackio=t.trackio,
                tensorboard=t.tensorboard, warn=view.warn,
            )
        )  # fmt: skip

    def write(
        self, step: int, headers: Sequence[GroupHeader], receipts: Sequence[Receipt], *, learned: Mapping[str, float],
        clock: Clock,
    ) -> None:  # fmt: skip
        """Write down a step, with the receipts that have come since the last one. Errors: ResourceError."""
        seconds = clock.total()
        told = {**learned, **push_metrics(receipts, step_seconds=seconds["step"])}
        metrics = step_metrics(headers, learner=told, seconds=seconds, weights=self._recipe.eval.truthfulness)
        report = StepReport(step=step, version=step, metrics=metrics, seconds=seconds)
        line: dict[str, Any] = as_line(report)
        append_line(self._metrics, line)
        self._timeline.add("driver", clock.intervals)
        for header in headers:
            self._timeline.add(header.worker, header.intervals)
        for receipt in receipts:
            self._timeline.add(f"{receipt.worker} weights", receipt.intervals)
        self._view.step(report)
        self._trackers.log(step, line)

    def finish(self) -> None:
        """Close the trackers."""
        self._trackers.finish()
