"""The real thing through the command line: vLLM, Ray and SmolLM2 on this machine's cores."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from rlvr.config import load_recipe
from rlvr.observe.metrics import read_lines
from rlvr.plugins import ENVIRONMENTS, create

ROOT = Path(__file__).resolve().parents[2]
RLVR = Path(sys.executable).with_name("rlvr")
STEPS = 8

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

RECIPE = """
name = "short"
steps = 8

[model]
path = "smollm2-135m"

[environment]
name = "arithmetic"
operations = ["add20", "mul12"]
examples = 1
eval_tasks = 96

[[reward]]
name = "math"
marked_only = true

[rollout]
prompts_per_step = 8
group_size = 8
max_new_tokens = 24
max_model_len = 256

[algorithm]
advantage_scale = "none"
clip_high = 0.28
loss_per = "token"
learning_rate = 3e-5

[eval]
tasks = 96
"""
ONE_STEP = ("steps=1", "algorithm.warmup_steps=0", "rollout.prompts_per_step=4", "eval.tasks=8")


def rlvr(*arguments: object, folder: Path, seconds: float = 400) -> subprocess.CompletedProcess[str]:
    """Run one command in a folder."""
    command = [str(RLVR), *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=seconds)


def train(recipe: str, *arguments: object, folder: Path, seconds: float = 400) -> subprocess.CompletedProcess[str]:
    """Train by a recipe given as text."""
    (folder / "recipe.toml").write_text(recipe)
    return rlvr("train", "recipe.toml", *arguments, folder=folder, seconds=seconds)


def settings(*overrides: str) -> list[str]:
    """Spell overrides as options."""
    return [part for override in overrides for part in ("--set", override)]


def explained(done: subprocess.CompletedProcess[str], *, status: int) -> str:
    """Give the one line on stderr that a failure is answered with."""
    assert done.returncode == status, done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


def interrupted(recipe: str, folder: Path, *, after_step: int) -> tuple[int, str]:
    """Train and press Ctrl-C once a step's row is out; give exit status and output."""
    process = subprocess.Popen(
        [RLVR, "train", recipe],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line)
        if re.match(rf" *{after_step}/", line):
            os.killpg(process.pid, signal.SIGINT)  # a terminal signals the whole group
    return process.wait(timeout=300), "".join(said)


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, bytes, int]:
    """Train until Ctrl-C; give the folder, the command that goes on, the first evaluation and the steps done."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "recipe.toml").write_text(RECIPE)
    status, said = interrupted("recipe.toml", folder, after_step=2)
    assert status == 130, said
    told = re.search(r"go on with: rlvr (.*)", said)
    assert told, said
    command = told[1]
    run = folder / "runs" / "short"
    assert not (run / "summary.json").exists()
    return folder, command, (run / "eval_before.jsonl").read_bytes(), len(read_lines(run / "metrics.jsonl"))


@pytest.fixture(scope="module")
def trained(stopped: tuple[Path, str, bytes, int]) -> Path:
    """Train once, interrupted and resumed; several tests look at the run."""
    folder, command, *_ = stopped
    done = rlvr(*shlex.split(command), folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "runs" / "short"


def test_the_reward_rises(trained: Path) -> None:
    rewards = [line["reward"] for line in read_lines(trained / "metrics.jsonl")]
    assert sum(rewards[-3:]) / 3 > sum(rewards[:3]) / 3 + 0.1, rewards


def test_a_run_leaves_what_the_documentation_says(trained: Path) -> None:
    lines = read_lines(trained / "metrics.jsonl")
    assert [line["step"] for line in lines] == [line["version"] for line in lines] == list(range(1, STEPS + 1))
    for line in lines:
        assert {"reward", "correct", "truncated", "flat", "ungraded", "tokens", "push_stall"} <= line.keys()
        assert {"rollout", "learn", "push", "step"} <= line["seconds"].keys()
        assert line["mismatch"] < 0.05
        assert line["ungraded"] == 0
    assert json.loads((trained / "config.json").read_text())["rollout"]["group_size"] == 8
    files = sorted((trained / "rollouts").glob("step-*.jsonl"))
    assert [len(read_lines(file)) for file in files] == [64] * STEPS
    for step, file in enumerate(files, start=1):
        assert {tuple(line["version"]) for line in read_lines(file)} == {(step - 1, step - 1)}


def test_the_summary_agrees_with_the_evaluations(trained: Path) -> None:
    summary = json.loads((trained / "summary.json").read_text())
    assert summary["steps"] == STEPS and summary["seconds"] > 0
    for name in ("eval_before", "eval_after"):
        lines = read_lines(trained / f"{name}.jsonl")
        assert len({line["task_id"] for line in lines}) == summary[name]["n"] == 96
        assert all({"prompt_ids", "reply", "truth", "verdict"} <= line.keys() for line in lines)
        right = sum(line["verdict"] == "CORRECT" for line in lines)
        assert summary[name]["accuracy"] == pytest.approx(right / 96)
        assert summary[name]["low"] < summary[name]["accuracy"] < summary[name]["high"]
    points = 100 * (summary["eval_after"]["accuracy"] - summary["eval_before"]["accuracy"])
    assert summary["gain"]["points"] == pytest.approx(points)
    assert summary["gain"]["low"] < points < summary["gain"]["high"]


def checkpoint(run: Path) -> Path:
    """Give the only checkpoint of a run that is over."""
    (found,) = (run / "checkpoints").iterdir()
    return found


def greedy(run: Path, lines: list[dict[str, Any]], *, batch: int = 16) -> list[str]:
    """Answer the prompts of an evaluation with plain transformers: greedily, in batches padded on the left."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = checkpoint(run)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    budget = json.loads((run / "config.json").read_text())["rollout"]["max_new_tokens"]
    replies: list[str] = []
    prompts = [line["prompt_ids"] for line in lines]
    for part in (prompts[start : start + batch] for start in range(0, len(prompts), batch)):
        width = max(map(len, part))
        ids = torch.tensor([[tokenizer.pad_token_id] * (width - len(p)) + p for p in part])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in part])
        out = model.generate(input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=budget)
        replies += tokenizer.batch_decode(out[:, width:], skip_special_tokens=True)
    return replies


def agreement(replies: list[str], lines: list[dict[str, Any]]) -> float:
    """Give the share of identical replies."""
    return sum(reply == line["reply"] for reply, line in zip(replies, lines, strict=True)) / len(lines)


def test_the_checkpoint_loads_in_plain_transformers(trained: Path) -> None:
    lines = read_lines(trained / "eval_after.jsonl")[:16]
    assert agreement(greedy(trained, lines), lines) >= 0.75


@pytest.mark.slow
def test_plain_transformers_gives_the_same_evaluation(trained: Path) -> None:
    from rlvr.testing import rollout, task

    lines = read_lines(trained / "eval_after.jsonl")
    replies = greedy(trained, lines)
    assert agreement(replies, lines) >= 0.9
    judge = create("rlvr.rewards", "math", {"marked_only": True})
    judged = [task(str(line["prompt_ids"]), line["truth"]) for line in lines]
    grades = [judge.grade(of, rollout(reply, of=of)) for of, reply in zip(judged, replies, strict=True)]
    accuracy = sum(grade.verdict == "CORRECT" for grade in grades) / len(grades)
    after = json.loads((trained / "summary.json").read_text())["eval_after"]
    assert after["low"] <= accuracy <= after["high"]


PLAIN_VLLM = """
import json, sys
from vllm import LLM, SamplingParams

if __name__ == "__main__":
    lines = [json.loads(line) for line in open(sys.argv[2])]
    llm = LLM(sys.argv[1], dtype="auto", max_model_len=256, enforce_eager=True)
    prompts = [{"prompt_token_ids": line["prompt_ids"]} for line in lines]
    outputs = llm.generate(prompts, SamplingParams(temperature=0, max_tokens=24), use_tqdm=False)
    print(json.dumps([output.outputs[0].text for output in outputs]))
"""


@pytest.mark.slow
def test_the_checkpoint_loads_in_plain_vllm(trained: Path, tmp_path: Path) -> None:
    script = tmp_path / "plain.py"
    script.write_text(PLAIN_VLLM)
    evaluation = trained / "eval_after.jsonl"
    done = subprocess.run(
        [sys.executable, script, checkpoint(trained), evaluation],
        env=os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR", "VLLM_PLUGINS": ""},
        capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert agreement(json.loads(done.stdout.splitlines()[-1]), read_lines(evaluation)) >= 0.9


@pytest.fixture
def user_folder(tmp_path: Path) -> Path:
    """Lay out the README's environment, reward and recipe, as a user does, with fewer steps."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name, text in re.findall(r"^```(?:python|toml)\n# (\S+)\n(.*?)^```$", readme, re.DOTALL | re.MULTILINE):
        shorter = re.sub(r"^steps = \d+", "steps = 2", text, flags=re.MULTILINE)
        (tmp_path / name).write_text(shorter.replace("tasks = 64", "tasks = 16"))
    return tmp_path


def tasks_of(file: Path) -> list[str]:
    """Give the task ids of a step, in their order."""
    return list(dict.fromkeys(line["task_id"] for line in read_lines(file)))


def expected_tasks(path: Path) -> Iterator[list[str]]:
    """Give the task ids of each step as an uninterrupted run of a recipe has them."""
    folder = path.parent
    sys.path.insert(0, str(folder))
    try:
        recipe = load_recipe(path)
        environment = create(ENVIRONMENTS, recipe.environment.name, recipe.environment.options)
        stream = environment.tasks("train", seed=recipe.seed)
        for _ in range(recipe.steps):
            yield [task.id for task in islice(stream, recipe.rollout.prompts_per_step)]
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop("larger", None)


def test_ctrl_c_saves_and_the_printed_command_goes_on(stopped: tuple[Path, str, bytes, int], trained: Path) -> None:
    folder, _, before, steps = stopped
    assert steps in (2, 3), "the step under way is finished, and no other is begun"
    assert (trained / "eval_before.jsonl").read_bytes() == before
    files = sorted((trained / "rollouts").glob("step-*.jsonl"))
    assert [tasks_of(file) for file in files] == list(expected_tasks(folder / "recipe.toml"))


@pytest.mark.slow
def test_the_environment_and_the_reward_of_the_readme_train(user_folder: Path) -> None:
    done = rlvr("train", "larger.toml", folder=user_folder)
    assert done.returncode == 0, done.stdout + done.stderr
    run = user_folder / "runs" / "larger"
    assert [tasks_of(file) for file in sorted((run / "rollouts").glob("step-*.jsonl"))] == list(
        expected_tasks(user_folder / "larger.toml")
    )
    assert json.loads((run / "summary.json").read_text())["steps"] == 2


@pytest.mark.slow
def test_a_resumed_run_equals_the_run_that_never_stopped(stopped: tuple[Path, str, bytes, int], trained: Path) -> None:
    folder, _, _, steps = stopped
    done = rlvr("train", "recipe.toml", "--run-dir", "runs/whole", folder=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    for step in range(1, STEPS + 1):
        whole, resumed = (
            read_lines(run / "rollouts" / f"step-{step:06d}.jsonl") for run in (folder / "runs" / "whole", trained)
        )
        same = [a["reply"] == b["reply"] for a, b in zip(whole, resumed, strict=True)]
        assert [line["seed"] for line in whole] == [line["seed"] for line in resumed]
        # a CPU engine rounds by its batch mates, and what differs in one step is learned from in the next
        assert sum(same) / len(same) >= (0.9 if step <= steps + 1 else 0.7), f"step {step}"


@pytest.mark.slow
def test_an_asynchronous_run_goes_on_with_what_was_outstanding(tmp_path: Path) -> None:
    given = RECIPE.replace("steps = 8", "steps = 5").replace("[rollout]", "[rollout]\nmax_staleness = 2")
    (tmp_path / "recipe.toml").write_text(given.replace("tasks = 96", "tasks = 16"))
    status, said = interrupted("recipe.toml", tmp_path, after_step=2)
    assert status == 130, said
    run = tmp_path / "runs" / "short"
    facts = json.loads((checkpoint(run) / "trainer" / "facts.json").read_text())
    assert facts["outstanding"] and facts["tasks"] == 8 * facts["step"] + len(facts["outstanding"])
    done = rlvr("train", "recipe.toml", "--resume", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    sampled = [tasks_of(file) for file in sorted((run / "rollouts").glob("step-*.jsonl"))]
    assert [len(step) for step in sampled] == [8] * 5
    expected = expected_tasks(tmp_path / "recipe.toml")
    assert sorted(one for step in sampled for one in step) == sorted(one for step in expected for one in step)
    lines = read_lines(run / "metrics.jsonl")
    # of older versions the policy has moved away
    assert all(line["staleness_max"] <= 2 and line.get("mismatch_lag_0", 0.0) < 0.05 for line in lines)
    assert any("mismatch_lag_0" in line for line in lines)
    assert any(line["staleness"] > 0 for line in lines)


@pytest.mark.slow  # test_engine_weights.py sees every fault caught by a real engine, in less time
@pytest.mark.parametrize("fault", [f"weights.{name}" for name in ("stale_head", "corrupt", "drop", "partial")])
def test_an_injected_fault_ends_the_run(fault: str, tmp_path: Path) -> None:
    done = train(RECIPE, "--inject", f"{fault}@1", *settings(*ONE_STEP), folder=tmp_path)
    assert explained(done, status=3).startswith("WeightProofError: worker=worker-0 version=1 ")
    run = tmp_path / "runs" / "short"
    assert read_lines(run / "metrics.jsonl") == []
    assert not list((run / "checkpoints").iterdir())


@pytest.mark.slow
def test_the_same_recipe_without_a_fault_ends_well(tmp_path: Path) -> None:
    done = train(RECIPE, *settings(*ONE_STEP), folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


WARM_PPO = """
name = "warm"
steps = 2

[model]
path = "smollm2-135m"

[environment]
name = "arithmetic"
operations = ["add20"]
examples = 1
eval_tasks = 16
demonstrations = 24

[[reward]]
name = "math"

[rollout]
prompts_per_step = 4
group_size = 4
max_new_tokens = 24
max_model_len = 256
truncated = "mask"

[sft]
demonstrations = "environment"
epochs = 1
batch_size = 8
learning_rate = 1e-4

[algorithm]
preset = "ppo"
minibatches = 2
learning_rate = 1e-4
kl = "loss"
kl_coefficient = 0.01

[adapter]
kind = "dora"
rank = 8

[eval]
tasks = 16
"""


def test_a_warm_start_and_ppo_train_an_adapter(tmp_path: Path) -> None:
    done = train(WARM_PPO, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    run = tmp_path / "runs" / "warm"
    losses = [line["loss"] for line in read_lines(run / "sft.jsonl")]
    assert len(losses) == 3
    assert losses[-1] < losses[0]
    for line in read_lines(run / "metrics.jsonl"):
        assert {"value_loss", "critic_grad_norm", "kl"} <= line.keys()
        assert line["grad_norm"] > 0
        assert line["mismatch"] < 0.1
    assert {"eval_before", "eval_after_sft", "eval_after", "gain_sft", "gain_rl"} <= json.loads(
        (run / "summary.json").read_text()
    ).keys()
    saved = {path.name for path in (run / "checkpoints").iterdir()}
    assert saved == {"step-000000", "step-000002"}, "the KL refers to the model after the warm start"
    assert (run / "checkpoints" / "step-000002" / "adapter" / "adapter_config.json").is_file()


SOUR = """
class Sour:
    def grade(self, task, rollout):
        raise RuntimeError("no lemons left")
"""


@pytest.mark.slow
def test_a_reward_that_raises_is_named(tmp_path: Path) -> None:
    (tmp_path / "sour.py").write_text(SOUR)
    recipe = RECIPE.replace('name = "math"\nmarked_only = true', 'name = "sour:Sour"')
    said = explained(train(recipe, *settings(*ONE_STEP), folder=tmp_path), status=1)
    assert "ungraded" in said and "reward:sour:Sour" in said and "no lemons left" in said


@pytest.mark.parametrize(
    ("override", "answer", "status"),
    [
        ("rollout.kv_cache_gib=100000", "rollout.kv_cache_gib asks for 100000 GiB", 1),
        ('hardware.ray_address="127.0.0.1:1"', "the run cannot reach the cluster at hardware.ray_address", 1),
        ('reward.0.name="maths"', "no reward is called 'maths' (did you mean 'math'?)", 2),
    ],
)
def test_what_a_machine_cannot_give_is_said_quickly(override: str, answer: str, status: int, tmp_path: Path) -> None:
    recipe = RECIPE.replace("marked_only = true\n", "")
    said = explained(train(recipe, *settings(override), folder=tmp_path, seconds=90), status=status)
    assert answer in said
