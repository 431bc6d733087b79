"""A recipe: TOML in, frozen and checked, JSON out. Unknown keys fail; a setting has one place."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from rlvr.core.payoff import Payoff
from rlvr.errors import ConfigError

__all__ = ["Recipe", "load_recipe"]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Model(_Section):
    """Which model to train."""

    path: str = Field(description="alias of a packaged model, a folder in Hugging Face layout, or a hub id")


class PlugIn(BaseModel):
    """A plug-in by name or "module:attr"; every other key of the section is one of its options."""

    model_config = ConfigDict(frozen=True, extra="allow")
    name: str

    @property
    def options(self) -> dict[str, Any]:
        """Give the options for the plug-in itself."""
        return dict(self.model_extra or {})


class RewardPlugIn(PlugIn):
    """A reward; the first one gives the verdict, the score is the mean by weight."""

    weight: float = Field(default=1.0, ge=0, allow_inf_nan=False)


class PayoffSection(_Section):
    """What a verdict pays: correct > abstained > wrong."""

    kind: Literal["ternary", "binary", "out_of_knowledge", "calibrated"] = Field(
        default="ternary", description="binary: abstaining pays `wrong`; out_of_knowledge: abstaining pays `correct` "
        "where a task is marked so; calibrated: by the stated confidence",
    )  # fmt: skip
    correct: float = 1.0
    abstained: float = 0.0
    wrong: float = -1.0

    @model_validator(mode="after")
    def _ordered(self, info: ValidationInfo) -> PayoffSection:
        self.record()
        idle = {"binary": {"abstained"}, "calibrated": {"correct", "wrong"}}.get(self.kind, set())
        given = sorted(self.model_fields_set & idle)
        if given and info.mode != "json":
            raise ValueError(f'{given[0]} has no effect with kind = "{self.kind}"; drop it')
        return self

    def record(self) -> Payoff:
        """Give the rule that the runner pays by."""
        return Payoff(kind=self.kind, correct=self.correct, abstained=self.abstained, wrong=self.wrong)


class RolloutSection(_Section):
    """How replies are sampled and graded."""

    prompts_per_step: PositiveInt = 16
    group_size: int = Field(default=8, ge=2)
    max_new_tokens: PositiveInt = 48
    max_model_len: PositiveInt = Field(default=512, description="tokens, prompt and reply together")
    temperature: PositiveFloat = 1.0
    max_staleness: Literal[0] = Field(default=0, description="in versions; 0 is strictly on-policy")
    workers: PositiveInt = 1
    kv_cache_gib: PositiveInt = Field(default=1, description="on CPU; on GPU vLLM takes a share of the device")
    max_num_seqs: PositiveInt = Field(default=128, description="replies that one engine generates at once")
    grading_processes: PositiveInt = 1
    grading_timeout_s: PositiveFloat | None = Field(
        default=None, description="for one reply; none: 5, or as long as the rewards' own limits let a grade take"
    )
    grading_memory_mb: PositiveInt = 2048
    deadline_s: PositiveFloat = Field(default=600.0, description="for one step's rollouts, and for each evaluation")


class AlgorithmSection(_Section):
    """The estimator, the loss and the optimizer. A preset is the default of every other key."""

    preset: Literal["grpo"] = "grpo"
    advantage_scale: Literal["none", "std"] = "none"
    advantage_ddof: int = Field(default=1, ge=0, le=1)
    advantage_eps: PositiveFloat = 1e-6
    clip_low: float = Field(default=0.2, gt=0, lt=1)
    clip_high: PositiveFloat = 0.28
    loss_per: Literal["token", "sequence", "constant"] = "token"
    learning_rate: PositiveFloat = 1e-5
    warmup_steps: int = Field(default=0, ge=0)
    weight_decay: float = Field(default=0.0, ge=0)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.95, ge=0, lt=1)
    max_grad_norm: PositiveFloat = 1.0

    @model_validator(mode="after")
    def _effective(self, info: ValidationInfo) -> AlgorithmSection:
        given = self.model_fields_set & {"advantage_ddof", "advantage_eps"}
        # the config.json of a run holds every key, so that there a key is no wish
        if self.advantage_scale == "none" and given and info.mode != "json":
            raise ValueError(f'{sorted(given)[0]} has no effect with advantage_scale = "none"; drop it')
        return self


class AdapterSection(_Section):
    """Which parameters are trained."""

    kind: Literal["none"] = Field(default="none", description="none: full fine-tuning")


class WeightsSection(_Section):
    """How weights reach the engines."""

    mode: Literal["auto", "full"] = "auto"
    transport: Literal["auto", "shm", "ipc", "nccl"] = "auto"
    deadline_s: PositiveFloat = 180.0


class HardwareSection(_Section):
    """Where the run runs."""

    kind: Literal["cpu", "gpu"] = "cpu"
    threads: PositiveInt | None = Field(default=None, description="of the learner; all cores if not given")
    tokens_per_microbatch: PositiveInt = 4096
    ray_address: str | None = Field(
        default=None,
        description="of a running cluster, where `shm` wants all actors on this host; none: a Ray of the run's own",
    )


class EvalSection(_Section):
    """Held-out evaluation, greedy, before, during and after training."""

    every: int = Field(
        default=0, ge=0, description="steps between evaluations during training; 0: before and after only"
    )
    tasks: PositiveInt = 512
    truthfulness: tuple[NonNegativeFloat, NonNegativeFloat, NonNegativeFloat] = Field(
        default=(1.0, 0.0, 1.0), strict=False, description="w1, w2, w3 in T = w1 Acc + w2 Unc - w3 Hall"
    )


class CheckpointSection(_Section):
    """When the run is saved. The last step always is."""

    every: int = Field(default=20, ge=0, description="steps; 0: at the end only")
    keep: PositiveInt = 1


class TrackSection(_Section):
    """Trackers beside the run directory."""

    wandb: bool = False
    trackio: bool = False
    tensorboard: bool = False


class GuardSection(_Section):
    """When a run that has gone wrong is stopped with an explanation."""

    max_ungraded: float = Field(default=0.1, ge=0, le=1, description="share of a step's replies")
    max_truncated: float = Field(default=0.9, ge=0, le=1, description="share of a step's replies")
    max_over_abstention: float = Field(
        default=0.05, ge=0, le=1,
        description="share of the tasks answered right before training that may be abstained on; above, a warning",
    )  # fmt: skip
    dead_steps: PositiveInt = Field(default=5, description="steps in a row without any gradient, or all truncated")


class Recipe(_Section):
    """Everything that a run is determined by."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    steps: PositiveInt
    seed: int = Field(default=0, ge=0)
    model: Model
    environment: PlugIn
    reward: tuple[RewardPlugIn, ...] = Field(min_length=1)
    payoff: PayoffSection | None = None
    rollout: RolloutSection = RolloutSection()
    algorithm: AlgorithmSection = AlgorithmSection()
    adapter: AdapterSection = AdapterSection()
    weights: WeightsSection = WeightsSection()
    hardware: HardwareSection = HardwareSection()
    eval: EvalSection = EvalSection()
    checkpoint: CheckpointSection = CheckpointSection()
    track: TrackSection = TrackSection()
    guard: GuardSection = GuardSection()

    @model_validator(mode="after")
    def _consistent(self, info: ValidationInfo) -> Recipe:
        if self.rollout.max_new_tokens >= self.rollout.max_model_len:
            raise ValueError("rollout.max_new_tokens leaves no room for a prompt within rollout.max_model_len")
        if self.rollout.workers > self.rollout.prompts_per_step:
            raise ValueError("rollout.workers is above rollout.prompts_per_step, so that some would never work")
        names = [reward.name for reward in self.reward]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"reward: {twice[0]!r} stands there twice; name each reward once")
        if not any(reward.weight for reward in self.reward):
            raise ValueError("reward: every weight is 0, so that no reply would earn anything")
        if self.rollout.max_model_len > self.hardware.tokens_per_microbatch:
            raise ValueError(
                f"hardware.tokens_per_microbatch = {self.hardware.tokens_per_microbatch} does not hold one reply of "
                f"rollout.max_model_len = {self.rollout.max_model_len} tokens; raise the one or lower the other"
            )
        shares_device = self.hardware.kind == "gpu" and self.weights.transport in ("auto", "ipc")
        if shares_device and self.rollout.workers > 1:
            raise ValueError(
                f"rollout.workers = {self.rollout.workers} cannot share the learner's GPU, as weights.transport = "
                f'"{self.weights.transport}" wants; use 1 worker or "nccl"'
            )
        if self.hardware.kind == "cpu" and self.weights.transport in ("ipc", "nccl"):
            raise ValueError(f'weights.transport = "{self.weights.transport}" needs hardware.kind = "gpu"')
        cpu_only = {"hardware.threads": self.hardware, "rollout.kv_cache_gib": self.rollout}
        on_gpu = self.hardware.kind == "gpu" and info.mode != "json"
        for key, section in cpu_only.items():
            if on_gpu and key.partition(".")[2] in section.model_fields_set:
                raise ValueError(f'{key} has no effect with hardware.kind = "gpu"; drop it')
        return self


def load_recipe(path: Path, *, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe and apply `a.b=c` overrides, whose values are TOML or, failing that, plain strings.

    Errors: ConfigError in one sentence per mistake.
    """
    try:
        data = tomllib.loads(path.read_text())
    except FileNotFoundError as error:
        raise ConfigError(f"there is no recipe {path}; launch/ holds some to start from") from error
    except OSError as error:
        raise ConfigError(f"the recipe {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from error
    for override in overrides:
        _apply(data, override)
    try:
        return Recipe.model_validate(_tuples(data))
    except ValidationError as error:
        raise ConfigError(f"{path}: " + "; ".join(_sentence(item) for item in error.errors())) from error


def _apply(data: dict[str, Any], override: str) -> None:
    key, found, text = override.partition("=")
    if not found or not key.strip():
        raise ConfigError(f"--set takes a.b=c, not {override!r}")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *path, last = key.strip().split(".")
    node: Any = data
    for name in path:
        node = node[_index(node, name, override)] if isinstance(node, list) else node.setdefault(name, {})
        if not isinstance(node, dict | list):
            raise ConfigError(f"--set {override}: {name} is a value, not a section")
    if isinstance(node, list):
        node[_index(node, last, override)] = value
    else:
        node[last] = value


def _index(node: list[Any], name: str, override: str) -> int:
    if not name.isdigit() or int(name) >= len(node):
        raise ConfigError(f"--set {override}: {name!r} must be an index below {len(node)}, as in reward.0.weight=1")
    return int(name)


def _tuples(value: Any) -> Any:
    # strict validation takes no list for a tuple, and TOML has only lists
    if isinstance(value, dict):
        return {k: tuple(map(_tuples, v)) if k == "reward" and isinstance(v, list) else v for k, v in value.items()}
    return value


def _sentence(item: Mapping[str, Any]) -> str:
    where = ".".join(str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        return f"unknown key {where}{_nearest(item['loc'])}"
    if item["type"] == "missing":
        return f"{where} is missing"
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "value_error":
        return f"{where}: {message}" if where else message
    return f"{where} = {item['input']!r}: {message[0].lower()}{message[1:]}"


def _nearest(loc: Sequence[Any]) -> str:
    section: Any = Recipe
    for part in loc[:-1]:
        field = section.model_fields.get(part) if hasattr(section, "model_fields") else None
        section = field.annotation if field else None
        section = next((kind for kind in get_args(section) if hasattr(kind, "model_fields")), section)
    names = list(getattr(section, "model_fields", {}))
    close = difflib.get_close_matches(str(loc[-1]), names, n=1)
    return f"; did you mean {close[0]}?" if close else f"; known here: {', '.join(names)}" if names else ""
