"""Which groups may train, case by case."""

from __future__ import annotations

from dataclasses import replace

import pytest
from helpers import NAN, make_header

from rlvr.core.staleness import Admission, admit, is_flat


@pytest.mark.parametrize(
    ("values", "version", "learner", "max_staleness", "fate"),
    [
        ((1.0, 0.0), 3, 3, 0, Admission.TRAIN),
        ((1.0, 0.0), 2, 3, 0, Admission.STALE),
        ((1.0, 0.0), 2, 3, 1, Admission.TRAIN),
        ((1.0, 0.0), 1, 3, 1, Admission.STALE),
        ((1.0, NAN), 3, 3, 0, Admission.UNGRADED),
        ((NAN, NAN), 3, 3, 0, Admission.UNGRADED),
        ((1.0, NAN, 0.0), 3, 3, 0, Admission.TRAIN),
        ((0.5, 0.5, 0.5), 3, 3, 0, Admission.FLAT),
        ((0.5, NAN, 0.5), 3, 3, 0, Admission.FLAT),
        ((0.5, 0.5), 2, 3, 0, Admission.STALE),
        ((1.0, NAN), 2, 3, 0, Admission.STALE),
    ],
)
def test_fate_of_a_group(values, version: int, learner: int, max_staleness: int, fate: Admission) -> None:
    header = make_header(values, version=version)
    found = admit(header, learner, max_staleness=max_staleness, flat_groups_have_no_gradient=True)
    assert found is fate


def test_the_oldest_token_of_a_group_decides() -> None:
    header = replace(make_header((1.0, 0.0)), min_version=2, max_version=3)
    assert admit(header, 3, max_staleness=0, flat_groups_have_no_gradient=True) is Admission.STALE
    assert admit(header, 3, max_staleness=1, flat_groups_have_no_gradient=True) is Admission.TRAIN


def test_a_flat_group_trains_where_the_algorithm_learns_from_it() -> None:
    header = make_header((0.5, 0.5))
    assert admit(header, 0, max_staleness=0, flat_groups_have_no_gradient=False) is Admission.TRAIN


def test_flat_means_equal_among_the_graded() -> None:
    assert is_flat(make_header((1.0, NAN, 1.0)))
    assert is_flat(make_header((1.0, NAN)))
    assert not is_flat(make_header((1.0, NAN, 0.0)))
    assert not is_flat(make_header((NAN, NAN)))


@pytest.mark.parametrize(
    ("values", "masked", "least", "fate"),
    [
        ((1.0, 0.0, NAN), (False, False, True), 2, Admission.TRAIN),
        ((1.0, NAN, NAN), (False, True, True), 2, Admission.MASKED),
        ((1.0, NAN, NAN), (False, True, True), 1, Admission.FLAT),
        ((NAN, NAN, NAN), (True, True, True), 1, Admission.MASKED),
        ((NAN, NAN, NAN), (False, False, True), 2, Admission.UNGRADED),
        ((1.0, 1.0, NAN), (False, False, True), 2, Admission.FLAT),
        ((1.0, NAN), (False, False), 1, Admission.FLAT),
        ((NAN, NAN), (False, False), 1, Admission.UNGRADED),
    ],
)
def test_what_the_budget_cut_and_the_recipe_masks_is_no_failure_to_grade(
    values: tuple[float, ...], masked: tuple[bool, ...], least: int, fate: Admission
) -> None:
    header = make_header(values, masked=masked)
    assert admit(header, 0, max_staleness=0, flat_groups_have_no_gradient=True, least=least) is fate
