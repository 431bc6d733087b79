"""Correction weights against loops, at their bounds, and as properties."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlvr.core.correction import (
    effective_sample_size,
    geometric_mask,
    icepop_mask,
    mismatch_weights,
    sequence_mismatch_weights,
)

CAP, LOW, HIGH = 1.5, 0.7, 1.4
numbers = st.floats(-1.5, 1.5, allow_nan=False)
sequences_of = st.lists(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=6), min_size=1, max_size=5)


def flattened(rows: list[list[tuple[float, float]]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    pairs = torch.tensor([pair for row in rows for pair in row], dtype=torch.float64)
    return pairs[:, 0].clone(), pairs[:, 1], torch.repeat_interleave(torch.tensor([len(row) for row in rows]))


def every(learner: torch.Tensor, engine: torch.Tensor, sequences: torch.Tensor) -> dict[str, torch.Tensor]:
    return {
        "token": mismatch_weights(learner, engine, cap=CAP),
        "sequence": sequence_mismatch_weights(learner, engine, sequences, cap=CAP),
        "icepop": icepop_mask(learner, engine, low=LOW, high=HIGH),
        "geometric": geometric_mask(learner, engine, sequences, low=LOW, high=HIGH),
    }


@given(rows=sequences_of)
def test_weights_equal_a_loop(rows: list[list[tuple[float, float]]]) -> None:
    learner, engine, sequences = flattened(rows)
    found = every(learner, engine, sequences)
    place = 0
    for row in rows:
        product = math.prod(math.exp(a - b) for a, b in row)
        mean = product ** (1 / len(row))
        for a, b in row:
            ratio = math.exp(a - b)
            assert float(found["token"][place]) == pytest.approx(min(ratio, CAP), abs=1e-10)
            assert float(found["sequence"][place]) == pytest.approx(min(product, CAP), abs=1e-10)
            if min(abs(ratio - LOW), abs(ratio - HIGH)) > 1e-9:
                kept = ratio if LOW <= ratio <= HIGH else 0.0
                assert float(found["icepop"][place]) == pytest.approx(kept, abs=1e-10)
            if min(abs(mean - LOW), abs(mean - HIGH)) > 1e-9:
                assert float(found["geometric"][place]) == float(LOW <= mean <= HIGH)
            place += 1


@given(rows=sequences_of)
def test_none_carries_a_gradient_and_agreement_weighs_one(rows: list[list[tuple[float, float]]]) -> None:
    learner, engine, sequences = flattened(rows)
    learner.requires_grad_()
    for name, weights in every(learner, engine, sequences).items():
        assert not weights.requires_grad, name
        assert bool((weights >= 0).all()), name
    for name, weights in every(engine, engine, sequences).items():
        assert weights.tolist() == [1.0] * len(engine), name


def test_bounds_belong_to_what_is_kept() -> None:
    engine = torch.zeros(3, dtype=torch.float64)
    learner = torch.tensor([math.log(0.5), 0.0, math.log(2.0)], dtype=torch.float64)
    low, high = float(learner[0].exp()), float(learner[2].exp())
    assert icepop_mask(learner, engine, low=low, high=high).tolist() == [low, 1.0, high]
    assert icepop_mask(learner, engine, low=low + 1e-9, high=high - 1e-9).tolist() == [0.0, 1.0, 0.0]
    alone = torch.arange(3)
    assert geometric_mask(learner, engine, alone, low=low, high=high).tolist() == [1.0, 1.0, 1.0]
    assert geometric_mask(learner, engine, alone, low=low + 1e-9, high=high - 1e-9).tolist() == [0.0, 1.0, 0.0]


def test_a_product_that_fits_no_float_is_still_capped() -> None:
    learner, engine = torch.full((300,), 1.0), torch.zeros(300)
    sequences = torch.repeat_interleave(torch.tensor([200, 100]))
    assert sequence_mismatch_weights(learner, engine, sequences, cap=2.0).tolist() == [2.0] * 300
    assert sequence_mismatch_weights(-learner, engine, sequences, cap=2.0).max() < 1e-30
    assert mismatch_weights(200.0 * learner, engine, cap=2.0).tolist() == [2.0] * 300


def test_one_token_far_off_masks_a_short_sequence_and_not_a_long_one() -> None:
    learner, engine = torch.zeros(22), torch.zeros(22)
    learner[[0, 2]] = 2.0  # of two tokens and of twenty
    sequences = torch.repeat_interleave(torch.tensor([2, 20]))
    assert geometric_mask(learner, engine, sequences, low=0.5, high=2.0).tolist() == [0.0] * 2 + [1.0] * 20
    found = sequence_mismatch_weights(learner, engine, sequences, cap=100.0)
    assert found.tolist() == pytest.approx([math.exp(2.0)] * 22), "the product does not forget length"


@given(weights=st.lists(st.floats(0.0, 5.0), min_size=1, max_size=20), factor=st.sampled_from([0.5, 4.0]))
def test_the_effective_sample_size(weights: list[float], factor: float) -> None:
    tensor = torch.tensor(weights, dtype=torch.float64)
    squares = math.fsum(w * w for w in weights)
    expected = math.fsum(weights) ** 2 / (len(weights) * squares) if squares else 0.0
    found = effective_sample_size(tensor)
    assert found == pytest.approx(expected, rel=1e-10)
    assert 0.0 <= found <= 1.0 + 1e-12
    assert effective_sample_size(factor * tensor) == pytest.approx(found, rel=1e-9)


def test_the_effective_sample_size_at_its_limits() -> None:
    assert effective_sample_size(torch.full((8,), 0.3)) == pytest.approx(1.0)
    assert effective_sample_size(torch.tensor([0.0, 0.0, 2.0, 0.0])) == pytest.approx(0.25)
    assert effective_sample_size(torch.zeros(4)) == 0.0
    assert effective_sample_size(torch.zeros(0)) == 0.0


@pytest.mark.parametrize("cap", [0.0, -1.0])
def test_a_cap_must_be_positive(cap: float) -> None:
    calls: list[Any] = [
        lambda: mismatch_weights(torch.zeros(1), torch.zeros(1), cap=cap),
        lambda: sequence_mismatch_weights(torch.zeros(1), torch.zeros(1), torch.zeros(1, dtype=torch.int64), cap=cap),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="cap must be positive"):
            call()
