"""Which groups train the learner, and what became of the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlvr.core.staleness import Admission, admit
from rlvr.learner.algorithm import Totals
from rlvr.types import GroupHeader

__all__ = ["Admitted", "Buffer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """The groups of a step that carry gradient, with the denominators of the whole step."""

    references: tuple[Any, ...]
    loss_tokens: int
    sequences: int
    idle_tokens: int  # sampled for groups that neither train nor count
    counts: dict[str, int]  # groups by `Admission`
    lags: tuple[int, ...] = ()  # learner version less the oldest that a group was sampled under, of each that trains

    @property
    def totals(self) -> Totals:
        """Give the denominators of the loss."""
        return Totals(loss_tokens=self.loss_tokens, sequences=self.sequences)

    def shares(self) -> dict[str, float]:
        """Give what became of the groups, for the metrics of the step."""
        return {f"groups_{fate}": float(count) for fate, count in self.counts.items()}

    def staleness(self, *, most: int) -> dict[str, float]:
        """Give how old the groups are that train, in versions: mean, largest and shares; nothing where none trains."""
        if not self.lags:
            return {}
        shares = {f"staleness_{lag}": self.lags.count(lag) / len(self.lags) for lag in range(most + 1)}
        return {"staleness": sum(self.lags) / len(self.lags), "staleness_max": float(max(self.lags))} | shares


class Buffer:
    """Applies the admission rules to headers. It never looks into a group.

    The denominators are those of every rollout with a value in a group that is fresh enough. A flat group counts in
    them, as its tokens are part of the mean; where others are sampled in its place (`flat_groups_count=False`), it
    does not, as if it had never been drawn. Ungraded and masked rollouts never count, and of a group that is left out
    because too few others remain, or because it is stale, nothing does.
    """

    def __init__(
        self, *, max_staleness: int, flat_groups_have_no_gradient: bool, flat_groups_count: bool = True, least: int = 2
    ) -> None:
        self.max_staleness, self.flat_groups_have_no_gradient = max_staleness, flat_groups_have_no_gradient
        self.flat_groups_count, self.least = flat_groups_count, least

    def fate(self, header: GroupHeader, learner_version: int) -> Admission:
        """Decide what becomes of one group."""
        return admit(
            header, learner_version, max_staleness=self.max_staleness, least=self.least,
            flat_groups_have_no_gradient=self.flat_groups_have_no_gradient,
        )  # fmt: skip

    def admit(self, arrived: Sequence[tuple[GroupHeader, Any]], learner_version: int) -> Admitted:
        """Sort a step's groups. A reference is kept only for what trains."""
        kept, lags, counts = [], [], Counter({kind.value: 0 for kind in Admission})
        tokens = sequences = idle = 0
        for header, reference in arrived:
            fate = self.fate(header, learner_version)
            counts[fate.value] += 1
            if fate is Admission.TRAIN:
                kept.append(reference)
                lags.append(learner_version - header.min_version)
            if fate is Admission.TRAIN or (fate is Admission.FLAT and self.flat_groups_count):
                tokens += sum(n for n, counted in zip(header.lengths, header.counted, strict=True) if counted)
                sequences += sum(header.counted)
            else:
                idle += sum(header.lengths)
        return Admitted(
            references=tuple(kept), loss_tokens=tokens, sequences=sequences, idle_tokens=idle, counts=dict(counts),
            lags=tuple(lags),
        )  # fmt: skip
