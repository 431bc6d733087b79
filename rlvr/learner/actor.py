"""The learner as Ray actors: one, or one per rank. Rank 0 is the learner to all others and leads its followers."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import ray
from numpy.typing import NDArray

from rlvr.errors import LearnerError, brief, unwrapped
from rlvr.learner import checkpoint, sft
from rlvr.learner.algorithm import Algorithm, Totals
from rlvr.learner.ranks import Ranks, free_port
from rlvr.learner.sft import Demonstration, SftSettings
from rlvr.types import Group, Manifest

if TYPE_CHECKING:
    from torch import Tensor

    from rlvr.learner.policy import Part

__all__ = ["LearnerActor"]

DEATH_S = 20.0  # for Ray to notice that a rank's process is gone


@ray.remote(num_cpus=0)
class LearnerActor:
    """A coat around `Learner`: takes groups by reference, lends its tensors, saves and restores.

    With several ranks the first starts the others, with Ray's options `place` for each, and lets them run whatever
    it runs that needs all ranks: `step`, `gather`, `score`, `save`, `restore` and the warm start.
    """

    def __init__(
        self, folder: str, algorithm: Algorithm, *, ranks: Ranks | None = None, place: Mapping[str, Any] | None = None,
        niceness: int = 0, **settings: Any,
    ) -> None:  # fmt: skip
        self._make: dict[str, Any] = {"folder": Path(folder), "algorithm": algorithm, **settings}
        self._niceness = niceness
        self._ranks, self._place = ranks or Ranks(), dict(place or {})
        self._learner: Any = None
        self._followers: list[Any] = []
        self._sender: Any = None
        self._warming: Iterator[dict[str, float]] = iter(())
        self._lent: tuple[bool, Part] = False, "model"  # what the last export was, so that `send` sends the same

    def start(self) -> None:
        """Load the model, on all ranks. Here and not as the actor is made, where a failure keeps no sentence.

        Errors: ConfigError for an adapter without a target, ModelError, LearnerError where the ranks do not meet.
        """
        if self._niceness:  # of this thread, and of those that torch starts from it
            os.setpriority(os.PRIO_PROCESS, 0, self._niceness)
        from rlvr.learner.step import Learner  # here, so that the driver, which names this class, never loads torch

        if self._ranks.count > 1 and not self._ranks.rank:
            from rlvr.learner.actor import LearnerActor as Actor  # the name above is not known within a Ray process

            self._ranks = replace(self._ranks, host=ray.util.get_node_ip_address(), port=free_port())
            actor = cast(Any, Actor).options(**self._place)
            others = [self._ranks.of(rank) for rank in range(1, self._ranks.count)]
            self._followers = [actor.remote(**self._make, ranks=other, niceness=self._niceness) for other in others]
        with self._together("start"):
            self._learner = Learner(**self._make, ranks=self._ranks)

    def step(self, references: Sequence[Any], totals: Totals) -> dict[str, float]:
        """Fetch the groups and take one step. Gives the learner's metrics with its seconds."""
        start = time.perf_counter()
        with self._together("step", references, totals):
            groups: list[Group] = ray.get(list(references))
            metrics = self._learner.step(groups, totals)
        peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9
        return metrics | {"learner_seconds": time.perf_counter() - start, "learner_peak_gb": peak}

    def begin_warm_start(self, demonstrations: Sequence[Demonstration], settings: SftSettings) -> None:
        """See `sft.warm_start`: its updates are taken one by one."""
        with self._together("begin_warm_start", demonstrations, settings):
            self._warming = sft.warm_start(self._learner, demonstrations, settings)

    def warm_start_update(self) -> dict[str, float] | None:
        """Take the next update of the warm start. Gives its metrics with its seconds, or None once all are taken."""
        start = time.perf_counter()
        with self._together("warm_start_update"):
            metrics = next(self._warming, None)
        return metrics and metrics | {"seconds": time.perf_counter() - start}

    def refer_to(self, folder: str) -> None:
        """See `Policy.refer_to`."""
        with self._together("refer_to", folder):
            self._learner.body.refer_to(Path(folder))

    def export(
        self, write: Callable[..., Manifest], *, version: int, folder: str, sequences: Sequence[NDArray[np.int32]],
        perturbed: bool, part: Part = "model",
    ) -> tuple[Manifest, list[NDArray[np.float32]]]:  # fmt: skip
        """Let `write` export the tensors here, where they are, and score the canary with the same ones."""
        self._lent = perturbed, part
        with self._learner.perturbed(perturbed, part=part):
            manifest = write(self._tensors(), version=version, folder=folder)
            with self._together("score", sequences, perturbed, part):
                return manifest, self._learner.score(sequences)

    def send(self, make_sender: Callable[..., Any]) -> None:
        """Send the tensors to the engines over a GPU transport; the channel stays open between pushes."""
        if self._sender is None:
            self._sender = make_sender(tensors=self._tensors)
        perturbed, part = self._lent
        with self._learner.perturbed(perturbed, part=part):
            self._sender.send()

    def save(self, folder: str, facts: dict[str, Any]) -> None:
        """See `checkpoint.save`."""
        with self._together("save", folder, facts):
            checkpoint.save(self._learner, Path(folder), facts=facts)

    def restore(self, folder: str) -> dict[str, Any]:
        """See `checkpoint.restore`."""
        with self._together("restore", folder):
            return checkpoint.restore(self._learner, Path(folder))

    def version(self) -> int:
        """Give the number of optimizer steps taken."""
        return self._learner.version

    def gather(self, perturbed: bool, part: Part = "model") -> None:
        """Take part, as a follower, in the gathering of all tensors."""
        with self._together("gather", perturbed, part), self._learner.perturbed(perturbed, part=part):
            for _ in self._learner.tensors(part):
                pass

    def score(self, sequences: Sequence[NDArray[np.int32]], perturbed: bool, part: Part = "model") -> None:
        """Take part, as a follower, in scoring the canary."""
        with self._together("score", sequences, perturbed, part), self._learner.perturbed(perturbed, part=part):
            self._learner.score(sequences)

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        with self._together("gather", *self._lent):
            yield from self._learner.tensors(self._lent[1])

    @contextmanager
    def _together(self, call: str, *arguments: Any) -> Iterator[None]:
        """Let the followers run a call while the block runs here. Where one fails all do: see `Ranks.together`."""
        theirs = [getattr(follower, call).remote(*arguments) for follower in self._followers]
        try:
            with self._ranks.together():
                yield
                if theirs:
                    with unwrapped():
                        ray.get(theirs, timeout=self._ranks.deadline_s)
        except LearnerError:
            self._find_the_dead(theirs)
            raise

    def _find_the_dead(self, calls: Sequence[Any]) -> None:
        """Errors: LearnerError where a follower's process is gone, which is then the cause of all else."""
        if calls:
            ray.wait(list(calls), num_returns=len(calls), timeout=DEATH_S)
        for rank, call in enumerate(calls, start=1):
            try:
                ray.get(call, timeout=0)
            except (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError) as error:
                raise LearnerError(f"learner rank {rank} died: {brief(error)}") from error
            except (ray.exceptions.RayError, LearnerError):
                continue  # it lives, and failed as we did
