"""Credit against independent loops over tokens, and the laws it keeps."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr.learner.algorithm import Algorithm
from rlvr.learner.credit import credit, graded_rollouts, sampled
from rlvr.types import Grade, Group, Sample, Stop, Verdict
from tests.helpers import NAN, make_group, make_rollout, random_groups

EPS = 1e-3


def some_groups(seed: int = 0, *, turns: bool = True) -> list[Group]:
    """Groups with a hole in one, tokens of an environment in all, and one ungraded throughout."""
    groups = random_groups(seed, groups=4, size=4, turns=turns)
    groups[1] = make_group(groups[1].rollouts, [1.0, NAN, -1.0, 0.5], name="holed")
    groups[2] = make_group(groups[2].rollouts, [NAN] * 4, name="ungraded")
    groups[3] = make_group(groups[3].rollouts, [0.5] * 4, name="flat")
    return groups


def arrays(groups: list[Group], *, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.normal(-1.0, 0.7, len(rollout.token_ids)) for rollout in graded_rollouts(groups)]


def estimator(kind: str, gap: float) -> float:
    return {"k1": gap, "k2": gap * gap / 2, "k3": math.exp(-gap) - 1 + gap}[kind]


def loop(groups: list[Group], algorithm: Algorithm, *, values: list, refs: list) -> list[tuple[list, list]]:
    """Give (advantages, returns) [T] of each graded rollout by plain loops, flat ones included."""
    results, place = [], 0
    for group in groups:
        known, worths = [], []
        for rollout, value in zip(group.rollouts, group.values.tolist(), strict=True):
            if math.isnan(value):
                continue
            spots = [t for span in rollout.spans for t in range(span.start, span.stop)]
            kl = [
                algorithm.kl_coefficient
                * estimator(algorithm.kl_estimator, float(rollout.logprobs[t]) - float(refs[place][t]))
                if algorithm.kl == "reward"
                else 0.0
                for t in spots
            ]
            known.append((rollout, value, spots, kl, values[place]))
            worths.append(value - math.fsum(kl))
            place += 1
        for index, (rollout, value, spots, kl, critic) in enumerate(known):
            advantages, returns = [0.0] * len(rollout.token_ids), [0.0] * len(rollout.token_ids)
            others = worths[:index] + worths[index + 1 :]
            for j, t in enumerate(spots):
                rewards = [-k for k in kl]
                rewards[-1] += value
                words = [float(critic[s]) for s in spots] + [0.0]
                if algorithm.baseline == "group":
                    advantages[t] = worths[index] - math.fsum(worths) / len(worths)
                    if algorithm.advantage_scale == "std" and len(set(worths)) > 1:
                        mean = math.fsum(worths) / len(worths)
                        squares = math.fsum((w - mean) ** 2 for w in worths)
                        divisor = math.sqrt(squares / (len(worths) - algorithm.advantage_ddof))
                        advantages[t] /= divisor + algorithm.advantage_eps
                elif algorithm.baseline == "leave_one_out":
                    advantages[t] = worths[index] - math.fsum(others) / len(others)
                elif algorithm.baseline == "none":
                    advantages[t] = math.fsum(algorithm.discount ** (i - j) * rewards[i] for i in range(j, len(spots)))
                else:
                    decay = algorithm.decay
                    if algorithm.decay_length_factor:
                        decay = max(0.0, 1 - 1 / (algorithm.decay_length_factor * len(spots)))
                    errors = [rewards[i] + algorithm.discount * words[i + 1] - words[i] for i in range(len(spots))]
                    later = range(j, len(spots))
                    advantages[t] = math.fsum((algorithm.discount * decay) ** (i - j) * errors[i] for i in later)
                    own = algorithm.discount * algorithm.critic_decay
                    returns[t] = words[j] + math.fsum(own ** (i - j) * errors[i] for i in later)
            results.append((advantages, returns))
    return whiten(results, groups, algorithm)


def whiten(results: list[tuple[list, list]], groups: list[Group], algorithm: Algorithm) -> list[tuple[list, list]]:
    if algorithm.advantage_scale != "batch":
        return results
    masks = [sampled(rollout).tolist() for rollout in graded_rollouts(groups)]
    tokens = [a for (row, _), mask in zip(results, masks, strict=True) for a, m in zip(row, mask, strict=True) if m]
    mean = math.fsum(tokens) / len(tokens)
    squares = math.fsum((a - mean) ** 2 for a in tokens)
    divisor = math.sqrt(squares / (len(tokens) - algorithm.advantage_ddof)) + algorithm.advantage_eps
    return [
        ([(a - mean) / divisor if m else 0.0 for a, m in zip(row, mask, strict=True)], returns)
        for (row, returns), mask in zip(results, masks, strict=True)
    ]


CASES: list[dict[str, Any]] = [
    {"baseline": "group", "advantage_scale": "none"},
    {"baseline": "group", "advantage_scale": "std"},
    {"baseline": "group", "advantage_scale": "std", "advantage_ddof": 0},
    {"baseline": "group", "advantage_scale": "batch"},
    {"baseline": "group", "advantage_scale": "std", "kl": "reward"},
    {"baseline": "leave_one_out"},
    {"baseline": "leave_one_out", "kl": "reward", "kl_estimator": "k1"},
    {"baseline": "leave_one_out", "advantage_scale": "batch", "kl": "reward", "kl_estimator": "k2"},
    {"baseline": "none"},
    {"baseline": "none", "discount": 0.9},
    {"baseline": "none", "advantage_scale": "batch", "kl": "reward", "kl_estimator": "k1", "discount": 0.95},
    {"baseline": "critic"},
    {"baseline": "critic", "decay": 0.0, "critic_decay": 0.5},
    {"baseline": "critic", "advantage_scale": "batch", "decay": 0.95, "discount": 0.99, "kl": "reward"},
    {"baseline": "critic", "decay_length_factor": 0.3, "decay": 0.1},
    {"baseline": "critic", "decay_length_factor": 0.05, "advantage_scale": "batch", "advantage_ddof": 0},
]


@pytest.mark.parametrize("options", CASES, ids=lambda case: "-".join(str(value) for value in case.values()))
@pytest.mark.parametrize("seed", [0, 1])
def test_credit_equals_a_loop(options: dict[str, Any], seed: int) -> None:
    algorithm = Algorithm(**{"advantage_eps": EPS, "kl_coefficient": 0.3, **options})
    groups = some_groups(seed)
    values, refs = arrays(groups, seed=seed), arrays(groups, seed=seed + 100)
    samples = credit(groups, algorithm, values=values, ref_logprobs=refs)
    expected = loop(groups, algorithm, values=values, refs=refs)
    rollouts = graded_rollouts(groups)
    kept = range(len(rollouts))
    if algorithm.flat_groups_have_no_gradient:
        kept = [place for place in kept if any(expected[place][0])]
        assert len(kept) == 7, "all but the flat group's four"
    assert len(samples) == len(kept)
    for sample, place in zip(samples, kept, strict=True):
        advantages, returns = expected[place]
        assert sample.token_ids is rollouts[place].token_ids
        assert sample.advantages.tolist() == pytest.approx(advantages, rel=2e-7, abs=1e-7)
        mask = sampled(rollouts[place])
        assert sample.loss_mask.tolist() == mask.tolist()
        assert sample.ref_logprobs is not None and sample.old_values is not None
        assert sample.ref_logprobs.tolist() == pytest.approx(np.where(mask, refs[place], 0).tolist(), rel=1e-6)
        assert sample.old_values.tolist() == pytest.approx(np.where(mask, values[place], 0).tolist(), rel=1e-6)
        if algorithm.baseline == "critic":
            assert sample.returns is not None
            assert sample.returns.tolist() == pytest.approx(returns, rel=2e-7, abs=1e-7)
        else:
            assert sample.returns is None


def spreads(samples: list[Sample]) -> list[list[float]]:
    return [sample.advantages.tolist() for sample in samples]


@pytest.mark.parametrize("options", CASES, ids=lambda case: "-".join(str(value) for value in case.values()))
def test_what_stands_in_an_ungraded_place_is_never_read(options: dict[str, Any]) -> None:
    algorithm = Algorithm(**{"kl_coefficient": 0.3, **options})
    groups = some_groups()
    rollouts = list(groups[1].rollouts)
    values, refs = arrays(groups, seed=1), arrays(groups, seed=2)
    before = credit(groups, algorithm, values=values, ref_logprobs=refs)
    rollouts[1] = replace(rollouts[1], token_ids=rollouts[1].token_ids[:3], logprobs=rollouts[1].logprobs[:3] * 50)
    spoilt = [groups[0], replace(groups[1], rollouts=tuple(rollouts)), groups[3]]  # the ungraded group is gone
    after = credit(spoilt, algorithm, values=values, ref_logprobs=refs)
    assert spreads(after) == spreads(before)
    holed = [sample for sample in after if sample.group_id == "holed"]
    assert len(holed) == 3 and all(sample.token_ids is not rollouts[1].token_ids for sample in holed)
    assert "ungraded" not in {sample.group_id for sample in before}


def test_a_grade_without_a_value_gives_no_sample() -> None:
    # the loop masks a truncated reply by a value of NaN, whatever its grade
    group = make_group([make_rollout([1], [2, 3], index=i) for i in range(3)], [1.0, 0.0, 0.5])
    masked = replace(group, values=np.array([1.0, 0.0, NAN], dtype=np.float32))
    samples = credit([masked], Algorithm())
    assert spreads(samples) == [[0.5, 0.5], [-0.5, -0.5]]


def test_a_flat_group_is_left_out_only_where_it_has_no_gradient() -> None:
    groups = [make_group([make_rollout([1], [2, 3], index=i) for i in range(3)], [0.1] * 3)]
    refs = [np.zeros(2)] * 3
    assert credit(groups, Algorithm()) == []
    assert credit(groups, Algorithm(baseline="leave_one_out")) == []
    for options in ({"entropy_bonus": 0.1}, {"positive_nll": 0.1}, {"kl": "loss"}, {"advantage_scale": "batch"}):
        samples = credit(groups, Algorithm(**options), ref_logprobs=refs)
        assert spreads(samples) == [[0.0, 0.0]] * 3, options


def test_a_reply_of_zero_worth_stays_without_a_baseline() -> None:
    groups = [make_group([make_rollout([1], [2, 3], index=i) for i in range(2)], [0.0, 1.0])]
    assert spreads(credit(groups, Algorithm(baseline="none"))) == [[0.0, 0.0], [1.0, 1.0]]


def test_nothing_is_bootstrapped_after_a_truncated_reply() -> None:
    words = [np.array([0.5, 0.25, 0.125])]
    algorithm = Algorithm(baseline="critic", decay=0.0, discount=0.5)
    found = []
    for stop in (Stop.END, Stop.LENGTH):
        groups = [make_group([make_rollout([1], [2, 3, 4], stop=stop)], [1.0])]
        (sample,) = credit(groups, algorithm, values=words)
        found.append(sample.advantages.tolist())
    # one-step errors: 0.5 * next - own, and 1 - own at the end
    assert found == [[-0.375, -0.1875, 0.875]] * 2


def test_tokens_of_an_environment_are_skipped() -> None:
    whole = make_rollout([1], [2, 3, 4], logprobs=[-1.0, -2.0, -3.0])
    holed = make_rollout([1], [2, 9, 9, 3, 4], spans=[(0, 1), (3, 5)], logprobs=[-1.0, 0.0, 0.0, -2.0, -3.0])
    options: dict[str, Any] = {"discount": 0.9, "kl": "reward", "kl_coefficient": 0.1, "kl_estimator": "k1"}
    spots = [0, 3, 4]
    for algorithm in (Algorithm(baseline="none", **options), Algorithm(baseline="critic", decay=0.8, **options)):
        (plain,) = credit(
            [make_group([whole], [1.0])], algorithm,
            values=[np.array([0.3, 0.2, 0.1])], ref_logprobs=[np.array([-1.5, -1.5, -1.5])],
        )  # fmt: skip
        (gapped,) = credit(
            [make_group([holed], [1.0])], algorithm,
            values=[np.array([0.3, 7.0, 8.0, 0.2, 0.1])], ref_logprobs=[np.array([-1.5, 5.0, 5.0, -1.5, -1.5])],
        )  # fmt: skip
        assert gapped.advantages[spots].tolist() == plain.advantages.tolist()
        assert gapped.advantages[[1, 2]].tolist() == [0.0, 0.0]
        assert gapped.ref_logprobs is not None and gapped.ref_logprobs[[1, 2]].tolist() == [0.0, 0.0]
        assert len(set(plain.advantages.tolist())) == 3


def test_a_token_is_as_old_as_the_oldest_that_it_attends_to() -> None:
    rollout = make_rollout([1], [2, 9, 9, 3, 4, 5], spans=[(0, 1), (3, 4), (4, 6)], versions=[6, 6, 7])
    (sample,) = credit([make_group([rollout], [1.0])], Algorithm(baseline="none"))
    assert sample.versions is not None and sample.versions.tolist() == [6, -1, -1, 6, 6, 6]


def test_only_a_right_verdict_counts_as_correct() -> None:
    group = make_group([make_rollout([1], [2], index=i) for i in range(4)], [1.0, 0.0, 0.5, -1.0])
    verdicts = [Verdict.CORRECT, Verdict.WRONG, Verdict.ABSTAINED, None]
    grades = tuple(Grade(verdict=verdict, score=1.0) for verdict in verdicts)
    assert [sample.correct for sample in credit([replace(group, grades=grades)], Algorithm())] == [True] + [False] * 3


@settings(max_examples=25, deadline=None)
@given(data=st.data(), seed=st.integers(0, 9), case=st.sampled_from(CASES))
def test_an_order_of_groups_is_only_an_order(data: st.DataObject, seed: int, case: dict[str, Any]) -> None:
    algorithm = Algorithm(**{"kl_coefficient": 0.3, **case})
    groups = some_groups(seed)
    values = {id(r): a for r, a in zip(graded_rollouts(groups), arrays(groups, seed=1), strict=True)}
    order = data.draw(st.permutations(range(len(groups))))
    moved = [groups[place] for place in order]
    found = []
    for some in (groups, moved):
        own = [values[id(rollout)] for rollout in graded_rollouts(some)]
        samples = credit(some, algorithm, values=own, ref_logprobs=own)
        found.append({id(sample.token_ids): sample.advantages.tolist() for sample in samples})
    assert found[0].keys() == found[1].keys()
    for key, advantages in found[0].items():
        assert found[1][key] == pytest.approx(advantages, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"baseline": "none", "advantage_scale": "std"}, "goes with baseline \"group\", not with 'none'"),
        ({"baseline": "critic"}, "needs values"),
        ({"kl": "reward"}, 'kl "reward" needs ref_logprobs'),
        ({"kl": "loss"}, 'kl "loss" needs ref_logprobs'),
    ],
)
def test_what_is_missing_is_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        credit(some_groups(), Algorithm(**options))


def test_arrays_of_other_rollouts_are_refused() -> None:
    groups = some_groups()
    refs = arrays(groups, seed=0)
    for wrong in (refs[:-1], [refs[0][:-1], *refs[1:]]):
        with pytest.raises(ValueError, match=r"ref_logprobs must hold one \[T\] for each graded rollout"):
            credit(groups, Algorithm(kl="loss"), ref_logprobs=wrong)


def test_without_a_graded_rollout_there_is_no_sample() -> None:
    group = make_group([make_rollout([1], [2])], [NAN])
    for groups in ([], [group]):
        for case in CASES:
            assert credit(groups, Algorithm(**case), values=[], ref_logprobs=[]) == []
