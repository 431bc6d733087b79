"""The stream of groups, in whatever order things happen: its bound, its order and its refills."""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import pytest
from fake_cluster import FakeCluster, Sums, recipe
from helpers import NAN
from hypothesis import given
from hypothesis import strategies as st

from rlvr.config import Recipe
from rlvr.loop.ledger import Place, TaskStream
from rlvr.loop.settings import buffer_of
from rlvr.loop.stream import Stream, Taken
from rlvr.loop.traffic import Arrival
from rlvr.rollout.runner import seed_of


def by(prompts: int = 4, *, steps: int = 3, **rollout: Any) -> Recipe:
    return recipe(rollout={"prompts_per_step": prompts, "group_size": 2} | rollout, steps=steps, seed=9)


def stream_of(cluster: FakeCluster, given: Recipe, *, step: int = 0, place: Place | None = None, **how: Any) -> Stream:
    tasks = TaskStream(Sums(), name="e", seed=0, place=place or Place())
    worthwhile = how.pop("worthwhile", lambda headers: True)
    return Stream(cluster, tasks, buffer_of(given), recipe=given, step=step, worthwhile=worthwhile)


def trained(stream: Stream, *, steps: int, first: int = 0) -> list[Taken]:
    """Go through steps as the driver does."""
    found = []
    for step in range(first, steps):
        found.append(stream.take())
        stream.learn(found[-1].admitted)
        stream.publish(step + 1)
    stream.settle()
    return found


def drawn(cluster: FakeCluster) -> list[str]:
    return [name for _, name, _ in cluster.drawn]


def names(count: int) -> list[str]:
    return [one.id for one in TaskStream(Sums(), name="e", seed=0, place=Place()).take(count).values()]


@given(
    order=st.integers(0, 10**6), size=st.integers(1, 3), eta=st.integers(0, 3), steps=st.integers(1, 4),
    dynamic=st.booleans(), flat=st.integers(2, 5),
)  # fmt: skip
def test_whatever_happens_first_the_bound_holds_and_nothing_is_lost(
    order: int, size: int, eta: int, steps: int, dynamic: bool, flat: int
) -> None:
    cluster = FakeCluster()
    cluster.flat = lambda seed: seed % flat == 0
    cluster.picks = Random(order).randrange
    refills = {"dynamic_sampling": True, "max_refills": 3} if dynamic else {}
    found = trained(stream_of(cluster, by(size, steps=steps, max_staleness=eta, **refills)), steps=steps)
    for step, taken in enumerate(found):
        assert taken.admitted.counts["stale"] == 0
        assert all(step - header.min_version <= eta for header in taken.headers)
        assert len(taken.arrived) - (taken.refills or 0) == size
    assert max(cluster.ahead) <= min(eta, 1), "a push is over before the next begins"
    assert not cluster.under_way
    everything = [one.id for taken in found for _, one in taken.arrived]
    assert len(set(everything)) == len(everything) and sorted(everything) == sorted(drawn(cluster))
    assert drawn(cluster) == names(len(everything))
    if not eta:
        assert everything == drawn(cluster), "as if each step had its own tasks"
        assert [header.min_version for taken in found for header in taken.headers] == [
            step for step, taken in enumerate(found) for _ in taken.arrived
        ]


def test_a_ticket_has_the_seed_that_its_place_gives() -> None:
    cluster = FakeCluster()
    trained(stream_of(cluster, by(4, max_staleness=1)), steps=3)
    assert [seed for *_, seed in cluster.drawn] == [seed_of(9, step, place) for step in range(3) for place in range(4)]


def test_a_commit_makes_room_while_the_learner_goes_on() -> None:
    cluster = FakeCluster()
    stream = stream_of(cluster, by(2, steps=9, max_staleness=1))
    stream.learn(stream.take().admitted)
    assert len(cluster.drawn) == 4, "the step that trains and one ahead"
    assert stream.publish(1) == [] and cluster.step == 0, "a push goes on beside the next step"
    stream.learn(stream.take().admitted)
    assert (cluster.step, len(cluster.drawn), len(cluster.trained)) == (1, 6, 2)
    assert stream.place == Place(submitted=6, outstanding=(4, 5))


def test_a_long_reply_is_carried_over_and_waited_for_at_its_deadline() -> None:
    cluster, late = FakeCluster(), names(2)[1]
    cluster.picks = lambda count: next(
        (n for n, one in enumerate(cluster.under_way) if not isinstance(one, Arrival) or one.errand.task.id != late), 0
    )
    found = trained(stream_of(cluster, by(2, steps=5, max_staleness=2)), steps=5)
    assert [late in [one.id for _, one in taken.arrived] for taken in found] == [False, False, True, False, False]
    assert found[2].admitted.lags == (2, 2), "the oldest of those that came stands beside it"


def test_a_group_that_is_too_old_is_sampled_again() -> None:
    cluster = FakeCluster()
    stream = stream_of(cluster, by(2, steps=3))
    trained(stream, steps=1)
    sampled = cluster.under_way[0]
    assert isinstance(sampled, Arrival)
    cluster.under_way[0] = replace(sampled, header=replace(sampled.header, min_version=0))
    taken = stream.take()
    assert (taken.admitted.counts["stale"], taken.admitted.counts["train"]) == (1, 2)
    assert drawn(cluster) == [*names(4), names(3)[2]]
    assert cluster.drawn[2][2] == cluster.drawn[4][2], "with the same seed"
    assert [one.id for _, one in taken.arrived] == [names(3)[2], *names(4)[2:]]


def dropping(flat: list[int], *, refills: int = 3, **how: Any) -> tuple[FakeCluster, Taken]:
    """Take the first step where some tickets come flat."""
    cluster, given = FakeCluster(), by(4, dynamic_sampling=True, max_refills=refills)
    seeds = {seed_of(9, *divmod(ticket, 4)) for ticket in flat}
    cluster.flat = lambda seed: seed in seeds
    return cluster, stream_of(cluster, given, **how).take()


def test_without_dynamic_sampling_a_step_is_what_it_is() -> None:
    cluster = FakeCluster()
    cluster.flat = lambda seed: seed != seed_of(9, 0, 1)
    taken = stream_of(cluster, by()).take()
    assert len(cluster.drawn) == 4 and taken.admitted.counts["train"] == 1
    assert (taken.admitted.loss_tokens, taken.admitted.sequences) == (80, 8), "flat groups count in the mean"
    assert not {"refills", "idle_tokens"} & set(taken.metrics())


def test_what_is_dropped_is_replaced_at_once() -> None:
    cluster, taken = dropping([0, 2, 3, 5])
    assert drawn(cluster) == names(8)
    assert [one.id for _, one in taken.arrived] == names(8), "dropped ones are recorded too, in their order"
    assert taken.admitted.references == tuple(taken.arrived[place][1] for place in (1, 4, 6, 7))
    assert (taken.admitted.loss_tokens, taken.admitted.sequences) == (80, 8), "dropped groups do not count"
    assert taken.metrics() == {
        "groups_train": 4, "groups_flat": 4, "groups_stale": 0, "groups_ungraded": 0, "groups_masked": 0,
        "staleness": 0, "staleness_max": 0, "staleness_0": 1, "refills": 4, "idle_tokens": 80, "outstanding": 0,
        "waited": pytest.approx(0, abs=5),
    }  # fmt: skip


def test_enough_at_once_needs_no_refill() -> None:
    cluster, taken = dropping([])
    assert (len(cluster.drawn), taken.refills, taken.metrics()["idle_tokens"]) == (4, 0, 0)


def test_refills_are_bounded_and_begin_anew_at_each_step() -> None:
    cluster, taken = dropping(list(range(99)), refills=2)
    assert (len(cluster.drawn), taken.refills) == (12, 8)
    assert taken.admitted.references == ()
    cluster = FakeCluster()
    cluster.flat = lambda seed: True
    found = trained(stream_of(cluster, by(2, dynamic_sampling=True, max_refills=1)), steps=3)
    assert [len(taken.arrived) for taken in found] == [4, 4, 4]


def test_a_broken_grader_is_no_reason_to_sample_more() -> None:
    cluster = FakeCluster()
    cluster.values = {1: (NAN, NAN)}
    given = by(dynamic_sampling=True)
    taken = stream_of(cluster, given, worthwhile=lambda headers: all(sum(h.graded) for h in headers)).take()
    assert (len(cluster.drawn), taken.refills) == (4, 0)


@pytest.mark.parametrize("eta", [1, 3])
def test_a_place_gives_back_what_was_outstanding_first(eta: int) -> None:
    cluster, given = FakeCluster(), by(2, steps=6, max_staleness=eta)
    cluster.picks = lambda count: count - 1
    stream = stream_of(cluster, given)
    first = trained(stream, steps=3)
    place, again = stream.place, FakeCluster()
    assert place.outstanding
    again.step = 3
    rest = trained(stream_of(again, given, step=3, place=place), steps=6, first=3)
    tickets = {name: ticket for ticket, name in enumerate(names(12))}
    assert [tickets[name] for name in drawn(again)] == [*place.outstanding, *range(place.submitted, 12)]
    assert sorted(one.id for taken in first + rest for _, one in taken.arrived) == sorted(names(12))
