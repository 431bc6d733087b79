"""Losses per token, unreduced, and the weights that reduce them. The loss is `(weights * per_token).sum()`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

__all__ = ["clipped_surrogate", "token_weights"]


def clipped_surrogate(
    logprobs: Float[Tensor, " N"],
    old_logprobs: Float[Tensor, " N"],
    advantages: Float[Tensor, " N"],
    *,
    low: float,
    high: float,
) -> tuple[Float[Tensor, " N"], Bool[Tensor, " N"]]:
    """Give PPO's clipped loss per token, with bounds 1 - low and 1 + high, and whether the clip took the gradient.

    Source: Schulman et al. 2017 (PPO, eq. 7); Yu et al. 2025 (DAPO, eq. 10) for separate bounds.
    """
    ratio = torch.exp(logprobs - old_logprobs)
    free = ratio * advantages
    bounded = ratio.clamp(1.0 - low, 1.0 + high) * advantages
    return -torch.minimum(free, bounded), (bounded < free).detach()


def token_weights(
    sequences: Int[Tensor, " N"],
    *,
    per: Literal["token", "sequence", "constant"],
    num_loss_tokens: int,
    num_sequences: int,
    lengths: Int[Tensor, " S"] | None = None,
    constant: int | None = None,
) -> Float[Tensor, " N"]:
    """Weigh the loss tokens so that their weighted sum over all micro-batches and ranks is the reduction asked for.

    "token": every token of the step counts alike (DAPO). "sequence": the mean over sequences of the mean over their
    tokens (GRPO). "constant": the sum over tokens by `num_sequences * constant` (Dr.GRPO).
    The counts are those of the whole step, never of a micro-batch.

    Shapes: `sequences` [N] holds the index of the sample that each token belongs to; `lengths` [S] the loss tokens
    of each sample, needed for "sequence" only.
    """
    if per == "token":
        return torch.full(sequences.shape, 1.0 / num_loss_tokens)
    if per == "sequence":
        if lengths is None:
            raise ValueError('per="sequence" needs lengths, the loss tokens of each sample')
        return 1.0 / (num_sequences * lengths[sequences].to(torch.float32))
    if per == "constant":
        if not constant or constant < 1:
            raise ValueError('per="constant" needs a positive constant, usually max_new_tokens')
        return torch.full(sequences.shape, 1.0 / (num_sequences * constant))
    raise ValueError(f'per must be "token", "sequence" or "constant", not {per!r}')
