"""Plain functions as rewards, called as TRL calls them: `f(completions, **columns) -> list[float | None]`."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rlvr.errors import PluginError
from rlvr.types import Grade, Rollout, Task, Ungraded

__all__ = ["FunctionReward", "is_reward_function"]

_KNOWN = ("prompts", "completions", "completion_ids", "truth", "task_id", "source", "tags")
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def is_reward_function(plugin: object) -> bool:
    """Tell whether an object is a function that takes `completions`."""
    return inspect.isfunction(plugin) and "completions" in inspect.signature(plugin).parameters


class FunctionReward:
    """Grade by a function, without a verdict: the score is what it returns, and None means ungraded.

    The function gets equally long lists by name: `prompts`, `completions`, `completion_ids`, `task_id`, `source`,
    `tags`, and `truth` or, where truths are tables, each of their keys. One required parameter of another name
    (`answer`, `solution`, `ground_truth`) gets the truth. A coroutine function is awaited.

    Args:
        function: what to call. It must not keep state between calls.
        conversational: completions and prompts are lists of {"role", "content"} messages instead of texts.
    Errors: PluginError where several required parameters are unknown and the truth is no table.
    """

    def __init__(self, function: Callable[..., Any], *, conversational: bool = False) -> None:
        self._function, self._conversational = function, conversational
        parameters = inspect.signature(function).parameters.values()
        self._takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
        self._names = [p.name for p in parameters if p.kind in _NAMED]
        self._required = [p.name for p in parameters if p.kind in _NAMED and p.default is p.empty]

    def grade(self, task: Task, rollout: Rollout) -> Grade | Ungraded:
        """Judge one reply. Errors: what the function raises."""
        return self.grade_group(task, [rollout])[0]

    def grade_group(self, task: Task, rollouts: Sequence[Rollout]) -> list[Grade | Ungraded]:
        """Judge all replies to a task in one call of the function."""
        columns = self._columns(task, rollouts)
        scores = self._function(**columns)
        if inspect.iscoroutine(scores):
            scores = asyncio.run(scores)
        name = self._function.__name__
        if not isinstance(scores, Sequence) or len(scores) != len(rollouts):
            got = f"{len(scores)} scores" if isinstance(scores, Sequence) else type(scores).__name__
            return [Ungraded(boundary="", reason=f"{name} gives {got} for {len(rollouts)} completions")] * len(rollouts)
        return [_graded(name, score) for score in scores]

    def _columns(self, task: Task, rollouts: Sequence[Rollout]) -> dict[str, Any]:
        table = task.truth if isinstance(task.truth, Mapping) else {}
        row: dict[str, Any] = {
            **{str(key): value for key, value in table.items()},
            "truth": task.truth, "task_id": task.id, "source": task.source, "tags": list(task.tags),
            "prompts": [dict(m) for m in task.messages] if self._conversational else task.messages[-1]["content"],
        }  # fmt: skip
        unknown = [name for name in self._required if name not in row and name not in _KNOWN]
        if len(unknown) > 1 or (unknown and table):
            raise PluginError(
                f"{self._function.__name__} needs the columns {', '.join(unknown)}, and tasks have {', '.join(row)}"
            )
        row |= dict.fromkeys(unknown, task.truth)
        columns = {name: [value] * len(rollouts) for name, value in row.items()}
        columns["completions"] = [self._said(rollout) for rollout in rollouts]
        columns["completion_ids"] = [rollout.token_ids.tolist() for rollout in rollouts]
        return columns if self._takes_all else {name: columns[name] for name in self._names if name in columns}

    def _said(self, rollout: Rollout) -> Any:
        return [{"role": "assistant", "content": rollout.reply}] if self._conversational else rollout.reply


def _graded(name: str, score: object) -> Grade | Ungraded:
    if score is None:
        return Ungraded(boundary="", reason=f"{name} gives None")
    value = float(score)  # type: ignore[arg-type]  # whatever is no number raises, and the boundary says so
    if not math.isfinite(value):
        return Ungraded(boundary="", reason=f"{name} gives {value}")
    return Grade(verdict=None, score=value)
