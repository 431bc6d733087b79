"""Small Python functions to write: kinds of problems made on the spot, worked examples, splits that cannot overlap."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import count, product
from typing import Any

from rlvr.types import Message, Task

__all__ = ["KINDS", "Code", "Problem"]

_EVAL_SHARE = 4  # one problem in four is kept for evaluation
_CASES = 5
_SLOT = re.compile(r"\{(\w)\}")


@dataclass(frozen=True, slots=True)
class _Form:
    """All problems of one wording. `{a}` and `{b}` in the wording and the answer stand for the values of the slots."""

    wording: str
    answer: str  # a Python expression of the argument, which is named x, s or xs
    compute: Callable[..., Any]  # of the argument and the slots' values
    slots: tuple[Sequence[Any], ...]

    @property
    def argument(self) -> str:
        """Name the argument after its type: x is an integer, s a text, xs a list of integers."""
        return next(name for name in ("xs", "x", "s") if re.search(rf"\b{name}\b", self.answer))

    def problems(self) -> Iterator[Problem]:
        """Yield every problem of this wording."""
        return (Problem(self, values) for values in product(*self.slots))


@dataclass(frozen=True, slots=True)
class Problem:
    """One function to write: a form and the values of its slots."""

    form: _Form
    values: tuple[Any, ...]

    @property
    def question(self) -> str:
        """Write the problem as the model sees it."""
        return f"Write a Python function f({self.form.argument}) that returns {self._filled(self.form.wording)}."

    @property
    def solution(self) -> str:
        """Write the function."""
        return f"def f({self.form.argument}):\n    return {self._filled(self.form.answer)}"

    @property
    def truth(self) -> dict[str, Any]:
        """Compute the test cases, whose inputs follow from the question alone, and add the solution."""
        rng = random.Random(self.question)
        cases: list[dict[str, Any]] = []
        while len(cases) < _CASES:
            value = _INPUTS[self.form.argument](rng)
            expected = self.form.compute(value, *self.values)
            # Neither the argument itself, nor nothing, nor one answer to all may be right.
            if expected not in (value, [], "") and (not cases or expected != cases[0]["expected"]):
                cases.append({"args": [value], "expected": expected})
        return {"type": "call", "fn": "f", "cases": cases, "timeout_s": 2.0, "solution": self.solution}

    @property
    def held_out(self) -> bool:
        """Tell whether the problem belongs to evaluation: decided by the question alone, never by a seed."""
        return int(_digest(self.question), 16) % _EVAL_SHARE == 0

    def _filled(self, text: str) -> str:
        return _SLOT.sub(lambda slot: str(self.values["ab".index(slot[1])]), text)


_INPUTS: dict[str, Callable[[random.Random], Any]] = {
    "x": lambda rng: rng.randint(-99, 999),
    # Every letter is there, so that no replacement is without effect.
    "s": lambda rng: "".join(rng.sample("abcdefghij", k=10)) + "".join(rng.choices("abcdefghij", k=rng.randint(0, 4))),
    "xs": lambda rng: [rng.randint(-99, 399) for _ in range(rng.randint(6, 10))],
}
_WORDS = (
    "apple", "bird", "cloud", "door", "east", "fish", "green", "hello", "iron", "jump",
    "kite", "lamp", "moon", "north", "orange", "paper", "queen", "river", "stone", "tree",
    "under", "voice", "water", "yellow", "zebra", "book", "cat", "dog", "egg", "fire",
)  # fmt: skip
_NUMBERS = range(2, 200)
KINDS: dict[str, tuple[_Form, ...]] = {
    "number": (
        _Form("x plus {a}", "x + {a}", lambda x, a: x + a, (_NUMBERS,)),
        _Form("x minus {a}", "x - {a}", lambda x, a: x - a, (_NUMBERS,)),
        _Form("x times {a}", "x * {a}", lambda x, a: x * a, (_NUMBERS,)),
        _Form("{a} minus x", "{a} - x", lambda x, a: a - x, (_NUMBERS,)),
    ),
    "formula": (
        _Form("x times {a} plus {b}", "x * {a} + {b}", lambda x, a, b: x * a + b, (range(2, 30), range(2, 30))),
        _Form("x times {a} minus {b}", "x * {a} - {b}", lambda x, a, b: x * a - b, (range(2, 30), range(2, 30))),
        _Form("the square of x plus {a}", "x * x + {a}", lambda x, a: x * x + a, (_NUMBERS,)),
        _Form("the remainder of x divided by {a}", "x % {a}", lambda x, a: x % a, (_NUMBERS,)),
    ),
    "text": (
        _Form("s repeated {a} times", "s * {a}", lambda s, a: s * a, (range(2, 60),)),
        _Form("s followed by '{a}'", "s + '{a}'", lambda s, a: s + a, (_WORDS,)),
        _Form("'{a}' followed by s", "'{a}' + s", lambda s, a: a + s, (_WORDS,)),
        _Form("s between '{a}' and '{b}'", "'{a}' + s + '{b}'", lambda s, a, b: a + s + b, (_WORDS, _WORDS)),
        _Form("s in upper case followed by '{a}'", "s.upper() + '{a}'", lambda s, a: s.upper() + a, (_WORDS,)),
        _Form(
            "s with '{a}' replaced by '{b}'",
            "s.replace('{a}', '{b}')",
            lambda s, a, b: s.replace(a, b),
            ("abcdefghij", "klmnopqrst"),
        ),
    ),
    "list": (
        _Form("the sum of xs plus {a}", "sum(xs) + {a}", lambda xs, a: sum(xs) + a, (_NUMBERS,)),
        _Form("the largest element of xs plus {a}", "max(xs) + {a}", lambda xs, a: max(xs) + a, (_NUMBERS,)),
        _Form("the length of xs times {a}", "len(xs) * {a}", lambda xs, a: len(xs) * a, (_NUMBERS,)),
        _Form("the smallest element of xs minus {a}", "min(xs) - {a}", lambda xs, a: min(xs) - a, (_NUMBERS,)),
        _Form(
            "xs with {a} added to each element", "[x + {a} for x in xs]", lambda xs, a: [x + a for x in xs], (_NUMBERS,)
        ),
        _Form(
            "the elements of xs larger than {a}",
            "[x for x in xs if x > {a}]",
            lambda xs, a: [x for x in xs if x > a],
            (_NUMBERS,),
        ),
    ),
}
_EXAMPLES = (
    Problem(KINDS["number"][0], (7,)),
    Problem(KINDS["text"][1], ("sun",)),
    Problem(KINDS["list"][0], (1,)),
)


class Code:
    """Ask for functions of one line after worked examples.

    Args:
        kinds: names from `KINDS`, drawn equally often, and so are the wordings within a kind.
        examples: how many worked examples stand before the question, 0 to 3.
        eval_tasks: size of the split "eval". Wordings that run out are filled up from the others.
    Errors: ValueError for unknown kinds, a wrong number of examples, or more evaluation tasks than exist.
    """

    def __init__(
        self,
        kinds: Sequence[str] = ("number", "formula", "text", "list"),
        *,
        examples: int = 3,
        eval_tasks: int = 256,
    ) -> None:
        unknown = [name for name in kinds if name not in KINDS]
        if unknown or not kinds or isinstance(kinds, str):
            raise ValueError(f"kinds must be a list out of {', '.join(KINDS)}, not {kinds!r}")
        if not 0 <= examples <= len(_EXAMPLES):
            raise ValueError(f"examples must be 0 to {len(_EXAMPLES)}, not {examples}")
        if eval_tasks < 1:
            raise ValueError(f"eval_tasks must be at least 1, not {eval_tasks}")
        self._kinds = tuple(dict.fromkeys(kinds))
        self._eval_tasks = eval_tasks
        self._prompt = tuple(message for example in _EXAMPLES[:examples] for message in _turns(example))

    def tasks(self, split: str, *, seed: int) -> Iterator[Task]:
        """Yield the tasks of a split: "train" never ends, "eval" has `eval_tasks` distinct ones.

        A wording that training has used up starts again, so that an id may then come back.
        Errors: ValueError for another split, or where too few evaluation problems exist.
        """
        if split == "train":
            return self._train(seed)
        if split == "eval":
            return self._eval(seed)
        raise ValueError(f"code has the splits train and eval, not {split!r}")

    @staticmethod
    def gold(task: Task) -> str:
        """Write the reply that a perfect model would give."""
        return _fenced(task.truth["solution"])

    def _train(self, seed: int) -> Iterator[Task]:
        rng = random.Random(f"train:{seed}")
        decks: dict[_Form, list[Problem]] = {}
        while True:
            kind = rng.choice(self._kinds)
            form = rng.choice(KINDS[kind])
            if not decks.get(form):
                decks[form] = _deck(form, rng, held_out=False)
            yield self._task(kind, decks[form].pop())

    def _eval(self, seed: int) -> Iterator[Task]:
        rng = random.Random(f"eval:{seed}")
        decks = [(kind, [_deck(form, rng, held_out=True) for form in KINDS[kind]]) for kind in self._kinds]
        chosen: list[Task] = []
        for turn in count():
            left = [(kind, [deck for deck in forms if deck]) for kind, forms in decks]
            left = [(kind, forms) for kind, forms in left if forms]
            if not left:
                have = f"{', '.join(self._kinds)} have only {len(chosen)} evaluation tasks"
                raise ValueError(f"{have}, not {self._eval_tasks}: lower eval_tasks or add kinds")
            for kind, forms in left:
                chosen.append(self._task(kind, forms[turn % len(forms)].pop()))
                if len(chosen) == self._eval_tasks:
                    return iter(chosen)
        raise AssertionError("count() ends only above")

    def _task(self, kind: str, problem: Problem) -> Task:
        messages = (*self._prompt, _turns(problem)[0])
        identity = _digest(json.dumps([messages, problem.truth]))
        return Task(id=identity, messages=messages, truth=problem.truth, source="code", tags=(kind,))


def _deck(form: _Form, rng: random.Random, *, held_out: bool) -> list[Problem]:
    deck = [p for p in form.problems() if p.held_out is held_out and p not in _EXAMPLES]
    rng.shuffle(deck)
    return deck


def _turns(problem: Problem) -> tuple[Message, Message]:
    return Message(role="user", content=problem.question), Message(role="assistant", content=_fenced(problem.solution))


def _fenced(source: str) -> str:
    return f"```python\n{source}\n```"


def _digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=8).hexdigest()
