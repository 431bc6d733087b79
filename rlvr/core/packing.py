"""Rows for the learner: one prompt followed by the replies to it, so that a group's prompt is computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlvr.types import Batch, Sample

__all__ = ["pack", "visible"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Row:
    prompt: np.ndarray
    replies: tuple[int, ...]  # indices of samples
    length: int


def pack(samples: Sequence[Sample], *, max_tokens: int) -> list[Batch]:
    """Lay samples out in batches whose padded size stays within `max_tokens`.

    Samples with the same prompt share it within a row. Rows of similar length go together, longest first, which
    keeps padding small. The order of samples does not change the loss.

    Errors: ValueError where a single prompt with its reply is longer than `max_tokens`.
    """
    rows = sorted(_rows(samples, max_tokens=max_tokens), key=lambda row: -row.length)
    batches: list[Batch] = []
    start = 0
    while start < len(rows):
        count = max(1, max_tokens // rows[start].length)
        batches.append(_batch(rows[start : start + count], samples))
        start += count
    return batches


def visible(segments: np.ndarray) -> np.ndarray:
    """Say who may attend to whom: a token sees the prompt and its own reply, up to itself.

    Shapes: segments [R, L] -> bool [R, 1, L, L]. Padding sees itself only, so that no row of a softmax is empty.
    """
    length = segments.shape[1]
    query, key = segments[:, :, None], segments[:, None, :]
    causal = np.tril(np.ones((length, length), dtype=bool))
    allowed = causal & ((query == key) | (key == 0)) & (query >= 0) & (key >= 0)
    return np.asarray((allowed | np.eye(length, dtype=bool))[:, None])


def _rows(samples: Sequence[Sample], *, max_tokens: int) -> list[_Row]:
    by_prompt: dict[bytes, list[int]] = {}
    for index, sample in enumerate(samples):
        by_prompt.setdefault(sample.prompt_ids.tobytes(), []).append(index)
    rows: list[_Row] = []
    for members in by_prompt.values():
        prompt = samples[members[0]].prompt_ids
        replies: list[int] = []
        length = len(prompt)
        for index in members:
            size = len(samples[index].token_ids)
            if len(prompt) + size > max_tokens:
                raise ValueError(
                    f"a prompt of {len(prompt)} tokens with a reply of {size} does not fit the token budget of "
                    f"{max_tokens}; raise hardware.tokens_per_microbatch"
                )
            if length + size > max_tokens:
                rows.append(_Row(prompt=prompt, replies=tuple(replies), length=length))
                replies, length = [], len(prompt)
            replies.append(index)
            length += size
        rows.append(_Row(prompt=prompt, replies=tuple(replies), length=length))
    return rows


def _batch(rows: Sequence[_Row], samples: Sequence[Sample]) -> Batch:
    width = max(row.length for row in rows)
    tokens = np.zeros((len(rows), width), dtype=np.int64)
    positions = np.zeros_like(tokens)
    segments = np.full_like(tokens, -1)
    columns: dict[str, list[np.ndarray]] = {name: [] for name in ("source", "target", "old", "advantage", "sequence")}
    for line, row in enumerate(rows):
        at = len(row.prompt)
        tokens[line, :at], positions[line, :at], segments[line, :at] = row.prompt, np.arange(at), 0
        for segment, index in enumerate(row.replies, start=1):
            sample = samples[index]
            here = slice(at, at + len(sample.token_ids))
            tokens[line, here], segments[line, here] = sample.token_ids, segment
            positions[line, here] = len(row.prompt) + np.arange(len(sample.token_ids))
            # the first reply token is predicted by the last prompt token, each other one by its neighbour
            before = np.arange(here.start - 1, here.stop - 1)
            before[:1] = len(row.prompt) - 1
            keep = sample.loss_mask
            columns["source"].append(line * width + before[keep])
            columns["target"].append(sample.token_ids[keep].astype(np.int64))
            columns["old"].append(sample.old_logprobs[keep])
            columns["advantage"].append(sample.advantages[keep])
            columns["sequence"].append(np.full(int(keep.sum()), index, dtype=np.int64))
            at = here.stop
    joined = {name: np.concatenate(parts) for name, parts in columns.items()}
    return Batch(
        token_ids=tokens,
        positions=positions,
        segments=segments,
        sources=joined["source"],
        targets=joined["target"],
        old_logprobs=joined["old"].astype(np.float32),
        advantages=joined["advantage"].astype(np.float32),
        sequences=joined["sequence"],
    )
