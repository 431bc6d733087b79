"""What is kept of a run that fails."""

from __future__ import annotations

from pathlib import Path

import pytest
from fake_cluster import FakeCluster, recipe, run
from helpers import NAN

from rlvr.errors import CheckpointError, ConfigError, GradingError, LearnerError, NonFiniteError
from rlvr.loop.replay import load_batch


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
