"""Chunked log-probabilities against the naive computation that holds all logits, in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rlvr.core.logprobs import token_logprobs

N, H, V = 37, 8, 23


def drawn(dtype: torch.dtype = torch.float64, *, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(N, H, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    head = torch.randn(V, H, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    return hidden, head, torch.randint(0, V, (N,), generator=generator)


def naive(hidden: Tensor, head: Tensor, targets: Tensor, *, temperature: float) -> tuple[Tensor, Tensor]:
    table = torch.log_softmax(hidden @ head.T / temperature, dim=-1)
    return table[torch.arange(len(targets)), targets], -(table.exp() * table).sum(-1)


@pytest.mark.parametrize("chunk", [1, 5, 36, 37, 256])
@pytest.mark.parametrize("temperature", [0.6, 1.0, 1.7])
def test_values_and_gradients_equal_the_naive_ones(chunk: int, temperature: float) -> None:
    hidden, head, targets = drawn()
    pull = torch.randn(N, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected, entropy = naive(hidden, head, targets, temperature=temperature)
    slopes = torch.autograd.grad((pull * expected).sum(), (hidden, head))
    found, spread = token_logprobs(hidden, head, targets, temperature=temperature, chunk=chunk)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(spread, entropy, rtol=1e-10, atol=1e-10)
    for ours, theirs in zip(torch.autograd.grad((pull * found).sum(), (hidden, head)), slopes, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("chunk", [1, 5, 256])
@pytest.mark.parametrize("temperature", [0.6, 1.0])
def test_several_targets_share_a_state_and_the_entropy_carries_its_gradient(chunk: int, temperature: float) -> None:
    hidden, head, _ = drawn()
    generator = torch.Generator().manual_seed(2)
    rows = torch.randint(0, N, (60,), generator=generator)  # in any order, some states never, some often
    targets = torch.randint(0, V, (60,), generator=generator)
    pull, spread = torch.randn(60, generator=generator).double(), torch.randn(N, generator=generator).double()
    expected, entropy = naive(hidden[rows], head, targets, temperature=temperature)[0], naive(
        hidden, head, torch.zeros(N, dtype=torch.int64), temperature=temperature
    )[1]  # fmt: skip
    slopes = torch.autograd.grad((pull * expected).sum() + (spread * entropy).sum(), (hidden, head))
    found, ours = token_logprobs(hidden, head, targets, rows=rows, temperature=temperature, chunk=chunk)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(ours, entropy, rtol=1e-10, atol=1e-10)
    found_slopes = torch.autograd.grad((pull * found).sum() + (spread * ours).sum(), (hidden, head))
    for mine, theirs in zip(found_slopes, slopes, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-10)


def test_a_frozen_head_gets_no_gradient() -> None:
    hidden, head, targets = drawn()
    expected = torch.autograd.grad(naive(hidden, head, targets, temperature=1.0)[0].sum(), hidden)[0]
    found, _ = token_logprobs(hidden, head.detach(), targets)
    torch.testing.assert_close(torch.autograd.grad(found.sum(), hidden)[0], expected, rtol=1e-10, atol=1e-10)


def test_nothing_of_the_size_of_all_logits_is_kept_for_the_backward_pass() -> None:
    hidden, head, targets = drawn()
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        token_logprobs(hidden, head, targets, chunk=4)
    assert kept
    assert max(kept) <= max(N, V) * H < N * V


def test_half_precision_products_give_single_precision_results() -> None:
    hidden, head, targets = drawn(torch.bfloat16)
    expected, entropy = naive(hidden.double(), head.double(), targets, temperature=1.0)
    found, spread = token_logprobs(hidden, head, targets)
    assert found.dtype == spread.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=0.02, atol=0.1)
    torch.testing.assert_close(spread.double(), entropy, rtol=0.02, atol=0.1)
    found.sum().backward()
    assert hidden.grad is not None
    whole = torch.autograd.grad(
        naive(hidden.double(), head.double(), targets, temperature=1.0)[0].sum(), (hidden, head)
    )
    for ours, theirs in zip((hidden.grad, head.grad), whole, strict=True):
        assert float((ours - theirs).norm() / theirs.norm()) < 0.02


def test_a_finer_head_gets_the_gradient_unrounded() -> None:
    hidden, _, targets = drawn(torch.bfloat16)
    head = torch.randn(V, H, generator=torch.Generator().manual_seed(0)).requires_grad_()
    found, entropy = token_logprobs(hidden, head, targets, chunk=4)
    (found.sum() + entropy.sum()).backward()
    assert head.grad is not None
    assert head.grad.dtype == torch.float32
    assert not torch.equal(head.grad, head.grad.bfloat16().float())


def test_entropy_alone_has_its_gradient() -> None:
    hidden, head, targets = drawn()
    expected = torch.autograd.grad(naive(hidden, head, targets, temperature=1.0)[1].sum(), (hidden, head))
    found = torch.autograd.grad(token_logprobs(hidden, head, targets)[1].sum(), (hidden, head))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_logits_of_a_thousand_do_not_overflow() -> None:
    hidden, head, targets = drawn(torch.float32)
    found, entropy = token_logprobs(1000 * hidden, head, targets)
    assert torch.isfinite(found).all()
    assert torch.isfinite(entropy).all()


def test_no_tokens_give_no_logprobs() -> None:
    hidden, head, targets = drawn()
    found, entropy = token_logprobs(hidden[:0], head, targets[:0])
    assert found.shape == entropy.shape == (0,)


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_a_temperature_must_be_positive(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature must be positive"):
        token_logprobs(*drawn(), temperature=temperature)
