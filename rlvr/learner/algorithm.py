"""The conventions of an algorithm, as plain records that need no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Algorithm", "Totals"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Algorithm:
    """Every convention of the estimator, the loss and the optimizer, named."""

    advantage_scale: Literal["none", "std"] = "none"
    advantage_ddof: int = 1
    advantage_eps: float = 1e-6
    clip_low: float = 0.2
    clip_high: float = 0.28
    loss_per: Literal["token", "sequence", "constant"] = "token"
    loss_constant: int | None = None  # tokens; with loss_per = "constant"
    learning_rate: float = 1e-5
    warmup_steps: int = 0
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.95)
    adam_eps: float = 1e-8
    max_grad_norm: float = 1.0
    temperature: float = 1.0  # that of sampling: log-probabilities are taken after it


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """The denominators of a step, from the headers of every graded rollout, flat groups included."""

    loss_tokens: int
    sequences: int
