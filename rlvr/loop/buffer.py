"""Which groups train the learner, and what became of the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rlvr.core.staleness import Admission, admit
from rlvr.types import GroupHeader

__all__ = ["Admitted", "Buffer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """The groups of a step that carry gradient, with the denominators of the whole step."""

    references: tuple[Any, ...]
    loss_tokens: int  # of every graded rollout that is fresh enough, flat groups included
    sequences: int
    counts: dict[str, int]  # groups by `Admission`

    def shares(self) -> dict[str, float]:
        """Give what became of the groups, for the metrics of the step."""
        return {f"groups_{fate}": float(count) for fate, count in self.counts.items()}


class Buffer:
    """Applies the admission rules to headers. It never looks into a group."""

    def __init__(self, *, max_staleness: int, flat_groups_have_no_gradient: bool) -> None:
        self.max_staleness, self.flat_groups_have_no_gradient = max_staleness, flat_groups_have_no_gradient

    def admit(self, arrived: Sequence[tuple[GroupHeader, Any]], learner_version: int) -> Admitted:
        """Sort a step's groups. A reference is kept only for what trains."""
        kept, counts = [], Counter({kind.value: 0 for kind in Admission})
        tokens = sequences = 0
        for header, reference in arrived:
            fate = admit(
                header, learner_version, max_staleness=self.max_staleness,
                flat_groups_have_no_gradient=self.flat_groups_have_no_gradient,
            )  # fmt: skip
            counts[fate.value] += 1
            if fate is Admission.TRAIN:
                kept.append(reference)
            if fate in (Admission.TRAIN, Admission.FLAT):
                tokens += sum(n for n, graded in zip(header.lengths, header.graded, strict=True) if graded)
                sequences += sum(header.graded)
        return Admitted(references=tuple(kept), loss_tokens=tokens, sequences=sequences, counts=dict(counts))
