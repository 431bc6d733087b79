"""Credit within a group. Pure functions of the values of one task's G rollouts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

__all__ = ["group_advantages", "leave_one_out_advantages"]


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
    result[graded] = (known - known.mean()) * (count / (count - 1))
    return result


def _check(values: Tensor, graded: Tensor) -> None:
    if values.ndim != 1 or values.shape != graded.shape:
        raise ValueError(f"values and graded must both be [G], not {tuple(values.shape)} and {tuple(graded.shape)}")
    if not bool(torch.isfinite(values[graded]).all()):
        raise ValueError("a graded rollout has a value that is not finite")
