"""Judge final answers in mathematics: find the answer, compare it exactly where a rule can, else by computer algebra.

A reply gets one guess. A gold that is a plain number wants a literal number, and a form that leaves the work undone ("5!",
"2 + 3", an integral) is no answer. math-verify and sympy run in processes that can be killed (`_symbolic`); a reply that
makes them slow, large or crash is wrong where the gold does not.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from rlvr.types import Grade, Rollout, Task, Ungraded, Verdict
from rlvr_rewards import _answer, _compare, _symbolic
from rlvr_rewards._notation import key, tidy
from rlvr_rewards._shapes import Shape, shape
from rlvr_rewards._values import number
from rlvr_rewards.abstention import abstains

__all__ = ["Math"]

_LONGEST = 500  # characters of an answer; nothing longer is one, unless the gold is
_PROMPT = 4000  # characters at the end of the task's text that are searched for restatements
_PERCENT = re.compile(r"%|\bpercent", re.IGNORECASE)


class Math:
    """Judge a reply by its final answer.

    The answer is the later of the last balanced \\boxed{} (or boxes joined by "and") and the last marked one ("Answer: ...",
    "#### ..."); without either, the last formula or number. A task's truth is a string or number, a list of them, or
    {"answers": [...]}: any of them is right. A grade's part "format" is 1 where an answer was boxed or marked.

    Args:
        marked_only: read boxed and marked answers only.
    """

    pays = "ternary"
    worst_case_s = 15.0  # a starved machine: an answer and its gold in the worker, each with a retry

    def __init__(self, *, marked_only: bool = False) -> None:
        self._marked_only = marked_only

    def grade(self, task: Task, rollout: Rollout) -> Grade | Ungraded:
        """Judge one reply. "I don't know", as the marked answer or at the end of a reply without one, abstains."""
        golds = _golds(task.truth)
        if not golds:
            return _ungraded(f"the truth of task {task.id} holds no answer")
        found = _answer.find(rollout.reply)
        parts = {"format": float(found is not None and bool(found.text))}
        said = found.text if found is not None else "" if self._marked_only else rollout.reply
        asked = _asked(task)
        readings = [
            _reading(said, gold, marked=found is not None, boxed=found is not None and found.boxed) for gold in golds
        ]
        outcomes = [_compare.same(r, gold, equal=_unknown, **asked) for r, gold in zip(readings, golds, strict=True)]
        statement = tidy(found.text[:_LONGEST]) if found is not None else _answer.closing(rollout.reply)
        if True not in outcomes and abstains(statement):
            return Grade(verdict=Verdict.ABSTAINED, score=0.0, parts=parts, why="the reply abstains")
        if not any(readings):
            return Grade(verdict=Verdict.WRONG, score=0.0, parts=parts, why="no single answer found")
        open_pairs = [(r, g) for r, g, out in zip(readings, golds, outcomes, strict=True) if out is None]
        if True in outcomes:
            right: bool | Ungraded | str = True
        else:
            right = _worked(open_pairs, task.id, asked) if open_pairs else False
        if isinstance(right, Ungraded):
            return right
        reading = _short(next((r for r in readings if r), ""))
        if right is True:
            return Grade(verdict=Verdict.CORRECT, score=1.0, parts=parts, why=f"{reading} is right")
        why = f"{reading} is not {_short(golds[0])}" if right is False else f"{reading} {right}"
        return Grade(verdict=Verdict.WRONG, score=0.0, parts=parts, why=why)

    def warm_up(self) -> None:
        """Start the symbolic worker, whose imports no reply should pay for. Errors: RlvrError where it cannot start."""
        _symbolic.warm_up()

    def gold(self, task: Task) -> str:
        """Write a reply that earns CORRECT. Errors: ValueError where the truth holds no answer."""
        golds = _golds(task.truth)
        if not golds:
            raise ValueError(f"the truth of task {task.id} holds no answer")
        return f"\\boxed{{{golds[0]}}}"


def _unknown(said: str, gold: str) -> None:
    """Leave a comparison to the worker."""


def _worked(pairs: Sequence[tuple[str, str]], task: str, asked: dict[str, str | bool]) -> bool | str | Ungraded:
    """Let the worker decide: right or not, or how the answer broke it, or our failure."""
    try:
        verdicts = _symbolic.ask(pairs, **asked)  # type: ignore[arg-type]
        if not isinstance(verdicts, _symbolic.Overrun):
            if True in verdicts or None not in verdicts:
                return True in verdicts
            return _ungraded(f"the gold {_short(pairs[verdicts.index(None)][1])} of task {task} cannot be parsed")
        bad = next((gold for _, gold in pairs if not _passes(gold)), None)
    except _symbolic.WorkerLostError as error:
        return _ungraded(str(error))
    if bad is not None:
        return _ungraded(
            f"comparing with the gold {_short(bad)} of task {task} {verdicts.how}, and the gold alone fails too"
        )
    return f"{verdicts.how} when it is compared, the gold does not"


@lru_cache(maxsize=4096)
def _passes(gold: str) -> bool:
    """Tell whether the worker can compare a gold with itself. Errors: WorkerLostError."""
    verdicts = _symbolic.ask([("", gold)], check=True)
    return not isinstance(verdicts, _symbolic.Overrun) and verdicts[0] is True


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
    if found := _answer.boxes(gold):
        return _answer.joined(gold, found, adjacent=True)
    marked = _answer.find(gold)
    return (marked.text if marked is not None and marked.text else gold).strip()


def _reading(said: str, gold: str, *, marked: bool, boxed: bool) -> str:
    """Read one answer from what was said, as the kind of gold suggests: a name, a list, a formula or a number."""
    said = said.strip()
    if marked and not boxed and said.endswith("!") and "!" not in gold:
        said = said[:-1]
    limit = max(_LONGEST, 2 * len(gold) + 100)
    if not _answer.prose(said) or (len(said) <= limit and key(tidy(said)) == key(tidy(gold))):
        return said if len(said) <= limit else ""
    meant = _shape_of(gold)
    if meant.kind == "atom" and _compare.is_name(meant.text):
        return _named(said, meant.text, limit=limit, marked=marked)
    read = _answer.formula(said) or ""
    if not read and meant.kind == "atom" and number(meant.text) is None:
        read = _answer.run(said)
    if meant.kind in ("list", "set", "tuple") and (listed := _answer.series(said)):
        read = listed if "," not in read else read
    return read if len(read) <= limit else ""


def _named(said: str, gold: str, *, limit: int, marked: bool) -> str:
    """Read a name or a choice: the marked words, else the last choice in parentheses, else the last statement."""
    if len(gold) == 1 or gold.startswith("("):
        choice = _answer.choice(said)
        if choice is not None:
            return choice
    if gold.lower() in ("yes", "no") and (decided := re.match(r"(yes|no)\b[,.]", said, re.IGNORECASE)):
        return decided[1]
    statement = said if marked else _answer.closing(said)
    return statement if len(statement) <= limit else ""


@lru_cache(maxsize=4096)
def _shape_of(gold: str) -> Shape:
    return shape(tidy(gold))


def _asked(task: Task) -> dict[str, str | bool]:
    """Say what the task's last message asks for, as far as comparing needs it."""
    return _asked_in(next((m["content"] for m in reversed(task.messages) if m["role"] == "user"), "")[-_PROMPT:])


@lru_cache(maxsize=1024)
def _asked_in(prompt: str) -> dict[str, str | bool]:
    return {"percent_asked": bool(_PERCENT.search(prompt)), "posed": tidy(prompt)}


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 60 else text[:59] + "…"


def _ungraded(reason: str) -> Ungraded:
    return Ungraded(boundary="reward:math", reason=reason)
