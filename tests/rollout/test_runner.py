"""The rollout worker over a fake engine: the weight law's order, seeds, turns, and the header."""

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlvr.core.payoff import Payoff
from rlvr.errors import BoundaryError, EngineError, WeightProofError
from rlvr.rollout.runner import RolloutSettings, Runner, header_of, seed_of
from rlvr.testing import FakeEngine, FakeLearner, rollout, task
from rlvr.types import (
    Canary,
    Done,
    Grade,
    Group,
    Manifest,
    Message,
    Rollout,
    Stop,
    Task,
    Ungraded,
    Verdict,
    fingerprint,
    messages_of,
)
from rlvr.weights.export import corrupt, leave_out

SEQUENCES = (np.array([72, 105, 33, 10], dtype=np.int32), np.array([49, 43, 49], dtype=np.int32))
RIGHT = Grade(verdict=Verdict.CORRECT, score=1.0)
LOST = Ungraded(boundary="grading", reason="the grader broke")


class Bytes:
    """A renderer whose ids are bytes: <role> content, with 258 as the end token."""

    def prompt(self, messages: Sequence[Message]) -> np.ndarray:
        return np.frombuffer("".join(m["content"] + "\n" for m in messages).encode(), dtype=np.uint8).astype(np.int32)

    def between(self, before: Sequence[Message], after: Sequence[Message], *, ended: bool) -> np.ndarray:
        assert before[-1]["role"] == "assistant"
        return self.prompt(after)

    def decode(self, token_ids: np.ndarray) -> str:
        return bytes(int(i) for i in token_ids if i < 256).decode("latin-1")


class Judge:
    """Gives the grades it holds in turn, RIGHT where it holds none."""

    def __init__(self, *grades: Grade | Ungraded) -> None:
        self.grades = list(grades)

    async def grade_group(self, one: Task, replies: Sequence[Rollout]) -> list[Grade | Ungraded]:
        await asyncio.sleep(0)
        return [self.grades[reply.index] if self.grades else RIGHT for reply in replies]


class Talk:
    """An environment that answers with the same words a number of times, and then is done."""

    def __init__(self, *, turns: int, words: str = "again") -> None:
        self.turns, self.words = turns, words
        self.seen: list[tuple[Message, ...]] = []

    async def reply(self, one: Task, messages: Sequence[Message]) -> Sequence[Message] | Done:
        self.seen.append(tuple(messages))
        if len(self.seen) > self.turns:
            return Done(why="enough")
        return messages_of([("user", self.words)])


def runner_of(engine: FakeEngine, *, environment: Any = None, graders: Any = None, payoff: Payoff | None = None,
              max_new_tokens: int = 16, temperature: float = 1.0, truncated: Any = "score",
              in_flight: bool = True) -> Runner:  # fmt: skip
    settings = RolloutSettings(max_new_tokens=max_new_tokens, temperature=temperature, max_model_len=64,
                               truncated=truncated, in_flight=in_flight)  # fmt: skip
    return Runner("worker-0", engine=engine, renderer=Bytes(), environment=environment, graders=graders or Judge(),
                  settings=settings, payoff=payoff)  # fmt: skip


async def version_of(folder: Path, version: int, *, bound: float = 0.05) -> tuple[Manifest, Canary]:
    manifest, truth = await FakeLearner().export(
        version=version, folder=str(folder), sequences=SEQUENCES, perturbed=False
    )
    return manifest, Canary(sequences=SEQUENCES, logprobs=tuple(truth), bound=bound)


async def proven(folder: Path, **settings: Any) -> tuple[Runner, FakeEngine]:
    engine = FakeEngine()
    runner = runner_of(engine, **settings)
    await runner.receive(*await version_of(folder, 0))
    engine.calls.clear()
    return runner, engine


async def fenced(runner: Runner) -> bool:
    """Tell whether a group asked for now is held back."""
    asked = asyncio.create_task(runner.run(task(), 1, 0))
    done, _ = await asyncio.wait({asked}, timeout=0.2)
    asked.cancel()
    return not done


async def test_a_version_is_taken_up_in_the_order_of_the_law(tmp_path: Path) -> None:
    engine = FakeEngine()
    runner = runner_of(engine)
    waiting = asyncio.create_task(runner.run(task(), 1, 0))
    await asyncio.sleep(0.01)
    assert engine.calls == []
    manifest, canary = await version_of(tmp_path, 3)
    receipt = await runner.receive(manifest, canary)
    header, _ = await waiting
    assert engine.calls == ["prepare", "swap", "read_back", "score", "score", "stamp", "generate"]
    assert (receipt.worker, receipt.version, receipt.digest) == ("worker-0", 3, fingerprint(manifest))
    assert receipt.proven_tensors == receipt.total_tensors == 4
    assert receipt.canary_error < 1e-6 and receipt.stall_seconds > 0 and receipt.seconds > 0
    assert (header.min_version, header.max_version) == (3, 3)


@pytest.mark.parametrize("spoil", [corrupt, leave_out], ids=["corrupt", "leave_out"])
async def test_a_refused_manifest_never_reaches_the_live_model(
    tmp_path: Path, spoil: Callable[[Manifest], None]
) -> None:
    runner, engine = await proven(tmp_path)
    manifest, canary = await version_of(tmp_path, 1)
    spoil(manifest)
    with pytest.raises(WeightProofError, match=r"worker=worker-0 version=1 .*(missing|do not match)"):
        await runner.receive(manifest, canary)
    assert engine.calls == ["prepare", "reject"]
    assert engine.version == 0
    assert await fenced(runner)


@pytest.mark.parametrize(
    ("faults", "reason"),
    [
        ({"drop"}, "differs between engine and learner"),
        ({"partial"}, "differs between engine and learner"),
        ({"drop", "blind"}, "the canary is"),
        ({"partial", "blind"}, "the canary is"),
        ({"deaf"}, "the canary is nan"),
    ],
)
async def test_a_failed_proof_leaves_the_worker_fenced_and_unstamped(
    tmp_path: Path, faults: set[str], reason: str
) -> None:
    runner, engine = await proven(tmp_path)
    engine.faults = faults
    with pytest.raises(WeightProofError, match=f"worker=worker-0 version=1 .*{reason}"):
        await runner.receive(*await version_of(tmp_path, 1))
    assert "stamp" not in engine.calls and engine.version is None
    assert await fenced(runner)
    engine.faults = set()
    await runner.receive(*await version_of(tmp_path, 2))
    assert not await fenced(runner)


async def test_a_canary_beyond_its_bound_fails_though_every_tensor_is_right(tmp_path: Path) -> None:
    runner, engine = await proven(tmp_path)
    manifest, canary = await version_of(tmp_path, 1)
    off = tuple(truth + 0.06 for truth in canary.logprobs)
    with pytest.raises(WeightProofError, match=r"the canary is 0\.0600 nats from the learner, bound 0\.0500"):
        await runner.receive(manifest, Canary(sequences=SEQUENCES, logprobs=off, bound=0.05))
    assert "stamp" not in engine.calls


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("weights.drop", "differs between engine and learner"),
        ("weights.stale_head", r"the engine has lm_head but lm_head\.weight was not sent"),
    ],
)
async def test_injected_faults_are_caught(tmp_path: Path, fault: str, reason: str) -> None:
    runner, _ = await proven(tmp_path)
    with pytest.raises(WeightProofError, match=f"worker=worker-0 version=1 .*{reason}"):
        await runner.receive(*await version_of(tmp_path, 1), fault=fault)


async def running(runner: Runner, engine: FakeEngine, *, size: int) -> asyncio.Task[Any]:
    """Start a group and wait until it samples."""
    engine.longest = 16
    group = asyncio.create_task(runner.run(task(), size, 7))
    while not engine.requests:
        await asyncio.sleep(0)
    return group


async def test_a_draining_worker_waits_for_groups_that_run(tmp_path: Path) -> None:
    runner, engine = await proven(tmp_path, in_flight=False)
    group = await running(runner, engine, size=4)
    push = asyncio.create_task(runner.receive(*await version_of(tmp_path, 1)))
    while not group.done():
        assert "swap" not in engine.calls
        await asyncio.sleep(0)
    late = asyncio.create_task(runner.run(task(), 1, 8))
    assert (await group)[0].max_version == 0
    await push
    assert (await late)[0].min_version == 1


async def test_groups_go_on_in_flight_and_carry_a_span_for_each_version(tmp_path: Path) -> None:
    runner, engine = await proven(tmp_path, max_new_tokens=32)
    engine.script = [list(range(31))]
    group = await running(runner, engine, size=1)
    await runner.receive(*await version_of(tmp_path, 1))
    header, found = await group
    assert (header.min_version, header.max_version) == (0, 1)
    (first, second) = found.rollouts[0].spans
    assert (first.start, first.stop, first.version) == (0, second.start, 0)
    assert (second.stop, second.version) == (31, 1)
    assert {digest for version, digest in engine.sampled if version == 1}.isdisjoint(
        {digest for version, digest in engine.sampled if version == 0}
    )


async def test_no_group_with_a_token_from_unproven_weights_is_given_out(tmp_path: Path) -> None:
    """The canary fails after the swap, when the running group has sampled from the new weights already."""
    runner, engine = await proven(tmp_path, max_new_tokens=32)
    engine.script = [list(range(31))]
    group = await running(runner, engine, size=1)
    engine.faults = {"deaf"}
    with pytest.raises(WeightProofError, match="the canary is nan"):
        await runner.receive(*await version_of(tmp_path, 1))
    with pytest.raises(WeightProofError, match="version=1 the canary is nan"):
        await group
    assert await fenced(runner)


async def test_a_swap_that_breaks_half_way_leaves_no_token_with_a_version(tmp_path: Path) -> None:
    runner, engine = await proven(tmp_path, max_new_tokens=32)
    engine.script = [list(range(31))]
    group = await running(runner, engine, size=1)
    engine.faults = {"broken"}
    with pytest.raises(RuntimeError, match="broke within a swap"):
        await runner.receive(*await version_of(tmp_path, 1))
    with pytest.raises(WeightProofError, match="version=1 the engine broke within a swap"):
        await group
    assert engine.version is None and not engine.sampled
    assert await fenced(runner)
    engine.faults = set()
    await runner.receive(*await version_of(tmp_path, 2))
    assert not await fenced(runner)


async def test_a_push_that_is_given_up_within_a_swap_leaves_nothing_waiting(tmp_path: Path) -> None:
    runner, engine = await proven(tmp_path, max_new_tokens=32)
    engine.script = [list(range(31))]
    group = await running(runner, engine, size=1)
    engine.faults = {"hang"}
    push = asyncio.create_task(runner.receive(*await version_of(tmp_path, 1)))
    while "swap" not in engine.calls:
        await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    push.cancel()
    with pytest.raises(asyncio.CancelledError):
        await push
    with pytest.raises(WeightProofError, match="version=1 CancelledError"):
        await group
    assert await fenced(runner)


async def test_a_version_that_is_served_is_answered_and_an_older_one_refused(tmp_path: Path) -> None:
    runner, engine = await proven(tmp_path)
    first = await runner.receive(*await version_of(tmp_path, 2))
    engine.calls.clear()
    assert await runner.receive(*await version_of(tmp_path, 2)) == first
    with pytest.raises(WeightProofError, match="version=1 comes after version 2, which the worker has served"):
        await runner.receive(*await version_of(tmp_path, 1))
    assert engine.calls == [] and engine.version == 2
    assert not await fenced(runner)


async def test_a_push_that_failed_lets_no_waiting_group_through(tmp_path: Path) -> None:
    runner, engine = await proven(tmp_path)
    engine.faults = {"drop"}
    with pytest.raises(WeightProofError):
        await runner.receive(*await version_of(tmp_path, 1))
    late = asyncio.create_task(runner.run(task(), 1, 8))
    await asyncio.sleep(0.05)
    assert not late.done() and "generate" not in engine.calls
    late.cancel()


async def test_two_pushes_never_overlap(tmp_path: Path) -> None:
    """A push that hung must not go on behind the back of a later one, which has opened the worker."""
    runner, engine = await proven(tmp_path)
    engine.faults, engine.delay_s = {"slow"}, 0.05
    first = asyncio.create_task(runner.receive(*await version_of(tmp_path, 1)))
    await asyncio.sleep(0.01)
    second = asyncio.create_task(runner.receive(*await version_of(tmp_path, 2)))
    await asyncio.gather(first, second)
    assert engine.calls == ["prepare", "swap", "read_back", "score", "score", "stamp"] * 2
    assert engine.version == 2


async def test_weights_that_are_only_tested_serve_nothing(tmp_path: Path) -> None:
    """The self-test's perturbed weights are proven like all others, but no token may come from them."""
    engine = FakeEngine()
    runner = runner_of(engine)
    receipt = await runner.receive(*await version_of(tmp_path, 0), serve=False)
    assert receipt.proven_tensors == 4
    assert "stamp" not in engine.calls
    assert await fenced(runner)


async def test_every_rollout_has_a_seed_of_its_own_and_repeats(tmp_path: Path) -> None:
    runner, engine = await proven(tmp_path)
    _, one = await runner.run(task(), 8, 5)
    seeds = [sampling.seed for _, sampling in engine.requests]
    _, again = await runner.run(task(), 8, 5)
    _, other = await runner.run(task(), 8, 6)
    assert len(set(seeds)) == 8
    assert [s.seed for _, s in engine.requests[8:16]] == seeds
    assert not {s.seed for _, s in engine.requests[16:]} & set(seeds)
    assert [r.token_ids.tolist() for r in one.rollouts] == [r.token_ids.tolist() for r in again.rollouts]
    assert [r.token_ids.tolist() for r in one.rollouts] != [r.token_ids.tolist() for r in other.rollouts]
    assert [r.index for r in one.rollouts] == list(range(8))
    assert one.group_id == again.group_id != other.group_id


def test_seeds_are_positive_and_depend_on_every_part() -> None:
    seeds = {seed_of(a, b) for a in range(20) for b in range(20)} | {seed_of("x", 1), seed_of("y", 1)}
    assert len(seeds) == 402
    assert all(0 <= s < 2**63 for s in seeds)
    assert seed_of(3, "task", 7) == seed_of(3, "task", 7)


async def test_greedy_takes_the_likeliest_token_and_needs_no_seed(tmp_path: Path) -> None:
    runner, engine = await proven(tmp_path)
    _, one = await runner.run(task(), 2, 1, greedy=True)
    _, two = await runner.run(task(), 2, 99, greedy=True)
    assert {(s.temperature, s.seed) for _, s in engine.requests} == {(0.0, None)}
    replies = {tuple(r.token_ids.tolist()) for group in (one, two) for r in group.rollouts}
    assert len(replies) == 1


async def test_turns_of_an_environment_lie_in_the_gaps(tmp_path: Path) -> None:
    talk = Talk(turns=1)
    runner, engine = await proven(tmp_path, environment=talk)
    engine.script = [[*b"ab", 258], [*b"c", 258]]
    _, group = await runner.run(task("Q"), 1, 0)
    said = group.rollouts[0]
    assert said.token_ids.tolist() == [*b"ab", 258, *b"again\n", *b"c", 258]
    assert [(s.start, s.stop, s.version) for s in said.spans] == [(0, 3, 0), (9, 11, 0)]
    sampled = np.zeros(11, dtype=bool)
    sampled[[0, 1, 2, 9, 10]] = True
    assert (said.logprobs[sampled] < 0).all() and (said.logprobs[~sampled] == 0).all()
    assert [m["role"] for m in said.messages] == ["user", "assistant", "user", "assistant"]
    assert said.reply == "c" and said.stop is Stop.END
    # the second request continues the first to the token, with a seed of its own
    assert engine.requests[1][0] == [*b"Q\n", *b"ab", 258, *b"again\n"]
    assert engine.requests[1][1].max_tokens == 16 - 9
    assert engine.requests[0][1].seed != engine.requests[1][1].seed
    assert len(talk.seen) == 2 and talk.seen[1][-1]["content"] == "c"


async def test_the_budget_counts_all_turns(tmp_path: Path) -> None:
    runner, engine = await proven(tmp_path, environment=Talk(turns=99), max_new_tokens=12)
    engine.script = [[*b"ab", 258], [*b"cdefghi", 258]]
    header, group = await runner.run(task("Q"), 1, 0)
    said = group.rollouts[0]
    assert len(said.token_ids) == 12 and said.stop is Stop.LENGTH and said.truncated
    assert header.lengths == (6,) and header.truncated == (True,)


async def test_an_answer_beyond_the_budget_ends_the_reply(tmp_path: Path) -> None:
    runner, engine = await proven(tmp_path, environment=Talk(turns=99, words="x" * 30), max_new_tokens=12)
    engine.script = [[*b"ab", 258]]
    _, group = await runner.run(task("Q"), 1, 0)
    said = group.rollouts[0]
    assert said.stop is Stop.LENGTH and said.reply == "ab"
    assert sum(s.stop - s.start for s in said.spans) == 3


async def test_a_cut_reply_gets_no_answer(tmp_path: Path) -> None:
    talk = Talk(turns=99)
    runner, engine = await proven(tmp_path, environment=talk, max_new_tokens=4)
    engine.script = [[*b"abcdefgh"]]
    _, group = await runner.run(task("Q"), 1, 0)
    assert group.rollouts[0].stop is Stop.LENGTH and talk.seen == []


async def test_an_environment_that_breaks_is_named(tmp_path: Path) -> None:
    class Broken:
        async def reply(self, one: Task, messages: Sequence[Message]) -> Done:
            raise KeyError("board")

    runner, engine = await proven(tmp_path, environment=Broken())
    engine.script = [[*b"a", 258]]
    with pytest.raises(BoundaryError, match="environment: KeyError"):
        await runner.run(task("Q"), 1, 0)
    # a group that failed no longer holds a push back
    await asyncio.wait_for(runner.receive(*await version_of(tmp_path, 1)), timeout=5)


async def test_a_prompt_without_room_is_one_sentence(tmp_path: Path) -> None:
    runner, _ = await proven(tmp_path)
    with pytest.raises(EngineError) as caught:
        await runner.run(task("Q" * 60), 1, 0)
    text = str(caught.value)
    assert "prompt of 61 tokens" in text and "max_new_tokens = 16" in text and "max_model_len = 64" in text
    assert "\n" not in text
    await asyncio.wait_for(runner.receive(*await version_of(tmp_path, 1)), timeout=5)


async def test_values_follow_the_payoff_and_ungraded_stays_unknown(tmp_path: Path) -> None:
    wrong, abstained = Grade(verdict=Verdict.WRONG, score=0.0), Grade(verdict=Verdict.ABSTAINED, score=0.0)
    payoff = Payoff(correct=1.0, abstained=-0.25, wrong=-2.0)
    runner, _ = await proven(tmp_path, graders=Judge(RIGHT, LOST, wrong, abstained), payoff=payoff)
    header, group = await runner.run(task(), 4, 3)
    assert group.values.dtype == np.float32
    assert group.values[[0, 2, 3]].tolist() == [1.0, -2.0, -0.25] and math.isnan(group.values[1])
    assert math.isnan(header.values[1]) and header.values[0] == 1.0
    assert header.verdicts == ("CORRECT", "UNGRADED", "WRONG", "ABSTAINED")
    assert header.graded == (True, False, True, True)
    assert header.reasons == ("grading: the grader broke",)
    assert (header.worker, header.seed, header.group_id) == ("worker-0", 3, group.group_id)


def test_a_header_sums_its_group_up() -> None:
    one = task()
    rollouts = (
        rollout("yes", of=one, index=0, version=4),
        rollout("maybe", of=one, index=1, version=6, stop=Stop.LENGTH),
    )
    plain = Grade(verdict=None, score=3.5)
    group = Group(
        group_id="g", task=one, rollouts=rollouts, grades=(plain, LOST), values=np.array([3.5, np.nan], np.float32)
    )
    header = header_of(group, worker="w", seed=9, seconds=2.5)
    assert (header.group_id, header.task_id, header.worker, header.seed, header.seconds) == ("g", one.id, "w", 9, 2.5)
    assert (header.min_version, header.max_version) == (4, 6)
    assert header.values[0] == 3.5 and math.isnan(header.values[1])
    assert header.verdicts == ("", "UNGRADED") and header.graded == (True, False)
    assert header.lengths == (3, 5) and header.truncated == (False, True)


HALF = Grade(verdict=Verdict.CORRECT, score=0.5)


@pytest.mark.parametrize(
    ("truncated", "payoff", "values", "masked"),
    [
        ("score", None, (1.0, 0.5, math.nan), ()),
        ("score", Payoff(wrong=-2.0), (1.0, 1.0, math.nan), ()),
        ("wrong", Payoff(wrong=-2.0), (1.0, -2.0, math.nan), ()),
        ("wrong", Payoff(kind="calibrated"), (1.0, -1.0, math.nan), ()),
        ("mask", None, (1.0, math.nan, math.nan), (False, True, False)),
        ("mask", Payoff(wrong=-2.0), (1.0, math.nan, math.nan), (False, True, False)),
    ],
)
async def test_the_recipe_says_what_a_cut_reply_is_worth(
    truncated: str, payoff: Payoff | None, values: tuple[float, ...], masked: tuple[bool, ...]
) -> None:
    """Three replies: a whole one, one that was cut, and one that was cut and could not be graded."""
    runner = runner_of(FakeEngine(), graders=Judge(RIGHT, HALF, LOST), payoff=payoff, truncated=truncated)
    stops = iter([Stop.END, Stop.LENGTH, Stop.LENGTH])

    async def cut(one: Task, prompt: np.ndarray, index: int, **_: Any) -> Rollout:
        return replace(rollout("reply", of=one), index=index, stop=next(stops))

    runner._rollout = cut  # type: ignore[method-assign, assignment]
    runner._open.set()
    header, group = await runner.run(task(), 3, 0)
    np.testing.assert_array_equal(group.values, np.array(values, dtype=np.float32))
    assert header.masked == masked
    assert header.graded == (True, True, False), "a masked reply was graded"
    assert header.verdicts == ("CORRECT", "CORRECT", "UNGRADED")
    assert header.counted == tuple(not math.isnan(value) for value in values)
    assert header.truncated == (False, True, True)


def test_a_cut_reply_cannot_be_wrong_where_nothing_says_what_that_pays() -> None:
    with pytest.raises(ValueError, match="needs a payoff"):
        runner_of(FakeEngine(), payoff=None, truncated="wrong")
