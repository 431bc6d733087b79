"""The composed loss against a loop over tokens, and how it adds up over micro-batches."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rlvr.core.losses import token_weights
from rlvr.learner.algorithm import Algorithm
from rlvr.learner.objective import objective

LENGTHS = [5, 1, 7, 3, 4]
SEQUENCES = torch.repeat_interleave(torch.tensor(LENGTHS))
CORRECT = torch.tensor([True, False, False, True, True])[SEQUENCES]
POSITIVE = int(CORRECT.sum())
NAMES = ("logprobs", "entropy", "old_logprobs", "engine_logprobs", "advantages", "ref_logprobs")

CASES: list[dict[str, Any]] = [
    {"loss": "clip", "clip_dual": 1.4},
    {"loss": "gspo", "loss_per": "sequence", "clip_low": 0.1, "clip_high": 0.1},
    {"loss": "cispo"},
    {"loss": "policy_gradient", "loss_per": "constant", "loss_constant": 9},
    {"loss": "clip", "old_logprobs": "learner", "correction": "token", "correction_cap": 1.2},
    {"loss": "cispo", "old_logprobs": "learner", "correction": "sequence", "correction_cap": 1.5},
    {"loss": "gspo", "old_logprobs": "learner", "correction": "icepop", "correction_low": 0.7, "correction_high": 1.5},
    {"loss": "clip", "correction": "geometric", "correction_low": 0.8, "correction_high": 1.2},
    {"loss": "policy_gradient", "correction": "token", "correction_cap": 1.1},
    {"loss": "clip", "kl": "loss", "kl_coefficient": 0.3, "kl_estimator": "k3", "entropy_bonus": 0.05},
    {"loss": "clip", "kl": "loss", "kl_coefficient": 0.3, "kl_estimator": "k2", "loss_per": "sequence"},
    {"loss": "clip", "kl": "reward", "kl_coefficient": 0.3},
    {"loss": "clip", "positive_nll": 0.1},
    {"loss": "clip", "positive_nll": 0.1, "loss_per": "sequence", "entropy_bonus": 0.05},
    {
        "loss": "clip", "old_logprobs": "learner", "correction": "icepop", "correction_low": 0.8,
        "correction_high": 1.3, "kl": "loss", "kl_coefficient": 0.2,
        "entropy_bonus": 0.01, "positive_nll": 0.3, "loss_per": "constant", "loss_constant": 11,
    },
]  # fmt: skip
ids = ["-".join(str(value) for value in case.values()) for case in CASES]


def numbers(seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    base = torch.randn(len(SEQUENCES), generator=generator, dtype=torch.float64) - 2.0
    made = {name: base + 0.3 * torch.randn(base.shape, generator=generator, dtype=torch.float64) for name in NAMES}
    made["entropy"] = torch.rand(base.shape, generator=generator, dtype=torch.float64)
    made["advantages"] = torch.randn(len(LENGTHS), generator=generator, dtype=torch.float64)[SEQUENCES]
    return made


def weights_of(algorithm: Algorithm, sequences: Tensor) -> Tensor:
    return token_weights(
        sequences, per=algorithm.loss_per, num_loss_tokens=sum(LENGTHS) + 6, num_sequences=len(LENGTHS) + 1,
        lengths=torch.tensor(LENGTHS), constant=algorithm.loss_constant,
    ).double()  # fmt: skip


def loss_of(algorithm: Algorithm, given: dict[str, Tensor], places: Tensor) -> tuple[Tensor, dict[str, float]]:
    weights = weights_of(algorithm, SEQUENCES[places])
    per_token, metrics = objective(
        algorithm, **{name: given[name][places] for name in NAMES}, sequences=SEQUENCES[places],
        correct=CORRECT[places], weights=weights, positive_tokens=POSITIVE,
    )  # fmt: skip
    assert per_token.shape == places.shape
    assert not any(value.requires_grad for value in metrics.values())
    return (weights * per_token).sum(), {name: float(value) for name, value in metrics.items()}


def leaves(seed: int = 0) -> dict[str, Tensor]:
    given = numbers(seed)
    for name in ("logprobs", "entropy"):
        given[name].requires_grad_()
    return given


def slopes(loss: Tensor, given: dict[str, Tensor]) -> list[Tensor]:
    found = torch.autograd.grad(loss, [given["logprobs"], given["entropy"]], allow_unused=True)
    return [torch.zeros(len(SEQUENCES), dtype=torch.float64) if slope is None else slope for slope in found]


def loop(algorithm: Algorithm, given: dict[str, Tensor]) -> tuple[float, dict[str, float]]:
    """Add up the loss and the metrics in plain numbers."""
    rows = {name: values.tolist() for name, values in given.items()}
    weights, sequences = weights_of(algorithm, SEQUENCES).tolist(), SEQUENCES.tolist()
    base = rows["old_logprobs"] if algorithm.old_logprobs == "learner" else rows["logprobs"]
    total, sums = 0.0, dict.fromkeys(("clipped", "entropy", "mismatch", "kl", "w", "squares", "kept"), 0.0)
    for t, sequence in enumerate(sequences):
        own = [s for s, other in enumerate(sequences) if other == sequence]
        advantage, logprob = rows["advantages"][t], rows["logprobs"][t]
        gaps = [rows["logprobs"][s] - rows["old_logprobs"][s] for s in own]
        ratio = math.exp(math.fsum(gaps) / len(own) if algorithm.loss == "gspo" else logprob - rows["old_logprobs"][t])
        bounded = min(max(ratio, 1 - algorithm.clip_low), 1 + algorithm.clip_high)
        clipped = False
        if algorithm.loss == "policy_gradient":
            loss = -advantage * logprob
        elif algorithm.loss == "cispo":
            loss, clipped = -bounded * advantage * logprob, bounded != ratio
        else:
            loss = max(-ratio * advantage, -bounded * advantage)
            clipped = -bounded * advantage > -ratio * advantage
            if algorithm.clip_dual and advantage < 0 and loss > -algorithm.clip_dual * advantage:
                loss, clipped = -algorithm.clip_dual * advantage, True
        if algorithm.correction != "none":
            weight = correction(algorithm, [base[s] - rows["engine_logprobs"][s] for s in own], own.index(t))
            loss *= weight
            sums["w"] += weight
            sums["squares"] += weight**2
            sums["kept"] += weight > 0
        gap = logprob - rows["ref_logprobs"][t]
        kl = {"k1": gap, "k2": gap**2 / 2, "k3": math.exp(-gap) - 1 + gap}[algorithm.kl_estimator]
        if algorithm.kl == "loss":
            loss += algorithm.kl_coefficient * kl
        loss -= algorithm.entropy_bonus * rows["entropy"][t]
        total += weights[t] * loss
        if CORRECT[t]:
            total += algorithm.positive_nll * -logprob / POSITIVE
        sums["clipped"] += clipped
        sums["entropy"] += rows["entropy"][t]
        sums["mismatch"] += abs(base[t] - rows["engine_logprobs"][t])
        sums["kl"] += kl
    return total, sums


def correction(algorithm: Algorithm, gaps: list[float], place: int) -> float:
    ratio, low, high = math.exp(gaps[place]), algorithm.correction_low, algorithm.correction_high
    if algorithm.correction == "token":
        return min(ratio, algorithm.correction_cap)
    if algorithm.correction == "sequence":
        return min(math.exp(math.fsum(gaps)), algorithm.correction_cap)
    if algorithm.correction == "icepop":
        return ratio if low <= ratio <= high else 0.0
    return float(low <= math.exp(math.fsum(gaps) / len(gaps)) <= high)


@pytest.mark.parametrize("options", CASES, ids=ids)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_loss_equals_a_loop(options: dict[str, Any], seed: int) -> None:
    algorithm, given = Algorithm(**options), numbers(seed)
    loss, metrics = loss_of(algorithm, given, torch.arange(len(SEQUENCES)))
    expected, sums = loop(algorithm, given)
    assert float(loss) == pytest.approx(expected, abs=1e-10)
    for name in ("clipped", "entropy", "mismatch", "kl"):
        assert metrics.pop(name) == pytest.approx(sums[name], abs=1e-10), name
    if algorithm.correction != "none":
        assert metrics.pop("correction") == pytest.approx(sums["w"], abs=1e-10)
        assert metrics.pop("correction_squares") == pytest.approx(sums["squares"], abs=1e-10)
        assert metrics.pop("correction_kept") == sums["kept"]
        assert algorithm.correction in ("token", "sequence") or 0 < sums["kept"] < len(SEQUENCES)
    assert metrics == {}


@settings(max_examples=10, deadline=None)
@given(data=st.data(), case=st.sampled_from(CASES))
def test_micro_batches_change_neither_loss_nor_gradient_nor_metrics(data: st.DataObject, case: dict) -> None:
    """Cut anywhere between tokens, or only between sequences where the loss or the correction needs whole ones."""
    algorithm = Algorithm(**case)
    whole_ones = algorithm.loss == "gspo" or algorithm.correction in ("sequence", "geometric")
    units = SEQUENCES if whole_ones else torch.arange(len(SEQUENCES))
    parts = torch.tensor(data.draw(st.lists(st.integers(0, 2), min_size=len(SEQUENCES), max_size=len(SEQUENCES))))
    given = leaves()
    whole, metrics = loss_of(algorithm, given, torch.arange(len(SEQUENCES)))
    expected = slopes(whole, given)
    total, found = torch.zeros(()).double(), [torch.zeros(len(SEQUENCES)).double() for _ in expected]
    sums = dict.fromkeys(metrics, 0.0)
    for part in range(3):
        places = torch.nonzero(parts[units] == part).flatten()
        if len(places):
            loss, own = loss_of(algorithm, given, places)
            total = total + loss.detach()
            found = [a + b for a, b in zip(found, slopes(loss, given), strict=True)]
            sums = {name: value + own[name] for name, value in sums.items()}
    torch.testing.assert_close(total, whole.detach(), rtol=1e-10, atol=1e-12)
    for slope, other in zip(found, expected, strict=True):
        torch.testing.assert_close(slope, other, rtol=1e-10, atol=1e-12)
    assert sums == pytest.approx(metrics, rel=1e-10)


def test_a_token_cut_by_icepop_still_feels_the_kl() -> None:
    # the engine thought this token twice as likely as [0.7, 1.5] allows; the correction weighs the surrogate alone
    options: dict[str, Any] = {"old_logprobs": "learner", "correction": "icepop", "correction_low": 0.7}
    now = torch.tensor([-1.0], dtype=torch.float64, requires_grad=True)
    fixed = {"entropy": torch.zeros(1), "old_logprobs": now.detach(), "engine_logprobs": now.detach() + 1.0}
    fixed |= {"advantages": torch.ones(1), "sequences": torch.zeros(1, dtype=torch.int64)}
    loss, _ = objective(Algorithm(**options), logprobs=now, **fixed)
    assert torch.autograd.grad(loss.sum(), now)[0].tolist() == [0.0]
    algorithm = Algorithm(kl="loss", kl_coefficient=0.5, kl_estimator="k2", **options)
    loss, _ = objective(algorithm, logprobs=now, ref_logprobs=now.detach() - 0.4, **fixed)
    assert torch.autograd.grad(loss.sum(), now)[0].tolist() == pytest.approx([0.5 * 0.4])


def test_the_entropy_bonus_raises_entropy() -> None:
    given = leaves()
    loss, _ = loss_of(Algorithm(entropy_bonus=0.1), given, torch.arange(len(SEQUENCES)))
    weights = weights_of(Algorithm(), SEQUENCES)
    torch.testing.assert_close(slopes(loss, given)[1], -0.1 * weights, rtol=1e-12, atol=0.0)


@pytest.mark.parametrize("per", ["token", "sequence", "constant"])
def test_the_likelihood_term_is_a_mean_over_tokens_of_right_replies_under_any_reduction(per: Any) -> None:
    given, everything = leaves(), torch.arange(len(SEQUENCES))
    without, _ = loss_of(Algorithm(loss_per=per, loss_constant=7), given, everything)
    with_it, _ = loss_of(Algorithm(loss_per=per, loss_constant=7, positive_nll=0.5), given, everything)
    expected = 0.5 * -given["logprobs"].detach()[CORRECT].mean()
    torch.testing.assert_close((with_it - without).detach(), expected, rtol=1e-9, atol=1e-12)
    difference = slopes(with_it, given)[0] - slopes(without, given)[0]
    torch.testing.assert_close(difference, -0.5 * CORRECT.double() / POSITIVE, rtol=1e-9, atol=1e-12)


def test_no_right_reply_in_a_step_is_no_likelihood_term() -> None:
    given = numbers()
    del given["ref_logprobs"]
    given["correct"], given["sequences"] = torch.zeros_like(CORRECT), SEQUENCES
    given["weights"] = weights_of(Algorithm(), SEQUENCES)
    plain, _ = objective(Algorithm(), **given)
    found, _ = objective(Algorithm(positive_nll=0.5), positive_tokens=0, **given)
    assert torch.equal(found, plain)


def test_the_correction_can_be_taken_from_a_base_of_the_callers() -> None:
    given = numbers() | {"sequences": SEQUENCES}
    base = given.pop("ref_logprobs")
    algorithm = Algorithm(loss="policy_gradient", correction="token", correction_cap=1.1)
    found, metrics = objective(algorithm, correction_base=base, **given)
    weight = torch.exp(base - given["engine_logprobs"]).clamp(max=1.1)
    torch.testing.assert_close(found, -weight * given["advantages"] * given["logprobs"], rtol=1e-12, atol=1e-12)
    assert float(metrics["mismatch"]) == pytest.approx(float((base - given["engine_logprobs"]).abs().sum()))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kl": "loss"}, 'kl "loss" needs ref_logprobs'),
        ({"positive_nll": 0.1}, "positive_nll needs correct, weights and positive_tokens"),
        ({"correction": "token"}, 'correction "token" needs old_logprobs = "learner"'),
        ({"correction": "icepop", "loss": "cispo"}, 'correction "icepop" needs old_logprobs = "learner"'),
        ({"loss": "hinge"}, "not 'hinge'"),
        ({"correction": "magic"}, "not 'magic'"),
    ],
)
def test_what_does_not_fit_is_named(options: dict[str, Any], message: str) -> None:
    given = numbers()
    del given["ref_logprobs"]
    with pytest.raises(ValueError, match=message):
        objective(Algorithm(**options), sequences=SEQUENCES, **given)
