"""The critic of PPO and VAPO: what a reply will be worth, told before each of its tokens."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from rlvr.core.losses import clipped_value_loss
from rlvr.core.packing import collect
from rlvr.learner.algorithm import Algorithm, CriticSettings
from rlvr.learner.body import Body, States
from rlvr.learner.model import load_model
from rlvr.learner.ranks import Ranks
from rlvr.learner.update import Updater
from rlvr.types import Batch, Sample

__all__ = ["Critic", "numbers"]

HEAD = "value_head.weight"


class Critic:
    """A value head on layers of its own or on the policy's: linear, without a bias, 0 at first, in float32.

    The value before a token is read at the hidden state that predicts it. `updater` holds what is the critic's alone:
    the head, whole on every rank, and the layers where they are its own (never an output head). Gradients of the value
    loss are multiplied by `scale`: 1 with layers of its own, `coefficient` with the policy's.
    """

    def __init__(
        self, algorithm: Algorithm, policy: Body, *, folder: Path, dtype: torch.dtype, weights: torch.dtype,
        ranks: Ranks,
    ) -> None:  # fmt: skip
        self.settings = algorithm.critic or CriticSettings()
        self.own = self.settings.backbone == "own"
        self.scale = 1.0 if self.own else self.settings.coefficient
        self.body = policy
        if self.own:
            model = load_model(folder)
            model.set_output_embeddings(None)  # which a cycle of references would keep
            self.body = Body(model.base_model.to(policy.device))
            ranks.shard(self.body, dtype=dtype)
        self.ranks = ranks
        self.head = nn.Parameter(torch.zeros(policy.head.shape[1], device=policy.device))
        layers = dict(self.body.model.named_parameters()) if self.own else {}
        # apart, for no call of the optimizer takes both what ranks share and what is whole
        groups = [{"params": p, "lr": self.settings.learning_rate} for p in ([*layers.values()], [self.head]) if p]
        self.updater = Updater(
            layers | {HEAD: self.head}, dtype=dtype, weights=weights, exact={HEAD}, groups=groups,
            rate=self.settings.learning_rate, betas=algorithm.betas, eps=algorithm.adam_eps,
            weight_decay=algorithm.weight_decay,
        )  # fmt: skip

    def warms_up(self, version: int) -> bool:
        """Tell whether only the critic learns in the step from this version."""
        return version < self.settings.warmup_steps

    def values(self, states: States) -> Tensor:
        """Give the value before each loss token of a batch, [N] float32."""
        return torch.mv(states.hidden.float(), self.head)[states.rows][states.at]

    def predict(self, batch: Batch) -> tuple[Tensor, None]:
        """Run the layers and give the values."""
        return self.values(self.body.states(batch)), None

    def loss(
        self, states: States, batch: Batch, samples: Sequence[Sample], *, tokens: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Give the clipped value loss summed over a batch's loss tokens and divided by `tokens`, with its metrics.

        `tokens` are the loss tokens of all micro-batches of the update: every token counts alike, whatever `loss_per`.
        """
        values = self.values(states)
        old, goal = (torch.from_numpy(collect(samples, batch, n)).to(values.device) for n in ("old_values", "returns"))
        per_token, clipped = clipped_value_loss(values, old, goal, clip=self.settings.value_clip)
        total = per_token.sum() / tokens
        count = torch.full_like(total, len(values)).detach()
        return total, {"value_loss": total.detach(), "value_clipped": clipped.sum(), "value_tokens": count}

    def accumulate(self, samples: Sequence[Sample], batches: Iterable[Batch], *, tokens: float) -> Counter[str]:
        """Add up the gradients of what is the critic's alone, and its metrics. Layers of the policy get none."""
        sums: Counter[str] = Counter()
        for batch in batches:
            with contextlib.nullcontext() if self.own else torch.no_grad():
                states = self.body.states(batch)
            loss, told = self.loss(states, batch, samples, tokens=tokens)
            (self.scale * loss).backward()
            sums.update(numbers(told))
        return sums

    def meet(self) -> None:
        """Add up the head's gradient over the ranks, each of which saw its own batches."""
        if self.ranks.count > 1 and self.head.grad is not None:
            (total,) = self.ranks.combine([self.head.grad.cpu().numpy()])
            self.head.grad = torch.from_numpy(total).to(self.head.device)

    @staticmethod
    def told(samples: Sequence[Sample]) -> dict[str, float]:
        """Compare a step's old values with its returns, over loss tokens. Without tokens or variance: unknown."""
        pairs = [(s.old_values[s.loss_mask], s.returns[s.loss_mask]) for s in samples
                 if s.old_values is not None and s.returns is not None]  # fmt: skip
        if not sum(len(returns) for _, returns in pairs):
            return {}
        values, returns = (np.concatenate(parts).astype(np.float64) for parts in zip(*pairs, strict=True))
        told = {"value_mean": float(values.mean()), "return_mean": float(returns.mean())}
        if (spread := float(returns.var())) > 0:
            told["explained_variance"] = 1.0 - float((returns - values).var()) / spread
        return told


def numbers(metrics: Mapping[str, Tensor]) -> dict[str, float]:
    """Fetch metrics from a device, all at once."""
    return dict(zip(metrics, torch.stack([value.double() for value in metrics.values()]).tolist(), strict=True))
