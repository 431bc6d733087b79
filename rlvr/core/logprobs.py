"""Log-probabilities of chosen tokens without ever holding [N, V]."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float, Int

__all__ = ["token_logprobs"]


def token_logprobs(
    hidden: Float[Tensor, "S H"],
    head: Float[Tensor, "V H"],
    targets: Int[Tensor, " U"],
    *,
    rows: Int[Tensor, " U"] | None = None,
    temperature: float = 1.0,
    chunk: int = 128,
) -> tuple[Float[Tensor, " U"], Float[Tensor, " S"]]:
    """Give log p(target) after temperature, and the entropy of each whole distribution, in nats and float32.

    Target u is predicted by `hidden[rows[u]]`; without `rows` by `hidden[u]`.
    Logits exist for `chunk` hidden states at a time, forward and backward; the backward pass computes them again.
    Matrix products are taken in the type of `hidden`. Both results carry gradients.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    if rows is None:
        rows = torch.arange(len(targets), device=targets.device)
    order = rows.argsort()
    logprobs, entropy = _TokenLogprobs.apply(hidden, head, targets[order], rows[order], temperature, chunk)
    return logprobs[order.argsort()], entropy


def _chunks(rows: Tensor, states: int, chunk: int) -> Iterator[tuple[slice, slice]]:
    """Yield slices of hidden states with the slices of the targets that they predict."""
    edges = torch.arange(0, states + chunk, chunk, device=rows.device).clamp(max=states)
    marks = torch.searchsorted(rows, edges)
    for (start, first), (stop, last) in pairwise(zip(edges.tolist(), marks.tolist(), strict=True)):
        yield slice(start, stop), slice(first, last)


def _scores(hidden: Tensor, head: Tensor, temperature: float) -> Tensor:
    logits = (hidden @ head.T).to(torch.float64 if hidden.dtype == torch.float64 else torch.float32)
    return logits if temperature == 1.0 else logits.div_(temperature)


class _TokenLogprobs(torch.autograd.Function):
    # `rows` do not fall here
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, rows: Tensor, temperature: float, chunk: int
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)  # whoever asks for no entropy gets none in the backward pass
        ctx.head_dtype, head = head.dtype, head.to(hidden.dtype)
        precise = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        logprobs = torch.empty(len(targets), dtype=precise, device=hidden.device)
        normalizer = torch.empty(len(hidden), dtype=precise, device=hidden.device)
        entropy = torch.empty_like(normalizer)
        for states, chosen in _chunks(rows, len(hidden), chunk):
            scores = _scores(hidden[states], head, temperature)
            picked = scores[rows[chosen] - states.start, targets[chosen]]
            top = scores.amax(dim=-1, keepdim=True)
            shares = scores.sub_(top).exp()
            total = shares.sum(dim=-1)
            # H = log Z - sum p s, with both taken from the largest score
            entropy[states] = total.log() - torch.linalg.vecdot(shares, scores) / total
            normalizer[states] = total.log() + top[:, 0]
            logprobs[chosen] = picked - normalizer[rows[chosen]]
        ctx.save_for_backward(hidden, head, targets, rows, normalizer, entropy)
        ctx.temperature, ctx.chunk = temperature, chunk
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, head, targets, rows, normalizer, entropy = ctx.saved_tensors
        by_target, by_state = gradients
        if by_target is None:
            by_target = torch.zeros(len(targets), dtype=normalizer.dtype, device=targets.device)
        weight = torch.zeros_like(normalizer).index_add_(0, rows, by_target)
        grad_hidden = torch.empty_like(hidden)
        grad_head = torch.zeros_like(head, dtype=normalizer.dtype) if ctx.needs_input_grad[1] else None
        for states, chosen in _chunks(rows, len(hidden), ctx.chunk):
            logs = _scores(hidden[states], head, ctx.temperature).sub_(normalizer[states, None])
            shares = logs.exp()
            # d log p(t) / d s = one_hot(t) - p;  d H / d s = -p (log p + H)
            slope = shares * -weight[states, None]
            if by_state is not None:
                slope -= shares * (logs + entropy[states, None]) * by_state[states, None]
            slope.index_put_((rows[chosen] - states.start, targets[chosen]), by_target[chosen], accumulate=True)
            slope = (slope if ctx.temperature == 1.0 else slope.div_(ctx.temperature)).to(head.dtype)
            torch.mm(slope, head, out=grad_hidden[states])
            if grad_head is not None:
                grad_head += slope.T @ hidden[states]
        return grad_hidden, None if grad_head is None else grad_head.to(ctx.head_dtype), None, None, None, None
