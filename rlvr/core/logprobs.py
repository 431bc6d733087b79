"""Log-probabilities of chosen tokens without ever holding [N, V]."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from jaxtyping import Float, Int

__all__ = ["token_logprobs"]


def token_logprobs(
    hidden: Float[Tensor, "N H"],
    head: Float[Tensor, "V H"],
    targets: Int[Tensor, " N"],
    *,
    temperature: float = 1.0,
    dtype: torch.dtype | None = None,
    chunk: int = 256,
) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
    """Give log p(target) after temperature, and the entropy of the whole distribution, in nats and float32.

    Logits exist for `chunk` rows at a time, forward and backward; the backward pass computes them again.
    `dtype` is that of the matrix products (`hidden.dtype` if not given). The entropy carries no gradient.
    """
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, not {temperature}")
    logprobs, entropy = _TokenLogprobs.apply(hidden, head, targets, temperature, dtype or hidden.dtype, chunk)
    return logprobs, entropy


def _precision(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, temperature: float, dtype: torch.dtype, chunk: int
    ) -> tuple[Tensor, Tensor]:
        work, table = hidden.to(dtype), head.to(dtype)
        precise = _precision(dtype)
        logprobs = torch.empty(len(targets), dtype=precise, device=work.device)
        entropy, normalizer = torch.empty_like(logprobs), torch.empty_like(logprobs)
        for rows in torch.arange(len(targets), device=work.device).split(chunk):
            logits = (work[rows] @ table.T).to(precise) / temperature
            total = torch.logsumexp(logits, dim=-1)
            logprobs[rows] = logits.gather(1, targets[rows, None]).squeeze(1) - total
            normalizer[rows] = total
            shares = torch.exp(logits - total[:, None])
            entropy[rows] = total - torch.einsum("nv,nv->n", shares, logits)
        ctx.save_for_backward(work, table, targets, normalizer)
        ctx.temperature, ctx.chunk, ctx.dtypes = temperature, chunk, (hidden.dtype, head.dtype)
        ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        work, table, targets, normalizer = ctx.saved_tensors
        outer = gradients[0]
        precise = normalizer.dtype
        grad_hidden = torch.empty(work.shape, dtype=ctx.dtypes[0], device=work.device)
        grad_head = torch.zeros(table.shape, dtype=precise, device=table.device) if ctx.needs_input_grad[1] else None
        for rows in torch.arange(len(targets), device=work.device).split(ctx.chunk):
            # d log p(target) / d logits = one_hot(target) - softmax, by 1 / temperature
            slope = torch.exp((work[rows] @ table.T).to(precise) / ctx.temperature - normalizer[rows, None]).neg_()
            slope[torch.arange(len(rows), device=work.device), targets[rows]] += 1.0
            slope = (slope * (outer[rows, None] / ctx.temperature)).to(table.dtype)
            grad_hidden[rows] = (slope @ table).to(grad_hidden.dtype)
            if grad_head is not None:
                grad_head += slope.T @ work[rows]
        return grad_hidden, grad_head.to(ctx.dtypes[1]) if grad_head is not None else None, None, None, None, None
