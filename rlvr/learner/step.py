"""The learner as a plain class: one model, one optimizer, one step at a time."""

from __future__ import annotations

import contextlib
import ctypes
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlvr.core.losses import token_weights
from rlvr.core.packing import collect, pack
from rlvr.errors import NonFiniteError
from rlvr.learner.adapter import AdapterSettings
from rlvr.learner.algorithm import Algorithm, Totals
from rlvr.learner.body import plain_sample
from rlvr.learner.credit import credit, graded_rollouts, sampled
from rlvr.learner.critic import Critic
from rlvr.learner.objective import objective
from rlvr.learner.policy import Policy
from rlvr.learner.ranks import Ranks
from rlvr.learner.update import Updater
from rlvr.types import Batch, Group, Sample

__all__ = ["Learner", "keep_freed_memory"]

# Metrics that are sums over tokens, and are told as means.
PER_TOKEN = ("entropy", "clipped", "mismatch", "kl", "correction", "correction_kept")


class Learner:
    """Trains a causal language model on graded groups: float32 master weights, matrix products in `precision`."""

    def __init__(
        self, folder: Path, algorithm: Algorithm, *, tokens_per_microbatch: int, threads: int | None = None,
        device: str = "cpu", precision: str = "bfloat16", gradient_checkpointing: bool = False, compile: bool = False,
        ranks: Ranks | None = None, adapter: AdapterSettings | None = None,
    ) -> None:  # fmt: skip
        if torch.device(device).type == "cpu":
            keep_freed_memory()
            torch.set_num_threads(threads or torch.get_num_threads())
        self.algorithm, self.tokens_per_microbatch, self.folder = algorithm, tokens_per_microbatch, folder
        self.dtype, self.ranks = getattr(torch, precision), ranks or Ranks()
        self.body = Policy(
            folder, dtype=self.dtype, device=device, temperature=algorithm.temperature, adapter=adapter,
            shard=lambda body: self.ranks.shard(body, dtype=self.dtype),
        )  # fmt: skip
        self.model = self.body.model
        self.updater = Updater(
            self.body.trained(), dtype=torch.float32 if adapter else self.dtype,  # adapters are float32 throughout
            groups=self.body.groups(algorithm.learning_rate), rate=algorithm.learning_rate, betas=algorithm.betas,
            eps=algorithm.adam_eps, weight_decay=algorithm.weight_decay,
        )  # fmt: skip
        self.critic = None
        if algorithm.baseline == "critic":
            self.critic = Critic(algorithm, self.body, folder=folder, dtype=self.dtype, ranks=self.ranks)
        for body in {self.body, self.critic.body if self.critic else self.body}:
            if gradient_checkpointing:
                body.recompute_layers()
            if compile:
                body.compile_layers()
        self.version = self.updates = 0  # steps, and optimizer updates of the policy

    def step(self, groups: Sequence[Group], totals: Totals) -> dict[str, float]:
        """Take one step on the groups and give its metrics. Without a gradient the weights stay as they are.

        Errors: NonFiniteError where loss or gradient is not finite; the weights are then as before that update.
        """
        a = self.algorithm
        rollouts = graded_rollouts(groups)
        plain = [plain_sample(r.prompt_ids, r.token_ids, mask=sampled(r)) for r in rollouts]
        reference = self._scored(plain, self.body.reference) if a.kl != "none" else None
        values = self._scored(plain, self.critic.predict) if self.critic else None
        if not all(np.isfinite(array).all() for array in values or ()):
            told = "a value of the critic is not finite; lower critic.learning_rate"
            raise NonFiniteError(f"step {self.version + 1}: {told}")
        samples = credit(groups, a, values=values, ref_logprobs=reference)
        warms_up = self.critic is not None and self.critic.warms_up(self.version)
        if a.old_logprobs == "learner" and a.updates > 1 and not warms_up:
            olds = self._scored(samples, self.body.logprobs)
            samples = [replace(s, old_logprobs=old) for s, old in zip(samples, olds, strict=True)]
        sums: Counter[str] = Counter()
        positives = sum(int(sample.loss_mask.sum()) for sample in samples if sample.correct)
        for part in self._minibatches(samples):
            if self.critic and (self.critic.own or warms_up):  # before the policy: never both graphs or gradients
                batches, tokens = self.microbatches(part), totals.loss_tokens / a.minibatches
                sums.update(self.ranks.total(self.critic.accumulate(part, batches, tokens=tokens)))
                sums.update(self._update(sums, critic_grad_norm=self.critic.updater))
            if not warms_up:
                sums.update(self.ranks.total(self._accumulate(part, totals, positives)))
                head = {} if self.critic is None or self.critic.own else {"critic_grad_norm": self.critic.updater}
                sums.update(self._update(sums, grad_norm=self.updater, **head))
        self.version += 1
        compared = self.critic.told(samples) if self.critic else {}
        return self._told(sums) | compared | {"learning_rate": self._rate(self.version - 1),
                                              "trained": float(len(samples))}  # fmt: skip

    @torch.no_grad()
    def score(self, sequences: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Give log p of every token but the first of each sequence, [T-1] each, at temperature 1, like an engine."""
        plain = [plain_sample(ids[:1], ids[1:]) for ids in sequences]
        return self._scored(plain, self.body.at(1.0).logprobs)

    def _minibatches(self, samples: Sequence[Sample]) -> Iterator[list[Sample]]:
        """Yield the samples of each update: whole groups, which share prompts, in an order drawn for each epoch."""
        a = self.algorithm
        if a.updates == 1:
            yield list(samples)
            return
        draw = np.random.default_rng([a.seed, self.version])
        groups = list(dict.fromkeys(sample.group_id for sample in samples))
        for _ in range(a.epochs):
            for part in np.array_split(draw.permutation(len(groups)), a.minibatches):
                chosen = {groups[index] for index in part}
                yield [sample for sample in samples if sample.group_id in chosen]

    def _accumulate(self, samples: Sequence[Sample], totals: Totals, positives: int) -> Counter[str]:
        """Add up the gradients of one update, and its metrics over tokens."""
        sums: Counter[str] = Counter()
        sums.update({"loss": 0.0, "tokens": 0.0})
        lengths = torch.tensor([int(sample.loss_mask.sum()) for sample in samples], dtype=torch.int64)
        for batch in self.microbatches(samples):
            sums.update(self._micro_step(batch, samples, totals, lengths, positives))
        return sums

    def _micro_step(
        self, batch: Batch, samples: Sequence[Sample], totals: Totals, lengths: Tensor, positives: int
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
            weights=weights, positive_tokens=positives,
        )  # fmt: skip
        total = (weights * per_token).sum() * a.minibatches  # a minibatch stands for the step
        told = {name: float(value) for name, value in metrics.items()}
        told |= {"loss": float(total.detach()), "tokens": float(len(logprobs))}
        if self.critic and not self.critic.own:
            value_loss, more = self.critic.loss(states, batch, samples, tokens=totals.loss_tokens / a.minibatches)
            total = total + self.critic.scale * value_loss
            told |= more
        total.backward()
        return told

    def _update(self, sums: Mapping[str, float], **updaters: Updater) -> dict[str, float]:
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
            updater.update(share=self._share(self.version), then=self._follow if updater is self.updater else None)
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

    def _told(self, sums: Counter[str]) -> dict[str, float]:
        tokens, valued = sums["tokens"], sums["value_tokens"]
        means = ("loss", "grad_norm", "value_loss", "critic_grad_norm")
        told = {name: sums[name] / self.algorithm.updates for name in means if name in sums}
        told["trained_tokens"] = (tokens or valued) / self.algorithm.epochs
        if valued:
            told["value_clipped"] = sums["value_clipped"] / valued
        if not tokens:
            return told  # without a single trained token the rest is unknown, and unknown is not 0
        told |= {name: sums[name] / tokens for name in PER_TOKEN if name in sums}
        if squares := sums.get("correction_squares"):
            told["effective_sample_size"] = sums["correction"] ** 2 / (tokens * squares)
        return told

    def _share(self, version: int) -> float:
        warmup = self.algorithm.warmup_steps
        return min(1.0, (version + 1) / warmup) if warmup else 1.0

    def _rate(self, version: int) -> float:
        return self.algorithm.learning_rate * self._share(version)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """See `Policy.tensors`."""
        return self.body.tensors()

    @contextlib.contextmanager
    def perturbed(self, wanted: bool = True) -> Iterator[None]:
        """See `Policy.perturbed`; nothing happens where it is not wanted."""
        with self.body.perturbed(self.updater.publish) if wanted else contextlib.nullcontext():
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
    of a step on CPU. Elsewhere than on glibc, and under a preloaded allocator, this does nothing.
    """
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(mmap_threshold, 2**30)
        library.mallopt(trim_threshold, 2**31 - 1)
