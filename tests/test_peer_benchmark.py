"""The arithmetic of `make bench-peer`: what is counted, what is compared, what the peer is told."""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from rlvr.config import load_recipe
from rlvr.rollout.render import Renderer

PEER = Path(__file__).resolve().parent.parent / "benchmarks" / "peer"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import the benchmark as its own folder does."""
    monkeypatch.syspath_prepend(str(PEER))
    import run

    return run


def side(*seconds: float, tokens: int = 1000) -> dict[str, Any]:
    known = {"reply_tokens": tokens, "trained_tokens": tokens // 4}
    known |= {"computed_tokens": tokens // 2, "scored_tokens": tokens // 4}
    steps = [known | {"seconds": s, "phases": {"rollout": s / 4}} for s in seconds]
    return {"steps": steps, "peak_job_pss_gb": 1.0}


def on(machine: str, found: dict[str, Any]) -> dict[str, Any]:
    return found | {"machine": {"cpu": machine}, "precision": "float32", "matmul_tflops": 2.0}


def test_the_median_leaves_the_warm_up_out(bench: ModuleType) -> None:
    found = bench.summarised(side(90, 8, 4, 6), warmup=1)
    assert (found["seconds_per_step"], found["seconds_per_step_min"], found["seconds_per_step_max"]) == (6, 4, 8)
    assert found["phase_seconds"] == {"rollout": 1.5}
    assert found["seconds_per_1000_reply_tokens"] == 6
    assert [step["counted"] for step in found["steps"]] == [False, True, True, True]


def test_a_side_without_counted_steps_is_refused(bench: ModuleType) -> None:
    with pytest.raises(ValueError, match="1 steps leave none to count after 1"):
        bench.summarised(side(90), warmup=1)


def test_ratios_and_floor(bench: ModuleType) -> None:
    ours, theirs = bench.summarised(side(9, 4), warmup=1), bench.summarised(side(9, 40, tokens=2000), warmup=1)
    sizes = {"parameters": 10**9, "head_parameters": 4 * 10**8}
    found = bench.compared({"rlvr": on("a", ours), "trl": on("a", theirs)} | sizes)
    assert found["speed_ratio"] == 10  # 40 s by 4 s
    assert found["speed_ratio_per_token"] == 5  # TRL's replies were twice as long
    assert found["floor"]["matmul_seconds"] == 1.2  # 6 x (6e8 x 500 tokens + 4e8 of the head x 250) by 2 TFLOP/s
    assert found["floor"]["seconds"] == 2.2  # and a second of sampling
    assert found["floor"]["share_of_rlvr_step"] == 0.55
    assert "speed_ratio" not in bench.compared({"rlvr": on("a", ours), "trl": on("b", theirs)} | sizes)


def test_one_side_alone_has_no_ratio(bench: ModuleType) -> None:
    found = bench.compared({"trl": on("a", bench.summarised(side(9, 40), warmup=1)), "parameters": 1})
    assert "speed_ratio" not in found and "floor" not in found


def test_evaluation_and_checkpoints_are_no_part_of_a_step(bench: ModuleType) -> None:
    seconds = {"rollout": 1.0, "learn": 2.0, "eval": 5.0, "checkpoint": 3.0, "step": 12.0}
    step = bench.rlvr_step({"tokens": 10, "groups_train": 3, "seconds": seconds})
    assert step["seconds"] == 4.0
    assert step["phases"] == {"rollout": 1.0, "learn": 2.0}
    assert (step["trained_tokens"], step["computed_tokens"]) == (0, 0)  # a step may train nothing
    assert step["grad_norm"] is None  # unknown is not 0


@pytest.mark.parametrize("workload", ["w1", "w2"])
def test_both_workloads_can_be_said_in_the_peers_words(bench: ModuleType, workload: str) -> None:
    recipe = load_recipe(bench.RECIPES[workload], overrides=bench.overrides(4))
    told = bench.conventions(recipe)
    assert (told["loss_type"], told["scale_rewards"]) == ("dapo", "none")
    assert (told["epsilon"], told["epsilon_high"], told["max_steps"], told["num_generations"]) == (0.2, 0.28, 4, 8)
    assert told["max_completion_length"] == {"w1": 128, "w2": 24}[workload]


def test_the_peer_is_given_the_tasks_of_all_steps_as_token_ids(bench: ModuleType, tied_model: Path) -> None:
    recipe = load_recipe(bench.RECIPES["w1"], overrides=bench.overrides(4))
    tasks = bench.tasks_of(recipe, tied_model)
    assert len(tasks) == 4 * 8
    renderer = Renderer(tied_model)
    for task in tasks:
        assert task["prompt_ids"] == renderer.prompt(task["messages"]).tolist()
        problem = task["messages"][-1]["content"].removeprefix("What is ").removesuffix("?").replace("x", "*")
        assert eval(problem) == int(task["truth"])


def test_an_algorithm_that_the_peer_does_not_share_is_refused(bench: ModuleType) -> None:
    recipe = load_recipe(bench.RECIPES["w1"], overrides=[*bench.overrides(4), "algorithm.epochs=2"])
    with pytest.raises(ValueError, match="algorithm\\.epochs is set to what the peer is not run with"):
        bench.conventions(recipe)


def test_memory_sees_the_processes_below(bench: ModuleType, tmp_path: Path) -> None:
    child = "import time; held = bytearray(b'x') * 250_000_000; time.sleep(2)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], check=True)"
    peaks = bench.run([sys.executable, "-c", parent], tmp_path / "log", environment={}, learner="")
    assert 0.2 < peaks["peak_job_pss_gb"] < 0.4
    assert peaks["peak_learner_rss_gb"] < 0.1  # the first process alone, which holds nothing
