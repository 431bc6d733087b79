"""The warm start on a tiny model, against a loop that runs every demonstration alone through plain `transformers`."""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import make_learner, random_groups, same_weights, totals_of, weights_of
from transformers import AutoModelForCausalLM

from rlvr.errors import NonFiniteError
from rlvr.learner.adapter import AdapterSettings
from rlvr.learner.algorithm import Algorithm, CriticSettings
from rlvr.learner.checkpoint import restore, save
from rlvr.learner.ranks import Ranks, free_port, whole
from rlvr.learner.sft import Demonstration, SftSettings, updates_of, warm_start
from rlvr.learner.step import Learner

Gradients = dict[str, torch.Tensor]
FREE = {"max_grad_norm": 1e9}  # so that the gradients reach the optimizer as they are
RATE = 1e-3


def demonstrations(count: int = 6, seed: int = 0) -> list[Demonstration]:
    """Make demonstrations of random tokens; every other one shares its prompt with the one before."""
    rng = np.random.default_rng(seed)
    made: list[Demonstration] = []
    for place in range(count):
        prompt = made[-1][0] if place % 2 else rng.integers(0, 256, rng.integers(3, 20)).astype(np.int32)
        made.append((prompt, rng.integers(0, 256, rng.integers(1, 24)).astype(np.int32)))
    return made


def one_update(learner: Learner, given: Sequence[Demonstration]) -> tuple[dict[str, float], Gradients]:
    """Take an update on all demonstrations and note the gradients that it was taken with."""
    noted: Gradients = {}
    original = learner.updater.update

    def note(*, share: float) -> None:
        noted.update({n: p.grad.clone() for n, p in learner.updater.masters.items() if p.grad is not None})
        original(share=share)

    learner.updater.update = note  # type: ignore[method-assign]
    (metrics,) = warm_start(learner, given, SftSettings(batch_size=len(given), learning_rate=RATE))
    return metrics, noted


def alone(folder: Path, given: Sequence[Demonstration]) -> tuple[float, Gradients]:
    """Give loss and gradients from each demonstration alone, in float64 past the logits."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    whole, tokens = 0.0, sum(len(reply) for _, reply in given)
    for prompt, reply in given:
        ids = torch.from_numpy(np.concatenate([prompt, reply]).astype(np.int64))[None]
        table = torch.log_softmax(model(input_ids=ids).logits[0].double(), dim=-1)
        places = torch.arange(len(prompt), ids.shape[1])
        loss = -table[places - 1, ids[0, places]].sum() / tokens
        loss.backward()
        whole += float(loss.detach())
    return whole, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}


def assert_close(a: Gradients, b: Gradients) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert float(b[name].norm()) > 0, name
        assert float((a[name] - b[name]).norm()) <= 1e-5 * float(b[name].norm()), name


def test_loss_and_gradient_equal_those_of_each_demonstration_alone(model_folder: Path) -> None:
    given = demonstrations()
    expected, slopes = alone(model_folder, given)
    # the temperature of rollouts plays no part
    metrics, found = one_update(make_learner(model_folder, temperature=0.5, **FREE), given)
    assert metrics["loss"] == pytest.approx(expected, rel=1e-5)
    assert metrics["tokens"] == sum(len(reply) for _, reply in given)
    assert metrics["grad_norm"] == pytest.approx(
        float(torch.stack([g.norm() for g in slopes.values()]).norm()), rel=1e-5
    )
    assert_close(found, slopes)


@pytest.mark.parametrize("tokens", [50, 120, 4096])
def test_neither_micro_batches_nor_order_change_an_update(tied_model: Path, tokens: int) -> None:
    given = demonstrations()
    whole, slopes = one_update(make_learner(tied_model, tokens=1024, **FREE), given)
    metrics, found = one_update(make_learner(tied_model, tokens=tokens, **FREE), given[::-1])
    assert metrics == pytest.approx(whole, rel=1e-5)
    assert_close(found, slopes)


def test_a_demonstration_given_twice_counts_twice(tied_model: Path) -> None:
    first, second = demonstrations(2)
    metrics, _ = one_update(make_learner(tied_model), [first, first, second])
    losses = [alone(tied_model, [one])[0] for one in (first, second)]
    sizes = [2 * len(first[1]), len(second[1])]
    assert metrics["loss"] == pytest.approx(np.average(losses, weights=sizes), rel=1e-5)


def test_every_epoch_sees_each_demonstration_once_in_an_order_of_its_own(tied_model: Path) -> None:
    given = demonstrations(5)
    settings = SftSettings(epochs=3, batch_size=2, seed=4)
    runs = [list(warm_start(make_learner(tied_model), given, settings)) for _ in range(2)]
    assert runs[0] == runs[1], "the same seed gives the same stage"
    assert len(runs[0]) == updates_of(5, settings) == 9
    tokens = [[m["tokens"] for m in runs[0] if m["epoch"] == epoch] for epoch in (1, 2, 3)]
    assert [sum(epoch) for epoch in tokens] == [sum(len(reply) for _, reply in given)] * 3
    assert len({tuple(epoch) for epoch in tokens}) > 1
    other = list(warm_start(make_learner(tied_model), given, SftSettings(epochs=3, batch_size=2, seed=5)))
    assert [m["tokens"] for m in other] != [m["tokens"] for m in runs[0]]


def test_the_stage_learns_and_warms_up_at_a_rate_of_its_own(tied_model: Path) -> None:
    learner = make_learner(tied_model, learning_rate=1e-9, warmup_steps=1000)
    settings = SftSettings(epochs=12, batch_size=3, learning_rate=4e-3, warmup_steps=4)
    before = weights_of(learner)
    stage = warm_start(learner, demonstrations(), settings)
    told = [next(stage)]
    moved = max(float((weight - before[name]).abs().max()) for name, weight in weights_of(learner).items())
    assert moved == pytest.approx(1e-3, rel=0.01), "the first step of Adam is the rate"
    told += stage
    assert [m["learning_rate"] for m in told[:6]] == pytest.approx([1e-3, 2e-3, 3e-3, 4e-3, 4e-3, 4e-3])
    assert told[-1]["loss"] < told[0]["loss"] - 1.0


def test_reinforcement_learning_starts_with_version_0_and_a_fresh_optimizer(tied_model: Path) -> None:
    learner = make_learner(tied_model)
    optimizer = learner.updater.optimizer
    rates = [group["lr"] for group in optimizer.param_groups]
    list(warm_start(learner, demonstrations(), SftSettings(epochs=2, batch_size=3)))
    assert learner.updater.optimizer is optimizer
    assert not optimizer.state
    assert [group["lr"] for group in optimizer.param_groups] == rates
    assert learner.version == 0
    before, groups = weights_of(learner), random_groups()
    learner.step(groups, totals_of(groups))
    moved = max(float((weight - before[name]).abs().max()) for name, weight in weights_of(learner).items())
    assert moved == pytest.approx(1e-3, rel=0.01), "the first step of Adam is the rate"


def test_a_stage_that_is_given_up_gives_the_optimizer_back(tied_model: Path) -> None:
    learner = make_learner(tied_model)
    optimizer = learner.updater.optimizer
    stage = warm_start(learner, demonstrations(), SftSettings(epochs=2, batch_size=3))
    next(stage)
    assert learner.updater.optimizer is not optimizer
    stage.close()  # type: ignore[attr-defined]
    assert learner.updater.optimizer is optimizer


def test_a_checkpoint_after_the_stage_holds_it(tied_model: Path, tmp_path: Path) -> None:
    learner = make_learner(tied_model)
    list(warm_start(learner, demonstrations(), SftSettings(batch_size=3, learning_rate=RATE)))
    save(learner, tmp_path / "step-000000", facts={"step": 0})
    other = make_learner(tied_model)
    assert restore(other, tmp_path / "step-000000") == {"step": 0}
    assert same_weights(weights_of(learner), weights_of(other))
    groups = random_groups()
    assert learner.step(groups, totals_of(groups)) == other.step(groups, totals_of(groups))


def test_the_reference_of_a_kl_can_be_the_model_after_the_stage(tied_model: Path, tmp_path: Path) -> None:
    learner = make_learner(tied_model, kl="loss", kl_coefficient=0.1)
    list(warm_start(learner, demonstrations(), SftSettings(epochs=4, batch_size=3, learning_rate=4e-3)))
    save(learner, tmp_path / "step-000000", facts={})
    learner.body.refer_to(tmp_path / "step-000000")
    groups = random_groups()
    near = learner.step(groups, totals_of(groups))["kl"]
    far = make_learner(tied_model, kl="loss", kl_coefficient=0.1)
    restore(far, tmp_path / "step-000000")
    assert 0 <= near < 1e-3 < far.step(groups, totals_of(groups))["kl"]


def test_a_critic_with_layers_of_its_own_starts_from_the_result(tied_model: Path) -> None:
    learner = make_learner(tied_model, baseline="critic", critic=CriticSettings(backbone="own"))
    list(warm_start(learner, demonstrations(), SftSettings(batch_size=3, learning_rate=RATE)))
    assert learner.critic
    served = {name.removeprefix("model."): tensor.float() for name, tensor in learner.tensors()}
    layers = {n: p for n, p in learner.critic.updater.masters.items() if n in served}
    assert len(layers) == len(served) - 1, "all but the output head"
    assert all(torch.equal(p, served[name]) for name, p in layers.items())


def test_an_adapter_learns_at_its_own_shares_of_the_rate_and_is_not_its_own_reference(
    tied_model: Path, tmp_path: Path
) -> None:
    settings = AdapterSettings(kind="lora+", rank=4, lora_plus_ratio=8.0)
    learner = Learner(
        tied_model, Algorithm(learning_rate=1e-9, kl="loss", kl_coefficient=0.1), tokens_per_microbatch=256, threads=1,
        precision="float32", adapter=settings,
    )  # fmt: skip
    stage = warm_start(learner, demonstrations(), SftSettings(epochs=6, batch_size=6, learning_rate=RATE))
    first = next(stage)
    assert sorted(group["lr"] for group in learner.updater.optimizer.param_groups) == pytest.approx([RATE, 8 * RATE])
    last = list(stage)[-1]
    assert last["loss"] < first["loss"] - 0.1
    save(learner, tmp_path / "step-000000", facts={})
    learner.body.refer_to(tmp_path / "step-000000")
    groups = random_groups()
    assert 0 <= learner.step(groups, totals_of(groups))["kl"] < 1e-3


def test_a_loss_that_is_not_finite_stops_the_stage_and_spares_the_weights(tied_model: Path) -> None:
    learner = make_learner(tied_model)
    list(warm_start(learner, demonstrations(), SftSettings(batch_size=6, learning_rate=RATE)))
    with torch.no_grad():
        learner.updater.masters["model.norm.weight"][3] = torch.inf
    before = weights_of(learner)
    optimizer = learner.updater.optimizer
    with pytest.raises(
        NonFiniteError, match=r"^warm start, update 1: loss .* is not finite; lower sft.learning_rate or"
    ):
        list(warm_start(learner, demonstrations(), SftSettings(batch_size=6)))
    assert same_weights(before, weights_of(learner))
    assert learner.updater.optimizer is optimizer
    assert all(p.grad is None for p in learner.updater.masters.values())


def test_a_demonstration_longer_than_the_budget_is_refused(tied_model: Path) -> None:
    with pytest.raises(ValueError, match=r"does not fit the token budget of 40; raise hardware.tokens_per_microbatch"):
        list(warm_start(make_learner(tied_model, tokens=40), [(np.arange(30), np.arange(20))], SftSettings()))


def test_bfloat16_products_stay_near_single_precision(tied_model: Path) -> None:
    given = demonstrations()
    exact = make_learner(tied_model)
    rounded = Learner(tied_model, Algorithm(learning_rate=RATE), tokens_per_microbatch=256, threads=1)
    settings = SftSettings(epochs=4, batch_size=6, learning_rate=RATE)
    losses = [[m["loss"] for m in warm_start(learner, given, settings)] for learner in (exact, rounded)]
    assert losses[1] == pytest.approx(losses[0], abs=0.03)
    assert losses[0][-1] < losses[0][0] - 0.1


def stage_of_rank(folder: Path, ranks: Ranks | None, out: Path) -> None:
    """Run a stage as one of several ranks, and write what came of it."""
    learner = Learner(
        folder, Algorithm(learning_rate=RATE, baseline="critic", critic=CriticSettings()), tokens_per_microbatch=60,
        threads=1, precision="float32", ranks=ranks,
    )  # fmt: skip
    told = list(warm_start(learner, demonstrations(7), SftSettings(epochs=2, batch_size=3, learning_rate=RATE)))
    assert learner.critic
    weights = [{name: whole(master.detach()).clone() for name, master in updater.masters.items()}
               for updater in (learner.updater, learner.critic.updater)]  # fmt: skip
    torch.save((told, weights), out)


@pytest.mark.integration
def test_two_ranks_learn_what_one_learns(tied_model: Path, tmp_path: Path) -> None:
    stage_of_rank(tied_model, None, tmp_path / "one.pt")
    both, spawn = Ranks(count=2, port=free_port(), deadline_s=60), multiprocessing.get_context("spawn")
    started = [spawn.Process(target=stage_of_rank, args=(tied_model, both.of(rank), tmp_path / f"rank{rank}.pt"))
               for rank in (0, 1)]  # fmt: skip
    for process in started:
        process.start()
    for process in started:
        process.join(timeout=90)
        process.kill()
    told, (policy, critic) = torch.load(tmp_path / "one.pt", weights_only=False)
    for rank in (0, 1):
        found, (ours, judge) = torch.load(tmp_path / f"rank{rank}.pt", weights_only=False)
        assert len(found) == len(told)
        for one, other in zip(found, told, strict=True):
            assert one == pytest.approx(other, rel=1e-5)
        for name, weight in policy.items():
            torch.testing.assert_close(ours[name], weight, rtol=1e-4, atol=2e-5)
        for name, weight in critic.items():  # it was handed bfloat16, where rounding can fall either way
            torch.testing.assert_close(judge[name], weight, rtol=2**-7, atol=2e-5)
