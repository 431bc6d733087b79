"""From a recipe to the records that learner and workers take: no config object goes below this room."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rlvr import plugins
from rlvr.config import Recipe
from rlvr.core.payoff import Payoff
from rlvr.errors import ConfigError
from rlvr.learner.adapter import AdapterSettings
from rlvr.learner.algorithm import Algorithm, CriticSettings
from rlvr.learner.ranks import Ranks
from rlvr.learner.targets import check_files
from rlvr.loop.buffer import Buffer
from rlvr.observe.libraries import bfloat16_instructions
from rlvr.rollout.runner import RolloutSettings

__all__ = [
    "adapter_of",
    "algorithm_of",
    "buffer_of",
    "check_targets",
    "compares_within_groups",
    "learner_settings_of",
    "payoff_of",
    "precision_of",
    "products_of",
    "rollout_settings_of",
    "transport_of",
    "with_precision",
]


def algorithm_of(recipe: Recipe) -> Algorithm:
    """Give the learner's conventions as the recipe states them."""
    a = recipe.algorithm
    same = a.model_dump(exclude={"preset", "beta1", "beta2", "loss_constant"})
    constant = a.loss_constant or recipe.rollout.max_new_tokens
    return Algorithm(
        **same, betas=(a.beta1, a.beta2), loss_constant=constant if a.loss_per == "constant" else None,
        temperature=recipe.rollout.temperature, seed=recipe.seed, critic=_critic_of(recipe),
    )  # fmt: skip


def _critic_of(recipe: Recipe) -> CriticSettings | None:
    if recipe.critic is None:
        return None
    return CriticSettings(**recipe.critic.model_dump() | {"value_clip": recipe.critic.value_clip or None})


def adapter_of(recipe: Recipe) -> AdapterSettings | None:
    """Give the adapter that is trained instead of the model; none for full fine-tuning."""
    a = recipe.adapter
    if a.kind == "none":
        return None
    return AdapterSettings(
        kind=a.kind, rank=a.rank, alpha=a.alpha, targets=a.targets, lora_plus_ratio=a.lora_plus_ratio,
        target_rank=a.target_rank, total_steps=recipe.policy_updates, seed=recipe.seed,
    )  # fmt: skip


def check_targets(recipe: Recipe, model: Path) -> None:
    """Make sure, before anything starts, that an adapter finds its targets in the model. Errors: ModelError."""
    if recipe.adapter.kind != "none" and not isinstance(recipe.adapter.targets, str):
        check_files(recipe.adapter.targets, model)


def compares_within_groups(recipe: Recipe) -> bool:
    """Tell whether a reply is compared with the others of its group, so that a group needs two of them."""
    return recipe.algorithm.baseline in ("group", "leave_one_out")


def buffer_of(recipe: Recipe) -> Buffer:
    """Make the buffer that the algorithm asks for."""
    return Buffer(
        max_staleness=recipe.rollout.max_staleness,
        flat_groups_have_no_gradient=algorithm_of(recipe).flat_groups_have_no_gradient,
        flat_groups_count=not recipe.rollout.dynamic_sampling,
        least=2 if compares_within_groups(recipe) else 1,
    )


def rollout_settings_of(recipe: Recipe) -> RolloutSettings:
    """Give how replies are sampled."""
    r, w = recipe.rollout, recipe.weights
    return RolloutSettings(
        max_new_tokens=r.max_new_tokens, temperature=r.temperature, max_model_len=r.max_model_len,
        truncated=r.truncated, in_flight=w.in_flight, recompute_kv=w.recompute_kv,
    )  # fmt: skip


def learner_settings_of(recipe: Recipe, *, cores: int) -> dict[str, Any]:
    """Give what the learner needs to know of the machine, and of the adapter where there is one."""
    h, adapter = recipe.hardware, adapter_of(recipe)
    settings: dict[str, Any] = {
        "tokens_per_microbatch": h.tokens_per_microbatch,
        "max_length": recipe.rollout.max_model_len,
        "threads": h.threads or max(1, cores // h.ranks),
        "device": "cuda" if h.kind == "gpu" else "cpu",
        "precision": precision_of(recipe),
        "gradient_checkpointing": h.gradient_checkpointing,
        "compile": h.compile,
    }
    ranks = {"ranks": Ranks(count=h.ranks)} if h.ranks > 1 else {}
    return settings | ranks | ({"adapter": adapter} if adapter else {})


def payoff_of(recipe: Recipe) -> Payoff | None:
    """Give what verdicts pay: [payoff], else what the first reward says of itself, else nothing (its score counts).

    Errors: ConfigError where a payoff leaves another setting without effect, or one is missing.
    """
    first, *others = recipe.reward
    payoff = recipe.payoff.record() if recipe.payoff else plugins.default_payoff(first.name, first.options)
    if payoff is None and recipe.rollout.truncated == "wrong":
        raise ConfigError(
            'rollout.truncated = "wrong" needs [payoff], which says what a WRONG reply is worth: a score has no least '
            'value; add it, or take "score" or "mask"'
        )
    idle = [reward.name for reward in others if reward.weight]
    if payoff and idle:
        source = "[payoff]" if recipe.payoff else f"the payoff of reward '{first.name}'"
        raise ConfigError(
            f"{source} pays the verdicts of '{first.name}' alone, so that the score of reward '{idle[0]}' has no "
            "effect: give it weight = 0 to record it only, or combine the two with gate"
        )
    if payoff and payoff.kind == "calibrated" and not plugins.declares(first.name, first.options, "reads_confidence"):
        raise ConfigError(
            f'payoff.kind = "calibrated" needs a reward that reads a stated confidence, as truth and judge do, and '
            f"'{first.name}' reads none"
        )
    return payoff


def precision_of(recipe: Recipe) -> str:
    """Resolve hardware.precision = "auto" by the CPU of this host, for all of them.

    Without instructions for bfloat16 a CPU takes seven to ten times as long for its products as for those of float32.
    Weights are rounded all the same: an update that bfloat16 cannot tell waits in the masters until it adds up, and a
    recipe whose learning rate suits that learns too fast, or collapses, where each update acts at once.
    """
    hardware = recipe.hardware
    if hardware.precision != "auto":
        return hardware.precision
    if hardware.kind == "gpu" or bfloat16_instructions():
        return "bfloat16"
    # an adapter is float32 throughout, and shares of ranks are not rounded
    return "bfloat16_weights" if hardware.ranks == 1 and recipe.adapter.kind == "none" else "float32"


def products_of(recipe: Recipe) -> str:
    """Give the type that learner and engines compute in, and that weights are pushed in."""
    return "bfloat16" if precision_of(recipe) == "bfloat16" else "float32"


def with_precision(recipe: Recipe, *, begun: Mapping[str, Any]) -> Recipe:
    """Settle hardware.precision = "auto" for a run: as `begun` has it, the recipe that it was begun with, if any."""
    before = begun.get("hardware", {}).get("precision", "auto")
    settled = before if recipe.hardware.precision == "auto" != before else precision_of(recipe)
    return recipe.model_copy(update={"hardware": recipe.hardware.model_copy(update={"precision": settled})})


def transport_of(recipe: Recipe) -> str:
    """Resolve weights.transport = "auto".

    On CPU shared memory, and TCP to the other hosts of a cluster; on a GPU CUDA IPC, NCCL where ranks have several.
    """
    wanted = recipe.weights.transport
    if wanted != "auto":
        return wanted
    if recipe.hardware.kind == "cpu":
        return "tcp" if recipe.hardware.ray_address else "shm"
    return "nccl" if recipe.hardware.ranks > 1 else "ipc"
