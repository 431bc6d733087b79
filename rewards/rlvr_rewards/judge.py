"""Judge answers by another model behind an OpenAI-compatible endpoint; a local vLLM server is one.

What rules can decide, rules decide: an empty reply is WRONG and never sent, a plain abstention is ABSTAINED, the gold
in the same words is CORRECT. An unreadable verdict and an endpoint that does not answer leave a reply `Ungraded`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from rlvr.errors import BoundaryError, boundary
from rlvr.types import Grade, Rollout, Task, Ungraded, Verdict
from rlvr_rewards.abstention import abstains, final_answer, marked_answer
from rlvr_rewards.judging.endpoint import Endpoint, EndpointError
from rlvr_rewards.judging.prompts import Prompt, read_verdict
from rlvr_rewards.judging.verdicts import Verdicts
from rlvr_rewards.language.matching import Match
from rlvr_rewards.truth import Facts, Truth, facts_of, question_of, stated_confidence

__all__ = ["Judge"]

_T = TypeVar("_T")
_KINDS = ("equivalence", "verifier")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Open:
    """A reply that the rules leave open."""

    prompt: Prompt
    key: str
    parts: dict[str, float]


class Judge:
    """Ask a model whether a reply is right.

    The truth of a task is what `Truth` takes; a verifier does without. `parts` holds "format", "judged" (1 where the
    model decided, 0 where a rule did) and, where it is stated, "confidence".

    Args:
        url: the endpoint, up to /v1.
        model: the name that the endpoint knows it by.
        api_key_env: the environment variable that holds the key, if one is needed.
        kind: "equivalence" shows the final answer and compares it with the references; "verifier" shows the whole
            reply and has the model work the answer out.
        timeout_s: seconds for one attempt, from looking the name up to the last byte.
        retries: how often an attempt that may pass later is repeated, after growing waits.
        pause_s: seconds for which nothing is asked of an endpoint that left a question without answer through all
            retries while it answered no other; the first question after them is tried once.
        concurrency: questions at once, in each grading process.
        cache: a file of verdicts that runs and processes share; without it they are kept in memory.
        rules_first: let `Truth` decide where the answer and the gold are the same words, number, date or name.
        max_tokens: what the model may write, its reasoning included.
        longest: characters of a reply that are shown, its last ones.
        system, template: instructions and question in place of ours; the template holds {reply} and {nonce}.
    """

    pays = "ternary"
    reads_confidence = True

    def __init__(
        self, *, url: str, model: str, api_key_env: str | None = None, kind: str = "equivalence",
        timeout_s: float = 30.0, retries: int = 2, pause_s: float = 30.0, concurrency: int = 8,
        cache: str | None = None, rules_first: bool = True, max_tokens: int = 1024, longest: int = 8000,
        system: str | None = None, template: str | None = None,
    ) -> None:  # fmt: skip
        if kind not in _KINDS:
            raise ValueError(f"kind is {' or '.join(_KINDS)}, not '{kind}'")
        if not model or max_tokens < 1 or longest < 1:
            raise ValueError("a judge needs the name of a model, and max_tokens and longest of 1 or more")
        if template is not None:
            Prompt.check(template)
        self._endpoint = Endpoint(
            url=url, api_key_env=api_key_env, timeout_s=timeout_s, retries=retries, concurrency=concurrency,
            pause_s=pause_s,
        )  # fmt: skip
        self._model, self._kind, self._rules_first = model, kind, rules_first
        self._max_tokens, self._longest, self._system, self._template = max_tokens, longest, system, template
        self._verdicts, self._rules = Verdicts(cache), Truth()
        self.worst_case_s = self._endpoint.worst_case_s

    def grade(self, task: Task, rollout: Rollout) -> Grade | Ungraded:
        """Judge one reply."""
        decided = self._by_rule(task, rollout)
        return self._by_model(decided) if isinstance(decided, _Open) else decided

    def grade_group(self, task: Task, rollouts: Sequence[Rollout]) -> list[Grade | Ungraded]:
        """Judge all replies to a task at once, equal ones by one question."""
        decided = [_guarded(self._by_rule, task, rollout) for rollout in rollouts]
        questions = {one.key: one for one in decided if isinstance(one, _Open)}
        answers: dict[str, Grade | Ungraded] = {}
        if questions:
            with ThreadPoolExecutor(max_workers=min(len(questions), self._endpoint.concurrency)) as threads:
                ask = partial(_guarded, self._by_model)
                answers = dict(zip(questions, threads.map(ask, questions.values()), strict=True))
        return [_with_parts(answers[one.key], one.parts) if isinstance(one, _Open) else one for one in decided]

    def gold(self, task: Task) -> str:
        """Write a reply that earns CORRECT. Errors: ValueError where the truth holds no answer."""
        return self._rules.gold(task)

    def _by_rule(self, task: Task, rollout: Rollout) -> Grade | Ungraded | _Open:
        facts = facts_of(task.truth)
        if facts is None and self._kind == "equivalence":
            return Ungraded(
                boundary="reward:judge", reason=f"the truth of task {task.id} holds no answer to compare with"
            )
        facts = facts or Facts((), False)
        reply = rollout.reply
        answer = final_answer(reply)
        parts = {"format": float(bool(marked_answer(reply))), "judged": 0.0}
        confidence = stated_confidence(reply)
        if confidence is not None:
            parts["confidence"] = confidence
        if not re.search(r"\w", answer):
            return _decided(Verdict.WRONG, parts, "no answer found")
        if abstains(answer) and not any(abstains(gold) for gold in facts.answers):
            return _decided(Verdict.ABSTAINED, parts, "the reply abstains")
        if facts.out_of_knowledge and not facts.answers:
            return _decided(Verdict.WRONG, parts, "an answer where none is known")
        if self._rules_first and facts.answers and self._rules.match(answer, task=task, facts=facts) is Match.SAME:
            return _decided(Verdict.CORRECT, parts, "the gold in the same words")
        prompt = Prompt.of(
            kind=self._kind, question=question_of(task), answers=facts.answers,
            reply=answer if self._kind == "equivalence" else reply,
            longest=self._longest, system=self._system, template=self._template,
        )  # fmt: skip
        return _Open(prompt=prompt, key=prompt.key(self._model), parts=parts | {"judged": 1.0})

    def _by_model(self, question: _Open) -> Grade | Ungraded:
        known = self._verdicts.get(question.key)
        if known is not None:
            return _decided(known, question.parts, f"the judge says {known.value}")
        try:
            choice = self._endpoint.chat(self._body(question.prompt))
        except EndpointError as error:
            return Ungraded(boundary="judge", reason=str(error))
        text = choice["message"].get("content")
        verdict = read_verdict(text, nonce=question.prompt.nonce) if isinstance(text, str) else None
        if verdict is None:
            cut = choice.get("finish_reason") == "length"
            hint = (
                f"it was cut at max_tokens = {self._max_tokens}: raise it" if cut else "try another model or template"
            )
            return Ungraded(boundary="judge", reason=f"the judge {self._model} gives no readable verdict; {hint}")
        self._verdicts.put(question.key, verdict)
        return _decided(verdict, question.parts, f"the judge says {verdict.value}")

    def _body(self, prompt: Prompt) -> dict[str, object]:
        messages = [{"role": "system", "content": prompt.system}, {"role": "user", "content": prompt.user}]
        return {
            "model": self._model, "messages": messages, "temperature": 0, "seed": 0, "n": 1, "stream": False,
            "max_tokens": self._max_tokens,
        }  # fmt: skip


def _guarded(call: Callable[..., _T], *args: object) -> _T | Ungraded:
    """Call one of our own methods for one reply; what it raises leaves that reply ungraded and no other of its group.

    Errors: BoundaryError where memory or the stack ran out, which is for the grading process to judge.
    """
    try:
        with boundary("reward:judge"):
            return call(*args)
    except BoundaryError as error:
        if isinstance(error.__cause__, MemoryError | RecursionError):
            raise
        return Ungraded(boundary=error.boundary, reason=error.reason)


def _decided(verdict: Verdict, parts: dict[str, float], why: str) -> Grade:
    return Grade(verdict=verdict, score=float(verdict is Verdict.CORRECT), parts=parts, why=why)


def _with_parts(grade: Grade | Ungraded, parts: dict[str, float]) -> Grade | Ungraded:
    if isinstance(grade, Ungraded) or grade.verdict is None:
        return grade
    return _decided(grade.verdict, parts, grade.why)
