"""Make one reward of several: a weighted sum, a gate, or the first that decides. Every part stays visible.

`parts` holds each inner reward's score under its name, and its own parts as "name/part". A failure of an inner reward
leaves the reply `Ungraded`; it never becomes a 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rlvr.types import Grade, Reward, Rollout, Task, Ungraded, Verdict
from rlvr_rewards._combined import Combined

__all__ = ["FirstThatDecides", "Gate", "WeightedSum"]


class WeightedSum(Combined):
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
        self.judges = bool(getattr(self._of[0], "judges", True))
        # beside a verdict the sum is kept within [0, 1]
        self.outside_unit = not self.judges and any(getattr(reward, "outside_unit", False) for reward in self._of)

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


class Gate(Combined):
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
    gates = 1

    def __init__(
        self, *, of: Sequence[Reward], full: float = 1.0, judges: bool = True, names: Sequence[str] | None = None
    ) -> None:
        super().__init__(of, names, least=2)
        if len(self._of) != 2:
            raise ValueError(f"a gate is made of two rewards, not of {len(self._of)}")
        if not math.isfinite(full):
            raise ValueError(f"the score that opens a gate is finite, not {full}")
        self._full, self._judges = full, judges
        self.judges = judges or bool(getattr(self._of[1], "judges", True))
        self.outside_unit = bool(getattr(self._of[1], "outside_unit", False))

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


class FirstThatDecides(Combined):
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
        self.judges = any(getattr(reward, "judges", True) for reward in self._of)
        self.outside_unit = any(getattr(reward, "outside_unit", False) for reward in self._of)

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
