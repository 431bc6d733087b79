"""The peer's side of the comparison: TRL's GRPOTrainer takes a few steps and writes what each one took.

Runs in TRL's own virtual environment: `python trl_side.py SPEC.json OUT.jsonl`. Imports nothing of rlvr.

What TRL gets, so that both sides do the same work:
- the model, the tasks (checked: the token ids of each prompt are those that rlvr renders), temperature 1, no top-k or
  top-p, the same longest reply, the same replies a step, one optimizer step for each batch of replies;
- float32 weights and AdamW states (fused AdamW), as rlvr's learner has them, and bfloat16 autocast (`bf16=True`) where
  rlvr computes in bfloat16 on this machine;
- the conventions of rlvr's `grpo` preset: reward minus group mean, clip 0.2 / 0.28, mean over the batch's tokens, no KL
  term and so no reference model, gradient norm 1, a constant learning rate;
- a reward that costs nothing: the last number of the reply is the answer or not;
- no evaluation, no checkpoint, no logged completions within the measured steps.
What differs: TRL samples through transformers' `generate`, in the same precision, since its colocated vLLM fails on a
CPU and its vLLM server takes weights over NCCL only; it computes groups without gradient too; it samples from the
weights that it trains, so that it has no push; and where rlvr computes in float32 with weights that are rounded to
bfloat16 (`bfloat16_weights`), its weights are not rounded.
"""

from __future__ import annotations

import json
import re
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

PACKAGES = ("trl", "torch", "transformers", "accelerate", "datasets")
# What does not hang on the recipe.
FIXED = {
    "use_cpu": True, "gradient_checkpointing": False, "optim": "adamw_torch_fused", "top_p": 1.0,
    "top_k": 0, "shuffle_dataset": False, "logging_steps": 1, "save_strategy": "no", "report_to": "none",
    "disable_tqdm": True, "model_init_kwargs": {"dtype": "float32", "attn_implementation": "sdpa"},
}  # fmt: skip
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def reward(completions: list[Any], truth: list[str], **_: Any) -> list[float]:
    """Pay 1 where the last number of a reply is the answer, else 0: rlvr's reward `math` in all but odd cases."""
    replies = (completion[0]["content"].replace(",", "") for completion in completions)
    found = (NUMBER.findall(reply) for reply in replies)
    return [float(bool(n) and float(n[-1]) == float(right)) for n, right in zip(found, truth, strict=True)]


class Timed(GRPOTrainer):
    """Notes what a step generated and how long that took, and checks the prompts."""

    expected: set[tuple[int, ...]]
    generated: dict[str, float]

    def _generate_single_turn(self, prompt_ids: Any, *args: Any, **kwargs: Any) -> Any:
        strangers = [ids for ids in prompt_ids if tuple(ids) not in self.expected]
        if strangers:
            sys.exit(f"TRL renders a prompt unlike rlvr: {strangers[0]}")
        start = time.perf_counter()
        found = super()._generate_single_turn(prompt_ids, *args, **kwargs)
        self.generated = {
            "generate_seconds": time.perf_counter() - start,
            "replies": len(found[0]),
            "reply_tokens": sum(map(len, found[0])),
        }
        return found


class Steps(TrainerCallback):
    """Writes a line after each step. A step lasts from the end of the one before to its own end."""

    trainer: Timed  # set once it is there, which takes its callbacks first

    def __init__(self, out: Path) -> None:
        self._out = out
        self._line: dict[str, float] = {}

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Start the clock."""
        self._mark = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Stop it."""
        now = time.perf_counter()
        self._line = {"seconds": now - self._mark} | self.trainer.generated
        self._mark = now

    def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
        """Write the step with what TRL says of it."""
        if "grad_norm" in logs:
            self._line |= {name: logs[name] for name in ("loss", "grad_norm", "reward", "frac_reward_zero_std")}
            with self._out.open("a") as file:
                file.write(json.dumps(self._line) + "\n")


def _sums(model: torch.nn.Module) -> list[float]:
    return [float(p.detach().sum(dtype=torch.float64)) for p in model.parameters()]


def main() -> None:
    """Train as SPEC says."""
    spec, out = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    out.unlink(missing_ok=True)
    torch.set_num_threads(spec["threads"])
    settings = FIXED | spec["settings"]
    steps = Steps(out)
    tasks = [{"prompt": task["messages"], "truth": task["truth"]} for task in spec["tasks"]]
    trainer = Timed(
        model=spec["model"], reward_funcs=reward, args=GRPOConfig(**settings), train_dataset=Dataset.from_list(tasks),
        callbacks=[steps],
    )  # fmt: skip
    trainer.expected = {tuple(task["prompt_ids"]) for task in spec["tasks"]}
    steps.trainer = trainer
    before = _sums(trainer.model)  # a copy of the weights would count as TRL's memory
    trainer.train()
    changed = sum(old != new for old, new in zip(before, _sums(trainer.model), strict=True))
    facts = {
        "versions": {name: version(name) for name in PACKAGES},
        "settings": {name: value for name, value in settings.items() if name != "output_dir"},
        "dtype": str(trainer.model.dtype),
        "changed_tensors": changed,
        "tensors": len(before),
    }
    out.with_suffix(".facts.json").write_text(json.dumps(facts))


if __name__ == "__main__":
    main()
