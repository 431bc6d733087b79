"""A failed step on disk, and computed again from there."""

from __future__ import annotations

import json
import math
import re
import shutil
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import NAN, make_group, make_learner, random_groups, totals_of
from typer.testing import CliRunner

from rlvr.cli import app
from rlvr.config import Recipe
from rlvr.errors import CheckpointError, ConfigError, NonFiniteError, ResourceError
from rlvr.learner.checkpoint import save
from rlvr.learner.step import Learner
from rlvr.loop.replay import FailedStep, load_batch, replay, save_batch
from rlvr.loop.settings import algorithm_of
from rlvr.types import Grade, Group, Ungraded, Verdict


def recipe(model: Path, **changes: Any) -> Recipe:
    plain: dict[str, Any] = {
        "name": "r", "steps": 4, "model": {"path": str(model)}, "environment": {"name": "e"},
        "reward": ({"name": "w"},), "hardware": {"precision": "float32", "threads": 1},
        "algorithm": {"learning_rate": 1e-3},
    }  # fmt: skip
    return Recipe.model_validate(plain | changes)


def sick_groups(value: float = NAN) -> tuple[list[Group], int]:
    """Make groups of which one reply has a log-probability that is not finite, and say which of group 1."""
    groups = random_groups()
    index = int(np.argmin(groups[1].values))
    rollouts = list(groups[1].rollouts)
    logprobs = rollouts[index].logprobs.copy()
    logprobs[0] = value
    rollouts[index] = replace(rollouts[index], logprobs=logprobs)
    groups[1] = make_group(rollouts, groups[1].values.tolist(), name="group 1")
    return groups, index


def failed_run(folder: Path, learner: Learner, groups: list[Group], given: Recipe, *, step: int) -> str:
    """Make the run directory of a run that failed at a step, as the driver leaves it. Gives the learner's sentence."""
    with pytest.raises(NonFiniteError) as caught:
        learner.step(groups, totals_of(groups))
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(given.model_dump_json())
    failed = FailedStep(step=step, totals=totals_of(groups), error=str(caught.value), groups=tuple(groups))
    save_batch(folder / "failed" / f"step-{step:06d}", failed)
    return str(caught.value)


def same(a: Any, b: Any) -> bool:
    return bool(np.array_equal(a, b, equal_nan=a.dtype.kind == "f")) if isinstance(a, np.ndarray) else a == b


def test_a_batch_comes_back_as_it_was(tmp_path: Path) -> None:
    first, second = random_groups(groups=2, turns=True)
    grades = (
        Ungraded(boundary="reward 'math'", reason="broke\n\ud800"),
        Grade(verdict=Verdict.ABSTAINED, score=0.0, parts={"format": 1.0}, why="\N{SNOWMAN}"),
        *first.grades[2:],
    )
    values = np.array([NAN, 0.0, 1.0, -1.0], dtype=np.float32)
    given = replace(first, grades=grades, values=values, task=replace(first.task, truth={"a": [1, None]}, tags=("x",)))
    before = FailedStep(step=7, totals=totals_of([given, second]), error="why", groups=(given, second))
    for _ in range(2):  # a second failure takes the place of the first
        save_batch(tmp_path / "failed" / "step-000007", before)
    after = load_batch(tmp_path / "failed" / "step-000007")
    assert (after.step, after.totals, after.error) == (7, before.totals, "why")
    for one, other in zip(before.groups, after.groups, strict=True):
        assert (one.group_id, one.task, one.grades) == (other.group_id, other.task, other.grades)
        assert same(one.values, other.values)
        for a, b in zip(one.rollouts, other.rollouts, strict=True):
            assert all(same(getattr(a, f.name), getattr(b, f.name)) for f in fields(a)), (
                "all but the messages: none here"
            )
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["batch.json", "batch.npz", "failed", "step-000007"]
    assert not any(
        array.dtype == object for array in np.load(tmp_path / "failed" / "step-000007" / "batch.npz").values()
    )


def test_a_batch_that_cannot_be_written_or_read_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "failed").write_text("a file")
    failed = FailedStep(step=7, totals=totals_of([]), error="", groups=())
    with pytest.raises(ResourceError, match=r"^the batch of step 7 cannot be written to "):
        save_batch(tmp_path / "failed" / "step-000007", failed)
    (tmp_path / "failed").unlink()
    save_batch(tmp_path / "failed" / "step-000007", failed)
    (tmp_path / "failed" / "step-000007" / "batch.npz").write_bytes(b"no archive")
    with pytest.raises(CheckpointError, match=r"^the batch in .* cannot be read: "):
        load_batch(tmp_path / "failed" / "step-000007")


@pytest.mark.parametrize("value", [math.nan, -1e4])
def test_the_first_step_is_replayed_from_the_model_itself(tied_model: Path, tmp_path: Path, value: float) -> None:
    given = recipe(tied_model)
    groups, index = sick_groups(value)
    learner = make_learner(tied_model, **vars_of(given))
    said = failed_run(tmp_path / "r", learner, groups, given, step=1)
    found = replay(tmp_path / "r", step=1)
    assert found.error == said, "the very same numbers"
    assert [(s.group_id, s.index) for s in found.samples if s.broken] == [("group 1", index)]


def vars_of(given: Recipe) -> dict[str, Any]:
    a = algorithm_of(given)
    return {f.name: getattr(a, f.name) for f in fields(a)}


def test_a_later_step_is_replayed_from_the_checkpoint_before_it(tied_model: Path, tmp_path: Path) -> None:
    given = recipe(tied_model)
    learner = make_learner(tied_model, **vars_of(given))
    sound = random_groups(seed=3)
    learner.step(sound, totals_of(sound))
    with torch.no_grad():
        learner.updater.masters["model.layers.0.mlp.up_proj.weight"][2] = math.inf
    folder, groups = tmp_path / "r", random_groups()
    said = failed_run(folder, learner, groups, given, step=2)
    save(learner, folder / "checkpoints" / "step-000001", facts={"step": 1})
    found = replay(folder, step=2)
    assert found.error == said
    assert {s.broken for s in found.samples} == {"the output of model.layers.0.mlp.up_proj"}

    shutil.move(folder / "checkpoints" / "step-000001", folder / "failed" / "step-000002" / "weights")
    assert str(replay(folder, step=2)) == str(found), "or from weights beside the batch"
    # what a resumed run may write there is another trajectory's
    save(make_learner(tied_model, **vars_of(given)), folder / "checkpoints" / "step-000001", facts={"step": 1})
    assert str(replay(folder, step=2)) == str(found), "which come first"
    shutil.rmtree(folder / "checkpoints" / "step-000001")
    shutil.rmtree(folder / "failed" / "step-000002" / "weights")
    gone = rf"^{folder}/checkpoints/step-000001, the weights that step 2 began with, is gone$"
    with pytest.raises(CheckpointError, match=gone):
        replay(folder, step=2)
    failed_run(folder, make_learner(tied_model, **vars_of(given)), sick_groups()[0], given, step=1)
    with pytest.raises(CheckpointError, match=r"is gone; what can be replayed is step 1$"):
        replay(folder, step=2)


def test_a_step_that_did_not_fail_is_one_sentence(tied_model: Path, tmp_path: Path) -> None:
    given = recipe(tied_model)
    failed_run(tmp_path / "r", make_learner(tied_model, **vars_of(given)), sick_groups()[0], given, step=1)
    with pytest.raises(
        ConfigError, match=r"holds no batch of step 3: only steps that failed keep theirs, here step 1$"
    ):
        replay(tmp_path / "r", step=3)
    shutil.rmtree(tmp_path / "r" / "failed")
    with pytest.raises(ConfigError, match="keep theirs, here none"):
        replay(tmp_path / "r", step=1)
    with pytest.raises(ConfigError, match=r"config.json cannot be read \(FileNotFoundError.*\); name a run directory"):
        replay(tmp_path / "nowhere", step=1)


def test_the_command_tells_sick_from_sound(tied_model: Path, tmp_path: Path) -> None:
    given = recipe(tied_model)
    groups, index = sick_groups()
    failed_run(tmp_path / "r", make_learner(tied_model, **vars_of(given)), groups, given, step=1)
    told = CliRunner().invoke(app, ["replay", str(tmp_path / "r"), "--step", "1"])
    assert told.exit_code == 1
    assert (
        f"first not finite: the engine's log-probability at token 0, in reply {index} of group group 1\n" in told.stdout
    )
    assert len(re.findall(r" yes\n| yes +\n", told.stdout)) == 11
    assert len(re.findall(r" no\n| no +\n", told.stdout)) == 1
    # the same batch, mended: finite
    path = tmp_path / "r" / "failed" / "step-000001"
    mended = load_batch(path)
    save_batch(path, replace(mended, groups=tuple(random_groups())))
    told = CliRunner().invoke(app, ["replay", str(tmp_path / "r"), "--step", "1"])
    assert told.exit_code == 0, told.stdout
    assert "step 1 is finite here: loss " in told.stdout
    assert json.loads((path / "batch.json").read_text())["step"] == 1


def test_a_replay_changes_nothing_in_the_run(tied_model: Path, tmp_path: Path) -> None:
    given = recipe(tied_model)
    learner = make_learner(tied_model, **vars_of(given))
    failed_run(tmp_path / "r", learner, sick_groups()[0], given, step=1)
    before = {path: path.read_bytes() for path in (tmp_path / "r").rglob("*") if path.is_file()}
    replay(tmp_path / "r", step=1)
    assert {path: path.read_bytes() for path in (tmp_path / "r").rglob("*") if path.is_file()} == before


def rewritten(folder: Path, **sections: Any) -> None:
    """Change what the config.json of a run says."""
    path = folder / "config.json"
    plain = json.loads(path.read_text())
    for name, value in sections.items():
        plain[name] = plain[name] | value if isinstance(value, dict) else value
    path.write_text(json.dumps(plain))


def test_a_run_of_several_ranks_on_gpus_is_replayed_in_one_process(tied_model: Path, tmp_path: Path) -> None:
    given = recipe(tied_model)
    groups, _ = sick_groups()
    said = failed_run(tmp_path / "r", make_learner(tied_model, **vars_of(given)), groups, given, step=1)
    rewritten(tmp_path / "r", hardware={"ranks": 2})
    told: list[str] = []
    looked: list[tuple[int, int]] = []
    found = replay(tmp_path / "r", step=1, say=told.append, progress=lambda done, of: looked.append((done, of)))
    assert (found.error, told) == (said, [])
    assert looked == [(n, 12) for n in range(1, 13)]
    if torch.cuda.is_available():
        return
    rewritten(tmp_path / "r", hardware={"kind": "gpu", "threads": None})
    assert replay(tmp_path / "r", step=1, say=told.append).error == said
    assert told == ["the run was on a GPU and here is none: this replay runs on the CPU, and its last digits differ"]
    shown = CliRunner().invoke(app, ["replay", str(tmp_path / "r"), "--step", "1"])
    assert shown.exit_code == 1 and shown.stderr == f"! {told[0]}\n"


def test_a_recipe_of_another_version_is_one_sentence(tied_model: Path, tmp_path: Path) -> None:
    given = recipe(tied_model)
    failed_run(tmp_path / "r", make_learner(tied_model, **vars_of(given)), sick_groups()[0], given, step=1)
    rewritten(tmp_path / "r", old_key=1)
    said = (
        r"config.json is no recipe of this version of rlvr \(unknown key old_key.*\); use the version that the run was"
    )
    with pytest.raises(ConfigError, match=said):
        replay(tmp_path / "r", step=1)


def test_a_batch_that_is_no_json_is_one_sentence(tmp_path: Path) -> None:
    (group, *_) = random_groups()
    group = replace(group, task=replace(group.task, truth={1, 2}))
    with pytest.raises(ResourceError, match=r"^the batch of step 7 cannot be written to .*: TypeError: "):
        save_batch(tmp_path / "b", FailedStep(step=7, totals=totals_of([group]), error="", groups=(group,)))
    assert not list(tmp_path.iterdir())
