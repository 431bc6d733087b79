"""Weights that correct the gap between the engine that sampled and the learner that trains. None carries a gradient.

The ratio is learner / engine, of the same tokens under the same weights or under those of the last update.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from rlvr.core.losses import sequence_sums

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

__all__ = [
    "effective_sample_size",
    "effective_share",
    "geometric_mask",
    "icepop_mask",
    "mismatch_weights",
    "sequence_mismatch_weights",
]


def mismatch_weights(
    learner_logprobs: Float[Tensor, " N"], engine_logprobs: Float[Tensor, " N"], *, cap: float
) -> Float[Tensor, " N"]:
    """Give each token its ratio, at most `cap`: truncated importance sampling per token.

    Source: Yao et al. 2025 (Your efficient RL framework secretly brings you off-policy training); Ionides 2008.
    """
    return _ratio((learner_logprobs - engine_logprobs).detach(), cap=cap)


def sequence_mismatch_weights(
    learner_logprobs: Float[Tensor, " N"],
    engine_logprobs: Float[Tensor, " N"],
    sequences: Int[Tensor, " N"],
    *,
    cap: float,
) -> Float[Tensor, " N"]:
    """Give each token the product of its sequence's ratios, at most `cap`: truncated importance sampling per sequence.

    Shapes: `sequences` [N] holds the index of the sample that each token belongs to; all its tokens must be present.
    Source: Liu et al. 2025 (When speed kills stability), "sequence-level TIS".
    """
    sums, _ = sequence_sums((learner_logprobs - engine_logprobs).detach(), sequences)
    return _ratio(sums, cap=cap)[sequences]


def icepop_mask(
    learner_logprobs: Float[Tensor, " N"], engine_logprobs: Float[Tensor, " N"], *, low: float, high: float
) -> Float[Tensor, " N"]:
    """Give each token its ratio where that lies in [low, high], bounds included, and 0 elsewhere.

    A kept token weighs its ratio, not 1. The authors use 0.5 and 5.

    Source: Zhao et al. 2025 (Small leak can sink a great ship, IcePop); Ling team 2025 (Ring-1T, the same function).
    """
    ratio = torch.exp((learner_logprobs - engine_logprobs).detach())
    return torch.where((ratio >= low) & (ratio <= high), ratio, torch.zeros_like(ratio))


def geometric_mask(
    learner_logprobs: Float[Tensor, " N"],
    engine_logprobs: Float[Tensor, " N"],
    sequences: Int[Tensor, " N"],
    *,
    low: float,
    high: float,
) -> Float[Tensor, " N"]:
    """Give 1 to the tokens of sequences whose geometric mean of ratios lies in [low, high], and 0 to all others.

    The mean does not grow with length, so long sequences are not masked for being long. A kept token weighs 1.

    Shapes: `sequences` [N] holds the index of the sample that each token belongs to; all its tokens must be present.
    Source: Liu et al. 2025 (When speed kills stability), "geometric sequence masking".
    """
    sums, counts = sequence_sums((learner_logprobs - engine_logprobs).detach(), sequences)
    mean = torch.exp(sums / counts)
    return ((mean >= low) & (mean <= high)).to(sums.dtype)[sequences]


def effective_sample_size(weights: Float[Tensor, " N"]) -> float:
    """See `effective_share`."""
    exact = weights.double()
    return effective_share(float(exact.sum()), squares=float(exact.square().sum()), count=len(weights))


def effective_share(total: float, *, squares: float, count: float) -> float:
    """Give (sum w)^2 / (N * sum w^2): 1 where all weights are equal, 1 / N where one holds all, 0 where none holds any.

    Source: Kish 1965.
    """
    return total**2 / (count * squares) if squares else 0.0


def _ratio(log_ratio: Tensor, *, cap: float) -> Tensor:
    if cap <= 0:
        raise ValueError(f"cap must be positive, not {cap}")
    return torch.exp(log_ratio.clamp(max=math.log(cap))).clamp(max=cap)  # in log space: a product may not fit a float
