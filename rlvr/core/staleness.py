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
    UNGRADED = "ungraded"  # fewer than two rollouts have a grade
    FLAT = "flat"  # all values equal: no gradient under this algorithm


def admit(
    header: GroupHeader, learner_version: int, *, max_staleness: int, flat_groups_have_no_gradient: bool
) -> Admission:
    """Decide whether a group trains the learner at `learner_version`, and if not, why not."""
    if learner_version - header.min_version > max_staleness:
        return Admission.STALE
    if sum(header.graded) < 2:
        return Admission.UNGRADED
    if flat_groups_have_no_gradient and is_flat(header):
        return Admission.FLAT
    return Admission.TRAIN


def is_flat(header: GroupHeader) -> bool:
    """Tell whether all graded values of a group are equal."""
    known = np.array(header.values)[np.array(header.graded, dtype=bool)]
    return len(known) > 0 and bool((known == known[0]).all())
