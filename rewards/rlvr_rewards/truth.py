"""Judge factual answers by rules: right, abstaining or wrong, which a ternary payoff turns into +1, 0 and -1."""

from __future__ import annotations

import re
from typing import NamedTuple

from rlvr.types import Grade, Rollout, Task, Ungraded, Verdict
from rlvr_rewards.abstention import abstains, final_answer, marked_answer, without_doubts
from rlvr_rewards.language.matching import Match, Question, compare

__all__ = ["Facts", "Truth", "facts_of", "question_of", "stated_confidence"]

_CONFIDENCE = re.compile(
    r"[ \t>*_#-]*(?:my |stated )?confidence(?: level| score)?[*_ ]{0,4}[:=]?[*_ ]{0,4}"
    r"(\d{1,3}(?:\.\d{1,6})?|\.\d{1,6}) ?(%|percent|/ ?100?\b|/ ?1\b|out of 100?\b)?[ .*_]*",
    re.IGNORECASE,
)
_ASKED = re.compile(r"^(?:q|question|problem)\s*:\s*(.+)$", re.IGNORECASE | re.MULTILINE)


class Facts(NamedTuple):
    """The right answers of a task; without any, only abstaining is not wrong."""

    answers: tuple[str, ...]
    out_of_knowledge: bool


class Truth:
    """Judge a reply by its final answer (`rlvr_rewards.abstention` says which that is).

    The truth of a task is a string, a number, a list of strings (any is right) or a table with "answers" and
    "out_of_knowledge". `parts` holds "format" (1 where the answer is marked) and, where it is stated, "confidence".

    Args:
        exact: take the same words, numbers, dates and names only, no sentence that gives the answer.
        tolerance: how far a number may lie from the gold's, relative to it.
        coarse_dates: let the year answer for a full date.
        marked_only: call a reply without a marked answer WRONG, even one that abstains.
        thinking: the prompt opens <think> already, so a reply that never closes it holds no answer.
    """

    pays = "ternary"
    reads_confidence = True

    def __init__(
        self,
        *,
        exact: bool = False,
        tolerance: float = 0.0,
        coarse_dates: bool = True,
        marked_only: bool = False,
        thinking: bool = False,
    ) -> None:
        if not 0.0 <= tolerance < 1.0:
            raise ValueError(f"tolerance is a share of the gold's number in [0, 1), not {tolerance}")
        self._least = Match.SAME if exact else Match.GIVEN
        self._tolerance, self._coarse_dates = tolerance, coarse_dates
        self._marked_only, self._thinking = marked_only, thinking

    def grade(self, task: Task, rollout: Rollout) -> Grade | Ungraded:
        """Judge one reply."""
        facts = facts_of(task.truth)
        if facts is None:
            return Ungraded(boundary="reward:truth", reason=f"the truth of task {task.id} holds no answer")
        reply = rollout.reply
        if self._thinking and "</think>" not in reply:
            reply = ""
        marked = marked_answer(reply)
        parts = {"format": float(bool(marked))}
        confidence = stated_confidence(reply)
        if confidence is not None:
            parts["confidence"] = confidence
        verdict, why = self._judged(reply, marked, facts, question_of(task))
        return Grade(verdict=verdict, score=float(verdict is Verdict.CORRECT), parts=parts, why=why)

    def match(self, answer: str, *, task: Task, facts: Facts) -> Match:
        """Tell how well a final answer says one of the right ones."""
        return self._match(answer, facts, question_of(task))

    def gold(self, task: Task) -> str:
        """Write a reply that earns CORRECT. Errors: ValueError where the truth holds no answer."""
        facts = facts_of(task.truth)
        if facts is None or not facts.answers:
            raise ValueError(f"the truth of task {task.id} holds no answer")
        return f"Answer: {facts.answers[0]}"

    def _judged(self, reply: str, marked: str | None, facts: Facts, question: str) -> tuple[Verdict, str]:
        answer = final_answer(reply)
        if not re.search(r"\w", answer) or (self._marked_only and marked is None):
            return Verdict.WRONG, "no marked answer" if self._marked_only else "no answer found"
        if abstains(answer):
            # "it cannot be determined" may be what is right
            if any(abstains(gold) for gold in facts.answers) and self._match(answer, facts, question) is Match.SAME:
                return Verdict.CORRECT, f"{_short(answer)} is right"
            return Verdict.ABSTAINED, "the reply abstains"
        settled = without_doubts(answer)
        if settled != answer and self._match(answer, facts, question) is not Match.SAME:
            answer = settled  # a gold may hold a doubt: "It is unknown who said that"
        if self._match(answer, facts, question) >= self._least:
            return Verdict.CORRECT, f"{_short(answer)} is right"
        return Verdict.WRONG, f"{_short(answer)} is not {_short(facts.answers[0]) if facts.answers else 'known'}"

    def _match(self, answer: str, facts: Facts, question: str) -> Match:
        asked = Question.of(question)
        return compare(
            answer, facts.answers, question=asked, tolerance=self._tolerance, coarse_dates=self._coarse_dates
        )


def facts_of(truth: object) -> Facts | None:
    """Read a task's truth; None where it holds no answer and is not marked as beyond the model's knowledge."""
    beyond = False
    if isinstance(truth, dict):
        beyond, truth = truth.get("out_of_knowledge") is True, truth.get("answers", [])
    given = truth if isinstance(truth, list | tuple) else [truth]
    texts = [str(one).strip() for one in given if isinstance(one, str | int | float) and not isinstance(one, bool)]
    answers = tuple(text for text in texts if re.search(r"\w", text))
    return Facts(answers, beyond) if answers or beyond else None


def question_of(task: Task) -> str:
    """Give what the task asks: its last user message, or the last "Question:" line in it."""
    text = next((m["content"] for m in reversed(task.messages) if m["role"] == "user"), "")
    asked = _ASKED.findall(text)
    return asked[-1].strip() if asked else text.strip()


def stated_confidence(reply: str) -> float | None:
    """Read the last line that speaks of confidence, after any thinking: "Confidence: 0.8", "80 %", "80/100".

    Gives: a number in [0, 1]; None without such a line, or where it holds anything else.
    """
    after = reply.rpartition("</think>")[2]
    lines = [line for line in after.splitlines() if re.match(r"\W*(?:my |stated )?confidence", line, re.IGNORECASE)]
    match = _CONFIDENCE.fullmatch(lines[-1].strip()) if lines else None
    if match is None:
        return None
    unit = (match[2] or "").lower().replace(" ", "")
    hundred = unit in ("%", "percent", "/100", "outof100")
    value = float(match[1]) / (100.0 if hundred else 10.0 if unit.endswith("10") else 1.0)
    return value if 0.0 <= value <= 1.0 else None


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 60 else text[:59] + "…"
