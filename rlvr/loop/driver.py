"""The story of a run, from top to bottom."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rlvr import plugins
from rlvr.config import AdapterSection, AlgorithmSection, Recipe
from rlvr.errors import ConfigError
from rlvr.learner.model import prepare
from rlvr.loop import evaluate
from rlvr.loop.cluster import Cluster
from rlvr.loop.failed import kept_for_replay, rollouts_on_disk, saved_if_stopped
from rlvr.loop.guard import Guard
from rlvr.loop.ledger import RunDirectory, TaskStream, eval_tasks
from rlvr.loop.results import evaluation, show, summary_of
from rlvr.loop.sampling import sample_step
from rlvr.loop.settings import buffer_of, check_targets, compares_within_groups
from rlvr.loop.stop import Interrupted, stop_signals
from rlvr.loop.truthfulness import truthfulness_metrics
from rlvr.loop.warm_start import STOPPED_WITHIN, after_warm_start, warm_up
from rlvr.observe.metrics import append_line, as_line, push_metrics, step_metrics, write_json
from rlvr.observe.progress import RunView
from rlvr.observe.trackers import TrackerSet, make_trackers
from rlvr.rollout.runner import seed_of
from rlvr.types import GroupHeader, Receipt, StepReport
from rlvr.weights.service import Fault

__all__ = ["Interrupted", "evaluate_model", "train"]

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
    facts = run.compare(recipe, run.facts(checkpoint)) if resume else None
    model = prepare(recipe.model.path)
    check_targets(recipe, model)
    if not resume and (moved := run.begin(recipe)):
        view.warn(f"an older run was moved to {moved}")

    with Cluster(recipe, model=model, warn=view.warn) as cluster, stop_signals(view.warn) as stop:
        if checkpoint:
            cluster.restore(checkpoint)
        step, taken = run.resume(recipe, facts) if facts else (0, 0)
        warms_up = recipe.sft is not None and checkpoint is None
        stop.then = STOPPED_WITHIN if warms_up else stop.then
        if fault and fault.version < step:
            raise ConfigError(f"--inject: version {fault.version} is past, the run goes on from version {step}")
        view.phase(f"learner and {recipe.rollout.workers} rollout worker(s) ready after {_since(began)}")
        view.phase(_told(cluster.prove(held_out, BEFORE_WARM_START if warms_up else step, fault=fault)))
        cluster.keep_records(run.rollouts, until=step)
        trackers = TrackerSet(_trackers(recipe, run_dir, view))
        before = evaluation(run.path / "eval_before.jsonl", cluster, held_out, reuse=resume)
        show(view, "before", before, recipe)
        if warms_up:
            warm_up(cluster, run, recipe, environment=environment, held_out=held_out, view=view, stop=stop)
        warmed = after_warm_start(cluster, run, recipe, step, held_out=held_out, view=view, before=before)

        stream = TaskStream(environment, name=recipe.environment.name, seed=recipe.seed, skip=taken)
        buffer, guard = buffer_of(recipe), Guard(recipe.guard, within_groups=compares_within_groups(recipe))
        with rollouts_on_disk(cluster):
            while step < recipe.steps and not stop.asked:
                seconds = _Clock()
                with seconds.phase("rollout"):
                    sampled = sample_step(cluster, stream, buffer, recipe=recipe, step=step, worthwhile=guard.graded)
                cluster.record(step + 1, sampled.arrived)  # before anything can fail that these rollouts explain
                headers, admitted = sampled.headers, sampled.admitted
                with saved_if_stopped(cluster, run, recipe, step, taken):
                    guard.check(headers, admitted.counts, step=step + 1)
                with seconds.phase("learn"), kept_for_replay(cluster, run, recipe, step, taken, admitted=admitted):
                    learned = cluster.learn(admitted.references, admitted.totals) | sampled.metrics()
                step, taken = step + 1, stream.taken
                with seconds.phase("push"):
                    receipts = cluster.publish(step)
                if recipe.eval.every and step % recipe.eval.every == 0 and step < recipe.steps:
                    with seconds.phase("eval"):
                        lines = evaluation(run.path / f"eval_step-{step:06d}.jsonl", cluster, held_out, reuse=False)
                    learned |= truthfulness_metrics(lines, weights=recipe.eval.truthfulness)
                    show(view, f"at step {step}", lines, recipe, before=before)
                if recipe.checkpoint.every and step % recipe.checkpoint.every == 0 and step < recipe.steps:
                    with seconds.phase("checkpoint"):
                        run.save(cluster, recipe, step=step, taken=taken)
                report = _report(
                    step, headers, learned, receipts, seconds=seconds.total(), cluster=cluster, recipe=recipe
                )
                append_line(run.metrics, as_line(report))
                view.step(report)
                trackers.log(step, as_line(report))
        run.save(cluster, recipe, step=step, taken=taken)
        trackers.finish()
        if stop.asked:
            raise Interrupted(f"stopped after step {step} of {recipe.steps} and saved in {run.path}")
        stop.then = "training is over and saved, the run ends after this evaluation"
        after = evaluation(run.path / "eval_after.jsonl", cluster, held_out, reuse=False)
        show(view, "after", after, recipe, before=before)
        summary = summary_of(recipe, before, after, warmed=warmed, seconds=time.perf_counter() - began)
        write_json(run.summary, summary)
        view.finish(summary, run_dir=run.path)
        return summary


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


def _report(
    step: int, headers: Sequence[GroupHeader], learned: dict[str, float], receipts: Sequence[Receipt], *,
    seconds: dict[str, float], cluster: Cluster, recipe: Recipe,
) -> StepReport:  # fmt: skip
    learned = learned | push_metrics(receipts) | {"graders_lost": cluster.lost_graders()}
    metrics = step_metrics(headers, learner=learned, seconds=seconds, weights=recipe.eval.truthfulness)
    return StepReport(step=step, version=step, metrics=metrics, seconds=seconds)


def _told(proof: Mapping[str, float]) -> str:
    return (
        f"weights proven: {proof['proven_tensors']:.0f} of {proof['total_tensors']:.0f} tensors read back from the "
        f"live engine; canary {proof['canary_error']:.4f} nats, bound {proof['canary_bound']:.3f}"
    )


def _trackers(recipe: Recipe, run_dir: Path, view: RunView) -> list[Any]:
    t, config = recipe.track, recipe.model_dump(mode="json")
    return make_trackers(
        recipe.name, run_dir=run_dir, config=config, wandb=t.wandb, trackio=t.trackio, tensorboard=t.tensorboard,
        warn=view.warn,
    )  # fmt: skip


class _Clock:
    """Seconds by phase of one step."""

    def __init__(self) -> None:
        self._start, self._phases = time.perf_counter(), dict[str, float]()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._phases[name] = time.perf_counter() - start

    def total(self) -> dict[str, float]:
        return self._phases | {"step": time.perf_counter() - self._start}


def _since(start: float) -> str:
    return f"{time.perf_counter() - start:.0f} s"
