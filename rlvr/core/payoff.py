"""What a judged reply pays: the one place where verdicts become numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rlvr.errors import ConfigError
from rlvr.types import Grade, Ungraded, Verdict

__all__ = ["KINDS", "Payoff", "beyond_knowledge", "lacks_format", "value_of"]

KINDS = ("ternary", "binary", "out_of_knowledge", "calibrated")


@dataclass(frozen=True, slots=True, kw_only=True)
class Payoff:
    """Pay by verdict.

    Args:
        kind: `ternary` pays the three amounts. `binary` pays `wrong` for abstaining too: the baseline that teaches to
            guess. `out_of_knowledge` is ternary, but abstaining pays `correct` where the task is marked as beyond the
            model's knowledge. `calibrated` pays, with p the confidence that the reply states (1 where it states none)
            and c = 1 if right, else 0: c - (p - c)^2; abstaining pays `abstained`.
    Errors: ValueError unless all are finite and correct > abstained > wrong.
    Source: TruthRL (arXiv 2509.25760) for ternary, binary and out of knowledge; RLCR (arXiv 2507.16806) for
        calibrated, whose expectation is largest where p is the chance of being right (Brier 1950).
    """

    correct: float = 1.0
    abstained: float = 0.0
    wrong: float = -1.0
    kind: str = "ternary"

    def __post_init__(self) -> None:
        amounts = (self.correct, self.abstained, self.wrong)
        if self.kind not in KINDS:
            raise ValueError(f"a payoff is one of {', '.join(KINDS)}, not {self.kind!r}")
        if not all(math.isfinite(amount) for amount in amounts):
            raise ValueError(f"a payoff needs finite numbers, not {amounts}")
        if not self.correct > self.abstained > self.wrong:
            raise ValueError(f"a payoff needs correct > abstained > wrong, not {amounts}")

    def of(self, verdict: Verdict, *, confidence: float = 1.0, beyond: bool = False) -> float:
        """Give what a verdict pays; `beyond` says that the task is marked as beyond the model's knowledge."""
        if verdict is Verdict.ABSTAINED:
            if self.kind == "binary":
                return self.wrong
            return self.correct if beyond and self.kind == "out_of_knowledge" else self.abstained
        right = verdict is Verdict.CORRECT
        if self.kind == "calibrated":
            return float(right) - (confidence - float(right)) ** 2
        return self.correct if right else self.wrong


def value_of(grade: Grade | Ungraded, payoff: Payoff | None, *, truth: Any = None) -> float:
    """Turn a grade into the value that credit is computed from. `truth` is the task's.

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
    return payoff.of(grade.verdict, confidence=_confidence(grade.parts), beyond=beyond_knowledge(truth))


def beyond_knowledge(truth: Any) -> bool:
    """Tell whether a task's truth marks it as beyond the model's knowledge."""
    return isinstance(truth, Mapping) and truth.get("out_of_knowledge") is True


def lacks_format(parts: Mapping[str, float]) -> bool | None:
    """Tell from a grade's parts whether the reply misses the asked format; None where no reward looked."""
    found = _named("format", parts)
    return min(found) < 1.0 if found else None


def _confidence(parts: Mapping[str, float]) -> float:
    """Find the confidence that the reply states; 1 where no reward read any."""
    found = _named("confidence", parts)
    return min(1.0, max(0.0, found[0])) if found else 1.0


def _named(part: str, parts: Mapping[str, float]) -> list[float]:
    """List the values of a part, whichever reward it comes from: "format" is "math/format" beside other rewards."""
    return [value for name, value in parts.items() if name.rpartition("/")[2] == part]
