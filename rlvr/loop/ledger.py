"""The run directory, and where a run stands in its stream of tasks."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from rlvr.config import Recipe
from rlvr.errors import BoundaryError, CheckpointError, ConfigError, PluginError, ResourceError, boundary
from rlvr.learner.checkpoint import latest
from rlvr.observe.metrics import keep_until, write_json
from rlvr.types import Environment, Task

__all__ = ["Place", "RunDirectory", "TaskStream", "eval_tasks", "facts_of"]

# What may change between a run and its continuation; everything else determines the numbers.
FREE = {"steps", "eval", "checkpoint", "track", "guard", "name"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a run stands in its stream of tasks between two steps. A ticket is a task's place in it, from 0."""

    submitted: int = 0  # tickets given out
    outstanding: tuple[int, ...] = ()  # those of them that neither trained nor were dropped: a resumed run's first


class Saves(Protocol):
    """What `Cluster` does for this module."""

    def save(self, folder: Path, facts: Mapping[str, Any]) -> None:
        """Write a checkpoint."""
        ...


def facts_of(recipe: Recipe, *, step: int, place: Place) -> dict[str, Any]:
    """Give what a checkpoint says of the run beside its weights."""
    stands = {"tasks": place.submitted, "outstanding": list(place.outstanding)}
    return {"step": step, **stands, "recipe": recipe.model_dump(mode="json")}


def _other_keys(before: Mapping[str, Any], now: Mapping[str, Any], section: str) -> bool:
    """Tell whether a section, or a key of one with fixed keys, is new or gone."""
    first, second = before.get(section), now[section]
    if isinstance(first, dict) and isinstance(second, dict) and section != "environment":
        return set(first) != set(second)
    return section not in before


class RunDirectory:
    """`runs/NAME`: config, metrics, rollouts, checkpoints, evaluations, summary."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics, self.rollouts = path / "metrics.jsonl", path / "rollouts"
        self.checkpoints, self.summary = path / "checkpoints", path / "summary.json"
        self.timeline = path / "timeline.json"

    def begin(self, recipe: Recipe) -> str | None:
        """Make the directory for a new run; an older run of the name is moved aside. Gives where to."""
        moved = None
        try:
            if self.path.exists() and any(self.path.iterdir()):
                stamp = time.strftime("%Y%m%d-%H%M%S", time.localtime(self.path.stat().st_mtime))
                moved = self.path.with_name(f"{self.path.name}-{stamp}")
                while moved.exists():  # several runs may end within one second
                    moved = moved.with_name(f"{moved.name}-again")
                self.path.rename(moved)
            self.checkpoints.mkdir(parents=True)
        except OSError as error:
            said = f"cannot make the run directory {self.path}: {error.strerror}"
            raise ResourceError(f"{said}; choose another --run-dir") from error
        write_json(self.path / "config.json", recipe.model_dump(mode="json"))
        return str(moved) if moved else None

    def facts(self, checkpoint: Path | None) -> dict[str, Any]:
        """Give the facts that a checkpoint was saved with, or those of the beginning. Errors: CheckpointError."""
        if checkpoint is None:
            return {"step": 0, "tasks": 0, "outstanding": [], "recipe": self.recipe()}
        try:
            with boundary("reading"):
                found = json.loads((checkpoint / "trainer" / "facts.json").read_text())
                known = {name: found[name] for name in ("step", "tasks", "recipe")}
                return known | {"outstanding": found.get("outstanding", [])}  # older versions had none, and no such key
        except BoundaryError as error:
            raise CheckpointError(f"the checkpoint {checkpoint} cannot be read: {error.reason}") from error

    def compare(self, recipe: Recipe, facts: dict[str, Any]) -> dict[str, Any]:
        """Check that the recipe goes on with the same run, and give its facts. Errors: CheckpointError, ConfigError."""
        before, now = facts["recipe"], recipe.model_dump(mode="json")
        fixed = [name for name in now if name not in FREE]
        if strange := [name for name in fixed if _other_keys(before, now, name)]:
            raise CheckpointError(
                f"the run in {self.path} was begun by another version of rlvr, whose recipes have other keys in "
                f"[{strange[0]}]; go on with that version, or start a new run"
            )
        if changed := sorted(name for name in fixed if now[name] != before[name]):
            raise ConfigError(
                f"--resume: [{changed[0]}] differs from the run in {self.path}; use its recipe, or start a new run"
            )
        if recipe.adapter.kind == "adalora" and now["steps"] != before["steps"]:
            raise ConfigError(
                f"--resume: steps = {now['steps']} differs from the run in {self.path}, and AdaLoRA's schedule is laid "
                f"over its {before['steps']}; use these, or start a new run"
            )
        return facts

    def resume(self, recipe: Recipe, facts: Mapping[str, Any]) -> tuple[int, Place]:
        """Drop what came after the checkpoint. Gives its step, and where the run stood then."""
        step = int(facts["step"])
        keep_until(self.metrics, step)
        write_json(self.path / "config.json", recipe.model_dump(mode="json"))
        return step, Place(submitted=int(facts["tasks"]), outstanding=tuple(map(int, facts["outstanding"])))

    def save(self, cluster: Saves, recipe: Recipe, *, step: int, place: Place) -> None:
        """Write the checkpoint of a step, and remove old ones. Errors: CheckpointError."""
        cluster.save(self.checkpoint(step), facts_of(recipe, step=step, place=place))
        self.prune(recipe.checkpoint.keep, spare_first=recipe.sft is not None)

    def recipe(self) -> dict[str, Any]:
        """Give the recipe that the run was begun with. Errors: ConfigError where the folder is no run."""
        path = self.path / "config.json"
        try:
            with boundary("reading"):
                return dict(json.loads(path.read_text()))
        except BoundaryError as error:
            raise ConfigError(f"{path} cannot be read ({error.reason}); name a run directory") from error

    def newest(self, *, needed: bool = True) -> Path | None:
        """Give the last whole checkpoint. Errors: CheckpointError where there is none.

        A run that was begun and stopped within its warm start has none, and it is not `needed` there: None.
        """
        found = latest(self.checkpoints)
        if found is None and (needed or not (self.path / "config.json").is_file()):
            raise CheckpointError(f"{self.checkpoints} holds no checkpoint to resume from; start without --resume")
        return found

    def checkpoint(self, step: int) -> Path:
        """Name the checkpoint of a step."""
        return self.checkpoints / f"step-{step:06d}"

    def saved(self, step: int) -> bool:
        """Tell whether the last whole checkpoint is that of a step."""
        return latest(self.checkpoints) == self.checkpoint(step)

    def failed(self, step: int) -> Path:
        """Name the folder that keeps the batch of a step which the learner could not take."""
        return self.path / "failed" / f"step-{step:06d}"

    def prune(self, keep: int, *, spare_first: bool = False) -> None:
        """Remove all but the newest checkpoints; `spare_first` keeps that of step 0, the end of a warm start, too."""
        for path in sorted(self.checkpoints.glob("step-*"))[:-keep]:
            if not (spare_first and path == self.checkpoint(0)):
                shutil.rmtree(path, ignore_errors=True)


class TaskStream:
    """The training tasks in their one order. A finite environment is read again from its start, with another seed.

    Errors of all that reads tasks: PluginError that names the environment, whatever its code raises.
    """

    def __init__(self, environment: Environment, *, name: str, seed: int, place: Place) -> None:
        """Go on at a place; `again` holds the tasks outstanding there, by ticket."""
        self.submitted = place.submitted
        self._tasks = self._endless(environment, name, seed)
        wanted = set(place.outstanding)
        self.again = {n: task for n, task in enumerate(islice(self._tasks, place.submitted)) if n in wanted}

    def take(self, count: int) -> dict[int, Task]:
        """Give the next tasks by their tickets."""
        first, self.submitted = self.submitted, self.submitted + max(0, count)
        return dict(enumerate(islice(self._tasks, self.submitted - first), start=first))

    @staticmethod
    def _endless(environment: Environment, name: str, seed: int) -> Iterator[Task]:
        while True:
            empty = True
            for task in _tasks(environment, name, "train", seed=seed):
                empty = False
                yield task
            if empty:
                raise PluginError(f"environment '{name}' has no training tasks")
            seed += 1


def eval_tasks(environment: Environment, *, name: str, count: int) -> list[Task]:
    """Give the held-out tasks, the same ones for every seed of a run. Errors: PluginError where there are too few."""
    tasks = list(islice(_tasks(environment, name, "eval", seed=0), count))
    if len(tasks) < count:
        have = f"environment '{name}' has {len(tasks)} held-out tasks"
        raise PluginError(f"{have}, eval.tasks asks for {count}; lower it")
    return tasks


def _tasks(environment: Environment, name: str, split: str, *, seed: int) -> Iterator[Task]:
    """Read a split; what the environment's code raises, at any task, is told in one sentence."""
    what, end = f"environment '{name}'", object()
    try:
        with boundary(what):
            source = iter(environment.tasks(split, seed=seed))
        while True:
            with boundary(what):
                task: object = next(source, end)
            if task is end:
                return
            if not isinstance(task, Task):
                raise PluginError(f"{what}: tasks({split!r}) yields {type(task).__name__}, not Task")
            yield task
    except BoundaryError as error:
        cause = error.__cause__
        said = " ".join(str(cause).split()) if isinstance(cause, ValueError) else ""
        raise PluginError(f"{what}: {said or error.reason}") from error
