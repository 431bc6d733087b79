"""Adapters through peft: attaching, merging for an engine, saving, and the reference behind them.

What a learner does with one, in order: `attach` (before an optimizer is made or a model is sharded); train what
`parameter_groups` lists; per optimizer update `before_optimizer_step` and `after_optimizer_step`; what an engine, a
checkpoint or a user gets of it is in `adapter_tensors`. `model.get_base_model()` is the model as given, with adapter
layers in place of linear ones: its backbone and its head are called as before.

Precision: peft makes adapter tensors in float32, whatever the base is. A frozen base needs no float32 masters: load it
in bfloat16. Both meet in float32 without autocast and in bfloat16 under it.

Checkpointing: with `use_reentrant=False` gradients reach the adapters of a frozen base as they are. The reentrant form
needs `model.enable_input_require_grads()` first, or no adapter gets a gradient.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rlvr.errors import BoundaryError, ModelError, boundary
from rlvr.learner.adapter_tensors import INITIAL, MAIN, base_weight, is_adalora, is_quantized, layers
from rlvr.learner.targets import check_names, hits

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor
    from transformers import PreTrainedModel

__all__ = [
    "AdapterSettings",
    "after_optimizer_step",
    "attach",
    "before_optimizer_step",
    "load_quantized",
    "nf4_image",
    "parameter_groups",
    "reference_disabled",
]

ORTHOGONALITY = 0.5  # weight of AdaLoRA's regulariser, peft's default

# The 16 levels of NormalFloat4. Source: QLoRA (arXiv 2305.14314), appendix E.
NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
NF4_BLOCK = 64  # weights that share one scale


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterSettings:
    """One adapter: its kind, its size and what it is attached to. Dropout is 0 always: an engine has none.

    `alpha` has no effect on vera, `lora_plus_ratio` on lora+ only, `target_rank` and `total_steps` on adalora only.
    Errors: ValueError where the values cannot stand together.
    """

    kind: Literal["lora", "rslora", "dora", "vera", "pissa", "loftq", "lora+", "adalora", "qlora"]
    rank: int = 16  # at the start, for adalora
    alpha: float = 32.0
    targets: tuple[str, ...] | Literal["all-linear"] = "all-linear"  # names or ends of names: "q_proj"
    lora_plus_ratio: float = 16.0  # learning rate of B over that of A
    target_rank: int | None = None  # mean rank at the end; none: half of `rank`
    total_steps: int = 0  # optimizer updates of the whole run
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rank < 1 or not self.targets:
            raise ValueError(f"an adapter needs a rank of at least 1 and a target, not {self.rank} and {self.targets}")
        if self.kind == "adalora" and self.total_steps < 2:
            raise ValueError(
                f"adalora needs total_steps, at least 2, for its schedule of ranks, not {self.total_steps}"
            )
        if self.kind == "adalora" and not 1 <= self.last_rank < self.rank:
            raise ValueError(f"adalora's target_rank {self.last_rank} must lie between 1 and rank {self.rank} - 1")

    @property
    def last_rank(self) -> int:
        """Give the mean rank that adalora ends with."""
        return self.rank // 2 if self.target_rank is None else self.target_rank


def attach(model: PreTrainedModel, settings: AdapterSettings) -> PeftModel:
    """Freeze the model and put a trainable adapter on its linear layers, the output head never among them.

    The draw depends on the seed alone. All kinds but loftq start as the model itself. PiSSA (arXiv 2404.02948) keeps
    its base whole: the layer computes W + s (B A - B0 A0) with B0 A0, the principal part of W, frozen beside it, which
    is the paper's residual base without rounding it. LoftQ (arXiv 2310.08659, one iteration, as in peft) replaces W by
    its NF4 image and starts with s B A next to the error; W is kept, at the cost of one more copy of these matrices.
    Unlike peft's, its start allows for the scale s = alpha / rank.
    Errors: ModelError where a target matches nothing or the rank exceeds a matrix.
    """
    import torch
    from peft import get_peft_model

    _check(model, settings)
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        adapted: PeftModel = get_peft_model(model, _config(settings), adapter_name=MAIN)
        with torch.no_grad():
            if settings.kind == "pissa":
                adapted.add_adapter(INITIAL, copy.deepcopy(adapted.peft_config[MAIN]))
                adapted.base_model.set_adapter([MAIN, INITIAL])
                for layer in layers(adapted).values():
                    _start_pissa(layer)
            elif settings.kind == "loftq":
                for layer in layers(adapted).values():
                    _start_loftq(layer)
    for name, parameter in adapted.named_parameters():
        # peft's cast to float32 makes AdaLoRA's constant trainable, and it counts an active second adapter in
        constant = not {"ranknum", INITIAL}.isdisjoint(name.split("."))
        parameter.requires_grad_(parameter.requires_grad and not constant)
    return adapted.train(model.training)


def parameter_groups(model: PeftModel, settings: AdapterSettings, *, learning_rate: float) -> list[dict[str, Any]]:
    """List what an optimizer trains, with the rate of each group.

    Source: LoRA+ (arXiv 2402.12354): the matrices B learn `lora_plus_ratio` times as fast as A. Other kinds: one group.
    """
    fast: list[Tensor] = []
    slow: list[Tensor] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (fast if settings.kind == "lora+" and ".lora_B." in name else slow).append(parameter)
    groups = [(slow, 1.0), (fast, settings.lora_plus_ratio)]
    return [{"params": some, "lr": learning_rate * factor} for some, factor in groups if some]


@contextlib.contextmanager
def reference_disabled(model: PeftModel) -> Iterator[None]:
    """Make the model the one that the adapter was attached to, to the bit, within the block: the reference policy."""
    trainable = [parameter.requires_grad for parameter in model.parameters()]
    bases = [layer.get_base_layer() for layer in layers(model).values() if hasattr(layer, "original_weight")]
    originals = [layer.original_weight for layer in layers(model).values() if hasattr(layer, "original_weight")]
    changed = [base.weight.data for base in bases]
    try:
        for base, weight in zip(bases, originals, strict=True):
            base.weight.data = weight.to(base.weight.device)
        with model.disable_adapter():
            yield
    finally:
        for base, weight in zip(bases, changed, strict=True):
            base.weight.data = weight
        for parameter, flag in zip(model.parameters(), trainable, strict=True):  # peft unfreezes all that is active
            parameter.requires_grad_(flag)


def before_optimizer_step(model: PeftModel) -> None:
    """Add the gradient of AdaLoRA's regulariser; nothing for other kinds.

    Called once per update, after the last micro-batch and before gradients are clipped.
    Source: AdaLoRA (arXiv 2303.10512), equation 4, as peft takes it: the mean norm over matrices, times 0.5.
    AdaLoRA makes little sense under reinforcement learning: it ranks singular values by |weight x gradient|, which a
    policy gradient of a few hundred updates hardly tells from noise, and its regulariser knows no scale of the loss.
    """
    import torch

    if not is_adalora(model):
        return
    matrices = [(n, p) for n, p in model.named_parameters() if ".lora_A." in n or ".lora_B." in n]
    norms = []
    for name, matrix in matrices:
        square = matrix.float() @ matrix.float().T if ".lora_A." in name else matrix.float().T @ matrix.float()
        norms.append(torch.linalg.matrix_norm(square - torch.eye(len(square), device=square.device)))
    (ORTHOGONALITY * torch.stack(norms).mean()).backward()


def after_optimizer_step(model: PeftModel, step: int) -> None:
    """Let AdaLoRA weigh its singular values and cut the rank to the schedule's; nothing for other kinds.

    Called with the number of the update, from 1, after it and before gradients are dropped; never where no update was
    taken. It sets entries of `lora_E` to 0 in the model: copies of parameters elsewhere must follow.
    """
    if is_adalora(model):
        model.base_model.update_and_allocate(step)


def load_quantized(folder: Path) -> PreTrainedModel:
    """Load a model for qlora: linear layers in 4-bit NormalFloat, their scales quantised too, products in bfloat16.

    Source: QLoRA (arXiv 2305.14314). Errors: ModelError without a CUDA GPU or the package bitsandbytes.
    """
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    from rlvr.learner.attention import IMPLEMENTATION, register

    if importlib.util.find_spec("bitsandbytes") is None or not torch.cuda.is_available():
        raise ModelError('adapter.kind "qlora" needs a CUDA GPU and the package bitsandbytes; elsewhere take "lora"')
    quantization = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )  # fmt: skip
    register()
    try:
        with boundary(f"loading the model in {folder} in 4 bits"):
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.bfloat16, quantization_config=quantization, attn_implementation=IMPLEMENTATION,
                device_map={"": torch.cuda.current_device()}, local_files_only=True,
            )  # fmt: skip
    except BoundaryError as error:
        raise ModelError(str(error)) from error
    model.eval()
    model.config.use_cache = False
    return model


def _config(settings: AdapterSettings) -> Any:
    from peft import AdaLoraConfig, LoraConfig, VeraConfig

    targets = settings.targets if isinstance(settings.targets, str) else list(settings.targets)
    common: dict[str, Any] = {"task_type": "CAUSAL_LM", "target_modules": targets}
    if settings.kind == "vera":
        return VeraConfig(r=settings.rank, projection_prng_key=settings.seed, save_projection=True, **common)
    alpha = int(settings.alpha) if settings.alpha == int(settings.alpha) else settings.alpha
    common |= {"lora_alpha": alpha, "lora_dropout": 0.0}
    if settings.kind == "adalora":
        # a cut after each update, so that what is saved by rank is what is computed
        total = settings.total_steps
        schedule = {"tinit": total // 10, "tfinal": total // 4, "deltaT": 1, "total_step": total}
        return AdaLoraConfig(init_r=settings.rank, target_r=settings.last_rank, **schedule, **common)
    variant = {"use_rslora": settings.kind == "rslora", "use_dora": settings.kind == "dora"}
    return LoraConfig(r=settings.rank, **variant, **common)


def _check(model: PreTrainedModel, settings: AdapterSettings) -> None:
    import torch

    head = model.get_output_embeddings()
    linear = {n: m for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and m is not head}
    wanted = [] if settings.targets == "all-linear" else settings.targets
    check_names(wanted, linear)
    four_bit = any(is_quantized(module) for module in linear.values())
    if (settings.kind == "qlora") != four_bit:
        wants = "is not for a model in 4 bits; take" if four_bit else "needs a model in 4 bits; for another take"
        raise ModelError(f'adapter.kind "{settings.kind}" {wants} "{"qlora" if four_bit else "lora"}"')
    for name, module in linear.items():
        side = min(module.in_features, module.out_features)
        hit = not wanted or any(hits(target, name) for target in wanted)
        if hit and settings.rank > side and settings.kind != "vera":  # VeRA trains a vector of that length, no matrix
            raise ModelError(f"adapter.rank {settings.rank} exceeds the shorter side of {name}: take at most {side}")


def _start_pissa(layer: Any) -> None:
    a, b = _principal(base_weight(layer.get_base_layer()), rank=layer.r[MAIN], scale=layer.scaling[MAIN])
    for adapter in (MAIN, INITIAL):
        layer.lora_A[adapter].weight.copy_(a)
        layer.lora_B[adapter].weight.copy_(b)
    layer.scaling[INITIAL] = -layer.scaling[MAIN]


def _start_loftq(layer: Any) -> None:
    weight = layer.get_base_layer().weight
    layer.original_weight = weight.detach().clone()
    weight.data = nf4_image(weight.detach().float()).to(weight.dtype)
    error = layer.original_weight.float() - weight.float()
    a, b = _principal(error, rank=layer.r[MAIN], scale=layer.scaling[MAIN])
    layer.lora_A[MAIN].weight.copy_(a)
    layer.lora_B[MAIN].weight.copy_(b)


def _principal(matrix: Tensor, *, rank: int, scale: float) -> tuple[Tensor, Tensor]:
    """Give A and B with scale * B A the best approximation of the matrix at this rank, to the eye of 16 power steps."""
    import torch

    u, s, v = torch.svd_lowrank(matrix, q=min(rank + 8, *matrix.shape), niter=16)
    root = (s[:rank] / scale).sqrt()
    return root[:, None] * v[:, :rank].T, u[:, :rank] * root


def nf4_image(weight: Tensor) -> Tensor:
    """Give the weights after quantisation to 4-bit NormalFloat with a float32 scale per block of 64."""
    import torch

    levels = torch.tensor(NF4, device=weight.device)
    flat = torch.nn.functional.pad(weight.flatten(), (0, -weight.numel() % NF4_BLOCK)).view(-1, NF4_BLOCK)
    scale = flat.abs().amax(1, keepdim=True)
    codes = torch.bucketize(flat / scale.clamp_min(torch.finfo(torch.float32).tiny), (levels[1:] + levels[:-1]) / 2)
    return (levels[codes] * scale).flatten()[: weight.numel()].view_as(weight)
