"""Trackers: lazy, told only what is known, and unable to stop a run."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from rlvr.errors import BoundaryError, ConfigError
from rlvr.observe import trackers as t

LINE = {"step": 1, "reward": np.float32(0.5), "loss": float("nan"), "kl": None, "seconds": {"step": 2.0}, "note": "x"}


class Fake:
    """A tracker that keeps what it is told, and fails from a step on."""

    def __init__(self, fails_at=99):
        self.seen, self.fails_at, self.finished = [], fails_at, 0

    def log(self, step, metrics):
        if step >= self.fails_at:
            raise RuntimeError("connection lost")
        self.seen.append((step, metrics))

    def finish(self):
        self.finished += 1


def test_only_known_numbers_are_passed_on():
    assert t.flatten(LINE) == {"step": 1, "reward": 0.5, "seconds/step": 2.0}


def test_a_failing_tracker_warns_once_and_is_dropped():
    warnings, bad, good = [], Fake(fails_at=2), Fake()
    both = t.TrackerSet([t._Guarded(fake, name=name, warn=warnings.append) for name, fake in [("b", bad), ("g", good)]])
    for step in (1, 2, 3):
        both.log(step, LINE)
    both.finish()
    both.finish()
    assert [step for step, _ in good.seen] == [1, 2, 3]
    assert ([step for step, _ in bad.seen], bad.finished, good.finished) == ([1], 0, 1)
    assert len(warnings) == 1
    assert "b: RuntimeError: connection lost; the run goes on without b" in warnings[0]


def test_nothing_asked_for_imports_nothing(tmp_path):
    before = {name for name in ("wandb", "trackio", "tensorboard") if name in sys.modules}
    assert t.make_trackers("r", run_dir=tmp_path, config={}) == []
    assert {name for name in ("wandb", "trackio", "tensorboard") if name in sys.modules} == before


@pytest.mark.parametrize("name", ["wandb", "trackio", "tensorboard"])
def test_a_missing_package_says_what_to_install(tmp_path, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path))
    with pytest.raises(ConfigError, match=rf"track\.{name} is on.*pip install 'rlvr\[track\]'"):
        t.make_trackers("r", **{name: True}, run_dir=tmp_path, config={})


def test_a_tracker_that_does_not_start_is_named(tmp_path, monkeypatch):
    class Broken:
        login = staticmethod(lambda **_: True)
        Settings = staticmethod(lambda **_: None)

        @staticmethod
        def init(**_):
            raise RuntimeError("no such entity")

    monkeypatch.setitem(sys.modules, "wandb", Broken)
    with pytest.raises(BoundaryError, match="wandb: RuntimeError: no such entity"):
        t.make_trackers("r", wandb=True, run_dir=tmp_path, config={})


@pytest.mark.parametrize(
    ("mode", "key", "expected"), [(None, False, "offline"), (None, True, None), ("disabled", False, None)]
)
def test_wandb_is_offline_without_a_key(tmp_path, monkeypatch, mode, key, expected):
    asked = {}

    class Wandb:
        login = staticmethod(lambda **_: key)
        Settings = staticmethod(dict)
        init = staticmethod(lambda **given: asked.update(given) or Fake())

    monkeypatch.setitem(sys.modules, "wandb", Wandb)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    if mode:
        monkeypatch.setenv("WANDB_MODE", mode)
    t.make_trackers("r", wandb=True, run_dir=tmp_path, config={"a": 1})
    assert (asked["mode"], asked["dir"], asked["config"]) == (expected, str(tmp_path), {"a": 1})
    assert asked["settings"] == {"silent": True, "console": "off"}


def test_tensorboard_files_lie_in_the_run_directory(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (tracker,) = t.make_trackers("r", tensorboard=True, run_dir=tmp_path, config={})
    for step in (1, 2):
        tracker.log(step, LINE | {"reward": step / 4})
    tracker.finish()
    events = EventAccumulator(str(tmp_path / "tensorboard"), size_guidance={"tensors": 0}).Reload()
    assert [e.step for e in events.Tensors("reward")] == [1, 2]
    assert events.Tensors("seconds/step")[0].tensor_proto.float_val[0] == 2.0
