"""An environment whose tool is slow: three problems one after the other, with a wait before each answer of the tool."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence

from rlvr.types import Done, Grade, Message, Rollout, Task, Verdict, messages_of
from rlvr_environments.arithmetic import Arithmetic

TURNS = 3
HELD_OUT = 400  # sessions


class Session:
    """Ask three problems in a conversation. The tool takes an exponential time over each reply, also the last.

    Args:
        operations: kinds of problems, as in `arithmetic`.
        wait_s: mean of the time, seconds, drawn anew for every reply. Evaluation does not wait.
    """

    def __init__(self, operations: Sequence[str] = ("add20", "add2", "sub20", "sub2"), *, wait_s: float = 2.0) -> None:
        self.single = Arithmetic(operations, examples=2, eval_tasks=TURNS * HELD_OUT)
        self.wait_s = wait_s

    def tasks(self, split: str, *, seed: int) -> Iterator[Task]:
        """Yield sessions of three tasks of `arithmetic`."""
        several = iter(self.single.tasks(split, seed=seed))
        for first in several:
            rest = [task for task in (next(several, None) for _ in range(TURNS - 1)) if task]
            if len(rest) < TURNS - 1:
                return
            whole = [first, *rest]
            truth = {"answers": [task.truth for task in whole], "asked": [t.messages[-1]["content"] for t in whole]}
            name = "+".join(task.id for task in whole)
            yield Task(id=name, messages=first.messages, truth=truth, source="session", tags=(split,))

    async def reply(self, task: Task, messages: Sequence[Message]) -> Sequence[Message] | Done:
        """Wait, then ask the next problem."""
        if "train" in task.tags:
            await asyncio.sleep(random.expovariate(1.0 / self.wait_s))
        turn = sum(message["role"] == "assistant" for message in messages[len(task.messages) :])
        return messages_of([("user", task.truth["asked"][turn])]) if turn < TURNS else Done()


class Share:
    """Score the share of the three answers that are right; CORRECT where at least two are."""

    def grade(self, task: Task, rollout: Rollout) -> Grade:
        """Compare the number behind "Answer:" in every reply."""
        replies = [m["content"] for m in rollout.messages[len(task.messages) :] if m["role"] == "assistant"]
        said = [reply.rpartition("Answer:")[2].strip() if "Answer:" in reply else "" for reply in replies]
        right = sum(a == str(b) for a, b in zip(said, task.truth["answers"], strict=False))
        verdict = Verdict.CORRECT if right >= 2 else Verdict.WRONG
        return Grade(verdict=verdict, score=right / TURNS, why=f"{right} of {TURNS} answers are right")
