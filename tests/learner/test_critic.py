"""PPO with a critic on a tiny model, against a loop that runs every reply alone through plain `transformers`."""

from __future__ import annotations

import gc
import math
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import make_group, make_learner, near_policy, random_groups, same_weights, totals_of, weights_of
from transformers import AutoModelForCausalLM

from rlvr.errors import CheckpointError, LearnerError
from rlvr.learner.algorithm import Algorithm, CriticSettings
from rlvr.learner.checkpoint import restore, save
from rlvr.learner.model import load_model
from rlvr.learner.step import Learner
from rlvr.types import Grade, Group, Verdict

Gradients = dict[str, torch.Tensor]
FREE = {"max_grad_norm": 1e9}  # so that the gradients reach the optimizer as they are
HEAD = "value_head.weight"
BACKBONES = ["own", "shared"]


def learner_of(folder: Path, backbone: str, *, tokens: int = 256, critic: dict[str, Any] | None = None, **more: Any):
    settings = CriticSettings(backbone=backbone, **{"learning_rate": 1e-3} | (critic or {}))  # type: ignore[arg-type]
    return make_learner(folder, tokens=tokens, baseline="critic", critic=settings, **more)


def draw(seed: int) -> torch.Tensor:
    return 0.05 * torch.randn(64, generator=torch.Generator().manual_seed(seed))


def believe(learner: Learner, *, now: int = 1, before: int = 2) -> None:
    """Give the critic a head, and another one to the values before the step, so that some values are clipped."""
    critic = learner.critic
    assert critic is not None
    with torch.no_grad():
        critic.head.copy_(draw(now))
        critic.updater.masters[HEAD].copy_(draw(now))
    plain = critic.predict

    def predict(batch: Any) -> Any:
        with torch.no_grad():
            critic.head.copy_(draw(before))
            found = plain(batch)
            critic.head.copy_(draw(now))
        return found

    critic.predict = predict  # type: ignore[method-assign]


def judged(groups: Sequence[Group]) -> list[Group]:
    """Give the best replies the verdict that positive-example losses look for."""
    verdicts = {True: Verdict.CORRECT, False: Verdict.WRONG}
    return [
        replace(group, grades=tuple(Grade(verdict=verdicts[bool(v == 1.0)], score=0.5) for v in group.values))
        for group in groups
    ]


def gradients_of(learner: Learner, groups: Sequence[Group]) -> tuple[dict[str, float], Gradients, Gradients]:
    """Run a step whose optimizers only note, and add up, the gradients that they are handed: policy's and critic's."""
    policy: Gradients = {}
    critic: Gradients = {}
    assert learner.critic is not None
    for updater, noted in ((learner.updater, policy), (learner.critic.updater, critic)):

        def note(masters: Any = updater.masters, noted: Gradients = noted) -> None:
            for name, p in masters.items():
                if p.grad is not None:
                    noted[name] = noted.get(name, 0.0) + p.grad.clone()

        updater.optimizer.step = note  # type: ignore[method-assign]
    return learner.step(groups, totals_of(groups)), policy, critic


def naive_gae(rewards: list[float], values: list[float], discount: float, decay: float) -> list[float]:
    """Sum the discounted errors, each advantage on its own, as the definition says."""
    after = [*values[1:], 0.0]
    errors = [r + discount * b - v for r, v, b in zip(rewards, values, after, strict=True)]
    return [sum((discount * decay) ** k * e for k, e in enumerate(errors[t:])) for t in range(len(errors))]


class Alone:
    """Losses and gradients of a step from each reply alone, in float64."""

    def __init__(self, folder: Path, algorithm: Algorithm, groups: Sequence[Group]) -> None:
        assert algorithm.critic is not None
        self.a, self.settings, self.groups, self.totals = algorithm, algorithm.critic, groups, totals_of(groups)
        load = AutoModelForCausalLM.from_pretrained
        self.policy = load(folder, dtype=torch.float64, attn_implementation="eager")
        self.other = self.policy
        if self.settings.backbone == "own":
            self.other = load(folder, dtype=torch.float64, attn_implementation="eager")
        self.head = draw(1).double().requires_grad_()
        self.loss = self.value_loss = 0.0
        self.old: list[float] = []
        self.returns: list[float] = []
        self.clipped: list[bool] = []
        self._run()

    def _run(self) -> None:
        replies = []
        for group in self.groups:
            for rollout, value, grade in zip(group.rollouts, group.values, group.grades, strict=True):
                replies.append((rollout, float(value), getattr(grade, "verdict", None) is Verdict.CORRECT))
        credit = [self._credit(rollout, value) for rollout, value, _ in replies]
        everything = np.concatenate([advantages for advantages, _ in credit])
        shift, scale = 0.0, 1.0
        if self.a.advantage_scale == "batch":
            shift, scale = everything.mean(), everything.std(ddof=1) + self.a.advantage_eps
        right = sum(len(advantages) for (advantages, _), (_, _, good) in zip(credit, replies, strict=True) if good)
        for (advantages, returns), (rollout, _, good) in zip(credit, replies, strict=True):
            self._learn(rollout, (advantages - shift) / scale, returns, right if good else 0)

    def _places(self, rollout: Any) -> tuple[torch.Tensor, np.ndarray, list[int]]:
        ids = torch.tensor([[*rollout.prompt_ids, *rollout.token_ids]])
        places = np.array([k for span in rollout.spans for k in range(span.start, span.stop)])
        return ids, places, [len(rollout.prompt_ids) + int(k) - 1 for k in places]

    def _credit(self, rollout: Any, value: float) -> tuple[np.ndarray, np.ndarray]:
        ids, places, before = self._places(rollout)
        with torch.no_grad():
            hidden = self.other(input_ids=ids, output_hidden_states=True).hidden_states[-1][0]
            values = (hidden[before] @ draw(2).double()).tolist()
        rewards = [0.0] * (len(places) - 1) + [value]
        decay = self.a.decay
        if self.a.decay_length_factor is not None:
            decay = max(0.0, 1 - 1 / (self.a.decay_length_factor * len(places)))
        returns = np.array(naive_gae(rewards, values, self.a.discount, self.a.critic_decay)) + values
        self.old += values
        self.returns += returns.tolist()
        return np.array(naive_gae(rewards, values, self.a.discount, decay)), returns

    def _learn(self, rollout: Any, advantages: np.ndarray, returns: np.ndarray, right: int) -> None:
        a, (ids, places, before) = self.a, self._places(rollout)
        table = torch.log_softmax(self.policy(input_ids=ids).logits[0], dim=-1)
        hidden = self.other(input_ids=ids, output_hidden_states=True).hidden_states[-1][0]
        policy, critic = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        for k, at, advantage, goal in zip(places, before, advantages, returns, strict=True):
            logprob = table[at, ids[0, at + 1]]
            ratio = torch.exp(logprob - float(rollout.logprobs[k]))
            bounded = ratio.clamp(1 - a.clip_low, 1 + a.clip_high)
            policy = policy - torch.minimum(ratio * advantage, bounded * advantage) / self.totals.loss_tokens
            if right:
                policy = policy - a.positive_nll * logprob / right
            value, old = hidden[at] @ self.head, float(hidden[at].detach() @ draw(2).double())
            free, limit = (value - goal) ** 2, self.settings.value_clip
            assert limit is not None
            held = (value.clamp(old - limit, old + limit) - goal) ** 2
            self.clipped.append(bool(held > free))
            critic = critic + 0.5 * torch.maximum(free, held) / self.totals.loss_tokens
        factor = 1.0 if self.settings.backbone == "own" else self.settings.coefficient
        (policy + factor * critic).backward()
        self.loss += policy.item()
        self.value_loss += critic.item()

    def gradients(self) -> tuple[Gradients, Gradients]:
        """Give the policy's gradients and the critic's, under the learner's names."""
        found = {n: p.grad for n, p in self.policy.named_parameters() if p.grad is not None}
        assert self.head.grad is not None
        if self.settings.backbone == "shared":
            return found, {HEAD: self.head.grad}
        own = {n.removeprefix("model."): p.grad for n, p in self.other.named_parameters() if p.grad is not None}
        return found, own | {HEAD: self.head.grad}


def assert_close(found: Gradients, expected: Gradients) -> None:
    assert found.keys() == expected.keys()
    for name, slope in expected.items():
        assert float(slope.norm()) > 0, name
        assert float((found[name] - slope).norm()) <= 1e-5 * float(slope.norm()), name


PPO = {"decay": 0.9, "critic_decay": 0.9, "discount": 0.97, **FREE}
VAPO = {"decay_length_factor": 0.2, "critic_decay": 1.0, "positive_nll": 0.3, "advantage_scale": "batch", **FREE}


@pytest.mark.parametrize("turns", [False, True], ids=["one turn", "several turns"])
@pytest.mark.parametrize("options", [PPO, VAPO], ids=["ppo", "vapo"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_step_equals_a_loop_over_replies(untied_model: Path, backbone: str, options: dict, turns: bool) -> None:
    learner = learner_of(untied_model, backbone, critic={"value_clip": 0.3}, **options)
    groups = judged(near_policy(learner, random_groups(groups=2, size=3, turns=turns)))
    believe(learner)
    expected = Alone(untied_model, learner.algorithm, groups)
    metrics, policy, critic = gradients_of(learner, groups)
    assert metrics["loss"] == pytest.approx(expected.loss, rel=1e-5)
    assert metrics["value_loss"] == pytest.approx(expected.value_loss, rel=1e-5)
    assert metrics["value_clipped"] == pytest.approx(np.mean(expected.clipped))
    assert 0 < metrics["value_clipped"] < 1, "the comparison should see both sides of the clip"
    assert 0 < metrics["clipped"] < 1
    slopes, own = expected.gradients()
    assert_close(policy, slopes)
    assert_close(critic, own)
    old, returns = np.array(expected.old), np.array(expected.returns)
    assert metrics["value_mean"] == pytest.approx(old.mean(), rel=1e-5)
    assert metrics["return_mean"] == pytest.approx(returns.mean(), rel=1e-5)
    assert metrics["explained_variance"] == pytest.approx(1 - np.var(returns - old) / np.var(returns), rel=1e-5)
    norm = math.sqrt(sum(float(slope.square().sum()) for slope in own.values()))
    assert metrics["critic_grad_norm"] == pytest.approx(norm, rel=1e-5)


@pytest.mark.parametrize("tokens", [60, 4096])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_micro_batches_packing_and_order_change_nothing(tied_model: Path, backbone: str, tokens: int) -> None:
    groups = judged(near_policy(make_learner(tied_model), random_groups()))
    found = []
    for size, some in ((1024, groups), (tokens, groups[::-1])):
        learner = learner_of(tied_model, backbone, tokens=size, **VAPO)
        believe(learner)
        found.append(gradients_of(learner, some))
    (whole, *slopes), (metrics, *ours) = found
    for counts in (whole, metrics):  # what micro-batches cannot share is computed in each
        counts.pop("computed_tokens")
        counts.pop("scored_tokens")
    assert metrics == pytest.approx(whole, rel=1e-4)
    for mine, other in zip(ours, slopes, strict=True):
        assert_close(mine, other)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_minibatch_stands_for_the_step(tied_model: Path, backbone: str) -> None:
    groups = judged(near_policy(make_learner(tied_model), random_groups(groups=2)))
    found = []
    for updates in ({}, {"minibatches": 3, "epochs": 2}):
        learner = learner_of(tied_model, backbone, **VAPO, **updates)  # type: ignore[arg-type]
        believe(learner)
        found.append(gradients_of(learner, groups))
    (whole, *slopes), (metrics, *sums) = found
    for mine, other in zip(sums, slopes, strict=True):  # of the three minibatches two have a group, in two epochs
        assert_close({name: slope / 4 for name, slope in mine.items()}, other)
    same = ("loss", "value_loss", "value_clipped", "value_mean", "explained_variance", "trained_tokens", "trained")
    assert {n: metrics[n] for n in same} == pytest.approx({n: whole[n] for n in same}, rel=1e-5)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_warm_up_trains_the_critic_alone(tied_model: Path, backbone: str) -> None:
    groups = random_groups()
    learner = learner_of(tied_model, backbone, critic={"warmup_steps": 2}, warmup_steps=4, weight_decay=0.1)
    assert learner.critic is not None
    before, rates = weights_of(learner), []
    for _ in range(2):
        masters = {n: p.detach().clone() for n, p in learner.critic.updater.masters.items()}
        metrics = learner.step(groups, totals_of(groups))
        moved = {n: not torch.equal(p, masters[n]) for n, p in learner.critic.updater.masters.items()}
        assert all(moved.values())
        assert same_weights(before, weights_of(learner)), "the policy is the same to the bit"
        assert not learner.updater.optimizer.state, "its optimizer has seen nothing either"
        assert all(p.grad is None for p in learner.updater.masters.values()), "nothing waits for its first update"
        assert not {"loss", "grad_norm", "entropy", "clipped", "mismatch"} & metrics.keys()
        assert {"value_loss", "critic_grad_norm", "value_mean", "explained_variance"} <= metrics.keys()
        assert metrics["trained_tokens"] == totals_of(groups).loss_tokens
        rates.append(metrics["learning_rate"])
    metrics = learner.step(groups, totals_of(groups))
    assert {"loss", "grad_norm", "entropy", "value_loss", "critic_grad_norm"} <= metrics.keys()
    assert not same_weights(before, weights_of(learner))
    assert [*rates, metrics["learning_rate"]] == pytest.approx([0.0, 0.0, 2.5e-4]), "its schedule starts here"
    assert learner.version == 3


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_first_values_are_0_and_constant_returns_are_learned(tied_model: Path, backbone: str) -> None:
    # a head alone, on random layers that stay as they are, cannot say the same everywhere
    warmup = {"own": 99, "shared": 0}[backbone]
    learner = learner_of(tied_model, backbone, critic={"warmup_steps": warmup, "learning_rate": 3e-3})
    groups = [make_group(group.rollouts, [1.0] * 4) for group in random_groups()]
    told = [learner.step(groups, totals_of(groups)) for _ in range(36)]
    assert told[0]["value_mean"] == 0.0
    assert told[0]["value_loss"] == pytest.approx(0.5)
    assert told[-1]["value_loss"] < 0.1 * told[0]["value_loss"]
    assert told[-1]["value_mean"] == pytest.approx(1.0, abs=0.2)
    assert "explained_variance" not in told[0], "of returns that are all equal it is unknown"


def test_flat_groups_train_and_a_shared_critic_pulls_the_policy(tied_model: Path) -> None:
    groups = [make_group(group.rollouts, [1.0] * 4) for group in random_groups()]
    pulls = {}
    for backbone in BACKBONES:
        learner = learner_of(tied_model, backbone, **FREE)
        believe(learner)
        metrics, pulls[backbone], _ = gradients_of(learner, groups)
        assert (metrics["trained"], metrics["trained_tokens"]) == (12, totals_of(groups).loss_tokens)
        assert metrics["grad_norm"] > 0
    name = "model.layers.0.mlp.up_proj.weight"
    assert not torch.allclose(pulls["own"][name], pulls["shared"][name])


def test_the_length_of_a_reply_sets_its_decay(tied_model: Path) -> None:
    groups, losses = random_groups(), []
    for factor in (None, 0.05, 0.5):
        learner = learner_of(tied_model, "own", decay=1.0, decay_length_factor=factor)
        believe(learner)
        metrics = learner.step(groups, totals_of(groups))
        losses.append((metrics["loss"], metrics["value_loss"]))
    assert len({round(loss, 5) for loss, _ in losses}) == 3
    assert len({value_loss for _, value_loss in losses}) == 1, "the critic's targets have a decay of their own"


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_critic_holds_no_output_head(model_folder: Path, backbone: str) -> None:
    critic = learner_of(model_folder, backbone).critic
    names = set(critic.updater.masters)
    assert HEAD in names
    if backbone == "shared":
        assert names == {HEAD}
        return
    assert not any("lm_head" in name for name in [*names, *dict(critic.body.model.named_modules())])
    layers = sum(p.numel() for p in critic.body.model.parameters())
    assert layers == AutoModelForCausalLM.from_pretrained(model_folder).model.num_parameters()
    trained = [p for group in critic.updater.optimizer.param_groups for p in group["params"]]
    assert sum(p.numel() for p in trained) == layers + 64


def test_the_output_head_is_let_go_of(untied_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heads = []

    def noting(folder: Path, **options: Any) -> Any:
        model = load_model(folder, **options)
        heads.append(weakref.ref(model.get_output_embeddings().weight))
        return model

    monkeypatch.setattr("rlvr.learner.critic.load_model", noting)
    gc.disable()
    try:
        learner = learner_of(untied_model, "own")
        assert [head() for head in heads] == [None]
        assert learner.model.get_output_embeddings() is not None
    finally:
        gc.enable()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_values_are_float32_where_products_are_not(tied_model: Path, backbone: str) -> None:
    algorithm = Algorithm(baseline="critic", critic=CriticSettings(backbone=backbone, learning_rate=1e-3))  # type: ignore[arg-type]
    learner = Learner(tied_model, algorithm, tokens_per_microbatch=256, threads=1)
    critic, groups = learner.critic, random_groups()
    assert critic is not None
    first = learner.step(groups, totals_of(groups))
    assert learner.step(groups, totals_of(groups))["value_mean"] != first["value_mean"]
    assert critic.body.dtype == torch.bfloat16
    assert critic.head.dtype == torch.float32
    assert critic.head is critic.updater.masters[HEAD]
    assert {p.dtype for p in critic.updater.masters.values()} == {torch.float32}
    rounded = critic.head.detach().to(torch.bfloat16).float()
    assert not torch.equal(critic.head, rounded), "the head is not rounded to the type of the layers"


@pytest.mark.parametrize("backbone", BACKBONES)
def test_each_gradient_is_clipped_to_a_norm_of_its_own(tied_model: Path, backbone: str) -> None:
    groups = near_policy(make_learner(tied_model), random_groups())
    found = []
    for limit in (1e9, 1e-3):
        learner = learner_of(tied_model, backbone, max_grad_norm=limit)
        believe(learner)
        found.append(gradients_of(learner, groups))
    (free, *slopes), (metrics, *clipped) = found
    assert metrics == pytest.approx(free), "norms are those before clipping"
    for name, mine, other in zip(("grad_norm", "critic_grad_norm"), clipped, slopes, strict=True):
        assert_close(mine, {n: slope * 1e-3 / free[name] for n, slope in other.items()})


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("warmup", [0, 1])
def test_what_is_not_finite_stops_the_step_and_spares_the_weights(tied_model: Path, backbone: str, warmup: int) -> None:
    def fresh() -> Learner:
        return learner_of(tied_model, backbone, critic={"warmup_steps": warmup})

    groups, healthy, learner = random_groups(), fresh(), fresh()
    before = weights_of(learner)
    wild = [make_group(groups[0].rollouts, [1e30, 0.0, 1.0, 0.0]), *groups[1:]]
    with pytest.raises(LearnerError, match=r"^step 1: value loss inf or .* not finite; lower critic.learning_rate or"):
        learner.step(wild, totals_of(wild))
    assert same_weights(before, weights_of(learner))
    assert learner.version == 0
    assert learner.step(groups, totals_of(groups)) == healthy.step(groups, totals_of(groups))
    assert same_weights(weights_of(healthy), weights_of(learner)), "nothing of the failed step is left behind"
    assert_same_critic(healthy, learner)
    with torch.no_grad():
        learner.critic.head[0] = math.nan
    with pytest.raises(LearnerError, match=r"step 2: a value of the critic is not finite; lower critic.learning_rate"):
        learner.step(groups, totals_of(groups))


def assert_same_critic(a: Learner, b: Learner) -> None:
    one, other = (learner.critic.updater for learner in (a, b))
    assert same_weights(one.masters, other.masters)  # type: ignore[arg-type]
    (first, second) = (updater.optimizer.state_dict()["state"] for updater in (one, other))
    assert first.keys() == second.keys()
    for key, state in first.items():
        assert all(torch.equal(value, second[key][name]) for name, value in state.items())


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "bfloat16_weights"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_resumed_run_equals_one_that_never_stopped(
    tied_model: Path, tmp_path: Path, backbone: str, precision: str
) -> None:
    settings = CriticSettings(backbone=backbone, learning_rate=1e-3, warmup_steps=1)  # type: ignore[arg-type]
    algorithm = Algorithm(baseline="critic", critic=settings, learning_rate=1e-3, minibatches=2, weight_decay=0.01)

    def train(learner: Learner, *seeds: int) -> Learner:
        for seed in seeds:
            groups = random_groups(seed)
            learner.step(groups, totals_of(groups))
        return learner

    def fresh() -> Learner:
        return Learner(tied_model, algorithm, tokens_per_microbatch=256, threads=1, precision=precision)

    straight = train(fresh(), 1, 2, 3, 4)
    save(train(fresh(), 1, 2), tmp_path / "step-000002", facts={"step": 2})
    assert (tmp_path / "step-000002" / "trainer" / "critic.safetensors").is_file()
    resumed = fresh()
    assert restore(resumed, tmp_path / "step-000002") == {"step": 2}
    train(resumed, 3, 4)
    assert same_weights(weights_of(straight), weights_of(resumed))
    assert same_weights(straight.updater.masters, resumed.updater.masters)  # type: ignore[arg-type]
    assert_same_critic(straight, resumed)


def test_a_checkpoint_without_its_critic_is_refused(tied_model: Path, tmp_path: Path) -> None:
    save(make_learner(tied_model), tmp_path / "step-000001", facts={})
    assert not (tmp_path / "step-000001" / "trainer" / "critic.safetensors").exists()
    with pytest.raises(CheckpointError, match=r"step-000001 cannot be read: .*critic.safetensors"):
        restore(learner_of(tied_model, "own"), tmp_path / "step-000001")
