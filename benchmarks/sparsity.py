"""What share of SmolLM2's bfloat16 values an optimizer step changes, by learning rate: what a delta lives on.

python benchmarks/sparsity.py

AdamW on the real weights (float32 masters), with the gradients of 8 replies to sums, 12 updates at each rate.
"""

from __future__ import annotations

import random
import sys

import numpy as np
import torch
from transformers import AutoTokenizer

from rlvr.learner.algorithm import Algorithm
from rlvr.learner.model import prepare
from rlvr.learner.sft import Demonstration, SftSettings, warm_start
from rlvr.learner.step import Learner

RATES = (1e-6, 1e-5, 3e-5)


def main() -> int:
    """Print the share of each update."""
    folder = prepare("smollm2-135m")
    for rate in RATES:
        settings = SftSettings(batch_size=8, learning_rate=rate)
        learner = Learner(
            folder, Algorithm(learning_rate=rate), tokens_per_microbatch=1024, threads=2, gradient_checkpointing=True
        )
        before, shares = values(learner), []
        for _ in warm_start(learner, demonstrations(AutoTokenizer.from_pretrained(folder)), settings):
            after = values(learner)
            changed = sum(int((after[name] != before[name]).sum()) for name in after)
            shares.append(100 * changed / sum(tensor.numel() for tensor in after.values()))
            before = after
        print(f"{rate:g}: " + ", ".join(f"{share:.2f}" for share in shares) + " %", flush=True)
    return 0


def demonstrations(tokenizer: AutoTokenizer) -> list[Demonstration]:
    """Write right answers to sums of numbers of two digits."""
    rng, made = random.Random(0), []
    for _ in range(96):
        a, b = rng.randint(1, 99), rng.randint(1, 99)
        asked = [{"role": "user", "content": f"What is {a} + {b}?"}]
        prompt = tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
        reply = [*tokenizer.encode(f"{a} + {b} = {a + b}\nAnswer: {a + b}"), tokenizer.eos_token_id]
        made.append((np.array(prompt, np.int32), np.array(reply, np.int32)))
    return made


def values(learner: Learner) -> dict[str, torch.Tensor]:
    """Give the weights as engines get them."""
    return {name: tensor.detach().to(torch.bfloat16).clone() for name, tensor in learner.tensors()}


if __name__ == "__main__":
    sys.exit(main())
