"""A cluster that only remembers what it was asked for, and the runs that tests drive with it."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from helpers import make_header
from rich.console import Console

from rlvr.config import Recipe
from rlvr.errors import RlvrError
from rlvr.learner.sft import updates_of
from rlvr.loop import driver
from rlvr.loop.traffic import Arrival, Committed, Errand, Event, Learned
from rlvr.observe.progress import RunView
from rlvr.testing import rollout, task
from rlvr.types import Grade, Group, Task, Verdict
from rlvr.weights.service import Fault


class Sums:
    """Endless sums."""

    def tasks(self, split: str, *, seed: int) -> Iterator[Task]:
        number = 0
        while True:
            number += 1
            yield task(f"{split} {seed} {number}")


class FakeCluster:
    """Answers like a cluster; a test sets what goes wrong at which step."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.recipe: Any = None
        self.calls: list[str] = []
        self.step = 0  # the committed version
        self.resumed = 0
        self.values: dict[int, tuple[float, ...]] = {}  # by step
        self.fails: dict[str, Exception] = {}  # by the call that fails
        self.presses: dict[str, int] = {}  # Ctrl-C after a call
        self.abstains = 0.0  # share of the evaluation that is abstained on after training
        self.learned: list[tuple[int, int]] = []  # groups and the denominator of each step
        self.trained: list[list[str]] = []  # tasks of the groups of each step
        self.ahead: list[int] = []  # how many pushes are not committed as a step of the learner begins
        self.under_way: list[Event | Exception] = []
        self.picks: Callable[[int], int] = lambda count: 0  # which of those happens next
        self.drawn: list[tuple[int, str, int]] = []  # step, task and seed of every group
        self.flat: Callable[[int], bool] = lambda seed: False

    def __enter__(self) -> FakeCluster:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def _called(self, call: str) -> None:
        self.calls.append(call)
        if call in self.presses:
            signal.raise_signal(signal.SIGINT)
        if call in self.fails:
            raise self.fails[call]

    def _begun(self, call: str, event: Event) -> None:
        """Remember a call that ends with an event, or with the failure that a test wants."""
        try:
            self._called(call)
        except RlvrError as failure:
            self.under_way.append(failure)
        else:
            self.under_way.append(event)

    def wait(self) -> Event:
        event = self.under_way.pop(self.picks(len(self.under_way)))
        if isinstance(event, Exception):
            raise event
        if isinstance(event, Committed):
            self.step = event.version
        return event

    def restore(self, folder: Path) -> dict[str, Any]:
        return json.loads((folder / "trainer" / "facts.json").read_text())

    def prove(self, tasks: Sequence[Task], version: int, *, fault: Fault | None) -> dict[str, float]:
        self._called(f"prove {version}")
        return {"proven_tensors": 1.0, "total_tensors": 1.0, "canary_error": 0.0, "canary_bound": 0.1}

    def lost_graders(self) -> int:
        return 0

    def keep_records(self, folder: Path, *, until: int) -> None:
        self.step = self.resumed = until
        self.trained, self.under_way = [], []

    def rollout(self, tasks: Sequence[Task], seeds: Sequence[int], *, group_size: int, greedy: bool = False) -> Any:
        self._called("evaluate" if greedy else "sample")
        return [(make_header(), one) for one in tasks]

    def submit(self, errand: Errand) -> None:
        call, seed = f"rollout {self.step + 1}", errand.seed
        self.drawn.append((self.step + 1, errand.task.id, seed))
        values = (1.0, 1.0) if self.flat(seed) else self.values.get(self.step + 1, (1.0, 0.0))
        header = make_header(values, version=self.step, reasons=["reward:sour: broke"] * sum(v != v for v in values))
        arrival = Arrival(errand=errand, header=header, group=errand.task)
        if self.calls[-1:] == [call]:
            self.under_way.append(arrival)
        else:
            self._begun(call, arrival)

    def fetch(self, references: Sequence[Task]) -> list[Group]:
        right, abstained = (Grade(verdict=v, score=s) for v, s in ((Verdict.CORRECT, 1.0), (Verdict.ABSTAINED, 0.0)))
        limit = self.abstains * len(references) if self.step else 0
        grades = [abstained if place < limit else right for place in range(len(references))]
        return [
            Group(group_id=of.id, task=of, rollouts=(rollout("2", of=of),), grades=(grade,), values=())  # type: ignore[arg-type]
            for of, grade in zip(references, grades, strict=True)
        ]

    def render_demonstrations(self, conversations: Sequence[Any]) -> list[Any]:
        return [(np.arange(5), np.arange(3)) for _ in conversations]

    def warm_start(self, demonstrations: Sequence[Any], settings: Any) -> Iterator[dict[str, float]]:
        for update in range(updates_of(len(demonstrations), settings)):
            self._called(f"fit {update + 1}")
            yield {"update": update + 1, "loss": 3.0 - update}

    def refer_to(self, folder: Path) -> None:
        self._called(f"refer to {folder.name}")

    def learn(self, references: Sequence[Any], totals: Any) -> None:
        self._begun(f"learn {len(self.trained) + self.resumed + 1}", Learned(metrics={}))
        self.learned.append((len(references), totals.sequences))
        self.trained.append([one.id for one in references])
        self.ahead.append(sum(isinstance(event, Committed) for event in self.under_way))

    def publish(self, version: int) -> None:
        self._begun(f"publish {version}", Committed(version=version, receipts=[]))

    def record(self, step: int, arrived: Any) -> None:
        self._called(f"record {step}")

    def recorded(self) -> None:
        self._called("recorded")

    def save(self, folder: Path, facts: dict[str, Any]) -> None:
        self._called(f"save {facts['step']}")
        (folder / "trainer").mkdir(parents=True, exist_ok=True)
        (folder / "trainer" / "facts.json").write_text(json.dumps(facts))


def recipe(**changes: object) -> Recipe:
    plain: dict[str, Any] = {
        "name": "r", "steps": 3, "model": {"path": "m"}, "environment": {"name": "e"}, "reward": ({"name": "w"},),
        "rollout": {"prompts_per_step": 2, "group_size": 2}, "eval": {"tasks": 2}, "checkpoint": {"every": 0},
        "guard": {"dead_steps": 1},
    }  # fmt: skip
    return Recipe.model_validate(plain | changes)


def warming(tmp_path: Path, **changes: Any) -> Recipe:
    """Make a recipe that starts with two demonstrations, seen twice."""
    (tmp_path / "shown.jsonl").write_text('{"prompt": "1 + 1", "reply": "2"}\n{"prompt": "1 + 2", "reply": "3"}\n')
    return recipe(sft={"demonstrations": str(tmp_path / "shown.jsonl"), "epochs": 2, "batch_size": 1}, **changes)


def run(folder: Path, *, said: Path | None = None, **given: Any) -> dict[str, Any]:
    with (said or folder.with_name("said")).open("w") as file:
        view = RunView("r", steps=3, console=Console(file=file, width=400))
        return driver.train(given.pop("recipe", recipe()), run_dir=folder, view=view, **given)
