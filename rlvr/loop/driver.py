"""The story of a run, from top to bottom."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlvr import plugins
from rlvr.config import AdapterSection, AlgorithmSection, Recipe
from rlvr.errors import ConfigError
from rlvr.learner.model import prepare
from rlvr.loop import evaluate
from rlvr.loop.book import Clock, StepBook
from rlvr.loop.cluster import Cluster
from rlvr.loop.failed import kept_for_replay, rollouts_on_disk, saved_if_stopped
from rlvr.loop.guard import Guard
from rlvr.loop.ledger import Place, RunDirectory, TaskStream, eval_tasks
from rlvr.loop.results import evaluation, show, summary_of
from rlvr.loop.settings import buffer_of, check_targets, compares_within_groups, with_precision
from rlvr.loop.stop import Interrupted, stop_signals
from rlvr.loop.stream import Stream
from rlvr.loop.truthfulness import truthfulness_metrics
from rlvr.loop.warm_start import STOPPED_WITHIN, after_warm_start, warm_up
from rlvr.observe.metrics import write_json
from rlvr.observe.progress import RunView
from rlvr.rollout.runner import seed_of
from rlvr.weights.service import Fault

__all__ = ["Interrupted", "evaluate_model", "train"]

PRECISIONS = {
    "bfloat16": "bfloat16", "float32": "float32", "bfloat16_weights": "float32 with weights rounded to bfloat16"
}  # fmt: skip
BEFORE_WARM_START = -1  # version of the weights that a warm start begins with; it ends with version 0


def train(
    recipe: Recipe, *, run_dir: Path, resume: bool = False, fault: Fault | None = None, view: RunView,
    began: float | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train by the recipe and give the summary. `began` is when the command started, by `time.perf_counter`.

    Errors: RlvrError, or Interrupted once the run is saved.
    """
    began = time.perf_counter() if began is None else began
    run = RunDirectory(run_dir)
    environment = plugins.create(plugins.ENVIRONMENTS, recipe.environment.name, recipe.environment.options)
    held_out = eval_tasks(environment, name=recipe.environment.name, count=recipe.eval.tasks)
    checkpoint = run.newest(needed=recipe.sft is None) if resume else None
    recipe, facts = _as_begun(recipe, run, facts=run.facts(checkpoint) if resume else None)
    model = prepare(recipe.model.path)
    check_targets(recipe, model)
    if not resume and (moved := run.begin(recipe)):
        view.warn(f"an older run was moved to {moved}")

    with Cluster(recipe, model=model, warn=view.warn) as cluster, stop_signals(view.warn) as stop:
        if checkpoint:
            cluster.restore(checkpoint)
        step, place = run.resume(recipe, facts) if facts else (0, Place())
        warms_up = recipe.sft is not None and checkpoint is None
        stop.then = STOPPED_WITHIN if warms_up else stop.then
        if fault and fault.version < step:
            raise ConfigError(f"--inject: version {fault.version} is past, the run goes on from version {step}")
        view.phase(_ready(recipe, seconds=time.perf_counter() - began))
        view.phase(_told(cluster.prove(held_out, BEFORE_WARM_START if warms_up else step, fault=fault)))
        cluster.keep_records(run.rollouts, until=step)
        book = StepBook(run, recipe, view)
        before = evaluation(run.path / "eval_before.jsonl", cluster, held_out, reuse=resume)
        show(view, "before", before, recipe)
        if warms_up:
            warm_up(cluster, run, recipe, environment=environment, held_out=held_out, view=view, stop=stop)
        warmed = after_warm_start(cluster, run, recipe, step, held_out=held_out, view=view, before=before)

        guard = Guard(
            recipe.guard, within_groups=compares_within_groups(recipe), max_mismatch=recipe.weights.max_mismatch
        )
        tasks = TaskStream(environment, name=recipe.environment.name, seed=recipe.seed, place=place)
        stream = Stream(cluster, tasks, buffer_of(recipe), recipe=recipe, step=step, worthwhile=guard.graded)
        with rollouts_on_disk(cluster):
            while step < recipe.steps and not stop.asked:
                clock = Clock()
                with clock.phase("rollout"):
                    taken = stream.take()
                cluster.record(step + 1, taken.arrived)  # before anything can fail that these rollouts explain
                headers, admitted = taken.headers, taken.admitted
                with saved_if_stopped(cluster, run, recipe, step, place):
                    guard.check(headers, admitted.counts, step=step + 1)
                with clock.phase("learn"), kept_for_replay(cluster, run, recipe, step, place, admitted=admitted):
                    learned = stream.learn(admitted) | taken.metrics()
                guard.check_mismatch(learned, version=step)
                step, place = step + 1, stream.place
                with clock.phase("push"):
                    receipts = stream.publish(step)
                if recipe.eval.every and step % recipe.eval.every == 0 and step < recipe.steps:
                    with clock.phase("eval"):
                        receipts += stream.settle()
                        lines = evaluation(run.path / f"eval_step-{step:06d}.jsonl", cluster, held_out, reuse=False)
                    learned |= truthfulness_metrics(lines, weights=recipe.eval.truthfulness)
                    show(view, f"at step {step}", lines, recipe, before=before)
                if recipe.checkpoint.every and step % recipe.checkpoint.every == 0 and step < recipe.steps:
                    with clock.phase("checkpoint"):
                        run.save(cluster, recipe, step=step, place=place)
                learned["graders_lost"] = cluster.lost_graders()
                book.write(step, headers, receipts, learned=learned, clock=clock)
        run.save(cluster, recipe, step=step, place=place)
        stream.settle()
        book.finish()
        if stop.asked:
            raise Interrupted(f"stopped after step {step} of {recipe.steps} and saved in {run.path}")
        stop.then = "training is over and saved, the run ends after this evaluation"
        after = evaluation(run.path / "eval_after.jsonl", cluster, held_out, reuse=False)
        show(view, "after", after, recipe, before=before)
        summary = summary_of(recipe, before, after, warmed=warmed, seconds=time.perf_counter() - began)
        write_json(run.summary, summary)
        view.finish(summary, run_dir=run.path)
        return summary


def _as_begun(
    recipe: Recipe, run: RunDirectory, *, facts: dict[str, Any] | None
) -> tuple[Recipe, dict[str, Any] | None]:
    """Settle the recipe's precision. Check that the recipe goes on with the run that the facts are of, if any."""
    recipe = with_precision(recipe, begun=facts["recipe"] if facts else {})
    return recipe, run.compare(recipe, facts) if facts else None


def evaluate_model(recipe: Recipe, *, view: RunView, samples: int, out: Path) -> list[dict[str, Any]]:
    """Evaluate a model on the held-out tasks: greedily with one sample, at the recipe's temperature with more."""
    environment = plugins.create(plugins.ENVIRONMENTS, recipe.environment.name, recipe.environment.options)
    tasks = eval_tasks(environment, name=recipe.environment.name, count=recipe.eval.tasks)
    with Cluster(_as_it_is(recipe), model=prepare(recipe.model.path), warn=view.warn) as cluster:
        cluster.prove(tasks, 0, fault=None)
        seeds = [seed_of(recipe.seed, "eval", place) for place in range(len(tasks))]
        arrived = cluster.rollout(tasks, seeds, group_size=samples, greedy=samples == 1)
        lines = evaluate.lines_of(cluster.fetch([group for _, group in arrived]))
        evaluate.write(out, lines)
        return lines


def _as_it_is(recipe: Recipe) -> Recipe:
    """Leave out what training adds to a model: an adapter, which may change it at once, a critic, a reference."""
    plain = {"adapter": AdapterSection(), "algorithm": AlgorithmSection(), "critic": None, "sft": None}
    return recipe.model_copy(update=plain)


def _told(proof: Mapping[str, float]) -> str:
    return (
        f"weights proven: {proof['proven_tensors']:.0f} of {proof['total_tensors']:.0f} tensors read back from the "
        f"live engine; canary {proof['canary_error']:.2g} nats, bound {proof['canary_bound']:.3f}"
    )


def _ready(recipe: Recipe, *, seconds: float) -> str:
    actors = f"learner and {recipe.rollout.workers} rollout worker(s)"
    return f"{actors} ready after {seconds:.0f} s, in {PRECISIONS[recipe.hardware.precision]}"
