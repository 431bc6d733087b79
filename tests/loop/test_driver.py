"""The story of a run, told with a cluster that only remembers what it was asked for."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from helpers import NAN, make_header
from rich.console import Console

from rlvr.config import Recipe
from rlvr.errors import CheckpointError, ConfigError, GradingError, LearnerError
from rlvr.loop import driver
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
        self.calls: list[str] = []
        self.step = 0
        self.values: dict[int, tuple[float, ...]] = {}  # by step
        self.fails: dict[str, Exception] = {}  # by the call that fails
        self.presses: dict[str, int] = {}  # Ctrl-C after a call
        self.abstains = 0.0  # share of the evaluation that is abstained on after training

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

    def restore(self, folder: Path) -> dict[str, Any]:
        return {"step": int(folder.name.partition("-")[2]), "recipe": recipe().model_dump(mode="json")}

    def prove(self, tasks: Sequence[Task], version: int, *, fault: Fault | None) -> dict[str, float]:
        self._called(f"prove {version}")
        return {"proven_tensors": 1.0, "total_tensors": 1.0, "canary_error": 0.0, "canary_bound": 0.1}

    def lost_graders(self) -> int:
        return 0

    def keep_records(self, folder: Path, *, until: int) -> None:
        self.step = until

    def rollout(self, tasks: Sequence[Task], seeds: Sequence[int], *, group_size: int, greedy: bool = False) -> Any:
        if greedy:
            self._called("evaluate")
            return [(make_header(), one) for one in tasks]
        values = self.values.get(self.step + 1, (1.0, 0.0))
        reasons = ["reward:sour: broke"] * sum(value != value for value in values)
        return [(make_header(values, version=self.step, reasons=reasons), one) for one in tasks]

    def fetch(self, references: Sequence[Task]) -> list[Group]:
        right, abstained = (Grade(verdict=v, score=s) for v, s in ((Verdict.CORRECT, 1.0), (Verdict.ABSTAINED, 0.0)))
        limit = self.abstains * len(references) if self.step else 0
        grades = [abstained if place < limit else right for place in range(len(references))]
        return [
            Group(group_id=of.id, task=of, rollouts=(rollout("2", of=of),), grades=(grade,), values=())  # type: ignore[arg-type]
            for of, grade in zip(references, grades, strict=True)
        ]

    def learn(self, references: Sequence[Any], totals: Any) -> dict[str, float]:
        self._called(f"learn {self.step + 1}")
        return {}

    def publish(self, version: int) -> list[Any]:
        self._called(f"publish {version}")
        self.step = version
        return []

    def record(self, step: int, arrived: Any) -> None:
        self._called(f"record {step}")

    def recorded(self) -> None:
        self._called("recorded")

    def save(self, folder: Path, facts: dict[str, Any]) -> None:
        self._called(f"save {facts['step']}")
        (folder / "trainer").mkdir(parents=True, exist_ok=True)
        (folder / "trainer" / "facts.json").write_text("{}")


def recipe(**changes: object) -> Recipe:
    plain: dict[str, Any] = {
        "name": "r", "steps": 3, "model": {"path": "m"}, "environment": {"name": "e"}, "reward": ({"name": "w"},),
        "rollout": {"prompts_per_step": 2, "group_size": 2}, "eval": {"tasks": 2}, "checkpoint": {"every": 0},
        "guard": {"dead_steps": 1},
    }  # fmt: skip
    return Recipe.model_validate(plain | changes)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    made = FakeCluster()
    monkeypatch.setattr(driver, "Cluster", lambda *_, **__: made)
    monkeypatch.setattr(driver, "prepare", Path)
    monkeypatch.setattr(driver.plugins, "create", lambda *_: Sums())
    return made


def run(folder: Path, *, said: Path | None = None, **settings: Any) -> dict[str, Any]:
    with (said or folder.with_name("said")).open("w") as file:
        view = RunView("r", steps=3, console=Console(file=file, width=400))
        return driver.train(settings.pop("recipe", recipe()), run_dir=folder, view=view, **settings)


def test_a_step_records_its_rollouts_before_it_learns(cluster: FakeCluster, tmp_path: Path) -> None:
    summary = run(tmp_path / "r")
    assert summary["steps"] == 3
    for step in (1, 2, 3):
        assert cluster.calls.index(f"record {step}") < cluster.calls.index(f"learn {step}")
    assert cluster.calls.index("recorded") < cluster.calls.index("save 3")


@pytest.mark.parametrize("call", ["learn 2", "publish 2"])
def test_a_failure_waits_for_the_rollouts_that_it_points_at(cluster: FakeCluster, tmp_path: Path, call: str) -> None:
    cluster.fails = {call: LearnerError("look at the rollouts of this step")}
    with pytest.raises(LearnerError, match=r"^look at the rollouts of this step$"):
        run(tmp_path / "r")
    assert cluster.calls[-1] == "recorded"
    assert "record 2" in cluster.calls


def test_a_failing_recorder_does_not_hide_the_failure(cluster: FakeCluster, tmp_path: Path) -> None:
    cluster.fails = {"learn 1": LearnerError("diverged"), "recorded": ConfigError("no disk")}
    with pytest.raises(LearnerError, match="diverged"):
        run(tmp_path / "r")


@pytest.mark.parametrize(("values", "kind"), [((1.0, 1.0), LearnerError), ((NAN, NAN), GradingError)])
def test_the_guard_saves_the_last_whole_step(
    cluster: FakeCluster, tmp_path: Path, values: tuple[float, ...], kind: type[Exception]
) -> None:
    cluster.values = {3: values}
    with pytest.raises(kind, match=r"^step 3: .*; step 2 is saved, go on with --resume$"):
        run(tmp_path / "r")
    assert "save 2" in cluster.calls
    assert "record 3" in cluster.calls


def test_the_guard_saves_nothing_twice_and_nothing_before_the_first_step(cluster: FakeCluster, tmp_path: Path) -> None:
    cluster.values = {1: (1.0, 1.0), 3: (1.0, 1.0)}
    with pytest.raises(LearnerError, match=r"step 1: (?!.*is saved)"):
        run(tmp_path / "r")
    del cluster.values[1]
    with pytest.raises(LearnerError, match=r"step 3: (?!.*is saved)"):
        run(tmp_path / "s", recipe=recipe(checkpoint={"every": 2}))
    assert cluster.calls.count("save 2") == 1


def test_a_save_that_fails_does_not_hide_why_the_run_stops(cluster: FakeCluster, tmp_path: Path) -> None:
    cluster.values, cluster.fails = {2: (1.0, 1.0)}, {"save 1": CheckpointError("no disk")}
    with pytest.raises(LearnerError, match=r"step 2: (?!.*is saved)"):
        run(tmp_path / "r")


@pytest.mark.parametrize("call", ["prove 0", "learn 2", "publish 3", "save 3"])
def test_a_stop_is_promised_and_kept_in_every_phase(cluster: FakeCluster, tmp_path: Path, call: str) -> None:
    cluster.presses = {call: 1}
    with pytest.raises(driver.Interrupted, match=r"stopped after step \d of 3 and saved"):
        run(tmp_path / "r")
    assert cluster.calls[-1].startswith("save ")
    assert "the run stops before its next step and is saved; press Ctrl-C" in (tmp_path / "said").read_text()


def test_a_stop_after_training_promises_no_saving(cluster: FakeCluster, tmp_path: Path) -> None:
    original = cluster._called

    def called(call: str) -> None:
        original(call)
        if call == "evaluate" and cluster.calls.count("evaluate") == 2:
            signal.raise_signal(signal.SIGINT)

    cluster._called = called  # type: ignore[method-assign]
    assert run(tmp_path / "r", recipe=recipe(steps=1))["steps"] == 1
    said = (tmp_path / "said").read_text()
    assert "training is over and saved, the run ends after this evaluation; press Ctrl-C again" in said


def test_a_run_on_other_tasks_than_before_ends_without_a_gain(cluster: FakeCluster, tmp_path: Path) -> None:
    folder = tmp_path / "r"
    run(folder, recipe=recipe(steps=1))
    line = (folder / "eval_before.jsonl").read_text().replace('"task_id": "', '"task_id": "other-')
    (folder / "eval_before.jsonl").write_text(line)
    summary = run(folder, resume=True)
    assert "gain" not in summary
    assert summary["eval_after"]["accuracy"] == 1.0


def test_abstention_that_spreads_to_what_the_model_knew_is_a_warning(cluster: FakeCluster, tmp_path: Path) -> None:
    cluster.abstains = 0.5
    careful = recipe(eval={"tasks": 40, "every": 2})
    summary = run(tmp_path / "r", recipe=careful)
    said = (tmp_path / "said").read_text()
    assert said.count("abstention spreads to what the model knew: 50.0 % [35.2, 64.8] of 40 tasks") == 2
    assert "eval at step 2: 50.0 %" in said
    assert summary["eval_after"]["unc"]["estimate"] == 0.5
    assert summary["gains"]["truthfulness"]["points"] == -50.0
    metrics = (tmp_path / "r" / "metrics.jsonl").read_text()
    assert '"eval_unc": 0.5' in metrics and '"graders_lost": 0' in metrics


def test_a_few_abstentions_are_no_warning(cluster: FakeCluster, tmp_path: Path) -> None:
    cluster.abstains = 0.05
    run(tmp_path / "r", recipe=recipe(eval={"tasks": 40}))
    assert "abstention spreads" not in (tmp_path / "said").read_text()


def test_a_fault_at_a_version_that_is_past_is_refused(cluster: FakeCluster, tmp_path: Path) -> None:
    run(tmp_path / "r", recipe=recipe(steps=2))
    with pytest.raises(ConfigError, match="version 1 is past, the run goes on from version 2"):
        run(tmp_path / "r", resume=True, fault=Fault(kind="weights.drop", version=1))


def test_the_recipe_decides_how_old_a_group_may_be(
    cluster: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    original = driver.Buffer
    monkeypatch.setattr(driver, "Buffer", lambda **settings: made.append(settings) or original(**settings))
    patient = recipe()
    rollout = patient.rollout.model_copy(update={"max_staleness": 3})
    run(tmp_path / "r", recipe=patient.model_copy(update={"rollout": rollout}))
    assert made == [{"max_staleness": 3, "flat_groups_have_no_gradient": True}]
