"""Who gets the next group, what becomes of a dead worker's, and how long anything is waited for."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import ray
from helpers import make_header
from hypothesis import given
from hypothesis import strategies as st

from rlvr.errors import EngineError, LearnerError
from rlvr.loop import traffic
from rlvr.loop.traffic import Arrival, Errand, Learned, Routes, Traffic
from rlvr.testing import task


def errand(ticket: int = 0, question: str = "1 + 1") -> Errand:
    return Errand(ticket=ticket, task=task(question), seed=ticket, group_size=2)


def routes_of(*workers: str) -> Routes:
    routes = Routes()
    for worker in workers:
        routes.join(worker)
    return routes


def test_prompts_that_begin_alike_prefer_the_same_worker() -> None:
    routes, names = routes_of("a", "b", "c"), [f"shared words {n} " * 40 for n in range(40)]
    preferred = [routes.choose(errand(question=name)) for name in names]
    assert preferred == [routes.choose(errand(question=f"{name}, and then what?")) for name in names]
    assert set(preferred) == {"a", "b", "c"}
    less = routes_of("a", "b")
    kept = [(one, less.choose(errand(question=name))) for one, name in zip(preferred, names, strict=True)]
    assert all(before == after for before, after in kept if before != "c"), "the others keep what they have"


@given(st.lists(st.booleans(), max_size=40), st.integers(1, 4))
def test_load_comes_before_the_prefix(ends: list[bool], workers: int) -> None:
    routes = routes_of(*map(str, range(workers)))
    loads = dict.fromkeys(routes.workers, 0)
    for call, end in enumerate(ends):
        name = routes.choose(errand(call))
        assert loads[name] == min(loads.values())
        routes.sent(call, errand(call), worker=name)
        loads[name] += 1
        if end:
            name, _ = routes.ended(routes.calls[0])
            loads[name] -= 1
    assert len(routes.calls) == sum(loads.values())


class Workers:
    """Ray, as far as traffic sees it: calls are names, and a test says which end and how."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, deadline_s: float = 60.0) -> None:
        self.ended: dict[str, Any] = {}
        self.sent: list[tuple[str, int]] = []
        self.died: list[str] = []
        self.revives = True
        monkeypatch.setattr(
            traffic, "ray", SimpleNamespace(wait=self._wait, get=self._get, exceptions=ray.exceptions)
        )  # fmt: skip
        self.traffic = Traffic(deadline_s=deadline_s, lost=self._lost)

    def worker(self, name: str) -> Any:
        def remote(one: Any, group_size: int, seed: int, greedy: bool) -> tuple[str, str]:
            self.sent.append((name, seed))
            call = f"{name} {seed} {len(self.sent)}"
            return call, f"group {call}"

        return SimpleNamespace(run=SimpleNamespace(remote=remote))

    def join(self, *names: str) -> None:
        for name in names:
            self.traffic.join(name, self.worker(name))

    def _wait(self, calls: Sequence[str], *, timeout: float) -> tuple[list[str], list[str]]:
        assert len(set(calls)) == len(calls)
        return [call for call in calls if call in self.ended][:1], []

    def _get(self, call: str, *, timeout: float | None = None) -> Any:
        if isinstance(self.ended[call], Exception):
            raise self.ended[call]
        return self.ended[call]

    def _lost(self, name: str, error: Exception) -> None:
        self.died.append(name)
        if self.revives:
            self.join(name)

    def end(self, *, worker: str = "", of: int | None = None, how: Any = None) -> None:
        call = next(c for c in self.traffic.routes.calls if c.startswith(worker) and of in (None, int(c.split()[1])))
        self.ended[call] = how or make_header()


def test_groups_come_as_they_end(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = Workers(monkeypatch)
    workers.join("a", "b")
    for ticket in range(4):
        workers.traffic.submit(errand(ticket))
    assert sorted(name for name, _ in workers.sent) == ["a", "a", "b", "b"]
    workers.end(of=2)
    event = workers.traffic.wait()
    assert isinstance(event, Arrival) and event.errand.ticket == 2 and event.group.startswith("group ")


def test_a_dead_worker_s_groups_go_to_others_and_its_successor_gets_work(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = Workers(monkeypatch)
    workers.join("a", "b", "c")
    for ticket in range(6):
        workers.traffic.submit(errand(ticket))
    owed = [seed for name, seed in workers.sent if name == "a"]
    workers.sent = []
    workers.end(worker="a", how=ray.exceptions.RayActorError())
    assert workers.traffic._ended(next(iter(workers.ended))) is None
    assert workers.died == ["a"]
    assert sorted(seed for _, seed in workers.sent) == owed and "a" not in {name for name, _ in workers.sent}
    assert len(workers.traffic._groups) == 6, "of the dead worker's calls none is waited for"
    workers.traffic.submit(errand(9))
    assert workers.sent[-1] == ("a", 9), "who has the fewest"


def test_without_a_worker_groups_wait_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = Workers(monkeypatch)
    workers.revives = False
    workers.join("a")
    for ticket in range(2):
        workers.traffic.submit(errand(ticket))
    workers.end(how=ray.exceptions.RayActorError())
    workers.traffic.begin("b starts", lambda found: workers.join(found), "b", deadline_s=60)
    workers.sent = []
    workers.traffic._ended(workers.traffic.routes.calls[0])
    assert workers.sent == [] and workers.traffic.routes.calls == []
    workers.ended["b starts"] = "b"
    assert workers.traffic._ended("b starts") is None, "which is nothing to the driver"
    assert sorted(workers.sent) == [("b", 0), ("b", 1)]


def test_an_evaluation_goes_beside_what_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = Workers(monkeypatch)
    workers.join("a")
    workers.traffic.submit(errand(0))
    workers.traffic.submit(errand(1))
    workers.traffic.begin("learned", lambda found: Learned(metrics=found), "the step", deadline_s=60)
    workers.ended["learned"] = {"loss": 1.0}
    workers.end(of=1)
    original = workers.traffic.submit

    def submit(one: Errand) -> None:
        original(one)
        workers.ended[workers.traffic.routes.calls[-1]] = make_header()

    workers.traffic.submit = submit  # type: ignore[method-assign]
    asked = [errand(0, "held out"), errand(1, "held out")]
    found = workers.traffic.run(asked)
    assert [one.errand for one in found] == asked
    first, second = workers.traffic.wait(), workers.traffic.wait()
    assert isinstance(first, Learned) and isinstance(second, Arrival)
    assert (first.metrics, second.errand.task) == ({"loss": 1.0}, task("1 + 1"))


def test_what_fails_says_so_in_its_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = Workers(monkeypatch)
    workers.traffic.begin("call", lambda found: Learned(metrics=found), "the learner's step", deadline_s=60)
    workers.ended["call"] = LearnerError("diverged")
    with pytest.raises(LearnerError, match=r"^diverged$"):
        workers.traffic.wait()
    workers.traffic.begin("again", lambda found: Learned(metrics=found), "the learner's step", deadline_s=60)
    workers.ended["again"] = ray.exceptions.RayActorError()
    with pytest.raises(EngineError, match=r"^an actor died while the driver waited for the learner's step: "):
        workers.traffic.wait()


def test_every_wait_has_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = Workers(monkeypatch, deadline_s=0.0)
    workers.join("a", "b")
    for ticket in range(3):
        workers.traffic.submit(errand(ticket))
    owes = workers.traffic.routes.slowest()
    said = f"^{owes} sent no group for 0 s, 3 are open; raise rollout.deadline_s if replies take that long$"
    with pytest.raises(EngineError, match=said):
        workers.traffic.wait()
    workers.traffic.begin(
        "call", lambda found: Learned(metrics=found), "the learner's step", deadline_s=0, raised="rollout.deadline_s"
    )
    with pytest.raises(
        EngineError, match=r"^the driver waited 0 s for the learner's step; raise rollout.deadline_s if"
    ):
        workers.traffic.wait()
