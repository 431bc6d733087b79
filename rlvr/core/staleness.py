"""Who may train the learner: pure rules on group headers."""

from __future__ import annotations

from enum import StrEnum

import numpy as np

from rlvr.types import GroupHeader

__all__ = ["Admission", "admit", "is_flat"]


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
