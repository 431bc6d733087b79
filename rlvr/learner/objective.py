"""The loss of one micro-batch, per token: an algorithm's surrogate, its correction and its penalties, added up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from rlvr.core.correction import geometric_mask, icepop_mask, mismatch_weights, sequence_mismatch_weights
from rlvr.core.losses import cispo, clipped_surrogate, gspo_surrogate, policy_gradient, reverse_kl
from rlvr.learner.algorithm import Algorithm

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

__all__ = ["objective"]


def objective(
    algorithm: Algorithm,
    *,
    logprobs: Float[Tensor, " N"],
    entropy: Float[Tensor, " N"],
    old_logprobs: Float[Tensor, " N"],
    engine_logprobs: Float[Tensor, " N"],
    advantages: Float[Tensor, " N"],
    sequences: Int[Tensor, " N"],
    ref_logprobs: Float[Tensor, " N"] | None = None,
    correct: Bool[Tensor, " N"] | None = None,
    correction_base: Float[Tensor, " N"] | None = None,
    weights: Float[Tensor, " N"] | None = None,
    positive_tokens: int | None = None,
    lags: Int[Tensor, " N"] | None = None,
) -> tuple[Float[Tensor, " N"], dict[str, Tensor]]:
    """Give the loss of each token and the sums of its metrics. The loss is `(weights * per_token).sum()`.

    Per token: correction * surrogate + kl_coefficient * KL - entropy_bonus * entropy + positive_nll * likelihood term.
    The correction weighs the surrogate alone. The likelihood term is the mean of -logprob over the tokens of right
    replies (VAPO, "positive example LM loss"): that mean is over the whole step, so the term is divided by
    `positive_tokens`, their number in the step, and by `weights`, those of the reduction, which multiply it again.

    `correction_base` is the learner's side of the gap to the engine. It defaults to `old_logprobs` where the learner
    computed them, and to the present policy, without gradient, where they are the engine's. Each update with
    old_logprobs = "learner" and one update a step passes `logprobs.detach()` as `old_logprobs`.

    Metrics are sums over tokens, so that micro-batches add up: clipped, entropy, mismatch (|gap|), and where they
    apply kl, correction, correction_squares, correction_kept (tokens of a weight above 0). With `lags`, the versions
    that lie between the token's weights and the learner's, also mismatch_lag_0 and tokens_lag_0, their number, and so
    on for every lag that occurs.

    Shapes: `sequences` [N] holds the index of the sample of each token. With "gspo", "sequence" and "geometric" all
    loss tokens of a sample must be in one call. `correct` [N] says whether a token is of a right reply.
    """
    _check(algorithm, ref_logprobs=ref_logprobs, correct=correct, weights=weights, positive_tokens=positive_tokens)
    per_token, clipped = _surrogate(algorithm, logprobs, old_logprobs, advantages, sequences)
    base = correction_base
    if base is None:
        base = old_logprobs if algorithm.old_logprobs == "learner" else logprobs
    base = base.detach()
    gap = (base - engine_logprobs).abs()
    metrics = {"clipped": clipped.sum(), "entropy": entropy.detach().sum(), "mismatch": gap.sum()}
    for lag in [] if lags is None else lags.unique().tolist():
        metrics[f"mismatch_lag_{lag}"], metrics[f"tokens_lag_{lag}"] = gap[lags == lag].sum(), (lags == lag).sum()
    if algorithm.correction != "none":
        correction = _correction(algorithm, base, engine_logprobs, sequences)
        per_token = correction * per_token
        metrics["correction"] = correction.sum()
        metrics["correction_squares"] = correction.square().sum()
        metrics["correction_kept"] = (correction > 0).sum()
    if ref_logprobs is not None:
        kl = reverse_kl(logprobs, ref_logprobs, estimator=algorithm.kl_estimator)
        metrics["kl"] = kl.detach().sum()
        if algorithm.kl == "loss":
            per_token = per_token + algorithm.kl_coefficient * kl
    if algorithm.entropy_bonus:
        per_token = per_token - algorithm.entropy_bonus * entropy
    if algorithm.positive_nll and positive_tokens and correct is not None and weights is not None:
        share = algorithm.positive_nll * correct.to(logprobs.dtype) / (positive_tokens * weights)
        per_token = per_token - share * logprobs
    return per_token, metrics


def _surrogate(
    algorithm: Algorithm, logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, sequences: Tensor
) -> tuple[Tensor, Tensor]:
    low, high = algorithm.clip_low, algorithm.clip_high
    if algorithm.loss == "clip":
        return clipped_surrogate(logprobs, old_logprobs, advantages, low=low, high=high, dual=algorithm.clip_dual)
    if algorithm.loss == "gspo":
        return gspo_surrogate(logprobs, old_logprobs, advantages, sequences, low=low, high=high)
    if algorithm.loss == "cispo":
        return cispo(logprobs, old_logprobs, advantages, low=low, high=high)
    if algorithm.loss == "policy_gradient":
        return policy_gradient(logprobs, advantages), torch.zeros_like(advantages, dtype=torch.bool)
    raise ValueError(f'loss must be "clip", "gspo", "cispo" or "policy_gradient", not {algorithm.loss!r}')


def _correction(algorithm: Algorithm, base: Tensor, engine_logprobs: Tensor, sequences: Tensor) -> Tensor:
    cap, low, high = algorithm.correction_cap, algorithm.correction_low, algorithm.correction_high
    if algorithm.correction == "token":
        return mismatch_weights(base, engine_logprobs, cap=cap)
    if algorithm.correction == "sequence":
        return sequence_mismatch_weights(base, engine_logprobs, sequences, cap=cap)
    if algorithm.correction == "icepop":
        return icepop_mask(base, engine_logprobs, low=low, high=high)
    if algorithm.correction == "geometric":
        return geometric_mask(base, engine_logprobs, sequences, low=low, high=high)
    raise ValueError(f"correction must be one of those that Algorithm names, not {algorithm.correction!r}")


def _check(
    algorithm: Algorithm,
    *,
    ref_logprobs: Tensor | None,
    correct: Tensor | None,
    weights: Tensor | None,
    positive_tokens: int | None,
) -> None:
    if algorithm.kl == "loss" and ref_logprobs is None:
        raise ValueError('kl "loss" needs ref_logprobs, those of the reference policy')
    if algorithm.positive_nll and (correct is None or weights is None or positive_tokens is None):
        raise ValueError("positive_nll needs correct, weights and positive_tokens")
    weighed_twice = algorithm.correction in ("token", "sequence", "icepop") and algorithm.loss != "policy_gradient"
    if weighed_twice and algorithm.old_logprobs == "engine":
        raise ValueError(
            f'correction "{algorithm.correction}" needs old_logprobs = "learner": '
            "against the engine's, the ratio of the loss has the gap in it already"
        )
