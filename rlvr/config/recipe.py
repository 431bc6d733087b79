"""The whole recipe: its sections, with the preset's keys written out, and checked against each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field, ModelWrapValidatorHandler, PositiveInt, ValidationInfo, model_validator

from rlvr.config.algorithm import AlgorithmSection, CriticSection
from rlvr.config.checks import contradictions, idle_keys
from rlvr.config.sections import (
    AdapterSection,
    CheckpointSection,
    EvalSection,
    GuardSection,
    HardwareSection,
    Model,
    PayoffSection,
    PlugIn,
    RewardPlugIn,
    RolloutSection,
    Section,
    SftSection,
    TrackSection,
    WeightsSection,
)
from rlvr.presets import PRESETS

__all__ = ["Recipe"]


class Recipe(Section):
    """Everything that a run is determined by, the preset's keys written out."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    steps: PositiveInt
    seed: int = Field(default=0, ge=0)
    model: Model
    environment: PlugIn
    reward: tuple[RewardPlugIn, ...] = Field(min_length=1, strict=False)
    payoff: PayoffSection | None = None
    rollout: RolloutSection = RolloutSection()
    algorithm: AlgorithmSection = AlgorithmSection()
    critic: CriticSection | None = None
    adapter: AdapterSection = AdapterSection()
    sft: SftSection | None = None
    weights: WeightsSection = WeightsSection()
    hardware: HardwareSection = HardwareSection()
    eval: EvalSection = EvalSection()
    checkpoint: CheckpointSection = CheckpointSection()
    track: TrackSection = TrackSection()
    guard: GuardSection = GuardSection()

    @property
    def policy_updates(self) -> int:
        """Give the optimizer updates that the policy takes in the run, at most: none while a critic warms up."""
        return max(0, self.steps - (self.critic.warmup_steps if self.critic else 0)) * self.algorithm.updates

    @model_validator(mode="wrap")
    @classmethod
    def _resolved(cls, data: Any, handler: ModelWrapValidatorHandler[Recipe], info: ValidationInfo) -> Recipe:
        recipe = handler(_expanded(data))
        # the config.json of a run holds every key, so that there a key is no wish
        wished = set() if info.mode == "json" else _keys(data)
        found = [*contradictions(recipe), *idle_keys(recipe, wished)]
        if found:
            raise ValueError(found[0])
        return recipe


def _expanded(data: Any) -> Any:
    """Put the preset's keys under the user's own. What is no recipe stays as it is, for the sections to complain of."""
    if not isinstance(data, Mapping):
        return data
    algorithm = data.get("algorithm", {})
    preset = PRESETS.get(str(algorithm.get("preset", "grpo"))) if isinstance(algorithm, Mapping) else None
    if preset is None:
        return data
    whole = dict(data)
    for name, values in preset.sections().items():
        given = data.get(name, {})
        if isinstance(given, Mapping):
            whole[name] = {**values, **given}
    return whole


def _keys(data: Any) -> set[str]:
    """Name the sections and keys that a user gave: {"rollout", "rollout.group_size", ...}."""
    if not isinstance(data, Mapping):
        return set()
    sections = {name: value for name, value in data.items() if isinstance(value, Mapping)}
    return set(data) | {f"{name}.{key}" for name, value in sections.items() for key in value}
