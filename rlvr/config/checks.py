"""What the sections of a recipe demand of each other, and which keys have an effect under which choice."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rlvr.presets import PRESETS

if TYPE_CHECKING:
    from rlvr.config.recipe import Recipe

__all__ = ["EFFECTS", "Effect", "contradictions", "idle_keys"]

SERVED = ("lora", "rslora", "lora+")  # kinds of adapters that are a product of two matrices beside an unchanged base
MOST_SERVED = 512  # the largest rank that vLLM has buffers for
WIDEST_REPLY_CLIP = 0.05  # the mean ratio of a whole reply stays far closer to 1 than that


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """Keys that do something only where the rest of the recipe lets them."""

    keys: tuple[str, ...]  # dotted; a bare section stands for all of it
    needs: str  # the condition, in the words of a recipe
    holds: Callable[[Recipe], bool]


def _critic(recipe: Recipe) -> bool:
    return recipe.algorithm.baseline == "critic"


MOVES = (
    'a loss other than "policy_gradient", and old_logprobs = "engine" or more than one update in a step, since the '
    "ratio is 1 otherwise"
)
EFFECTS: tuple[Effect, ...] = (
    Effect(
        keys=("algorithm.advantage_ddof", "algorithm.advantage_eps"),
        needs='algorithm.advantage_scale = "std" or "batch"',
        holds=lambda r: r.algorithm.advantage_scale != "none",
    ),
    Effect(
        keys=("algorithm.discount",),
        needs='algorithm.baseline = "critic" or "none"',
        holds=lambda r: r.algorithm.baseline in ("critic", "none"),
    ),
    Effect(
        keys=("algorithm.decay",),
        needs='algorithm.baseline = "critic", and no decay_length_factor',
        holds=lambda r: _critic(r) and r.algorithm.decay_length_factor is None,
    ),
    Effect(
        keys=("algorithm.critic_decay", "algorithm.decay_length_factor", "critic"),
        needs='algorithm.baseline = "critic"',
        holds=_critic,
    ),
    Effect(
        keys=("algorithm.clip_low", "algorithm.clip_high"), needs=MOVES, holds=lambda r: r.algorithm.ratio_moves,
    ),
    Effect(
        keys=("algorithm.clip_dual",),
        needs='algorithm.loss = "clip", and old_logprobs = "engine" or more than one update in a step',
        holds=lambda r: r.algorithm.loss == "clip" and r.algorithm.ratio_moves,
    ),
    Effect(
        keys=("algorithm.loss_constant",),
        needs='algorithm.loss_per = "constant"',
        holds=lambda r: r.algorithm.loss_per == "constant",
    ),
    Effect(
        keys=("algorithm.kl_coefficient", "algorithm.kl_estimator"),
        needs='algorithm.kl = "loss" or "reward"',
        holds=lambda r: r.algorithm.kl != "none",
    ),
    Effect(
        keys=("algorithm.old_logprobs",),
        needs='a loss other than "policy_gradient", or a correction and more than one update in a step',
        holds=lambda r: (
            r.algorithm.loss != "policy_gradient" or (r.algorithm.correction != "none" and r.algorithm.updates > 1)
        ),
    ),
    Effect(
        keys=("algorithm.correction_cap",),
        needs='algorithm.correction = "token" or "sequence"',
        holds=lambda r: r.algorithm.correction in ("token", "sequence"),
    ),
    Effect(
        keys=("algorithm.correction_low", "algorithm.correction_high"),
        needs='algorithm.correction = "icepop" or "geometric"',
        holds=lambda r: r.algorithm.correction in ("icepop", "geometric"),
    ),
    Effect(
        keys=("critic.value_clip",),
        needs="more than one update in a step, as no value has changed before the first",
        holds=lambda r: r.algorithm.updates > 1,
    ),
    Effect(
        keys=("critic.coefficient",),
        needs='critic.backbone = "shared"',
        holds=lambda r: r.critic is not None and r.critic.backbone == "shared",
    ),
    Effect(
        keys=("rollout.max_refills",),
        needs="rollout.dynamic_sampling = true",
        holds=lambda r: r.rollout.dynamic_sampling,
    ),
    Effect(
        keys=("weights.in_flight",),
        needs="rollout.max_staleness above 0, since no reply is under way at a push otherwise",
        holds=lambda r: r.rollout.max_staleness > 0,
    ),
    Effect(
        keys=("weights.recompute_kv",),
        needs="rollout.max_staleness above 0 and weights.in_flight = true",
        holds=lambda r: r.rollout.max_staleness > 0 and r.weights.in_flight,
    ),
    Effect(
        keys=("adapter.rank", "adapter.targets"),
        needs='an adapter.kind other than "none"',
        holds=lambda r: r.adapter.kind != "none",
    ),
    Effect(
        keys=("adapter.alpha",),
        needs='an adapter.kind other than "none" and "vera"',
        holds=lambda r: r.adapter.kind not in ("none", "vera"),
    ),
    Effect(
        keys=("adapter.lora_plus_ratio",),
        needs='adapter.kind = "lora+"',
        holds=lambda r: r.adapter.kind == "lora+",
    ),
    Effect(
        keys=("adapter.target_rank",),
        needs='adapter.kind = "adalora"',
        holds=lambda r: r.adapter.kind == "adalora",
    ),
    Effect(
        keys=("weights.folder",),
        needs='weights.transport = "disk"',
        holds=lambda r: r.weights.transport == "disk",
    ),
    Effect(
        keys=("hardware.threads", "rollout.kv_cache_gib"),
        needs='hardware.kind = "cpu"',
        holds=lambda r: r.hardware.kind == "cpu",
    ),
)  # fmt: skip


def idle_keys(recipe: Recipe, given: Collection[str]) -> Iterator[str]:
    """Tell, in a sentence each, which of the keys that a user gave would change nothing."""
    for effect in EFFECTS:
        for key in effect.keys:
            if key in given and not effect.holds(recipe):
                name = key if "." in key else f"[{key}]"
                yield f"{name} has no effect: it needs {effect.needs}; drop it"


def contradictions(recipe: Recipe) -> Iterator[str]:
    """Tell, in a sentence each, which settings cannot stand together."""
    for check in (
        _preset, _algorithm, _warmup, _sampling, _stale, _room, _rewards, _adapter, _transport, _ranks, _precision
    ):  # fmt: skip
        yield from check(recipe)


def _preset(recipe: Recipe) -> Iterator[str]:
    name = recipe.algorithm.preset
    wanted: dict[str, dict[str, Any]] = PRESETS[name].sections()
    for dotted in PRESETS[name].defining:
        section, _, key = dotted.partition(".")
        found, expected = getattr(getattr(recipe, section), key), wanted[section][key]
        if found != expected:
            yield (
                f'{dotted} = {_toml(found)} contradicts algorithm.preset = "{name}", which is {dotted} = '
                f"{_toml(expected)}; drop it or choose another preset"
            )


def _algorithm(recipe: Recipe) -> Iterator[str]:
    a, r = recipe.algorithm, recipe.rollout
    if a.kl != "none" and not a.kl_coefficient:
        yield f'algorithm.kl = "{a.kl}" needs algorithm.kl_coefficient above 0'
    if a.advantage_scale == "std" and a.baseline != "group":
        yield f'algorithm.advantage_scale = "std" is that of a group, and algorithm.baseline = "{a.baseline}" has none'
    if a.kl == "loss" and a.kl_estimator == "k1":
        yield (
            'algorithm.kl_estimator = "k1" has a gradient of mean 0 as a loss; with algorithm.kl = "loss" take "k2" or '
            '"k3"'
        )
    if a.positive_nll and r.truncated == "wrong":
        yield (
            f'algorithm.positive_nll = {a.positive_nll:g} would make replies likelier that rollout.truncated = "wrong" '
            'pays as wrong; take "score" or "mask"'
        )
    weighs = a.correction in ("token", "sequence", "icepop") and a.loss != "policy_gradient"
    if weighs and a.old_logprobs == "engine":
        yield (
            f'algorithm.correction = "{a.correction}" needs algorithm.old_logprobs = "learner": the ratio against the '
            "engine's has the gap in it already"
        )
    drifts = a.correction == "none" or a.old_logprobs == "learner"
    if a.loss == "policy_gradient" and a.updates > 1 and drifts:
        yield (
            f'algorithm.loss = "policy_gradient" has no ratio that bounds {a.updates} updates on the same replies; '
            'take one update, another loss, or a correction with algorithm.old_logprobs = "engine"'
        )
    if a.loss == "gspo" and a.old_logprobs == "engine":
        yield (
            'algorithm.loss = "gspo" needs algorithm.old_logprobs = "learner": the engine\'s differ by more than its '
            "bounds"
        )
    if a.loss == "gspo" and not a.ratio_moves:
        yield (
            'algorithm.loss = "gspo" is about a ratio that is always 1 with old_logprobs = "learner" and one update in '
            "a step; raise algorithm.minibatches or algorithm.epochs"
        )
    wide = [key for key in ("clip_low", "clip_high") if getattr(a, key) > WIDEST_REPLY_CLIP]
    if a.loss == "gspo" and wide:
        yield (
            f"algorithm.{wide[0]} = {getattr(a, wide[0]):g} would never clip the mean ratio of a reply, which "
            'algorithm.loss = "gspo" takes; the paper has 3e-4 and 4e-4'
        )
    if a.minibatches > r.prompts_per_step:
        yield (
            f"algorithm.minibatches = {a.minibatches} is above the {r.prompts_per_step} groups of a step, and a "
            "minibatch holds whole groups; lower it"
        )
    if r.group_size < 2 and a.baseline in ("group", "leave_one_out"):
        yield (
            f'rollout.group_size = {r.group_size} leaves algorithm.baseline = "{a.baseline}" no reply to compare with; '
            "take 2 or more"
        )


def _warmup(recipe: Recipe) -> Iterator[str]:
    warmup = recipe.algorithm.warmup_steps
    if warmup > recipe.steps:
        yield (
            f"algorithm.warmup_steps = {warmup} is above steps = {recipe.steps}, so that the run never reaches its "
            "learning rate; lower it"
        )
    if recipe.critic and recipe.critic.warmup_steps >= recipe.steps:
        yield (
            f"critic.warmup_steps = {recipe.critic.warmup_steps} leaves none of steps = {recipe.steps} for the policy "
            "to learn in; lower it"
        )


def _sampling(recipe: Recipe) -> Iterator[str]:
    if recipe.rollout.dynamic_sampling and (cause := recipe.algorithm.flat_gradient):
        yield (
            "rollout.dynamic_sampling drops groups whose replies are all worth the same, but they have a gradient with "
            f"{cause}; give up one of the two"
        )


def _stale(recipe: Recipe) -> Iterator[str]:
    a, most = recipe.algorithm, recipe.rollout.max_staleness
    if not most or a.correction != "none":
        return
    if a.loss == "policy_gradient":
        yield (
            f"rollout.max_staleness = {most} trains on replies of older weights, which algorithm.loss = "
            '"policy_gradient" takes for its own; choose an algorithm.correction'
        )
    elif a.old_logprobs == "learner":
        yield (
            f"rollout.max_staleness = {most} trains on replies of older weights, and with algorithm.old_logprobs = "
            '"learner" no ratio sees that; choose an algorithm.correction, or old_logprobs = "engine"'
        )


def _room(recipe: Recipe) -> Iterator[str]:
    r, h = recipe.rollout, recipe.hardware
    if r.max_new_tokens >= r.max_model_len:
        yield "rollout.max_new_tokens leaves no room for a prompt within rollout.max_model_len"
    if r.workers > r.prompts_per_step * (1 + r.max_staleness):
        yield (
            "rollout.workers is above rollout.prompts_per_step x (1 + rollout.max_staleness), the groups that may be "
            "under way at once, so that some would never work"
        )
    if r.max_model_len > h.tokens_per_microbatch:
        yield (
            f"hardware.tokens_per_microbatch = {h.tokens_per_microbatch} does not hold one reply of "
            f"rollout.max_model_len = {r.max_model_len} tokens; raise the one or lower the other"
        )


def _rewards(recipe: Recipe) -> Iterator[str]:
    names = [reward.name for reward in recipe.reward]
    if twice := [name for name in names if names.count(name) > 1]:
        yield f"reward: {twice[0]!r} stands there twice; name each reward once"
    if not any(reward.weight for reward in recipe.reward):
        yield "reward: every weight is 0, so that no reply would earn anything"


def _adapter(recipe: Recipe) -> Iterator[str]:
    a, mode = recipe.adapter, recipe.weights.mode
    if a.kind == "qlora" and recipe.hardware.kind != "gpu":
        yield 'adapter.kind = "qlora" needs hardware.kind = "gpu"'
    if a.kind == "adalora" and not 1 <= (a.target_rank or a.rank // 2) < a.rank:
        ends = f"adapter.target_rank = {a.target_rank}" if a.target_rank else "half of it, which AdaLoRA ends with,"
        yield f"{ends} must be at least 1 and below adapter.rank = {a.rank}, which AdaLoRA starts with"
    if a.kind == "adalora" and recipe.policy_updates < 2:
        yield 'adapter.kind = "adalora" needs two optimizer updates or more, to lower its rank in'
    if mode == "full" and a.kind != "none":
        yield f'weights.mode = "full" cannot push adapter.kind = "{a.kind}"; use "merged"'
    if mode in ("merged", "adapter") and a.kind == "none":
        yield f'weights.mode = "{mode}" needs an adapter; use "full"'
    elif mode == "adapter" and a.kind not in SERVED:
        yield f'weights.mode = "adapter" cannot push adapter.kind = "{a.kind}", which no engine serves; use "merged"'
    elif mode == "adapter" and a.rank > MOST_SERVED:
        yield f'weights.mode = "adapter" serves ranks up to {MOST_SERVED}, not {a.rank}; use "merged"'


def _transport(recipe: Recipe) -> Iterator[str]:
    kind, transport, workers = recipe.hardware.kind, recipe.weights.transport, recipe.rollout.workers
    shared = transport == "ipc" or (transport == "auto" and recipe.hardware.ranks == 1)
    if kind == "gpu" and shared and workers > 1:
        yield (
            f"rollout.workers = {workers} cannot share the learner's GPU, as weights.transport = "
            f'"{transport}" wants; use 1 worker or "nccl"'
        )
    if transport == "disk" and not recipe.weights.folder:
        yield 'weights.transport = "disk" needs weights.folder, on a disk that all hosts share'
    if transport == "tcp" and not recipe.hardware.ray_address:
        yield (
            'weights.transport = "tcp" needs hardware.ray_address: without it all workers are on the learner\'s host; '
            'take "shm"'
        )
    if kind == "cpu" and transport in ("ipc", "nccl"):
        yield f'weights.transport = "{transport}" needs hardware.kind = "gpu"'


def _ranks(recipe: Recipe) -> Iterator[str]:
    ranks, adapter = recipe.hardware.ranks, recipe.adapter.kind
    if ranks > 1 and recipe.weights.transport == "ipc":
        yield f'weights.transport = "ipc" needs one learner, not hardware.ranks = {ranks}; use "nccl" or "auto"'
    if ranks > 1 and adapter in ("adalora", "loftq", "qlora"):
        yield f'adapter.kind = "{adapter}" cannot be shared by hardware.ranks = {ranks}; use 1 rank or "lora"'


def _precision(recipe: Recipe) -> Iterator[str]:
    h, adapter = recipe.hardware, recipe.adapter.kind
    if h.precision == "bfloat16_weights" and (h.ranks > 1 or h.kind == "gpu" or adapter != "none"):
        yield (
            'hardware.precision = "bfloat16_weights" is for one learner on a CPU and no adapter; take "bfloat16" or '
            '"float32"'
        )
    if h.precision == "float32" and adapter == "qlora":
        yield 'adapter.kind = "qlora" computes in bfloat16; leave hardware.precision out'
    elif h.precision == "float32" and h.kind == "gpu" and recipe.weights.mode == "adapter":
        yield 'weights.mode = "adapter" needs hardware.precision = "bfloat16" on a GPU; or use "merged"'


def _toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else f'"{value}"' if isinstance(value, str) else f"{value:g}"
