"""The surrogate and its reduction against float64 loops, at the bounds, and as properties."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlvr.core.losses import clipped_surrogate, token_weights

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
