"""Arithmetic made on the spot: named kinds of problems, worked examples in the prompt, splits that cannot overlap."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import cycle, islice

from rlvr.types import Message, Task

__all__ = ["KINDS", "Arithmetic", "Problem"]

_EVAL_SHARE = 4  # one problem in four is kept for evaluation


@dataclass(frozen=True, slots=True)
class Problem:
    """Operands joined by one sign: "+", "-" or "x"."""

    sign: str
    operands: tuple[int, ...]

    @property
    def text(self) -> str:
        """Write the problem as the model sees it."""
        return f" {self.sign} ".join(map(str, self.operands))

    @property
    def result(self) -> int:
        """Compute the answer."""
        first, *rest = self.operands
        if self.sign == "x":
            return math.prod(self.operands)
        return first - sum(rest) if self.sign == "-" else sum(self.operands)

    @property
    def key(self) -> str:
        """Name the problem so that ways of writing it which only swap operands share the name."""
        operands = self.operands if self.sign == "-" else sorted(self.operands)
        return self.sign.join(map(str, operands))

    @property
    def held_out(self) -> bool:
        """Tell whether the problem belongs to evaluation: decided by the problem alone, never by a seed or a kind."""
        return int(_digest(self.key), 16) % _EVAL_SHARE == 0


@dataclass(frozen=True, slots=True)
class _Kind:
    """All problems of one sign whose operands lie in the ranges and whose result is not negative."""

    sign: str
    ranges: tuple[range, ...]

    def shuffled(self, rng: random.Random) -> Iterator[Problem]:
        """Yield every problem once in random order; memory grows only with what was drawn (lazy Fisher-Yates)."""
        size = math.prod(map(len, self.ranges))
        moved: dict[int, int] = {}
        for place in range(size):
            drawn = rng.randrange(place, size)
            problem = self._at(moved.get(drawn, drawn))
            moved[drawn] = moved.pop(place, place)
            if problem.result >= 0:
                yield problem

    def _at(self, index: int) -> Problem:
        operands = []
        for span in self.ranges:
            index, place = divmod(index, len(span))
            operands.append(span[place])
        return Problem(self.sign, tuple(operands))


KINDS = {
    "add20": _Kind("+", (range(21), range(21))),
    "add2": _Kind("+", (range(10, 100), range(10, 100))),
    "add3": _Kind("+", (range(100, 1000), range(10, 100))),
    "sum3": _Kind("+", (range(10, 100), range(10, 100), range(10, 100))),
    "sub20": _Kind("-", (range(21), range(21))),
    "sub2": _Kind("-", (range(10, 100), range(10, 100))),
    "mul12": _Kind("x", (range(2, 13), range(2, 13))),
    "mul2": _Kind("x", (range(10, 31), range(2, 10))),
    "mul22": _Kind("x", (range(11, 100), range(11, 100))),
    "sum3large": _Kind("+", (range(100, 1000), range(100, 1000), range(100, 1000))),
}
_EXAMPLES = (Problem("+", (12, 7)), Problem("-", (31, 14)), Problem("x", (9, 6)))
_TOO_HARD = Problem("x", (83, 67))
_EXAMPLE_KEYS = frozenset(example.key for example in (*_EXAMPLES, _TOO_HARD))


class Arithmetic:
    """Ask for sums, differences and products after worked examples.

    Args:
        operations: names from `KINDS`, drawn equally often.
        examples: how many worked examples stand before the question, 0 to 3.
        abstaining: a further example, before the last, answers a problem that is too hard with "I don't know".
        eval_tasks: size of the split "eval". Kinds that run out are filled up from the others.
        demonstrations: how many worked solutions there are for a warm start.
    Errors: ValueError for unknown operations, a wrong number of examples, or more evaluation tasks than exist.
    """

    def __init__(
        self,
        operations: Sequence[str] = ("add20", "add2", "sub20", "sub2", "mul12"),
        *,
        examples: int = 3,
        abstaining: bool = False,
        eval_tasks: int = 512,
        demonstrations: int = 512,
    ) -> None:
        unknown = [name for name in operations if name not in KINDS]
        if unknown or not operations or isinstance(operations, str):
            raise ValueError(f"operations must be a list out of {', '.join(KINDS)}, not {operations!r}")
        if not 0 <= examples <= len(_EXAMPLES):
            raise ValueError(f"examples must be 0 to {len(_EXAMPLES)}, not {examples}")
        if eval_tasks < 1:
            raise ValueError(f"eval_tasks must be at least 1, not {eval_tasks}")
        if demonstrations < 1:
            raise ValueError(f"demonstrations must be at least 1, not {demonstrations}")
        self._demonstrations = demonstrations
        self._operations = tuple(dict.fromkeys(operations))
        self._eval_tasks = eval_tasks
        shown = [_turns(example) for example in _EXAMPLES[:examples]]
        if abstaining:
            answer = Message(role="assistant", content="That is too hard for me.\nAnswer: I don't know")
            shown.insert(max(0, len(shown) - 1), (_turns(_TOO_HARD)[0], answer))
        self._prompt = tuple(message for turns in shown for message in turns)

    def tasks(self, split: str, *, seed: int) -> Iterator[Task]:
        """Yield the tasks of a split: "train" never ends, "eval" has `eval_tasks` distinct ones.

        A kind that training has used up starts again, so that an id may then come back.
        Errors: ValueError for another split, or where too few evaluation problems exist.
        """
        if split == "train":
            return self._train(seed)
        if split == "eval":
            return self._eval(seed)
        raise ValueError(f"arithmetic has the splits train and eval, not {split!r}")

    def demonstrations(self, *, seed: int) -> Iterator[tuple[Message, ...]]:
        """Yield conversations that end with a worked solution, of problems of the split "train" alone."""
        for task in islice(self._train(f"demonstrations:{seed}"), self._demonstrations):
            yield (*task.messages, Message(role="assistant", content=self.gold(task)))

    @staticmethod
    def gold(task: Task) -> str:
        """Write the reply that a perfect model would give."""
        problem = task.messages[-1]["content"].removeprefix("What is ").removesuffix("?")
        return f"{problem} = {task.truth}\nAnswer: {task.truth}"

    def _train(self, seed: int | str) -> Iterator[Task]:
        rng = random.Random(f"train:{seed}")
        decks = {name: self._deck(name, rng, held_out=False) for name in self._operations}
        while True:
            name = rng.choice(self._operations)
            problem = next(decks[name], None)
            if problem is None:
                decks[name] = self._deck(name, rng, held_out=False)
                problem = next(decks[name])
            yield self._task(name, problem)

    def _eval(self, seed: int) -> Iterator[Task]:
        rng = random.Random(f"eval:{seed}")
        decks = {name: self._deck(name, rng, held_out=True) for name in self._operations}
        chosen: dict[Problem, str] = {}
        for name in cycle(self._operations):
            if len(chosen) == self._eval_tasks:
                break
            fresh = (problem for problem in decks.get(name, ()) if problem not in chosen)
            problem = next(fresh, None)
            if problem is not None:
                chosen[problem] = name
            elif decks.pop(name, None) is not None and not decks:
                have = f"{', '.join(self._operations)} have only {len(chosen)} evaluation tasks"
                raise ValueError(f"{have}, not {self._eval_tasks}: lower eval_tasks or add operations")
        return iter([self._task(name, problem) for problem, name in chosen.items()])

    @staticmethod
    def _deck(name: str, rng: random.Random, *, held_out: bool) -> Iterator[Problem]:
        shuffled = KINDS[name].shuffled(rng)
        return (p for p in shuffled if p.held_out is held_out and p.key not in _EXAMPLE_KEYS)

    def _task(self, name: str, problem: Problem) -> Task:
        messages = (*self._prompt, _turns(problem)[0])
        truth = str(problem.result)
        identity = _digest(json.dumps([messages, truth]))
        return Task(id=identity, messages=messages, truth=truth, source="arithmetic", tags=(name,))


def _turns(problem: Problem) -> tuple[Message, Message]:
    question = Message(role="user", content=f"What is {problem.text}?")
    answer = Message(role="assistant", content=f"{problem.text} = {problem.result}\nAnswer: {problem.result}")
    return question, answer


def _digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=8).hexdigest()
