"""From graded groups to samples with credit: what distinguishes one algorithm from another before the loss."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from rlvr.core.advantages import group_advantages
from rlvr.learner.algorithm import Algorithm
from rlvr.types import Group, Rollout, Sample

__all__ = ["credit", "sampled"]


def credit(groups: Sequence[Group], algorithm: Algorithm) -> list[Sample]:
    """Give the samples of a step: every graded rollout that has a gradient, with its advantage on each token.

    Rollouts of advantage 0 are left out: they change neither gradient nor, since counts come from the headers of the
    whole step, the denominator.
    """
    samples: list[Sample] = []
    for group in groups:
        values = torch.from_numpy(np.nan_to_num(group.values))
        graded = torch.from_numpy(~np.isnan(group.values))
        advantages = group_advantages(
            values, graded, scale=algorithm.advantage_scale, ddof=algorithm.advantage_ddof, eps=algorithm.advantage_eps
        )
        pairs = zip(group.rollouts, advantages.tolist(), strict=True)
        samples += [_sample(group.group_id, rollout, advantage) for rollout, advantage in pairs if advantage != 0.0]
    return samples


def sampled(rollout: Rollout) -> np.ndarray:
    """Say which tokens of a reply were sampled, and so carry loss. Shape: [T] bool."""
    mask = np.zeros(len(rollout.token_ids), dtype=bool)
    for span in rollout.spans:
        mask[span.start : span.stop] = True
    return mask


def _sample(group_id: str, rollout: Rollout, advantage: float) -> Sample:
    return Sample(
        group_id=group_id,
        prompt_ids=rollout.prompt_ids,
        token_ids=rollout.token_ids,
        loss_mask=sampled(rollout),
        old_logprobs=rollout.logprobs,
        advantages=np.full(len(rollout.token_ids), advantage, dtype=np.float32),
    )
