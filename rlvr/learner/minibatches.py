"""Which samples an update takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from rlvr.types import Sample

__all__ = ["divide", "passes"]


def divide(samples: Sequence[Sample], *, parts: int, draw: np.random.Generator) -> list[list[Sample]]:
    """Divide samples into parts of whole groups, which share prompts: fewer parts where there are fewer groups."""
    groups = list(dict.fromkeys(sample.group_id for sample in samples))
    if not groups:
        return []
    found = []
    for places in np.array_split(draw.permutation(len(groups)), min(parts, len(groups))):
        chosen = {groups[place] for place in places}
        found.append([sample for sample in samples if sample.group_id in chosen])
    return found


def passes(parts: Sequence[list[Sample]], *, epochs: int, draw: np.random.Generator) -> Iterator[list[Sample]]:
    """Yield every part once an epoch, from the second epoch on in an order drawn anew.

    The parts stay what they are: a part is packed alike whenever it is computed, so that its ratios hold what the
    updates changed and nothing of how it was packed.
    """
    for epoch in range(epochs):
        for place in draw.permutation(len(parts)) if epoch else range(len(parts)):
            yield parts[place]
