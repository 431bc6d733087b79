"""Packing: every loss token once, behind exactly the context that it was sampled in."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.core.packing import pack, visible
from rlvr.types import Batch, Sample

BUDGET = 24
shapes = st.lists(
    st.tuples(st.integers(0, 2), st.lists(st.booleans(), min_size=1, max_size=BUDGET - 6)), min_size=1, max_size=10
)


def make_samples(shape: list[tuple[int, list[bool]]]) -> list[Sample]:
    """Make samples in which no two tokens are alike, with prompts of 2, 4 and 6 tokens that several may share."""
    samples, fresh = [], 1000
    for prompt, mask in shape:
        size = len(mask)
        ids = np.arange(fresh, fresh + size, dtype=np.int32)
        fresh += size
        samples.append(
            Sample(
                group_id="g",
                prompt_ids=np.arange(100 * prompt, 100 * prompt + 2 * prompt + 2, dtype=np.int32),
                token_ids=ids,
                loss_mask=np.array(mask),
                old_logprobs=(-ids / 7).astype(np.float32),
                advantages=(ids / 3).astype(np.float32),
            )
        )
    return samples


def context_of(batch: Batch, source: int) -> list[int]:
    """Give the tokens that the output at a place has seen, in the order of their positions."""
    row, column = divmod(source, batch.token_ids.shape[1])
    seen = np.flatnonzero(visible(batch.segments)[row, 0, column])
    positions = batch.positions[row, seen]
    assert sorted(positions.tolist()) == list(range(len(seen))), "a context has each position once, from 0"
    return batch.token_ids[row, seen][np.argsort(positions)].tolist()


def learned(batches: list[Batch]) -> Counter:
    """Count what is learned: which token, behind which context, with which old log-probability and advantage."""
    return Counter(
        (tuple(context_of(batch, int(source))), int(target), float(old), float(advantage))
        for batch in batches
        for source, target, old, advantage in zip(
            batch.sources, batch.targets, batch.old_logprobs, batch.advantages, strict=True
        )
    )


def wanted(samples: list[Sample]) -> Counter:
    return Counter(
        ((*s.prompt_ids.tolist(), *s.token_ids[:k].tolist()), int(s.token_ids[k]),
         float(s.old_logprobs[k]), float(s.advantages[k]))
        for s in samples
        for k in np.flatnonzero(s.loss_mask)
    )  # fmt: skip


@given(shape=shapes)
def test_every_loss_token_is_there_once_behind_its_own_context(shape: list[tuple[int, list[bool]]]) -> None:
    samples = make_samples(shape)
    assert learned(pack(samples, max_tokens=BUDGET)) == wanted(samples)


@given(shape=shapes, data=st.data())
def test_neither_order_nor_budget_changes_what_is_learned(shape, data: st.DataObject) -> None:
    samples = make_samples(shape)
    moved = data.draw(st.permutations(samples))
    budget = data.draw(st.integers(BUDGET, 20 * BUDGET))
    assert learned(pack(moved, max_tokens=budget)) == learned(pack(samples, max_tokens=BUDGET))


@given(shape=shapes, budget=st.integers(BUDGET, 6 * BUDGET))
def test_rows_are_prompt_replies_padding_within_the_budget(shape, budget: int) -> None:
    samples = make_samples(shape)
    prompts = [s.prompt_ids.tolist() for s in samples]
    replies = Counter(tuple(s.token_ids.tolist()) for s in samples)
    for batch in pack(samples, max_tokens=budget):
        assert batch.token_ids.shape == batch.positions.shape == batch.segments.shape
        assert batch.token_ids.size <= budget
        for tokens, positions, segments in zip(batch.token_ids, batch.positions, batch.segments, strict=True):
            prompt = tokens[segments == 0]
            assert prompt.tolist() in prompts
            assert positions[segments == 0].tolist() == list(range(len(prompt)))
            for segment in range(1, segments.max() + 1):
                here = segments == segment
                assert positions[here].tolist() == list(range(len(prompt), len(prompt) + int(here.sum())))
                replies[tuple(tokens[here].tolist())] -= 1
            filled = segments >= 0
            assert not np.diff(filled.astype(int)).max(initial=0) > 0, "padding stands at the end"
            assert (np.diff(segments[filled]) >= 0).all()
    assert not any(replies.values()), "every reply lies in exactly one row"


@given(shape=shapes)
def test_a_token_names_its_sample(shape) -> None:
    samples = make_samples(shape)
    for batch in pack(samples, max_tokens=BUDGET):
        for target, sequence in zip(batch.targets, batch.sequences, strict=True):
            assert target in samples[sequence].token_ids


def test_a_group_shares_its_prompt() -> None:
    samples = make_samples([(2, [True] * 4)] * 8)
    (batch,) = pack(samples, max_tokens=6 + 8 * 4)
    assert batch.token_ids.shape == (1, 6 + 8 * 4)
    halves = pack(samples, max_tokens=6 + 4 * 4)
    assert [b.token_ids.shape for b in halves] == [(1, 6 + 4 * 4)] * 2


def test_a_reply_that_fits_no_row_is_refused_with_the_setting_to_raise() -> None:
    samples = make_samples([(2, [True] * 10)])
    assert len(pack(samples, max_tokens=16)) == 1
    with pytest.raises(ValueError, match=r"prompt of 6 .* reply of 10 .* of 15; raise hardware\.tokens_per_micro"):
        pack(samples, max_tokens=15)


@given(segments=st.lists(st.lists(st.integers(-1, 3), min_size=7, max_size=7), min_size=1, max_size=3))
def test_visible_equals_a_double_loop(segments: list[list[int]]) -> None:
    result = visible(np.array(segments))
    assert result.shape == (len(segments), 1, 7, 7)
    for row, line in enumerate(segments):
        for query in range(7):
            for key in range(7):
                mine, its = line[query], line[key]
                sees = key <= query and mine >= 0 and its >= 0 and (its == 0 or its == mine)
                assert result[row, 0, query, key] == (sees or query == key)
