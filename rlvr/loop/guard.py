"""Stops a run that cannot learn any more, with the reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from rlvr.config import GuardSection
from rlvr.errors import GradingError, LearnerError
from rlvr.types import GroupHeader

__all__ = ["Guard"]

# What became of groups that did not train, and what to do where most of them went that way.
FATES = {
    "flat": (
        "had replies that were all worth the same",
        "choose easier or harder tasks, or a larger rollout.group_size",
    ),
    "stale": ("came from weights that were too old", "no worker may be that far behind, please report it"),
    "ungraded": ("had fewer than two graded replies", "mend the reward"),
}


class Guard:
    """Watches the signals that die silently elsewhere: grading, gradient, truncation."""

    def __init__(self, limits: GuardSection) -> None:
        self.limits = limits
        self._flat = self._cut = 0
        self._fates: Counter[str] = Counter()  # of the groups since a step last had a gradient

    def check(self, headers: Sequence[GroupHeader], counts: Mapping[str, int], *, step: int) -> None:
        """Look at a step before it trains. Errors: GradingError, LearnerError."""
        self._check_grading(headers, step)
        self._flat = self._flat + 1 if counts["train"] == 0 else 0
        self._fates = self._fates + Counter(counts) if self._flat else Counter()
        if self._flat >= self.limits.dead_steps:
            raise LearnerError(
                f"step {step}: no group carried any gradient for {self._flat} steps: {_fates_of(self._fates)}"
            )
        cut = [flag for header in headers for flag in header.truncated]
        self._cut = self._cut + 1 if sum(cut) > self.limits.max_truncated * len(cut) else 0
        if self._cut >= self.limits.dead_steps:
            raise LearnerError(
                f"step {step}: {sum(cut)} of {len(cut)} replies were cut by rollout.max_new_tokens, and "
                f"{self._cut} steps in a row were like that; raise it"
            )

    def _check_grading(self, headers: Sequence[GroupHeader], step: int) -> None:
        total = sum(len(header.graded) for header in headers)
        failed = total - sum(sum(header.graded) for header in headers)
        if failed > self.limits.max_ungraded * total:
            reason, count = Counter(r for header in headers for r in header.reasons).most_common(1)[0]
            raise GradingError(
                f"step {step}: {failed} of {total} replies went ungraded, {count} of them because of {reason}; "
                "mend the reward (a broken grader is never a reward of 0)"
            )


def _fates_of(counts: Mapping[str, int]) -> str:
    """Say what became of groups, the commonest first, and what to do about that one."""
    total = sum(counts.values())
    known = sorted((fate for fate in FATES if counts.get(fate)), key=lambda fate: -counts[fate])
    told = [f"{counts[fate]} of {total} groups {FATES[fate][0]}" for fate in known]
    return f"{', '.join(told)}; {FATES[known[0]][1]}" if known else "no group arrived"
