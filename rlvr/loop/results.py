"""What a run measures of its model: the evaluations, what is shown of them, and the summary of the run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvr.config import Recipe
from rlvr.loop import evaluate
from rlvr.loop.truthfulness import over_abstention, truthfulness_gains, truthfulness_of, truthfulness_summary
from rlvr.observe.progress import RunView, interval_text
from rlvr.types import Task

if TYPE_CHECKING:
    from rlvr.loop.cluster import Cluster

__all__ = ["evaluation", "show", "summary_of"]


def evaluation(path: Path, cluster: Cluster, tasks: Sequence[Task], *, reuse: bool) -> list[dict[str, Any]]:
    """Evaluate greedily and write the lines to a file; with `reuse`, what the file holds already is taken."""
    if reuse and path.exists():
        return evaluate.read(path)
    arrived = cluster.rollout(tasks, [0] * len(tasks), group_size=1, greedy=True)
    lines = evaluate.lines_of(cluster.fetch([group for _, group in arrived]))
    evaluate.write(path, lines)
    return lines


def show(view: RunView, label: str, lines: list[Any], recipe: Recipe, *, before: list[Any] | None = None) -> None:
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


def summary_of(
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
