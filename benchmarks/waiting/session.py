"""An environment with a slow tool: three short questions in turn, and a wait before each answer of the tool."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Sequence

from rlvr.types import Done, Grade, Message, Rollout, Task, Verdict, messages_of

TURNS = 3
HELD_OUT = 400  # sessions
NUMBERS = range(10, 990)
EXAMPLES = (("What comes after 58?", "59"), ("What comes after 230?", "231"))


class Session:
    """Ask three times for the number after one. The tool takes an exponential time over each reply, also the last.

    Question and answer are short, so that the time goes to the tool and not to the model. Multiples of 7 are held out.

    Args:
        wait_s: mean of the time, seconds, drawn anew for every reply. Evaluation does not wait.
    """

    def __init__(self, *, wait_s: float = 2.0) -> None:
        self.wait_s = wait_s

    def tasks(self, split: str, *, seed: int) -> Iterator[Task]:
        """Yield sessions without end to train on, and the same 400 to evaluate on whatever the seed."""
        training = split == "train"
        known = [n for n in NUMBERS if (n % 7 == 0) != training]
        draw, number = random.Random(f"{split}-{seed * training}"), 0
        while training or number < HELD_OUT:
            numbers = [draw.choice(known) for _ in range(TURNS)]
            asked = [f"What comes after {n}?" for n in numbers]
            shown = [turn for q, a in EXAMPLES for turn in (("user", q), ("assistant", a))]
            truth = {"answers": [str(n + 1) for n in numbers], "asked": asked}
            first = messages_of([*shown, ("user", asked[0])])
            yield Task(id=f"{split}-{number}", messages=first, truth=truth, source="session", tags=(split,))
            number += 1

    async def reply(self, task: Task, messages: Sequence[Message]) -> Sequence[Message] | Done:
        """Wait, then ask the next question."""
        if "train" in task.tags:
            await asyncio.sleep(random.expovariate(1.0 / self.wait_s))
        turn = sum(message["role"] == "assistant" for message in messages[len(task.messages) :])
        return messages_of([("user", task.truth["asked"][turn])]) if turn < TURNS else Done()


class Share:
    """Score the share of the three answers that are right; CORRECT where at least two are."""

    def grade(self, task: Task, rollout: Rollout) -> Grade:
        """Compare every reply, which should be the number and nothing else."""
        said = [m["content"].strip() for m in rollout.messages[len(task.messages) :] if m["role"] == "assistant"]
        right = sum(a == b for a, b in zip(said, task.truth["answers"], strict=False))
        verdict = Verdict.CORRECT if right >= 2 else Verdict.WRONG
        return Grade(verdict=verdict, score=right / TURNS, why=f"{right} of {TURNS} answers are right")
