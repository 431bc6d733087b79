"""What rewards that are made of other rewards share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

from rlvr.errors import BoundaryError, RlvrError, boundary
from rlvr.types import Grade, Reward, Rollout, Task, Ungraded

__all__ = ["Combined"]


class Combined:
    """A reward made of others: their names, parts and limits, and asking them in groups where they can.

    `grade_group` and `gold` exist where an inner reward has them, as the grading pool looks for them.
    """

    gates = 0  # how many of the first rewards hold a reply back where it lacks the form that they ask for

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

    def dress(self, reply: str) -> str:
        """Give a reply the form that all inner rewards ask for. Errors: ValueError where one cannot."""
        for reward in self._of:
            reply = getattr(reward, "dress", _as_it_is)(reply)
        return reply

    def _grade_all(self, task: Task, rollouts: Sequence[Rollout]) -> list[Grade | Ungraded]:
        raise NotImplementedError

    def _gold(self, task: Task) -> str:
        """Write the reply that earns CORRECT of the first reward that can, dressed as the others want it.

        Errors: ValueError where a gate asks for a form that the gold cannot be given.
        """
        source = next(reward for reward in self._of if hasattr(reward, "gold"))
        reply: str = source.gold(task)
        for place, reward in enumerate(self._of):
            dress = getattr(reward, "dress", _as_it_is)
            if reward is source:
                continue
            if place < self.gates:
                reply = dress(reply)
            else:
                with suppress(ValueError):  # the verdict does not hang on this form
                    reply = dress(reply)
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


def _as_it_is(reply: str) -> str:
    return reply


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
