"""A step looked at reply by reply: what is told adds up to the step, and what is broken is named."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import make_group, make_learner, near_policy, random_groups, same_weights, totals_of, weights_of

from rlvr.learner.algorithm import Algorithm, CriticSettings
from rlvr.learner.diagnose import WatchedLearner
from rlvr.types import Group


def watched(folder: Path, **algorithm: Any) -> WatchedLearner:
    settings = Algorithm(**{"learning_rate": 1e-3} | algorithm)
    return WatchedLearner(folder, settings, tokens_per_microbatch=256, threads=1, precision="float32")


def poisoned(
    groups: Sequence[Group], value: float, *, group: int = 1, index: int, token: int | None = None
) -> list[Group]:
    """Put a log-probability into one reply, at one token or at all."""
    made = list(groups)
    rollouts = list(made[group].rollouts)
    logprobs = rollouts[index].logprobs.copy()
    logprobs[slice(None) if token is None else token] = value
    rollouts[index] = replace(rollouts[index], logprobs=logprobs)
    made[group] = make_group(rollouts, made[group].values.tolist(), name=made[group].group_id)
    return made


def test_a_sound_step_is_told_reply_by_reply(tied_model: Path) -> None:
    groups = near_policy(make_learner(tied_model), random_groups())
    plain, learner = make_learner(tied_model), watched(tied_model)
    expected = plain.step(groups, totals_of(groups))
    found = learner.diagnose(groups, totals_of(groups))
    assert found.error == ""
    assert found.metrics == expected, "looking changes nothing"
    assert same_weights(weights_of(plain), weights_of(learner))
    assert sum(s.loss for s in found.samples) == pytest.approx(expected["loss"], rel=1e-5)
    assert sum(s.tokens for s in found.samples) == expected["trained_tokens"]
    assert not any(s.broken for s in found.samples)
    assert {(s.group_id, s.index) for s in found.samples} == {(g.group_id, r.index) for g in groups for r in g.rollouts}
    for sample in found.samples:
        (group,) = (g for g in groups if g.group_id == sample.group_id)
        assert sample.value == group.values[sample.index]
        assert sample.advantage == pytest.approx(sample.value - float(group.values.mean()), abs=1e-6)
        assert 1.0 < sample.ratio < 3.0 or len(group.rollouts[sample.index].token_ids) < 4
        assert 0 < sample.mismatch < 1.0


def test_the_gradient_of_a_reply_is_its_part_of_the_whole(tied_model: Path) -> None:
    groups = [make_group(g.rollouts[:2], [1.0, 0.0], name=g.group_id) for g in random_groups(groups=1)]
    found = watched(tied_model).diagnose(groups, totals_of(groups))
    norms = [sample.grad_norm for sample in found.samples]
    assert max(norms) - min(norms) <= found.metrics["grad_norm"] <= sum(norms) + 1e-6


def test_a_log_probability_that_is_not_a_number_is_found(tied_model: Path) -> None:
    groups = random_groups()
    index = int(np.argmin(groups[1].values))
    sick = poisoned(groups, math.nan, index=index, token=0)
    found = watched(tied_model).diagnose(sick, totals_of(sick))
    assert f"of the engine at token 0 of reply {index} to task task is not finite" in found.error
    (bad,) = (s for s in found.samples if s.broken)
    assert (bad.group_id, bad.index) == ("group 1", index)
    assert bad.broken == "the engine's log-probability at token 0"
    assert (len(found.samples), found.metrics) == (12, {})


def test_a_ratio_that_overflows_is_found(tied_model: Path) -> None:
    groups = random_groups()
    index = int(np.argmin(groups[1].values))  # a negative advantage, so that no clip hides the ratio
    sick = poisoned(groups, -1e4, index=index)
    found = watched(tied_model).diagnose(sick, totals_of(sick))
    assert "not finite" in found.error
    (bad,) = (s for s in found.samples if s.broken)
    assert (bad.index, bad.broken) == (index, "the ratio of new to old probability at token 0")


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("model.layers.1.mlp.down_proj.weight", "the output of model.layers.1.mlp.down_proj"),
        ("model.layers.0.self_attn.k_proj.weight", "the output of model.layers.0.self_attn.k_proj"),
        ("lm_head.weight", "the output head"),
    ],
)
def test_the_first_layer_that_is_not_finite_is_named(untied_model: Path, name: str, place: str) -> None:
    learner = watched(untied_model)
    with torch.no_grad():
        learner.updater.masters[name][5] = math.inf
    before, groups = weights_of(learner), random_groups()
    found = learner.diagnose(groups, totals_of(groups))
    assert "step 1: loss nan" in found.error
    assert {s.broken for s in found.samples} == {place}
    assert same_weights(before, weights_of(learner))


def test_a_token_of_one_reply_alone_breaks_that_reply_alone(untied_model: Path) -> None:
    groups = random_groups()
    used = {int(i) for g in groups for r in g.rollouts for i in (*r.prompt_ids, *r.token_ids)}
    fresh = next(i for i in range(256) if i not in used)
    rollouts = list(groups[0].rollouts)
    ids = rollouts[1].token_ids.copy()
    ids[0] = fresh
    rollouts[1] = replace(rollouts[1], token_ids=ids)
    assert len(ids) > 1, "the last token is never an input"
    groups[0] = make_group(rollouts, groups[0].values.tolist(), name=groups[0].group_id)
    learner = watched(untied_model)
    with torch.no_grad():
        learner.updater.masters["model.embed_tokens.weight"][fresh] = math.nan
    found = learner.diagnose(groups, totals_of(groups))
    assert found.error
    assert [(s.group_id, s.index, s.broken) for s in found.samples if s.broken] == [
        ("group 0", 1, "the output of model.embed_tokens")
    ]


def test_the_update_that_failed_is_the_one_that_is_told(tied_model: Path) -> None:
    groups = random_groups()
    index = int(np.argmin(groups[1].values))
    sick = poisoned(groups, -1e4, index=index)
    learner = watched(tied_model, minibatches=4, epochs=2)
    found = learner.diagnose(sick, totals_of(sick))
    assert "not finite" in found.error
    assert 0 < len(found.samples) < 12, "one part of the step"
    assert [(s.group_id, s.index) for s in found.samples if s.broken] == [("group 1", index)]


def test_a_critic_changes_nothing(tied_model: Path) -> None:
    for backbone in ("own", "shared"):
        settings = CriticSettings(backbone=backbone, learning_rate=1e-3)  # type: ignore[arg-type]
        groups = near_policy(make_learner(tied_model), random_groups())
        plain = make_learner(tied_model, baseline="critic", critic=settings)
        learner = watched(tied_model, baseline="critic", critic=settings)
        expected = plain.step(groups, totals_of(groups))
        assert learner.diagnose(groups, totals_of(groups)).metrics == expected
        assert same_weights(weights_of(plain), weights_of(learner))
