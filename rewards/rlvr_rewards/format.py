"""Score the shape and the length of a reply. None of these knows what is right by itself."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from rlvr.types import Grade, Reward, Rollout, Task, Ungraded, Verdict
from rlvr_rewards._combined import Combined
from rlvr_rewards.abstention import final_answer

__all__ = ["CosineLength", "Format", "Overlong"]

_LONGEST = 100_000  # characters of a reply that a pattern is tried on
_ANSWERS = ("x", "1", "A", "x y", "1.5")  # that an example is tried with, beside the words of its pattern


class Format:
    """Score 1 where a reply has the asked shape, else 0; without a verdict. `parts` holds "format".

    Args:
        pattern: a regular expression that has to be found in the reply. The grading process, which has a deadline, runs
            it, so a pattern that backtracks for ever costs that process and not the run.
        example: a text in which the pattern is found and in which {reply} stands for the answer, such as
            "Therefore: {reply}". A combined reward needs it for its gold, without which a reply that hangs the grading
            process is nobody's fault: left ungraded instead of WRONG.
        tags: names such as ["think", "answer"]: each pair once, in this order, with nothing but white space around
            them, and something within the last.
        opened: the prompt ends with the first opening tag, so a reply may begin inside it.
    """

    judges = False

    def __init__(
        self, *, pattern: str | None = None, example: str | None = None, tags: Sequence[str] = (), opened: bool = False
    ) -> None:
        if (pattern is None) == (not tags):
            raise ValueError("a format is given by a pattern or by tags, and by one of them only")
        if isinstance(tags, str) or len(set(tags)) < len(tags) or not all(re.fullmatch(r"[\w-]+", tag) for tag in tags):
            raise ValueError(f"tags are different names without brackets, such as ['think', 'answer'], not {tags!r}")
        try:
            self._pattern = None if pattern is None else re.compile(pattern, re.DOTALL)
        except re.error as error:
            raise ValueError(f"the pattern {pattern!r} is no regular expression: {error}") from error
        self._tags, self._opened, self._example = tuple(tags), opened, example
        if example is not None and (self._pattern is None or "{reply}" not in example):
            raise ValueError("an example belongs to a pattern, and {reply} stands in it for the answer")
        if self._pattern is not None and example is not None:
            golds = (gold for word in (*_ANSWERS, *re.findall(r"\w+", self._pattern.pattern)) for gold in _golds(word))
            if not any(self._pattern.search(_filled(example, gold)) for gold in golds):
                raise ValueError(
                    f"the pattern {pattern!r} is not found in the example {example!r}, whatever {{reply}} is"
                )

    def grade(self, task: Task, rollout: Rollout) -> Grade:
        """Look at one reply."""
        fault = self._fault(rollout.reply)
        return Grade(verdict=None, score=float(not fault), parts={"format": float(not fault)}, why=fault)

    def dress(self, reply: str) -> str:
        """Put a reply into the last of the tags, the others empty before it, or into the example.

        Where the reply as a whole does not fit into the example, its answer alone is put there.

        Errors: ValueError where it does not have the pattern then.
        """
        if self._pattern is None:
            empty = "".join(f"<{tag}></{tag}>\n" for tag in self._tags[:-1])
            return f"{empty}<{self._tags[-1]}>{reply}</{self._tags[-1]}>"
        shapes = [reply] if self._example is None else [_filled(self._example, r) for r in (reply, final_answer(reply))]
        for dressed in shapes:
            if not self._fault(dressed):
                return dressed
        missing = "give an `example` of a reply with it" if self._example is None else "give another `example`"
        raise ValueError(f"the pattern {self._pattern.pattern!r} is not found in the gold {shapes[0]!r}: {missing}")

    def _fault(self, reply: str) -> str:
        if self._pattern is not None:
            if len(reply) > _LONGEST:
                return f"the reply is longer than {_LONGEST} characters"
            return "" if self._pattern.search(reply) else "the pattern is not found"
        marks = [mark for tag in self._tags for mark in (f"<{tag}>", f"</{tag}>")]
        rest = reply.strip()
        if self._opened and not rest.startswith(marks[0]):
            rest = marks[0] + rest
        for mark in marks:
            if rest.count(mark) != 1:
                return f"{mark} is there {rest.count(mark)} times"
        inside = ""
        for mark in marks:
            inside, found, after = rest.partition(mark)
            if not found:
                return f"{mark} comes too early"
            if not mark.startswith("</") and inside.strip():
                return f"there is text before {mark}"
            rest = after
        if rest.strip():
            return f"there is text after {marks[-1]}"
        return "" if inside.strip() else f"nothing is within {marks[-2]}"


class Overlong:
    """Punish replies that come near the token budget or reach it: 0, then linearly down to -1; without a verdict.

    With |y| sampled tokens the score is 0 up to max_tokens - buffer, ((max_tokens - buffer) - |y|) / buffer up to
    max_tokens and -1 beyond.

    Source: DAPO, arXiv 2503.14476, equation 13 (soft overlong punishment).

    Args:
        max_tokens: L_max of the paper.
        buffer: L_cache of the paper.
        unit: give 1 more, so that the score lies in [0, 1], as it must beside a reward with a verdict. A group's
            advantages do not change by a constant.
    """

    judges = False

    def __init__(self, *, max_tokens: int, buffer: int, unit: bool = False) -> None:
        if not 0 < buffer <= max_tokens:
            raise ValueError(f"buffer lies above 0 and is at most max_tokens, not {buffer} of {max_tokens}")
        self._free, self._max, self._buffer, self._lift = max_tokens - buffer, max_tokens, buffer, float(unit)
        self.outside_unit = not unit

    def grade(self, task: Task, rollout: Rollout) -> Grade:
        """Look at one reply's length."""
        length = _sampled(rollout)
        score = 0.0 if length <= self._free else -1.0 if length > self._max else (self._free - length) / self._buffer
        return Grade(verdict=None, score=score + self._lift, parts={"overlong": score, "tokens": float(length)})


class CosineLength(Combined):
    """Scale a judging reward by length: along a cosine from one end of a range to the other, its ends by verdict.

    At no token the score is the range's first number, at max_tokens its second: r_L + (r_0 - r_L)(1 + cos(pi |y| /
    max_tokens)) / 2. Short right replies pay best, and short wrong ones worst. A reply of max_tokens or more gets
    `exceeded`. An abstaining one gets `abstained` at any length.

    The verdict is that of `of` where all five numbers lie in [0, 1], and none where they do not, since a score beside a
    verdict has to; the paper's own are correct = [2, 1], wrong = [-10, 0], exceeded = -10.

    Source: arXiv 2502.03373 (cosine reward).

    Args:
        of: the reward that says what is right.
        max_tokens: L_max of the paper.
    """

    def __init__(
        self, *, of: Reward | Sequence[Reward], max_tokens: int, correct: Sequence[float] = (1.0, 0.5),
        wrong: Sequence[float] = (0.0, 0.2), exceeded: float = 0.0, abstained: float = 0.25,
    ) -> None:  # fmt: skip
        rewards = list(of) if isinstance(of, Sequence) else [of]
        if len(rewards) != 1:
            raise ValueError(f"a cosine length reward is made of one reward, not of {len(rewards)}")
        if max_tokens < 1 or len(correct) != 2 or len(wrong) != 2:
            raise ValueError(
                "a cosine length reward needs max_tokens above 0, and two numbers for correct and for wrong"
            )
        ends = (*correct, *wrong, exceeded, abstained)
        if not all(math.isfinite(end) for end in ends):
            raise ValueError(f"a cosine length reward needs finite numbers, not {ends}")
        super().__init__(rewards, None)
        self._max, self._exceeded, self._abstained = max_tokens, exceeded, abstained
        self._ranges = {Verdict.CORRECT: tuple(correct), Verdict.WRONG: tuple(wrong)}
        self.judges = all(0.0 <= end <= 1.0 for end in ends)
        self.outside_unit = not self.judges

    def _grade_all(self, task: Task, rollouts: Sequence[Rollout]) -> list[Grade | Ungraded]:
        answers = self._ask(0, task, rollouts)
        return [self._scaled(answer, rollout) for answer, rollout in zip(answers, rollouts, strict=True)]

    def _scaled(self, inner: Grade | Ungraded, rollout: Rollout) -> Grade | Ungraded:
        if isinstance(inner, Ungraded):
            return inner
        if inner.verdict is None:
            return Ungraded(
                boundary="reward:cosine_length", reason="the reward in `of` gives no verdict: take one that judges"
            )
        length = _sampled(rollout)
        score = self._score(inner.verdict, length)
        parts = {**inner.parts, "of": float(inner.score), "cosine": score, "tokens": float(length)}
        return Grade(verdict=inner.verdict if self.judges else None, score=score, parts=parts, why=inner.why)

    def _score(self, verdict: Verdict, length: int) -> float:
        if length >= self._max:
            return self._exceeded
        if verdict is Verdict.ABSTAINED:
            return self._abstained
        first, last = self._ranges[verdict]
        return last + (first - last) * (1.0 + math.cos(math.pi * length / self._max)) / 2.0


def _filled(example: str, answer: str) -> str:
    return example.replace("{reply}", answer)


def _golds(answer: str) -> tuple[str, ...]:
    """Write an answer as the golds of rewards do."""
    return answer, f"Answer: {answer}", f"\\boxed{{{answer}}}"


def _sampled(rollout: Rollout) -> int:
    """Count the tokens that the model wrote; what an environment added is not its doing."""
    return sum(span.stop - span.start for span in rollout.spans)
