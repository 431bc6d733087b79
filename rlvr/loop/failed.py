"""What is kept of a run that fails: rollouts on their way to disk, the last whole step, a batch that was not finite."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from rlvr.config import Recipe
from rlvr.errors import CheckpointError, GradingError, LearnerError, NonFiniteError, RlvrError
from rlvr.loop.buffer import Admitted
from rlvr.loop.ledger import Place, RunDirectory, facts_of
from rlvr.loop.replay import FailedStep, save_batch

if TYPE_CHECKING:
    from rlvr.loop.cluster import Cluster

__all__ = ["kept_for_replay", "rollouts_on_disk", "saved_if_stopped"]


@contextmanager
def rollouts_on_disk(cluster: Cluster) -> Iterator[None]:
    """See that the rollouts of the last step are written, above all where a failure points at them."""
    try:
        yield
    except RlvrError:
        with suppress(RlvrError):  # the failure under way is the one to tell
            cluster.recorded()
        raise
    cluster.recorded()


@contextmanager
def saved_if_stopped(cluster: Cluster, run: RunDirectory, recipe: Recipe, step: int, place: Place) -> Iterator[None]:
    """Save the last whole step where the guard stops the run."""
    try:
        yield
    except (GradingError, LearnerError) as error:
        if step == 0 or run.saved(step):
            raise
        try:
            run.save(cluster, recipe, step=step, place=place)
        except CheckpointError:
            raise error from None  # why the run stops matters more
        raise type(error)(f"{error}; step {step} is saved, go on with --resume") from error


@contextmanager
def kept_for_replay(
    cluster: Cluster, run: RunDirectory, recipe: Recipe, step: int, place: Place, *, admitted: Admitted
) -> Iterator[None]:
    """Keep batch and weights of a step that is not finite."""
    try:
        yield
    except NonFiniteError as error:
        try:
            _keep(cluster, run, recipe, step, place, admitted=admitted, error=error)
        except RlvrError as lost:
            raise NonFiniteError(f"{error}; its batch could not be kept: {lost}") from error
        again = shlex.join(["rlvr", "replay", str(run.path), "--step", str(step + 1)])
        raise NonFiniteError(f"{error}; replay it with: {again}") from error


def _keep(
    cluster: Cluster, run: RunDirectory, recipe: Recipe, step: int, place: Place, *, admitted: Admitted,
    error: NonFiniteError,
) -> None:  # fmt: skip
    folder, groups = run.failed(step + 1), tuple(cluster.fetch(admitted.references))
    save_batch(folder, FailedStep(step=step + 1, totals=admitted.totals, error=str(error), groups=groups))
    if not step or run.saved(step):
        return
    if recipe.algorithm.updates == 1 and recipe.critic is None:
        run.save(cluster, recipe, step=step, place=place)
    else:  # an update of the step may have been taken
        cluster.save(folder / "weights", facts_of(recipe, step=step, place=place))
