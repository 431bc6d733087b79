"""What leaves a model with an adapter: merged tensors for an engine, peft's files, the state of a checkpoint."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvr.errors import CheckpointError, LearnerError
from rlvr.learner.ranks import share_of

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor

__all__ = [
    "MERGED_ONLY", "adapter_state", "load_adapter_state", "pushed_tensors", "save_adapter", "served_tensors",
]  # fmt: skip

MAIN, INITIAL = "default", "initial"  # peft's name of an adapter, and ours of the frozen start of PiSSA
MERGED_ONLY = frozenset({"loftq"})  # kinds that `save_adapter` refuses: their adapter fits no base but a changed one


def pushed_tensors(model: PeftModel) -> Iterator[tuple[str, Tensor]]:
    """Yield the adapter alone in float32, as an engine adds it to the base: A, and B with the adapter's scale in it.

    The names are those of the base model's matrices with `.lora_A.weight` and `.lora_B.weight` behind them.
    """
    for name, layer in layers(model).items():
        yield f"{name}.lora_A.weight", _whole(layer.lora_A[MAIN].weight)
        yield f"{name}.lora_B.weight", layer.scaling[MAIN] * _whole(layer.lora_B[MAIN].weight)


def served_tensors(model: PeftModel, *, merged: bool = True) -> Iterator[tuple[str, Tensor]]:
    """Yield every tensor of the merged model, or of the base as it was at the start, in float32 by the base model's
    name; a tied head is named explicitly.

    One matrix at a time is merged, aside: the model stays as it is. Tensors without an adapter may share its memory.
    """
    base = model.get_base_model()
    modules, seen = dict(base.named_modules()), set()
    for stored, tensor in base.state_dict().items():
        owner, _, leaf = stored.rpartition(".")
        if _is_adapters(stored) or owner not in modules:  # such an owner is a 4-bit weight, `stored` a part of its code
            continue
        name = stored.replace(".base_layer.", ".")
        seen.add(name)
        if leaf != "weight":
            yield name, _whole(tensor)
        elif name == stored or not merged:
            yield name, base_weight(modules[owner])
        else:
            yield name, _merged(modules[owner.removesuffix(".base_layer")])
    if "lm_head.weight" not in seen:
        yield "lm_head.weight", _whole(base.get_output_embeddings().weight)


def save_adapter(model: PeftModel, folder: Path) -> None:
    """Write the adapter as peft does, for the original base: adapter_config.json and adapter_model.safetensors.

    PiSSA is written as the plain LoRA of twice the rank that it is there: [B, B0] [A; -A0].
    Errors: LearnerError for loftq, whose base is changed by more than a low rank.
    """
    from safetensors.torch import save_file

    if any(hasattr(layer, "original_weight") for layer in layers(model).values()):
        raise LearnerError("an adapter of kind loftq fits only its own quantised base; save the merged model instead")
    tensors = _saved(model, MAIN)
    config = copy.deepcopy(model.peft_config[MAIN])  # after the line above, which puts AdaLoRA's ranks into it
    if INITIAL in model.peft_config:
        start = _saved(model, INITIAL)
        tensors = {name: _joined(name, tensor, start[name]) for name, tensor in tensors.items()}
        config.r, config.lora_alpha = 2 * config.r, 2 * config.lora_alpha
    config.inference_mode = True
    config.save_pretrained(str(folder))
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def adapter_state(model: PeftModel) -> dict[str, Tensor]:
    """Give, by name, what a resumed run needs beside the base model; tensors share memory with the model's.

    A model that `attach` made with the same settings goes on from it to the bit, AdaLoRA's schedule included.
    """
    import torch

    state = _own(model)
    if is_adalora(model):
        for part, values in _importances(model).items():
            state |= {f"{part}:{name}": value for name, value in values.items()}
        pattern = model.peft_config[MAIN].rank_pattern or {}
        state |= {f"rank_pattern:{name}": torch.tensor(kept) for name, kept in pattern.items()}
    return state


def load_adapter_state(model: PeftModel, state: Mapping[str, Tensor]) -> None:
    """Take up what `adapter_state` gave, on a model that `attach` made with the same settings.

    Errors: CheckpointError where the tensors are not those of this adapter; the model is then untouched.
    """
    own, given = _own(model), {name: tensor for name, tensor in state.items() if ":" not in name}
    for name in sorted(own.keys() | given.keys()):
        if name not in own or name not in given or own[name].shape != given[name].shape:
            raise CheckpointError(f"the checkpoint's adapter is not the one configured: {name} differs or is missing")
    for name, tensor in own.items():
        tensor.copy_(share_of(given[name], tensor))
    if not is_adalora(model):
        return
    for part, values in _importances(model).items():
        values.clear()
        values.update({key.partition(":")[2]: v.clone() for key, v in state.items() if key.startswith(f"{part}:")})
    kept = {key.partition(":")[2]: v.tolist() for key, v in state.items() if key.startswith("rank_pattern:")}
    model.peft_config[MAIN].rank_pattern = kept or None


def layers(model: PeftModel) -> dict[str, Any]:
    """List the layers that have an adapter by their names in the base model."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {n: m for n, m in model.get_base_model().named_modules() if isinstance(m, BaseTunerLayer)}


def base_weight(module: Any) -> Tensor:
    """Give a module's own weight in float32, out of its 4 bits where it is kept in them."""
    from peft.utils.integrations import dequantize_bnb_weight

    return _whole(dequantize_bnb_weight(module.weight) if is_quantized(module) else module.weight)


def is_quantized(module: Any) -> bool:
    """Tell whether a module keeps its weight in 4 bits."""
    return type(getattr(module, "weight", None)).__name__ == "Params4bit"


def is_adalora(model: PeftModel) -> bool:
    """Tell whether the adapter has ranks to be allocated."""
    return hasattr(model.base_model, "rankallocator")


def _merged(layer: Any) -> Tensor:
    weight = base_weight(layer.get_base_layer())
    if hasattr(layer, "vera_lambda_b"):
        a, b = _whole(layer.vera_A[MAIN])[:, : layer.in_features], _whole(layer.vera_B[MAIN])[: layer.out_features]
        scale_a, scale_b = _whole(layer.vera_lambda_d[MAIN]), _whole(layer.vera_lambda_b[MAIN])
        return weight + (scale_b[:, None] * b) @ (scale_a[:, None] * a)
    if hasattr(layer, "lora_E"):
        inner = _whole(layer.lora_A[MAIN]) * _whole(layer.lora_E[MAIN])
        return weight + _whole(layer.lora_B[MAIN]) @ inner * (layer.scaling[MAIN] / (layer.ranknum[MAIN].item() + 1e-5))
    parts = [layer.scaling[n] * (_whole(layer.lora_B[n].weight) @ _whole(layer.lora_A[n].weight)) for n in layer.lora_A]
    merged = weight + sum(parts[1:], parts[0])  # the parts first: at the start of PiSSA they are exactly nothing
    if layer.use_dora[MAIN]:
        magnitude = _whole(layer.lora_magnitude_vector[MAIN].weight)
        merged *= (magnitude / merged.norm(dim=1))[:, None]
    return merged


def _whole(tensor: Tensor) -> Tensor:
    """Give a tensor in float32, gathered where it is sharded."""
    full = getattr(tensor.detach(), "full_tensor", None)
    return (full() if full else tensor.detach()).float()


def _saved(model: PeftModel, adapter: str) -> dict[str, Tensor]:
    from peft import get_peft_model_state_dict

    # with a state of our own peft does not take a matrix that AdaLoRA cut to rank 0 for a shard
    tensors = get_peft_model_state_dict(
        model, state_dict=model.state_dict(), adapter_name=adapter, save_embedding_layers=False
    )
    return {name: _whole(tensor).contiguous().cpu() for name, tensor in tensors.items()}


def _joined(name: str, now: Tensor, start: Tensor) -> Tensor:
    import torch

    return torch.cat([now, -start]) if ".lora_A." in name else torch.cat([now, start], dim=1)


def _is_adapters(name: str) -> bool:
    return any(part.startswith(("lora_", "vera_", "ranknum")) for part in name.split("."))


def _own(model: PeftModel) -> dict[str, Tensor]:
    """Give the adapter's tensors by name; VeRA's common projections once, though every layer lists them."""
    every = {name: tensor for name, tensor in model.state_dict().items() if _is_adapters(name)}
    common = {"vera_A", "vera_B"}
    return {n: t for n, t in every.items() if n.startswith("base_model.vera_") or common.isdisjoint(n.split("."))}


def _importances(model: PeftModel) -> dict[str, dict[str, Tensor]]:
    allocator = model.base_model.rankallocator
    return {"ipt": allocator.ipt, "exp_avg_ipt": allocator.exp_avg_ipt, "exp_avg_unc": allocator.exp_avg_unc}
