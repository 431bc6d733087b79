"""Who may train the learner, and when: pure rules on group headers, and the arithmetic of tickets.

A ticket is a group's place in the task stream, from 0. Submitted while version u was committed, it may train the
learner at versions u to u + max_staleness; the last of them is its deadline.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import StrEnum

import numpy as np

from rlvr.types import GroupHeader

__all__ = ["Admission", "admit", "capacity", "choose", "is_flat"]


class Admission(StrEnum):
    """What becomes of a group."""

    TRAIN = "train"
    STALE = "stale"  # sampled under weights older than allowed
    UNGRADED = "ungraded"  # too few rollouts have a grade
    MASKED = "masked"  # enough have one, but too few of those were not cut by the token budget
    FLAT = "flat"  # all values equal: no gradient under this algorithm


def admit(
    header: GroupHeader, learner_version: int, *, max_staleness: int, flat_groups_have_no_gradient: bool,
    least: int = 2,
) -> Admission:  # fmt: skip
    """Decide whether a group trains the learner at `learner_version`, and if not, why not.

    `least` is how many rollouts with a value the baseline needs: 2 where they are compared with each other, else 1.
    """
    if learner_version - header.min_version > max_staleness:
        return Admission.STALE
    if sum(header.graded) < least:
        return Admission.UNGRADED
    if sum(header.counted) < least:
        return Admission.MASKED
    if flat_groups_have_no_gradient and is_flat(header):
        return Admission.FLAT
    return Admission.TRAIN


def is_flat(header: GroupHeader) -> bool:
    """Tell whether all values of a group are equal, those left out aside."""
    known = np.array(header.values)[np.array(header.counted, dtype=bool)]
    return len(known) > 0 and bool((known == known[0]).all())


def capacity(committed: int, *, step_size: int, max_staleness: int, steps: int) -> int:
    """Give how many tickets may have been submitted by now, those dropped aside.

    Enough for the step that `committed` trains and for `max_staleness` more, but for none after the last of `steps`.
    """
    return min(committed + 1 + max_staleness, steps) * step_size


def choose(
    deadlines: Mapping[int, int], arrived: Collection[int], learner_version: int, *, step_size: int
) -> list[int] | None:
    """Choose the tickets that the learner at `learner_version` trains on; None where it has to wait for more.

    `deadlines` are those of all tickets outstanding, running or `arrived`. The ones with the earliest deadlines are
    taken, oldest first, but only if all others can still be on time: of those, at most j steps' worth may be due within
    the j steps after this one. Where not even waiting helps, since all have arrived, they are taken all the same.
    """
    first = sorted(arrived, key=lambda ticket: (deadlines[ticket], ticket))[:step_size]
    if len(first) < step_size:
        return None
    left = sorted(deadlines[ticket] for ticket in deadlines.keys() - set(first))
    late = any(place > (due - learner_version) * step_size for place, due in enumerate(left, start=1))
    return None if late and len(arrived) < len(deadlines) else sorted(first)
