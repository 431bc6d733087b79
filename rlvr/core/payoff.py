"""What a judged reply pays: the one place where verdicts become numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rlvr.errors import ConfigError
from rlvr.types import Grade, Ungraded, Verdict

__all__ = ["Payoff", "value_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Payoff:
    """Pay by verdict. Errors: ValueError unless all are finite and correct > abstained > wrong."""

    correct: float = 1.0
    abstained: float = 0.0
    wrong: float = -1.0

    def __post_init__(self) -> None:
        amounts = (self.correct, self.abstained, self.wrong)
        if not all(math.isfinite(amount) for amount in amounts):
            raise ValueError(f"a payoff needs finite numbers, not {amounts}")
        if not self.correct > self.abstained > self.wrong:
            raise ValueError(f"a payoff needs correct > abstained > wrong, not {amounts}")

    def of(self, verdict: Verdict) -> float:
        """Give what a verdict pays."""
        paid = {Verdict.CORRECT: self.correct, Verdict.ABSTAINED: self.abstained, Verdict.WRONG: self.wrong}
        return paid[verdict]


def value_of(grade: Grade | Ungraded, payoff: Payoff | None) -> float:
    """Turn a grade into the value that credit is computed from.

    Gives: NaN where ungraded; the score without a payoff; what the verdict pays with one.
    Errors: ConfigError where a payoff meets a grade without a verdict.
    """
    if isinstance(grade, Ungraded):
        return math.nan
    if payoff is None:
        return grade.score
    if grade.verdict is None:
        raise ConfigError(
            "[payoff] pays by verdict but the first reward gives none: drop [payoff] or put a judging reward first"
        )
    return payoff.of(grade.verdict)
