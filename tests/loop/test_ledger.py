"""The run directory and the stream of tasks: new runs, continued runs, and what they refuse."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

from rlvr.config import Recipe
from rlvr.errors import CheckpointError, ConfigError, PluginError, ResourceError
from rlvr.loop.ledger import Place, RunDirectory, TaskStream, eval_tasks, facts_of
from rlvr.observe.metrics import append_line, read_lines
from rlvr.testing import task
from rlvr.types import Task


def recipe(**changes: object) -> Recipe:
    plain = {"name": "r", "steps": 4, "model": {"path": "m"}, "environment": {"name": "e"}, "reward": ({"name": "w"},)}
    return Recipe.model_validate(plain | changes)


class Three:
    """An environment of three training tasks, in an order that depends on the seed, and two held-out ones."""

    def tasks(self, split: str, *, seed: int) -> Iterator[Task]:
        for number in range(3 if split == "train" else 2):
            yield task(f"{split} {seed} {number}")


class Empty:
    def tasks(self, split: str, *, seed: int) -> Iterator[Task]:
        return iter(())


def questions(tasks: Mapping[int, Task] | Iterable[Task]) -> list[str]:
    found = tasks.values() if isinstance(tasks, Mapping) else tasks
    return [one.messages[0]["content"] for one in found]


def test_a_new_run_writes_down_what_it_is(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "runs" / "r")
    assert run.begin(recipe()) is None
    assert json.loads((run.path / "config.json").read_text()) == recipe().model_dump(mode="json")
    assert run.checkpoints.is_dir()


def test_an_older_run_is_moved_aside_not_overwritten(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "r")
    run.begin(recipe())
    append_line(run.metrics, {"step": 1})
    moved = run.begin(recipe(seed=1))
    assert moved is not None
    assert Path(moved).parent == tmp_path
    assert read_lines(Path(moved) / "metrics.jsonl") == [{"step": 1}]
    assert not run.metrics.exists()
    assert json.loads((run.path / "config.json").read_text())["seed"] == 1


def test_a_third_run_moves_the_second_aside_too(tmp_path: Path) -> None:
    """Runs that end within one second would ask for the same name."""
    run = RunDirectory(tmp_path / "r")
    for seed in range(4):
        run.begin(recipe(seed=seed))
    kept = [json.loads((path / "config.json").read_text())["seed"] for path in tmp_path.iterdir()]
    assert sorted(kept) == [0, 1, 2, 3]


def test_a_run_directory_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ResourceError, match=rf"the run directory {path}: \w.*; choose another --run-dir"):
            RunDirectory(path).begin(recipe())


def test_an_empty_folder_is_taken_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    assert RunDirectory(tmp_path / "r").begin(recipe()) is None


def test_resuming_drops_what_came_after_the_checkpoint(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "r")
    run.begin(recipe())
    for step in range(1, 5):
        append_line(run.metrics, {"step": step})
    facts = {"step": 2, "tasks": 37, "outstanding": [33, 36], "recipe": recipe().model_dump(mode="json")}
    longer = recipe(steps=9, eval={"tasks": 64}, checkpoint={"every": 1}, guard={"dead_steps": 9}, name="other")
    assert run.resume(longer, facts) == (2, Place(submitted=37, outstanding=(33, 36)))
    assert read_lines(run.metrics) == [{"step": 1}, {"step": 2}]
    assert json.loads((run.path / "config.json").read_text())["steps"] == 9


@pytest.mark.parametrize(
    ("section", "value"),
    [
        ("seed", 1), ("algorithm", {"learning_rate": 1.0}), ("rollout", {"group_size": 4}), ("model", {"path": "n"}),
        ("environment", {"name": "e", "hard": True}), ("reward", ({"name": "other"},)), ("payoff", {"wrong": -2.0}),
    ],
)  # fmt: skip
def test_resuming_with_other_numbers_is_refused(tmp_path: Path, section: str, value: object) -> None:
    run = RunDirectory(tmp_path / "r")
    run.begin(recipe())
    append_line(run.metrics, {"step": 1})
    append_line(run.metrics, {"step": 2})
    facts = {"step": 1, "tasks": 16, "recipe": recipe().model_dump(mode="json")}
    with pytest.raises(ConfigError, match=rf"--resume: \[{section}\] differs from the run in {run.path}"):
        run.compare(recipe(**{section: value}), facts)
    assert len(read_lines(run.metrics)) == 2, "a refused continuation touches nothing"


def test_a_run_of_another_version_is_named_as_such(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "r")
    for changes in ({"algorithm": {"learning_rate": 1e-5}}, {"critic": ...}, {"weights": {"mode": "auto", "new": 1}}):
        before = {k: v for k, v in (recipe().model_dump(mode="json") | changes).items() if v is not ...}
        (section,) = changes
        with pytest.raises(CheckpointError, match=rf"by another version of rlvr, .* keys in \[{section}\]; go on with"):
            run.compare(recipe(), {"step": 1, "tasks": 1, "recipe": before})
    old_eval = recipe().model_dump(mode="json") | {"eval": {"tasks": 3}}
    run.compare(recipe(), {"step": 1, "tasks": 1, "recipe": old_eval})


def test_the_schedule_of_adalora_does_not_outlast_its_run(tmp_path: Path) -> None:
    run, adapter = RunDirectory(tmp_path / "r"), {"kind": "adalora"}
    facts = {"step": 1, "tasks": 1, "recipe": recipe(adapter=adapter).model_dump(mode="json")}
    run.compare(recipe(adapter=adapter), facts)
    longer = recipe(adapter=adapter, steps=recipe().steps + 1)
    with pytest.raises(ConfigError, match=r"^--resume: steps = \d+ differs from the run in .*, and AdaLoRA's schedule"):
        run.compare(longer, facts)


def test_facts_say_what_is_outstanding_and_older_ones_had_nothing(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "r")
    (run.checkpoint(3) / "trainer").mkdir(parents=True)
    place = Place(submitted=9, outstanding=(4, 7))
    for facts in (facts_of(recipe(), step=3, place=place), {"step": 3, "tasks": 9, "recipe": {}}):
        (run.checkpoint(3) / "trainer" / "facts.json").write_text(json.dumps(facts))
        found = run.facts(run.checkpoint(3))
        assert (found["tasks"], found["outstanding"]) == (9, facts.get("outstanding", []))


def test_facts_that_cannot_be_read_are_one_sentence(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "r")
    (run.checkpoint(3) / "trainer").mkdir(parents=True)
    for text in ("{}", "no JSON"):
        (run.checkpoint(3) / "trainer" / "facts.json").write_text(text)
        with pytest.raises(CheckpointError, match=r"^the checkpoint .*/step-000003 cannot be read: "):
            run.facts(run.checkpoint(3))


def test_the_newest_checkpoint_or_a_sentence(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "r")
    with pytest.raises(CheckpointError, match="holds no checkpoint to resume from; start without --resume"):
        run.newest()
    for step in (9, 10, 100):
        (run.checkpoint(step) / "trainer").mkdir(parents=True)
        (run.checkpoint(step) / "trainer" / "facts.json").write_text("{}")
    assert run.newest() == run.checkpoint(100)
    run.prune(2)
    assert sorted(path.name for path in run.checkpoints.iterdir()) == ["step-000010", "step-000100"]
    run.prune(5)
    assert len(list(run.checkpoints.iterdir())) == 2


def test_a_stream_reads_a_finite_environment_again_with_another_seed() -> None:
    stream = TaskStream(Three(), name="e", seed=7, place=Place())
    assert questions(stream.take(4)) == ["train 7 0", "train 7 1", "train 7 2", "train 8 0"]
    assert questions(stream.take(3)) == ["train 8 1", "train 8 2", "train 9 0"]


def test_a_stream_gives_each_task_its_ticket() -> None:
    stream = TaskStream(Three(), name="e", seed=7, place=Place(submitted=5, outstanding=(1, 4)))
    assert {n: questions([one]) for n, one in stream.again.items()} == {1: ["train 7 1"], 4: ["train 8 1"]}
    assert list(stream.take(4)) == [5, 6, 7, 8]
    assert stream.take(0) == stream.take(-3) == {}
    assert stream.submitted == 9


@pytest.mark.parametrize("skip", [0, 2, 3, 8])
def test_a_continued_stream_goes_on_where_it_stood(skip: int) -> None:
    whole = questions(TaskStream(Three(), name="e", seed=0, place=Place()).take(skip + 5))
    assert questions(TaskStream(Three(), name="e", seed=0, place=Place(submitted=skip)).take(5)) == whole[skip:]


def test_an_environment_without_tasks_is_named() -> None:
    with pytest.raises(PluginError, match="environment 'e' has no training tasks"):
        TaskStream(Empty(), name="e", seed=0, place=Place()).take(1)
    with pytest.raises(PluginError, match=r"environment 'e' has 2 held-out tasks, eval.tasks asks for 3; lower it"):
        eval_tasks(Three(), name="e", count=3)


def test_held_out_tasks_do_not_depend_on_the_seed_of_a_run() -> None:
    assert questions(eval_tasks(Three(), name="e", count=2)) == ["eval 0 0", "eval 0 1"]


class Breaks:
    """An environment that raises: when it is asked, at its first task, or after two."""

    def __init__(self, *, after: int, error: Exception) -> None:
        self.after, self.error = after, error

    def tasks(self, split: str, *, seed: int) -> Iterator[Task]:
        if self.after < 0:
            raise self.error
        return self._yielding(self.error)

    def _yielding(self, error: Exception) -> Iterator[Task]:
        for number in range(self.after):
            yield task(str(number))
        raise error


@pytest.mark.parametrize("after", [-1, 0, 2])
@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("mul12 have only 29\nevaluation tasks"), "mul12 have only 29 evaluation tasks"),
        (KeyError("question"), "KeyError: 'question'"),
        (RuntimeError(), "RuntimeError"),
    ],
)
def test_what_an_environment_raises_is_one_sentence(after: int, error: Exception, said: str) -> None:
    environment = Breaks(after=after, error=error)
    with pytest.raises(PluginError) as caught:
        eval_tasks(environment, name="e", count=3)
    assert str(caught.value) == f"environment 'e': {said}"
    with pytest.raises(PluginError) as caught:
        stream = TaskStream(environment, name="e", seed=0, place=Place())
        for _ in range(3):
            stream.take(1)
    assert str(caught.value) == f"environment 'e': {said}"


def test_what_is_no_task_is_named() -> None:
    class Dicts:
        def tasks(self, split: str, *, seed: int) -> Iterator[dict[str, str]]:
            yield {"question": "1 + 1?"}

    with pytest.raises(PluginError, match=r"environment 'e': tasks\('eval'\) yields dict, not Task"):
        eval_tasks(Dicts(), name="e", count=1)  # type: ignore[arg-type]


def test_a_run_knows_whether_a_step_is_saved(tmp_path: Path) -> None:
    run = RunDirectory(tmp_path / "r")
    assert not run.saved(2)
    (run.checkpoint(2) / "trainer").mkdir(parents=True)
    assert not run.saved(2), "it is not whole yet"
    (run.checkpoint(2) / "trainer" / "facts.json").write_text("{}")
    assert run.saved(2)
    assert not run.saved(3)
