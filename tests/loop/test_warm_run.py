"""The story of a run that begins with a warm start."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from fake_cluster import FakeCluster, recipe, run, warming

from rlvr.errors import CheckpointError, ConfigError, NonFiniteError
from rlvr.loop import driver
from rlvr.observe.metrics import read_lines


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
