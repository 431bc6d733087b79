"""Make one reward of several: a weighted sum, a gate, or the first that decides. Every part stays visible.

`parts` holds each inner reward's score under its name, and its own parts as "name/part". A failure of an inner reward
leaves the reply `Ungraded`; it never becomes a 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from rlvr.errors import BoundaryError, RlvrError, boundary
from rlvr.types import Grade, Reward, Rollout, Task, Ungraded, Verdict

__all__ = ["FirstThatDecides", "Gate", "WeightedSum"]


class _Combined:
    """What all combinations share: names, parts, and asking inner rewards in groups where they can.

    `grade_group`, `gold` and `warm_up` exist where an inner reward has them, as the grading pool looks for them.
    """

    def __init__(self, of: Sequence[Reward], names: Sequence[str] | None, *, least: int = 1) -> None:
        self._of = list(of) if isinstance(of, Sequence) else [of]
        if len(self._of) < least:
            raise ValueError(f"{type(self).__name__} needs at least {least} rewards in `of`, not {len(self._of)}")
        self._names = _named(self._of, names)
        self.worst_case_s = sum(float(getattr(reward, "worst_case_s", 0.0)) for reward in self._of)
        if any(hasattr(reward, "grade_group") for reward in self._of):
            self.grade_group: Callable[[Task, Sequence[Rollout]], list[Grade | Ungraded]] = self._grade_all
        if any(hasattr(reward, "gold") for reward in self._of):
            self.gold: Callable[[Task], str] = self._gold

    def grade(self, task: Task, rollout: Rollout) -> Grade | Ungraded:
        """Judge one reply."""
        return self._grade_all(task, [rollout])[0]

    def warm_up(self) -> None:
        """Let inner rewards do their slow imports."""
        for reward in self._of:
            getattr(reward, "warm_up", lambda: None)()

    def _grade_all(self, task: Task, rollouts: Sequence[Rollout]) -> list[Grade | Ungraded]:
        raise NotImplementedError

    def _gold(self, task: Task) -> str:
        """Write the reply that earns CORRECT of the first reward that can, dressed as the others want it."""
        reply: str = next(gold(task) for gold in (getattr(reward, "gold", None) for reward in self._of) if gold)
        for reward in self._of:
            reply = getattr(reward, "dress", lambda text: text)(reply)
        return reply

    def _ask(self, place: int, task: Task, rollouts: Sequence[Rollout]) -> list[Grade | Ungraded]:
        """Ask one inner reward about some replies: all at once if it can, one by one where that raises.

        Errors: as `_guarded`.
        """
        reward, name = self._of[place], f"reward:{self._names[place]}"
        together = getattr(reward, "grade_group", None)
        if together is not None and rollouts:
            answers = _guarded(name, lambda: list(together(task, rollouts)), count=len(rollouts))
            if not isinstance(answers, Ungraded):
                return answers
        result: list[Grade | Ungraded] = []
        for one in rollouts:
            alone = _guarded(name, lambda one=one: [reward.grade(task, one)], count=1)  # type: ignore[misc]
            result.append(alone if isinstance(alone, Ungraded) else alone[0])
        return result

    def _parts(self, place: int, grade: Grade) -> dict[str, float]:
        name = self._names[place]
        return {name: float(grade.score), **{f"{name}/{part}": float(value) for part, value in grade.parts.items()}}


class WeightedSum(_Combined):
    """Average the scores by weight; the verdict is the first reward's.

    Beside a verdict the average is kept within [0, 1]: give a punishment a scale of its own (`Overlong` has `unit`)
    rather than have it cut off there.

    Args:
        of: the rewards; the first one judges.
        weights: one above 0 for each; all alike if left out. They need not sum to 1.
        names: of the parts; the classes' names in lower case if left out.
    """

    def __init__(
        self, *, of: Sequence[Reward], weights: Sequence[float] | None = None, names: Sequence[str] | None = None
    ) -> None:
        super().__init__(of, names)
        self._weights = [1.0] * len(self._of) if weights is None else [float(weight) for weight in weights]
        if len(self._weights) != len(self._of):
            raise ValueError(f"a sum of {len(self._of)} rewards needs as many weights, not {len(self._weights)}")
        if not all(math.isfinite(weight) and weight > 0 for weight in self._weights):
            raise ValueError(f"weights are finite and above 0, not {self._weights}")

    def _grade_all(self, task: Task, rollouts: Sequence[Rollout]) -> list[Grade | Ungraded]:
        by_reward = [self._ask(place, task, rollouts) for place in range(len(self._of))]
        return [self._sum(answers) for answers in zip(*by_reward, strict=True)]

    def _sum(self, answers: Sequence[Grade | Ungraded]) -> Grade | Ungraded:
        grades: list[Grade] = []
        for answer in answers:
            if isinstance(answer, Ungraded):
                return answer
            grades.append(answer)
        total = math.fsum(self._weights)
        score = math.fsum(w / total * g.score for w, g in zip(self._weights, grades, strict=True))
        parts = {key: value for place, grade in enumerate(grades) for key, value in self._parts(place, grade).items()}
        verdict = grades[0].verdict
        score = score if verdict is None else min(1.0, max(0.0, score))
        return Grade(verdict=verdict, score=score, parts=parts, why="; ".join(g.why for g in grades if g.why))


class Gate(_Combined):
    """Let the second reward's grade count only where the first one's score is full.

    Where it is not, the score is 0 and the verdict WRONG, or the first reward's own if that is WRONG or ABSTAINED; the
    second reward is not asked.

    Args:
        of: two rewards: the gate, and what lies behind it.
        full: the score from which the gate is open.
        judges: whether a closed gate gives a verdict; turn it off where the second reward gives none.
        names: of the parts; the classes' names in lower case if left out.
    """

    pays = reads_confidence = "inner"  # a verdict of an inner reward is paid as that reward says

    def __init__(
        self, *, of: Sequence[Reward], full: float = 1.0, judges: bool = True, names: Sequence[str] | None = None
    ) -> None:
        super().__init__(of, names, least=2)
        if len(self._of) != 2:
            raise ValueError(f"a gate is made of two rewards, not of {len(self._of)}")
        if not math.isfinite(full):
            raise ValueError(f"the score that opens a gate is finite, not {full}")
        self._full, self._judges = full, judges

    def _grade_all(self, task: Task, rollouts: Sequence[Rollout]) -> list[Grade | Ungraded]:
        first = self._ask(0, task, rollouts)
        opened = [i for i, grade in enumerate(first) if isinstance(grade, Grade) and grade.score >= self._full]
        second = dict(zip(opened, self._ask(1, task, [rollouts[i] for i in opened]), strict=True))
        return [self._one(grade, second.get(i)) for i, grade in enumerate(first)]

    def _one(self, gate: Grade | Ungraded, behind: Grade | Ungraded | None) -> Grade | Ungraded:
        if isinstance(gate, Ungraded) or isinstance(behind, Ungraded):
            return gate if isinstance(gate, Ungraded) else behind  # type: ignore[return-value]
        if behind is not None:
            parts = self._parts(0, gate) | self._parts(1, behind)
            return Grade(verdict=behind.verdict, score=behind.score, parts=parts, why=behind.why)
        verdict = gate.verdict if gate.verdict is Verdict.ABSTAINED else Verdict.WRONG
        why = f"{self._names[0]} does not let it pass" + (f": {gate.why}" if gate.why else "")
        return Grade(verdict=verdict if self._judges else None, score=0.0, parts=self._parts(0, gate), why=why)


class FirstThatDecides(_Combined):
    """Take the grade of the first reward that gives a verdict; later ones are not asked.

    A grade without a verdict does not decide; where none decides, the last one's grade counts. An `Ungraded` of a
    reward leaves the reply ungraded, unless `fallback_on_ungraded` passes it on to the next.

    Args:
        of: the rewards, in the order in which they are asked.
        fallback_on_ungraded: whether the next reward is asked where one fails. The failure is then not counted.
        names: of the parts; the classes' names in lower case if left out.
    """

    pays = reads_confidence = "inner"  # a verdict of an inner reward is paid as that reward says

    def __init__(
        self, *, of: Sequence[Reward], fallback_on_ungraded: bool = False, names: Sequence[str] | None = None
    ) -> None:
        super().__init__(of, names)
        self._fallback = fallback_on_ungraded

    def _grade_all(self, task: Task, rollouts: Sequence[Rollout]) -> list[Grade | Ungraded]:
        answers: dict[int, Grade | Ungraded] = {}
        parts: list[dict[str, float]] = [{} for _ in rollouts]
        waiting = list(range(len(rollouts)))
        for place in range(len(self._of)):
            for i, answer in zip(waiting, self._ask(place, task, [rollouts[i] for i in waiting]), strict=True):
                # an earlier grade without a verdict is better than a later failure
                if not (isinstance(answer, Ungraded) and self._fallback and isinstance(answers.get(i), Grade)):
                    answers[i] = answer
                if isinstance(answer, Grade):
                    parts[i] |= self._parts(place, answer)
            waiting = [i for i in waiting if not self._decides(answers[i])]
        return [_with_parts(answers[i], parts[i]) for i in range(len(rollouts))]

    def _decides(self, answer: Grade | Ungraded) -> bool:
        return not self._fallback if isinstance(answer, Ungraded) else answer.verdict is not None


def _with_parts(answer: Grade | Ungraded, parts: dict[str, float]) -> Grade | Ungraded:
    if isinstance(answer, Ungraded):
        return answer
    return Grade(verdict=answer.verdict, score=answer.score, parts=parts, why=answer.why)


def _guarded(name: str, call: Callable[[], Sequence[object]], *, count: int) -> list[Grade | Ungraded] | Ungraded:
    """Call an inner reward and look at each of its answers. Gives one Ungraded where the call itself raises.

    Errors: BoundaryError where memory or the stack ran out, which is for the grading process to judge.
    """
    try:
        with boundary(name):
            answers = call()
    except BoundaryError as error:
        if isinstance(error.__cause__, MemoryError | RecursionError):
            raise
        return Ungraded(boundary=error.boundary, reason=error.reason)
    except RlvrError as error:
        return Ungraded(boundary=name, reason=str(error))
    if len(answers) != count:
        return [Ungraded(boundary=name, reason=f"it gives {len(answers)} answers for {count} replies")] * count
    return [
        answer
        if isinstance(answer, Grade | Ungraded)
        else Ungraded(boundary=name, reason=f"it gives {type(answer).__name__}, not Grade or Ungraded")
        for answer in answers
    ]


def _named(of: Sequence[Reward], names: Sequence[str] | None) -> list[str]:
    """Name the inner rewards: as asked, else by class, numbered where that is not enough."""
    if names is not None:
        if len(names) != len(of) or len(set(names)) < len(names) or not all(names):
            raise ValueError(f"{len(of)} rewards need as many different names, not {list(names)}")
        return list(names)
    found: list[str] = []
    for reward in of:
        name = str(getattr(reward, "name", "") or type(reward).__name__).lower()
        same = sum(one == name or one.rstrip("0123456789") == name for one in found)
        found.append(f"{name}{same + 1}" if same else name)
    return found
