"""What each preset sets, and the paper that it follows. A preset is the default of keys; the recipe's own keys win."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

__all__ = ["PRESETS", "Preset"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """One published algorithm as keys of a recipe.

    `defining` are the keys that make it this algorithm: a recipe that gives one of them another value is refused.
    """

    paper: str
    algorithm: Mapping[str, Any]
    rollout: Mapping[str, Any] = field(default_factory=dict)
    critic: Mapping[str, Any] | None = None  # none: there is no critic
    defining: tuple[str, ...]  # dotted keys
    note: str = ""

    def sections(self) -> dict[str, dict[str, Any]]:
        """Give what it sets, by section."""
        found = {"algorithm": dict(self.algorithm), "rollout": dict(self.rollout)}
        return found if self.critic is None else found | {"critic": dict(self.critic)}


GROUP = {"baseline": "group", "advantage_scale": "std", "advantage_ddof": 1, "advantage_eps": 1e-6}
CLIP = {"loss": "clip", "clip_low": 0.2, "clip_high": 0.2}
HIGHER = {"loss": "clip", "clip_low": 0.2, "clip_high": 0.28}
BATCH = {"advantage_scale": "batch", "advantage_ddof": 1, "advantage_eps": 1e-8}
CRITIC = {"baseline": "critic", **BATCH, "discount": 1.0}

PRESETS: Mapping[str, Preset] = MappingProxyType({
    "grpo": Preset(
        paper="DeepSeekMath, arXiv 2402.03300",
        algorithm={**GROUP, **CLIP, "loss_per": "sequence", "kl": "none"},
        defining=("algorithm.baseline", "algorithm.loss"),
        note='The paper adds kl = "loss" with kl_estimator = "k3" and kl_coefficient = 0.04. Most later work drops it, '
        "and so does the preset: without it no reference model is kept.",
    ),
    "dr_grpo": Preset(
        paper="Understanding R1-Zero-like training, arXiv 2503.20783",
        algorithm={"baseline": "group", "advantage_scale": "none", **CLIP, "loss_per": "constant", "kl": "none"},
        defining=("algorithm.baseline", "algorithm.loss", "algorithm.advantage_scale", "algorithm.loss_per"),
        note="The constant is rollout.max_new_tokens unless loss_constant says otherwise.",
    ),
    "dapo": Preset(
        paper="DAPO, arXiv 2503.14476",
        algorithm={**GROUP, **HIGHER, "loss_per": "token", "kl": "none"},
        rollout={"dynamic_sampling": True, "max_refills": 3, "truncated": "mask"},
        defining=(
            "algorithm.baseline", "algorithm.loss", "algorithm.clip_high", "algorithm.loss_per",
            "rollout.dynamic_sampling",
        ),
        note='truncated = "mask" is the paper\'s overlong filtering. Its soft overlong punishment is the reward '
        '`overlong`: add that, with truncated = "score". The paper takes 16 updates a '
        "step, from 512 prompts; the preset takes 1, which suits smaller batches.",
    ),
    "gspo": Preset(
        paper="GSPO, arXiv 2507.18071",
        algorithm={
            **GROUP, "loss": "gspo", "clip_low": 3e-4, "clip_high": 4e-4, "loss_per": "sequence", "kl": "none",
            "old_logprobs": "learner", "minibatches": 4,
        },
        defining=("algorithm.baseline", "algorithm.loss"),
        note="Bounds this tight need old log-probabilities from the learner, since the engine's differ by more, and "
        "the paper's four minibatches, without which the ratio stays 1.",
    ),
    "cispo": Preset(
        paper="MiniMax-M1, arXiv 2506.13585",
        algorithm={**GROUP, "loss": "cispo", "clip_low": 1.0, "clip_high": 4.0, "loss_per": "token", "kl": "none"},
        defining=("algorithm.baseline", "algorithm.loss"),
        note="clip_low = 1 is no lower bound, as in the paper. The paper names no upper bound; weights up to 5 "
        "follow ScaleRL (arXiv 2510.13786).",
    ),
    "rloo": Preset(
        paper="Back to Basics, arXiv 2402.14740",
        algorithm={
            "baseline": "leave_one_out", "advantage_scale": "none", "loss": "policy_gradient", "loss_per": "constant",
            "kl": "none",
        },
        defining=("algorithm.baseline", "algorithm.loss", "algorithm.loss_per"),
        note="A reply is one action, so that its tokens are summed; the constant only scales the sum. The paper, which "
        'learns from preferences, adds kl = "reward" with kl_estimator = "k1".',
    ),
    "reinforce++": Preset(
        paper="REINFORCE++, arXiv 2501.03262",
        algorithm={
            "baseline": "none", **BATCH, "discount": 1.0, **CLIP,
            "loss_per": "token", "kl": "reward", "kl_estimator": "k1", "kl_coefficient": 1e-3,
        },
        defining=("algorithm.baseline", "algorithm.advantage_scale"),
        note='The coefficient is a common one. With kl = "none" no reference model is kept.',
    ),
    "reinforce++_baseline": Preset(
        paper="REINFORCE++, arXiv 2501.03262",
        algorithm={
            "baseline": "group", **BATCH, **CLIP, "loss_per": "token",
            "kl": "loss", "kl_estimator": "k2", "kl_coefficient": 1e-3,
        },
        defining=("algorithm.baseline", "algorithm.advantage_scale"),
        note='The coefficient is a common one. With kl = "none" no reference model is kept.',
    ),
    "ppo": Preset(
        paper="PPO, arXiv 1707.06347; for language models InstructGPT, arXiv 2203.02155",
        algorithm={
            **CRITIC, "decay": 0.95, "critic_decay": 0.95, **CLIP, "loss_per": "token", "kl": "none", "minibatches": 4,
        },
        critic={"backbone": "own", "warmup_steps": 0, "value_clip": 0.2},
        defining=("algorithm.baseline", "algorithm.loss"),
        note='Advantages are whitened over the step, as its language-model programs do. InstructGPT adds kl = "reward" '
        'with kl_estimator = "k1" and kl_coefficient = 0.02. The number of minibatches is ours.',
    ),
    "vapo": Preset(
        paper="VAPO, arXiv 2504.05118",
        algorithm={
            **CRITIC, "decay_length_factor": 0.05, "critic_decay": 1.0, **HIGHER, "loss_per": "token", "kl": "none",
            "positive_nll": 0.1, "minibatches": 4,
        },
        critic={"backbone": "own", "warmup_steps": 50, "value_clip": 0.2},
        defining=(
            "algorithm.baseline", "algorithm.loss", "algorithm.clip_high", "algorithm.critic_decay",
            "algorithm.positive_nll",
        ),
        note="The first 50 steps train the critic alone; a short run needs a smaller critic.warmup_steps. Below "
        "20 tokens lambda is 0, so that replies should be longer. The number of minibatches is ours.",
    ),
})  # fmt: skip
