"""Every record that crosses a boundary: frozen, with slots, keyword-only, numpy only.

P = prompt tokens, T = reply tokens (sampled ones and those an environment added), G = rollouts of one task.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, TypedDict

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "MOST_DEMONSTRATIONS",
    "SIZES",
    "Batch",
    "Canary",
    "Done",
    "Environment",
    "Grade",
    "Group",
    "GroupHeader",
    "Interval",
    "Manifest",
    "Message",
    "Receipt",
    "Reward",
    "Rollout",
    "Sample",
    "Source",
    "Span",
    "StepReport",
    "Stop",
    "Task",
    "TensorInfo",
    "Ungraded",
    "Verdict",
    "fingerprint",
    "messages_of",
]

SIZES = {"bfloat16": 2, "float16": 2, "float32": 4}  # bytes of a value


class Message(TypedDict):
    """One chat message, as `transformers` chat templates take it."""

    role: str
    content: str


class Verdict(StrEnum):
    """What a reply is: one vocabulary for mathematics, code and truthfulness."""

    CORRECT = "CORRECT"
    ABSTAINED = "ABSTAINED"
    WRONG = "WRONG"


class Stop(StrEnum):
    """Why a reply ended: by its own end token, or cut by its token budget."""

    END = "end"
    LENGTH = "length"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One problem. `id` is a hash of its content, so that equal ids mean equal tasks."""

    id: str
    messages: tuple[Message, ...]
    truth: Any  # what the grader needs: JSON values only
    source: str = ""
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A stretch of sampled tokens [start, stop) of `Rollout.token_ids`, all from one weight version."""

    start: int
    stop: int
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """One reply to one task. Tokens outside every span were written by the environment, not sampled."""

    task_id: str
    index: int  # place in its group
    prompt_ids: NDArray[np.int32]  # [P]
    token_ids: NDArray[np.int32]  # [T]
    logprobs: NDArray[np.float32]  # [T] nats, of the sampled token, after temperature; 0 where not sampled
    spans: tuple[Span, ...]
    messages: tuple[Message, ...]  # the whole conversation, replies included
    reply: str  # what graders read
    stop: Stop
    seconds: float

    @property
    def truncated(self) -> bool:
        """Tell whether the token budget cut the reply."""
        return self.stop is Stop.LENGTH

    @property
    def min_version(self) -> int:
        """Give the oldest weight version that any token was sampled under."""
        return min(span.version for span in self.spans)

    @property
    def max_version(self) -> int:
        """Give the newest weight version that any token was sampled under."""
        return max(span.version for span in self.spans)


@dataclass(frozen=True, slots=True, kw_only=True)
class Grade:
    """What a reply was worth: a verdict, a finite score (in [0, 1] where there is a verdict), and why."""

    verdict: Verdict | None
    score: float
    parts: Mapping[str, float] = field(default_factory=dict)
    why: str = ""

    def __post_init__(self) -> None:
        if not np.isfinite(self.score):
            raise ValueError(f"a grade's score must be finite, not {self.score}")
        if self.verdict is not None and not 0.0 <= self.score <= 1.0:
            raise ValueError(f"a grade with a verdict needs a score in [0, 1], not {self.score}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Ungraded:
    """Our own failure to grade. It stays out of baseline and loss, is counted, and is never a reward of 0."""

    boundary: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The G rollouts of one task with what they were worth."""

    group_id: str
    task: Task
    rollouts: tuple[Rollout, ...]  # [G]
    grades: tuple[Grade | Ungraded, ...]  # [G]
    values: NDArray[np.float32]  # [G], NaN where ungraded or masked


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """What an actor did for a while. Times are seconds since the epoch, by the clock of its host."""

    name: str
    start: float
    stop: float
    lane: int = 0  # intervals of one lane follow each other, as those of one rollout do


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupHeader:
    """All that the driver needs to know of a group in order to decide about it."""

    group_id: str
    task_id: str
    worker: str
    min_version: int
    max_version: int
    values: tuple[float, ...]  # [G], NaN where ungraded or masked
    verdicts: tuple[str, ...]  # [G], "UNGRADED" or "" (no verdict) included
    graded: tuple[bool, ...]  # [G]
    lengths: tuple[int, ...]  # [G] reply tokens that carry loss
    truncated: tuple[bool, ...]  # [G]
    seed: int
    reasons: tuple[str, ...] = ()  # why rollouts went ungraded
    unformatted: tuple[bool | None, ...] = ()  # [G] whether the asked format is missing; None where nobody looked
    masked: tuple[bool, ...] = ()  # [G] graded, but left out because the token budget cut it; empty where none is
    seconds: float = 0.0
    intervals: tuple[Interval, ...] = ()  # of its rollouts: generate, wait, grade

    @property
    def counted(self) -> tuple[bool, ...]:
        """Tell which rollouts have a value, and so enter baseline, loss and denominators. Shape: [G]."""
        masked = self.masked or (False,) * len(self.graded)
        return tuple(graded and not out for graded, out in zip(self.graded, masked, strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One reply as the learner sees it, with its credit. Arrays per token are 0 where nothing was sampled."""

    group_id: str
    prompt_ids: NDArray[np.int32]  # [P]
    token_ids: NDArray[np.int32]  # [T]
    loss_mask: NDArray[np.bool_]  # [T] true where the token was sampled
    engine_logprobs: NDArray[np.float32]  # [T] nats
    old_logprobs: NDArray[np.float32]  # [T] nats, of the policy that ratios are taken against
    advantages: NDArray[np.float32]  # [T]
    returns: NDArray[np.float32] | None = None  # [T] what the critic should have said
    old_values: NDArray[np.float32] | None = None  # [T] what it said
    ref_logprobs: NDArray[np.float32] | None = None  # [T] nats, of the reference policy
    correct: bool = False  # the verdict
    versions: NDArray[np.int32] | None = None  # [T] weight version that each token was sampled under; -1: none


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Samples as a forest of tokens in preorder, so that what samples begin with in common is computed once.

    M = tokens of the forest, N = loss tokens of the samples, U = tokens of the forest that carry loss in any sample.
    """

    token_ids: NDArray[np.int64]  # [M]
    positions: NDArray[np.int64]  # [M] distance from the root
    parents: NDArray[np.int64]  # [M] the token before; -1 at a root
    ends: NDArray[np.int64]  # [M] one past the last descendant
    scored: NDArray[np.int64]  # [U] tokens whose log-probability is wanted
    scored_at: NDArray[np.int64]  # [N] index into `scored`
    samples: NDArray[np.int64]  # [N] index of the sample in its step
    places: NDArray[np.int64]  # [N] index into the sample's arrays per token


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorInfo:
    """Name, shape, dtype and digest (BLAKE3, hex) of one tensor."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where other hosts get the file of a version, and the mark by which a reader knows that file when it sees it."""

    host: str
    port: int
    mark: str
    token: str = field(repr=False)  # without it the server gives nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """What a version consists of. `path` says where the bytes lie, `source` where other hosts get them."""

    version: int
    kind: str  # full, merged, adapter
    tensors: tuple[TensorInfo, ...]
    path: str = ""
    source: Source | None = None
    base: str = ""  # of an adapter: the fingerprint of the full weights that it belongs on

    @property
    def bytes(self) -> int:
        """Give the size of all tensors."""
        return sum(int(np.prod(t.shape)) * SIZES[t.dtype] for t in self.tensors)


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """Fixed token sequences with the learner's log-probabilities of all tokens but the first, at temperature 1."""

    sequences: tuple[NDArray[np.int32], ...]  # [T] each
    logprobs: tuple[NDArray[np.float32], ...]  # [T - 1] each, nats
    bound: float  # largest mean |engine - learner| that passes, nats
    base: tuple[NDArray[np.float32], ...] = ()  # the same without the adapter, where one is pushed


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """A worker's word that it serves a version, with the proof."""

    worker: str
    version: int
    digest: str  # of the manifest that the worker checked
    proven_tensors: int  # tensors read back from the live model and found equal
    total_tensors: int
    canary_error: float  # mean |engine - learner| over the canary tokens, nats
    seconds: float
    stall_seconds: float  # from the end of the engine's last step under the old weights to its being resumed
    bytes: int = 0  # of the tensors
    base_error: float | None = None  # the canary's without the adapter, where one was pushed
    fetch_seconds: float = 0.0  # until the bytes lay on the worker's host
    intervals: tuple[Interval, ...] = ()  # of the push: prepare, stall, prove
    wire_bytes: int = 0  # that came over the network for this worker: none where it, or its host, had them


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """One line of metrics.jsonl."""

    step: int
    version: int
    metrics: Mapping[str, float]
    seconds: Mapping[str, float]  # by phase


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """An environment's word that the conversation is over."""

    why: str = ""


MOST_DEMONSTRATIONS = 1_000_000  # an environment that gives more is taken to give them without an end


class Environment(Protocol):
    """Says what the model sees. `reply` is needed only where there are several turns, `demonstrations` never.

    The two are described in docs/: `async reply(task, messages) -> messages | Done` continues a conversation, and
    `demonstrations(*, seed) -> conversations` shows worked solutions for a warm start.
    """

    def tasks(self, split: str, *, seed: int) -> Iterable[Task]:
        """Yield the tasks of a split ("train" or "eval"): same seed, same tasks; ids unique; splits disjoint."""
        ...


class Reward(Protocol):
    """Says what a reply was worth."""

    def grade(self, task: Task, rollout: Rollout) -> Grade | Ungraded:
        """Judge one reply. Pure: the same arguments give the same grade."""
        ...


def fingerprint(manifest: Manifest) -> str:
    """Give one digest for all tensors of a manifest."""
    text = "\n".join(f"{t.name} {t.shape} {t.dtype} {t.digest}" for t in manifest.tensors)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def messages_of(pairs: Sequence[tuple[str, str]]) -> tuple[Message, ...]:
    """Make messages of (role, content) pairs."""
    return tuple(Message(role=role, content=content) for role, content in pairs)
