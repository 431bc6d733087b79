"""The flat line of a step, and files that survive a crash or a full disk."""

from __future__ import annotations

import errno
import io
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from helpers import make_learner, random_groups, totals_of

from rlvr.errors import CheckpointError, ResourceError
from rlvr.learner.algorithm import CriticSettings
from rlvr.loop.buffer import Buffer
from rlvr.loop.stream import Taken
from rlvr.loop.truthfulness import truthfulness_metrics
from rlvr.observe import metrics as m
from rlvr.types import GroupHeader, Receipt, StepReport

NAN = float("nan")


def header(values, verdicts, *, truncated=None, lengths=None, group_id="g"):
    size = len(values)
    return GroupHeader(
        group_id=group_id,
        task_id="t",
        worker="w0",
        min_version=0,
        max_version=0,
        values=tuple(values),
        verdicts=tuple(verdicts),
        graded=tuple(not math.isnan(v) for v in values),
        lengths=tuple(lengths or [10] * size),
        truncated=tuple(truncated or [False] * size),
        seed=1,
    )


def test_a_step_by_hand():
    headers = [
        header([1, -1, 0, NAN], ["CORRECT", "WRONG", "ABSTAINED", "UNGRADED"], truncated=[True, False, False, False]),
        header([1, 1, 1, 1], ["CORRECT"] * 4, lengths=[5, 5, 5, 5]),
    ]
    found = m.step_metrics(headers, learner={"loss": 0.5, "kl": None}, seconds={"step": 12, "eval": 1, "checkpoint": 1})
    paid = [1, -1, 0, 1, 1, 1, 1]
    assert found == {
        "reward": pytest.approx(sum(paid) / 7),
        "reward_std": pytest.approx(np.std(paid)),
        "correct": 5 / 7,
        "abstained": 1 / 7,
        "wrong": 1 / 7,
        "truthfulness": pytest.approx(4 / 7),
        "flat": 0.5,
        "groups": 2,
        "rollouts": 8,
        "tokens": 60,
        "ungraded": 1 / 8,
        "truncated": 1 / 8,
        "reply_length": 7.5,
        "tokens_per_s": 6.0,
        "loss": 0.5,
    }


def test_masked_rollouts_are_judged_but_worth_nothing():
    half = replace(header([1, NAN, 0], ["CORRECT", "WRONG", "WRONG"]), graded=(True,) * 3, masked=(False, True, False))
    none = replace(header([NAN, NAN], ["WRONG"] * 2), graded=(True,) * 2, masked=(True, True))
    found = m.step_metrics([half, none], learner={}, seconds={})
    assert (found["reward"], found["flat"], found["wrong"]) == (0.5, 0.0, 4 / 5)
    assert (found["masked"], found["ungraded"]) == (3 / 5, 0.0)
    assert "masked" not in m.step_metrics([header([1], ["CORRECT"])], learner={}, seconds={})


LEARNERS = {
    "ppo": {"baseline": "critic", "critic": CriticSettings(), "epochs": 2, "kl": "loss", "kl_coefficient": 0.1},
    "vapo": {"positive_nll": 0.1},
    "corrected": {"old_logprobs": "learner", "correction": "token", "entropy_bonus": 0.01},
}
BY_THE_ACTOR = {"learner_seconds", "learner_peak_gb"}
BY_THE_DRIVER = {"step", "version", "seconds", "graders_lost"}


def test_every_metric_has_a_meaning_and_every_meaning_a_metric(tied_model):
    """What steps of all kinds give is compared with the table, both ways."""
    headers = [header([1.0], ["CORRECT"]), replace(header([NAN], ["WRONG"]), masked=(True,), unformatted=(True,))]
    found = m.step_metrics(headers, learner={}, seconds={"step": 1.0}) | m.push_metrics([receipt()], step_seconds=1.0)
    for algorithm in LEARNERS.values():
        groups = random_groups()
        learner = make_learner(tied_model, **algorithm)
        for _ in range(2):  # of the second step these groups are a version behind
            found |= learner.step(groups, totals_of(groups))
    buffer = Buffer(max_staleness=0, flat_groups_have_no_gradient=True)
    admitted = buffer.admit([(header([1.0, 0.0], ["CORRECT", "WRONG"]), "group")], 0)
    found |= Taken(arrived=[], admitted=admitted, most_stale=0, outstanding=0, refills=0, waited=0.0).metrics()
    line = {"verdict": "CORRECT", "parts": {}, "task_id": "t"}
    found |= truthfulness_metrics([line], weights=(1.0, 0.0, 1.0))
    assert {"critic_grad_norm", "value_loss", "kl", "effective_sample_size"} <= set(found)
    assert set(found) <= set(m.METRICS), "a metric without a meaning"
    assert set(m.METRICS) - BY_THE_ACTOR - BY_THE_DRIVER <= set(found), "a meaning without a metric"
    assert all(text and "\n" not in text for text in m.METRICS.values())


def test_what_nobody_knows_is_absent_and_never_zero():
    nothing = m.step_metrics([header([NAN, NAN], ["UNGRADED"] * 2)], learner={}, seconds={})
    assert nothing["ungraded"] == 1.0
    assert not {"reward", "reward_std", "correct", "wrong", "abstained", "flat", "tokens_per_s"} & set(nothing)
    scored = m.step_metrics([header([0.3, 0.4], ["", ""])], learner={}, seconds={})
    assert scored["reward"] == pytest.approx(0.35)
    assert "correct" not in scored
    assert m.step_metrics([], learner={}, seconds={}) == {"groups": 0, "rollouts": 0, "tokens": 0}


def test_an_ungraded_group_is_neither_flat_nor_mixed():
    headers = [header([NAN], ["UNGRADED"]), header([1, 0], ["CORRECT", "WRONG"])]
    assert m.step_metrics(headers, learner={}, seconds={})["flat"] == 0.0


def test_a_graded_value_must_be_finite():
    broken = header([1.0, math.inf], ["CORRECT", "CORRECT"])
    with pytest.raises(ValueError, match="not finite"):
        m.step_metrics([broken], learner={}, seconds={})


def test_the_learner_cannot_overwrite_a_metric():
    with pytest.raises(ValueError, match="'reward'"):
        m.step_metrics([header([1.0], ["CORRECT"])], learner={"reward": 2.0}, seconds={})


def receipt(**changes):
    fields = {"worker": "w0", "version": 1, "digest": "", "total_tensors": 9, "seconds": 1.0}
    fields |= {"proven_tensors": 9, "canary_error": 0.1, "stall_seconds": 0.2}
    return Receipt(**(fields | changes))


def test_receipts_count_at_their_worst():
    receipts = [receipt(), receipt(worker="w1", proven_tensors=8, canary_error=0.05, stall_seconds=0.4)]
    assert m.push_metrics(receipts, step_seconds=8.0) == {
        "push_stall": 0.4, "push_stall_share": 0.05, "push_seconds": 1.0, "push_fetch": 0.0, "push_bytes": 0.0,
        "canary_error": 0.1, "proven_tensors": 8,
    }  # fmt: skip
    assert m.push_metrics([], step_seconds=8.0) == {}


def test_a_line_is_flat_and_says_null(tmp_path):
    report = StepReport(step=3, version=4, metrics={"reward": np.float32(0.5), "loss": NAN}, seconds={"step": 1.5})
    m.append_line(tmp_path / "deep" / "metrics.jsonl", m.as_line(report))
    text = (tmp_path / "deep" / "metrics.jsonl").read_text()
    assert text == '{"step": 3, "version": 4, "reward": 0.5, "loss": null, "seconds": {"step": 1.5}}\n'


def test_junk_text_survives_a_line(tmp_path):
    reply = 'a\udc80"\n\u2028\x00é'
    m.append_line(tmp_path / "x.jsonl", {"reply": reply})
    assert m.read_lines(tmp_path / "x.jsonl") == [{"reply": reply}]


def test_resume_drops_later_steps_and_a_cut_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for step in (1, 2, 3, 4):
        m.append_line(path, {"step": step})
    with open(path, "ab") as file:
        file.write('{"step": 5, "é'.encode()[:-1])
    assert m.keep_until(path, 2) == 2
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.jsonl"]
    assert m.keep_until(tmp_path / "absent.jsonl", 2) == 0
    assert not (tmp_path / "absent.jsonl").exists()


@pytest.mark.parametrize("line", ['{"step": 1', "[]", '{"stop": 1}'])
def test_a_broken_line_in_the_middle_is_an_error(tmp_path, line):
    path = tmp_path / "metrics.jsonl"
    path.write_text(line + '\n{"step": 2}\n')
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl"):
        m.keep_until(path, 9)
    assert path.read_text().startswith(line)


def test_write_json_replaces_whole_files(tmp_path):
    path = tmp_path / "summary.json"
    m.write_json(path, {"steps": np.int64(3), "gain": NAN, "shape": (1, 2), "where": tmp_path})
    assert json.loads(path.read_text()) == {"steps": 3, "gain": None, "shape": [1, 2], "where": str(tmp_path)}
    with pytest.raises(TypeError):
        m.write_json(path, {"x": object()})
    assert json.loads(path.read_text())["steps"] == 3
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_one_sentence_and_takes_its_half_line_back(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    m.append_line(path, {"step": 1})

    class Short(io.FileIO):
        def write(self, data):
            return super().write(data[:4])

    monkeypatch.setattr("builtins.open", lambda path, mode, buffering: Short(path, mode.replace("b", "")))
    with pytest.raises(ResourceError, match=r"metrics\.jsonl: the disk is full; free some space"):
        m.append_line(path, {"step": 2})
    assert path.read_text() == '{"step": 1}\n'


def test_a_full_disk_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    m.write_json(path, {"steps": 1})

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(m.os, "fsync", full)
    with pytest.raises(ResourceError, match="disk is full"):
        m.write_json(path, {"steps": 2})
    assert json.loads(path.read_text()) == {"steps": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="choose a --run-dir"):
        m.write_json(tmp_path / "file" / "summary.json", {})
