"""The learner as a plain class: one model, one optimizer, one step at a time."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlvr.core.correction import effective_share
from rlvr.core.losses import token_weights
from rlvr.core.packing import collect, pack
from rlvr.errors import NonFiniteError
from rlvr.learner.adapter import AdapterSettings
from rlvr.learner.algorithm import Algorithm, Totals
from rlvr.learner.body import plain_sample
from rlvr.learner.credit import credit, graded_rollouts, sampled
from rlvr.learner.critic import Critic, numbers
from rlvr.learner.minibatches import divide, passes
from rlvr.learner.objective import objective
from rlvr.learner.policy import Part, Policy
from rlvr.learner.ranks import Ranks
from rlvr.learner.update import Updater
from rlvr.types import Batch, Group, Rollout, Sample

__all__ = ["Learner", "keep_freed_memory"]

LARGEST_KEPT, MOST_KEPT = 2**24, 2**31 - 1  # bytes of a block, and of all, that the C library keeps when it is freed
# Metrics that are sums over tokens, and are told as means.
PER_TOKEN = ("entropy", "clipped", "mismatch", "kl", "correction", "correction_kept")


class Learner:
    """Trains a causal language model on graded groups: float32 master weights, `precision` as in a recipe."""

    def __init__(
        self, folder: Path, algorithm: Algorithm, *, tokens_per_microbatch: int, threads: int | None = None,
        device: str = "cpu", precision: str = "bfloat16", gradient_checkpointing: bool = False, compile: bool = False,
        ranks: Ranks | None = None, adapter: AdapterSettings | None = None, max_length: int | None = None,
    ) -> None:  # fmt: skip
        if torch.device(device).type == "cpu":
            keep_freed_memory()
            # oneDNN keeps buffers for each of the last 1024 shapes of products, and a shape seldom comes again
            os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "32")
            torch.set_num_threads(threads or torch.get_num_threads())
        self.algorithm, self.tokens_per_microbatch, self.folder = algorithm, tokens_per_microbatch, folder
        self.ranks, rounds = ranks or Ranks(), precision == "bfloat16_weights"
        if rounds and (adapter or self.ranks.count > 1):
            raise ValueError("bfloat16_weights rounds neither adapters nor what ranks share: take float32")
        self.dtype = torch.float32 if rounds else getattr(torch, precision)
        weights = torch.bfloat16 if rounds else self.dtype
        self.body = Policy(
            folder, dtype=self.dtype, weights=weights, device=device, temperature=algorithm.temperature,
            adapter=adapter, max_length=max_length, shard=lambda body: self.ranks.shard(body, dtype=self.dtype),
        )  # fmt: skip
        self.model = self.body.model
        self.updater = Updater(
            self.body.trained(), dtype=torch.float32 if adapter else self.dtype,  # adapters are float32 throughout
            weights=torch.float32 if adapter else weights,
            groups=self.body.groups(algorithm.learning_rate), rate=algorithm.learning_rate, betas=algorithm.betas,
            eps=algorithm.adam_eps, weight_decay=algorithm.weight_decay,
        )  # fmt: skip
        self.critic = None
        if algorithm.baseline == "critic":
            self.critic = Critic(
                algorithm, self.body, folder=folder, dtype=self.dtype, weights=weights, ranks=self.ranks
            )
        for body in {self.body, self.critic.body if self.critic else self.body}:
            if compile:
                body.compile_layers()
            if gradient_checkpointing:  # of what is compiled: the other way round nothing would be
                body.recompute_layers()
        if self.body.device.type == "cpu":
            count = sum(p.numel() for p in self.body.trained().values()) // self.ranks.count
            take_memory(12 * count)  # the gradient and AdamW's two moments, float32
        self.version = self.updates = 0  # steps, and optimizer updates of the policy
        self._began = 0  # `updates` as the step began

    def step(self, groups: Sequence[Group], totals: Totals) -> dict[str, float]:
        """Take one step on the groups and give its metrics. Without a gradient the weights stay as they are.

        With several updates a step is divided once, for all epochs, and old log-probabilities are scored part by part:
        before the first update a ratio is 1 to the bit, in any precision.
        Errors: NonFiniteError where loss, gradient or a number that they rest on is not finite; the weights, a
        critic's too, are then as before that update.
        """
        a, self._began = self.algorithm, self.updates
        samples = self._credited(groups)
        warms_up = self.critic is not None and self.critic.warms_up(self.version)
        draw = np.random.default_rng([a.seed, self.version])
        parts = divide(samples, parts=a.minibatches, draw=draw)
        if a.old_logprobs == "learner" and a.updates > 1 and not warms_up:
            parts = [self._with_old_logprobs(part) for part in parts]
        sums: Counter[str] = Counter({} if warms_up else {"loss": 0.0, "grad_norm": 0.0})
        positives = sum(int(sample.loss_mask.sum()) for sample in samples if sample.correct)
        for part in passes(parts, epochs=a.epochs, draw=draw):
            updaters = {}
            if not warms_up:
                sums.update(self.ranks.total(self._accumulate(part, totals, positives, len(parts))))
                updaters["grad_norm"] = self.updater
            if self.critic:
                if self.critic.own or warms_up:  # after the policy: both gradients, never both graphs
                    batches, tokens = self.microbatches(part), totals.loss_tokens / len(parts)
                    sums.update(self.ranks.total(self.critic.accumulate(part, batches, tokens=tokens)))
                updaters["critic_grad_norm"] = self.critic.updater
            sums.update(self._update(sums, updaters))
        told = self._told(sums, updates=len(parts) * a.epochs) | (self.critic.told(samples) if self.critic else {})
        if a.positive_nll:
            told["positive_tokens"] = float(positives)
        told |= {"learning_rate": a.learning_rate * self._share(self.updater), "trained": float(len(samples))}
        self.version += 1
        return told

    @torch.no_grad()
    def score(self, sequences: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Give log p of every token but the first of each sequence, [T-1] each, at temperature 1, like an engine."""
        plain = [plain_sample(ids[:1], ids[1:]) for ids in sequences]
        return self._scored(plain, self.body.at(1.0).logprobs)

    def _credited(self, groups: Sequence[Group]) -> list[Sample]:
        """Give the samples of a step that have a token to learn from. Errors: NonFiniteError."""
        a = self.algorithm
        rollouts = graded_rollouts(groups)
        masks = [sampled(rollout) for rollout in rollouts]
        pairs = list(zip(rollouts, masks, strict=True))
        self._demand_finite("the engine", rollouts, [np.where(mask, r.logprobs, 0.0) for r, mask in pairs])
        plain = [plain_sample(r.prompt_ids, r.token_ids, mask=mask) for r, mask in pairs]
        reference = self._scored(plain, self.body.reference) if a.kl != "none" else None
        if reference:
            self._demand_finite("the reference policy", rollouts, reference)
        values = self._scored(plain, self.critic.predict) if self.critic else None
        if not all(np.isfinite(array).all() for array in values or ()):
            told = "a value of the critic is not finite; lower critic.learning_rate"
            raise NonFiniteError(f"step {self.version + 1}: {told}")
        found = credit(groups, a, values=values, ref_logprobs=reference)
        return [sample for sample in found if sample.loss_mask.any()]

    def _demand_finite(self, whose: str, rollouts: Sequence[Rollout], logprobs: Sequence[np.ndarray]) -> None:
        for rollout, array in zip(rollouts, logprobs, strict=True):
            bad = np.flatnonzero(~np.isfinite(array))
            if len(bad):
                raise NonFiniteError(
                    f"step {self.version + 1}: the log-probability of {whose} at token {bad[0]} of reply "
                    f"{rollout.index} to task {rollout.task_id} is not finite; look at the rollouts of this step"
                )

    def _with_old_logprobs(self, part: Sequence[Sample]) -> list[Sample]:
        """Score a part as the update will: packed otherwise, bfloat16 rounds otherwise, and ratios were noise."""
        olds = self._scored(part, self.body.logprobs)
        return [replace(sample, old_logprobs=old) for sample, old in zip(part, olds, strict=True)]

    def _accumulate(self, samples: Sequence[Sample], totals: Totals, positives: int, parts: int) -> Counter[str]:
        """Add up the gradients of one update, one of `parts` in an epoch, and its metrics over tokens."""
        sums: Counter[str] = Counter()
        sums.update({"loss": 0.0, "tokens": 0.0})
        lengths = torch.tensor([int(sample.loss_mask.sum()) for sample in samples], dtype=torch.int64)
        for batch in self.microbatches(samples):
            sums.update(self._micro_step(batch, samples, totals, lengths, positives, parts))
        return sums

    def _micro_step(
        self, batch: Batch, samples: Sequence[Sample], totals: Totals, lengths: Tensor, positives: int, parts: int
    ) -> dict[str, float]:
        a = self.algorithm
        states = self.body.states(batch)
        logprobs, entropy = self.body.logprobs(batch, states=states)
        sequences = torch.from_numpy(batch.samples).to(logprobs.device)

        def of(name: str) -> Tensor:
            return torch.from_numpy(collect(samples, batch, name)).to(logprobs.device)

        weights = token_weights(
            sequences, per=a.loss_per, num_loss_tokens=totals.loss_tokens, num_sequences=totals.sequences,
            lengths=lengths.to(sequences.device), constant=a.loss_constant,
        )  # fmt: skip
        old = logprobs.detach() if a.old_logprobs == "learner" and a.updates == 1 else of("old_logprobs")
        per_token, metrics = objective(
            a, logprobs=logprobs, entropy=entropy, old_logprobs=old, engine_logprobs=of("engine_logprobs"),
            advantages=of("advantages"), sequences=sequences,
            ref_logprobs=of("ref_logprobs") if a.kl != "none" else None,
            correct=torch.tensor([s.correct for s in samples], device=sequences.device)[sequences],
            weights=weights, positive_tokens=positives, lags=self._lags(samples, batch, sequences.device),
        )  # fmt: skip
        total = (weights * per_token).sum() * parts  # a part stands for the step
        metrics["loss"] = total.detach()
        if self.critic and not self.critic.own:
            value_loss, more = self.critic.loss(states, batch, samples, tokens=totals.loss_tokens / parts)
            total = total + self.critic.scale * value_loss
            metrics |= more
        total.backward()
        counts = {"tokens": len(logprobs), "computed_tokens": len(batch.token_ids), "scored_tokens": len(batch.scored)}
        return numbers(metrics) | counts

    def _lags(self, samples: Sequence[Sample], batch: Batch, device: Any) -> Tensor | None:
        """Say how many versions ago each token was sampled; None where the policy is between two versions."""
        if self.updates != self._began and self.algorithm.old_logprobs != "learner":
            return None
        versions = torch.from_numpy(collect(samples, batch, "versions")).to(device, torch.int64)
        return self.version - versions

    def _update(self, sums: Mapping[str, float], updaters: Mapping[str, Updater]) -> dict[str, float]:
        """Take an optimizer step with each updater, all or none, and give the norms of their gradients."""
        if self.updater in updaters.values():
            self.body.before_update()
        if self.critic and "critic_grad_norm" in updaters:
            self.critic.meet()
        norms = {name: u.gradient_norm(limit=self.algorithm.max_grad_norm) for name, u in updaters.items()}
        for kind, section in (("value loss", "critic"), ("loss", "algorithm")):
            loss = sums.get(kind.replace(" ", "_"), 0.0)
            norm = norms.get("grad_norm" if section == "algorithm" else "critic_grad_norm", 0.0)
            if not (np.isfinite(loss) and np.isfinite(norm)):
                for updater in updaters.values():
                    updater.forget()
                raise NonFiniteError(
                    f"step {self.version + 1}: {kind} {loss} or gradient norm {norm} is not finite; "
                    f"lower {section}.learning_rate or look at the rollouts of this step"
                )
        for updater in updaters.values():
            updater.update(share=self._share(updater), then=self._follow if updater is self.updater else None)
        return norms

    def _follow(self) -> None:
        self.updates += 1
        self.body.after_update(self.updates)

    def _scored(self, samples: Sequence[Sample], forward: Callable[[Batch], tuple[Tensor, Any]]) -> list[np.ndarray]:
        """Give a number for each loss token of each sample, [T] each, 0 elsewhere, without gradient."""
        arrays = [np.zeros(len(sample.token_ids), dtype=np.float32) for sample in samples]
        with torch.no_grad():
            for batch in self.microbatches(samples):
                found = forward(batch)[0].float().cpu().numpy()
                for index in np.unique(batch.samples):
                    here = batch.samples == index
                    arrays[index][batch.places[here]] = found[here]
        return self.ranks.combine(arrays)

    def microbatches(self, samples: Sequence[Sample]) -> Sequence[Batch]:
        """Give the micro-batches of this rank."""
        return self.ranks.share(pack(samples, max_tokens=self.tokens_per_microbatch, ranks=self.ranks.count))

    def _told(self, sums: Counter[str], *, updates: int) -> dict[str, float]:
        tokens, valued = sums["tokens"], sums["value_tokens"]
        means = ("loss", "grad_norm", "value_loss", "critic_grad_norm")
        told = {name: sums[name] / max(updates, 1) for name in means if name in sums}
        told["trained_tokens"] = (tokens or valued) / self.algorithm.epochs
        if valued:
            told["value_clipped"] = sums["value_clipped"] / valued
        if not tokens:
            return told  # without a single trained token the rest is unknown, and unknown is not 0
        told |= {name: sums[name] / self.algorithm.epochs for name in ("computed_tokens", "scored_tokens")}
        told |= {name: sums[name] / tokens for name in PER_TOKEN if name in sums}
        lags = [name.removeprefix("tokens") for name in sums if name.startswith("tokens_lag_")]
        told |= {f"mismatch{lag}": sums[f"mismatch{lag}"] / sums[f"tokens{lag}"] for lag in sorted(lags)}
        if "correction" in sums:
            found = effective_share(sums["correction"], squares=sums["correction_squares"], count=tokens)
            told["effective_sample_size"] = found
        return told

    def _share(self, updater: Updater) -> float:
        """Give the share of its learning rate in this step. The policy's warm-up follows the critic's."""
        begun = self.version + 1
        if self.critic and updater is self.updater:
            begun -= self.critic.settings.warmup_steps
        return min(1.0, max(0, begun) / max(1, self.algorithm.warmup_steps))

    def tensors(self, part: Part = "model") -> Iterator[tuple[str, Tensor]]:
        """See `Policy.tensors`."""
        return self.body.tensors(part)

    @contextlib.contextmanager
    def perturbed(self, wanted: bool = True, *, part: Part = "model") -> Iterator[None]:
        """See `Policy.perturbed`; nothing happens where it is not wanted. The base is scored without its adapter."""
        with (
            self.body.perturbed(self.updater, part=part) if wanted else contextlib.nullcontext(),
            self.body.without_adapter() if part == "base" else contextlib.nullcontext(),
        ):
            yield

    def state(self) -> dict[str, Any]:
        """Give what a resumed run needs beside the float32 masters."""
        critic = {"critic": self.critic.updater.optimizer.state_dict()} if self.critic else {}
        counts = {"version": self.version, "updates": self.updates}
        return self.ranks.gather({"optimizer": self.updater.optimizer.state_dict(), **counts, **critic})

    def restore(
        self, masters: Mapping[str, Tensor], state: Mapping[str, Any], *, critic: Mapping[str, Tensor] | None = None
    ) -> None:
        """Take up masters or an adapter, optimizers, and a critic where there is one, as a checkpoint holds them."""
        self.body.load(masters)
        self.updater.restore(self.updater.masters if self.body.adapter else masters, state["optimizer"])
        if self.critic:
            self.critic.updater.restore(critic or {}, state["critic"])
        self.version, self.updates = int(state["version"]), int(state["updates"])


def keep_freed_memory() -> None:
    """Let the C library keep what is freed: handing tensors back to the kernel and faulting them in again costs a third
    of a step on CPU. Blocks of the output head's size go back all the same, since they leave holes that no other one
    fits: with them the quick start's learner grew by 75 MB a step.
    Elsewhere than on glibc, and under a preloaded allocator, this does nothing.
    """
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(mmap_threshold, LARGEST_KEPT)
        library.mallopt(trim_threshold, MOST_KEPT)


def take_memory(size: int) -> None:
    """Have the kernel hand out what the first step will need, in bytes, while engines still start.

    A virtual machine may take three seconds for a gigabyte.
    """
    block = LARGEST_KEPT // 2
    held = [torch.empty(block, dtype=torch.uint8).fill_(0) for _ in range(min(size, MOST_KEPT) // block)]
    held.clear()  # the C library keeps it
