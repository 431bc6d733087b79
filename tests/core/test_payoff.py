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


@pytest.mark.parametrize(
    ("kind", "beyond", "paid"),
    [
        ("ternary", False, 0.0),
        ("ternary", True, 0.0),
        ("binary", False, -1.0),
        ("binary", True, -1.0),
        ("out_of_knowledge", False, 0.0),
        ("out_of_knowledge", True, 1.0),
        ("calibrated", True, 0.0),
    ],
)
def test_what_abstaining_pays(kind: str, beyond: bool, paid: float) -> None:
    truth = {"answers": ["x"], "out_of_knowledge": beyond}
    assert value_of(Grade(verdict=Verdict.ABSTAINED, score=0.0), Payoff(kind=kind), truth=truth) == paid


@pytest.mark.parametrize("truth", ["x", {"out_of_knowledge": "yes"}, {"out_of_knowledge": 1}, None])
def test_only_a_plain_true_marks_a_task_as_beyond_knowledge(truth: object) -> None:
    assert value_of(Grade(verdict=Verdict.ABSTAINED, score=0.0), Payoff(kind="out_of_knowledge"), truth=truth) == 0.0


@pytest.mark.parametrize(
    ("verdict", "parts", "paid"),
    [
        (Verdict.CORRECT, {"truth/confidence": 0.8}, 1 - 0.04),
        (Verdict.WRONG, {"confidence": 0.8}, -0.64),
        (Verdict.WRONG, {"truth/confidence": 0.0}, 0.0),
        (Verdict.CORRECT, {}, 1.0),
        (Verdict.WRONG, {}, -1.0),
        (Verdict.WRONG, {"confidence": 7.0}, -1.0),
    ],
)
def test_calibrated_pays_the_brier_form(verdict: Verdict, parts: dict[str, float], paid: float) -> None:
    grade = Grade(verdict=verdict, score=float(verdict is Verdict.CORRECT), parts=parts)
    assert value_of(grade, Payoff(kind="calibrated")) == pytest.approx(paid, abs=1e-12)


@pytest.mark.parametrize("chance", [0.0, 0.3, 0.5, 0.9, 1.0])
def test_stating_the_chance_of_being_right_pays_best(chance: float) -> None:
    payoff = Payoff(kind="calibrated")
    stated = [place / 100 for place in range(101)]

    def expected(p: float) -> float:
        right, wrong = payoff.of(Verdict.CORRECT, confidence=p), payoff.of(Verdict.WRONG, confidence=p)
        return chance * right + (1 - chance) * wrong

    assert max(stated, key=expected) == pytest.approx(chance)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="one of ternary, binary"):
        Payoff(kind="quaternary")
