"""Recorded rollouts: every field, whole files only, and the same through Ray."""

from __future__ import annotations

import numpy as np
import pytest

from rlvr.errors import ResourceError
from rlvr.observe import recorder as r
from rlvr.types import Grade, Group, Rollout, Span, Stop, Task, Ungraded, Verdict, messages_of


def group(group_id="g0"):
    task = Task(id="t0", messages=messages_of([("system", "Be brief."), ("user", "1 + 1 = ?")]), truth="2")
    rollouts = tuple(
        Rollout(
            task_id="t0",
            index=i,
            prompt_ids=np.arange(3, dtype=np.int32),
            token_ids=np.arange(6, dtype=np.int32),
            logprobs=np.zeros(6, dtype=np.float32),
            spans=(Span(start=0, stop=2, version=4), Span(start=3, stop=6, version=5)),
            messages=(),
            reply=reply,
            stop=Stop.LENGTH if i else Stop.END,
            seconds=0.1,
        )
        for i, reply in enumerate(["Answer: 2\n<b>é\udc80", "3"])
    )
    grades = (
        Grade(verdict=Verdict.CORRECT, score=1.0, parts={"format": 1.0}, why="equal"),
        Ungraded(boundary="grading.math", reason="pool died"),
    )
    values = np.array([1.0, np.nan], dtype=np.float32)
    return Group(group_id=group_id, task=task, rollouts=rollouts, grades=grades, values=values)


def test_a_file_says_all_there_is_to_know(tmp_path):
    assert r.RolloutWriter(tmp_path).write(12, groups=[group()], seeds={"g0": 99}) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["step-000012.jsonl"]
    right, broken = r.read_step(tmp_path, 12)
    assert right == {
        "step": 12,
        "group_id": "g0",
        "task_id": "t0",
        "index": 0,
        "version": [4, 5],
        "prompt": "system: Be brief.\n\nuser: 1 + 1 = ?",
        "reply": "Answer: 2\n<b>é\udc80",
        "truth": "2",
        "verdict": "CORRECT",
        "score": 1.0,
        "parts": {"format": 1.0},
        "why": "equal",
        "value": 1.0,
        "stop": "end",
        "tokens": 5,
        "seed": 99,
    }
    assert (broken["verdict"], broken["value"], broken["score"]) == ("UNGRADED", None, None)
    assert (broken["why"], broken["stop"]) == ("grading.math: pool died", "length")


def test_prompts_can_stay_out(tmp_path):
    r.RolloutWriter(tmp_path, prompt=False).write(1, groups=[group()], seeds={"g0": 0})
    assert all("prompt" not in line for line in r.read_step(tmp_path, 1))


def test_a_failure_half_way_leaves_no_file(tmp_path):
    with pytest.raises(KeyError):
        r.RolloutWriter(tmp_path).write(1, groups=[group(), group("g1")], seeds={"g0": 0})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match=r"step-000001\.jsonl"):
        r.RolloutWriter(tmp_path / "file").write(1, groups=[], seeds={})


def test_resume_removes_later_steps(tmp_path):
    writer = r.RolloutWriter(tmp_path)
    for step in (1, 2, 3):
        writer.write(step, groups=[], seeds={})
    assert writer.keep_until(1) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001.jsonl"]
    assert r.read_step(tmp_path, 2) == []


def test_the_actor_writes_what_references_hold(tmp_path, monkeypatch):
    """Drive the actor's class without a cluster: `ray.remote` hands the plain class back."""
    ray = pytest.importorskip("ray")

    class Handle:
        def __init__(self, cls):
            self.cls, self.asked = cls, {}

        def options(self, **asked):
            self.asked = asked
            return self

        def remote(self):
            assert self.asked == {"num_cpus": 0}
            return self.cls()

    monkeypatch.setattr(ray, "remote", Handle)
    monkeypatch.setattr(ray, "ObjectRef", str)
    monkeypatch.setattr(ray, "get", {"ref": group("g7")}.__getitem__)
    actor = r.make_recorder(tmp_path)
    assert actor.write(2, groups=["ref", group()], seeds={"g0": 1, "g7": 2}) == 4
    assert {line["seed"] for line in r.read_step(tmp_path, 2)} == {1, 2}
    assert actor.keep_until(1) == 1
