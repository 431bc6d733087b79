"""The sections [algorithm] and [critic]: one key for each convention."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from rlvr.config.sections import Section

__all__ = ["AlgorithmSection", "CriticSection"]

Share = Field(default=1.0, ge=0, le=1)


class AlgorithmSection(Section):
    """Credit, loss and updates. The preset is the default of the other keys; shown are those of `grpo`."""

    preset: Literal[
        "grpo", "dr_grpo", "dapo", "gspo", "cispo", "rloo", "reinforce++", "reinforce++_baseline", "ppo", "vapo"
    ] = "grpo"
    baseline: Literal["group", "leave_one_out", "none", "critic"] = "group"
    advantage_scale: Literal["none", "std", "batch"] = "std"
    advantage_ddof: int = Field(default=1, ge=0, le=1)
    advantage_eps: PositiveFloat = 1e-6
    discount: float = Share
    decay: float = Share
    critic_decay: float = Share
    decay_length_factor: PositiveFloat | None = None
    loss: Literal["clip", "gspo", "cispo", "policy_gradient"] = "clip"
    clip_low: float = Field(default=0.2, gt=0, le=1)
    clip_high: PositiveFloat = 0.2
    clip_dual: float | None = Field(default=None, gt=1)
    loss_per: Literal["token", "sequence", "constant"] = "sequence"
    loss_constant: PositiveInt | None = None
    kl: Literal["none", "loss", "reward"] = "none"
    kl_coefficient: float = Field(default=0.0, ge=0)
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    entropy_bonus: float = Field(default=0.0, ge=0)
    positive_nll: float = Field(default=0.0, ge=0)
    old_logprobs: Literal["engine", "learner"] = "engine"
    correction: Literal["none", "token", "sequence", "icepop", "geometric"] = "none"
    correction_cap: float = Field(default=2.0, ge=1)
    correction_low: float = Field(default=0.5, gt=0, le=1)
    correction_high: float = Field(default=2.0, ge=1)
    minibatches: PositiveInt = 1
    epochs: PositiveInt = 1
    learning_rate: PositiveFloat = 1e-5
    warmup_steps: int = Field(default=0, ge=0)
    weight_decay: float = Field(default=0.0, ge=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.95, ge=0, lt=1)
    adam_eps: PositiveFloat = 1e-8
    max_grad_norm: PositiveFloat = 1.0

    @property
    def updates(self) -> int:
        """Give the number of optimizer updates in a step."""
        return self.minibatches * self.epochs

    @property
    def ratio_moves(self) -> bool:
        """Tell whether the loss has a ratio of probabilities that can differ from 1."""
        return self.loss != "policy_gradient" and (self.old_logprobs == "engine" or self.updates > 1)

    @property
    def flat_gradient(self) -> str | None:
        """Give the setting by which groups whose replies are all worth the same have a gradient; none where none has.

        The counterpart of `Algorithm.flat_groups_have_no_gradient`; a test compares the two.
        """
        if self.baseline in ("none", "critic"):
            return f'algorithm.baseline = "{self.baseline}"'
        if self.advantage_scale == "batch":
            return 'algorithm.advantage_scale = "batch"'
        if self.kl != "none":
            return f'algorithm.kl = "{self.kl}"'
        weights = {"entropy_bonus": self.entropy_bonus, "positive_nll": self.positive_nll}
        return next((f"algorithm.{name} = {weight:g}" for name, weight in weights.items() if weight), None)


class CriticSection(Section):
    """The critic, with algorithm.baseline = "critic"."""

    backbone: Literal["own", "shared"] = Field(
        default="own", description="a copy of the model; or the policy itself, with a value head on its hidden states"
    )
    learning_rate: PositiveFloat = 1e-5
    warmup_steps: int = Field(default=0, ge=0, description="steps at the start in which only the critic learns")
    value_clip: float = Field(
        default=0.2, ge=0, description="bound on the change of a value within a step; 0: plain squared error"
    )
    coefficient: PositiveFloat = Field(default=0.5, description="of the value loss, where the backbone is shared")
