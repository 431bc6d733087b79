"""Who serves, who is lost, and who comes in a lost one's place; Ray is played by a table of answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import ray

from rlvr.errors import EngineError, LostWorkerError, WeightProofError
from rlvr.loop import workers as module
from rlvr.loop.workers import Workers
from rlvr.types import Receipt
from rlvr.weights.service import Published

NODE = "ab" * 28  # an id as Ray gives them


@dataclass(eq=False)
class Answer:
    """What a call gives, once it has come."""

    come: bool = False
    value: Any = None

    def comes(self, value: Any = None) -> None:
        self.come, self.value = True, value


class Call:
    def __init__(self, calls: list[Any]) -> None:
        self.calls = calls

    def remote(self, *arguments: Any) -> Answer:
        answer = Answer()
        self.calls.append((arguments, answer))
        return answer


@dataclass(eq=False)
class Actor:
    name: str
    starts: list[Any] = field(default_factory=list)
    joins: list[Any] = field(default_factory=list)
    leaves: list[Any] = field(default_factory=list)
    stops: list[Any] = field(default_factory=list)

    def __getattr__(self, name: str) -> Call:
        return Call(self.__dict__[f"{name}s"])


class Scene:
    """Workers over actors that answer when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, count: int = 2, transport: str = "shm") -> None:
        self.made: dict[str, Actor] = {}
        self.killed: list[str] = []
        self.ended: list[Any] = []
        self.said: list[str] = []
        self.events: list[str] = []
        self.service = Actor("service")
        monkeypatch.setattr(module.ray, "wait", self.wait)
        monkeypatch.setattr(module.ray, "get", self.get)
        monkeypatch.setattr(module.ray, "kill", lambda actor, no_restart: self.killed.append(actor.name))
        monkeypatch.setattr(module, "_kill_processes", self)
        self.workers = Workers(
            self.make, transport=transport, deadline_s=1.0, warn=self.said.append,
            joined=lambda name, _: self.events.append(f"+{name}"), left=lambda name: self.events.append(f"-{name}"),
        )  # fmt: skip
        self.workers.started([(NODE, [(place, 0.5)]) for place, _ in enumerate(self.workers.begin(count))])

    def make(self, name: str, place: int) -> Actor:
        return self.made.setdefault(name, Actor(name))

    def options(self, **_: Any) -> Call:
        return Call(self.ended)

    def wait(self, calls: Sequence[Answer], *, timeout: float | None = None, num_returns: int = 1) -> Any:
        done = [call for call in calls if call.come]
        assert done or timeout is not None
        return done, [call for call in calls if not call.come]

    def get(self, call: Answer, *, timeout: float | None = None) -> Any:
        assert call.come
        if isinstance(call.value, Exception):
            raise call.value
        return call.value

    def joins(self, value: Any = None, *, started: Any = (NODE, [(7, 1.0)])) -> str:
        """Let the newest worker start and join, or not; give its name."""
        (name, _, start), joined = self.service.joins[-1]
        start.comes(started)
        joined.comes(value)
        return str(name)


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    made = Scene(monkeypatch)
    made.workers.serve(made.service)
    return made


def test_a_lost_worker_is_ended_and_another_serves_once_it_has_joined(scene: Scene) -> None:
    scene.workers.lost("worker-0", "died")
    assert scene.killed == ["worker-0"] and scene.ended[0][0] == ([(0, 0.5)],)
    assert scene.service.leaves[0][0] == ("worker-0",)
    assert list(scene.workers.ready()) == ["worker-1"] and len(scene.workers.waits()) == 1
    assert scene.said == ["worker-0 died; starting worker-0.1 in its place"]
    assert scene.joins() == "worker-0.1"
    assert list(scene.workers.ready()) == ["worker-0.1", "worker-1"] and not scene.workers.waits()
    assert scene.events == ["+worker-0", "+worker-1", "-worker-0", "+worker-0.1"]


def test_a_loss_that_is_known_is_no_other_one(scene: Scene) -> None:
    for _ in range(9):
        scene.workers.lost("worker-0", "died")
    assert scene.workers.restarts == 1 and len(scene.service.joins) == 1
    scene.joins()
    scene.workers.settle()
    scene.workers.lost("worker-0", "died")  # told of a group of the worker before
    assert list(scene.workers.ready()) == ["worker-0.1", "worker-1"]


def test_those_lost_in_a_push_are_replaced_and_what_a_fault_came_to_is_told(scene: Scene) -> None:
    receipts: tuple[Receipt, ...] = ()
    scene.workers.heed(Published(version=1, receipts=receipts, lost={"worker-1": "hangs"}, notes=("a note",)))
    assert scene.said == ["a note", "worker-1 hangs; starting worker-1.1 in its place"]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (LostWorkerError("worker-0.1", "died as it joined"), "worker-0.1 died as it joined; starting worker-0.2"),
        (EngineError("no memory"), r"worker-0.1 did not start (EngineError: no memory); starting worker-0.2"),
        (ray.exceptions.RayActorError(), "worker-0.1 did not start (RayActorError"),
    ],
)
def test_one_that_does_not_come_up_is_replaced_too(scene: Scene, error: Exception, said: str) -> None:
    scene.workers.lost("worker-0", "died")
    scene.joins(error, started=error)
    scene.workers.settle()
    assert scene.said[-1].startswith(said)
    assert scene.joins() == "worker-0.2" and "worker-0.2" in scene.workers.ready()


def test_one_that_cannot_prove_its_weights_ends_the_run(scene: Scene) -> None:
    scene.workers.lost("worker-0", "died")
    scene.joins(WeightProofError("worker-0.1", 3, "differs"))
    with pytest.raises(WeightProofError, match=r"worker=worker-0\.1 version=3 differs"):
        scene.workers.ready()


def test_too_many_losses_end_the_run(scene: Scene) -> None:
    for name in ("worker-0", "worker-1", "worker-0.1"):
        scene.workers.lost(name, "died")
    with pytest.raises(EngineError, match=r"^worker-1\.2 died, after 3 workers were replaced in this run already$"):
        scene.workers.lost("worker-1.2", "died")


def test_with_the_last_one_lost_the_next_is_waited_for_until_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch, count=1)
    scene.workers.serve(scene.service)
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    waited: list[float] = []

    def wait(calls: Sequence[Answer], *, timeout: float, num_returns: int = 1) -> Any:
        if timeout:
            waited.append(timeout)
            now[0] += timeout + 0.1
        if len(waited) == 2:
            scene.joins()
        return [call for call in calls if call.come], []

    monkeypatch.setattr(module.ray, "wait", wait)
    scene.workers.lost("worker-0", "died")
    assert list(scene.workers.ready()) == ["worker-0.2"]
    assert waited[0] == pytest.approx(module.START_S + 6.0)
    assert "left the driver waiting 606 s to start and prove its weights" in scene.said[1]


def test_before_the_weights_are_proven_nobody_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EngineError, match=r"^worker-0 died before its weights were proven$"):
        Scene(monkeypatch).workers.lost("worker-0", "died")


def test_a_group_of_gpus_loses_no_member(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch, transport="nccl")
    scene.workers.serve(scene.service)
    with pytest.raises(EngineError, match="worker-1 died, and a running nccl transport takes no other in"):
        scene.workers.lost("worker-1", "died")


def test_an_end_waits_for_killed_processes_too(scene: Scene) -> None:
    scene.workers.lost("worker-0", "died")
    scene.workers.stop(1.0)
    assert len(scene.made["worker-1"].stops) == len(scene.made["worker-0.1"].stops) == 1
    assert not scene.made["worker-0"].stops
