"""Stops a run that cannot learn any more, with the reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from rlvr.config import GuardSection
from rlvr.core.staleness import is_flat
from rlvr.errors import GradingError, LearnerError, WeightProofError
from rlvr.types import GroupHeader

__all__ = ["Guard"]

# What became of groups that did not train, and what to do where most of them went that way.
FATES = {
    "flat": (
        "had replies that were all worth the same",
        "choose easier or harder tasks, or a larger rollout.group_size",
    ),
    "stale": ("came from weights that were too old", "no worker may be that far behind, please report it"),
    "ungraded": ("had too few graded replies", "mend the reward"),
    "masked": ("had too few replies within rollout.max_new_tokens", "raise it"),
}


class Guard:
    """Watches the signals that die silently elsewhere: grading, the reward's word on what is better, truncation."""

    def __init__(self, limits: GuardSection, *, within_groups: bool = True, max_mismatch: float = float("inf")) -> None:
        """Take the limits, and whether replies are compared with others of their group or of the whole step.

        `max_mismatch` is the most that engines and learner may differ by under the same weights, nats a token.
        """
        self.limits, self.within_groups, self.max_mismatch = limits, within_groups, max_mismatch
        self._dead = self._cut = 0
        self._fates: Counter[str] = Counter()  # of the groups since a step last told replies apart

    def check(self, headers: Sequence[GroupHeader], counts: Mapping[str, int], *, step: int) -> None:
        """Look at a step before it trains. Errors: GradingError, LearnerError."""
        self._check_grading(headers, step)
        self._dead = 0 if counts["train"] and self._told_apart(headers) else self._dead + 1
        self._fates = self._fates + _dead_fates(counts) if self._dead else Counter()
        if self._dead >= self.limits.dead_steps:
            raise LearnerError(
                f"step {step}: no reply was worth more than another for {self._dead} steps: {_fates_of(self._fates)}"
            )
        cut = [flag for header in headers for flag in header.truncated]
        self._cut = self._cut + 1 if sum(cut) > self.limits.max_truncated * len(cut) else 0
        if self._cut >= self.limits.dead_steps:
            raise LearnerError(
                f"step {step}: {sum(cut)} of {len(cut)} replies were cut by rollout.max_new_tokens, and "
                f"{self._cut} steps in a row were like that; raise it"
            )

    def check_mismatch(self, learned: Mapping[str, float], *, version: int) -> None:
        """Compare learner and engines on what was sampled under `version`, the learner's own as it took a step.

        Each push is proven by itself; this looks at every reply. Errors: WeightProofError.
        """
        found = learned.get("mismatch_lag_0")
        if found is not None and not found <= self.max_mismatch:
            raise WeightProofError(
                "all", version,
                f"log-probabilities of the tokens sampled under it are {found:.3f} nats from the learner's, above "
                f"weights.max_mismatch = {self.max_mismatch:g}: the engines compute something else",
            )  # fmt: skip

    def graded(self, headers: Sequence[GroupHeader]) -> bool:
        """Tell whether enough replies have a grade for the step to go on."""
        total = sum(len(header.graded) for header in headers)
        return total - sum(sum(header.graded) for header in headers) <= self.limits.max_ungraded * total

    def _told_apart(self, headers: Sequence[GroupHeader]) -> bool:
        """Tell whether any reply was worth more than one that it is compared with.

        Where flat groups train, by a divergence or an entropy bonus say, that alone is not what the run is for.
        """
        if self.within_groups:
            return any(any(header.counted) and not is_flat(header) for header in headers)
        pairs = (zip(header.values, header.counted, strict=True) for header in headers)
        return len({value for pair in pairs for value, counted in pair if counted}) > 1

    def _check_grading(self, headers: Sequence[GroupHeader], step: int) -> None:
        if not self.graded(headers):
            total = sum(len(header.graded) for header in headers)
            failed = total - sum(sum(header.graded) for header in headers)
            reason, count = Counter(r for header in headers for r in header.reasons).most_common(1)[0]
            raise GradingError(
                f"step {step}: {failed} of {total} replies went ungraded, {count} of them because of {reason}; "
                "mend the reward (a broken grader is never a reward of 0)"
            )


def _dead_fates(counts: Mapping[str, int]) -> Counter[str]:
    """Count groups by what made them useless: those that train in a dead step are all flat."""
    return Counter({fate: n for fate, n in counts.items() if fate != "train"}) + Counter(flat=counts["train"])


def _fates_of(counts: Mapping[str, int]) -> str:
    """Say what became of groups, the commonest first, and what to do about that one."""
    total = sum(counts.values())
    known = sorted((fate for fate in FATES if counts.get(fate)), key=lambda fate: -counts[fate])
    told = [f"{counts[fate]} of {total} groups {FATES[fate][0]}" for fate in known]
    return f"{', '.join(told)}; {FATES[known[0]][1]}" if known else "no group arrived"
