"""Pass a run's metrics to wandb, trackio or TensorBoard. Training never depends on any of them."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from io import StringIO
from numbers import Real
from pathlib import Path
from typing import Any, Protocol

from rlvr.errors import BoundaryError, ConfigError, boundary

__all__ = ["Tracker", "TrackerSet", "flatten", "make_trackers"]

Warn = Callable[[str], object]
_LOG = logging.getLogger("rlvr")


class Tracker(Protocol):
    """Somebody who keeps metrics."""

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Take the metrics of a step; names are flat, values are finite numbers."""
        ...

    def finish(self) -> None:
        """Flush and close."""
        ...


def flatten(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Give numbers under flat names ("seconds/rollout"); an unknown value is left out, as a tracker would plot it."""
    flat: dict[str, float] = {}
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}/{inner}": number for inner, number in flatten(value).items()}
        elif isinstance(value, Real) and math.isfinite(value):
            flat[name] = float(value)
    return flat


def make_trackers(
    run_name: str,
    *,
    wandb: bool = False,
    trackio: bool = False,
    tensorboard: bool = False,
    run_dir: Path,
    config: Mapping[str, Any],
    warn: Warn = _LOG.warning,
) -> list[Tracker]:
    """Start the trackers that the recipe asks for; their files lie under `run_dir`.

    Each is guarded: one that fails during the run warns once through `warn` and is silent from then on.
    Errors: ConfigError where a package is missing; BoundaryError where a tracker does not start.
    """
    makers: dict[str, tuple[bool, Callable[..., Tracker]]] = {
        "wandb": (wandb, _Wandb),
        "trackio": (trackio, _Trackio),
        "tensorboard": (tensorboard, _TensorBoard),
    }
    trackers: list[Tracker] = []
    for name, (wanted, make) in makers.items():
        if wanted:
            with boundary(name):
                try:
                    made = make(run_name, run_dir=Path(run_dir), config=config)
                except ImportError as error:
                    raise ConfigError(
                        f"track.{name} is on, but {error.name or name} cannot be imported: "
                        f"run pip install 'rlvr[track]', or set track.{name} = false"
                    ) from error
            trackers.append(_Guarded(made, name=name, warn=warn))
    return trackers


class TrackerSet:
    """Several trackers as one."""

    def __init__(self, trackers: list[Tracker]) -> None:
        self.trackers = trackers

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Pass the metrics of a step to each."""
        for tracker in self.trackers:
            tracker.log(step, metrics)

    def finish(self) -> None:
        """Close each."""
        for tracker in self.trackers:
            tracker.finish()


class _Guarded:
    """Keep a tracker's failure away from the run: warn once, then drop it."""

    def __init__(self, tracker: Tracker, *, name: str, warn: Warn) -> None:
        self.tracker: Tracker | None = tracker
        self.name, self.warn = name, warn

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Pass on what is a finite number."""
        numbers = flatten(metrics)
        self._call(lambda tracker: tracker.log(step, numbers))

    def finish(self) -> None:
        """Close the tracker, once."""
        self._call(lambda tracker: tracker.finish())
        self.tracker = None

    def _call(self, act: Callable[[Tracker], None]) -> None:
        if self.tracker is None:
            return
        try:
            with boundary(self.name):
                act(self.tracker)
        except BoundaryError as error:
            self.tracker = None
            self.warn(f"{error}; the run goes on without {self.name}, and metrics.jsonl has every step")


class _Wandb:
    """Weights & Biases. Without a configured key it works offline; `wandb sync` uploads the folder later."""

    def __init__(self, run_name: str, *, run_dir: Path, config: Mapping[str, Any]) -> None:
        import wandb

        online = "WANDB_MODE" in os.environ or wandb.login(prompt=False, verify=False)
        run_dir.mkdir(parents=True, exist_ok=True)
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "rlvr"),
            name=run_name,
            dir=str(run_dir),
            config=dict(config),
            mode=None if online else "offline",  # None leaves the choice to WANDB_MODE
            # wandb must neither write over our progress display nor capture it.
            settings=wandb.Settings(silent=True, console="off"),
        )

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Send one step."""
        self.run.log(dict(metrics), step=step)

    def finish(self) -> None:
        """Flush and close."""
        self.run.finish()


class _Trackio:
    """Trackio: a local SQLite file under the run directory, shown by `trackio show`."""

    def __init__(self, run_name: str, *, run_dir: Path, config: Mapping[str, Any]) -> None:
        os.environ.setdefault("TRACKIO_DIR", str((run_dir / "trackio").absolute()))  # read once, at import
        import trackio

        self.finish_run = trackio.finish
        with redirect_stdout(StringIO()):  # it greets at length, into our display
            self.run = trackio.init(project="rlvr", name=run_name, config=dict(config), embed=False)

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Send one step."""
        self.run.log(dict(metrics), step=step)

    def finish(self) -> None:
        """Flush and close."""
        with redirect_stdout(StringIO()):
            self.finish_run()


class _TensorBoard:
    """TensorBoard event files under the run directory, written without TensorFlow or torch."""

    def __init__(self, run_name: str, *, run_dir: Path, config: Mapping[str, Any]) -> None:
        from tensorboard.summary import Writer

        self.writer = Writer(str(run_dir / "tensorboard"))

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Write one step, and flush: a reader follows a run that may crash."""
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def finish(self) -> None:
        """Flush and close."""
        self.writer.close()
