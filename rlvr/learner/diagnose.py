"""A step computed again with each reply looked at alone: which one is not finite, and where in the model it begins."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rlvr.core.packing import collect, pack
from rlvr.errors import NonFiniteError
from rlvr.learner.algorithm import Totals
from rlvr.learner.step import Learner
from rlvr.types import Batch, Group, Sample

__all__ = ["Diagnosis", "SampleReport", "WatchedLearner"]

# What a sample brings along, in the words of a reader.
GIVEN = {
    "engine_logprobs": "the engine's log-probability", "old_logprobs": "the old log-probability",
    "advantages": "the advantage", "ref_logprobs": "the reference's log-probability", "returns": "the return",
    "old_values": "the old value",
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleReport:
    """One reply alone. Losses of all replies add up to the update's."""

    group_id: str
    index: int  # place in its group
    value: float
    tokens: int  # that carry loss
    advantage: float  # mean over them
    ratio: float  # the largest, of new to old probability
    mismatch: float  # mean |learner - engine|, nats
    loss: float
    grad_norm: float
    broken: str  # what is not finite first; empty where all is


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnosis:
    """What a step came to, and the replies of its last update: the one that failed, where one did."""

    error: str  # the learner's sentence; empty where the step is finite
    metrics: dict[str, float]
    samples: tuple[SampleReport, ...]


class WatchedLearner(Learner):
    """A learner that looks at each reply of an update alone before it computes the update."""

    _known: dict[int, tuple[str, int, float]]  # group, index and value by the identity of the token ids
    _reports: tuple[SampleReport, ...] = ()
    _refusal = ""  # of what the step was given
    progress: Callable[[int, int], None] = staticmethod(lambda done, of: None)  # replies of an update, and of how many

    def __init__(self, *given: Any, **settings: Any) -> None:
        from transformers.utils import logging

        logging.disable_progress_bar()  # a terminal shows the replies' own
        super().__init__(*given, **settings)

    def diagnose(self, groups: Sequence[Group], totals: Totals) -> Diagnosis:
        """Take a step as `step` does. The weights are then those after it or, where it failed, those that failed."""
        self._known = {
            id(rollout.token_ids): (group.group_id, rollout.index, float(value))
            for group in groups
            for rollout, value in zip(group.rollouts, group.values, strict=True)
        }
        self._reports, self._refusal = (), ""
        try:
            metrics, error = self.step(groups, totals), self._refusal
        except NonFiniteError as failure:
            metrics, error = {}, self._refusal or str(failure)
        return Diagnosis(error=error, metrics={} if error else metrics, samples=self._reports)

    def _demand_finite(self, *given: Any) -> None:
        try:
            super()._demand_finite(*given)
        except NonFiniteError as failure:  # go on, so that the replies are looked at all the same
            self._refusal = self._refusal or str(failure)

    def _accumulate(self, samples: Sequence[Sample], *rest: Any, **named: Any) -> Any:
        reports = []
        for sample, logprobs in zip(samples, self._sound(samples), strict=True):
            reports.append(self._report(sample, logprobs, *rest, **named))
            self.progress(len(reports), len(samples))
        self._reports = tuple(reports)
        return super()._accumulate(samples, *rest, **named)

    def _report(self, sample: Sample, logprobs: np.ndarray | None, *rest: Any, **named: Any) -> SampleReport:
        sums = super()._accumulate([sample], *rest, **named)
        gradients = {name: p.grad for name, p in self.updater.masters.items() if p.grad is not None}
        lost = [name for name, gradient in gradients.items() if not torch.isfinite(gradient).all()]
        norm = self.updater.gradient_norm(limit=float("inf"))
        self.updater.forget()
        if self.critic:
            self.critic.updater.forget()
        group, index, value = self._known[id(sample.token_ids)]
        ratio, mismatch, place = self._forward(sample, logprobs)
        broken = place or ("the loss" if not np.isfinite(sums["loss"]) else "")
        if not broken and lost:
            broken = f"the gradient of {lost[-1]}"  # the last in order is the nearest to the loss
        return SampleReport(
            group_id=group, index=index, value=value, tokens=int(sums["tokens"]),
            advantage=float(sample.advantages[sample.loss_mask].mean()) if sample.loss_mask.any() else 0.0,
            ratio=ratio, mismatch=mismatch, loss=float(sums["loss"]), grad_norm=norm, broken=broken,
        )  # fmt: skip

    @torch.no_grad()
    def _sound(self, samples: Sequence[Sample]) -> list[np.ndarray | None]:
        """Score many replies in one pass, log p [T] each; none for those of a pass in which a module broke."""
        found: list[np.ndarray | None] = [np.zeros(len(sample.token_ids), dtype=np.float32) for sample in samples]
        for batch in self.microbatches(samples):
            with _first_broken(self.model) as modules:
                logprobs = self.body.logprobs(batch)[0].float().cpu().numpy()
            for index in np.unique(batch.samples):
                here, array = batch.samples == index, found[index]
                if modules or array is None:
                    found[index] = None
                else:
                    array[batch.places[here]] = logprobs[here]
        return found

    @torch.no_grad()
    def _forward(self, sample: Sample, known: np.ndarray | None) -> tuple[float, float, str]:
        """Give the largest ratio, the mean mismatch, and the first place that is not finite."""
        (batch,) = pack([sample], max_tokens=self.tokens_per_microbatch)
        if not len(batch.samples):
            return 1.0, 0.0, ""
        modules: list[str] = []
        if known is not None:
            logprobs = torch.from_numpy(known[batch.places])
        else:
            with _first_broken(self.model) as modules:
                states = self.body.states(batch)
            logprobs = self.body.logprobs(batch, states=states)[0].float().cpu()
        if self.algorithm.old_logprobs == "learner" and self.algorithm.updates == 1:
            ratios = torch.ones_like(logprobs)
        else:
            ratios = torch.exp(logprobs - torch.from_numpy(collect([sample], batch, "old_logprobs")))
        gaps = (logprobs - torch.from_numpy(collect([sample], batch, "engine_logprobs"))).abs()
        place = f"the output of {modules[0]}" if modules else ""
        if not place and not torch.isfinite(logprobs).all():
            place = "the output head"
        place = place or _given(sample, batch) or _at("the ratio of new to old probability", ratios, batch)
        return float(ratios.max()), float(gaps.mean()), place


@contextmanager
def _first_broken(model: Any) -> Iterator[list[str]]:
    """Collect the names of modules whose output is not finite, in the order in which they are done."""
    found: list[str] = []

    def watch(name: str) -> Any:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            if not all(bool(torch.isfinite(part).all()) for part in _tensors(output)):
                found.append(name)

        return hook

    handles = [module.register_forward_hook(watch(name)) for name, module in model.named_modules() if name]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, dict):
        yield from _tensors(list(output.values()))
    elif isinstance(output, list | tuple):
        for part in output:
            yield from _tensors(part)


def _given(sample: Sample, batch: Batch) -> str:
    """Name what came with the sample and is not finite."""
    for name, words in GIVEN.items():
        if getattr(sample, name) is None:
            continue
        if place := _at(words, torch.from_numpy(collect([sample], batch, name)), batch):
            return place
    return ""


def _at(words: str, values: Tensor, batch: Batch) -> str:
    bad = ~torch.isfinite(values)
    return f"{words} at token {int(batch.places[int(bad.nonzero()[0])])}" if bad.any() else ""
