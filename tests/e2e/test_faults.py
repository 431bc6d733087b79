"""The way to a worker breaks, with real engines in processes of their own: killed, stopped, late, twice, out of order.

One worker of two is struck in the middle of a push, while both sample. The run goes on, and nobody serves unproven.
"""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

from rlvr.config import Recipe
from rlvr.loop.cluster import Cluster
from rlvr.testing import task, tiny_model
from rlvr.weights.faults import Fault
from rlvr.weights.service import Published

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

TASKS = [task(f"What is {n} + {n}?", str(2 * n)) for n in range(8)]
DEADLINE_S = 20.0  # a push of this model takes a fraction of a second


def recipe(model: Path) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "faults", "steps": 1, "model": {"path": str(model)}, "environment": {"name": "arithmetic"},
            "reward": ({"name": "math"},), "weights": {"deadline_s": DEADLINE_S},
            "rollout": {"workers": 2, "prompts_per_step": 8, "group_size": 2, "max_new_tokens": 160,
                        "max_model_len": 256, "max_num_seqs": 16},
        }
    )  # fmt: skip


@dataclass
class Run:
    """A cluster of two workers, what it has warned of, and the version that is committed."""

    cluster: Cluster
    said: list[str]
    version: int = 0
    fault: str = field(default="")

    @property
    def workers(self) -> Any:
        return self.cluster._workers

    def push(self, fault: str) -> Published:
        """Push a version that is broken so, while all workers sample."""
        import ray

        self.version += 1
        service = self.cluster._service
        ray.get(service.inject.remote(Fault(kind=fault, version=self.version)))
        running = [handle.run.remote(one, 2, 1, False)[0] for handle in self.workers.serving.values() for one in TASKS]
        published: Published = ray.get(service.publish.remote(self.version), timeout=4 * DEADLINE_S)
        self.workers.heed(published)
        for call in running:
            try:
                header = ray.get(call, timeout=300)
            except ray.exceptions.RayActorError:
                assert published.lost
            else:
                assert header.min_version >= self.version - 1
        return published

    def sample(self) -> set[str]:
        """Sample groups, all of which must come from the version that is committed; give who sampled them."""
        arrived = self.cluster.rollout(TASKS, list(range(len(TASKS))), group_size=2)
        assert {(h.min_version, h.max_version) for h, _ in arrived} == {(self.version, self.version)}
        return {header.worker for header, _ in arrived}

    def whole(self) -> list[str]:
        """Wait until two workers serve again; give their names."""
        end = time.monotonic() + 600
        while len(self.workers.ready()) < 2:
            assert time.monotonic() < end, self.said
            time.sleep(0.1)
        return list(self.workers.ready())


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    model = tiny_model(tmp_path_factory.mktemp("model"), tied=True)
    said: list[str] = []
    with Cluster(recipe(model), model=model, warn=said.append) as cluster:
        cluster.prove(TASKS, 0, fault=None)
        yield Run(cluster, said)
        folder = cluster._folder
        assert folder is not None and len(list(folder.iterdir())) == 1, "only the committed version lies there"
    assert not folder.exists()


def processes_of(run: Run, name: str) -> list[psutil.Process]:
    return [psutil.Process(number) for number, _ in run.workers._processes[name][1]]


def test_a_worker_that_is_killed_in_a_push_is_replaced_and_the_other_goes_on(run: Run) -> None:
    theirs = processes_of(run, "worker-0")
    assert os.getpid() not in {one.pid for one in theirs} and len(theirs) >= 2  # its own and the engine's
    published = run.push("weights.kill")
    assert list(published.lost) == ["worker-0"] and "died as it took up version 1" in published.lost["worker-0"]
    assert [receipt.worker for receipt in published.receipts] == ["worker-1"]
    assert run.sample() == {"worker-1"}
    assert run.whole() == ["worker-0.1", "worker-1"]
    assert run.sample() == {"worker-0.1", "worker-1"}
    psutil.wait_procs(theirs, timeout=10)
    assert not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in theirs)
    assert any("worker-0 died" in line and "starting worker-0.1 in its place" in line for line in run.said)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["slow", "duplicate", "reorder"])
def test_what_a_worker_can_take_is_survived_without_a_restart(run: Run, fault: str) -> None:
    published = run.push(f"weights.{fault}")
    assert len(published.receipts) == 2 and not published.lost and len(published.notes) == 1
    assert run.sample() == set(run.whole())


@pytest.mark.slow
def test_a_worker_whose_process_stops_in_a_push_is_killed_and_replaced(run: Run) -> None:
    run.whole()
    first = next(iter(run.workers.serving))  # in the order of the service too
    theirs = processes_of(run, first)
    published = run.push("weights.hang")
    (lost,) = published.lost
    assert f"waiting {DEADLINE_S:g} s for its receipt" in published.lost[lost]
    run.sample()
    assert lost not in run.whole()
    if lost == first:
        psutil.wait_procs(theirs, timeout=10)
        assert not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in theirs)
    assert run.sample() == set(run.whole())
