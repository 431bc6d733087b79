"""What of a recipe reaches learner and workers."""

from __future__ import annotations

from inspect import signature
from pathlib import Path
from typing import Any

import pytest

from rlvr.config import Recipe
from rlvr.core.payoff import Payoff
from rlvr.errors import ConfigError, ModelError
from rlvr.learner.adapter import AdapterSettings
from rlvr.learner.step import Learner
from rlvr.loop import driver
from rlvr.loop.settings import (
    adapter_of,
    buffer_of,
    check_targets,
    compares_within_groups,
    learner_settings_of,
    payoff_of,
    precision_of,
    products_of,
    rollout_settings_of,
    transport_of,
    with_precision,
)
from rlvr.presets import PRESETS
from rlvr.rollout.runner import RolloutSettings


def recipe(**sections: Any) -> Recipe:
    plain = {"name": "r", "steps": 60, "model": {"path": "m"}, "environment": {"name": "e"}, "reward": [{"name": "w"}]}
    return Recipe.model_validate(plain | sections)


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_the_buffer_fits_the_algorithm(name: str) -> None:
    """Only where replies are compared within their group does it need two, and may a flat one be left out."""
    made = recipe(algorithm={"preset": name})
    buffer = buffer_of(made)
    grouped = name in ("grpo", "dr_grpo", "dapo", "gspo", "cispo", "rloo", "reinforce++_baseline")
    assert compares_within_groups(made) is grouped
    assert buffer.least == (2 if grouped else 1)
    assert buffer.flat_groups_have_no_gradient is (grouped and name != "reinforce++_baseline")
    assert buffer.flat_groups_count is (name != "dapo")


def test_the_worker_is_told_of_cut_replies() -> None:
    made = recipe(rollout={"truncated": "wrong", "temperature": 0.7, "max_new_tokens": 9, "max_model_len": 99})
    told = RolloutSettings(max_new_tokens=9, temperature=0.7, max_model_len=99, truncated="wrong")
    assert rollout_settings_of(made) == told
    assert rollout_settings_of(recipe()).truncated == "score"


def test_the_worker_is_told_what_a_push_does_to_running_groups() -> None:
    assert (rollout_settings_of(recipe()).in_flight, rollout_settings_of(recipe()).recompute_kv) == (True, False)
    for weights in ({"in_flight": False}, {"recompute_kv": True}):
        told = rollout_settings_of(recipe(rollout={"max_staleness": 1}, weights=weights))
        assert (told.in_flight, told.recompute_kv) == (weights.get("in_flight", True), "recompute_kv" in weights)


def test_the_learner_is_told_of_the_machine() -> None:
    made = recipe(hardware={"threads": 3, "precision": "float32", "gradient_checkpointing": True})
    told = learner_settings_of(made, cores=8)
    assert told == {
        "tokens_per_microbatch": 4096, "max_length": 512, "threads": 3, "device": "cpu", "precision": "float32",
        "gradient_checkpointing": True, "compile": False,
    }  # fmt: skip
    assert set(told) <= set(signature(Learner).parameters)
    assert learner_settings_of(recipe(hardware={"kind": "gpu"}), cores=8)["device"] == "cuda"
    assert learner_settings_of(recipe(), cores=8)["threads"] == 8


@pytest.mark.parametrize(
    ("hardware", "instructions", "precision"),
    [
        ({}, "avx512_bf16", "bfloat16"),
        ({}, "", "bfloat16_weights"),
        ({"ranks": 2}, "", "float32"),
        ({"kind": "gpu"}, "", "bfloat16"),
        ({"precision": "bfloat16"}, "", "bfloat16"),
        ({"precision": "float32"}, "amx_bf16", "float32"),
    ],
)
def test_precision_follows_the_processor(
    hardware: dict[str, str], instructions: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlvr.loop.settings.bfloat16_instructions", lambda: instructions)
    assert precision_of(recipe(hardware=hardware)) == precision
    assert products_of(recipe(hardware=hardware)) == ("bfloat16" if precision == "bfloat16" else "float32")
    assert learner_settings_of(recipe(hardware=hardware), cores=2)["precision"] == precision


@pytest.mark.parametrize(
    ("asked", "begun", "settled"),
    [
        ("auto", {}, "bfloat16_weights"),
        ("auto", {"hardware": {"precision": "bfloat16"}}, "bfloat16"),  # another machine began the run
        ("float32", {"hardware": {"precision": "bfloat16"}}, "float32"),  # which --resume refuses
        ("bfloat16", {}, "bfloat16"),
    ],
)
def test_a_run_keeps_the_precision_that_it_was_begun_with(
    asked: str, begun: dict[str, Any], settled: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rlvr.loop.settings.bfloat16_instructions", lambda: "")
    given = recipe(hardware={"precision": asked})
    assert with_precision(given, begun=begun).hardware.precision == settled


def test_the_adapter_is_told_how_long_the_run_is() -> None:
    assert adapter_of(recipe()) is None
    made = recipe(
        seed=4, algorithm={"epochs": 2, "minibatches": 3},
        adapter={"kind": "adalora", "rank": 8, "target_rank": 2, "targets": ["q_proj"], "alpha": 8},
    )  # fmt: skip
    assert adapter_of(made) == AdapterSettings(
        kind="adalora", rank=8, alpha=8.0, targets=("q_proj",), target_rank=2, total_steps=360, seed=4
    )
    assert learner_settings_of(made, cores=1)["adapter"] == adapter_of(made)
    critic = recipe(
        algorithm={"preset": "ppo", "minibatches": 3}, critic={"warmup_steps": 10}, adapter={"kind": "adalora"}
    )
    adapter = adapter_of(critic)
    assert adapter is not None
    assert adapter.total_steps == (critic.steps - 10) * 3, "while the critic warms up there is no update of the adapter"
    assert adapter_of(recipe(adapter={"kind": "lora"})) == AdapterSettings(kind="lora", total_steps=60)


@pytest.mark.parametrize("kind", ["lora", "rslora", "dora", "vera", "pissa", "loftq", "lora+", "adalora", "qlora"])
def test_every_kind_of_adapter_has_its_settings(kind: str) -> None:
    made = adapter_of(recipe(adapter={"kind": kind}, hardware={"kind": "gpu"}))
    assert made is not None and made.kind == kind


def test_the_transport_follows_the_hardware() -> None:
    assert (transport_of(recipe()), transport_of(recipe(hardware={"kind": "gpu"}))) == ("shm", "ipc")
    assert transport_of(recipe(hardware={"ray_address": "auto"})) == "tcp"


def test_a_cut_reply_is_wrong_only_where_something_says_what_that_pays() -> None:
    judged = {"reward": [{"name": "math"}], "rollout": {"truncated": "wrong"}}
    with pytest.raises(ConfigError, match=r'^rollout.truncated = "wrong" needs \[payoff\], which says '):
        payoff_of(recipe(**judged))
    assert payoff_of(recipe(**judged, payoff={"wrong": -2.0})) == Payoff(wrong=-2.0)
    assert payoff_of(recipe(**judged | {"reward": [{"name": "truth"}]})) is not None, "the reward itself says so"
    assert payoff_of(recipe(**judged | {"rollout": {"truncated": "mask"}})) is None


def test_a_target_that_matches_nothing_is_told_from_the_files(tied_model: Path) -> None:
    for adapter in ({}, {"kind": "lora"}, {"kind": "lora", "targets": ["q_proj"]}):
        check_targets(recipe(adapter=adapter), tied_model)
    with pytest.raises(ModelError, match=r"^adapter.targets: 'q_prj' matches no linear layer"):
        check_targets(recipe(adapter={"kind": "lora", "targets": ["q_prj"]}), tied_model)


def test_it_is_told_before_anything_starts(tied_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "Cluster", lambda *_, **__: pytest.fail("the engines start"))
    wrong = recipe(
        model={"path": str(tied_model)}, environment={"name": "arithmetic"}, reward=[{"name": "math"}],
        adapter={"kind": "lora", "targets": ["q_prj"]},
    )  # fmt: skip
    with pytest.raises(ModelError, match=r"^adapter.targets: 'q_prj' matches no linear layer"):
        driver.train(wrong, run_dir=tmp_path / "run", view=None)  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()
