"""From values to advantages. Pure functions of a group's values, of a reply's rewards, or of all tokens of a step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

__all__ = ["batch_advantages", "gae", "group_advantages", "leave_one_out_advantages", "length_adaptive_decay"]


def group_advantages(
    values: Float[Tensor, " G"],
    graded: Bool[Tensor, " G"],
    *,
    scale: Literal["none", "std"],
    ddof: int = 1,
    eps: float = 1e-6,
) -> Float[Tensor, " G"]:
    """Centre the values of a group on their mean and, with `scale="std"`, divide by their deviation plus `eps`.

    Ungraded rollouts stay out of mean and deviation and get 0. A group whose graded values are all equal, or
    with at most `ddof` graded rollouts, gets 0 everywhere.

    Source: Shao et al. 2024 (DeepSeekMath, eq. 3) for "std"; Liu et al. 2025 (Dr.GRPO, eq. 3) for "none".
    """
    _check(values, graded)
    count = int(graded.sum())
    result = torch.zeros_like(values)
    if count == 0:
        return result
    known = values[graded]
    if bool((known == known[0]).all()):
        return result
    centred = known - known.mean()
    if scale == "std":
        if count <= ddof:
            return result
        centred = centred / (known.std(correction=ddof) + eps)
    result[graded] = centred
    return result


def leave_one_out_advantages(values: Float[Tensor, " G"], graded: Bool[Tensor, " G"]) -> Float[Tensor, " G"]:
    """Give each value minus the mean of the other graded values of its group; 0 where there are no others.

    Source: Ahmadian et al. 2024 (Back to Basics, eq. 7).
    """
    _check(values, graded)
    count = int(graded.sum())
    result = torch.zeros_like(values)
    if count < 2:
        return result
    known = values[graded]
    if not bool((known == known[0]).all()):  # equal values are exactly 0, however their mean rounds
        result[graded] = (known - known.mean()) * (count / (count - 1))
    return result


def gae(
    rewards: Float[Tensor, " T"], values: Float[Tensor, " T+1"], *, discount: float, decay: float
) -> tuple[Float[Tensor, " T"], Float[Tensor, " T"]]:
    """Give advantages, and returns = advantages + values[:-1], by generalized advantage estimation.

    `values[t]` is the critic's word before token t, `values[T]` after the end: 0 where the reply is over.
    `decay` is lambda: 0 gives the one-step error, 1 the discounted rewards to go minus the value.
    The sum runs in float64, so that long replies do not add up rounding errors. No gradient flows.

    Source: Schulman et al. 2016 (eq. 16).
    """
    if rewards.ndim != 1 or values.shape != (len(rewards) + 1,):
        raise ValueError(f"rewards must be [T] and values [T+1], not {tuple(rewards.shape)} and {tuple(values.shape)}")
    wide = values.detach().double()
    errors = rewards.detach().double() + discount * wide[1:] - wide[:-1]
    later, advantages = 0.0, []
    for error in reversed(errors.tolist()):
        later = error + discount * decay * later
        advantages.append(later)
    result = torch.tensor(advantages[::-1], dtype=torch.float64, device=rewards.device)
    return result.to(rewards.dtype), (result + wide[:-1]).to(rewards.dtype)


def length_adaptive_decay(length: int, *, factor: float) -> float:
    """Give the decay 1 - 1 / (factor * length) of a reply of so many tokens, never below 0.

    The decays of a far reward then sum to factor * length, so that long replies learn from their end too.

    Source: Yue et al. 2025 (VAPO, "length-adaptive GAE"; its factor is 0.05).
    """
    if length < 1 or factor <= 0:
        raise ValueError(f"length must be at least 1 and factor above 0, not {length} and {factor}")
    return max(0.0, 1.0 - 1.0 / (factor * length))


def batch_advantages(advantages: Float[Tensor, " N"], *, ddof: int = 1, eps: float) -> Float[Tensor, " N"]:
    """Centre the advantages of all loss tokens of a step on their mean and divide by their deviation plus `eps`.

    Long replies weigh more, for every token counts alike. Equal advantages, or at most `ddof` of them, become 0.
    verl whitens with ddof 1 and 1e-8 added to the variance, OpenRLHF with ddof 0 and the variance at least 1e-8.
    What TRL calls scale_rewards="batch" is another thing: the deviation of the rewards, a reply counting once.

    Source: Hu et al. 2025 (REINFORCE++, "global advantage normalization"); Huang et al. 2022 (The 37 implementation
    details of PPO, detail 7).
    """
    if advantages.ndim != 1 or not bool(torch.isfinite(advantages).all()):
        raise ValueError(f"advantages must be [N] and finite, not {tuple(advantages.shape)}")
    if len(advantages) <= ddof or bool((advantages == advantages[0]).all()):
        return torch.zeros_like(advantages)
    return (advantages - advantages.mean()) / (advantages.std(correction=ddof) + eps)


def _check(values: Tensor, graded: Tensor) -> None:
    if values.ndim != 1 or values.shape != graded.shape:
        raise ValueError(f"values and graded must both be [G], not {tuple(values.shape)} and {tuple(graded.shape)}")
    if not bool(torch.isfinite(values[graded]).all()):
        raise ValueError("a graded rollout has a value that is not finite")
