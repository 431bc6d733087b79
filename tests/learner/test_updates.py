"""Several updates in a step: how it is divided, what ratios are taken against, and what takes no update at all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import (
    make_group,
    make_learner,
    make_rollout,
    near_policy,
    random_groups,
    same_weights,
    totals_of,
    weights_of,
)
from transformers import AutoModelForCausalLM

from rlvr.errors import NonFiniteError
from rlvr.learner import step as module
from rlvr.learner.adapter import AdapterSettings
from rlvr.learner.algorithm import Algorithm, CriticSettings
from rlvr.learner.minibatches import divide, passes
from rlvr.learner.step import Learner
from rlvr.types import Grade, Group, Rollout, Verdict

KINDS = ("lora", "rslora", "dora", "vera", "pissa", "loftq", "lora+", "adalora")


def nudge(model: Any) -> None:
    """Move a model from its reference, by the same steps in any precision."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for p in model.parameters():
            p.add_((0.002 * torch.randn(p.shape, generator=generator).double()).to(p.dtype))


class Alone:
    """The updates of a step from each reply alone, in float64, with an optimizer of its own."""

    def __init__(self, folder: Path, algorithm: Algorithm, groups: Sequence[Group]) -> None:
        self.a, self.groups, self.totals = algorithm, groups, totals_of(groups)
        load = AutoModelForCausalLM.from_pretrained
        self.model = load(folder, dtype=torch.float64, attn_implementation="eager")
        self.start = load(folder, dtype=torch.float64, attn_implementation="eager")
        nudge(self.model)

    def table(self, model: Any, rollout: Rollout) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
        """Give log-probabilities and entropies of the sampled tokens, and their places."""
        ids = torch.tensor([[*rollout.prompt_ids.tolist(), *rollout.token_ids.tolist()]])
        places = [k for span in rollout.spans for k in range(span.start, span.stop)]
        at = [len(rollout.prompt_ids) + k for k in places]
        rows = (model(input_ids=ids).logits[0] / self.a.temperature).log_softmax(-1)[[k - 1 for k in at]]
        return rows[torch.arange(len(at)), ids[0, at]], -(rows.exp() * rows).sum(-1), places

    def run(self) -> dict[str, torch.Tensor]:
        a, draw = self.a, np.random.default_rng([self.a.seed, 0])
        optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=a.learning_rate, betas=a.betas, eps=a.adam_eps, weight_decay=0.0
        )
        replies = [rollout for group in self.groups for rollout in group.rollouts]
        with torch.no_grad():
            self.old = {id(r): self.table(self.model, r)[0] for r in replies}
            self.reference = {id(r): self.table(self.start, r)[0] for r in replies}
        parts = np.array_split(draw.permutation(len(self.groups)), a.minibatches)
        for epoch in range(a.epochs):
            for place in draw.permutation(len(parts)) if epoch else range(len(parts)):
                optimizer.zero_grad()
                sum(self.loss(self.groups[index]) for index in parts[place]).backward()  # type: ignore[union-attr]
                optimizer.step()
        return {name: p.detach() for name, p in self.model.named_parameters()}

    def loss(self, group: Group) -> torch.Tensor:
        a, total = self.a, torch.zeros((), dtype=torch.float64)
        values = torch.tensor(group.values.astype(float))
        advantages = (values - values.mean()) / (values.std() + a.advantage_eps)
        for rollout, advantage in zip(group.rollouts, advantages, strict=True):
            logprobs, entropy, places = self.table(self.model, rollout)
            old, engine = self.old[id(rollout)], torch.tensor(rollout.logprobs[places]).double()
            gap = logprobs - old
            ratio = torch.exp(gap.mean()).expand(len(gap)) if a.loss == "gspo" else torch.exp(gap)
            surrogate = -torch.minimum(ratio * advantage, ratio.clamp(1 - a.clip_low, 1 + a.clip_high) * advantage)
            weight = torch.exp(old - engine).clamp(max=a.correction_cap) if a.correction == "token" else 1.0
            off = logprobs - self.reference[id(rollout)]
            per_token = weight * surrogate + a.kl_coefficient * (torch.exp(-off) - 1 + off) - a.entropy_bonus * entropy
            count = {"token": self.totals.loss_tokens, "sequence": self.totals.sequences * len(places)}[a.loss_per]
            total = total + per_token.sum() / count * a.minibatches
        return total


@pytest.mark.parametrize(
    "options",
    [
        {"loss": "gspo", "loss_per": "sequence", "clip_low": 0.003, "clip_high": 0.004},
        {"loss": "clip", "loss_per": "token", "clip_low": 0.02, "clip_high": 0.02, "correction": "token"},
    ],
    ids=["gspo", "clip"],
)
def test_four_updates_equal_a_loop_over_replies(tied_model: Path, options: dict[str, Any]) -> None:
    settings = options | {
        "old_logprobs": "learner", "minibatches": 2, "epochs": 2, "temperature": 0.8, "kl": "loss",
        "kl_coefficient": 0.1, "entropy_bonus": 0.02, "advantage_scale": "std", "adam_eps": 1e-3, "max_grad_norm": 1e9,
    }  # fmt: skip
    learner = make_learner(tied_model, tokens=90, **settings)
    nudge(learner.model)
    groups = near_policy(make_learner(tied_model, tokens=4096), random_groups(2, groups=4, size=3, turns=True))
    before, metrics = weights_of(learner), learner.step(groups, totals_of(groups))
    assert 0 < metrics["clipped"] < 1, "the comparison should see both sides of the clip"
    expected, found = Alone(tied_model, learner.algorithm, groups).run(), weights_of(learner)
    moved = math.sqrt(sum(float((expected[n] - before[n]).norm()) ** 2 for n in found))
    missed = math.sqrt(sum(float((expected[n] - found[n]).norm()) ** 2 for n in found))
    assert missed < 1e-4 * moved


@pytest.mark.parametrize("tokens", [80, 4096])
@pytest.mark.parametrize("epochs", [1, 2])
def test_ratios_before_any_change_are_exactly_1_in_bfloat16(
    tied_model: Path, monkeypatch: pytest.MonkeyPatch, tokens: int, epochs: int
) -> None:
    gaps, real = [], module.objective

    def noting(algorithm: Algorithm, **given: Any) -> Any:
        gaps.append((given["logprobs"] - given["old_logprobs"]).detach())
        return real(algorithm, **given)

    monkeypatch.setattr(module, "objective", noting)
    tight = Algorithm(
        loss="gspo", clip_low=1e-7, clip_high=1e-7, loss_per="sequence", old_logprobs="learner", minibatches=4,
        epochs=epochs, learning_rate=1e-30,
    )  # fmt: skip
    learner = Learner(tied_model, tight, tokens_per_microbatch=tokens, threads=1)
    groups = random_groups(groups=8)
    metrics = learner.step(groups, totals_of(groups))
    assert metrics["clipped"] == 0
    assert sum(len(gap) for gap in gaps) == epochs * metrics["trained_tokens"] > 0
    assert not torch.cat(gaps).any()
    if epochs == 1 and tokens == 4096:  # the test can tell: scored in one go they are packed otherwise
        samples = learner._credited(groups)
        whole = learner._scored(samples, learner.body.logprobs)
        parts = divide(samples, parts=4, draw=np.random.default_rng([0, 0]))
        apart = {id(s): old for p in parts for s, old in zip(p, learner._scored(p, learner.body.logprobs), strict=True)}
        assert any((apart[id(s)] != old).any() for s, old in zip(samples, whole, strict=True))


def test_parts_stay_what_they_are_and_their_order_does_not() -> None:
    samples = [type("S", (), {"group_id": f"g{n // 2}"})() for n in range(24)]
    draw = np.random.default_rng(0)
    parts = divide(samples, parts=5, draw=draw)
    assert sorted(map(id, (s for part in parts for s in part))) == sorted(map(id, samples))
    assert all([s.group_id for s in part[0::2]] == [s.group_id for s in part[1::2]] for part in parts), "whole groups"
    taken = list(passes(parts, epochs=3, draw=draw))
    orders = [[parts.index(part) for part in taken[k : k + 5]] for k in (0, 5, 10)]
    assert orders[0] == [0, 1, 2, 3, 4]
    assert all(sorted(order) == orders[0] for order in orders)
    assert len({tuple(order) for order in orders}) == 3
    assert len(divide(samples[:4], parts=5, draw=draw)) == 2, "no more parts than groups"
    assert divide([], parts=5, draw=draw) == []


def adapted(folder: Path, kind: str | None, **algorithm: Any) -> Learner:
    settings = AdapterSettings(kind=kind, rank=4, total_steps=20) if kind else None  # type: ignore[arg-type]
    return Learner(
        folder, Algorithm(**{"learning_rate": 1e-3, "weight_decay": 0.1} | algorithm), tokens_per_microbatch=256,
        threads=1, precision="float32", adapter=settings,
    )  # fmt: skip


@pytest.mark.parametrize("kind", [None, *KINDS])
def test_a_step_without_gradient_changes_no_bit(tied_model: Path, kind: str | None) -> None:
    learner, groups = adapted(tied_model, kind), random_groups(groups=1)
    learner.step(groups, totals_of(groups))
    before, updates = weights_of(learner), learner.updates
    metrics = learner.step([], totals_of(groups))
    assert same_weights(before, weights_of(learner))
    assert (learner.version, learner.updates, updates) == (2, 1, 1)
    assert (metrics["loss"], metrics["grad_norm"], metrics["trained"]) == (0.0, 0.0, 0.0)
    learner.step(groups, totals_of(groups))
    assert not same_weights(before, weights_of(learner))


@pytest.mark.parametrize("kind", [None, "adalora"])
def test_fewer_groups_than_minibatches_are_fewer_updates(tied_model: Path, kind: str | None) -> None:
    groups = random_groups(groups=1)
    few, one = (adapted(tied_model, kind, minibatches=count) for count in (4, 1))
    told = [learner.step(groups, totals_of(groups)) for learner in (few, one)]
    assert told[0] == told[1], "loss and gradient are those of the whole, not a quarter of them"
    assert few.updates == 1
    assert same_weights(weights_of(few), weights_of(one))


@pytest.mark.parametrize(
    "options",
    [
        {}, {"loss_per": "sequence", "minibatches": 2}, {"loss_per": "constant", "loss_constant": 8},
        {"baseline": "none", "advantage_scale": "batch"}, {"positive_nll": 0.1},
        {"baseline": "critic", "advantage_scale": "batch"},
        {"baseline": "critic", "critic": CriticSettings(warmup_steps=2)},
        {"loss": "gspo", "old_logprobs": "learner", "minibatches": 2, "kl": "reward", "kl_coefficient": 0.1},
    ],
    ids=str,
)  # fmt: skip
def test_replies_without_a_token_take_no_update_and_break_nothing(tied_model: Path, options: dict[str, Any]) -> None:
    learner = make_learner(tied_model, **options)
    before = weights_of(learner)
    empty = make_group([make_rollout([1, 2], []), make_rollout([1, 2], [], index=1)], [1.0, 0.0])
    metrics = learner.step([empty], totals_of([empty]))
    assert all(math.isfinite(value) for value in metrics.values())
    assert metrics["trained"] == metrics["trained_tokens"] == 0
    assert same_weights(before, weights_of(learner))
    assert learner.updates == 0


def judged(groups: Sequence[Group], verdict: Verdict) -> list[Group]:
    return [replace(g, grades=tuple(Grade(verdict=verdict, score=0.5) for _ in g.rollouts)) for g in groups]


def test_positive_tokens_are_told_even_where_there_are_none(tied_model: Path) -> None:
    learner, groups = make_learner(tied_model, positive_nll=0.1), random_groups()
    told = [
        learner.step(judged(groups, v), totals_of(groups))["positive_tokens"] for v in (Verdict.WRONG, Verdict.CORRECT)
    ]
    assert told == [0.0, totals_of(groups).loss_tokens]
    assert "positive_tokens" not in make_learner(tied_model).step(groups, totals_of(groups))


def test_a_reference_that_is_not_finite_stops_the_step(tied_model: Path) -> None:
    learner, groups = make_learner(tied_model, kl="loss", kl_coefficient=0.1), random_groups()
    learner.step(groups, totals_of(groups))
    before = weights_of(learner)
    assert learner.body._frozen is not None
    with torch.no_grad():
        learner.body._frozen.model.model.norm.weight[0] = math.nan
    with pytest.raises(
        NonFiniteError, match=r"step 2: the log-probability of the reference policy at token 0 of reply 0"
    ):
        learner.step(groups, totals_of(groups))
    assert same_weights(before, weights_of(learner))


@pytest.mark.parametrize("backbone", ["own", "shared"])
def test_where_the_policy_fails_its_critic_does_not_move_either(tied_model: Path, backbone: Any) -> None:
    critic = CriticSettings(backbone=backbone, learning_rate=1e-2)
    learner, groups = make_learner(tied_model, baseline="critic", critic=critic), random_groups()
    worst = int(np.argmin(groups[0].values))
    rollouts = [replace(r, logprobs=np.full_like(r.logprobs, -1e4)) if i == worst else r
                for i, r in enumerate(groups[0].rollouts)]  # fmt: skip
    sick = [make_group(rollouts, [-1.0 if i == worst else 0.0 for i in range(4)]), *groups[1:]]
    assert learner.critic is not None
    before = {n: p.detach().clone() for n, p in learner.critic.updater.masters.items()}
    with pytest.raises(NonFiniteError, match=r"loss .* not finite; lower algorithm.learning_rate"):
        learner.step(sick, totals_of(sick))
    assert same_weights(before, dict(learner.critic.updater.masters))  # type: ignore[arg-type]
    everything = {**learner.updater.masters, **learner.critic.updater.masters}
    assert all(p.grad is None for p in everything.values())


def test_a_correction_that_masks_all_leaves_a_sample_of_nothing(tied_model: Path) -> None:
    learner = make_learner(
        tied_model, correction="icepop", correction_low=0.999999, correction_high=1.000001, loss="policy_gradient"
    )
    groups = random_groups()
    metrics = learner.step(groups, totals_of(groups))
    assert (metrics["correction_kept"], metrics["effective_sample_size"], metrics["loss"]) == (0.0, 0.0, 0.0)
