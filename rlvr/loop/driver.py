"""The story of a run, from top to bottom."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rlvr import plugins
from rlvr.config import Recipe
from rlvr.errors import CheckpointError, ConfigError, GradingError, LearnerError, RlvrError
from rlvr.learner.algorithm import Totals
from rlvr.learner.model import prepare
from rlvr.loop import evaluate
from rlvr.loop.buffer import Buffer
from rlvr.loop.cluster import Cluster
from rlvr.loop.guard import Guard
from rlvr.loop.ledger import RunDirectory, TaskStream, eval_tasks
from rlvr.loop.stop import stop_signals
from rlvr.loop.truthfulness import (
    over_abstention,
    truthfulness_gains,
    truthfulness_metrics,
    truthfulness_of,
    truthfulness_summary,
)
from rlvr.observe.metrics import append_line, as_line, push_metrics, step_metrics, write_json
from rlvr.observe.progress import RunView, interval_text
from rlvr.observe.trackers import TrackerSet, make_trackers
from rlvr.rollout.runner import seed_of
from rlvr.types import GroupHeader, Receipt, StepReport, Task
from rlvr.weights.service import Fault

__all__ = ["Interrupted", "evaluate_model", "train"]


class Interrupted(Exception):
    """The run was stopped by Ctrl-C or SIGTERM after a whole step, and saved."""


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
    checkpoint = run.newest() if resume else None
    model = prepare(recipe.model.path)
    if not resume and (moved := run.begin(recipe)):
        view.warn(f"an older run was moved to {moved}")

    with Cluster(recipe, model=model, warn=view.warn) as cluster, stop_signals(view.warn) as stop:
        step = run.resume(recipe, cluster.restore(checkpoint)) if checkpoint else 0
        if fault and fault.version < step:
            raise ConfigError(f"--inject: version {fault.version} is past, the run goes on from version {step}")
        view.phase(f"learner and {recipe.rollout.workers} rollout worker(s) ready after {_since(began)}")
        proof = cluster.prove(held_out, step, fault=fault)
        view.phase(
            f"weights proven: {proof['proven_tensors']:.0f} of {proof['total_tensors']:.0f} tensors read back from the "
            f"live engine; canary {proof['canary_error']:.4f} nats, bound {proof['canary_bound']:.3f}"
        )
        cluster.keep_records(run.rollouts, until=step)
        trackers = TrackerSet(_trackers(recipe, run_dir, view))
        before = _evaluation(run.path / "eval_before.jsonl", cluster, held_out, reuse=resume)
        _show(view, "before", before, recipe)

        skip = step * recipe.rollout.prompts_per_step
        stream = TaskStream(environment, name=recipe.environment.name, seed=recipe.seed, skip=skip)
        buffer = Buffer(max_staleness=recipe.rollout.max_staleness, flat_groups_have_no_gradient=True)
        guard = Guard(recipe.guard)
        with _rollouts_on_disk(cluster):
            while step < recipe.steps and not stop.asked:
                seconds = _Clock()
                with seconds.phase("rollout"):
                    tasks = stream.take(recipe.rollout.prompts_per_step)
                    seeds = [seed_of(recipe.seed, step, place) for place in range(len(tasks))]
                    arrived = cluster.rollout(tasks, seeds, group_size=recipe.rollout.group_size)
                cluster.record(step + 1, arrived)  # before anything can fail that these rollouts explain
                headers = [header for header, _ in arrived]
                admitted = buffer.admit(arrived, learner_version=step)
                with _saved_if_stopped(cluster, run, recipe, step):
                    guard.check(headers, admitted.counts, step=step + 1)
                with seconds.phase("learn"):
                    totals = Totals(loss_tokens=admitted.loss_tokens, sequences=admitted.sequences)
                    learned = cluster.learn(admitted.references, totals) | admitted.shares()
                step += 1
                with seconds.phase("push"):
                    receipts = cluster.publish(step)
                if recipe.eval.every and step % recipe.eval.every == 0 and step < recipe.steps:
                    with seconds.phase("eval"):
                        lines = _evaluation(run.path / f"eval_step-{step:06d}.jsonl", cluster, held_out, reuse=False)
                    learned |= truthfulness_metrics(lines, weights=recipe.eval.truthfulness)
                    _show(view, f"at step {step}", lines, recipe, before=before)
                if recipe.checkpoint.every and step % recipe.checkpoint.every == 0 and step < recipe.steps:
                    with seconds.phase("checkpoint"):
                        _save(cluster, run, recipe, step)
                report = _report(
                    step, headers, learned, receipts, seconds=seconds.total(), cluster=cluster, recipe=recipe
                )
                append_line(run.metrics, as_line(report))
                view.step(report)
                trackers.log(step, as_line(report))
        _save(cluster, run, recipe, step)
        trackers.finish()
        if stop.asked:
            raise Interrupted(f"stopped after step {step} of {recipe.steps} and saved in {run.path}")
        stop.then = "training is over and saved, the run ends after this evaluation"
        after = _evaluation(run.path / "eval_after.jsonl", cluster, held_out, reuse=False)
        _show(view, "after", after, recipe, before=before)
        summary = _summary(recipe, before, after, seconds=time.perf_counter() - began)
        write_json(run.summary, summary)
        view.finish(summary, run_dir=run.path)
        return summary


def evaluate_model(recipe: Recipe, *, view: RunView, samples: int, out: Path) -> list[dict[str, Any]]:
    """Evaluate a model on the held-out tasks: greedily with one sample, at the recipe's temperature with more."""
    environment = plugins.create(plugins.ENVIRONMENTS, recipe.environment.name, recipe.environment.options)
    tasks = eval_tasks(environment, name=recipe.environment.name, count=recipe.eval.tasks)
    with Cluster(recipe, model=prepare(recipe.model.path), warn=view.warn) as cluster:
        cluster.prove(tasks, 0, fault=None)
        seeds = [seed_of(recipe.seed, "eval", place) for place in range(len(tasks))]
        arrived = cluster.rollout(tasks, seeds, group_size=samples, greedy=samples == 1)
        lines = evaluate.lines_of(cluster.fetch([group for _, group in arrived]))
        evaluate.write(out, lines)
        return lines


def _report(
    step: int, headers: Sequence[GroupHeader], learned: dict[str, float], receipts: Sequence[Receipt], *,
    seconds: dict[str, float], cluster: Cluster, recipe: Recipe,
) -> StepReport:  # fmt: skip
    learned = learned | push_metrics(receipts) | {"graders_lost": cluster.lost_graders()}
    metrics = step_metrics(headers, learner=learned, seconds=seconds, weights=recipe.eval.truthfulness)
    return StepReport(step=step, version=step, metrics=metrics, seconds=seconds)


def _evaluation(path: Path, cluster: Cluster, tasks: Sequence[Task], *, reuse: bool) -> list[dict[str, Any]]:
    if reuse and path.exists():
        return evaluate.read(path)
    arrived = cluster.rollout(tasks, [0] * len(tasks), group_size=1, greedy=True)
    lines = evaluate.lines_of(cluster.fetch([group for _, group in arrived]))
    evaluate.write(path, lines)
    return lines


@contextmanager
def _rollouts_on_disk(cluster: Cluster) -> Iterator[None]:
    """See that the rollouts of the last step are written, above all where a failure points at them."""
    try:
        yield
    except RlvrError:
        with suppress(RlvrError):  # the failure under way is the one to tell
            cluster.recorded()
        raise
    cluster.recorded()


@contextmanager
def _saved_if_stopped(cluster: Cluster, run: RunDirectory, recipe: Recipe, step: int) -> Iterator[None]:
    """Save the last whole step where the guard stops the run."""
    try:
        yield
    except (GradingError, LearnerError) as error:
        if step == 0 or run.saved(step):
            raise
        try:
            _save(cluster, run, recipe, step)
        except CheckpointError:
            raise error from None  # why the run stops matters more
        raise type(error)(f"{error}; step {step} is saved, go on with --resume") from error


def _save(cluster: Cluster, run: RunDirectory, recipe: Recipe, step: int) -> None:
    cluster.save(run.checkpoint(step), {"step": step, "recipe": recipe.model_dump(mode="json")})
    run.prune(recipe.checkpoint.keep)


def _summary(recipe: Recipe, before: list[Any], after: list[Any], *, seconds: float) -> dict[str, Any]:
    summary: dict[str, Any] = {"steps": recipe.steps, "seconds": round(seconds, 1)}
    for name, lines in (("eval_before", before), ("eval_after", after)):
        known = evaluate.accuracy_of(lines)
        summary[name] = {"accuracy": known.estimate, "low": known.low, "high": known.high, "n": known.n}
        summary[name] |= truthfulness_summary(lines, weights=recipe.eval.truthfulness)
    if gain := evaluate.compare(before, after):
        summary["gain"] = {
            "points": gain.points, "low": gain.low, "high": gain.high, "n": gain.n, "p_value": gain.p_value
        }  # fmt: skip
        summary["gains"] = truthfulness_gains(before, after, weights=recipe.eval.truthfulness)
    return summary


def _show(view: RunView, label: str, lines: list[Any], recipe: Recipe, *, before: list[Any] | None = None) -> None:
    """Show an evaluation, and the rest of truthfulness once the model abstains.

    Warns where abstention has spread to tasks that were answered right in `before`, which T does not show.
    """
    view.evaluation(label, evaluate.accuracy_of(lines))
    known = truthfulness_of(lines, weights=recipe.eval.truthfulness)
    if known.unc.estimate:
        view.truthfulness(known.unc, known.hall, known.score)
    spread = over_abstention(before or [], lines)
    if spread and spread.low > recipe.guard.max_over_abstention:
        lost = interval_text(spread.estimate, spread.low, spread.high, n=spread.n)
        view.warn(
            f"abstention spreads to what the model knew: {lost} tasks that were answered right before training are "
            "abstained on now; stop earlier, lower payoff.abstained, or leave out tasks that are too hard"
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
