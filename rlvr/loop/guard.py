"""Stops a run that cannot learn any more, with the reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from rlvr.config import GuardSection
from rlvr.errors import GradingError, LearnerError
from rlvr.types import GroupHeader

__all__ = ["Guard"]


class Guard:
    """Watches the signals that die silently elsewhere: grading, gradient, truncation."""

    def __init__(self, limits: GuardSection) -> None:
        self.limits = limits
        self._flat = self._cut = 0

    def check(self, headers: Sequence[GroupHeader], counts: Mapping[str, int], *, step: int) -> None:
        """Look at a step before it trains. Errors: GradingError, LearnerError."""
        self._check_grading(headers, step)
        self._flat = self._flat + 1 if counts["train"] == 0 else 0
        if self._flat >= self.limits.dead_steps:
            raise LearnerError(
                f"step {step}: no group carried any gradient for {self._flat} steps (all replies of every group were "
                "worth the same); choose easier or harder tasks, or a larger rollout.group_size"
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
