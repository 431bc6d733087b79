"""Which payoff a recipe has, and which of its settings would be without effect."""

from typing import Any

import pytest

from rlvr.config import Recipe
from rlvr.core.payoff import Payoff
from rlvr.errors import ConfigError
from rlvr.loop.settings import payoff_of


def recipe(*rewards: dict[str, Any], **payoff: Any) -> Recipe:
    """Make a recipe of rewards and, where it is given, a payoff."""
    plain: dict[str, Any] = {
        "name": "r", "steps": 1, "model": {"path": "m"}, "environment": {"name": "e"}, "reward": rewards,
    }  # fmt: skip
    return Recipe.model_validate(plain | ({"payoff": payoff} if payoff else {}))


def test_the_recipe_goes_before_the_reward() -> None:
    assert payoff_of(recipe({"name": "math"})) is None
    assert payoff_of(recipe({"name": "truth"})) == Payoff()
    assert payoff_of(recipe({"name": "truth"}, kind="binary")) == Payoff(kind="binary")
    assert payoff_of(recipe({"name": "math"}, {"name": "format"})) is None


@pytest.mark.parametrize(
    ("rewards", "payoff"),
    [
        (({"name": "math"}, {"name": "format", "tags": ["answer"]}), {"kind": "ternary"}),
        (({"name": "truth"}, {"name": "format", "tags": ["answer"]}), {}),
    ],
)
def test_a_score_that_no_payoff_pays_is_refused(rewards: Any, payoff: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="the score of reward 'format' has no effect: give it weight = 0"):
        payoff_of(recipe(*rewards, **payoff))
    assert payoff_of(recipe(rewards[0], rewards[1] | {"weight": 0.0}, **payoff)) == Payoff()


def test_calibration_needs_a_stated_confidence() -> None:
    with pytest.raises(ConfigError, match="needs a reward that reads a stated confidence"):
        payoff_of(recipe({"name": "math"}, kind="calibrated"))
    assert payoff_of(recipe({"name": "truth"}, kind="calibrated")) == Payoff(kind="calibrated")
