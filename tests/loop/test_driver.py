"""The story of a run, told with a cluster that only remembers what it was asked for."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import NAN, make_header
from rich.console import Console

from rlvr.config import Recipe
from rlvr.errors import CheckpointError, ConfigError, EngineError, GradingError, LearnerError, NonFiniteError
from rlvr.learner.sft import updates_of
from rlvr.loop import driver, settings
from rlvr.loop.replay import load_batch
from rlvr.observe.metrics import read_lines
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
        self.step = 0
        self.values: dict[int, tuple[float, ...]] = {}  # by step
        self.fails: dict[str, Exception] = {}  # by the call that fails
        self.presses: dict[str, int] = {}  # Ctrl-C after a call
        self.abstains = 0.0  # share of the evaluation that is abstained on after training
        self.learned: list[tuple[int, int]] = []  # groups and the denominator of each step
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

    def restore(self, folder: Path) -> dict[str, Any]:
        return json.loads((folder / "trainer" / "facts.json").read_text())

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
        self._called(f"rollout {self.step + 1}")
        self.drawn += [(self.step + 1, one.id, seed) for one, seed in zip(tasks, seeds, strict=True)]
        values = [(1.0, 1.0) if self.flat(seed) else self.values.get(self.step + 1, (1.0, 0.0)) for seed in seeds]
        reasons = [["reward:sour: broke"] * sum(one != one for one in own) for own in values]
        return [
            (make_header(own, version=self.step, reasons=why), one)
            for one, own, why in zip(tasks, values, reasons, strict=True)
        ]

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

    def learn(self, references: Sequence[Any], totals: Any) -> dict[str, float]:
        self._called(f"learn {self.step + 1}")
        self.learned.append((len(references), totals.sequences))
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
        (folder / "trainer" / "facts.json").write_text(json.dumps(facts))


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

    def make(given: Recipe, **_: Any) -> FakeCluster:
        made.recipe = given
        return made

    monkeypatch.setattr(driver, "Cluster", make)
    monkeypatch.setattr(driver, "prepare", Path)
    monkeypatch.setattr(driver.plugins, "create", lambda *_: Sums())
    return made


def run(folder: Path, *, said: Path | None = None, **given: Any) -> dict[str, Any]:
    with (said or folder.with_name("said")).open("w") as file:
        view = RunView("r", steps=3, console=Console(file=file, width=400))
        return driver.train(given.pop("recipe", recipe()), run_dir=folder, view=view, **given)


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
    original = settings.Buffer
    monkeypatch.setattr(settings, "Buffer", lambda **given: made.append(given) or original(**given))
    patient = recipe()
    rollout = patient.rollout.model_copy(update={"max_staleness": 3})
    run(tmp_path / "r", recipe=patient.model_copy(update={"rollout": rollout}))
    assert made == [{"max_staleness": 3, "flat_groups_have_no_gradient": True, "flat_groups_count": True, "least": 2}]


def dynamic(**changes: Any) -> Recipe:
    rollout = {"prompts_per_step": 3, "group_size": 2, "dynamic_sampling": True, "max_refills": 4}
    return recipe(rollout=rollout, steps=5, **changes)


def test_dynamic_sampling_is_counted(cluster: FakeCluster, tmp_path: Path) -> None:
    cluster.flat = lambda seed: seed % 2 == 0
    run(tmp_path / "r", recipe=dynamic())
    lines = read_lines(tmp_path / "r" / "metrics.jsonl")
    assert sum(line["refills"] for line in lines) == sum(c.startswith("rollout") for c in cluster.calls) - 5 > 0
    for line, (trained, sequences) in zip(lines, cluster.learned, strict=True):
        dropped = line["groups"] - line["groups_train"]
        assert line["groups_flat"] == dropped == line["flat"] * line["groups"]
        assert line["idle_tokens"] == 20 * dropped
        assert (trained, sequences) == (line["groups_train"], 2 * line["groups_train"])
        assert trained == 3 or line["refills"] == 4


def test_without_dynamic_sampling_flat_groups_are_in_the_denominator(cluster: FakeCluster, tmp_path: Path) -> None:
    cluster.flat = lambda seed: seed % 2 == 0
    run(tmp_path / "r", recipe=recipe(rollout={"prompts_per_step": 9, "group_size": 2}))
    assert {sequences for _, sequences in cluster.learned} == {18}
    assert min(trained for trained, _ in cluster.learned) < 9
    assert "refills" not in read_lines(tmp_path / "r" / "metrics.jsonl")[0]


@pytest.mark.parametrize("how", ["stop", "guard"])
def test_a_resumed_run_draws_what_the_whole_run_draws(cluster: FakeCluster, tmp_path: Path, how: str) -> None:
    cluster.flat = lambda seed: seed % 3 == 0
    run(tmp_path / "whole", recipe=dynamic())
    whole, cluster.drawn, cluster.step = cluster.drawn, [], 0
    assert len(whole) > 15 and len({seed for *_, seed in whole}) == len(whole)
    if how == "stop":
        cluster.presses = {"learn 3": 1}
        with pytest.raises(driver.Interrupted):
            run(tmp_path / "r", recipe=dynamic())
    else:  # in the middle of a step, whose tasks the stream has given out already
        cluster.values = {4: (NAN, NAN)}
        with pytest.raises(GradingError, match="step 3 is saved"):
            run(tmp_path / "r", recipe=dynamic())
    cluster.presses, cluster.values, cluster.calls = {}, {}, []
    before = [one for one in cluster.drawn if one[0] <= 3]
    cluster.drawn = []
    run(tmp_path / "r", recipe=dynamic(), resume=True)
    assert before + cluster.drawn == whole


def test_a_broken_grader_stops_the_step_before_it_is_sampled_again(cluster: FakeCluster, tmp_path: Path) -> None:
    cluster.values = {1: (NAN, NAN)}
    with pytest.raises(GradingError, match="step 1: 6 of 6 replies went ungraded"):
        run(tmp_path / "r", recipe=dynamic())
    assert cluster.calls.count("rollout 1") == 1


def warming(tmp_path: Path, **changes: Any) -> Recipe:
    """Make a recipe that starts with two demonstrations, seen twice."""
    (tmp_path / "shown.jsonl").write_text('{"prompt": "1 + 1", "reply": "2"}\n{"prompt": "1 + 2", "reply": "3"}\n')
    return recipe(sft={"demonstrations": str(tmp_path / "shown.jsonl"), "epochs": 2, "batch_size": 1}, **changes)


def test_a_warm_start_stands_between_the_first_evaluation_and_the_first_step(
    cluster: FakeCluster, tmp_path: Path
) -> None:
    summary = run(tmp_path / "r", recipe=warming(tmp_path))
    stages = [*("prove -1", "evaluate"), *(f"fit {n}" for n in (1, 2, 3, 4)), *("publish 0", "save 0", "evaluate"),
              "rollout 1"]  # fmt: skip
    assert cluster.calls[: len(stages)] == stages
    assert [line["update"] for line in read_lines(tmp_path / "r" / "sft.jsonl")] == [1, 2, 3, 4]
    assert {"eval_before", "eval_after_sft", "eval_after", "gain", "gain_sft", "gain_rl"} <= summary.keys()
    assert (tmp_path / "r" / "eval_after_sft.jsonl").exists()
    said = (tmp_path / "said").read_text()
    assert "warm start on 2 demonstrations: 4 updates, loss 3.000 to 0.000" in said
    assert "eval after the warm start: 100.0 %" in said


def test_the_gain_is_that_of_the_whole_run(cluster: FakeCluster, tmp_path: Path) -> None:
    summary = run(tmp_path / "r", recipe=warming(tmp_path))
    after_sft = (tmp_path / "r" / "eval_after_sft.jsonl").read_text().replace("CORRECT", "WRONG")
    (tmp_path / "r" / "eval_after_sft.jsonl").write_text(after_sft)
    summary = run(tmp_path / "r", recipe=warming(tmp_path), resume=True)
    gains = {name: summary[name]["points"] for name in ("gain", "gain_sft", "gain_rl")}
    assert gains == {"gain": 0.0, "gain_sft": -100.0, "gain_rl": 100.0}


def test_a_run_without_a_warm_start_says_nothing_of_one(cluster: FakeCluster, tmp_path: Path) -> None:
    summary = run(tmp_path / "r")
    assert not {"eval_after_sft", "gain_sft", "gain_rl"} & summary.keys()
    assert cluster.calls[0] == "prove 0"


def test_a_resumed_run_does_not_warm_up_again(cluster: FakeCluster, tmp_path: Path) -> None:
    cluster.fails = {"learn 1": ConfigError("no disk")}
    with pytest.raises(ConfigError):
        run(tmp_path / "r", recipe=warming(tmp_path))
    cluster.fails, cluster.calls = {}, []
    run(tmp_path / "r", recipe=warming(tmp_path), resume=True)
    assert cluster.calls[:2] == ["prove 0", "rollout 1"], "both evaluations are known, the weights are restored"
    assert not any(call.startswith("fit") for call in cluster.calls)


def test_a_warm_start_that_was_stopped_begins_anew(cluster: FakeCluster, tmp_path: Path) -> None:
    cluster.presses = {"fit 2": 1}
    with pytest.raises(driver.Interrupted, match=r"^stopped within the warm start, which begins anew$"):
        run(tmp_path / "r", recipe=warming(tmp_path))
    assert (
        "the warm start stops after its update under way, and begins anew with --resume; press Ctrl-C"
        in (tmp_path / "said").read_text()
    )
    assert cluster.calls[-1] == "fit 2"
    cluster.presses, cluster.calls = {}, []
    run(tmp_path / "r", recipe=warming(tmp_path), resume=True)
    assert cluster.calls[:5] == ["prove -1", *(f"fit {n}" for n in (1, 2, 3, 4))]
    assert [line["update"] for line in read_lines(tmp_path / "r" / "sft.jsonl")] == [1, 2, 3, 4]
    cluster.presses = {"learn 1": 1}
    with pytest.raises(driver.Interrupted, match="after step 1 of 3 and saved"):
        run(tmp_path / "s", recipe=warming(tmp_path))
    assert "the run stops before its next step and is saved" in (tmp_path / "said").read_text()


def test_a_stop_in_the_last_update_of_a_warm_start_throws_nothing_away(cluster: FakeCluster, tmp_path: Path) -> None:
    cluster.presses = {"fit 4": 1}
    with pytest.raises(driver.Interrupted, match=r"^stopped after step 0 of 3 and saved in "):
        run(tmp_path / "r", recipe=warming(tmp_path))
    said = (tmp_path / "said").read_text()
    assert "the run stops before its next step and is saved" in said and "begins anew" not in said
    cluster.presses, cluster.calls = {}, []
    run(tmp_path / "r", recipe=warming(tmp_path), resume=True)
    assert not any(call.startswith("fit") for call in cluster.calls)


def test_an_update_of_a_warm_start_that_is_not_finite_names_its_demonstrations(
    cluster: FakeCluster, tmp_path: Path
) -> None:
    cluster.fails = {"fit 2": NonFiniteError("warm start, update 2: look at the demonstrations")}
    pairs = [{"prompt": f"{n}", "reply": f"{n}"} for n in range(14)]
    (tmp_path / "shown.jsonl").write_text("\n".join(json.dumps(pair) for pair in pairs))
    with pytest.raises(NonFiniteError) as caught:
        run(tmp_path / "r", recipe=recipe(sft={"demonstrations": str(tmp_path / "shown.jsonl"), "batch_size": 6}))
    second = np.random.default_rng([0, 0]).permutation(14)[6:12]
    named = ", ".join(f"{tmp_path}/shown.jsonl line {index + 1}" for index in second[:4])
    assert str(caught.value) == f"warm start, update 2: look at the demonstrations: {named} and 2 others"


def test_a_warm_up_that_the_warm_start_never_ends_is_refused(cluster: FakeCluster, tmp_path: Path) -> None:
    given = warming(tmp_path)
    assert given.sft
    for steps in (3, 2, 1):
        sft = given.sft.model_copy(update={"warmup_steps": steps, "epochs": 1})
        if steps == 3:
            with pytest.raises(ConfigError, match=r"^sft.warmup_steps = 3 is above the 2 updates of the warm start"):
                run(tmp_path / "r", recipe=given.model_copy(update={"sft": sft}))
            assert not (tmp_path / "r" / "sft.jsonl").exists()
        else:
            run(tmp_path / "r", recipe=given.model_copy(update={"sft": sft}))


def test_a_warm_start_that_is_resumed_with_another_recipe_is_refused(cluster: FakeCluster, tmp_path: Path) -> None:
    cluster.presses = {"fit 2": 1}
    with pytest.raises(driver.Interrupted):
        run(tmp_path / "r", recipe=warming(tmp_path))
    cluster.recipe = None
    with pytest.raises(ConfigError, match=r"\[seed\] differs"):
        run(tmp_path / "r", recipe=warming(tmp_path, seed=3), resume=True)
    assert cluster.recipe is None, "no engine is started to say so"
    with pytest.raises(CheckpointError, match="holds no checkpoint to resume from"):
        run(tmp_path / "nowhere", recipe=warming(tmp_path), resume=True)


def test_the_model_after_the_warm_start_stays_and_is_what_a_kl_refers_to(cluster: FakeCluster, tmp_path: Path) -> None:
    kl = {"kl": "loss", "kl_coefficient": 0.1}
    run(tmp_path / "r", recipe=warming(tmp_path, algorithm=kl, checkpoint={"every": 1}))
    assert cluster.calls.index("save 0") < cluster.calls.index("refer to step-000000") < cluster.calls.index("learn 1")
    assert sorted(p.name for p in (tmp_path / "r" / "checkpoints").iterdir()) == ["step-000000", "step-000003"]


def test_a_step_that_the_learner_cannot_take_is_kept_with_its_weights(cluster: FakeCluster, tmp_path: Path) -> None:
    cluster.fails = {"learn 3": NonFiniteError("step 3: not finite")}
    with pytest.raises(NonFiniteError) as caught:
        run(tmp_path / "r r")
    assert str(caught.value) == f"step 3: not finite; replay it with: rlvr replay '{tmp_path}/r r' --step 3"
    kept = load_batch(tmp_path / "r r" / "failed" / "step-000003")
    assert (kept.step, len(kept.groups), kept.error) == (3, 2, "step 3: not finite")
    assert kept.totals.sequences == 4
    assert (tmp_path / "r r" / "checkpoints" / "step-000002").is_dir()


def test_weights_within_a_step_are_no_checkpoint(cluster: FakeCluster, tmp_path: Path) -> None:
    cluster.fails = {"learn 3": NonFiniteError("step 3: not finite")}
    with pytest.raises(LearnerError, match="replay it with"):
        run(tmp_path / "r", recipe=recipe(algorithm={"minibatches": 2}))
    assert not list((tmp_path / "r" / "checkpoints").iterdir())
    assert (tmp_path / "r" / "failed" / "step-000003" / "weights" / "trainer" / "facts.json").is_file()


def test_a_batch_that_cannot_be_kept_does_not_hide_the_failure(cluster: FakeCluster, tmp_path: Path) -> None:
    cluster.fails = {"learn 2": NonFiniteError("not finite"), "save 1": CheckpointError("no disk")}
    with pytest.raises(NonFiniteError, match=r"^not finite; its batch could not be kept: no disk$"):
        run(tmp_path / "r")


def test_a_model_is_evaluated_as_it_is(cluster: FakeCluster, tmp_path: Path) -> None:
    given = warming(
        tmp_path, adapter={"kind": "loftq"}, seed=4, rollout={"temperature": 0.5},
        algorithm={"preset": "ppo", "kl": "loss", "kl_coefficient": 0.1},
    )  # fmt: skip
    view = RunView("r", steps=0, console=Console(file=(tmp_path / "said").open("w")))
    driver.evaluate_model(given, view=view, samples=2, out=tmp_path / "eval.jsonl")
    told = cluster.recipe
    assert settings.adapter_of(told) is None and told.sft is None
    assert (settings.algorithm_of(told).critic, settings.algorithm_of(told).baseline) == (None, "group")
    assert settings.algorithm_of(told).kl == "none"
    assert (told.seed, told.rollout.temperature, told.model) == (4, 0.5, given.model)
    assert cluster.calls == ["prove 0", "rollout 1"]
    assert given.adapter.kind == "loftq", "the recipe itself is untouched"


def test_a_refill_that_fails_leaves_the_rounds_before_it_on_disk(cluster: FakeCluster, tmp_path: Path) -> None:
    cluster.flat = lambda seed: True
    original, arrived = cluster.rollout, []

    def rollout(tasks: Any, seeds: Any, **given: Any) -> Any:
        if cluster.calls.count("rollout 1"):
            raise EngineError("the engine is gone")
        return original(tasks, seeds, **given)

    def record(step: int, groups: Any) -> None:
        arrived.append((step, len(groups)))
        raise ConfigError("no disk")

    cluster.rollout, cluster.record = rollout, record  # type: ignore[method-assign]
    with pytest.raises(EngineError, match="the engine is gone"):
        run(tmp_path / "r", recipe=dynamic())
    assert arrived == [(1, 3)]


@pytest.mark.parametrize(
    "changes",
    [{"algorithm": {"preset": "dr_grpo"}}, {"adapter": {"kind": "lora"}}, {"rollout": {"group_size": 4}}],
)
def test_another_recipe_is_refused_before_anything_starts(
    cluster: FakeCluster, tmp_path: Path, changes: dict[str, Any]
) -> None:
    run(tmp_path / "r", recipe=recipe(steps=1))
    cluster.recipe = None
    with pytest.raises(ConfigError, match=rf"^--resume: \[{next(iter(changes))}\] differs from the run in "):
        run(tmp_path / "r", recipe=recipe(**changes), resume=True)
    assert cluster.recipe is None
