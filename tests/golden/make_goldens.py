"""Run peers' own functions on fixed inputs and keep inputs, values and versions as JSON. None of their code is here.

The tests only read the JSON. To make it anew, in an environment of its own (CPU is enough):

    python3 -m venv /tmp/peers
    /tmp/peers/bin/pip install "torch==2.13.0" "trl==1.16.0" "rlax==0.1.9" "ray==2.60.0" "peft==0.21.2"
    /tmp/peers/bin/pip install --no-deps "verl==0.9.1" "torchrl==0.14.1"
    /tmp/peers/bin/pip install tensordict omegaconf codetiming hydra-core orjson torchdata pylatexenc
    /tmp/peers/bin/python tests/golden/make_goldens.py [verl trl rlax torchrl]
"""

from __future__ import annotations

import json
import os
import sys
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

os.environ.setdefault("JAX_ENABLE_X64", "1")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
HERE = Path(__file__).resolve().parent
GROUPS, SIZE, LENGTH = 3, 4, 9
VERL_LOSSES = {  # loss, reduction, clip_low, clip_high; all with 1.6 for dual clip, which gspo and cispo do not read
    "vanilla_dual": ("vanilla", "token-mean", 0.2, 0.28),
    "vanilla_by_constant": ("vanilla", "seq-mean-token-sum-norm", 0.2, 0.28),
    "gspo": ("gspo", "seq-mean-token-mean", 0.1, 0.15),
    "gspo_by_token": ("gspo", "token-mean", 0.1, 0.15),
    "cispo": ("cispo", "token-mean", 0.3, 0.4),
}
TRL_LOSSES: dict[str, dict[str, Any]] = {
    "grpo": {"loss_type": "grpo"},
    "dr_grpo": {"loss_type": "dr_grpo"},
    "dapo": {"loss_type": "dapo"},
    "kl_and_entropy": {"loss_type": "bnpo", "beta": 0.05, "entropy_coef": 0.01, "_entropy_bonus_enabled": True},
    "corrected": {"loss_type": "dapo", "use_vllm": True},
    "gspo": {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon_low": 0.1, "epsilon_high": 0.15},
    "cispo": {"loss_type": "cispo", "epsilon_high": 1.4},
}


def inputs() -> dict[str, np.ndarray]:
    """Draw what all peers get: replies of 1 to 9 tokens in three groups, some with tokens of an environment inside."""
    rng = np.random.default_rng(20261122)
    count = GROUPS * SIZE
    places, lengths = np.arange(LENGTH), np.array([9, 5, 1, 7, 2, 9, 6, 4, 8, 3, 9, 5])
    made = {
        "mask": (places < lengths[:, None]).astype(int),
        "group": np.repeat(np.arange(GROUPS), SIZE),
        "scores": rng.normal(0.0, 1.0, count),
        "reply_advantages": rng.normal(0.0, 1.0, count),
        "entropy": rng.uniform(0.1, 2.0, (count, LENGTH)),
        "logprobs": -rng.exponential(1.0, (count, LENGTH)) - 0.1,
    }
    made["turns"] = made["mask"] * ~((places >= 2) & (places < 4) & (lengths[:, None] > 5))
    for name, spread in (("old_logprobs", 0.7), ("engine_logprobs", 0.4), ("ref_logprobs", 0.5)):
        made[name] = made["logprobs"] + rng.normal(0.0, spread, (count, LENGTH))
    for name in ("advantages", "values", "returns"):
        made[name] = rng.normal(0.0, 1.0, (count, LENGTH))
    made["old_values"] = made["values"] + rng.normal(0.0, 0.3, (count, LENGTH))
    made["rewards"] = rng.normal(0.0, 0.1, (count, LENGTH)) * made["turns"]
    return {name: np.round(array, 3) for name, array in made.items()}


def verl(given: dict[str, np.ndarray]) -> dict[str, Any]:
    """Advantages, policy and value losses, KL estimates and rollout correction."""
    import torch
    from omegaconf import OmegaConf
    from verl.trainer.ppo import core_algos as algos
    from verl.trainer.ppo import rollout_corr_helper as correction
    from verl.workers.config import ActorConfig

    t = {name: torch.from_numpy(array).to(torch.float64) for name, array in given.items()}
    mask, turns, group = t["mask"], t["turns"], given["group"]
    last = torch.zeros_like(mask)
    last[torch.arange(len(mask)), mask.sum(-1).long() - 1] = t["scores"]
    cases: dict[str, Any] = {
        "grpo": algos.compute_grpo_outcome_advantage(last, mask, group, epsilon=1e-6)[0],
        "dr_grpo": algos.compute_grpo_outcome_advantage(last, mask, group, norm_adv_by_std_in_grpo=False)[0],
        "rloo": algos.compute_rloo_outcome_advantage(last, mask, group)[0],
    }
    with_baseline = algos.compute_reinforce_plus_plus_baseline_outcome_advantage
    cases["reinforce_plus_plus_baseline"] = with_baseline(last, mask, group)[0]
    config = OmegaConf.create({"gamma": 0.95})
    rewarded = algos.compute_reinforce_plus_plus_outcome_advantage(t["rewards"], turns, config=config)
    cases["reinforce_plus_plus"], cases["reinforce_plus_plus_returns"] = rewarded
    estimated = algos.compute_gae_advantage_return(t["rewards"], t["values"], turns, gamma=0.97, lam=0.9)
    cases["gae_whitened"], cases["gae_returns"] = estimated[0] * turns, estimated[1] * turns
    for name in ("k1", "k2", "k3"):
        cases[f"kl_{name}"] = algos.kl_penalty(t["logprobs"], t["ref_logprobs"], name)
    # verl's own order of these arguments: new values, returns, old values
    loss, share = algos.compute_value_loss(t["values"], t["returns"], t["old_values"], mask, cliprange_value=0.2)
    cases["value_loss"], cases["value_clipped"] = loss, share
    for name, (loss_name, mode, low, high) in VERL_LOSSES.items():
        bounds = {"clip_ratio_low": low, "clip_ratio_high": high, "clip_ratio_c": 1.6}
        actor = ActorConfig(strategy="fsdp", rollout_n=SIZE, ppo_micro_batch_size_per_gpu=1, **bounds)
        logprobs = t["logprobs"].clone().requires_grad_()
        function = algos.get_policy_loss_fn(loss_name)
        loss, metrics = function(t["old_logprobs"], logprobs, t["advantages"], mask, mode, actor)
        (slope,) = torch.autograd.grad(loss, logprobs)
        shares = {key.split("/")[1]: value for key, value in metrics.items() if "clipfrac" in key}
        cases[name] = {"loss": loss, "gradient": slope, **shares}
    gap = t["logprobs"] - t["engine_logprobs"]
    for name, level, threshold in (
        ("truncated_token", "token", 1.3), ("truncated_sequence", "sequence", 1.5), ("icepop", "token", "0.7_1.4"),
    ):  # fmt: skip
        weights, metrics = correction.compute_rollout_correction_weights(gap, mask, level, threshold)
        cases[name] = {"weights": weights, "effective": metrics["rollout_is_eff_sample_size"]}
    # verl bounds engine / learner here, so its "lower_upper" are one by ours
    kept, _ = correction.compute_rollout_rejection_mask(gap, mask, "seq_mean_k1", "0.85_1.1")
    return cases | {"geometric": kept}


def trl(given: dict[str, np.ndarray]) -> dict[str, Any]:
    """The whole loss of GRPOTrainer, with log-probabilities handed to it in place of a model's."""
    import torch
    from trl import GRPOTrainer

    t = {name: torch.from_numpy(array).to(torch.float64) for name, array in given.items()}
    cases = {}
    for name, options in TRL_LOSSES.items():
        logprobs = t["logprobs"].clone().requires_grad_()
        entropy = t["entropy"].clone().requires_grad_()
        empty = torch.zeros((len(logprobs), 0), dtype=torch.int64)
        settings = {
            "aux_loss_enabled": False, "top_entropy_quantile": 1.0, "off_policy_mask_threshold": None,
            "importance_sampling_level": "token", "beta": 0.0, "epsilon_low": 0.2, "epsilon_high": 0.28,
            "use_vllm": False, "vllm_importance_sampling_correction": True, "_entropy_bonus_enabled": False,
            "use_adaptive_entropy": False, "current_gradient_accumulation_steps": 1, "max_completion_length": 12,
        }  # fmt: skip
        trainer = SimpleNamespace(
            args=SimpleNamespace(use_bias_correction_kl=False, delta=None, steps_per_generation=1),
            model=SimpleNamespace(training=True), _metrics={"train": defaultdict(list)},
            accelerator=SimpleNamespace(
                num_processes=1, gather=lambda x: x, reduce=lambda x, reduction: x, sync_gradients=False
            ),
            _get_per_token_logps_and_entropies=lambda *_, a=logprobs, b=entropy, **__: (a, b, None),
            **(settings | options),
        )  # fmt: skip
        ids, mask = torch.zeros(logprobs.shape, dtype=torch.int64), t["mask"]
        batch = {
            "prompt_ids": empty, "prompt_mask": empty, "completion_ids": ids, "completion_mask": mask,
            "advantages": t["reply_advantages"], "old_per_token_logps": t["old_logprobs"],
            "ref_per_token_logps": t["ref_logprobs"], "num_items_in_batch": mask.sum(),
            "importance_sampling_ratio": (t["old_logprobs"] - t["engine_logprobs"]).exp().clamp(max=1.3),
        }  # fmt: skip
        loss = GRPOTrainer._compute_loss(trainer, None, batch)
        slope, by_entropy = torch.autograd.grad(loss, (logprobs, entropy), allow_unused=True)
        cases[name] = {"loss": loss, "gradient": slope}
        if by_entropy is not None:
            cases[name]["entropy_gradient"] = by_entropy
    return cases


def rlax(given: dict[str, np.ndarray]) -> dict[str, Any]:
    """Generalized advantage estimation, discounted returns and PPO's mean loss."""
    import jax.numpy as jnp
    import rlax as peer

    rewards, values = jnp.asarray(given["rewards"][0]), jnp.asarray([*given["values"][0], 0.25])
    gaps = jnp.asarray(given["logprobs"] - given["old_logprobs"]).ravel()
    advantages = jnp.asarray(given["advantages"]).ravel()
    discounts = jnp.full(LENGTH, 0.97)
    return {
        "gae": peer.truncated_generalized_advantage_estimation(rewards, discounts, 0.9, values),
        "lambda_returns": peer.lambda_returns(rewards, discounts, values[1:], 0.8),
        "discounted_returns": peer.discounted_returns(rewards, discounts, jnp.zeros(LENGTH)),
        "clipped_surrogate": peer.clipped_surrogate_pg_loss(jnp.exp(gaps), advantages, 0.2),
    }


def torchrl(given: dict[str, np.ndarray]) -> dict[str, Any]:
    """Generalized advantage estimation of replies that end, and of one that does not."""
    import torch
    from torchrl.objectives.value.functional import generalized_advantage_estimate as estimate

    torch.set_default_dtype(torch.float64)  # its discount is a number times integers
    t = {name: torch.from_numpy(array).to(torch.float64) for name, array in given.items()}
    values = t["values"][..., None]
    after = torch.cat([values[:, 1:], torch.full_like(values[:, :1], 0.25)], dim=1)
    done = torch.zeros(values.shape, dtype=torch.bool)
    done[:, -1] = True
    cases = {}
    for name, terminated in (("ended", done), ("bootstrapped", torch.zeros_like(done))):
        found = estimate(0.97, 0.9, values, after, t["rewards"][..., None], done, terminated)
        cases[name] = {"advantages": found[0][..., 0], "returns": found[1][..., 0]}
    return cases


def plain(value: Any) -> Any:
    """Turn tensors and arrays into lists of numbers."""
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    if hasattr(value, "detach"):
        value = value.detach()
    return value if isinstance(value, float | int) else np.asarray(value).tolist()


if __name__ == "__main__":
    peers = {"verl": verl, "trl": trl, "rlax": rlax, "torchrl": torchrl}
    given = inputs()
    (HERE / "inputs.json").write_text(json.dumps(plain(given)) + "\n")
    for name in sys.argv[1:] or list(peers):
        versions = {package: version(package) for package in (name, "jax" if name == "rlax" else "torch")}
        record = {"versions": versions, "cases": plain(peers[name](given))}
        (HERE / f"{name}.json").write_text(json.dumps(record) + "\n")
        print(f"wrote {name}.json: {', '.join(record['cases'])}")
