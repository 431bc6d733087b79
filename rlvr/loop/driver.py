"""The story of a run, from top to bottom."""

from __future__ import annotations

import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rlvr import plugins
from rlvr.config import Recipe
from rlvr.errors import CheckpointError, ConfigError, GradingError, LearnerError, NonFiniteError, RlvrError
from rlvr.learner.algorithm import Totals
from rlvr.learner.model import prepare
from rlvr.loop import evaluate
from rlvr.loop.buffer import Admitted
from rlvr.loop.cluster import Cluster
from rlvr.loop.guard import Guard
from rlvr.loop.ledger import RunDirectory, TaskStream, eval_tasks
from rlvr.loop.replay import FailedStep, save_batch
from rlvr.loop.sampling import sample_step
from rlvr.loop.settings import buffer_of, compares_within_groups
from rlvr.loop.stop import Stop, stop_signals
from rlvr.loop.truthfulness import (
    over_abstention,
    truthfulness_gains,
    truthfulness_metrics,
    truthfulness_of,
    truthfulness_summary,
)
from rlvr.loop.warm_start import warm_start
from rlvr.observe.metrics import append_line, as_line, push_metrics, step_metrics, write_json
from rlvr.observe.progress import RunView, interval_text
from rlvr.observe.trackers import TrackerSet, make_trackers
from rlvr.rollout.runner import seed_of
from rlvr.types import GroupHeader, Receipt, StepReport, Task
from rlvr.weights.service import Fault

__all__ = ["Interrupted", "evaluate_model", "train"]

BEFORE_WARM_START = -1  # version of the weights that a warm start begins with; it ends with version 0
WARMS_UP = "the warm start stops after its update under way, and begins anew with --resume"


class Interrupted(Exception):
    """The run was stopped by Ctrl-C or SIGTERM after a whole step, and saved; or within its warm start."""


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
    model = prepare(recipe.model.path)
    if not resume and (moved := run.begin(recipe)):
        view.warn(f"an older run was moved to {moved}")

    with Cluster(recipe, model=model, warn=view.warn) as cluster, stop_signals(view.warn) as stop:
        facts = cluster.restore(checkpoint) if checkpoint else _facts(run.recipe(), 0, 0) if resume else {}
        step, taken = run.resume(recipe, facts) if facts else (0, 0)
        warms_up = recipe.sft is not None and checkpoint is None
        stop.then = WARMS_UP if warms_up else stop.then
        if fault and fault.version < step:
            raise ConfigError(f"--inject: version {fault.version} is past, the run goes on from version {step}")
        view.phase(f"learner and {recipe.rollout.workers} rollout worker(s) ready after {_since(began)}")
        view.phase(_told(cluster.prove(held_out, BEFORE_WARM_START if warms_up else step, fault=fault)))
        cluster.keep_records(run.rollouts, until=step)
        trackers = TrackerSet(_trackers(recipe, run_dir, view))
        before = _evaluation(run.path / "eval_before.jsonl", cluster, held_out, reuse=resume)
        _show(view, "before", before, recipe)
        if warms_up:
            _warm_start(cluster, run, recipe, environment=environment, held_out=held_out, view=view, stop=stop)
        warmed = _after_warm_start(cluster, run, recipe, step, held_out=held_out, view=view, before=before)

        stream = TaskStream(environment, name=recipe.environment.name, seed=recipe.seed, skip=taken)
        buffer, guard = buffer_of(recipe), Guard(recipe.guard, within_groups=compares_within_groups(recipe))
        with _rollouts_on_disk(cluster):
            while step < recipe.steps and not stop.asked:
                seconds = _Clock()
                with seconds.phase("rollout"):
                    sampled = sample_step(
                        cluster, stream, buffer, recipe=recipe, step=step, worthwhile=guard.graded
                    )  # fmt: skip
                cluster.record(step + 1, sampled.arrived)  # before anything can fail that these rollouts explain
                headers, admitted = sampled.headers, sampled.admitted
                with _saved_if_stopped(cluster, run, recipe, step, taken):
                    guard.check(headers, admitted.counts, step=step + 1)
                with seconds.phase("learn"), _kept_for_replay(cluster, run, recipe, step, taken, admitted=admitted):
                    learned = cluster.learn(admitted.references, _totals(admitted)) | sampled.metrics()
                step, taken = step + 1, stream.taken
                with seconds.phase("push"):
                    receipts = cluster.publish(step)
                if recipe.eval.every and step % recipe.eval.every == 0 and step < recipe.steps:
                    with seconds.phase("eval"):
                        lines = _evaluation(run.path / f"eval_step-{step:06d}.jsonl", cluster, held_out, reuse=False)
                    learned |= truthfulness_metrics(lines, weights=recipe.eval.truthfulness)
                    _show(view, f"at step {step}", lines, recipe, before=before)
                if recipe.checkpoint.every and step % recipe.checkpoint.every == 0 and step < recipe.steps:
                    with seconds.phase("checkpoint"):
                        _save(cluster, run, recipe, step, taken)
                report = _report(
                    step, headers, learned, receipts, seconds=seconds.total(), cluster=cluster, recipe=recipe
                )
                append_line(run.metrics, as_line(report))
                view.step(report)
                trackers.log(step, as_line(report))
        _save(cluster, run, recipe, step, taken)
        trackers.finish()
        if stop.asked:
            raise Interrupted(f"stopped after step {step} of {recipe.steps} and saved in {run.path}")
        stop.then = "training is over and saved, the run ends after this evaluation"
        after = _evaluation(run.path / "eval_after.jsonl", cluster, held_out, reuse=False)
        _show(view, "after", after, recipe, before=before)
        summary = _summary(recipe, before, after, warmed=warmed, seconds=time.perf_counter() - began)
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


def _warm_start(
    cluster: Cluster, run: RunDirectory, recipe: Recipe, *, environment: Any, held_out: Sequence[Task], view: RunView,
    stop: Stop,
) -> None:  # fmt: skip
    """Fine-tune on demonstrations, bring the engines to the result as version 0, and save it. Errors: Interrupted."""
    whole = warm_start(
        recipe, environment=environment, held_out=held_out, cluster=cluster, log=run.path / "sft.jsonl", view=view,
        stop=stop,
    )  # fmt: skip
    if not whole:
        raise Interrupted("stopped within the warm start, which begins anew")
    stop.then = Stop.then
    cluster.publish(0)
    _save(cluster, run, recipe, 0, 0)


def _after_warm_start(
    cluster: Cluster, run: RunDirectory, recipe: Recipe, step: int, *, held_out: Sequence[Task], view: RunView,
    before: list[Any],
) -> list[dict[str, Any]]:  # fmt: skip
    """Evaluate the model that reinforcement learning starts from, the reference of a KL; nothing without [sft]."""
    if recipe.sft is None:
        return []
    if recipe.algorithm.kl != "none":
        cluster.refer_to(run.checkpoint(0))
    path = run.path / "eval_after_sft.jsonl"
    if step and not path.exists():
        return []  # by now the weights are others
    lines = _evaluation(path, cluster, held_out, reuse=True)
    _show(view, "after the warm start", lines, recipe, before=before)
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
def _saved_if_stopped(cluster: Cluster, run: RunDirectory, recipe: Recipe, step: int, taken: int) -> Iterator[None]:
    """Save the last whole step where the guard stops the run."""
    try:
        yield
    except (GradingError, LearnerError) as error:
        if step == 0 or run.saved(step):
            raise
        try:
            _save(cluster, run, recipe, step, taken)
        except CheckpointError:
            raise error from None  # why the run stops matters more
        raise type(error)(f"{error}; step {step} is saved, go on with --resume") from error


@contextmanager
def _kept_for_replay(
    cluster: Cluster, run: RunDirectory, recipe: Recipe, step: int, taken: int, *, admitted: Admitted
) -> Iterator[None]:
    """Keep batch and weights of a step that is not finite."""
    try:
        yield
    except NonFiniteError as error:
        folder = run.failed(step + 1)
        try:
            groups = tuple(cluster.fetch(admitted.references))
            save_batch(folder, FailedStep(step=step + 1, totals=_totals(admitted), error=str(error), groups=groups))
            if step and not run.saved(step):
                if recipe.algorithm.updates == 1 and recipe.critic is None:
                    _save(cluster, run, recipe, step, taken)
                else:  # an update of the step may have been taken
                    cluster.save(folder / "weights", _facts(recipe.model_dump(mode="json"), step, taken))
        except RlvrError:
            raise error from None  # why the run stops matters more
        again = shlex.join(["rlvr", "replay", str(run.path), "--step", str(step + 1)])
        raise NonFiniteError(f"{error}; replay it with: {again}") from error


def _save(cluster: Cluster, run: RunDirectory, recipe: Recipe, step: int, taken: int) -> None:
    cluster.save(run.checkpoint(step), _facts(recipe.model_dump(mode="json"), step, taken))
    run.prune(recipe.checkpoint.keep, spare_first=recipe.sft is not None)


def _totals(admitted: Admitted) -> Totals:
    return Totals(loss_tokens=admitted.loss_tokens, sequences=admitted.sequences)


def _facts(recipe: dict[str, Any], step: int, taken: int) -> dict[str, Any]:
    return {"step": step, "tasks": taken, "recipe": recipe}


def _told(proof: Mapping[str, float]) -> str:
    return (
        f"weights proven: {proof['proven_tensors']:.0f} of {proof['total_tensors']:.0f} tensors read back from the "
        f"live engine; canary {proof['canary_error']:.4f} nats, bound {proof['canary_bound']:.3f}"
    )


def _summary(
    recipe: Recipe, before: list[Any], after: list[Any], *, warmed: list[Any], seconds: float
) -> dict[str, Any]:
    """Sum the run up. `gain` is that of the whole run; with a warm start, its two parts stand beside it."""
    summary: dict[str, Any] = {"steps": recipe.steps, "seconds": round(seconds, 1)}
    for name, lines in (("eval_before", before), ("eval_after_sft", warmed), ("eval_after", after)):
        if not lines:
            continue
        known = evaluate.accuracy_of(lines)
        summary[name] = {"accuracy": known.estimate, "low": known.low, "high": known.high, "n": known.n}
        summary[name] |= truthfulness_summary(lines, weights=recipe.eval.truthfulness)
    for name, first, last in (("gain", before, after), ("gain_sft", before, warmed), ("gain_rl", warmed, after)):
        if gain := evaluate.compare(first, last):
            summary[name] = {
                "points": gain.points, "low": gain.low, "high": gain.high, "n": gain.n, "p_value": gain.p_value
            }  # fmt: skip
    if "gain" in summary:
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
