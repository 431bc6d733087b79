"""Tickets: how many may be out, which a step takes, and that nothing gets too old, lost or stuck."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.core.staleness import capacity, choose


@pytest.mark.parametrize(
    ("committed", "max_staleness", "steps", "tickets"),
    [(0, 0, 9, 4), (1, 0, 9, 8), (0, 1, 9, 8), (3, 2, 9, 24), (7, 2, 9, 36), (8, 2, 9, 36)],
)
def test_capacity_is_a_step_and_what_may_be_stale(committed: int, max_staleness: int, steps: int, tickets: int) -> None:
    assert capacity(committed, step_size=4, max_staleness=max_staleness, steps=steps) == tickets


@pytest.mark.parametrize(
    ("deadlines", "arrived", "version", "chosen"),
    [
        ({0: 0, 1: 0}, {1}, 0, None),  # too few
        ({0: 0, 1: 0}, {0, 1}, 0, [0, 1]),
        ({0: 1, 1: 1, 2: 1, 3: 1}, {3, 1}, 0, [1, 3]),  # 0 and 2 are due at the next step, which has room for both
        ({0: 1, 1: 1, 2: 1, 3: 1}, {1, 2, 3}, 0, [1, 2]),  # oldest first
        ({0: 0, 1: 1, 2: 1, 3: 1}, {1, 2, 3}, 0, None),  # 0 is due now
        ({0: 1, 1: 1, 2: 1, 3: 2, 4: 2}, {3, 4}, 0, None),  # three would be due at the next step, of two
        ({0: 1, 1: 1, 2: 1, 3: 2, 4: 2}, {0, 3, 4}, 0, [0, 3]),
        ({5: 3, 0: 4, 1: 4, 2: 4}, {0, 1, 5}, 3, [0, 5]),  # a group that was sampled again is due later
        ({0: 0, 1: 0, 2: 0}, {0, 1, 2}, 0, [0, 1]),  # nothing helps: take what can be taken
    ],
)
def test_which_tickets_a_step_takes(
    deadlines: dict[int, int], arrived: set[int], version: int, chosen: list[int] | None
) -> None:
    assert choose(deadlines, arrived, version, step_size=2) == chosen


class Run:
    """A whole run on tickets alone: what happens next is drawn."""

    def __init__(self, chance: Random, *, size: int, eta: int, steps: int, drops: bool) -> None:
        self.chance, self.size, self.eta, self.steps, self.drops = chance, size, eta, steps, drops
        self.committed = self.learner = self.submitted = 0
        self.out: dict[int, int] = {}  # ticket to the version committed as it was submitted
        self.arrived: set[int] = set()
        self.dropped: set[int] = set()
        self.taken: list[list[int]] = []

    def fill(self) -> None:
        limit = capacity(self.committed, step_size=self.size, max_staleness=self.eta, steps=self.steps)
        for _ in range(limit - self.learner * self.size - len(self.out)):
            self.out[self.submitted] = self.committed
            self.submitted += 1

    def possible(self) -> list[str]:
        found = []
        if len(self.arrived) < len(self.out):
            found.append("arrive")
        if self.committed < self.learner:
            found.append("commit")
        # a push begins once the one before has ended, and after it the learner takes its next step
        if self.learner < self.steps and self.learner - self.committed < 2 and self.chosen() is not None:
            found.append("take")
        return found

    def chosen(self) -> list[int] | None:
        deadlines = {ticket: version + self.eta for ticket, version in self.out.items()}
        return choose(deadlines, self.arrived, self.learner, step_size=self.size)

    def happen(self, what: str) -> None:
        if what == "arrive":
            ticket = self.chance.choice(sorted(self.out.keys() - self.arrived))
            self.arrived.add(ticket)
            if self.drops and self.chance.random() < 0.5:
                self.arrived.discard(ticket)
                del self.out[ticket]
                self.dropped.add(ticket)
        elif what == "commit":
            self.committed += 1
        else:
            chosen = self.chosen()
            assert chosen is not None
            for ticket in chosen:
                assert self.learner - self.out.pop(ticket) <= self.eta, "the bound holds"
                self.arrived.remove(ticket)
            self.taken.append(chosen)
            self.learner += 1
        self.fill()

    def run(self) -> None:
        self.fill()
        while self.learner < self.steps:
            possible = self.possible()
            assert possible, "a run never gets stuck"
            self.happen(self.chance.choice(possible))
        assert not self.out, "nothing is sampled beyond the last step"
        trained = sorted(ticket for step in self.taken for ticket in step)
        assert len(trained) == self.steps * self.size
        assert sorted([*trained, *self.dropped]) == list(range(self.submitted)), "nothing is lost or taken twice"


@given(
    seed=st.integers(0, 10**6), size=st.integers(1, 4), eta=st.integers(0, 3), steps=st.integers(1, 5),
    drops=st.booleans(),
)  # fmt: skip
def test_no_group_gets_too_old_and_no_run_gets_stuck(seed: int, size: int, eta: int, steps: int, drops: bool) -> None:
    Run(Random(seed), size=size, eta=eta, steps=steps, drops=drops).run()


@given(seed=st.integers(0, 10**6), size=st.integers(1, 4), steps=st.integers(1, 5))
def test_without_staleness_each_step_takes_the_next_tickets(seed: int, size: int, steps: int) -> None:
    run = Run(Random(seed), size=size, eta=0, steps=steps, drops=False)
    run.run()
    assert run.taken == [list(range(step * size, (step + 1) * size)) for step in range(steps)]
