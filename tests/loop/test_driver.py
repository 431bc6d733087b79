"""The story of a run, told with a cluster that only remembers what it was asked for."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cluster import FakeCluster, recipe, run, warming
from helpers import NAN
from rich.console import Console

from rlvr.config import Recipe
from rlvr.errors import ConfigError, EngineError, GradingError, LearnerError
from rlvr.loop import driver, settings
from rlvr.observe.metrics import read_lines
from rlvr.observe.progress import RunView
from rlvr.weights.service import Fault


def test_a_step_records_its_rollouts_before_it_learns(cluster: FakeCluster, tmp_path: Path) -> None:
    summary = run(tmp_path / "r")
    assert summary["steps"] == 3
    for step in (1, 2, 3):
        assert cluster.calls.index(f"record {step}") < cluster.calls.index(f"learn {step}")
    assert cluster.calls.index("recorded") < cluster.calls.index("save 3")


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


def test_a_resumed_run_keeps_its_precision_on_another_processor(
    cluster: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for steps, instructions in ((2, ""), (3, "amx_bf16")):
        monkeypatch.setattr(settings, "bfloat16_instructions", lambda found=instructions: found)
        run(tmp_path / "r", recipe=recipe(steps=steps), resume=steps == 3)
        config = json.loads((tmp_path / "r" / "config.json").read_text())
        assert (config["steps"], config["hardware"]["precision"]) == (steps, "bfloat16_weights")
    other = recipe(steps=4, hardware={"precision": "bfloat16"})
    with pytest.raises(ConfigError, match=r"--resume: \[hardware\] differs"):
        run(tmp_path / "r", recipe=other, resume=True)


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
    assert sum(line["refills"] for line in lines) == len(cluster.drawn) - 15 > 0
    for line, (trained, sequences) in zip(lines, cluster.learned, strict=True):
        dropped = line["groups"] - line["groups_train"]
        assert line["groups_flat"] == dropped == line["flat"] * line["groups"]
        assert line["idle_tokens"] == 20 * dropped
        assert (trained, sequences) == (line["groups_train"], 2 * line["groups_train"]) == (3, 6)
        assert line["refills"] == dropped


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
    assert cluster.calls == ["prove 0", "sample"]
    assert given.adapter.kind == "loftq", "the recipe itself is untouched"


def test_a_refill_that_fails_leaves_the_groups_before_it_on_disk(cluster: FakeCluster, tmp_path: Path) -> None:
    cluster.flat = lambda seed: True
    original, arrived = cluster.submit, []

    def submit(errand: Any) -> None:
        original(errand)
        if errand.ticket == 5:
            cluster.under_way[-1] = EngineError("the engine is gone")

    def record(step: int, groups: Any) -> None:
        arrived.append((step, len(groups)))
        raise ConfigError("no disk")

    cluster.submit, cluster.record = submit, record  # type: ignore[method-assign]
    with pytest.raises(EngineError, match="the engine is gone"):
        run(tmp_path / "r", recipe=dynamic())
    assert arrived == [(1, 5)]


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


def ahead(eta: int, **changes: Any) -> Recipe:
    rollout = {"prompts_per_step": 3, "group_size": 2, "max_staleness": eta}
    return recipe(rollout=rollout, steps=6, **changes)


@pytest.mark.parametrize("eta", [1, 2, 4])
@pytest.mark.parametrize("how", ["stop", "guard", "crash"])
def test_a_resumed_run_trains_what_was_outstanding_and_nothing_twice(
    cluster: FakeCluster, tmp_path: Path, eta: int, how: str
) -> None:
    order = np.random.default_rng(eta)
    cluster.picks = lambda count: int(order.integers(count))
    given = ahead(eta, checkpoint={"every": 2})
    run(tmp_path / "whole", recipe=given)
    whole = sorted(name for step in cluster.trained for name in step)
    cluster.drawn = []
    if how == "stop":
        cluster.presses = {"learn 3": 1}
        with pytest.raises(driver.Interrupted, match="stopped after step 3 of 6 and saved"):
            run(tmp_path / "r", recipe=given)
    elif how == "guard":  # sooner or later a step has no other groups
        cluster.values = dict.fromkeys(range(2, 7), (1.0, 1.0))
        with pytest.raises(LearnerError, match="no reply was worth more than another"):
            run(tmp_path / "r", recipe=given)
    else:
        cluster.fails = {"learn 4": LearnerError("the learner is gone")}
        with pytest.raises(LearnerError, match="gone"):
            run(tmp_path / "r", recipe=given)
    saved = max((tmp_path / "r" / "checkpoints").iterdir())
    facts = json.loads((saved / "trainer" / "facts.json").read_text())
    first = [name for step in cluster.trained[: facts["step"]] for name in step]
    assert facts["tasks"] == len(first) + len(facts["outstanding"])
    cluster.presses, cluster.values, cluster.fails, cluster.drawn = {}, {}, {}, []
    run(tmp_path / "r", recipe=given, resume=True)
    outstanding = [name for _, name, _ in cluster.drawn][: len(facts["outstanding"])]
    assert not set(outstanding) & set(first), "what trained is not sampled again"
    assert sorted([*first, *(name for step in cluster.trained for name in step)]) == whole
    assert [line["step"] for line in read_lines(tmp_path / "r" / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]


def test_an_evaluation_has_the_weights_of_its_step_and_groups_go_on_beside_it(
    cluster: FakeCluster, tmp_path: Path
) -> None:
    original, seen = cluster._called, []

    def called(call: str) -> None:
        original(call)
        if call == "evaluate":
            seen.append((cluster.step, len(cluster.under_way) > 0))

    cluster._called = called  # type: ignore[method-assign]
    run(tmp_path / "r", recipe=ahead(2, eval={"tasks": 2, "every": 2}))
    assert seen == [(0, False), (2, True), (4, False), (6, False)], "all are sampled by step 4"


def test_the_age_of_groups_is_in_the_metrics(cluster: FakeCluster, tmp_path: Path) -> None:
    run(tmp_path / "r", recipe=ahead(2))
    lines = read_lines(tmp_path / "r" / "metrics.jsonl")
    assert [line["outstanding"] for line in lines] == [6, 3, 3, 3, 3, 0]
    for line in lines:
        assert line["staleness_0"] + line["staleness_1"] + line["staleness_2"] == pytest.approx(1)
        assert 0 <= line["staleness"] <= line["staleness_max"] <= 2
        assert line["groups_stale"] == 0 and line["waited"] >= 0
    assert lines[-1]["staleness_max"] == 2
