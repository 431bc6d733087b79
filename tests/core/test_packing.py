"""Packing: every loss token once, behind exactly the context that it was sampled in, and nothing computed twice."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlvr.core.packing import collect, layout, pack
from rlvr.types import Batch, Sample

BUDGET = 24
# few kinds of tokens, so that prompts and replies begin alike more often than not
words = st.integers(0, 2)
replies = st.lists(st.tuples(words, st.booleans()), min_size=0, max_size=BUDGET - 6)
shapes = st.lists(st.tuples(st.lists(words, min_size=1, max_size=6), replies), min_size=1, max_size=10)
Shape = list[tuple[list[int], list[tuple[int, bool]]]]


def make_sample(prompt: list[int], reply: list[tuple[int, bool]], *, mark: int = 0) -> Sample:
    """Make a sample whose advantages tell each of its tokens from all others."""
    ids = np.array([token for token, _ in reply], dtype=np.int32)
    marks = (100 * mark + np.arange(len(ids))).astype(np.float32)
    return Sample(
        group_id="g", prompt_ids=np.array(prompt, dtype=np.int32), token_ids=ids,
        loss_mask=np.array([keep for _, keep in reply], dtype=bool),
        engine_logprobs=-marks, old_logprobs=-marks, advantages=marks,
    )  # fmt: skip


def make_samples(shape: Shape) -> list[Sample]:
    return [make_sample(prompt, reply, mark=place) for place, (prompt, reply) in enumerate(shape)]


def context_of(batch: Batch, node: int) -> list[int]:
    """Give the tokens before a token, from the root on, by following parents."""
    found: list[int] = []
    while (node := int(batch.parents[node])) >= 0:
        found.insert(0, int(batch.token_ids[node]))
    return found


def learned(samples: list[Sample], batches: list[Batch]) -> Counter:
    """Count what is learned: which token, behind which context, with which advantage."""
    counted: Counter = Counter()
    for batch in batches:
        marks = collect(samples, batch, "advantages")
        for at, mark in zip(batch.scored_at, marks, strict=True):
            node = int(batch.scored[at])
            counted[tuple(context_of(batch, node)), int(batch.token_ids[node]), float(mark)] += 1
    return counted


def wanted(samples: list[Sample]) -> Counter:
    return Counter(
        (tuple(sample.prompt_ids.tolist() + sample.token_ids[:k].tolist()), int(sample.token_ids[k]), float(mark))
        for sample in samples
        for k, (keep, mark) in enumerate(zip(sample.loss_mask, sample.advantages, strict=True))
        if keep
    )


@given(shapes, st.integers(BUDGET, 80), st.integers(1, 3))
def test_every_loss_token_is_learned_once_behind_its_own_context(shape: Shape, budget: int, ranks: int) -> None:
    samples = make_samples(shape)
    batches = pack(samples, max_tokens=budget, ranks=ranks)
    assert learned(samples, batches) == wanted(samples)
    assert len(batches) % ranks == 0
    assert all(len(batch.token_ids) <= budget for batch in batches)


@given(shapes)
def test_a_forest_holds_each_beginning_once(shape: Shape) -> None:
    samples = make_samples(shape)
    (batch,) = pack(samples, max_tokens=10_000)
    streams = [tuple(s.prompt_ids.tolist() + s.token_ids.tolist()) for s in samples]
    beginnings = {stream[: k + 1] for stream in streams for k in range(len(stream))}
    nodes = [(*context_of(batch, node), int(batch.token_ids[node])) for node in range(len(batch.token_ids))]
    assert len(nodes) == len(set(nodes))
    assert set(nodes) == beginnings
    assert [len(node) - 1 for node in nodes] == batch.positions.tolist()


@given(shapes)
def test_a_subtree_is_what_stands_between_a_token_and_its_end(shape: Shape) -> None:
    (batch,) = pack(make_samples(shape), max_tokens=10_000)
    for node, end in enumerate(batch.ends):
        inside = [other for other in range(len(batch.token_ids)) if node in [other, *line_of(batch, other)]]
        assert inside == list(range(node, end))


def line_of(batch: Batch, node: int) -> list[int]:
    """Give a token's ancestors."""
    found = []
    while (node := int(batch.parents[node])) >= 0:
        found.append(node)
    return found


@given(shapes, st.integers(1, 12))
def test_attention_sees_a_tokens_ancestors_and_itself_each_once(shape: Shape, chunk: int) -> None:
    (batch,) = pack(make_samples(shape), max_tokens=10_000)
    plan = layout(batch, chunk=chunk)
    count = len(batch.token_ids)
    assert len(plan.keys) == -(-count // chunk)
    for node in range(count):
        row, column = divmod(node, chunk)
        seen = plan.keys[row][plan.visible[row, column]].tolist()
        assert sorted(seen) == sorted([node, *line_of(batch, node)])
    assert plan.visible.any(axis=-1).all(), "a softmax over nothing is not a number"


@given(shapes, st.integers(BUDGET, 60))
def test_batches_are_as_few_as_the_budget_allows_in_this_order_and_even(shape: Shape, budget: int) -> None:
    samples = make_samples(shape)
    batches = pack(samples, max_tokens=budget)
    largest = max(len(batch.token_ids) for batch in batches)
    longest = max(len(s.prompt_ids) + len(s.token_ids) for s in samples)
    if largest > longest:  # no smaller limit would do with as many batches
        assert len(pack(samples, max_tokens=largest - 1)) > len(batches)


@given(shapes)
def test_the_order_of_samples_changes_nothing(shape: Shape) -> None:
    samples = make_samples(shape)
    turned = samples[::-1]
    assert learned(samples, pack(samples, max_tokens=40)) == learned(turned, pack(turned, max_tokens=40))


def test_samples_of_one_step_share_examples_prompts_and_first_words() -> None:
    examples, first, second = [9] * 10, [1, 2], [3, 4]
    shape = [(examples + task, [(5, True), (6, True), (word, True)]) for task in (first, second) for word in (7, 8, 8)]
    (batch,) = pack([make_sample(*one, mark=k) for k, one in enumerate(shape)], max_tokens=100)
    assert len(batch.token_ids) == 10 + 2 * (2 + 2 + 2)
    assert len(batch.scored) == 2 * 4
    assert len(batch.samples) == 6 * 3


def test_no_samples_make_no_batches() -> None:
    assert pack([], max_tokens=10) == []


def test_a_sample_above_the_budget_is_refused_with_advice() -> None:
    sample = make_sample([1, 2, 3], [(4, True)] * 8)
    with pytest.raises(ValueError, match=r"a prompt of 3 tokens with a reply of 8 does not fit the token budget of 10; "
                                         r"raise hardware\.tokens_per_microbatch"):  # fmt: skip
        pack([sample], max_tokens=10)


def test_a_sample_without_a_prompt_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a prompt"):
        pack([make_sample([], [(1, True)])], max_tokens=10)
