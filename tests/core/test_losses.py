"""The surrogate and its reduction against float64 loops, at the bounds, and as properties."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlvr.core.losses import (
    cispo,
    clipped_surrogate,
    clipped_value_loss,
    gspo_surrogate,
    policy_gradient,
    reverse_kl,
    sequence_sums,
    token_weights,
)

LOW, HIGH = 0.2, 0.28
numbers = st.floats(-3, 3, allow_nan=False)
tokens = st.lists(st.tuples(numbers, numbers, numbers), min_size=1, max_size=20)


def evaluated(rows: list[tuple[float, float, float]], *, low: float, high: float) -> tuple[list, list, list]:
    """Give loss, clipped and the gradient by the log-probabilities."""
    logprobs, old, advantages = torch.tensor(rows, dtype=torch.float64).T
    logprobs.requires_grad_()
    loss, clipped = clipped_surrogate(logprobs, old, advantages, low=low, high=high)
    (gradient,) = torch.autograd.grad(loss.sum(), logprobs)
    return loss.tolist(), clipped.tolist(), gradient.tolist()


@given(rows=tokens)
def test_the_surrogate_equals_a_loop(rows: list[tuple[float, float, float]]) -> None:
    losses, clips, slopes = evaluated(rows, low=LOW, high=HIGH)
    for (logprob, old, advantage), loss, clipped, slope in zip(rows, losses, clips, slopes, strict=True):
        ratio = math.exp(logprob - old)
        bounded = min(max(ratio, 1 - LOW), 1 + HIGH)
        assert loss == pytest.approx(-min(ratio * advantage, bounded * advantage), abs=1e-10)
        taken = (advantage > 0 and ratio > 1 + HIGH) or (advantage < 0 and ratio < 1 - LOW)
        # where the advantage is too small to tell the two products apart, either answer is right
        if abs(advantage) > 1e-9 and min(abs(ratio - 1 - HIGH), abs(ratio - 1 + LOW)) > 1e-9:
            assert clipped == taken
            assert slope == pytest.approx(0.0 if taken else -advantage * ratio, abs=1e-10)


@given(rows=st.lists(st.tuples(numbers, numbers), min_size=1, max_size=20))
def test_at_ratio_one_it_is_the_plain_policy_gradient(rows: list[tuple[float, float]]) -> None:
    same = [(logprob, logprob, advantage) for logprob, advantage in rows]
    losses, clips, slopes = evaluated(same, low=LOW, high=HIGH)
    assert not any(clips)
    for (_, advantage), loss, slope in zip(rows, losses, slopes, strict=True):
        assert loss == -advantage
        assert slope == pytest.approx(-advantage, abs=1e-12)


@pytest.mark.parametrize("advantage", [2.0, -2.0])
@pytest.mark.parametrize("shift", [0.25, -0.25])
def test_on_a_bound_the_gradient_still_flows(advantage: float, shift: float) -> None:
    ratio = math.exp(shift)
    low, high = (LOW, ratio - 1.0) if shift > 0 else (1.0 - ratio, HIGH)  # exact: the ratio lies on its bound
    losses, clips, slopes = evaluated([(shift, 0.0, advantage)], low=low, high=high)
    assert losses == pytest.approx([-advantage * ratio], abs=1e-12)
    assert clips == [False]
    assert slopes == pytest.approx([-advantage * ratio], abs=1e-12)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "clipped"),
    [
        (1.28 + 1e-6, 1.0, -1.28, True),
        (2.00, 0.5, -0.64, True),
        (2.00, -0.5, 1.0, False),  # a bad token that became likelier: no bound holds its gradient back
        (0.80 - 1e-6, -1.0, 0.8, True),
        (0.50, -3.0, 2.4, True),
        (0.50, 3.0, -1.5, False),
        (5.00, 0.0, 0.0, False),
    ],
)
def test_past_a_bound(ratio: float, advantage: float, loss: float, clipped: bool) -> None:
    losses, clips, slopes = evaluated([(math.log(ratio), 0.0, advantage)], low=LOW, high=HIGH)
    assert losses == pytest.approx([loss], abs=1e-12)
    assert clips == [clipped]
    assert slopes == pytest.approx([0.0 if clipped else -advantage * ratio], abs=1e-12)


@given(rows=tokens)
def test_dual_clip_equals_a_loop(rows: list[tuple[float, float, float]]) -> None:
    logprobs, old, advantages = torch.tensor(rows, dtype=torch.float64).T
    logprobs.requires_grad_()
    loss, clipped = clipped_surrogate(logprobs, old, advantages, low=LOW, high=HIGH, dual=3.0)
    (slopes,) = torch.autograd.grad(loss.sum(), logprobs)
    loss = loss.detach()
    single, before = clipped_surrogate(logprobs, old, advantages, low=LOW, high=HIGH)
    for place, (logprob, old_logprob, advantage) in enumerate(rows):
        ratio = math.exp(logprob - old_logprob)
        if advantage < 0 and ratio > 3.0 + 1e-9:
            assert float(loss[place]) == pytest.approx(-3.0 * advantage, abs=1e-10)
            assert bool(clipped[place]) and float(slopes[place]) == 0.0
        elif ratio < 3.0 - 1e-9 or advantage >= 0:
            assert loss[place].item() == single[place].item()
            assert bool(clipped[place]) == bool(before[place])


def test_dual_clip_bounds_a_bad_token_alone_and_lets_the_gradient_through_on_its_bound() -> None:
    logprobs = torch.tensor([math.log(5.0), math.log(5.0), math.log(0.1)], dtype=torch.float64)
    loss, clipped = clipped_surrogate(
        logprobs, torch.zeros(3, dtype=torch.float64), torch.tensor([-2.0, 2.0, -2.0], dtype=torch.float64),
        low=LOW, high=HIGH, dual=3.0,
    )  # fmt: skip
    assert loss.tolist() == pytest.approx([6.0, -2.56, 1.6])
    assert clipped.tolist() == [True, True, True]
    shift = torch.tensor([0.5], dtype=torch.float64, requires_grad=True)
    ratio = float(torch.exp(shift.detach()))
    loss, clipped = clipped_surrogate(
        shift, torch.zeros_like(shift), torch.tensor([-2.0], dtype=torch.float64), low=LOW, high=HIGH, dual=ratio
    )
    loss.sum().backward()
    assert clipped.tolist() == [False]
    assert shift.grad is not None and shift.grad.tolist() == pytest.approx([2.0 * ratio])
    for dual in (1.0, 0.5):
        with pytest.raises(ValueError, match="dual must be above 1"):
            clipped_surrogate(shift, shift, shift, low=LOW, high=HIGH, dual=dual)


sequences_of = st.lists(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=6), min_size=1, max_size=5)


def flattened(rows: list[list[tuple[float, float]]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    pairs = torch.tensor([pair for row in rows for pair in row], dtype=torch.float64)
    return pairs[:, 0].clone(), pairs[:, 1], torch.repeat_interleave(torch.tensor([len(row) for row in rows]))


@given(rows=sequences_of, data=st.data())
def test_gspo_equals_a_loop_over_sequences(rows: list, data: st.DataObject) -> None:
    logprobs, old, sequences = flattened(rows)
    worths = data.draw(st.lists(numbers, min_size=len(rows), max_size=len(rows)))
    advantages = torch.tensor(worths, dtype=torch.float64)[sequences]
    logprobs.requires_grad_()
    loss, clipped = gspo_surrogate(logprobs, old, advantages, sequences, low=0.1, high=0.15)
    weights = 1.0 / torch.bincount(sequences)[sequences].double()
    (slopes,) = torch.autograd.grad((weights * loss).sum(), logprobs)
    loss = loss.detach()
    expected, place = 0.0, 0
    for row, worth in zip(rows, worths, strict=True):
        ratio = math.exp(math.fsum(a - b for a, b in row) / len(row))
        bounded = min(max(ratio, 0.9), 1.15)
        one = -min(ratio * worth, bounded * worth)
        expected += one
        taken = (worth > 0 and ratio > 1.15) or (worth < 0 and ratio < 0.9)
        for _ in row:
            assert float(loss[place]) == pytest.approx(one, abs=1e-10)
            if abs(worth) > 1e-9 and min(abs(ratio - 0.9), abs(ratio - 1.15)) > 1e-9:
                assert bool(clipped[place]) == taken
                # d ratio / d logprob = ratio / length, for the ratio is a geometric mean
                slope = 0.0 if taken else -worth * ratio / len(row)
                assert float(slopes[place]) == pytest.approx(slope, abs=1e-10)
            place += 1
    assert float((weights * loss).sum()) == pytest.approx(expected, abs=1e-10)


def test_gspo_does_not_mind_how_sequences_are_numbered_or_interleaved() -> None:
    generator = torch.Generator().manual_seed(3)
    logprobs, old, advantages = torch.randn(3, 12, generator=generator, dtype=torch.float64)
    sequences = torch.repeat_interleave(torch.tensor([5, 3, 4]))
    advantages = advantages[sequences]
    loss, _ = gspo_surrogate(logprobs, old, advantages, sequences, low=0.2, high=0.2)
    order = torch.randperm(12, generator=generator)
    names = torch.tensor([7, 2, 40])[sequences]
    moved, _ = gspo_surrogate(logprobs[order], old[order], advantages[order], names[order], low=0.2, high=0.2)
    torch.testing.assert_close(moved, loss[order], rtol=1e-12, atol=1e-12)


@given(rows=tokens)
def test_cispo_equals_a_loop_and_never_loses_a_gradient(rows: list[tuple[float, float, float]]) -> None:
    logprobs, old, advantages = torch.tensor(rows, dtype=torch.float64).T
    logprobs.requires_grad_()
    loss, clipped = cispo(logprobs, old, advantages, low=LOW, high=HIGH)
    (slopes,) = torch.autograd.grad(loss.sum(), logprobs)
    loss = loss.detach()
    for place, (logprob, old_logprob, advantage) in enumerate(rows):
        ratio = math.exp(logprob - old_logprob)
        weight = min(max(ratio, 1 - LOW), 1 + HIGH)
        assert float(loss[place]) == pytest.approx(-weight * advantage * logprob, abs=1e-10)
        assert float(slopes[place]) == pytest.approx(-weight * advantage, abs=1e-10)
        if min(abs(ratio - 1 - HIGH), abs(ratio - 1 + LOW)) > 1e-9:
            assert bool(clipped[place]) == (weight != ratio)


def test_all_losses_have_one_gradient_where_the_policy_is_the_old_one() -> None:
    generator = torch.Generator().manual_seed(5)
    old = torch.randn(12, generator=generator, dtype=torch.float64)
    sequences = torch.repeat_interleave(torch.tensor([5, 3, 4]))
    advantages = torch.randn(3, generator=generator, dtype=torch.float64)[sequences]
    weights = 1.0 / torch.bincount(sequences)[sequences].double()
    slopes = []
    for function in (
        lambda now: clipped_surrogate(now, old, advantages, low=LOW, high=HIGH, dual=3.0)[0],
        lambda now: gspo_surrogate(now, old, advantages, sequences, low=LOW, high=HIGH)[0],
        lambda now: cispo(now, old, advantages, low=LOW, high=HIGH)[0],
        lambda now: policy_gradient(now, advantages),
    ):
        logprobs = old.clone().requires_grad_()
        slopes.append(torch.autograd.grad((weights * function(logprobs)).sum(), logprobs)[0])
    for slope in slopes:
        torch.testing.assert_close(slope, -weights * advantages, rtol=1e-12, atol=1e-12)


@given(rows=st.lists(st.tuples(numbers, numbers), min_size=1, max_size=20))
def test_kl_estimates_equal_a_loop(rows: list[tuple[float, float]]) -> None:
    logprobs, reference = torch.tensor(rows, dtype=torch.float64).T
    formulas = {
        "k1": lambda r: r,
        "k2": lambda r: r * r / 2,
        "k3": lambda r: math.exp(-r) - 1 + r,
    }
    for name, formula in formulas.items():
        found = reverse_kl(logprobs, reference, estimator=name)
        assert found.tolist() == pytest.approx([formula(a - b) for a, b in rows], abs=1e-10, rel=1e-10)
    assert bool((reverse_kl(logprobs, reference, estimator="k3") >= 0).all())
    assert bool((reverse_kl(logprobs, reference, estimator="k2") >= 0).all())


@given(gap=st.floats(-1e-3, 1e-3))
def test_k3_stays_above_zero_where_the_policies_nearly_agree(gap: float) -> None:
    logprobs = torch.tensor([-1.0], dtype=torch.float32)
    assert float(reverse_kl(logprobs, logprobs - gap, estimator="k3")) >= -1e-10


def test_means_and_gradients_of_the_kl_estimates_over_a_whole_vocabulary() -> None:
    generator = torch.Generator().manual_seed(1)
    logits, other = torch.randn(2, 7, generator=generator, dtype=torch.float64)
    reference = other.log_softmax(-1)
    logits.requires_grad_()
    now = logits.log_softmax(-1)
    kl = (now.exp() * (now - reference)).sum()
    backwards = (reference.exp() * (reference - now)).sum()
    drawn = now.detach().exp()  # sampling from the policy: an expectation, without gradient
    means = {name: (drawn * reverse_kl(now, reference, estimator=name)).sum() for name in ("k1", "k2", "k3")}
    for name in ("k1", "k3"):
        torch.testing.assert_close(means[name], kl, rtol=1e-12, atol=1e-12)
    slopes = {name: torch.autograd.grad(mean, logits, retain_graph=True)[0] for name, mean in means.items()}
    (right,) = torch.autograd.grad(kl, logits, retain_graph=True)
    (other_way,) = torch.autograd.grad(backwards, logits, retain_graph=True)
    torch.testing.assert_close(slopes["k1"], torch.zeros_like(right), rtol=0.0, atol=1e-12)
    torch.testing.assert_close(slopes["k2"], right, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(slopes["k3"], other_way, rtol=1e-10, atol=1e-12)
    assert float((right - other_way).abs().max()) > 0.01


def test_an_unknown_estimator_is_refused() -> None:
    with pytest.raises(ValueError, match='"k1", "k2" or "k3", not \'k4\''):
        reverse_kl(torch.zeros(1), torch.zeros(1), estimator="k4")


@given(rows=tokens, clip=st.sampled_from([None, 0.2, 1.0]))
def test_the_value_loss_equals_a_loop(rows: list[tuple[float, float, float]], clip: float | None) -> None:
    values, old, returns = torch.tensor(rows, dtype=torch.float64).T
    values.requires_grad_()
    loss, clipped = clipped_value_loss(values, old, returns, clip=clip)
    (slopes,) = torch.autograd.grad(loss.sum(), values)
    loss = loss.detach()
    for place, (value, before, target) in enumerate(rows):
        free = (value - target) ** 2
        near = value if clip is None else before + min(max(value - before, -clip), clip)
        assert float(loss[place]) == pytest.approx(0.5 * max(free, (near - target) ** 2), abs=1e-10)
        if abs((near - target) ** 2 - free) > 1e-9:
            assert bool(clipped[place]) == ((near - target) ** 2 > free)
            assert float(slopes[place]) == pytest.approx(0.0 if clipped[place] else value - target, abs=1e-10)
        elif clip is None or abs(value - before) < clip - 1e-9:
            assert not bool(clipped[place])
            assert float(slopes[place]) == pytest.approx(value - target, abs=1e-10)


def test_gradients_agree_with_differences() -> None:
    generator = torch.Generator().manual_seed(2)
    now, old, advantages = torch.randn(3, 9, generator=generator, dtype=torch.float64)
    sequences = torch.repeat_interleave(torch.tensor([4, 3, 2]))
    now.requires_grad_()
    for function in (
        lambda x: clipped_surrogate(x, old, advantages, low=LOW, high=HIGH, dual=2.0)[0],
        lambda x: policy_gradient(x, advantages),
        lambda x: reverse_kl(x, old, estimator="k2"),
        lambda x: reverse_kl(x, old, estimator="k3"),
        lambda x: clipped_value_loss(x, old, advantages, clip=0.3)[0],
    ):
        assert torch.autograd.gradcheck(function, (now,))
    sums = lambda x: sequence_sums(x, sequences)[0]  # noqa: E731
    assert torch.autograd.gradcheck(sums, (now,))


def test_sums_and_counts_of_sequences() -> None:
    sums, counts = sequence_sums(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([3, 0, 3]))
    assert sums.tolist() == [2.0, 0.0, 0.0, 5.0]
    assert counts.tolist() == [1.0, 0.0, 0.0, 2.0]
    assert sequence_sums(torch.zeros(0), torch.zeros(0, dtype=torch.int64))[0].shape == (0,)


lengths_of = st.lists(st.integers(1, 9), min_size=1, max_size=8)


def weigh(sequences: torch.Tensor, lengths: list[int], *, per: str, left_out: int = 0) -> torch.Tensor:
    return token_weights(
        sequences, per=per, num_loss_tokens=sum(lengths) + 5 * left_out, num_sequences=len(lengths) + left_out,
        lengths=torch.tensor(lengths), constant=12,
    )  # fmt: skip


@given(lengths=lengths_of, per=st.sampled_from(["token", "sequence", "constant"]), left_out=st.integers(0, 3))
def test_weights_equal_a_loop(lengths: list[int], per: str, left_out: int) -> None:
    sequences = [index for index, length in enumerate(lengths) for _ in range(length)]
    all_tokens, all_sequences = len(sequences) + 5 * left_out, len(lengths) + left_out
    one = {
        "token": lambda index: 1 / all_tokens,
        "sequence": lambda index: 1 / all_sequences / lengths[index],
        "constant": lambda index: 1 / (all_sequences * 12),
    }[per]
    result = weigh(torch.tensor(sequences), lengths, per=per, left_out=left_out)
    assert result.tolist() == pytest.approx([one(index) for index in sequences], rel=1e-6)


@given(lengths=lengths_of)
def test_what_the_weights_of_a_whole_step_sum_to(lengths: list[int]) -> None:
    sequences = torch.repeat_interleave(torch.tensor(lengths))
    assert float(weigh(sequences, lengths, per="token").sum()) == pytest.approx(1.0, rel=1e-5)
    by_sequence = weigh(sequences, lengths, per="sequence")
    for index in range(len(lengths)):
        assert float(by_sequence[sequences == index].sum()) == pytest.approx(1 / len(lengths), rel=1e-5)
    mean_length = sum(lengths) / len(lengths)
    assert float(weigh(sequences, lengths, per="constant").sum()) == pytest.approx(mean_length / 12, rel=1e-5)


@given(lengths=lengths_of, per=st.sampled_from(["token", "sequence", "constant"]), data=st.data())
def test_a_token_weighs_the_same_in_any_micro_batch(lengths: list[int], per: str, data: st.DataObject) -> None:
    sequences = torch.repeat_interleave(torch.tensor(lengths))
    cut = data.draw(st.integers(0, len(sequences)))
    parts = [weigh(part, lengths, per=per) for part in (sequences[:cut], sequences[cut:])]
    assert torch.equal(torch.cat(parts), weigh(sequences, lengths, per=per))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"per": "sequence"}, "needs lengths"),
        ({"per": "constant"}, "positive constant"),
        ({"per": "constant", "constant": 0}, "positive constant"),
        ({"per": "mean"}, "not 'mean'"),
    ],
)
def test_a_reduction_without_its_denominator_is_refused(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        token_weights(torch.tensor([0, 0]), num_loss_tokens=2, num_sequences=1, **options)


@pytest.mark.parametrize(("advantage", "dual"), [(1.0, None), (0.0, None), (1.0, 3.0), (-1.0, 3.0)])
def test_a_clipped_ratio_that_overflows_has_gradient_0(advantage: float, dual: float | None) -> None:
    logprobs = torch.tensor([-1.0, -1.0], requires_grad=True)
    old, advantages = torch.tensor([-500.0, -1.0]), torch.tensor([advantage, 1.0])
    loss, clipped = clipped_surrogate(logprobs, old, advantages, low=0.2, high=0.3, dual=dual)
    (slope,) = torch.autograd.grad(loss.sum(), logprobs)
    assert slope.tolist() == [0.0, -1.0]
    assert float(loss[0].detach()) == pytest.approx(-1.3 * advantage if advantage >= 0 else 3.0)
    assert clipped.tolist() == [advantage != 0.0, False]


def test_a_bad_token_whose_ratio_overflows_unclipped_is_not_hidden() -> None:
    loss, _ = clipped_surrogate(torch.tensor([-1.0]), torch.tensor([-500.0]), torch.tensor([-1.0]), low=0.2, high=0.3)
    assert loss.tolist() == [float("inf")]
