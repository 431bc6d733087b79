"""From graded groups to samples with credit: what distinguishes one algorithm from another before the loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlvr.core.advantages import (
    batch_advantages,
    gae,
    group_advantages,
    leave_one_out_advantages,
    length_adaptive_decay,
)
from rlvr.core.losses import reverse_kl
from rlvr.learner.algorithm import Algorithm
from rlvr.types import Grade, Group, Rollout, Sample, Verdict

__all__ = ["credit", "graded_rollouts", "sampled"]


def credit(
    groups: Sequence[Group],
    algorithm: Algorithm,
    *,
    values: Sequence[NDArray[np.floating[Any]]] | None = None,
    ref_logprobs: Sequence[NDArray[np.floating[Any]]] | None = None,
) -> list[Sample]:
    """Give the samples of a step: its graded rollouts, with an advantage on each sampled token.

    Baseline "group" and "leave_one_out": a reply's worth is its value, minus the sum of its KL penalties where these
    are in the reward; its advantage stands on every token, and `discount` plays no part. "none" and "critic": every
    sampled token earns minus its KL penalty, the last one the value too; "none" gives the discounted rewards to go,
    "critic" generalized advantage estimation, with a decay of its own for the critic's `returns`. Tokens that an
    environment wrote are skipped: they earn nothing, are not discounted and carry no value. Nothing is bootstrapped
    after the last sampled token, a truncated reply's neither: its worth is what its grade says.

    The penalty is `kl_coefficient` times the KL between the policy that sampled, as the engine tells it, and the
    reference. Scale "batch" needs all groups of the step at once. Ungraded rollouts give no sample and enter no
    statistic. Replies whose advantages are all 0 are left out where such replies have no gradient: they change
    neither it nor, since counts come from the headers of the whole step, the denominator.

    Shapes: `values` (the critic's word before each token) and `ref_logprobs` hold one [T] for each of
    `graded_rollouts(groups)`, in that order.
    """
    rollouts = graded_rollouts(groups)
    _check(rollouts, algorithm, values=values, ref_logprobs=ref_logprobs)
    masks = [sampled(rollout) for rollout in rollouts]
    penalties = _penalties(rollouts, masks, algorithm, ref_logprobs=ref_logprobs)
    returns: list[Tensor] | None = None
    if algorithm.baseline in ("group", "leave_one_out"):
        advantages = _relative(groups, algorithm, penalties)
    else:
        worth = [float(value) for group in groups for value in group.values if not np.isnan(value)]
        rewards = [_rewards(value, penalty) for value, penalty in zip(worth, penalties, strict=True)]
        advantages, returns = _token_wise(rewards, masks, algorithm, values=values)
    if algorithm.advantage_scale == "batch":
        advantages = _whiten(advantages, algorithm)
    samples = []
    for place, (group, rollout, correct) in enumerate(_graded(groups)):
        mask = masks[place]
        spread = _spread(advantages[place], mask)
        if algorithm.flat_groups_have_no_gradient and not spread.any():
            continue
        samples.append(
            Sample(
                group_id=group.group_id,
                prompt_ids=rollout.prompt_ids,
                token_ids=rollout.token_ids,
                loss_mask=mask,
                engine_logprobs=rollout.logprobs,
                old_logprobs=rollout.logprobs,
                advantages=spread,
                returns=_spread(returns[place], mask) if returns else None,
                old_values=_masked(values[place], mask) if values is not None else None,
                ref_logprobs=_masked(ref_logprobs[place], mask) if ref_logprobs is not None else None,
                correct=correct,
                versions=_versions(rollout),
            )
        )
    return samples


def graded_rollouts(groups: Sequence[Group]) -> list[Rollout]:
    """List the rollouts that `credit` reads, group by group."""
    return [rollout for _, rollout, _ in _graded(groups)]


def sampled(rollout: Rollout) -> np.ndarray:
    """Say which tokens of a reply were sampled, and so carry loss. Shape: [T] bool."""
    mask = np.zeros(len(rollout.token_ids), dtype=bool)
    for span in rollout.spans:
        mask[span.start : span.stop] = True
    return mask


def _versions(rollout: Rollout) -> NDArray[np.int32]:
    """Give what each token is as old as: its reply's oldest token, whose keys and values it attends to; [T]."""
    return np.where(sampled(rollout), rollout.min_version, -1).astype(np.int32)


def _graded(groups: Sequence[Group]) -> list[tuple[Group, Rollout, bool]]:
    return [
        (group, rollout, isinstance(grade, Grade) and grade.verdict is Verdict.CORRECT)
        for group in groups
        for rollout, grade, value in zip(group.rollouts, group.grades, group.values, strict=True)
        if not np.isnan(value)
    ]


def _relative(groups: Sequence[Group], algorithm: Algorithm, penalties: Sequence[Tensor]) -> list[Tensor]:
    advantages, remaining = [], iter(penalties)
    for group in groups:
        graded = torch.from_numpy(~np.isnan(group.values))
        own = [next(remaining) for known in graded.tolist() if known]
        worth = torch.from_numpy(np.nan_to_num(group.values)).double()
        worth[graded] -= torch.tensor([float(penalty.sum()) for penalty in own], dtype=torch.float64)
        if algorithm.baseline == "leave_one_out":
            result = leave_one_out_advantages(worth, graded)
        else:
            scale: Literal["none", "std"] = "std" if algorithm.advantage_scale == "std" else "none"
            result = group_advantages(
                worth, graded, scale=scale, ddof=algorithm.advantage_ddof, eps=algorithm.advantage_eps
            )
        advantages += [value.expand(len(penalty)) for value, penalty in zip(result[graded], own, strict=True)]
    return advantages


def _token_wise(
    rewards: Sequence[Tensor],
    masks: Sequence[np.ndarray],
    algorithm: Algorithm,
    *,
    values: Sequence[NDArray[np.floating[Any]]] | None,
) -> tuple[list[Tensor], list[Tensor] | None]:
    """Give advantages and, with a critic, returns of the sampled tokens alone, as if no others stood between them."""
    advantages, returns = [], []
    for place, reward in enumerate(rewards):
        known = torch.zeros(len(reward) + 1, dtype=torch.float64)
        if algorithm.baseline == "none" or values is None:
            advantages.append(gae(reward, known, discount=algorithm.discount, decay=1.0)[0])
            continue
        known[:-1] = torch.from_numpy(np.asarray(values[place], dtype=np.float64)[masks[place]])
        factor, decay = algorithm.decay_length_factor, algorithm.decay
        if factor is not None:
            decay = length_adaptive_decay(max(len(reward), 1), factor=factor)
        advantages.append(gae(reward, known, discount=algorithm.discount, decay=decay)[0])
        returns.append(gae(reward, known, discount=algorithm.discount, decay=algorithm.critic_decay)[1])
    return advantages, returns if algorithm.baseline == "critic" else None


def _rewards(value: float, penalty: Tensor) -> Tensor:
    rewards = -penalty
    rewards[-1:] += value
    return rewards


def _penalties(
    rollouts: Sequence[Rollout],
    masks: Sequence[np.ndarray],
    algorithm: Algorithm,
    *,
    ref_logprobs: Sequence[NDArray[np.floating[Any]]] | None,
) -> list[Tensor]:
    if algorithm.kl != "reward" or ref_logprobs is None:
        return [torch.zeros(int(mask.sum()), dtype=torch.float64) for mask in masks]
    pairs = [
        (torch.from_numpy(rollout.logprobs[mask]).double(), torch.from_numpy(np.asarray(ref)[mask]).double())
        for rollout, mask, ref in zip(rollouts, masks, ref_logprobs, strict=True)
    ]
    return [algorithm.kl_coefficient * reverse_kl(a, b, estimator=algorithm.kl_estimator) for a, b in pairs]


def _whiten(advantages: Sequence[Tensor], algorithm: Algorithm) -> list[Tensor]:
    if not advantages:
        return []
    flat = batch_advantages(torch.cat(list(advantages)), ddof=algorithm.advantage_ddof, eps=algorithm.advantage_eps)
    return list(flat.split([len(part) for part in advantages]))


def _spread(values: Tensor, mask: np.ndarray) -> NDArray[np.float32]:
    result = np.zeros(len(mask), dtype=np.float32)
    result[mask] = values.numpy()
    return result


def _masked(values: NDArray[np.floating[Any]], mask: np.ndarray) -> NDArray[np.float32]:
    return np.where(mask, values, 0.0).astype(np.float32)


def _check(
    rollouts: Sequence[Rollout],
    algorithm: Algorithm,
    *,
    values: Sequence[Any] | None,
    ref_logprobs: Sequence[Any] | None,
) -> None:
    if algorithm.advantage_scale == "std" and algorithm.baseline != "group":
        raise ValueError(f'advantage_scale "std" goes with baseline "group", not with {algorithm.baseline!r}')
    if algorithm.baseline == "critic" and values is None:
        raise ValueError('baseline "critic" needs values, the critic\'s word before each token')
    if algorithm.kl != "none" and ref_logprobs is None:
        raise ValueError(f'kl "{algorithm.kl}" needs ref_logprobs, those of the reference policy')
    for name, arrays in (("values", values), ("ref_logprobs", ref_logprobs)):
        if arrays is not None and [len(a) for a in arrays] != [len(r.token_ids) for r in rollouts]:
            raise ValueError(f"{name} must hold one [T] for each graded rollout, in their order")
