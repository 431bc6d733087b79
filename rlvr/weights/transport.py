"""What runs inside vLLM's own processes: our CPU transport, and the proof that live weights equal the bytes sent.

vLLM loads this module in each of its processes through the entry point `vllm.general_plugins`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from vllm.distributed.device_communicators.shm_broadcast import SpinCondition
from vllm.distributed.weight_transfer.base import (
    ParamMeta,
    WeightSource,
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.layers.linear import LinearBase
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from vllm.platforms import current_platform

from rlvr.weights.manifest import check, from_mapping, open_tensors
from rlvr.weights.sender import free_address

__all__ = ["ProofExtension", "SharedMemoryEngine", "register"]

# One-hot inputs per linear layer and push. A stale tensor is missed only if none of the columns that they read changed.
PROBES = 64
IDLE_POLLING_S = 0.005


def register() -> None:
    """Register our backend as `rlvr_shm`. vLLM calls this in every process, some of them twice."""
    if "rlvr_shm" not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine("rlvr_shm", SharedMemoryEngine)
    if current_platform.is_cpu():
        # An engine's worker polls for a second after each request; on CPU the learner wants those cores at that moment.
        SpinCondition.__init__.__defaults__ = (IDLE_POLLING_S,)


@dataclass
class SharedMemoryInit(WeightTransferInitInfo):
    """Nothing to agree on beforehand."""


@dataclass
class SharedMemoryUpdate(WeightTransferUpdateInfo):
    """Where the bytes lie, and which tensors to leave out (only fault injection asks for that)."""

    path: str = ""
    skip: list[str] = field(default_factory=list)


class SharedMemoryEngine(WeightTransferEngine):  # type: ignore[type-arg]
    """Loads a safetensors file that the learner wrote to shared memory."""

    init_info_cls = SharedMemoryInit
    update_info_cls = SharedMemoryUpdate

    def init_transfer_engine(self, init_info: SharedMemoryInit) -> None:
        """Need nothing."""

    def start_weight_update(self) -> None:
        """Put the model's layers into loading state. From here there is no way back."""
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Load all tensors. The base class would synchronize an accelerator, which a CPU has not."""
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: SharedMemoryUpdate) -> None:
        """Load the tensors of the file, in file order."""
        tensors = open_tensors(update_info.path)
        self.model.load_weights((name, t) for name, t in tensors.items() if name not in update_info.skip)

    def finish_weight_update(self) -> None:
        """Finish loading. A layer with parameters that received none is an error here; vLLM only logs it."""
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        # read by ProofExtension: an exception here would take the whole engine down without saying why
        self.model._rlvr_unloaded = list(_unloaded(self.model))
        finalize_layerwise_reload(self.model, self.model_config)

    def shutdown(self) -> None:
        """Hold nothing."""


def _unloaded(model: torch.nn.Module) -> Iterator[str]:
    from vllm.model_executor.layers.attention import is_deferred_attention_layer
    from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info

    for name, layer in model.named_modules():
        info = get_layerwise_info(layer)
        if not info.can_load() or is_deferred_attention_layer(layer) or info.load_numel > 0:
            continue
        parameters, _ = info.kernel_tensors or ({}, {})  # layers with buffers only, as rotary tables, get nothing
        if parameters:
            yield name


def open_trainer(backend: str, client: Any, *, world_size: int, tensors: Callable[[], Any]) -> Any:
    """Open the learner's end of vLLM's `ipc` or `nccl` transport."""
    from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

    if backend == "ipc":
        from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo

        info: Any = IPCTrainerInitInfo(rank=0)
    else:
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

        address, port = free_address()
        info = NCCLTrainerInitInfo(rank=0, master_address=address, master_port=port, world_size=world_size)
    return WeightTransferTrainerFactory.trainer_init(info, client=client, source=_Source(tensors))


class _Source(WeightSource):
    """The learner's tensors, the output head named even where it is tied. vLLM's own source would leave it out."""

    def __init__(self, tensors: Callable[[], Iterator[tuple[str, torch.Tensor]]]) -> None:
        self._tensors = tensors

    def metadata(self) -> list[ParamMeta]:
        return [ParamMeta(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in self._tensors()]

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        return self._tensors()


class ProofExtension:
    """Methods that vLLM adds to its workers. Each answers with a sentence where something is wrong."""

    model_runner: Any

    def rlvr_verify(self, manifest: dict[str, Any]) -> str | bool:
        """Check the bytes against the manifest; touch nothing live."""
        try:
            known = from_mapping(manifest)
            check(known, open_tensors(known.path))
        except (ValueError, OSError) as error:
            return str(error)
        return True

    def rlvr_read_back(self, manifest: dict[str, Any], seed: int) -> str | int:
        """Compare live weights with the bytes; give how many of the manifest's tensors were found equal."""
        model = self.model_runner.get_model()
        unloaded = getattr(model, "_rlvr_unloaded", [])
        if unloaded:
            return f"vLLM failed to load weights for {', '.join(unloaded[:3])}"
        known = from_mapping(manifest)
        tensors = open_tensors(known.path)
        try:
            check(known, tensors)  # again: what is compared must be what was promised, not what lies there by now
        except ValueError as error:
            return str(error)
        return compare(model, tensors, seed=seed)


@torch.no_grad()
def compare(model: torch.nn.Module, tensors: Mapping[str, torch.Tensor], *, seed: int) -> str | int:
    """Read live weights back through the layers that use them, and compare them bit by bit with the bytes sent.

    A one-hot input makes a linear layer answer with one column of the matrix it really multiplies by, packed or not:
    one product by 1 and sums with 0 are exact. So this sees private copies that no parameter shows. A tensor that no
    layer answers for is an error: a part of the model that nobody can see would be a part that nobody proves.
    """
    generator = torch.Generator().manual_seed(seed)
    packed = getattr(model, "packed_modules_mapping", {})
    proven: set[str] = set()
    for name, module in model.named_modules():
        for names, live, sent in _views(name, module, tensors, packed, generator):
            absent = [n for n in names if n not in tensors]
            if absent:
                return f"the engine has {name} but {absent[0]} was not sent"
            if not torch.equal(live, sent().to(live.device, live.dtype)):
                return f"{names[0]} differs between engine and learner"
            proven.update(names)
    unseen = sorted(tensors.keys() - proven)
    return f"{len(unseen)} tensors cannot be read back, {unseen[0]} among them" if unseen else len(proven)


def _views(
    name: str, module: torch.nn.Module, tensors: Mapping[str, torch.Tensor], packed: Mapping[str, list[str]],
    generator: torch.Generator,
) -> Iterator[tuple[list[str], torch.Tensor, Any]]:  # fmt: skip
    """Yield (tensor names, what the live module holds, what it should hold) for every weight of one module."""
    prefix, _, leaf = name.rpartition(".")
    parts = [f"{prefix}.{p}" if prefix else p for p in packed.get(leaf, [leaf])]
    handled = set()
    if isinstance(module, LinearBase | ParallelLMHead):
        names = [f"{part}.weight" for part in parts]
        width = int(getattr(module, "input_size", 0) or module.embedding_dim)
        chosen = torch.randperm(width, generator=generator)[:PROBES]
        dtype = getattr(module, "params_dtype", None) or module.weight.dtype
        device = next(iter(module.parameters())).device if any(True for _ in module.parameters()) else "cpu"
        inputs = torch.nn.functional.one_hot(chosen, width).to(device, dtype)
        live = module.quant_method.apply(module, inputs, None)

        def columns() -> torch.Tensor:
            whole = torch.cat([tensors[n] for n in names])
            return whole[:, chosen].T

        rows = sum(len(tensors[n]) for n in names if n in tensors)
        yield names, live[:, :rows], columns
        handled.add("weight")
    elif isinstance(module, VocabParallelEmbedding):
        whole = f"{name}.weight"
        ids = torch.arange(len(tensors[whole]) if whole in tensors else 1, device=module.weight.device)
        yield [whole], module.quant_method.embedding(module, ids), lambda: tensors[whole]
        handled.add("weight")
    for key, parameter in module._parameters.items():
        if parameter is None or key in handled or parameter.numel() == 0:
            continue
        names = [f"{part}.{key}" for part in parts]
        yield names, parameter, lambda names=names: torch.cat([tensors[n] for n in names])
