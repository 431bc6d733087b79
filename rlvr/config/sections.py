"""The sections of a recipe that stand each for itself."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

from rlvr.core.payoff import Payoff

__all__ = [
    "AdapterSection",
    "CheckpointSection",
    "EvalSection",
    "GuardSection",
    "HardwareSection",
    "Model",
    "PayoffSection",
    "PlugIn",
    "RewardPlugIn",
    "RolloutSection",
    "Section",
    "SftSection",
    "TrackSection",
    "WeightsSection",
]


class Section(BaseModel):
    """What all sections have in common: frozen, strict, and no unknown key."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Model(Section):
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


class PayoffSection(Section):
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


class RolloutSection(Section):
    """How replies are sampled and graded."""

    prompts_per_step: PositiveInt = 16
    group_size: PositiveInt = 8
    max_new_tokens: PositiveInt = 48
    max_model_len: PositiveInt = Field(default=512, description="tokens, prompt and reply together")
    temperature: PositiveFloat = 1.0
    truncated: Literal["score", "wrong", "mask"] = Field(
        default="score", description="what becomes of a reply that the token budget cut: graded as it stands; worth a "
        "WRONG one, whatever the grader says; or left out of baseline and loss",
    )  # fmt: skip
    dynamic_sampling: bool = Field(
        default=False, description="drop groups whose replies are all worth the same and sample others in their place"
    )
    max_refills: PositiveInt = Field(
        default=3, description="most groups that a step samples in the place of others, in multiples of its prompts"
    )
    max_staleness: int = Field(
        default=0, ge=0, description="versions that the learner may be ahead of the oldest token it trains on; 0: "
        "strictly on-policy, workers and learner wait for each other; above: they do not, see [async.md](async.md)",
    )  # fmt: skip
    workers: PositiveInt = 1
    kv_cache_gib: PositiveInt = Field(
        default=1,
        description="on CPU, where a token takes twice as much in float32; on GPU vLLM takes a share of the device",
    )
    max_num_seqs: PositiveInt = Field(default=128, description="replies that one engine generates at once")
    grading_processes: PositiveInt = 1
    grading_timeout_s: PositiveFloat | None = Field(
        default=None, description="for one reply; none: 5, or as long as the rewards' own limits let a grade take"
    )
    grading_memory_mb: PositiveInt = 2048
    deadline_s: PositiveFloat = Field(
        default=600.0, description="longest wait for the next group, and for a step of the learner"
    )


class AdapterSection(Section):
    """Which parameters are trained."""

    kind: Literal["none", "lora", "rslora", "dora", "vera", "pissa", "loftq", "lora+", "adalora", "qlora"] = Field(
        default="none", description="none: full fine-tuning; lora+: LoRA with two learning rates; qlora: on 4 bits"
    )
    rank: PositiveInt = 16
    alpha: PositiveFloat = Field(default=32.0, description="the adapter's product is scaled by alpha / rank")
    targets: tuple[str, ...] | Literal["all-linear"] = Field(
        default="all-linear", description="names that modules end with, or all linear layers but the output head"
    )
    lora_plus_ratio: float = Field(default=16.0, ge=1, description="learning rate of B by that of A")
    target_rank: PositiveInt | None = Field(
        default=None, description="mean rank that AdaLoRA ends with, having started at `rank`; none: half of `rank`"
    )

    @field_validator("targets", mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        listed = isinstance(value, list | tuple) and value and all(isinstance(v, str) and v for v in value)
        if value != "all-linear" and not listed:
            raise ValueError(f'takes "all-linear" or a list of module names, not {value!r}')
        return value if isinstance(value, str) else tuple(value)


class SftSection(Section):
    """Supervised fine-tuning on demonstrations before reinforcement learning, as in ReFT (arXiv 2401.08967)."""

    demonstrations: str = Field(
        min_length=1, description='a JSONL file with {"messages": [...]}, the last by the assistant, or '
        '{"prompt", "reply"} on each line; or "environment", for those that the environment gives itself',
    )  # fmt: skip
    epochs: PositiveInt = 1
    batch_size: PositiveInt = Field(default=32, description="demonstrations in an optimizer step")
    learning_rate: PositiveFloat = 1e-5
    warmup_steps: int = Field(default=0, ge=0)


class WeightsSection(Section):
    """How weights reach the engines."""

    mode: Literal["auto", "full", "merged", "adapter"] = Field(
        default="auto", description="what is pushed: every tensor (full), adapters merged into them first (merged), or "
        "the adapter alone, which the engine then computes beside its base (adapter: lora, rslora and lora+); auto is "
        "merged with an adapter, as engines decode several times faster without one, and full without",
    )  # fmt: skip
    in_flight: bool = Field(
        default=True, description="replies go on across a push, under new weights; false: a push waits for their end"
    )
    recompute_kv: bool = Field(
        default=False, description="what replies under way have in the KV cache is computed again with new weights"
    )
    transport: Literal["auto", "shm", "disk", "tcp", "ipc", "nccl"] = "auto"
    folder: str | None = Field(default=None, min_length=1, description="on a disk that all hosts share, for `disk`")
    deadline_s: PositiveFloat = 180.0
    max_mismatch: PositiveFloat = Field(
        default=0.1, description="mean |learner - engine| over the tokens sampled under the learner's own version, "
        "nats; above it the run ends",
    )  # fmt: skip


class HardwareSection(Section):
    """Where the run runs."""

    kind: Literal["cpu", "gpu"] = "cpu"
    threads: PositiveInt | None = Field(default=None, description="of the learner; all cores if not given")
    ranks: PositiveInt = Field(default=1, description="learner processes that share one model")
    tokens_per_microbatch: PositiveInt = 4096
    gradient_checkpointing: bool = Field(default=False, description="compute activations again instead of keeping them")
    compile: bool = Field(default=False, description="of the learner, by torch.compile")
    precision: Literal["auto", "bfloat16", "float32", "bfloat16_weights"] = Field(
        default="auto",
        description="of weights and matrix products, in learner and engines, over float32 masters; bfloat16_weights: "
        "weights are rounded to bfloat16, products are float32. auto: bfloat16, or bfloat16_weights where the command "
        "runs on a CPU without AMX or AVX512-BF16 (float32 with an adapter or several ranks)",
    )
    ray_address: str | None = Field(
        default=None,
        description="of a running cluster; learner and driver stay on this host, workers spread over all hosts; none: "
        "a Ray of the run's own",
    )


class EvalSection(Section):
    """Held-out evaluation, greedy, before, during and after training."""

    every: int = Field(
        default=0, ge=0, description="steps between evaluations during training; 0: before and after only"
    )
    tasks: PositiveInt = 512
    truthfulness: tuple[NonNegativeFloat, NonNegativeFloat, NonNegativeFloat] = Field(
        default=(1.0, 0.0, 1.0), strict=False, description="w1, w2, w3 in T = w1 Acc + w2 Unc - w3 Hall"
    )


class CheckpointSection(Section):
    """When the run is saved. The last step always is."""

    every: int = Field(default=20, ge=0, description="steps; 0: at the end only")
    keep: PositiveInt = 1


class TrackSection(Section):
    """Trackers beside the run directory."""

    wandb: bool = False
    trackio: bool = False
    tensorboard: bool = False


class GuardSection(Section):
    """When a run that has gone wrong is stopped with an explanation."""

    max_ungraded: float = Field(default=0.1, ge=0, le=1, description="share of a step's replies")
    max_truncated: float = Field(default=0.9, ge=0, le=1, description="share of a step's replies")
    max_over_abstention: float = Field(
        default=0.05, ge=0, le=1,
        description="share of the tasks answered right before training that may be abstained on; above, a warning",
    )  # fmt: skip
    dead_steps: PositiveInt = Field(default=5, description="steps in a row without any gradient, or all truncated")
