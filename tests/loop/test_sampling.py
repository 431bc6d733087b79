"""Dynamic sampling: what is drawn, when it stops, and what it says of itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

from helpers import NAN, make_header
from hypothesis import given
from hypothesis import strategies as st
from rlvr.loop.sampling import Sampled, sample_step

from rlvr.config import Recipe
from rlvr.loop.ledger import TaskStream
from rlvr.loop.settings import buffer_of
from rlvr.rollout.runner import seed_of
from rlvr.testing import task
from rlvr.types import Task

MIXED, FLAT, BROKEN = (1.0, 0.0), (1.0, 1.0), (NAN, NAN)


class Sums:
    """Endless sums."""

    def tasks(self, split: str, *, seed: int) -> Iterator[Task]:
        number = 0
        while True:
            number += 1
            yield task(f"{number}")


class Worker:
    """Gives the next of the listed values to each group that it is asked for."""

    def __init__(self, values: Sequence[tuple[float, ...]]) -> None:
        self.values = iter(values)
        self.asked: list[tuple[list[str], list[int]]] = []

    def rollout(self, tasks: Sequence[Task], seeds: Sequence[int], *, group_size: int) -> Any:
        assert group_size == 2
        self.asked.append(([one.messages[0]["content"] for one in tasks], list(seeds)))
        return [(make_header(next(self.values), lengths=[5, 5]), one.id) for one in tasks]

    def record(self, step: int, arrived: Any) -> None:
        raise AssertionError("the driver records what a whole step sampled")


def recipe(prompts: int = 4, **rollout: Any) -> Recipe:
    return Recipe.model_validate({
        "name": "r", "steps": 3, "seed": 9, "model": {"path": "m"}, "environment": {"name": "e"},
        "reward": [{"name": "w"}], "rollout": {"prompts_per_step": prompts, "group_size": 2} | rollout,
    })  # fmt: skip


def sampled(
    values: Sequence[tuple[float, ...]], *, by: Recipe, worthwhile: Callable[..., bool] = lambda _: True
) -> tuple[Sampled, Worker, TaskStream]:
    worker, stream = Worker(values), TaskStream(Sums(), name="e", seed=0, skip=0)
    found = sample_step(worker, stream, buffer_of(by), recipe=by, step=0, worthwhile=worthwhile)
    return found, worker, stream


def test_without_dynamic_sampling_a_step_is_one_round() -> None:
    found, worker, stream = sampled([FLAT, MIXED, FLAT, FLAT], by=recipe())
    assert len(worker.asked) == 1 and stream.taken == 4
    assert found.admitted.counts["train"] == 1
    assert (found.admitted.loss_tokens, found.admitted.sequences) == (40, 8), "flat groups count in the mean"
    assert found.refills is None
    assert not {"refills", "idle_tokens"} & set(found.metrics())


def test_what_is_missing_is_sampled_again_with_seeds_that_go_on() -> None:
    by = recipe(dynamic_sampling=True)
    found, worker, stream = sampled([FLAT, MIXED, FLAT, FLAT, MIXED, FLAT, MIXED, MIXED], by=by)
    assert [tasks for tasks, _ in worker.asked] == [["1", "2", "3", "4"], ["5", "6", "7"], ["8"]]
    assert [seed for _, seeds in worker.asked for seed in seeds] == [seed_of(9, 0, place) for place in range(8)]
    assert stream.taken == 8
    assert found.refills == 2
    assert found.admitted.references == tuple(found.arrived[place][1] for place in (1, 4, 6, 7))
    assert (found.admitted.loss_tokens, found.admitted.sequences) == (40, 8), "dropped groups do not count"
    assert found.metrics() == {
        "groups_train": 4, "groups_flat": 4, "groups_stale": 0, "groups_ungraded": 0, "groups_masked": 0,
        "refills": 2, "idle_tokens": 40,
    }  # fmt: skip
    assert len(found.headers) == 8


def test_enough_at_once_needs_no_refill() -> None:
    found, worker, _ = sampled([MIXED] * 4, by=recipe(dynamic_sampling=True))
    assert (len(worker.asked), found.refills, found.metrics()["idle_tokens"]) == (1, 0, 0)


def test_refills_are_bounded() -> None:
    found, worker, stream = sampled([FLAT] * 12, by=recipe(dynamic_sampling=True, max_refills=2))
    assert (len(worker.asked), stream.taken, found.refills) == (3, 12, 2)
    assert found.admitted.references == ()


def test_a_broken_grader_is_no_reason_to_sample_more() -> None:
    by = recipe(dynamic_sampling=True)
    found, worker, _ = sampled([BROKEN] * 4, by=by, worthwhile=lambda headers: all(sum(h.graded) for h in headers))
    assert (len(worker.asked), found.refills) == (1, 0)


@given(
    values=st.lists(st.sampled_from([MIXED, FLAT]), min_size=40, max_size=40), prompts=st.integers(1, 6),
    refills=st.integers(1, 4),
)  # fmt: skip
def test_refills_add_up(values: list[tuple[float, ...]], prompts: int, refills: int) -> None:
    by = recipe(prompts, dynamic_sampling=True, max_refills=refills)
    found, worker, stream = sampled(values, by=by)
    rounds = [len(tasks) for tasks, _ in worker.asked]
    kept = [value == MIXED for value in values[: sum(rounds)]]
    assert stream.taken == sum(rounds) == len(found.arrived)
    assert rounds[0] == prompts and found.refills == len(rounds) - 1 <= refills
    starts = [sum(rounds[:i]) for i in range(len(rounds) + 1)]
    for begin, end in pairwise(starts[1:]):
        assert end - begin == prompts - sum(kept[:begin]) > 0, "a refill asks for what is missing"
    train = found.admitted.counts["train"]
    assert train == sum(kept) <= prompts
    assert train == prompts or found.refills == refills
    assert found.admitted.loss_tokens == 10 * train and found.admitted.sequences == 2 * train
    assert found.admitted.idle_tokens == 10 * (len(found.arrived) - train)
