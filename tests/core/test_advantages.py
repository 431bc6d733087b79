"""Advantages against float64 loops, values worked out by hand, and properties."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlvr.core.advantages import (
    batch_advantages,
    gae,
    group_advantages,
    leave_one_out_advantages,
    length_adaptive_decay,
)

# eighths are exact in floating point, so that equal means equal
eighths = st.integers(-80, 80).map(lambda n: n / 8)
groups = st.lists(st.tuples(eighths, st.booleans()), min_size=1, max_size=12)
kinds = st.sampled_from([("none", 1, 1e-6), ("std", 1, 1e-4), ("std", 0, 1e-6), ("std", 1, 1e-9)])


def tensors(rows: list[tuple[float, bool]]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor([v for v, _ in rows], dtype=torch.float64), torch.tensor([g for _, g in rows])


def loop(rows: list[tuple[float, bool]], *, scale: str, ddof: int, eps: float) -> list[float]:
    known = [value for value, graded in rows if graded]
    if len(set(known)) < 2:
        return [0.0] * len(rows)
    mean = math.fsum(known) / len(known)
    divisor = 1.0
    if scale == "std":
        divisor = math.sqrt(math.fsum((value - mean) ** 2 for value in known) / (len(known) - ddof)) + eps
    return [(value - mean) / divisor if graded else 0.0 for value, graded in rows]


@given(rows=groups, kind=kinds)
def test_group_advantages_equal_a_loop(rows: list[tuple[float, bool]], kind: tuple[str, int, float]) -> None:
    scale, ddof, eps = kind
    result = group_advantages(*tensors(rows), scale=scale, ddof=ddof, eps=eps)
    assert result.tolist() == pytest.approx(loop(rows, scale=scale, ddof=ddof, eps=eps), abs=1e-10, rel=1e-10)


@given(rows=groups, kind=kinds)
def test_they_sum_to_zero_over_the_graded_and_are_zero_elsewhere(rows, kind) -> None:
    scale, ddof, eps = kind
    result = group_advantages(*tensors(rows), scale=scale, ddof=ddof, eps=eps)
    assert float(result.sum()) == pytest.approx(0.0, abs=1e-9)
    assert all(advantage == 0.0 for advantage, (_, graded) in zip(result.tolist(), rows, strict=True) if not graded)


@given(rows=groups, kind=kinds, shift=eighths)
def test_a_shift_of_all_values_changes_nothing(rows, kind, shift: float) -> None:
    scale, ddof, eps = kind
    values, graded = tensors(rows)
    before = group_advantages(values, graded, scale=scale, ddof=ddof, eps=eps)
    after = group_advantages(values + shift, graded, scale=scale, ddof=ddof, eps=eps)
    torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-9)


@given(rows=groups, kind=kinds, data=st.data())
def test_an_order_of_rollouts_is_only_an_order(rows, kind, data: st.DataObject) -> None:
    scale, ddof, eps = kind
    order = torch.tensor(data.draw(st.permutations(range(len(rows)))))
    values, graded = tensors(rows)
    moved = group_advantages(values[order], graded[order], scale=scale, ddof=ddof, eps=eps)
    stayed = group_advantages(values, graded, scale=scale, ddof=ddof, eps=eps)
    torch.testing.assert_close(moved, stayed[order], rtol=1e-10, atol=1e-10)


@given(rows=groups, kind=kinds, junk=st.sampled_from([math.nan, math.inf, -7.0]))
def test_what_stands_in_an_ungraded_place_is_never_read(rows, kind, junk: float) -> None:
    scale, ddof, eps = kind
    spoilt = [(value if graded else junk, graded) for value, graded in rows]
    before = group_advantages(*tensors(rows), scale=scale, ddof=ddof, eps=eps)
    assert torch.equal(group_advantages(*tensors(spoilt), scale=scale, ddof=ddof, eps=eps), before)


@pytest.mark.parametrize(
    ("scale", "ddof", "eps", "expected"),
    [
        ("none", 1, 1e-6, [0.75, -0.25, -0.25, -0.25]),
        # mean 1/4; squares sum to 3/4; 3/4 / 3 = 1/4, whose root is 1/2. This is what TRL computes.
        ("std", 1, 1e-4, [0.75 / 0.5001, -0.25 / 0.5001, -0.25 / 0.5001, -0.25 / 0.5001]),
        # 3/4 / 4 = 3/16, whose root is sqrt(3) / 4: three quarters by that is sqrt(3)
        ("std", 0, 1e-12, [math.sqrt(3), -1 / math.sqrt(3), -1 / math.sqrt(3), -1 / math.sqrt(3)]),
    ],
)
def test_one_right_answer_of_four(scale: str, ddof: int, eps: float, expected: list[float]) -> None:
    values = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    result = group_advantages(values, torch.ones(4, dtype=torch.bool), scale=scale, ddof=ddof, eps=eps)
    assert result.tolist() == pytest.approx(expected, abs=1e-10)


def test_a_payoff_of_plus_and_minus_one_as_trl_scales_it() -> None:
    # mean 0, squares sum to 4, and 4 / 3 has the root 2 / sqrt(3)
    values = torch.tensor([1.0, -1.0, -1.0, 1.0], dtype=torch.float64)
    result = group_advantages(values, torch.ones(4, dtype=torch.bool), scale="std", ddof=1, eps=1e-4)
    expected = 1 / (2 / math.sqrt(3) + 1e-4)
    assert result.tolist() == pytest.approx([expected, -expected, -expected, expected], abs=1e-10)


def test_ddof_alone_moves_a_group_of_eight_by_seven_percent() -> None:
    values, graded = torch.arange(8.0, dtype=torch.float64), torch.ones(8, dtype=torch.bool)
    by_seven = group_advantages(values, graded, scale="std", ddof=1, eps=1e-12)
    by_eight = group_advantages(values, graded, scale="std", ddof=0, eps=1e-12)
    torch.testing.assert_close(by_seven / by_eight, torch.full((8,), math.sqrt(7 / 8), dtype=torch.float64))


def test_equal_values_are_exactly_zero_even_where_the_mean_rounds() -> None:
    values, graded = torch.full((7,), 0.1, dtype=torch.float32), torch.ones(7, dtype=torch.bool)
    for scale in ("none", "std"):
        assert group_advantages(values, graded, scale=scale, eps=1e-9).tolist() == [0.0] * 7
    assert group_advantages(torch.ones(3), torch.zeros(3, dtype=torch.bool), scale="none").tolist() == [0.0] * 3
    assert leave_one_out_advantages(values, graded).tolist() == [0.0] * 7
    one = torch.tensor([True, False])
    assert group_advantages(torch.tensor([1.0, 5.0]), one, scale="std").tolist() == [0.0, 0.0]


@given(rows=groups)
def test_leave_one_out_equals_a_double_loop(rows: list[tuple[float, bool]]) -> None:
    expected = []
    for i, (value, graded) in enumerate(rows):
        others = [v for j, (v, known) in enumerate(rows) if known and j != i]
        expected.append(value - math.fsum(others) / len(others) if graded and others else 0.0)
    result = leave_one_out_advantages(*tensors(rows))
    assert result.tolist() == pytest.approx(expected, abs=1e-10)
    assert float(result.sum()) == pytest.approx(0.0, abs=1e-9)


rates = st.sampled_from([0.0, 0.3, 0.95, 1.0])
replies = st.lists(st.tuples(eighths, eighths), min_size=1, max_size=12)


def estimated(rows: list[tuple[float, float]], after: float, *, discount: float, decay: float) -> tuple[list, list]:
    rewards, values = torch.tensor(rows, dtype=torch.float64).T
    advantages, returns = gae(rewards, torch.cat([values, values.new_tensor([after])]), discount=discount, decay=decay)
    return advantages.tolist(), returns.tolist()


@given(rows=replies, after=eighths, discount=rates, decay=rates)
def test_gae_equals_the_double_sum_of_its_definition(rows, after: float, discount: float, decay: float) -> None:
    values = [value for _, value in rows] + [after]
    errors = [reward + discount * values[t + 1] - values[t] for t, (reward, _) in enumerate(rows)]
    expected = [
        math.fsum((discount * decay) ** (later - t) * errors[later] for later in range(t, len(rows)))
        for t in range(len(rows))
    ]
    advantages, returns = estimated(rows, after, discount=discount, decay=decay)
    assert advantages == pytest.approx(expected, abs=1e-10, rel=1e-10)
    assert returns == pytest.approx([a + v for a, v in zip(expected, values, strict=False)], abs=1e-10, rel=1e-10)


@given(rows=replies, after=eighths, discount=rates)
def test_gae_at_its_limits(rows, after: float, discount: float) -> None:
    values = [value for _, value in rows] + [after]
    short, _ = estimated(rows, after, discount=discount, decay=0.0)
    assert short == pytest.approx(
        [r + discount * values[t + 1] - values[t] for t, (r, _) in enumerate(rows)], abs=1e-12
    )
    _, long = estimated(rows, after, discount=discount, decay=1.0)
    to_go = after
    for t in reversed(range(len(rows))):
        to_go = rows[t][0] + discount * to_go  # with decay 1 the critic's words cancel, all but the last
        assert long[t] == pytest.approx(to_go, abs=1e-9)


@given(rows=replies, discount=rates, decay=rates, factor=st.sampled_from([2.0, -3.0]))
def test_gae_scales_with_rewards_and_values(rows, discount: float, decay: float, factor: float) -> None:
    once, _ = estimated(rows, 0.0, discount=discount, decay=decay)
    scaled, _ = estimated([(factor * r, factor * v) for r, v in rows], 0.0, discount=discount, decay=decay)
    assert scaled == pytest.approx([factor * a for a in once], abs=1e-9)


def test_a_perfect_critic_leaves_no_advantage() -> None:
    # rewards to go of 1, 2, 4 at discount 0.5: 4 last, 2 + 2 = 4, 1 + 2 = 3
    advantages, returns = gae(
        torch.tensor([1.0, 2.0, 4.0]), torch.tensor([3.0, 4.0, 4.0, 0.0]), discount=0.5, decay=0.7
    )
    assert advantages.tolist() == [0.0, 0.0, 0.0]
    assert returns.tolist() == [3.0, 4.0, 4.0]
    assert advantages.dtype == torch.float32


def test_an_empty_reply_has_no_advantages_and_shapes_are_checked() -> None:
    advantages, returns = gae(torch.zeros(0), torch.zeros(1), discount=1.0, decay=1.0)
    assert advantages.shape == returns.shape == (0,)
    with pytest.raises(ValueError, match=r"rewards must be \[T\] and values \[T\+1\], not \(3,\) and \(3,\)"):
        gae(torch.zeros(3), torch.zeros(3), discount=1.0, decay=1.0)


def test_the_length_adaptive_decay() -> None:
    assert length_adaptive_decay(200, factor=0.05) == pytest.approx(0.9)
    assert length_adaptive_decay(1000, factor=0.05) == pytest.approx(0.98)
    assert length_adaptive_decay(20, factor=0.05) == length_adaptive_decay(3, factor=0.05) == 0.0
    # what it is made for: the decays of a far reward sum to factor * length
    decay = length_adaptive_decay(400, factor=0.05)
    assert sum(decay**n for n in range(100_000)) == pytest.approx(0.05 * 400)
    for length, factor in ((0, 0.05), (5, 0.0)):
        with pytest.raises(ValueError, match="at least 1 and factor above 0"):
            length_adaptive_decay(length, factor=factor)


tokens = st.lists(eighths, min_size=1, max_size=20)


@given(values=tokens, ddof=st.sampled_from([0, 1]), eps=st.sampled_from([1e-8, 1e-2]))
def test_batch_advantages_equal_a_loop(values: list[float], ddof: int, eps: float) -> None:
    expected = [0.0] * len(values)
    if len(set(values)) > 1:
        mean = math.fsum(values) / len(values)
        deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - ddof))
        expected = [(value - mean) / (deviation + eps) for value in values]
    result = batch_advantages(torch.tensor(values, dtype=torch.float64), ddof=ddof, eps=eps)
    assert result.tolist() == pytest.approx(expected, abs=1e-10, rel=1e-10)


@given(values=tokens, shift=eighths, factor=st.sampled_from([0.5, 3.0]), data=st.data())
def test_batch_advantages_know_neither_shift_nor_scale_nor_order(values, shift, factor, data: st.DataObject) -> None:
    tensor = torch.tensor(values, dtype=torch.float64)
    before = batch_advantages(tensor, eps=0.0)
    assert float(before.sum()) == pytest.approx(0.0, abs=1e-9)
    if len(set(values)) > 1:
        assert float(before.std()) == pytest.approx(1.0, rel=1e-9)
    torch.testing.assert_close(batch_advantages(factor * tensor + shift, eps=0.0), before, rtol=1e-9, atol=1e-9)
    order = torch.tensor(data.draw(st.permutations(range(len(values)))))
    torch.testing.assert_close(batch_advantages(tensor[order], eps=0.0), before[order], rtol=1e-10, atol=1e-10)


def test_batch_advantages_of_equal_tokens_are_exactly_zero() -> None:
    assert batch_advantages(torch.full((7,), 0.1), eps=1e-9).tolist() == [0.0] * 7
    assert batch_advantages(torch.tensor([3.0]), eps=1e-9).tolist() == [0.0]
    assert batch_advantages(torch.zeros(0), eps=1e-9).shape == (0,)
    with pytest.raises(ValueError, match="finite"):
        batch_advantages(torch.tensor([1.0, math.inf]), eps=1e-9)


def test_callers_mistakes_are_named() -> None:
    for function in (leave_one_out_advantages, lambda v, g: group_advantages(v, g, scale="none")):
        with pytest.raises(ValueError, match=r"must both be \[G\], not \(2,\) and \(3,\)"):
            function(torch.ones(2), torch.ones(3, dtype=torch.bool))
        with pytest.raises(ValueError, match="not finite"):
            function(torch.tensor([1.0, math.nan]), torch.tensor([True, True]))
