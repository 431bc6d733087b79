"""What a step keeps, and what it divides by."""

from __future__ import annotations

from helpers import NAN, make_header

from rlvr.loop.buffer import Buffer


def test_each_group_meets_its_fate_and_is_counted() -> None:
    arrived = [
        (make_header((1.0, 0.0), version=4, lengths=[3, 4]), "trains"),
        (make_header((1.0, NAN, 0.0), version=4, lengths=[10, 20, 30]), "trains with a hole"),
        (make_header((0.5, 0.5), version=4, lengths=[100, 200]), "flat"),
        (make_header((1.0, NAN), version=4, lengths=[1000, 2000]), "ungraded"),
        (make_header((1.0, 0.0), version=3, lengths=[10000, 20000]), "stale"),
    ]
    admitted = Buffer(max_staleness=0, flat_groups_have_no_gradient=True).admit(arrived, 4)
    assert admitted.references == ("trains", "trains with a hole")
    assert admitted.counts == {"train": 2, "flat": 1, "ungraded": 1, "stale": 1, "masked": 0}
    # the flat group counts, since its tokens are part of the mean; ungraded rollouts and dropped groups do not
    assert admitted.loss_tokens == 3 + 4 + 10 + 30 + 100 + 200
    assert admitted.sequences == 2 + 2 + 2
    assert admitted.idle_tokens == 1000 + 2000 + 10000 + 20000


def test_a_flat_group_that_another_stands_in_for_does_not_count() -> None:
    arrived = [(make_header((1.0, 0.0), lengths=[3, 4]), "a"), (make_header((1.0, 1.0), lengths=[10, 20]), "b")]
    buffer = Buffer(max_staleness=0, flat_groups_have_no_gradient=True, flat_groups_count=False)
    admitted = buffer.admit(arrived, 0)
    assert (admitted.references, admitted.loss_tokens, admitted.sequences) == (("a",), 7, 2)
    assert admitted.idle_tokens == 30


def test_masked_replies_are_in_no_denominator() -> None:
    half = make_header((1.0, NAN, 0.0), lengths=[3, 4, 5], masked=[False, True, False])
    most = make_header((1.0, NAN, NAN), lengths=[10, 20, 30], masked=[False, True, True])
    for least, loss_tokens, sequences in ((2, 8, 2), (1, 18, 3)):
        buffer = Buffer(max_staleness=0, flat_groups_have_no_gradient=False, least=least)
        admitted = buffer.admit([(half, "a"), (most, "b")], 0)
        assert (admitted.loss_tokens, admitted.sequences) == (loss_tokens, sequences)
        assert admitted.counts["masked"] == least - 1


def test_denominators_are_the_same_whether_flat_groups_are_sent_or_not() -> None:
    arrived = [(make_header((1.0, 0.0)), "a"), (make_header((1.0, 1.0)), "b")]
    kept = Buffer(max_staleness=0, flat_groups_have_no_gradient=False).admit(arrived, 0)
    dropped = Buffer(max_staleness=0, flat_groups_have_no_gradient=True).admit(arrived, 0)
    assert (kept.references, dropped.references) == (("a", "b"), ("a",))
    assert (kept.loss_tokens, kept.sequences) == (dropped.loss_tokens, dropped.sequences) == (40, 4)


def test_older_groups_are_taken_where_the_recipe_allows_it() -> None:
    arrived = [(make_header(version=version), version) for version in (1, 2, 3)]
    admitted = Buffer(max_staleness=1, flat_groups_have_no_gradient=True).admit(arrived, 3)
    assert admitted.references == (2, 3)


def test_nothing_arrived() -> None:
    admitted = Buffer(max_staleness=0, flat_groups_have_no_gradient=True).admit([], 0)
    assert (admitted.references, admitted.loss_tokens, admitted.sequences) == ((), 0, 0)
    assert admitted.counts == {"train": 0, "flat": 0, "ungraded": 0, "stale": 0, "masked": 0}
