"""Learners that train an adapter: what engines get, what a checkpoint holds, and the reference behind it."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import random_groups, totals_of

from rlvr.core.packing import pack
from rlvr.learner import checkpoint
from rlvr.learner.adapter import AdapterSettings
from rlvr.learner.algorithm import Algorithm
from rlvr.learner.body import plain_sample
from rlvr.learner.model import load_model
from rlvr.learner.step import Learner

# peft and a hundred small trainings: more than the minute of the unit tests has room for
pytestmark = pytest.mark.integration

KINDS = ["lora", "rslora", "dora", "vera", "pissa", "loftq", "lora+", "adalora"]
STREAMS = [np.array([10, 11, 12, 20, 21, 22]), np.array([10, 11, 12, 30, 31])]


def adapted(folder: Path, kind: str, *, precision: str = "float32", **algorithm: object) -> Learner:
    more = {"target_rank": 2, "total_steps": 6} if kind == "adalora" else {}
    settings = AdapterSettings(kind=kind, rank=4, alpha=8.0, **more)  # type: ignore[arg-type]
    return Learner(
        folder, Algorithm(learning_rate=1e-3, **algorithm), tokens_per_microbatch=256, threads=1,  # type: ignore[arg-type]
        precision=precision, adapter=settings,
    )  # fmt: skip


def steps(learner: Learner, count: int) -> None:
    for _ in range(count):
        groups = random_groups(seed=learner.version)
        learner.step(groups, totals_of(groups))


@pytest.mark.parametrize(("precision", "rounding"), [("float32", 1e-4), ("bfloat16", 0.05)])
@pytest.mark.parametrize("kind", KINDS)
def test_the_engine_gets_the_model_that_learns(
    kind: str, precision: str, rounding: float, tied_model: Path, tmp_path: Path
) -> None:
    learner = adapted(tied_model, kind, precision=precision)
    before = learner.score(STREAMS)
    steps(learner, 3)
    checkpoint.save(learner, tmp_path / "step-000003", facts={})
    merged = load_model(tmp_path / "step-000003")
    assert {name for name, _ in learner.tensors()} == {*merged.state_dict(), "lm_head.weight"}
    for ids, was, ours in zip(STREAMS, before, learner.score(STREAMS), strict=True):
        logits = merged(input_ids=torch.from_numpy(ids)[None]).logits[0, :-1].log_softmax(-1)
        theirs = logits.gather(1, torch.from_numpy(ids)[1:, None])[:, 0].detach().numpy()
        assert np.abs(ours - theirs).max() < rounding
        assert precision == "bfloat16" or np.abs(ours - was).max() > 1e-5, "too little for bfloat16 to tell, of some"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_resumed_adapter_equals_one_that_never_stopped(
    kind: str, precision: str, tied_model: Path, tmp_path: Path
) -> None:
    whole = adapted(tied_model, kind, precision=precision)
    steps(whole, 2)
    checkpoint.save(whole, tmp_path / "step-000002", facts={"step": 2})
    steps(whole, 2)
    resumed = adapted(tied_model, kind, precision=precision)
    assert checkpoint.restore(resumed, tmp_path / "step-000002") == {"step": 2}
    steps(resumed, 2)
    theirs = dict(whole.tensors())
    for name, tensor in resumed.tensors():
        assert torch.equal(tensor, theirs[name]), name
    assert (resumed.version, resumed.updates) == (4, 4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_reference_is_the_model_without_its_adapter(kind: str, tied_model: Path) -> None:
    learner = adapted(tied_model, kind)
    (batch,) = pack([plain_sample(ids[:1], ids[1:]) for ids in STREAMS], max_tokens=64)
    steps(learner, 2)
    plain = Learner(tied_model, Algorithm(), tokens_per_microbatch=256, threads=1, precision="float32")
    with torch.no_grad():
        torch.testing.assert_close(learner.body.reference(batch)[0], plain.body.logprobs(batch)[0])
        assert not torch.equal(learner.body.logprobs(batch)[0], plain.body.logprobs(batch)[0])
    assert all(p.requires_grad for p in learner.updater.masters.values())


def test_peft_loads_what_a_checkpoint_holds_of_an_adapter(tied_model: Path, tmp_path: Path) -> None:
    from peft import PeftModel

    learner = adapted(tied_model, "lora")
    steps(learner, 2)
    checkpoint.save(learner, tmp_path / "step-000002", facts={})
    model = PeftModel.from_pretrained(load_model(tied_model), tmp_path / "step-000002" / "adapter")
    ids = torch.from_numpy(STREAMS[0])[None]
    logits = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
    theirs = logits.gather(1, ids[0, 1:, None])[:, 0].detach().numpy()
    np.testing.assert_allclose(learner.score(STREAMS)[0], theirs, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "precision"),
    [*product(["none", "lora", "pissa"], ["float32", "bfloat16"]), ("none", "bfloat16_weights")],
)
def test_perturbed_weights_differ_everywhere_and_are_put_back(kind: str, precision: str, tied_model: Path) -> None:
    plain = Learner(tied_model, Algorithm(), tokens_per_microbatch=256, threads=1, precision=precision)
    learner = plain if kind == "none" else adapted(tied_model, kind, precision=precision)
    steps(learner, 1)
    before = {name: tensor.clone() for name, tensor in learner.tensors()}
    with learner.perturbed():
        changed = [name for name, tensor in learner.tensors() if not torch.equal(tensor, before[name])]
    assert changed == list(before)
    assert all(torch.equal(tensor, before[name]) for name, tensor in learner.tensors())


def test_lora_plus_keeps_its_ratio_under_warm_up(tied_model: Path) -> None:
    learner = adapted(tied_model, "lora+", warmup_steps=4)
    steps(learner, 1)
    assert [group["lr"] for group in learner.updater.optimizer.param_groups] == pytest.approx([1e-3 / 4, 16 * 1e-3 / 4])


@pytest.mark.parametrize("precision", ["float32", "bfloat16_weights"])
def test_a_full_model_loads_its_reference_only_when_asked(precision: str, tied_model: Path) -> None:
    groups = random_groups()
    without = Learner(tied_model, Algorithm(), tokens_per_microbatch=256, threads=1, precision="float32")
    without.step(groups, totals_of(groups))
    assert without.body._frozen is None
    algorithm = replace(Algorithm(), kl="loss", kl_coefficient=0.1)
    learner = Learner(tied_model, algorithm, tokens_per_microbatch=256, threads=1, precision=precision)
    assert learner.step(groups, totals_of(groups))["kl"] == pytest.approx(0.0, abs=1e-9)
    assert learner.step(groups, totals_of(groups))["kl"] > 1e-9


@pytest.mark.parametrize("kind", ["lora", "rslora", "lora+"])
def test_base_and_adapter_pushed_apart_are_the_merged_model(kind: str, tied_model: Path) -> None:
    learner = adapted(tied_model, kind)
    at_start = learner.score(STREAMS)
    steps(learner, 2)
    merged, base = dict(learner.tensors()), {n: t.clone() for n, t in learner.tensors("base")}
    pushed = {name: tensor.float() for name, tensor in learner.tensors("adapter")}
    assert base.keys() == merged.keys()
    matrices = {name.partition(".lora_")[0] for name in pushed}
    assert {f"{name}.weight" for name in matrices} == {n for n, t in merged.items() if not torch.equal(t, base[n])}
    for name in matrices:
        product = pushed[f"{name}.lora_B.weight"] @ pushed[f"{name}.lora_A.weight"]
        whole = base[f"{name}.weight"].float() + product
        assert torch.allclose(whole, merged[f"{name}.weight"].float(), rtol=2**-6, atol=2**-9)
    with learner.perturbed(False, part="base"):
        for ours, was in zip(learner.score(STREAMS), at_start, strict=True):
            np.testing.assert_array_equal(ours, was)


@pytest.mark.parametrize("part", ["base", "adapter"])
def test_only_the_part_that_is_pushed_is_perturbed(part: str, tied_model: Path) -> None:
    learner = adapted(tied_model, "lora", precision="bfloat16")
    parts = ("base", "adapter")
    before = {p: {n: t.clone() for n, t in learner.tensors(p)} for p in parts}  # type: ignore[arg-type]
    scores = learner.score(STREAMS)
    with learner.perturbed(part=part):  # type: ignore[arg-type]
        moved = {p: {n for n, t in learner.tensors(p) if not torch.equal(t, before[p][n])} for p in parts}  # type: ignore[arg-type]
        assert np.abs(learner.score(STREAMS)[0] - scores[0]).mean() > 0.15  # the self-test must see it
    assert moved == {p: set(before[p]) if p == part else set() for p in parts}
    assert all(torch.equal(t, before[p][n]) for p in parts for n, t in learner.tensors(p))  # type: ignore[arg-type]
    assert {p for p in learner.body.trained() if ".lora_" not in p} == set()
