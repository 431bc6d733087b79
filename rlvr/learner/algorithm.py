"""The conventions of an algorithm, as plain records that need no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Algorithm", "CriticSettings", "Totals"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CriticSettings:
    """The critic of PPO and VAPO."""

    backbone: Literal["own", "shared"] = "own"  # shared: a value head on the policy's hidden states
    learning_rate: float = 1e-5
    warmup_steps: int = 0  # steps at the start in which only the critic learns
    value_clip: float | None = 0.2  # bound on the change of a value; none: plain squared error
    coefficient: float = 0.5  # of the value loss, where the backbone is shared


@dataclass(frozen=True, slots=True, kw_only=True)
class Algorithm:
    """Every convention of estimator, loss and optimizer, named. docs/algorithms.md says what presets set."""

    # credit
    baseline: Literal["group", "leave_one_out", "none", "critic"] = "group"
    advantage_scale: Literal["none", "std", "batch"] = "none"  # std: by the group's; batch: centred and by the step's
    advantage_ddof: int = 1
    advantage_eps: float = 1e-6
    discount: float = 1.0  # of rewards, with a KL in the reward or a critic
    decay: float = 1.0  # lambda of GAE for the policy
    critic_decay: float = 1.0  # lambda of GAE for the critic's targets (VAPO decouples the two)
    decay_length_factor: float | None = None  # alpha of VAPO: lambda = 1 - 1 / (alpha * length) instead of `decay`
    # loss
    loss: Literal["clip", "gspo", "cispo", "policy_gradient"] = "clip"
    clip_low: float = 0.2
    clip_high: float = 0.28
    clip_dual: float | None = None  # c of dual clip, above 1
    loss_per: Literal["token", "sequence", "constant"] = "token"
    loss_constant: int | None = None  # tokens; with loss_per = "constant"
    kl: Literal["none", "loss", "reward"] = "none"
    kl_coefficient: float = 0.0
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    entropy_bonus: float = 0.0
    positive_nll: float = 0.0  # weight of the log-likelihood loss on right replies (VAPO's mu)
    # what the ratio is taken against, and what becomes of the gap between engine and learner
    old_logprobs: Literal["engine", "learner"] = "engine"
    correction: Literal["none", "token", "sequence", "icepop", "geometric"] = "none"
    correction_cap: float = 2.0  # of truncated importance weights, with "token" and "sequence"
    correction_low: float = 0.5  # ratios outside [low, high] are masked, with "icepop" and "geometric"
    correction_high: float = 2.0
    # updates
    minibatches: int = 1
    epochs: int = 1
    learning_rate: float = 1e-5
    warmup_steps: int = 0
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.95)
    adam_eps: float = 1e-8
    max_grad_norm: float = 1.0
    temperature: float = 1.0  # that of sampling: log-probabilities are taken after it
    seed: int = 0  # of what the learner draws: the order of minibatches, the start of adapters
    critic: CriticSettings | None = None  # where the baseline is one

    @property
    def flat_groups_have_no_gradient(self) -> bool:
        """Tell whether a group whose replies are all worth the same can be left out of the computation."""
        centred = self.baseline in ("group", "leave_one_out") and self.advantage_scale != "batch"
        return centred and self.kl == "none" and not self.entropy_bonus and not self.positive_nll

    @property
    def updates(self) -> int:
        """Give the number of optimizer updates in a step."""
        return self.minibatches * self.epochs


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """The denominators of a step, from the headers of every graded rollout, flat groups included."""

    loss_tokens: int
    sequences: int
