"""Judge final answers in mathematics: find the answer, compare it exactly where a rule can, else by computer algebra.

A reply gets one guess. A gold that is a plain number wants a literal number, and a form that leaves the work undone
("5!", "2 + 3", an integral) is no answer. math-verify and sympy run in processes that can be killed (`symbolic`); a
reply that makes them slow, large or crash is wrong where the gold does not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from rlvr.types import Grade, Rollout, Task, Ungraded, Verdict
from rlvr_rewards.abstention import abstains
from rlvr_rewards.mathematics import answer, compare, counted, symbolic
from rlvr_rewards.mathematics.notation import key, tidy
from rlvr_rewards.mathematics.shapes import Shape, is_real_line, shape, sides
from rlvr_rewards.mathematics.values import number
from rlvr_rewards.mathematics.wording import is_name

__all__ = ["Math"]

_LONGEST = 500  # characters of an answer; nothing longer is one, unless the gold is
_PROMPT = 4000  # characters at the end of the task's text that are searched for restatements
_PERCENT = re.compile(r"%|\bpercent", re.IGNORECASE)


class _Asked(NamedTuple):
    percent_asked: bool
    posed: str  # the tidied text, and in further lines its formulas


class Math:
    """Judge a reply by its final answer.

    The answer is the later of the last balanced \\boxed{} (or boxes joined by "and") and the last marked one ("Answer:
    ...", "#### ..."); without either, the last formula or number. A task's truth is a string or number, a list of them,
    or {"answers": [...]}: any of them is right. A grade's part "format" is 1 where an answer was boxed or marked.

    Args:
        marked_only: read boxed and marked answers only.
    """

    def __init__(self, *, marked_only: bool = False) -> None:
        self._marked_only = marked_only

    def grade(self, task: Task, rollout: Rollout) -> Grade | Ungraded:
        """Judge one reply. "I don't know", as the marked answer or at the end of a reply without one, abstains."""
        golds = _golds(task.truth)
        if not golds:
            return _ungraded(f"the truth of task {task.id} holds no answer")
        found = answer.find(rollout.reply)
        parts = {"format": float(found is not None and bool(found.text))}
        said = found.text if found is not None else "" if self._marked_only else answer.spoken(rollout.reply)
        readings = [_reading(said, gold, found) for gold in golds]
        asked = _asked(task)
        pairs, right = _exactly(list(zip(readings, golds, strict=True)), asked)
        statement = tidy(found.text[:_LONGEST]) if found is not None else answer.closing(rollout.reply)
        # Whether a reply abstains never hangs on whether its guess is right: a hedge must not be a free try.
        if abstains(statement) and not (right and any(abstains(tidy(gold)) for gold in golds)):
            return Grade(verdict=Verdict.ABSTAINED, score=0.0, parts=parts, why="the reply abstains")
        if not any(readings):
            return Grade(verdict=Verdict.WRONG, score=0.0, parts=parts, why="no single answer found")
        decided = _worked(pairs, task.id, asked) if pairs and not right else right
        if isinstance(decided, Ungraded):
            return decided
        reading = _short(next(filter(None, readings)))
        if decided is True:
            return Grade(verdict=Verdict.CORRECT, score=1.0, parts=parts, why=f"{reading} is right")
        why = f"{reading} {decided or 'is not ' + _short(golds[0])}"
        return Grade(verdict=Verdict.WRONG, score=0.0, parts=parts, why=why)

    def warm_up(self) -> None:
        """Start the symbolic worker, whose imports no reply should pay for. Errors: RlvrError where it cannot start."""
        symbolic.warm_up()

    def gold(self, task: Task) -> str:
        """Write a reply that earns CORRECT. Errors: ValueError where the truth holds no answer."""
        golds = _golds(task.truth)
        if not golds:
            raise ValueError(f"the truth of task {task.id} holds no answer")
        return f"\\boxed{{{golds[0]}}}"


def _exactly(pairs: Sequence[tuple[str, str]], asked: _Asked) -> tuple[list[tuple[str, str]], bool]:
    """Decide (reading, gold) pairs by rules alone: those that are left open, and whether one is right."""
    left = []
    for said, gold in pairs:
        result = compare.same(said, gold, equal=_unknown, percent_asked=asked.percent_asked, posed=asked.posed)
        if result:
            return [], True
        if result is None:
            left.append((said, gold))
    return left, False


def _unknown(said: str, gold: str) -> None:
    """Leave a comparison to the worker."""


def _worked(pairs: Sequence[tuple[str, str]], task: str, asked: _Asked) -> bool | str | Ungraded:
    """Let the worker decide: right or not, or how the answer broke it, or our failure."""
    try:
        verdicts = symbolic.ask(pairs, percent_asked=asked.percent_asked, posed=asked.posed)
        if not isinstance(verdicts, symbolic.Overrun):
            if True in verdicts or None not in verdicts:
                return True in verdicts
            return _ungraded(f"the gold {_short(pairs[verdicts.index(None)][1])} of task {task} cannot be parsed")
        bad = next((gold for _, gold in pairs if not _passes(gold)), None)
    except symbolic.WorkerLostError as error:
        return _ungraded(str(error))
    if bad is not None:
        return _ungraded(
            f"comparing with the gold {_short(bad)} of task {task} {verdicts.how}, and the gold alone fails too"
        )
    return f"{verdicts.how} when it is compared, the gold does not"


@lru_cache(maxsize=4096)
def _passes(gold: str) -> bool:
    """Tell whether the worker can compare a gold with itself. Errors: WorkerLostError."""
    verdicts = symbolic.ask([("", gold)], check=True)
    return not isinstance(verdicts, symbolic.Overrun) and verdicts[0] is True


def _golds(truth: object) -> list[str]:
    """List the right answers of a truth, without their wrapping."""
    if isinstance(truth, dict):
        truth = truth.get("answers")
    answers = truth if isinstance(truth, list | tuple) else [truth]
    texts = [str(a) for a in answers if isinstance(a, str | int | float) and not isinstance(a, bool)]
    inner = [_unwrapped(text) for text in texts]
    return [text for text in inner if tidy(text)]


@lru_cache(maxsize=4096)
def _unwrapped(gold: str) -> str:
    """Take a gold out of its solution: the boxes, what follows ####, or the marked answer."""
    if found := answer.boxes(gold):
        return answer.joined(gold, found, adjacent=True)
    marked = answer.find(gold)
    return (marked.text if marked is not None and marked.text else gold).strip()


def _reading(said: str, gold: str, found: answer.Found | None) -> str:
    """Read one answer from what was said, as the kind of gold suggests: a name, a list, a formula or a number."""
    said = said.strip()
    marked = found is not None
    if found is not None and not found.boxed and said.endswith("!") and "!" not in gold:
        said = said[:-1]
    limit = max(_LONGEST, 2 * len(gold) + 100)
    if not answer.prose(said) or (len(said) <= limit and _whole(tidy(said), tidy(gold))):
        return said if len(said) <= limit else ""
    meant = _shape_of(gold)
    if meant.kind == "atom" and is_name(meant.text):
        return _named(said, meant.text, limit=limit, marked=marked)
    read = answer.formula(said) or ""
    if not read and meant.kind == "atom" and number(sides(meant.text)[1]) is None:
        read = answer.run(said)
    if meant.kind in ("list", "set", "tuple") and (listed := counted.series(said)):
        read = listed if "," not in read else read
    return read if len(read) <= limit else ""


def _whole(said: str, gold: str) -> bool:
    """Tell whether several words are the answer itself: the gold's, a number with its unit, the real line."""
    return key(said) == key(gold) or number(said) is not None or is_real_line(said)


def _named(said: str, gold: str, *, limit: int, marked: bool) -> str:
    """Read a name or a choice: the marked words, else the last choice in parentheses, else the last statement."""
    if len(gold) == 1 or gold.startswith("("):
        choice = answer.choice(said)
        if choice is not None:
            return choice
    if gold.lower() in ("yes", "no") and (decided := re.match(r"(yes|no)\b[,.]", said, re.IGNORECASE)):
        return decided[1]
    statement = said if marked else answer.closing(said)
    return statement if len(statement) <= limit else ""


@lru_cache(maxsize=4096)
def _shape_of(gold: str) -> Shape:
    return shape(tidy(gold))


def _asked(task: Task) -> _Asked:
    """Say what the task's last message asks for, as far as comparing needs it."""
    return _asked_in(next((m["content"] for m in reversed(task.messages) if m["role"] == "user"), "")[-_PROMPT:])


@lru_cache(maxsize=1024)
def _asked_in(prompt: str) -> _Asked:
    formulas = dict.fromkeys(tidy(one) for one in answer.formulas(prompt))
    return _Asked(bool(_PERCENT.search(prompt)), "\n".join([tidy(prompt), *formulas]))


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 60 else text[:59] + "…"


def _ungraded(reason: str) -> Ungraded:
    return Ungraded(boundary="reward:math", reason=reason)
