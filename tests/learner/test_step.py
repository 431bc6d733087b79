"""The optimizer step on a tiny model, against a loop that runs every reply alone through plain `transformers`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import (
    NAN,
    make_group,
    make_learner,
    make_rollout,
    near_policy,
    random_groups,
    same_weights,
    totals_of,
    weights_of,
)

from rlvr.errors import LearnerError
from rlvr.learner.adapter import AdapterSettings
from rlvr.learner.algorithm import Algorithm
from rlvr.learner.step import Learner
from rlvr.types import Group

Gradients = dict[str, torch.Tensor]
FREE = {"max_grad_norm": 1e9}  # so that the gradients reach the optimizer as they are


def gradients_of(learner: Learner, groups: Sequence[Group]) -> tuple[dict[str, float], Gradients]:
    """Run a step whose optimizer only notes the gradients that it is handed."""
    noted: Gradients = {}

    def note() -> None:
        noted.update({n: p.grad.clone() for n, p in learner.updater.masters.items() if p.grad is not None})

    learner.updater.optimizer.step = note  # type: ignore[method-assign]
    return learner.step(groups, totals_of(groups)), noted


def centred(values: Sequence[float]) -> list[float]:
    known = [value for value in values if not math.isnan(value)]
    return [0.0 if math.isnan(value) else value - sum(known) / len(known) for value in values]


def alone(learner: Learner, groups: Sequence[Group], algorithm: Algorithm) -> tuple[float, Gradients]:
    """Give loss and gradients of a step from each reply alone, a token at a time, in float64 past the logits."""
    learner.model.zero_grad()
    totals, whole = totals_of(groups), 0.0
    for group in groups:
        for rollout, advantage in zip(group.rollouts, centred(group.values.tolist()), strict=True):
            ids = torch.tensor([[*rollout.prompt_ids, *rollout.token_ids]])
            logits = learner.model(input_ids=ids).logits[0].double() / algorithm.temperature
            table, first = torch.log_softmax(logits, dim=-1), len(rollout.prompt_ids)
            places = [k for span in rollout.spans for k in range(span.start, span.stop)]
            for k in places if advantage else []:
                ratio = torch.exp(table[first + k - 1, ids[0, first + k]] - float(rollout.logprobs[k]))
                bounded = ratio.clamp(1 - algorithm.clip_low, 1 + algorithm.clip_high)
                weight = {
                    "token": 1 / totals.loss_tokens,
                    "sequence": 1 / totals.sequences / len(places),
                    "constant": 1 / (totals.sequences * (algorithm.loss_constant or 1)),
                }[algorithm.loss_per]
                loss = -weight * torch.minimum(ratio * advantage, bounded * advantage)
                loss.backward(retain_graph=True)
                whole += float(loss.detach())
    found = {n: p.grad.clone() for n, p in learner.model.named_parameters() if p.grad is not None}
    learner.model.zero_grad()
    return whole, found


def assert_close(a: Gradients, b: Gradients) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert float((a[name] - b[name]).norm()) <= 1e-5 * float(b[name].norm()), name
        assert float(b[name].norm()) > 0, name


@pytest.mark.parametrize(
    "options",
    [{}, {"loss_per": "sequence", "temperature": 0.7}, {"loss_per": "constant", "loss_constant": 30}],
    ids=["token", "sequence", "constant"],
)
@pytest.mark.parametrize("turns", [False, True], ids=["one turn", "several turns"])
def test_packing_changes_neither_loss_nor_gradient(model_folder: Path, options: dict, turns: bool) -> None:
    learner = make_learner(model_folder, **FREE, **options)
    groups = near_policy(learner, random_groups(groups=2, size=3, turns=turns))
    expected, slopes = alone(learner, groups, learner.algorithm)
    metrics, packed = gradients_of(learner, groups)
    assert metrics["loss"] == pytest.approx(expected, rel=1e-5)
    assert 0 < metrics["clipped"] < 1, "the comparison should see both sides of the clip"
    assert_close(packed, slopes)


@pytest.mark.parametrize("tokens", [60, 150, 4096])
def test_micro_batches_change_neither_loss_nor_gradient(tied_model: Path, tokens: int) -> None:
    groups = near_policy(make_learner(tied_model), random_groups(groups=4))
    whole, slopes = gradients_of(make_learner(tied_model, tokens=1024, **FREE), groups)
    metrics, found = gradients_of(make_learner(tied_model, tokens=tokens, **FREE), groups[::-1])
    assert {n: metrics[n] for n in ("loss", "entropy", "clipped", "mismatch", "trained_tokens")} == pytest.approx(
        {n: whole[n] for n in ("loss", "entropy", "clipped", "mismatch", "trained_tokens")}, rel=1e-5
    )
    assert_close(found, slopes)


def test_metrics_equal_their_definitions(tied_model: Path) -> None:
    learner = make_learner(tied_model)
    groups = near_policy(learner, random_groups(groups=1, size=3))
    spread, gap, clips = [], [], []
    for rollout, advantage in zip(groups[0].rollouts, centred(groups[0].values.tolist()), strict=True):
        ids = torch.tensor([[*rollout.prompt_ids, *rollout.token_ids]])
        table = torch.log_softmax(learner.model(input_ids=ids).logits[0].double(), -1)[len(rollout.prompt_ids) - 1 : -1]
        chosen = table[torch.arange(len(table)), ids[0, len(rollout.prompt_ids) :]]
        difference = chosen - torch.from_numpy(rollout.logprobs).double()
        spread += (-(table.exp() * table).sum(-1)).tolist()
        gap += difference.abs().tolist()
        clips += ((difference.exp() > 1.28) if advantage > 0 else (difference.exp() < 0.8)).tolist()
    metrics = learner.step(groups, totals_of(groups))
    assert metrics["entropy"] == pytest.approx(np.mean(spread), rel=1e-5)
    assert metrics["mismatch"] == pytest.approx(np.mean(gap), rel=1e-4)
    assert metrics["clipped"] == pytest.approx(np.mean(clips))
    assert (metrics["trained"], metrics["trained_tokens"]) == (3, len(gap))


OLD, MIXED = [(0, 2)], [(0, 3), (3, 5)]


@pytest.mark.parametrize("old_logprobs", ["engine", "learner"])
def test_the_mismatch_is_told_by_how_old_the_weights_of_a_token_are(tied_model: Path, old_logprobs: str) -> None:
    learner = make_learner(tied_model, minibatches=2, old_logprobs=old_logprobs)
    learner.version = 3
    rollouts = [
        make_rollout([1, 2], [3, 4], spans=OLD, versions=[3]),
        make_rollout([1, 2], [5, 6, 7, 8, 9], spans=MIXED, versions=[2, 3]),
    ]
    groups = [make_group(rollouts, [1.0, 0.0], name=name) for name in ("a", "b")]
    gaps: dict[int, list[float]] = {2: [], 3: []}
    for r in rollouts:
        scored = learner.score([np.concatenate([r.prompt_ids, r.token_ids])])[0][1:]
        for span in r.spans:
            gaps[r.min_version] += np.abs(scored - r.logprobs)[span.start : span.stop].tolist()
    told = learner.step(groups, totals_of(groups))
    # both groups are alike, and after the first update the policy is another one than any version
    assert told["mismatch_lag_0"] == pytest.approx(np.mean(gaps[3]), rel=1e-4)
    assert told["mismatch_lag_1"] == pytest.approx(np.mean(gaps[2]), rel=1e-4)
    if old_logprobs == "learner":
        assert told["mismatch"] == pytest.approx(np.mean(gaps[2] + gaps[3]), rel=1e-4)


def test_a_step_moves_the_weights_against_the_gradient(tied_model: Path) -> None:
    groups = random_groups()
    metrics, slopes = gradients_of(make_learner(tied_model, **FREE), groups)
    learner = make_learner(tied_model, **FREE)
    before = weights_of(learner)
    assert learner.step(groups, totals_of(groups))["grad_norm"] == pytest.approx(metrics["grad_norm"])
    assert learner.version == 1
    for name, weight in weights_of(learner).items():
        # the first step of Adam is the sign of the gradient, by the learning rate
        expected = -1e-3 * slopes[name] / (slopes[name].abs() + 1e-8)
        torch.testing.assert_close(weight - before[name], expected, rtol=1e-3, atol=1e-6)


def test_a_step_makes_good_replies_likelier_and_bad_ones_rarer(untied_model: Path) -> None:
    learner = make_learner(untied_model, learning_rate=3e-3)
    good, bad = make_rollout([10, 11, 12], [20, 21, 22]), make_rollout([10, 11, 12], [30, 31], index=1)
    streams = [np.array([10, 11, 12, 20, 21, 22]), np.array([10, 11, 12, 30, 31])]

    def scored() -> list[float]:
        return [float(s[2:].sum()) for s in learner.score(streams)]

    first = scored()
    groups = near_policy(learner, [make_group([good, bad], [1.0, -1.0])], noise=0.0)
    learner.step(groups, totals_of(groups))
    second = scored()
    assert second[0] > first[0] + 0.1
    assert second[1] < first[1] - 0.1


def test_gradients_are_clipped_to_the_norm_asked_for(tied_model: Path) -> None:
    groups = random_groups()
    free, slopes = gradients_of(make_learner(tied_model, **FREE), groups)
    bound = free["grad_norm"] / 4
    metrics, clipped = gradients_of(make_learner(tied_model, max_grad_norm=bound), groups)
    assert metrics["grad_norm"] == pytest.approx(free["grad_norm"]), "the metric is the norm before clipping"
    assert_close(clipped, {name: slope / 4 for name, slope in slopes.items()})


def test_equal_values_give_no_update(tied_model: Path) -> None:
    learner = make_learner(tied_model, weight_decay=0.1)
    before = weights_of(learner)
    flat = [make_group(group.rollouts, [1.0] * 4) for group in random_groups()]
    metrics = learner.step(flat, totals_of(flat))
    assert same_weights(before, weights_of(learner))
    assert (learner.version, metrics["trained"], metrics["loss"], metrics["grad_norm"]) == (1, 0, 0.0, 0.0)
    assert "entropy" not in metrics, "of no tokens it is unknown, not 0"


def test_flat_groups_and_ungraded_rollouts_carry_nothing(tied_model: Path) -> None:
    groups = random_groups(groups=2)
    kept, flat = groups[0], make_group(groups[1].rollouts, [0.5] * 4)
    rollouts = list(kept.rollouts)
    junk = replace(rollouts[2], token_ids=rollouts[2].token_ids[::-1].copy(), logprobs=rollouts[2].logprobs * 9)
    values = [1.0, 0.0, NAN, -1.0]
    plain = make_group([*rollouts[:2], *rollouts[3:]], [1.0, 0.0, -1.0])
    metrics, slopes = gradients_of(make_learner(tied_model, **FREE), [plain])
    for third in (rollouts[2], junk):
        holed = make_group([*rollouts[:2], third, rollouts[3]], values)
        found, ours = gradients_of(make_learner(tied_model, **FREE), [holed])
        assert found["loss"] == pytest.approx(metrics["loss"], rel=1e-6)
        assert_close(ours, slopes)
    learner = make_learner(tied_model, **FREE)
    learner.updater.optimizer.step = lambda: None  # type: ignore[method-assign]
    with_flat = learner.step([plain, flat], totals_of([plain]))
    assert with_flat["loss"] == pytest.approx(metrics["loss"], rel=1e-6)


def test_tokens_of_the_environment_are_context_but_carry_no_loss(tied_model: Path) -> None:
    (group,) = random_groups(groups=1, turns=True)
    metrics, slopes = gradients_of(make_learner(tied_model, **FREE), [group])
    assert metrics["trained_tokens"] == sum(s.stop - s.start for r in group.rollouts for s in r.spans)

    def changed(**fields: object) -> tuple[dict[str, float], Gradients]:
        rollouts = [replace(r, **{n: f(getattr(r, n)) for n, f in fields.items()}) for r in group.rollouts]
        return gradients_of(make_learner(tied_model, **FREE), [make_group(rollouts, group.values.tolist())])

    def put(value: float):
        return lambda array: np.where(np.isin(np.arange(len(array)), [3, 4]), value, array).astype(array.dtype)

    silent, same = changed(logprobs=put(7.0))
    assert silent["loss"] == metrics["loss"]
    assert_close(same, slopes)
    heard, _ = changed(token_ids=put(77))
    assert heard["loss"] != pytest.approx(metrics["loss"], rel=1e-3)


def test_warm_up_raises_the_rate_step_by_step(tied_model: Path) -> None:
    groups = random_groups()
    learner = make_learner(tied_model, warmup_steps=4, learning_rate=4e-4)
    before = weights_of(learner)
    rates = [learner.step(groups, totals_of(groups))["learning_rate"]]
    moved = max(float((weight - before[name]).abs().max()) for name, weight in weights_of(learner).items())
    assert moved == pytest.approx(1e-4, rel=0.01)
    rates += [learner.step(groups, totals_of(groups))["learning_rate"] for _ in range(5)]
    assert rates == pytest.approx([1e-4, 2e-4, 3e-4, 4e-4, 4e-4, 4e-4])


GIVEN = r"step 1: the log-probability of the engine at token 0 of reply \d to task task is not finite; look at the"
OVERFLOW = r"step 1: loss .* not finite; lower algorithm.learning_rate"


@pytest.mark.parametrize(("poison", "said"), [(math.nan, GIVEN), (-math.inf, GIVEN), (-1e4, OVERFLOW)])
def test_what_is_not_finite_stops_the_step_and_spares_the_weights(tied_model: Path, poison: float, said: str) -> None:
    groups = random_groups()
    healthy, learner = make_learner(tied_model), make_learner(tied_model)
    before = weights_of(learner)
    # the rollout with the lowest value has a negative advantage, so that no clip hides an infinite ratio
    worst = int(np.argmin(groups[1].values))
    rollouts = [replace(r, logprobs=np.full_like(r.logprobs, poison)) if i == worst else r
                for i, r in enumerate(groups[1].rollouts)]  # fmt: skip
    sick = [groups[0], make_group(rollouts, groups[1].values.tolist()), groups[2]]
    with pytest.raises(LearnerError, match=said):
        learner.step(sick, totals_of(sick))
    assert same_weights(before, weights_of(learner))
    assert learner.version == 0
    assert learner.step(groups, totals_of(groups)) == healthy.step(groups, totals_of(groups))
    assert same_weights(weights_of(healthy), weights_of(learner)), "nothing of the failed step is left behind"


def test_perturbed_weights_are_other_weights_and_come_back_exactly(model_folder: Path) -> None:
    learner = make_learner(model_folder)
    before = weights_of(learner)
    with learner.perturbed():
        inside = weights_of(learner)
        assert all(not torch.equal(inside[name], weight) for name, weight in before.items())
    assert same_weights(before, weights_of(learner))
    with learner.perturbed():
        assert same_weights(inside, weights_of(learner)), "the perturbation is always the same one"
    with learner.perturbed(False):
        assert same_weights(before, weights_of(learner))
    with pytest.raises(KeyError), learner.perturbed():
        raise KeyError
    assert same_weights(before, weights_of(learner)), "a failure inside the block brings them back too"


def test_score_equals_the_naive_one(model_folder: Path) -> None:
    learner = make_learner(model_folder, temperature=0.5)  # score is at temperature 1 whatever the sampling was
    starts = [(0, 2), (40, 57), (9, 7), (90, 57), (80, 7), (0, 57)]  # several of one length, in mixed order
    sequences = [np.arange(start, start + length, dtype=np.int32) for start, length in starts]
    for ids, found in zip(sequences, learner.score(sequences), strict=True):
        tokens = torch.from_numpy(ids.astype(np.int64))[None]
        table = torch.log_softmax(learner.model(input_ids=tokens).logits[0].double(), dim=-1)
        expected = table[torch.arange(len(ids) - 1), tokens[0, 1:]].detach().numpy()
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("precision", "dtype"),
    [("bfloat16", torch.bfloat16), ("float32", torch.float32), ("bfloat16_weights", torch.float32)],
)
def test_tensors_name_everything_and_a_tied_head_too(precision: str, dtype: torch.dtype, model_folder: Path) -> None:
    learner = Learner(model_folder, Algorithm(), tokens_per_microbatch=256, threads=1, precision=precision)
    found = dict(learner.tensors())
    assert set(found) == {*weights_of(learner), "lm_head.weight"}
    assert len(found) == 21
    assert all(tensor.dtype == dtype for tensor in found.values())
    on_grid = all(torch.equal(tensor, tensor.bfloat16().to(dtype)) for tensor in found.values())
    assert on_grid == (precision != "float32")
    tied = learner.model.config.tie_word_embeddings
    assert torch.equal(found["lm_head.weight"], found["model.embed_tokens.weight"]) == tied
    assert torch.equal(found["lm_head.weight"], learner.model.get_output_embeddings().weight)


def test_bfloat16_products_stay_near_single_precision(tied_model: Path) -> None:
    # ratios near 1: rounding then cannot push one over a bound
    groups = near_policy(make_learner(tied_model), random_groups(), noise=0.0)
    whole, slopes = gradients_of(make_learner(tied_model, **FREE), groups)
    halved = Learner(tied_model, Algorithm(learning_rate=1e-3, **FREE), tokens_per_microbatch=256, threads=1)
    metrics, found = gradients_of(halved, groups)
    assert metrics["loss"] == pytest.approx(whole["loss"], abs=0.02)
    for name, slope in slopes.items():
        assert found[name].dtype == torch.float32
        cosine = torch.nn.functional.cosine_similarity(found[name].flatten(), slope.flatten(), dim=0)
        assert float(cosine) > 0.98, name


def test_what_is_not_rounded_is_refused_where_weights_are_to_be(tied_model: Path) -> None:
    adapter = AdapterSettings(kind="lora", rank=4)
    with pytest.raises(ValueError, match="rounds neither adapters nor what ranks share"):
        Learner(
            tied_model, Algorithm(), tokens_per_microbatch=256, threads=1, precision="bfloat16_weights", adapter=adapter
        )
