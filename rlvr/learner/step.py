"""The learner as a plain class: one model, one optimizer, one step at a time."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rlvr.core.logprobs import token_logprobs
from rlvr.core.losses import clipped_surrogate, token_weights
from rlvr.core.packing import pack, visible
from rlvr.errors import LearnerError, ModelError
from rlvr.learner.algorithm import Algorithm, Totals
from rlvr.learner.credit import credit
from rlvr.learner.model import load_model
from rlvr.types import Batch, Group, Sample

__all__ = ["Learner", "keep_freed_memory"]


class Learner:
    """Trains a causal language model on graded groups: float32 master weights, bfloat16 matrix products."""

    def __init__(
        self, folder: Path, algorithm: Algorithm, *, tokens_per_microbatch: int, threads: int | None = None,
        device: str = "cpu", autocast: bool = True,
    ) -> None:  # fmt: skip
        if torch.device(device).type == "cpu":
            keep_freed_memory()
            torch.set_num_threads(threads or torch.get_num_threads())
        self.algorithm, self.tokens_per_microbatch = algorithm, tokens_per_microbatch
        self.device, self.autocast = torch.device(device), autocast
        self.folder = folder
        self.model = load_model(folder).to(self.device)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=algorithm.learning_rate, betas=algorithm.betas, eps=algorithm.adam_eps,
            weight_decay=algorithm.weight_decay, fused=True,
        )  # fmt: skip
        self.version = 0
        self._check_head()

    def step(self, groups: Sequence[Group], totals: Totals) -> dict[str, float]:
        """Take one optimizer step on the groups and give its metrics. Without a gradient the weights stay as they are.

        Errors: LearnerError where loss or gradient is not finite; the weights are then untouched.
        """
        samples = credit(groups, self.algorithm)
        metrics = self._accumulate(samples, totals)
        rate = self._learning_rate()
        norm = float(torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.algorithm.max_grad_norm))
        if not (np.isfinite(metrics["loss"]) and np.isfinite(norm)):
            self.optimizer.zero_grad(set_to_none=True)
            raise LearnerError(
                f"step {self.version + 1}: loss {metrics['loss']} or gradient norm {norm} is not finite; "
                "lower algorithm.learning_rate or look at the rollouts of this step"
            )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.version += 1
        return metrics | {"grad_norm": norm, "learning_rate": rate, "trained": float(len(samples))}

    @torch.no_grad()
    def score(self, sequences: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Give log p of every token but the first of each sequence, [T-1] each, at temperature 1, like an engine."""
        results: dict[int, np.ndarray] = {}
        with self._precision():
            for length in {len(ids) for ids in sequences}:  # equal lengths go through together, without padding
                places = [place for place, ids in enumerate(sequences) if len(ids) == length]
                rows = np.stack([np.asarray(sequences[place], dtype=np.int64) for place in places])
                tokens = torch.from_numpy(rows).to(self.device)
                hidden = self.model.base_model(input_ids=tokens, use_cache=False).last_hidden_state[:, :-1]
                logprobs, _ = token_logprobs(
                    hidden.flatten(0, 1), self._head(), tokens[:, 1:].flatten(), dtype=self._matmul_dtype()
                )
                results |= dict(zip(places, logprobs.view(len(places), -1).float().cpu().numpy(), strict=True))
        return [results[place] for place in range(len(sequences))]

    def _accumulate(self, samples: Sequence[Sample], totals: Totals) -> dict[str, float]:
        sums = dict.fromkeys(("loss", "entropy", "clipped", "mismatch", "tokens"), 0.0)
        lengths = torch.tensor([int(sample.loss_mask.sum()) for sample in samples], dtype=torch.int64)
        with self._precision():  # one cast of the weights serves every micro-batch
            for batch in pack(samples, max_tokens=self.tokens_per_microbatch) if samples else []:
                for name, value in self._micro_step(batch, totals, lengths).items():
                    sums[name] += value
        tokens = sums.pop("tokens")
        loss = sums.pop("loss")
        # without a single trained token these are unknown, and unknown is not 0
        means = {name: value / tokens for name, value in sums.items()} if tokens else {}
        return {"loss": loss, "trained_tokens": tokens, **means}

    def _micro_step(self, batch: Batch, totals: Totals, lengths: torch.Tensor) -> dict[str, float]:
        logprobs, entropy = self.forward(batch)
        old = torch.from_numpy(batch.old_logprobs).to(self.device)
        advantages = torch.from_numpy(batch.advantages).to(self.device)
        loss, clipped = clipped_surrogate(
            logprobs, old, advantages, low=self.algorithm.clip_low, high=self.algorithm.clip_high
        )
        weights = token_weights(
            torch.from_numpy(batch.sequences), per=self.algorithm.loss_per, num_loss_tokens=totals.loss_tokens,
            num_sequences=totals.sequences, lengths=lengths, constant=self.algorithm.loss_constant,
        ).to(self.device)  # fmt: skip
        total = (weights * loss).sum()
        total.backward()
        return {
            "loss": float(total.detach()),
            "entropy": float(entropy.sum()),
            "clipped": float(clipped.sum()),
            "mismatch": float((logprobs.detach() - old).abs().sum()),
            "tokens": float(len(old)),
        }

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Give log-probabilities and entropies [N] of a packed batch's loss tokens, after temperature, in nats."""
        tokens = torch.from_numpy(batch.token_ids).to(self.device)
        hidden = self.model.base_model(
            input_ids=tokens,
            position_ids=torch.from_numpy(batch.positions).to(self.device),
            attention_mask=torch.from_numpy(visible(batch.segments)).to(self.device),
            use_cache=False,
        ).last_hidden_state
        chosen = hidden.flatten(0, 1)[torch.from_numpy(batch.sources).to(self.device)]
        targets = torch.from_numpy(batch.targets).to(self.device)
        return token_logprobs(
            chosen, self._head(), targets, temperature=self.algorithm.temperature, dtype=self._matmul_dtype()
        )

    @torch.no_grad()
    def _check_head(self) -> None:
        """Make sure that logits are hidden states times the head, as `token_logprobs` takes them to be."""
        tokens = torch.arange(1, 9, device=self.device)[None]
        whole = self.model(input_ids=tokens, use_cache=False).logits[0, :-1].float().log_softmax(-1)
        hidden = self.model.base_model(input_ids=tokens, use_cache=False).last_hidden_state[0, :-1]
        ours, _ = token_logprobs(hidden, self._head(), tokens[0, 1:])
        if not torch.allclose(whole.gather(1, tokens[0, 1:, None])[:, 0], ours, atol=1e-3):
            raise ModelError(
                f"the model in {self.folder} does more to its logits than multiply by the output head (a bias, a soft "
                "cap or a scale), which this learner does not do"
            )

    def _head(self) -> torch.Tensor:
        return self.model.get_output_embeddings().weight

    def _matmul_dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.autocast else torch.float32

    @contextlib.contextmanager
    def _precision(self) -> Iterator[None]:
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.autocast):
            yield

    def _learning_rate(self) -> float:
        warmup = self.algorithm.warmup_steps
        share = min(1.0, (self.version + 1) / warmup) if warmup else 1.0
        return self.algorithm.learning_rate * share

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield every tensor by name as the engine takes it, in bfloat16; a tied output head is named explicitly."""
        seen = set()
        for name, tensor in self.model.state_dict().items():
            seen.add(name)
            yield name, tensor.detach().to(torch.bfloat16)
        if "lm_head.weight" not in seen:
            yield "lm_head.weight", self._head().detach().to(torch.bfloat16)

    @contextlib.contextmanager
    def perturbed(self, wanted: bool = True) -> Iterator[None]:
        """Multiply every weight by 1 + 0.2 e, e ~ N(0, 1), within the block; put the exact weights back after it."""
        if not wanted:
            yield
            return
        generator = torch.Generator().manual_seed(0)
        kept = [p.detach().clone() for p in self.model.parameters()]
        with torch.no_grad():
            for p in self.model.parameters():
                noise = torch.randn(p.shape, generator=generator).to(p.device)
                # a tensor of zeros, as a fresh bias is, would not move by a factor
                p.copy_(p * (1.0 + 0.2 * noise) if p.any() else 0.01 * noise)
        try:
            yield
        finally:
            with torch.no_grad():
                for p, old in zip(self.model.parameters(), kept, strict=True):
                    p.copy_(old)

    def state(self) -> dict[str, Any]:
        """Give what a resumed run needs beside the model's float32 weights."""
        return {"optimizer": self.optimizer.state_dict(), "version": self.version}

    def restore(self, weights: Mapping[str, torch.Tensor], state: Mapping[str, Any]) -> None:
        """Take up weights and optimizer as a checkpoint holds them."""
        self.model.load_state_dict(weights, strict=True)
        self.optimizer.load_state_dict(dict(state["optimizer"]))
        self.version = int(state["version"])


def keep_freed_memory() -> None:
    """Let the C library keep what is freed: handing tensors back to the kernel and faulting them in again costs a third
    of a step on CPU. Elsewhere than on glibc, and under a preloaded allocator, this does nothing.
    """
    trim_threshold, mmap_threshold = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
    with contextlib.suppress(OSError, AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(mmap_threshold, 2**30)
        library.mallopt(trim_threshold, 2**31 - 1)
