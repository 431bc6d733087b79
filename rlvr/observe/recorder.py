"""Write every rollout of a run as JSON lines, one file a step: rollouts/step-000012.jsonl."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rlvr.observe.metrics import dump_line, read_lines, replacing
from rlvr.types import Grade, Group, Ungraded

__all__ = ["UNGRADED", "RolloutWriter", "make_recorder", "read_step", "rollout_lines", "step_path"]

UNGRADED = "UNGRADED"


def step_path(folder: Path, step: int) -> Path:
    """Give the file of a step; names sort in the order of the steps."""
    return folder / f"step-{step:06d}.jsonl"


def read_step(folder: Path, step: int) -> list[dict[str, Any]]:
    """Read the rollouts of a step back; a step that was not written has none."""
    return read_lines(step_path(folder, step))


def rollout_lines(group: Group, *, step: int, seed: int, prompt: bool = True) -> Iterator[dict[str, Any]]:
    """Describe the rollouts of a group as JSON objects; `prompt` adds the task's messages as text.

    Units: `tokens` counts the reply tokens that carry loss; `version` is [oldest, newest] of them.
    """
    text = "\n\n".join(f"{message['role']}: {message['content']}" for message in group.task.messages)
    for rollout, grade, value in zip(group.rollouts, group.grades, group.values.tolist(), strict=True):
        yield {
            "step": step,
            "group_id": group.group_id,
            "task_id": group.task.id,
            "index": rollout.index,
            "version": [rollout.min_version, rollout.max_version] if rollout.spans else None,
            **({"prompt": text} if prompt else {}),
            "reply": rollout.reply,
            "truth": group.task.truth,
            **_judgement(grade),
            "value": value,
            "stop": str(rollout.stop),
            "tokens": sum(span.stop - span.start for span in rollout.spans),
            "seed": seed,
        }


def _judgement(grade: Grade | Ungraded) -> dict[str, Any]:
    """Give verdict, score and why; what our grader failed on has no score, and says where it failed."""
    if isinstance(grade, Ungraded):
        return {"verdict": UNGRADED, "score": None, "parts": {}, "why": f"{grade.boundary}: {grade.reason}"}
    verdict = None if grade.verdict is None else str(grade.verdict)
    return {"verdict": verdict, "score": grade.score, "parts": dict(grade.parts), "why": grade.why}


class RolloutWriter:
    """Write the rollouts of one step at a time. `folder` is the run's rollouts/."""

    def __init__(self, folder: Path, *, prompt: bool = True) -> None:
        self.folder = Path(folder)
        self.prompt = prompt

    def write(self, step: int, *, groups: Sequence[Group], seeds: Mapping[str, int]) -> int:
        """Write the file of a step, all of it or nothing, and give the number of rollouts in it.

        `seeds` maps a group id to the seed that the group was sampled with.
        Errors: ResourceError where the disk is full or cannot be written.
        """
        count = 0
        with replacing(step_path(self.folder, step)) as temporary, open(temporary, "wb") as file:
            for group in groups:
                for line in rollout_lines(group, step=step, seed=seeds[group.group_id], prompt=self.prompt):
                    file.write(dump_line(line))
                    count += 1
        return count

    def keep_until(self, step: int) -> int:
        """Remove the files of steps after `step`, which a resumed run writes again; give how many went."""
        late = [path for path in self.folder.glob("step-*.jsonl") if int(path.stem.removeprefix("step-")) > step]
        for path in late:
            path.unlink()
        return len(late)


def make_recorder(folder: Path, *, prompt: bool = True, place: Mapping[str, Any] | None = None) -> Any:
    """Start a Ray actor around a `RolloutWriter`, so that writing keeps nobody waiting, with Ray's options `place`.

    Gives the actor's handle. Call `handle.write.remote(step, groups=[refs], seeds={...})` with object references: the
    groups then travel from the worker to the recorder and never through the driver.
    """
    import ray

    class Recorder:
        """Resolve object references, then write."""

        def __init__(self) -> None:
            self.writer = RolloutWriter(folder, prompt=prompt)

        def write(self, step: int, *, groups: Sequence[Any], seeds: Mapping[str, int]) -> int:
            """Write the file of a step; `groups` are object references or groups."""
            found = [ray.get(group) if isinstance(group, ray.ObjectRef) else group for group in groups]
            return self.writer.write(step, groups=found, seeds=seeds)

        def keep_until(self, step: int) -> int:
            """Remove the files of steps after `step`."""
            return self.writer.keep_until(step)

    # No CPU is asked for: on a laptop the recorder would starve the engine of one.
    return ray.remote(Recorder).options(num_cpus=0, **(place or {})).remote()
