"""A step's samples as forests of tokens: what samples begin with in common is computed once.

The replies to one prompt share the prompt, prompts share the worked examples before them, and replies share the words
that they begin with. A token's hidden state depends on the tokens before it only, so that sharing changes no number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from rlvr.types import Batch, Sample

__all__ = ["Chains", "Layout", "chains", "collect", "layout", "pack"]

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Attention within a forest as equal rows: `chunk` neighbours in preorder, and the tokens that they may see.

    R = rows, C = chunk, K = ancestors of the row's first token, padded to the longest, and the row itself.
    """

    keys: Ints  # [R, K] tokens of the forest; 0 where `visible` hides it from all
    visible: NDArray[np.bool_]  # [R, C, K]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chains:
    """Attention within a forest as sequences of unequal length: runs of tokens that each follow the one before.

    S = runs. A run's queries are its tokens, its keys their ancestors before the run and then its tokens.
    """

    keys: Ints  # [all keys of all runs] tokens of the forest
    query_ends: Ints  # [S + 1] cumulative, from 0
    key_ends: Ints  # [S + 1]


def pack(samples: Sequence[Sample], *, max_tokens: int, ranks: int = 1) -> list[Batch]:
    """Divide samples into forests of at most `max_tokens` tokens, as equal in size as whole samples allow.

    Gives a multiple of `ranks` batches, the last of which may be empty. Order and division do not change the loss.

    Errors: ValueError where a single sample is longer than `max_tokens`.
    """
    sequences = [np.concatenate([sample.prompt_ids, sample.token_ids]).astype(np.int32) for sample in samples]
    for sample, ids in zip(samples, sequences, strict=True):
        if not len(sample.prompt_ids):
            raise ValueError("a sample needs a prompt: its first reply token is predicted by the token before it")
        if len(ids) > max_tokens:
            raise ValueError(
                f"a prompt of {len(sample.prompt_ids)} tokens with a reply of {len(sample.token_ids)} does not fit the "
                f"token budget of {max_tokens}; raise hardware.tokens_per_microbatch"
            )
    # in this order neighbours share most: equal beginnings are equal bytes
    order = sorted(range(len(samples)), key=lambda index: sequences[index].tobytes())
    shared = [0] + [_common(sequences[a], sequences[b]) for a, b in pairwise(order)]
    lengths = [len(sequences[index]) for index in order]
    parts = _divide(lengths, shared, max_tokens=max_tokens, ranks=ranks)
    return [_forest([order[i] for i in part], [shared[i] for i in part], samples, sequences) for part in parts]


def layout(batch: Batch, *, chunk: int) -> Layout:
    """Say what attention computes: row r holds the queries [r * chunk, (r + 1) * chunk), padded with repetitions.

    Whatever lies before a row in preorder and is seen from within it is an ancestor of the row's first token.
    """
    count = len(batch.token_ids)
    starts = np.arange(0, count, chunk)
    rows = starts[:, None] + np.arange(chunk)
    before = _ancestors(batch, starts)
    keys = np.concatenate([before, np.where(rows < count, rows, -1)], axis=1)
    queries = np.minimum(rows, count - 1)
    known = np.maximum(keys, 0)
    visible = (keys >= 0)[:, None] & (keys[:, None] <= queries[..., None])
    visible &= queries[..., None] < batch.ends[known][:, None]
    return Layout(keys=known, visible=visible)


def chains(batch: Batch) -> Chains:
    """Cut a forest where it branches, for kernels that take sequences of unequal length and a causal mask only."""
    starts = np.flatnonzero(batch.parents != np.arange(-1, len(batch.parents) - 1))
    starts = np.union1d([0], starts)
    stops = np.append(starts[1:], len(batch.parents))
    before = _ancestors(batch, starts)
    keys = [np.append(line[line >= 0], np.arange(a, b)) for line, a, b in zip(before, starts, stops, strict=True)]
    return Chains(
        keys=np.concatenate(keys), query_ends=np.append(starts, stops[-1]), key_ends=np.cumsum([0, *map(len, keys)])
    )


def _ancestors(batch: Batch, nodes: Ints) -> Ints:
    """Give the ancestors of each node from the root on, [nodes, depth], with -1 before those of shorter lines."""
    before = np.full((len(nodes), int(batch.positions[nodes].max())), -1, dtype=np.int64)
    walker = batch.parents[nodes]
    for column in range(before.shape[1] - 1, -1, -1):
        before[:, column] = walker
        walker = np.where(walker >= 0, batch.parents[walker], -1)
    return before


def collect(samples: Sequence[Sample], batch: Batch, name: str) -> NDArray[np.float32]:
    """Give one of the samples' arrays per token for the loss tokens of a batch, [N]."""
    edges = np.flatnonzero(np.diff(batch.samples)) + 1
    starts, stops = np.r_[0, edges], np.r_[edges, len(batch.samples)]
    if not len(batch.samples):
        return np.zeros(0, dtype=np.float32)
    parts = [getattr(samples[batch.samples[a]], name)[batch.places[a:b]] for a, b in zip(starts, stops, strict=True)]
    return np.concatenate(parts).astype(np.float32)


def _common(a: NDArray[np.int32], b: NDArray[np.int32]) -> int:
    size = min(len(a), len(b))
    differs = a[:size] != b[:size]
    return int(differs.argmax()) if differs.any() else size


def _divide(lengths: Sequence[int], shared: Sequence[int], *, max_tokens: int, ranks: int) -> list[range]:
    """Cut a sorted list into neighbours: as few parts as the budget allows, then the smallest size for that many."""
    if not lengths:
        return []
    fewest = _cut(lengths, shared, limit=max_tokens)
    count = -(-len(fewest) // ranks) * ranks
    low, high = max(lengths), max_tokens
    while low < high:
        middle = (low + high) // 2
        if len(_cut(lengths, shared, limit=middle)) <= count:
            high = middle
        else:
            low = middle + 1
    parts = _cut(lengths, shared, limit=low)
    return parts + [range(0)] * (count - len(parts))


def _cut(lengths: Sequence[int], shared: Sequence[int], *, limit: int) -> list[range]:
    parts, start, size = [], 0, 0
    for place, (length, common) in enumerate(zip(lengths, shared, strict=True)):
        if place > start and size + length - common > limit:
            parts.append(range(start, place))
            start, size = place, 0
        size += length - (common if place > start else 0)
    return [*parts, range(start, len(lengths))]


def _forest(
    members: Sequence[int], shared: Sequence[int], samples: Sequence[Sample], sequences: Sequence[NDArray[np.int32]]
) -> Batch:
    """Lay sorted samples out, each behind what it shares with the one before."""
    tokens: list[Ints] = []
    parents: list[Ints] = []
    positions: list[Ints] = []
    columns: dict[str, list[Ints]] = {"node": [], "sample": [], "place": []}
    path, size = np.zeros(0, dtype=np.int64), 0
    for rank, (index, common) in enumerate(zip(members, shared, strict=True)):
        ids = sequences[index]
        kept = path[: common if rank else 0]
        fresh = np.arange(size, size + len(ids) - len(kept))
        path, size = np.concatenate([kept, fresh]), size + len(fresh)
        tokens.append(ids[len(kept) :].astype(np.int64))
        parents.append(np.concatenate([[-1], path])[len(kept) : len(ids)])
        positions.append(np.arange(len(kept), len(ids)))
        places = np.flatnonzero(samples[index].loss_mask)
        columns["node"].append(path[len(samples[index].prompt_ids) + places])
        columns["sample"].append(np.full(len(places), index))
        columns["place"].append(places)
    joined = {name: _joined(parts) for name, parts in columns.items()}
    scored, scored_at = np.unique(joined["node"], return_inverse=True)
    above = _joined(parents)
    return Batch(
        token_ids=_joined(tokens), positions=_joined(positions), parents=above, ends=_ends(above),
        scored=scored, scored_at=scored_at, samples=joined["sample"], places=joined["place"],
    )  # fmt: skip


def _ends(parents: Ints) -> Ints:
    """Give one past the last descendant of each node, in preorder."""
    ends = np.arange(1, len(parents) + 1)
    for node in range(len(parents) - 1, -1, -1):
        above = parents[node]
        if above >= 0 and ends[node] > ends[above]:
            ends[above] = ends[node]
    return ends


def _joined(parts: Sequence[Ints]) -> Ints:
    return np.concatenate([*parts, np.zeros(0, dtype=np.int64)]).astype(np.int64)
