"""Our functions against values that peers' own functions gave. make_goldens.py says how the JSON files came about.

Both sides run in float64. What is left is a peer's own small print: verl adds 1e-8 to counts, both reduce by float32.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from rlvr.core.advantages import batch_advantages, gae, group_advantages, leave_one_out_advantages
from rlvr.core.correction import (
    effective_sample_size,
    geometric_mask,
    icepop_mask,
    mismatch_weights,
    sequence_mismatch_weights,
)
from rlvr.core.losses import cispo, clipped_surrogate, clipped_value_loss, gspo_surrogate, reverse_kl, token_weights
from rlvr.learner.algorithm import Algorithm
from rlvr.learner.credit import credit
from rlvr.learner.objective import objective
from tests.helpers import make_group, make_rollout

HERE = Path(__file__).resolve().parent
GIVEN = {
    name: torch.tensor(rows, dtype=torch.float64)
    for name, rows in json.loads((HERE / "inputs.json").read_text(encoding="utf-8")).items()
}
MASK, TURNS = GIVEN["mask"].bool(), GIVEN["turns"].bool()
LENGTHS = MASK.sum(1)
SEQUENCES = torch.arange(len(MASK)).repeat_interleave(LENGTHS)
SIZE = 4
REDUCED = {"rtol": 3e-7, "atol": 1e-8}  # weights of a reduction are float32


def cases(peer: str) -> dict[str, Any]:
    return json.loads((HERE / f"{peer}.json").read_text(encoding="utf-8"))["cases"]


def wide(value: Any) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def flat(name: str) -> Tensor:
    return GIVEN[name][MASK].clone()


def by_group(function: Any) -> Tensor:
    """Give a function's advantage of each reply on each of its tokens, 0 elsewhere."""
    rows = [function(scores, torch.ones(SIZE, dtype=torch.bool)) for scores in GIVEN["scores"].split(SIZE)]
    return torch.cat(rows)[:, None] * MASK


def under_the_root(advantages: Tensor, extra: float) -> float:
    """Say which eps beside the deviation does what adding to the variance does."""
    return float((advantages.var() + extra).sqrt() - advantages.std())


def whitened(advantages: Tensor, mask: Tensor) -> Tensor:
    result = torch.zeros_like(advantages)
    result[mask] = batch_advantages(advantages[mask], eps=under_the_root(advantages[mask], 1e-8))
    return result


def reduced(per_token: Tensor, *, per: str, constant: int | None = None) -> Tensor:
    weights = token_weights(
        SEQUENCES, per=per, num_loss_tokens=len(SEQUENCES), num_sequences=len(MASK), lengths=LENGTHS, constant=constant
    )
    return (weights * per_token).sum()


def slope_of(loss: Tensor, logprobs: Tensor) -> Tensor:
    result = torch.zeros_like(GIVEN["logprobs"])
    result[MASK] = torch.autograd.grad(loss, logprobs)[0]
    return result


def test_the_files_say_whose_values_they_are() -> None:
    for peer in ("verl", "trl", "rlax", "torchrl"):
        record = json.loads((HERE / f"{peer}.json").read_text(encoding="utf-8"))
        assert record["versions"][peer] and record["cases"]


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("grpo", lambda v, g: group_advantages(v, g, scale="std", ddof=1, eps=1e-6)),
        ("dr_grpo", lambda v, g: group_advantages(v, g, scale="none")),
        ("rloo", leave_one_out_advantages),
    ],
)
def test_group_baselines_are_verls(name: str, function: Any) -> None:
    torch.testing.assert_close(by_group(function), wide(cases("verl")[name]), rtol=1e-10, atol=1e-10)


def test_reinforce_with_a_baseline_whitens_as_verl_does() -> None:
    centred = by_group(lambda v, g: group_advantages(v, g, scale="none"))
    expected = wide(cases("verl")["reinforce_plus_plus_baseline"])
    torch.testing.assert_close(whitened(centred, MASK), expected, rtol=1e-8, atol=1e-8)


def token_credit(**options: Any) -> tuple[Tensor, Tensor]:
    """Give advantages and returns as `credit` finds them, the peers' rewards coming in as a KL of one token each."""
    groups, refs, values = [], [], []
    for row, mask in enumerate(MASK):
        length = int(mask.sum())
        spots = TURNS[row, :length]
        spans = [(t, t + 1) for t in range(length) if spots[t]]
        rewards = GIVEN["rewards"][row, :length]
        groups.append(make_group([make_rollout([1], [2] * length, spans=spans, logprobs=[0.0] * length)], [0.0]))
        refs.append(rewards.numpy())
        values.append(GIVEN["values"][row, :length].numpy())
    algorithm = Algorithm(kl="reward", kl_estimator="k1", kl_coefficient=1.0, **options)
    samples = credit(groups, algorithm, values=values, ref_logprobs=refs)
    advantages, returns = torch.zeros_like(GIVEN["values"]), torch.zeros_like(GIVEN["values"])
    for row, sample in enumerate(samples):
        advantages[row, : len(sample.advantages)] = torch.from_numpy(sample.advantages)
        if sample.returns is not None:
            returns[row, : len(sample.returns)] = torch.from_numpy(sample.returns)
    return advantages, returns


def test_rewards_to_go_are_verls() -> None:
    plain, _ = token_credit(baseline="none", discount=0.95)
    torch.testing.assert_close(plain, wide(cases("verl")["reinforce_plus_plus_returns"]), rtol=1e-6, atol=1e-7)
    scaled, _ = token_credit(baseline="none", discount=0.95, advantage_scale="batch", advantage_eps=1e-9)
    torch.testing.assert_close(scaled, wide(cases("verl")["reinforce_plus_plus"]), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(whitened(plain, TURNS), wide(cases("verl")["reinforce_plus_plus"]), rtol=1e-5, atol=1e-6)


def test_advantage_estimation_skips_an_environments_tokens_as_verl_does() -> None:
    options: dict[str, Any] = {"baseline": "critic", "discount": 0.97, "decay": 0.9, "critic_decay": 0.9}
    advantages, returns = token_credit(**options)
    torch.testing.assert_close(returns, wide(cases("verl")["gae_returns"]), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(whitened(advantages, TURNS), wide(cases("verl")["gae_whitened"]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("name", "after"), [("ended", 0.0), ("bootstrapped", 0.25)])
def test_advantage_estimation_is_torchrls(name: str, after: float) -> None:
    expected = cases("torchrl")[name]
    for row, (rewards, values) in enumerate(zip(GIVEN["rewards"], GIVEN["values"], strict=True)):
        advantages, returns = gae(rewards, torch.cat([values, wide([after])]), discount=0.97, decay=0.9)
        torch.testing.assert_close(advantages, wide(expected["advantages"][row]), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(returns, wide(expected["returns"][row]), rtol=1e-10, atol=1e-10)


def test_advantage_estimation_and_returns_are_rlaxs() -> None:
    expected, rewards = cases("rlax"), GIVEN["rewards"][0]
    values = torch.cat([GIVEN["values"][0], wide([0.25])])
    advantages, _ = gae(rewards, values, discount=0.97, decay=0.9)
    torch.testing.assert_close(advantages, wide(expected["gae"]), rtol=1e-10, atol=1e-10)
    _, returns = gae(rewards, values, discount=0.97, decay=0.8)
    torch.testing.assert_close(returns, wide(expected["lambda_returns"]), rtol=1e-10, atol=1e-10)
    to_go, _ = gae(rewards, torch.zeros(10, dtype=torch.float64), discount=0.97, decay=1.0)
    torch.testing.assert_close(to_go, wide(expected["discounted_returns"]), rtol=1e-10, atol=1e-10)


def test_the_clipped_surrogate_is_rlaxs() -> None:
    names = ("logprobs", "old_logprobs", "advantages")
    loss, _ = clipped_surrogate(*(GIVEN[name].ravel() for name in names), low=0.2, high=0.2)
    assert float(loss.mean()) == pytest.approx(cases("rlax")["clipped_surrogate"], rel=1e-10)


@pytest.mark.parametrize(
    ("name", "function", "per", "constant"),
    [
        ("vanilla_dual", lambda *a: clipped_surrogate(*a, low=0.2, high=0.28, dual=1.6), "token", None),
        ("vanilla_by_constant", lambda *a: clipped_surrogate(*a, low=0.2, high=0.28, dual=1.6), "constant", 9),
        ("gspo", lambda *a: gspo_surrogate(*a, SEQUENCES, low=0.1, high=0.15), "sequence", None),
        ("gspo_by_token", lambda *a: gspo_surrogate(*a, SEQUENCES, low=0.1, high=0.15), "token", None),
        ("cispo", lambda *a: cispo(*a, low=0.3, high=0.4), "token", None),
    ],
)
def test_policy_losses_are_verls(name: str, function: Any, per: str, constant: int | None) -> None:
    expected = cases("verl")[name]
    logprobs = flat("logprobs").requires_grad_()
    per_token, clipped = function(logprobs, flat("old_logprobs"), flat("advantages"))
    loss = reduced(per_token, per=per, constant=constant)
    torch.testing.assert_close(loss, wide(expected["loss"]), **REDUCED)
    torch.testing.assert_close(slope_of(loss, logprobs), wide(expected["gradient"]), **REDUCED)
    share = expected["pg_clipfrac"] + expected["pg_clipfrac_lower"]  # verl counts the two clips apart
    assert 0.0 < share < 1.0
    assert float(clipped.double().mean()) == pytest.approx(share, rel=1e-6)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3"])
def test_kl_estimates_are_verls(estimator: Any) -> None:
    found = reverse_kl(GIVEN["logprobs"], GIVEN["ref_logprobs"], estimator=estimator)
    torch.testing.assert_close(found, wide(cases("verl")[f"kl_{estimator}"]), rtol=1e-10, atol=1e-10)


def test_the_value_loss_is_verls() -> None:
    per_token, clipped = clipped_value_loss(flat("values"), flat("old_values"), flat("returns"), clip=0.2)
    expected = cases("verl")
    torch.testing.assert_close(reduced(per_token, per="token"), wide(expected["value_loss"]), **REDUCED)
    assert float(clipped.double().mean()) == pytest.approx(expected["value_clipped"], rel=1e-6)
    assert 0.1 < expected["value_clipped"] < 0.9


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("truncated_token", lambda a, b: mismatch_weights(a, b, cap=1.3)),
        ("truncated_sequence", lambda a, b: sequence_mismatch_weights(a, b, SEQUENCES, cap=1.5)),
        ("icepop", lambda a, b: icepop_mask(a, b, low=0.7, high=1.4)),
    ],
)
def test_corrections_are_verls(name: str, function: Any) -> None:
    expected = cases("verl")[name]
    weights = function(flat("logprobs"), flat("engine_logprobs"))
    torch.testing.assert_close(weights, wide(expected["weights"])[MASK], rtol=1e-10, atol=1e-10)
    assert effective_sample_size(weights) == pytest.approx(expected["effective"], rel=1e-6)


def test_the_geometric_mask_is_verls_with_its_ratio_turned_over() -> None:
    kept = geometric_mask(flat("logprobs"), flat("engine_logprobs"), SEQUENCES, low=1 / 1.1, high=1 / 0.85)
    expected = wide(cases("verl")["geometric"])[MASK]
    assert torch.equal(kept, expected)
    assert 0 < float(kept.sum()) < len(kept)


TRL = {
    "grpo": {"loss_per": "sequence"},
    "dr_grpo": {"loss_per": "constant", "loss_constant": 12},
    "dapo": {"loss_per": "token"},
    "kl_and_entropy": {"loss_per": "token", "kl": "loss", "kl_coefficient": 0.05, "entropy_bonus": 0.01},
    "corrected": {"loss_per": "token", "correction": "token", "correction_cap": 1.3},
    "gspo": {"loss_per": "sequence", "loss": "gspo", "clip_low": 0.1, "clip_high": 0.15},
    "cispo": {"loss_per": "token", "loss": "cispo", "clip_low": 1.0, "clip_high": 0.4},  # TRL names 1.4, without lower
}


@pytest.mark.parametrize("name", list(TRL))
def test_the_whole_loss_is_trls(name: str) -> None:
    expected, algorithm = cases("trl")[name], Algorithm(old_logprobs="learner", **TRL[name])
    logprobs, entropy = flat("logprobs").requires_grad_(), flat("entropy").requires_grad_()
    per_token, _ = objective(
        algorithm, logprobs=logprobs, entropy=entropy, old_logprobs=flat("old_logprobs"),
        engine_logprobs=flat("engine_logprobs"), advantages=GIVEN["reply_advantages"][SEQUENCES], sequences=SEQUENCES,
        ref_logprobs=flat("ref_logprobs"),
    )  # fmt: skip
    loss = reduced(per_token, per=algorithm.loss_per, constant=algorithm.loss_constant)
    torch.testing.assert_close(loss, wide(expected["loss"]), **REDUCED)
    by_logprob, by_entropy = torch.autograd.grad(loss, (logprobs, entropy), allow_unused=True)
    torch.testing.assert_close(by_logprob, wide(expected["gradient"])[MASK], **REDUCED)
    assert int(by_logprob.count_nonzero()) > 20
    assert (by_entropy is None) == ("entropy_gradient" not in expected)
    if by_entropy is not None:
        torch.testing.assert_close(by_entropy, wide(expected["entropy_gradient"])[MASK], **REDUCED)
