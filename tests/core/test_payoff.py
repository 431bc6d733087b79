import math

import pytest

from rlvr.core.payoff import Payoff, value_of
from rlvr.errors import ConfigError
from rlvr.types import Grade, Ungraded, Verdict

PAYOFF = Payoff(correct=1.0, abstained=0.0, wrong=-1.0)


@pytest.mark.parametrize(
    ("verdict", "value"), [(Verdict.CORRECT, 1.0), (Verdict.ABSTAINED, 0.0), (Verdict.WRONG, -1.0)]
)
def test_a_payoff_pays_by_verdict_and_not_by_score(verdict: Verdict, value: float) -> None:
    assert value_of(Grade(verdict=verdict, score=0.25), PAYOFF) == value


def test_without_a_payoff_the_score_is_the_value() -> None:
    assert value_of(Grade(verdict=None, score=-3.5), None) == -3.5


@pytest.mark.parametrize("payoff", [None, PAYOFF])
def test_ungraded_is_nan_and_never_zero(payoff: Payoff | None) -> None:
    assert math.isnan(value_of(Ungraded(boundary="reward:x", reason="broke"), payoff))


def test_a_payoff_needs_a_verdict() -> None:
    with pytest.raises(ConfigError, match="gives none"):
        value_of(Grade(verdict=None, score=1.0), PAYOFF)


@pytest.mark.parametrize("amounts", [(1, 1, -1), (1, 0, 0), (0, 1, -1), (math.nan, 0, -1), (math.inf, 0, -1)])
def test_the_order_of_a_payoff_is_checked(amounts: tuple[float, float, float]) -> None:
    correct, abstained, wrong = amounts
    with pytest.raises(ValueError, match="a payoff needs"):
        Payoff(correct=correct, abstained=abstained, wrong=wrong)
