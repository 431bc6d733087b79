"""Advantages against float64 loops, values worked out by hand, and properties."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlvr.core.advantages import group_advantages, leave_one_out_advantages

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


def test_callers_mistakes_are_named() -> None:
    for function in (leave_one_out_advantages, lambda v, g: group_advantages(v, g, scale="none")):
        with pytest.raises(ValueError, match=r"must both be \[G\], not \(2,\) and \(3,\)"):
            function(torch.ones(2), torch.ones(3, dtype=torch.bool))
        with pytest.raises(ValueError, match="not finite"):
            function(torch.tensor([1.0, math.nan]), torch.tensor([True, True]))
