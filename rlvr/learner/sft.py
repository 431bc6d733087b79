"""The warm start of ReFT (arXiv 2401.08967): supervised fine-tuning on demonstrations before reinforcement learning.

Model, packing, precision and master weights are those of reinforcement learning; the optimizer is the stage's own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rlvr.errors import NonFiniteError

if TYPE_CHECKING:
    from rlvr.learner.body import Body
    from rlvr.learner.step import Learner
    from rlvr.types import Sample

__all__ = ["Demonstration", "SftSettings", "order_of", "updates_of", "warm_start"]

Demonstration = tuple[NDArray[np.int32], NDArray[np.int32]]  # prompt [P], reply [T] with its end token


@dataclass(frozen=True, slots=True, kw_only=True)
class SftSettings:
    """How demonstrations are learned. Betas, eps, weight decay and gradient norm are the algorithm's."""

    epochs: int = 1
    batch_size: int = 32  # demonstrations in an update; the last of an epoch may have fewer
    learning_rate: float = 1e-5
    warmup_steps: int = 0
    seed: int = 0  # of the order, drawn anew for each epoch


def updates_of(demonstrations: int, settings: SftSettings) -> int:
    """Count the optimizer updates of the stage."""
    return settings.epochs * -(-demonstrations // settings.batch_size)


def order_of(demonstrations: int, settings: SftSettings) -> Iterator[tuple[int, list[int]]]:
    """Yield the epoch, from 0, and the demonstrations of each update."""
    for epoch in range(settings.epochs):
        order = np.random.default_rng([settings.seed, epoch]).permutation(demonstrations)
        for start in range(0, demonstrations, settings.batch_size):
            yield epoch, order[start : start + settings.batch_size].tolist()


def warm_start(
    learner: Learner, demonstrations: Sequence[Demonstration], settings: SftSettings
) -> Iterator[dict[str, float]]:
    """Take one optimizer update after the other and yield the metrics of each.

    The loss is the mean of -log p over the reply tokens of a batch, at temperature 1 whatever rollouts are sampled at.
    Afterwards the version is what it was, reinforcement learning starts with a fresh optimizer, and a critic with
    layers of its own starts from the weights that the engines will be given.
    Errors: NonFiniteError where loss or gradient is not finite; the weights are then as before that update. ValueError
    where a demonstration exceeds the token budget.
    """
    from rlvr.learner.body import plain_sample

    samples = [plain_sample(prompt, reply) for prompt, reply in demonstrations]
    body = learner.body.at(1.0)
    with _own_optimizer(learner, settings.learning_rate):
        for number, (epoch, chosen) in enumerate(order_of(len(samples), settings)):
            batch = [samples[index] for index in chosen]
            loss, tokens = _accumulate(learner, body, batch)
            norm = learner.updater.gradient_norm(limit=learner.algorithm.max_grad_norm)
            if not (np.isfinite(loss) and np.isfinite(norm)):
                learner.updater.forget()
                raise NonFiniteError(
                    f"warm start, update {number + 1}: loss {loss} or gradient norm {norm} is not finite; "
                    "lower sft.learning_rate or look at the demonstrations"
                )
            share = min(1.0, (number + 1) / settings.warmup_steps) if settings.warmup_steps else 1.0
            learner.updater.update(share=share)
            yield {"update": number + 1, "epoch": epoch + 1, "loss": loss, "tokens": tokens, "grad_norm": norm,
                   "learning_rate": settings.learning_rate * share}  # fmt: skip
    _hand_to_critic(learner)


def _accumulate(learner: Learner, body: Body, batch: Sequence[Sample]) -> tuple[float, int]:
    """Add up the gradients of one update. Gives its loss and its reply tokens."""
    loss, tokens = 0.0, sum(len(sample.token_ids) for sample in batch)
    for part in learner.microbatches(batch):
        part_loss = -body.logprobs(part)[0].sum() / tokens
        part_loss.backward()
        loss += float(part_loss.detach())
    return learner.ranks.total({"loss": loss})["loss"], tokens


@contextlib.contextmanager
def _own_optimizer(learner: Learner, rate: float) -> Iterator[None]:
    """Lend the updater an optimizer over the same masters; what groups of parameters have of the rate they keep."""
    import torch

    updater = learner.updater
    kept = updater.optimizer
    rates = [rate * group["base_rate"] / learner.algorithm.learning_rate for group in kept.param_groups]
    groups = [group | {"lr": own, "base_rate": own} for group, own in zip(kept.param_groups, rates, strict=True)]
    updater.optimizer = torch.optim.AdamW(groups, fused=True)
    try:
        yield
    finally:
        updater.optimizer = kept


def _hand_to_critic(learner: Learner) -> None:
    import torch

    from rlvr.learner.ranks import share_of

    critic = learner.critic
    if critic is None or not critic.own:
        return
    served = dict(learner.tensors())
    with torch.no_grad():
        for name, master in critic.updater.masters.items():
            if (tensor := served.get(f"{learner.model.base_model_prefix}.{name}")) is not None:
                master.copy_(share_of(tensor.to(master), master))
    critic.updater.publish()
