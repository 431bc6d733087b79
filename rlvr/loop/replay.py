"""A step that the learner could not take: its batch on disk, without pickle, and the step computed again from there."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rlvr.config import Recipe, stored_recipe
from rlvr.errors import BoundaryError, CheckpointError, ConfigError, ResourceError, boundary
from rlvr.learner.algorithm import Totals
from rlvr.learner.model import prepare
from rlvr.loop.ledger import RunDirectory
from rlvr.loop.settings import algorithm_of, learner_settings_of
from rlvr.types import Grade, Group, Rollout, Span, Stop, Task, Ungraded, Verdict

if TYPE_CHECKING:
    from rlvr.learner.diagnose import Diagnosis

__all__ = ["FailedStep", "load_batch", "replay", "save_batch"]

ARRAYS = ("prompt_ids", "token_ids", "logprobs")


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedStep:
    """What the learner was given, and what it said."""

    step: int
    totals: Totals
    error: str
    groups: tuple[Group, ...]


def save_batch(folder: Path, failed: FailedStep) -> None:
    """Write batch.npz and batch.json to a folder under a temporary name, then rename it. Errors: ResourceError."""
    scratch = folder.with_name(f".{folder.name}.part")
    rollouts = [rollout for group in failed.groups for rollout in group.rollouts]
    arrays = {f"{name}_{i}": getattr(one, name) for i, one in enumerate(rollouts) for name in ARRAYS}
    values = {f"values_{i}": np.asarray(group.values, dtype=np.float32) for i, group in enumerate(failed.groups)}
    facts = {
        "step": failed.step, "totals": asdict(failed.totals), "error": failed.error,
        "groups": [_plain(group) for group in failed.groups],
    }  # fmt: skip
    try:
        with boundary("writing"):  # a truth that is no JSON, say
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir(parents=True)
            np.savez(scratch / "batch.npz", allow_pickle=False, **arrays, **values)
            (scratch / "batch.json").write_text(json.dumps(facts))
            shutil.rmtree(folder, ignore_errors=True)
            os.replace(scratch, folder)
    except BoundaryError as error:
        shutil.rmtree(scratch, ignore_errors=True)
        said = f"the batch of step {failed.step} cannot be written to {folder}: {error.reason}"
        raise ResourceError(said) from error


def load_batch(folder: Path) -> FailedStep:
    """Read a batch as it was written. Errors: CheckpointError."""
    try:
        with boundary("reading"), np.load(folder / "batch.npz", allow_pickle=False) as arrays:
            facts = json.loads((folder / "batch.json").read_text())
            number, groups = 0, []
            for place, plain in enumerate(facts["groups"]):
                rollouts = []
                for one in plain["rollouts"]:
                    own = {name: arrays[f"{name}_{number}"] for name in ARRAYS}
                    rollouts.append(_rollout(one, arrays=own))
                    number += 1
                groups.append(_group(plain, rollouts, values=arrays[f"values_{place}"]))
            totals = Totals(**facts["totals"])
            return FailedStep(step=facts["step"], totals=totals, error=facts["error"], groups=tuple(groups))
    except BoundaryError as error:
        raise CheckpointError(f"the batch in {folder} cannot be read: {error.reason}") from error


def replay(
    run_dir: Path, *, step: int, say: Callable[[str], None] = lambda _: None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Diagnosis:  # fmt: skip
    """Compute a step that failed again, from its batch and the weights before it, in this process.

    Calls `progress` with the replies of an update that have been looked at, and how many it has.
    Errors: ConfigError where the step did not fail; CheckpointError where its weights are gone.
    """
    from rlvr.learner import checkpoint
    from rlvr.learner.diagnose import WatchedLearner

    run = RunDirectory(run_dir)
    recipe = _alone(stored_recipe(run.recipe(), where=run.path / "config.json"), say=say)
    folder = run.failed(step)
    if not (folder / "batch.json").is_file():
        here = _named(_failed_steps(run)) or "none"
        raise ConfigError(f"{run_dir} holds no batch of step {step}: only steps that failed keep theirs, here {here}")
    weights = _weights(run, recipe, step)
    failed = load_batch(folder)
    settings = learner_settings_of(recipe, cores=len(os.sched_getaffinity(0)))
    learner = WatchedLearner(prepare(recipe.model.path), algorithm_of(recipe), **settings)
    learner.progress = progress
    if weights is not None:
        checkpoint.restore(learner, weights)
    if recipe.sft is not None:
        learner.body.refer_to(run.checkpoint(0))
    return learner.diagnose(failed.groups, failed.totals)


def _alone(recipe: Recipe, *, say: Callable[[str], None]) -> Recipe:
    """Let one process compute what several may have, uncompiled, and a CPU where there is no GPU."""
    import torch

    here: dict[str, Any] = {"ranks": 1, "compile": False}
    if recipe.hardware.kind == "gpu" and not torch.cuda.is_available():
        say("the run was on a GPU and here is none: this replay runs on the CPU, and its last digits differ")
        here["kind"] = "cpu"
    return recipe.model_copy(update={"hardware": recipe.hardware.model_copy(update=here)})


def _weights(run: RunDirectory, recipe: Recipe, step: int) -> Path | None:
    """Find the weights that a step failed with; none stands for the model itself. Errors: CheckpointError."""
    found = _kept_weights(run, step)
    if found or _begins_with_the_model(recipe, step):
        return found
    left = [one for one in _failed_steps(run) if _kept_weights(run, one) or _begins_with_the_model(recipe, one)]
    others = f"; what can be replayed is {_named(left)}" if left else ""
    raise CheckpointError(f"{run.checkpoint(step - 1)}, the weights that step {step} began with, is gone{others}")


def _kept_weights(run: RunDirectory, step: int) -> Path | None:
    """Find the weights kept beside the batch, or the checkpoint of the step before, which a resumed run may rewrite."""
    folders = (run.failed(step) / "weights", run.checkpoint(step - 1))
    return next((folder for folder in folders if (folder / "trainer" / "facts.json").is_file()), None)


def _begins_with_the_model(recipe: Recipe, step: int) -> bool:
    return step == 1 and recipe.sft is None


def _failed_steps(run: RunDirectory) -> list[int]:
    return sorted(int(path.parent.name.removeprefix("step-")) for path in run.path.glob("failed/step-*/batch.json"))


def _named(steps: Sequence[int]) -> str:
    return ", ".join(f"step {step}" for step in steps)


def _plain(group: Group) -> dict[str, Any]:
    task = {"id": group.task.id, "messages": group.task.messages, "truth": group.task.truth, "tags": group.task.tags,
            "source": group.task.source}  # fmt: skip
    rollouts = [
        {"task_id": one.task_id, "index": one.index, "spans": [asdict(span) for span in one.spans],
         "reply": one.reply, "stop": one.stop.value, "seconds": one.seconds}
        for one in group.rollouts
    ]  # fmt: skip
    return {"group_id": group.group_id, "task": task, "rollouts": rollouts,
            "grades": [_plain_grade(grade) for grade in group.grades]}  # fmt: skip


def _plain_grade(grade: Grade | Ungraded) -> dict[str, Any]:
    if isinstance(grade, Ungraded):
        return {"boundary": grade.boundary, "reason": grade.reason}
    return {"verdict": grade.verdict and grade.verdict.value, "score": grade.score, "parts": dict(grade.parts),
            "why": grade.why}  # fmt: skip


def _group(plain: dict[str, Any], rollouts: Sequence[Rollout], *, values: np.ndarray) -> Group:
    task = plain["task"]
    return Group(
        group_id=plain["group_id"],
        task=Task(**task | {"messages": tuple(task["messages"]), "tags": tuple(task["tags"])}),
        rollouts=tuple(rollouts),
        grades=tuple(_grade(grade) for grade in plain["grades"]),
        values=values,
    )


def _grade(plain: dict[str, Any]) -> Grade | Ungraded:
    if "boundary" in plain:
        return Ungraded(**plain)
    return Grade(**plain | {"verdict": plain["verdict"] and Verdict(plain["verdict"])})


def _rollout(plain: dict[str, Any], *, arrays: dict[str, np.ndarray]) -> Rollout:
    spans = tuple(Span(**span) for span in plain["spans"])
    return Rollout(**plain | arrays | {"spans": spans, "stop": Stop(plain["stop"]), "messages": ()})
