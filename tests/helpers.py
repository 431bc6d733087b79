"""Builders that several tests share: rollouts, groups, headers, a learner on a tiny model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlvr.learner.algorithm import Algorithm, Totals
from rlvr.learner.step import Learner
from rlvr.testing import task
from rlvr.types import Grade, Group, GroupHeader, Rollout, Span, Stop, Ungraded

NAN = float("nan")


def make_rollout(
    prompt: Sequence[int],
    tokens: Sequence[int],
    *,
    spans: Sequence[tuple[int, int]] | None = None,
    logprobs: Sequence[float] | None = None,
    index: int = 0,
    stop: Stop = Stop.END,
    versions: Sequence[int] | None = None,
) -> Rollout:
    """Make a rollout of token ids; all are sampled, under version 0, unless spans and versions say otherwise."""
    spans = spans or [(0, len(tokens))]
    return Rollout(
        task_id="task",
        index=index,
        prompt_ids=np.array(prompt, dtype=np.int32),
        token_ids=np.array(tokens, dtype=np.int32),
        logprobs=np.array(logprobs if logprobs is not None else [-3.0] * len(tokens), dtype=np.float32),
        spans=tuple(
            Span(start=a, stop=b, version=v) for (a, b), v in zip(spans, versions or [0] * len(spans), strict=True)
        ),
        messages=(),
        reply="reply",
        stop=stop,
        seconds=0.0,
    )


def make_group(rollouts: Sequence[Rollout], values: Sequence[float], *, name: str = "group") -> Group:
    """Make a group; a value of NaN stands for an ungraded rollout."""
    grades = [
        Ungraded(boundary="reward 'math'", reason="broke") if np.isnan(v) else Grade(verdict=None, score=v)
        for v in values
    ]
    return Group(
        group_id=name,
        task=task(name),
        rollouts=tuple(rollouts),
        grades=tuple(grades),
        values=np.array(values, dtype=np.float32),
    )


def random_groups(seed: int = 0, *, groups: int = 3, size: int = 4, turns: bool = False) -> list[Group]:
    """Make groups of random tokens with values that give every rollout an advantage."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(groups):
        prompt = rng.integers(0, 256, rng.integers(3, 20))
        rollouts = []
        for index in range(size):
            length = int(rng.integers(1, 24)) + (8 if turns else 0)
            spans = [(0, 3), (5, length - 2), (length - 1, length)] if turns else None
            tokens, logprobs = rng.integers(0, 256, length), rng.normal(-5.0, 1.0, length)
            rollouts.append(make_rollout(prompt, tokens, spans=spans, logprobs=logprobs, index=index))
        values = [1.0, *rng.choice([0.0, -1.0], size - 1)]
        made.append(make_group(rollouts, values, name=f"group {number}"))
    return made


def near_policy(learner: Learner, groups: Sequence[Group], *, noise: float = 0.2, seed: int = 0) -> list[Group]:
    """Give the groups old log-probabilities near the model's own, so that some ratios are clipped and some are not."""
    rng = np.random.default_rng(seed)
    made = []
    for group in groups:
        rollouts = []
        for r in group.rollouts:
            scored = learner.score([np.concatenate([r.prompt_ids, r.token_ids])])[0][len(r.prompt_ids) - 1 :]
            spans = [(s.start, s.stop) for s in r.spans]
            logprobs = (scored + rng.normal(0, noise, len(scored))).tolist()
            rollouts.append(
                make_rollout(r.prompt_ids.tolist(), r.token_ids.tolist(), spans=spans, logprobs=logprobs, index=r.index)
            )
        made.append(make_group(rollouts, group.values.tolist(), name=group.group_id))
    return made


def totals_of(groups: Sequence[Group]) -> Totals:
    """Count what the headers would count: sampled tokens and sequences of all graded rollouts."""
    graded = [r for g in groups for r, value in zip(g.rollouts, g.values, strict=True) if not np.isnan(value)]
    return Totals(loss_tokens=sum(s.stop - s.start for r in graded for s in r.spans), sequences=len(graded))


def make_learner(folder: Path, *, tokens: int = 256, **algorithm: Any) -> Learner:
    """Make a learner that computes in float32."""
    settings = {"learning_rate": 1e-3} | algorithm
    return Learner(folder, Algorithm(**settings), tokens_per_microbatch=tokens, threads=1, precision="float32")


def weights_of(learner: Learner) -> dict[str, torch.Tensor]:
    """Copy the learner's float32 weights."""
    return {name: p.detach().clone() for name, p in learner.model.named_parameters()}


def same_weights(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Tell whether two sets of weights are equal to the bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def make_header(
    values: Sequence[float] = (1.0, 0.0),
    *,
    version: int = 0,
    lengths: Sequence[int] | None = None,
    truncated: Sequence[bool] | None = None,
    reasons: Sequence[str] = (),
    masked: Sequence[bool] = (),
) -> GroupHeader:
    """Make a header; a value of NaN stands for an ungraded rollout, or a masked one where `masked` says so."""
    left_out = masked or [False] * len(values)
    graded = tuple(not np.isnan(value) or out for value, out in zip(values, left_out, strict=True))
    return GroupHeader(
        group_id="group",
        task_id="task",
        worker="worker-0",
        min_version=version,
        max_version=version,
        values=tuple(values),
        verdicts=tuple("" if known else "UNGRADED" for known in graded),
        graded=graded,
        lengths=tuple(lengths or [10] * len(values)),
        truncated=tuple(truncated or [False] * len(values)),
        seed=0,
        reasons=tuple(reasons),
        masked=tuple(masked),
    )
