"""The learner as a Ray actor."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from rlvr.learner import checkpoint
from rlvr.learner.algorithm import Algorithm, Totals
from rlvr.types import Group, Manifest

__all__ = ["LearnerActor"]


@ray.remote(num_cpus=0)
class LearnerActor:
    """A coat around `Learner`: takes groups by reference, lends its tensors, saves and restores."""

    def __init__(self, folder: str, algorithm: Algorithm, **settings: Any) -> None:
        from rlvr.learner.step import Learner  # here, so that the driver, which names this class, never loads torch

        self._sender: Any = None
        self._lent_perturbed = False  # what the last export was, so that `send` sends the same
        self._learner = Learner(Path(folder), algorithm, **settings)

    def step(self, references: Sequence[Any], totals: Totals) -> dict[str, float]:
        """Fetch the groups and take one step. Gives the learner's metrics with its seconds."""
        start = time.perf_counter()
        groups: list[Group] = ray.get(list(references))
        metrics = self._learner.step(groups, totals)
        return metrics | {"learner_seconds": time.perf_counter() - start}

    def export(
        self, write: Callable[..., Manifest], *, version: int, folder: str, sequences: Sequence[NDArray[np.int32]],
        perturbed: bool,
    ) -> tuple[Manifest, list[NDArray[np.float32]]]:  # fmt: skip
        """Let `write` export the tensors here, where they are, and score the canary with the same ones."""
        self._lent_perturbed = perturbed
        with self._learner.perturbed(perturbed):
            return write(self._learner.tensors(), version=version, folder=folder), self._learner.score(sequences)

    def send(self, make_sender: Callable[..., Any]) -> None:
        """Send the tensors to the engines over a GPU transport; the channel stays open between pushes."""
        if self._sender is None:
            self._sender = make_sender(tensors=self._learner.tensors)
        with self._learner.perturbed(self._lent_perturbed):
            self._sender.send()

    def save(self, folder: str, facts: dict[str, Any]) -> None:
        """See `checkpoint.save`."""
        checkpoint.save(self._learner, Path(folder), facts=facts)

    def restore(self, folder: str) -> dict[str, Any]:
        """See `checkpoint.restore`."""
        return checkpoint.restore(self._learner, Path(folder))

    def version(self) -> int:
        """Give the number of optimizer steps taken."""
        return self._learner.version
