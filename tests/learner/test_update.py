"""Masters in float32 behind weights that compute in bfloat16."""

from __future__ import annotations

import copy

import torch
from torch import nn

from rlvr.learner.update import Updater

SETTINGS = {"rate": 1e-2, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}


def made(dtype: torch.dtype, *, seed: int = 0) -> tuple[nn.Linear, Updater]:
    torch.manual_seed(seed)
    layer = nn.Linear(6, 5)
    return layer, Updater(dict(layer.named_parameters()), dtype=dtype, **SETTINGS)


def test_weights_are_rounded_also_where_products_are_float32() -> None:
    layer = torch.nn.Linear(8, 8)
    updater = Updater(dict(layer.named_parameters()), dtype=torch.float32, weights=torch.bfloat16, **SETTINGS)
    before = layer.weight.clone()
    assert layer.weight.dtype == torch.float32 and torch.equal(before, before.bfloat16().float())
    for _ in range(3):
        layer(torch.ones(1, 8)).sum().backward()
        updater.update(share=1.0)
    assert layer.weight.grad is None and not torch.equal(updater.masters["weight"], before)
    assert torch.equal(layer.weight, updater.masters["weight"].bfloat16().float())


def test_small_gradients_of_many_micro_batches_are_not_rounded_away() -> None:
    layer, updater = made(torch.bfloat16)
    for size in [1.0] + [2**-10] * 64:
        (size * layer.weight).sum().backward()
    assert layer.weight.grad is None
    # in bfloat16 1 + 2^-10 is 1
    torch.testing.assert_close(updater.masters["weight"].grad, torch.full((5, 6), 1.0 + 64 * 2**-10))


def test_small_updates_add_up_in_the_masters() -> None:
    layer, updater = made(torch.bfloat16)
    start = updater.masters["weight"].detach().clone()
    for _ in range(20):
        layer.weight.sum().backward()
        updater.update(share=1e-3)
    moved = (updater.masters["weight"].detach() - start).abs()
    assert float(moved.min()) > 19 * 1e-5
    assert torch.equal(layer.weight, updater.masters["weight"].to(torch.bfloat16))
    assert layer.weight.dtype == torch.bfloat16


def test_parameters_that_compute_in_float32_are_their_own_masters() -> None:
    layer, updater = made(torch.float32)
    assert updater.masters["weight"] is layer.weight
    layer.weight.sum().backward()
    before = layer.weight.detach().clone()
    updater.update(share=1.0)
    assert not torch.equal(layer.weight, before)
    assert layer.weight.grad is None


def test_a_restored_updater_goes_on_as_the_other_would_have() -> None:
    def steps(layer: nn.Linear, updater: Updater, count: int) -> None:
        for number in range(count):
            (layer.weight.float().square().sum() * (1 + number)).backward()
            updater.update(share=0.5)

    layer, updater = made(torch.bfloat16)
    steps(layer, updater, 3)
    again, other = made(torch.bfloat16, seed=1)
    other.restore(
        {n: p.detach().clone() for n, p in updater.masters.items()}, copy.deepcopy(updater.optimizer.state_dict())
    )
    steps(layer, updater, 2)
    steps(again, other, 2)
    assert torch.equal(layer.weight, again.weight)
    assert torch.equal(updater.masters["weight"], other.masters["weight"])


def test_groups_keep_rates_of_their_own_and_take_them_from_the_recipe_after_a_restore() -> None:
    def grouped(rate: float) -> Updater:
        torch.manual_seed(0)
        layer = nn.Linear(6, 5)
        groups = [{"params": [layer.weight], "lr": rate}, {"params": [layer.bias], "lr": 4 * rate}]
        return Updater(dict(layer.named_parameters()), dtype=torch.bfloat16, groups=groups, **SETTINGS)

    updater = grouped(1e-2)
    for master in updater.masters.values():
        master.grad = torch.ones_like(master)
    updater.update(share=0.5)
    assert [group["lr"] for group in updater.optimizer.param_groups] == [5e-3, 2e-2]
    other = grouped(1e-3)
    other.restore({n: p.detach() for n, p in updater.masters.items()}, updater.optimizer.state_dict())
    other.update(share=1.0)
    assert [group["lr"] for group in other.optimizer.param_groups] == [1e-3, 4e-3]


def test_a_restored_updater_keeps_the_recipes_hyper_parameters() -> None:
    _, updater = made(torch.float32)
    updater.masters["weight"].sum().backward()
    updater.update(share=1.0)
    layer = nn.Linear(6, 5)
    own = {"rate": 1e-3, "betas": (0.5, 0.6), "eps": 1e-4, "weight_decay": 0.7}
    other = Updater(dict(layer.named_parameters()), dtype=torch.float32, **own)
    other.restore({n: p.detach() for n, p in updater.masters.items()}, updater.optimizer.state_dict())
    (group,) = other.optimizer.param_groups
    assert {"rate": group["base_rate"], **{n: group[n] for n in ("betas", "eps", "weight_decay")}} == own
    moments = other.optimizer.state[other.masters["weight"]]
    assert torch.equal(moments["exp_avg"], updater.optimizer.state[updater.masters["weight"]]["exp_avg"])
