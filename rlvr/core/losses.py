"""Losses per token, unreduced, and the weights that reduce them. The loss is `(weights * per_token).sum()`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

__all__ = [
    "cispo",
    "clipped_surrogate",
    "clipped_value_loss",
    "gspo_surrogate",
    "policy_gradient",
    "reverse_kl",
    "sequence_sums",
    "token_weights",
]


def clipped_surrogate(
    logprobs: Float[Tensor, " N"],
    old_logprobs: Float[Tensor, " N"],
    advantages: Float[Tensor, " N"],
    *,
    low: float,
    high: float,
    dual: float | None = None,
) -> tuple[Float[Tensor, " N"], Bool[Tensor, " N"]]:
    """Give PPO's clipped loss per token, with bounds 1 - low and 1 + high, and whether a clip took the gradient.

    `dual`, above 1, also bounds the loss of a bad token that became likelier: by -dual * advantage.

    Source: Schulman et al. 2017 (PPO, eq. 7); Yu et al. 2025 (DAPO, eq. 10) for separate bounds; Ye et al. 2020
    (Mastering complex control in MOBA games) for dual clip.
    """
    if dual is not None and dual <= 1.0:
        raise ValueError(f"dual must be above 1, not {dual}")
    return _clipped(logprobs - old_logprobs, advantages, low=low, high=high, dual=dual)


def gspo_surrogate(
    logprobs: Float[Tensor, " N"],
    old_logprobs: Float[Tensor, " N"],
    advantages: Float[Tensor, " N"],
    sequences: Int[Tensor, " N"],
    *,
    low: float,
    high: float,
) -> tuple[Float[Tensor, " N"], Bool[Tensor, " N"]]:
    """Give the clipped loss with one ratio a sequence, the geometric mean of its tokens', and whether it was clipped.

    Every token holds the whole ratio in value and its own share of it in gradient, so that a mean over the tokens of
    a sequence is the sequence's loss, in value and in gradient, and other reductions work too.

    Shapes: `sequences` [N] holds the index of the sample that each token belongs to; all its tokens must be present.
    Source: Zheng et al. 2025 (GSPO, eq. 5 and 7; per token: eq. 13 and 14).
    """
    sums, counts = sequence_sums((logprobs - old_logprobs).detach(), sequences)
    log_ratio = (sums / counts)[sequences] + (logprobs - logprobs.detach())
    return _clipped(log_ratio, advantages, low=low, high=high, dual=None)


def cispo(
    logprobs: Float[Tensor, " N"],
    old_logprobs: Float[Tensor, " N"],
    advantages: Float[Tensor, " N"],
    *,
    low: float,
    high: float,
) -> tuple[Float[Tensor, " N"], Bool[Tensor, " N"]]:
    """Give -weight * advantage * logprob per token, and whether the weight was clipped.

    The weight is the clipped ratio, without gradient: a clipped token still learns, with a bounded weight. The authors
    set no lower bound: `low=1`.

    Source: Chen et al. 2025 (MiniMax-M1, eq. 4 and 5).
    """
    ratio = torch.exp(logprobs.detach() - old_logprobs)
    weight = ratio.clamp(1.0 - low, 1.0 + high)
    return -weight * advantages * logprobs, weight != ratio


def policy_gradient(logprobs: Float[Tensor, " N"], advantages: Float[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Give -advantage * logprob, whose gradient is that of the expected return where the policy drew the tokens itself.

    Source: Williams 1992 (REINFORCE).
    """
    return -advantages * logprobs


def reverse_kl(
    logprobs: Float[Tensor, " N"], ref_logprobs: Float[Tensor, " N"], *, estimator: Literal["k1", "k2", "k3"]
) -> Float[Tensor, " N"]:
    """Estimate KL(policy || reference) from the log-probabilities of tokens that the policy drew.

    With r = log policy - log reference, k1 = r, k2 = r^2 / 2, k3 = exp(-r) - 1 + r >= 0. k1 and k3 have the right mean.
    As a loss on tokens of the current policy, the gradient of k2 is that of the KL; k1's has mean 0; k3's is that of
    the KL the other way round. No importance weight is applied.

    Source: Schulman 2020 (Approximating KL divergence); Shao et al. 2024 (DeepSeekMath, eq. 4) for k3.
    """
    gap = logprobs - ref_logprobs
    if estimator == "k1":
        return gap
    if estimator == "k2":
        return 0.5 * gap.square()
    if estimator == "k3":
        return torch.expm1(-gap) + gap
    raise ValueError(f'estimator must be "k1", "k2" or "k3", not {estimator!r}')


def clipped_value_loss(
    values: Float[Tensor, " N"],
    old_values: Float[Tensor, " N"],
    returns: Float[Tensor, " N"],
    *,
    clip: float | None,
) -> tuple[Float[Tensor, " N"], Bool[Tensor, " N"]]:
    """Give half the squared error of each value, the larger of its own and its clipped one's, and which one it was.

    The clipped value stays within `clip` of the old one. Without a clip: half the squared error, nothing clipped.

    Source: Huang et al. 2022 (The 37 implementation details of PPO, detail 9), after OpenAI's ppo2.
    """
    free = (values - returns).square()
    if clip is None:
        return 0.5 * free, torch.zeros_like(free, dtype=torch.bool)
    bounded = (values.clamp(old_values - clip, old_values + clip) - returns).square()
    return 0.5 * torch.maximum(free, bounded), (bounded > free).detach()


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
        return torch.full(sequences.shape, 1.0 / num_loss_tokens, device=sequences.device)
    if per == "sequence":
        if lengths is None:
            raise ValueError('per="sequence" needs lengths, the loss tokens of each sample')
        return 1.0 / (num_sequences * lengths[sequences].to(torch.float32))
    if per == "constant":
        if not constant or constant < 1:
            raise ValueError('per="constant" needs a positive constant, usually max_new_tokens')
        return torch.full(sequences.shape, 1.0 / (num_sequences * constant), device=sequences.device)
    raise ValueError(f'per must be "token", "sequence" or "constant", not {per!r}')


def sequence_sums(
    values: Float[Tensor, " N"], sequences: Int[Tensor, " N"]
) -> tuple[Float[Tensor, " S"], Float[Tensor, " S"]]:
    """Sum the values of each sequence and count its tokens. S is one above the largest index; absent ones hold 0."""
    size = int(sequences.max()) + 1 if sequences.numel() else 0
    zeros = torch.zeros(size, dtype=values.dtype, device=values.device)
    return zeros.index_add(0, sequences, values), zeros.index_add(0, sequences, torch.ones_like(values))


def _clipped(
    log_ratio: Tensor, advantages: Tensor, *, low: float, high: float, dual: float | None
) -> tuple[Float[Tensor, " N"], Bool[Tensor, " N"]]:
    # Past e^20 a clip takes the gradient of these tokens anyway; of an infinite ratio it would be 0 * inf. A bad token
    # without dual clip is not clipped there: it stays as it is.
    bounded_anyway = advantages >= 0 if dual is None else torch.ones_like(advantages, dtype=torch.bool)
    ratio = torch.exp(torch.where(bounded_anyway, log_ratio.clamp(max=20.0), log_ratio))
    free = ratio * advantages
    bounded = ratio.clamp(1.0 - low, 1.0 + high) * advantages
    loss, clipped = -torch.minimum(free, bounded), (bounded < free).detach()
    if dual is None:
        return loss, clipped
    most = -dual * advantages
    past = (advantages < 0) & (loss > most).detach()
    return torch.where(past, most, loss), clipped | past
