"""What runs inside vLLM's own processes: new weights beside the live ones, and the proof that live weights are them.

vLLM loads this module in each process that computes, since `ProofExtension` is its `worker_extension_cls`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor, nn
from vllm.distributed.weight_transfer.base import ParamMeta, WeightSource
from vllm.model_executor.layers.linear import LinearBase, UnquantizedLinearMethod
from vllm.model_executor.layers.vocab_parallel_embedding import (
    ParallelLMHead,
    UnquantizedEmbeddingMethod,
    VocabParallelEmbedding,
)

from rlvr.errors import RlvrError, boundary
from rlvr.types import Manifest, fingerprint
from rlvr.weights import slot
from rlvr.weights.manifest import check, from_mapping, open_tensors
from rlvr.weights.sender import free_address

__all__ = ["ProofExtension", "Successor"]

# One-hot inputs per linear layer and push. A stale tensor is missed only if none of the columns that they read changed.
PROBES = 64
SLICE_S = 0.1  # of reading back, between two steps of the engine


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

    def __init__(self, tensors: Callable[[], Iterator[tuple[str, Tensor]]]) -> None:
        self._tensors = tensors

    def metadata(self) -> list[ParamMeta]:
        return [ParamMeta(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in self._tensors()]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return self._tensors()


class ProofExtension:
    """Methods that vLLM adds to its workers. Each answers with a sentence where something is wrong."""

    model_runner: Any
    _rlvr_next: Future[Successor | slot.Adapter] | None = None
    _rlvr_live: Successor | None = None
    _rlvr_adapter: slot.Adapter | None = None
    _rlvr_base = ""  # digest of the full weights that were read back last
    _rlvr_threads: ThreadPoolExecutor | None = None

    def rlvr_verify(self, manifest: dict[str, Any]) -> str | bool:
        """Check the bytes against the manifest; touch nothing live."""
        known = from_mapping(manifest)
        if known.kind != "adapter":
            self._rlvr_base = ""  # full weights are about to come, and may come in part
        try:
            check(known, open_tensors(known.path))
        except (ValueError, OSError) as error:
            return str(error)
        return True

    def rlvr_prepare(self, manifest: dict[str, Any], skip: list[str]) -> str | bool:
        """Begin to make new weights ready, in a thread beside that of the engine's steps."""
        if self._rlvr_threads is None:
            self._rlvr_threads = ThreadPoolExecutor(1, thread_name_prefix="rlvr-prepare", initializer=_one_core)
        holder = self._rlvr_slots() if manifest["kind"] == "adapter" else self.model_runner.get_model()
        if holder is None:
            return "the engine was started without room for an adapter"
        self._rlvr_next = self._rlvr_threads.submit(_successor, holder, from_mapping(manifest), skip)
        return True

    def rlvr_prepared(self) -> str | bool | None:
        """Read a part of the new weights back, and tell whether all of them are ready; None while they are not.

        This is the thread of the engine's steps: vLLM's kernels share their scratch memory and must not run in two.
        """
        if self._rlvr_next is None or not self._rlvr_next.done():
            return None
        try:
            return self._rlvr_next.result().read_on(until=time.monotonic() + SLICE_S) or None
        except (ValueError, OSError, RlvrError) as error:
            self._rlvr_next = None
            return str(error)

    def rlvr_swap(self, digest: str) -> str | bool:
        """Let the prepared weights go live, an adapter in the place of any other, full ones without any.

        Full ones exchange pointers, so that nothing can fail half-way.
        """
        if self._rlvr_next is None or self.rlvr_prepared() is not True:
            return "no weights are prepared"
        successor = self._rlvr_next.result()
        if successor.digest != digest:
            return "other weights were prepared than are to go live"
        self._rlvr_next = None
        if isinstance(successor, Successor):
            self._rlvr_live, self._rlvr_adapter, self._rlvr_base = successor, None, ""
            if (slots := self._rlvr_slots()) is not None:
                slot.clear(slots)
        else:
            self._rlvr_adapter = successor
        successor.take_over()
        return True

    def rlvr_read_back(self, manifest: dict[str, Any], seed: int, whole: bool) -> str | int:
        """Compare live weights with the bytes; give how many of the manifest's tensors were found equal.

        Weights that were read back as they were prepared need to be the live ones still; `whole` reads them once more.
        An adapter is compared whole always, must be the only one, and on the base that it belongs to.
        """
        known = from_mapping(manifest)
        try:
            if known.kind == "adapter":
                return self._rlvr_compare_adapter(known)
            found = self._rlvr_compare_full(known, seed, whole)
        except (ValueError, OSError) as error:
            return str(error)
        self._rlvr_base = fingerprint(known)
        return found

    def _rlvr_compare_full(self, known: Manifest, seed: int, whole: bool) -> int:
        slots = self._rlvr_slots()
        if slots is not None and (left := slot.found_in(slots)):
            raise ValueError(left)
        if not whole and self._rlvr_live is not None:
            return self._rlvr_live.still_live(fingerprint(known))
        tensors = open_tensors(known.path)
        check(known, tensors)  # again: what is compared must be what was promised, not what lies there by now
        return compare(self.model_runner.get_model(), tensors, seed=seed)

    def _rlvr_compare_adapter(self, known: Manifest) -> int:
        if self._rlvr_base != known.base:
            raise ValueError("the engine was not proven to run the base that this adapter belongs to")
        if self._rlvr_live is not None:
            self._rlvr_live.still_live(known.base)
        if self._rlvr_adapter is None or self._rlvr_adapter.digest != fingerprint(known):
            raise ValueError("the engine runs another adapter than this one: it never went live")
        return self._rlvr_adapter.compare()

    def _rlvr_slots(self) -> Any:
        """Give vLLM's keeper of adapters; None in an engine without any."""
        manager = getattr(self.model_runner, "lora_manager", None)
        return None if manager is None else manager._adapter_manager


def _one_core() -> None:
    torch.set_num_threads(1)  # of this thread: the engine's own keeps its cores


def _successor(holder: Any, manifest: Manifest, skip: Sequence[str]) -> Successor | slot.Adapter:
    """Make new weights ready for a model, or an adapter for the keeper of them."""
    with torch.no_grad(), boundary("preparing weights"):
        tensors = open_tensors(manifest.path)
        try:
            check(manifest, tensors)
            sent = {name: tensor for name, tensor in tensors.items() if name not in skip}
            if manifest.kind == "adapter":
                return slot.Adapter(holder, sent, digest=fingerprint(manifest))
            found = Successor(holder, sent, digest=fingerprint(manifest))
            found.readings = readings(holder, tensors, seed=max(0, manifest.version), holders=found.twins)
            return found
        except ValueError as error:
            raise _Refused(str(error)) from error


class _Refused(RlvrError):
    """Passes `boundary` as it is."""


class Successor:
    """New weights for a model, laid out as its layers compute with them, beside the live ones.

    On CPU vLLM packs every matrix for its kernels. Here the same functions pack the new ones, on modules that nobody
    calls, so that going live exchanges references between two steps. Errors: ValueError where a weight of the engine
    has no tensor, a tensor has no weight, or a layer is of a kind that is not known.
    """

    def __init__(self, model: nn.Module, tensors: Mapping[str, Tensor], *, digest: str) -> None:
        self.digest, self.proven = digest, 0
        self.readings: Iterator[int] = iter(())
        self.twins: dict[nn.Module, nn.Module] = {}
        self._made: dict[int, tuple[list[str], nn.Parameter]] = {}  # by live parameter: tied layers share one
        used: set[str] = set()
        for name, module in model.named_modules():
            names = parameter_names(name, module, model)
            absent = [n for several in names.values() for n in several if n not in tensors]
            if absent:
                raise ValueError(f"the engine has {name} but {absent[0]} was not sent")
            if names:
                self.twins[module] = self._twin(name, module, names, tensors)
                used.update(n for several in names.values() for n in several)
        unseen = sorted(tensors.keys() - used)
        if unseen:
            raise ValueError(f"{len(unseen)} tensors have no place in the engine, {unseen[0]} among them")

    @torch.no_grad()
    def read_on(self, *, until: float) -> bool:
        """Go on reading back until a time, by time.monotonic(). Gives whether all is read. Errors: ValueError."""
        for found in self.readings:
            self.proven = found
            if time.monotonic() > until:
                return False
        return True

    def take_over(self) -> None:
        """Go live."""
        for module, twin in self.twins.items():
            for key, parameter in twin.named_parameters():
                module._parameters[key].data = parameter.data  # type: ignore[union-attr]
            if "cpu_linear" in twin.__dict__:
                module.cpu_linear = twin.cpu_linear

    def still_live(self, digest: str) -> int:
        """Give how many tensors were read back. Errors: ValueError where these are not the weights asked for, or not
        what the model computes with.
        """
        if self.digest != digest:
            raise ValueError("the engine runs other weights than these: they never went live")
        for module, twin in self.twins.items():
            same = all(module._parameters[key].data_ptr() == p.data_ptr() for key, p in twin.named_parameters())  # type: ignore[union-attr]
            if not same or module.__dict__.get("cpu_linear") is not twin.__dict__.get("cpu_linear"):
                raise ValueError(f"a {type(module).__name__} of the engine runs other weights than went live")
        return self.proven

    def _twin(
        self, name: str, module: nn.Module, names: Mapping[str, Sequence[str]], tensors: Mapping[str, Tensor]
    ) -> nn.Module:
        twin = nn.Module()
        for key, several in names.items():
            twin.register_parameter(key, self._parameter(module, key, list(several), tensors))
        method = getattr(module, "quant_method", None)
        if isinstance(module, LinearBase | VocabParallelEmbedding):
            if not isinstance(method, UnquantizedLinearMethod | UnquantizedEmbeddingMethod):
                raise ValueError(f"{name} computes by {type(method).__name__}, whose weights cannot be replaced here")
            if "_cpu_skip_gemm_dispatch" in module.__dict__:
                twin._cpu_skip_gemm_dispatch = module._cpu_skip_gemm_dispatch
            if "cpu_linear" in module.__dict__:
                method.process_weights_after_loading(twin)
        return twin

    def _parameter(
        self, module: nn.Module, key: str, several: list[str], tensors: Mapping[str, Tensor]
    ) -> nn.Parameter:
        live = module._parameters[key]
        assert live is not None
        shared, made = self._made.get(id(live), ([], None)) if live.numel() else ([], None)
        if made is not None:
            if not all(torch.equal(tensors[a], tensors[b]) for a, b in zip(shared, several, strict=True)):
                raise ValueError(f"{shared[0]} and {several[0]} are one tensor in the engine but differ")
            return made
        whole = torch.cat([tensors[n] for n in several]).to(live.dtype)
        if len(whole) < len(live):  # a vocabulary is padded
            whole = torch.cat([whole, whole.new_zeros(len(live) - len(whole), *whole.shape[1:])])
        if live.numel() and whole.shape != live.shape:
            raise ValueError(f"{several[0]} has shape {tuple(whole.shape)}, the engine has {tuple(live.shape)}")
        made = nn.Parameter(whole, requires_grad=False)
        self._made[id(live)] = (several, made)
        return made


def parameter_names(name: str, module: nn.Module, model: nn.Module) -> dict[str, list[str]]:
    """Give the tensors that each parameter of a module is made of, in their order: several where it is fused.

    Where the engine serves adapters, the module lies within the layer that adds them.
    """
    name = name.removesuffix(".base_layer")
    packed: Mapping[str, list[str]] = getattr(model, "packed_modules_mapping", {})
    prefix, _, leaf = name.rpartition(".")
    parts = [f"{prefix}.{p}" if prefix else p for p in packed.get(leaf, [leaf])]
    found = [key for key, p in module._parameters.items() if p is not None and (p.numel() or key == "weight")]
    return {key: [f"{part}.{key}" for part in parts] for key in found}


@torch.no_grad()
def compare(model: nn.Module, tensors: Mapping[str, Tensor], *, seed: int) -> int:
    """Read live weights back. Gives the tensors found equal. Errors: ValueError names the first that is not."""
    return max(readings(model, tensors, seed=seed))


def readings(
    model: nn.Module, tensors: Mapping[str, Tensor], *, seed: int, holders: Mapping[nn.Module, nn.Module] | None = None
) -> Iterator[int]:
    """Read weights back through the layers that use them, and compare them bit by bit with the bytes sent.

    A one-hot input makes a linear layer answer with one column of the matrix it really multiplies by, packed or not:
    one product by 1 and sums with 0 are exact. So this sees private copies that no parameter shows. A tensor that no
    layer answers for is an error: a part of the model that nobody can see would be a part that nobody proves.
    `holders` says what holds the weights of a module, where that is not the module itself. Yields, after each module,
    how many tensors were found equal. Errors: ValueError names the first that is not.
    """
    generator = torch.Generator().manual_seed(seed)
    proven: set[str] = set()
    for name, module in model.named_modules():
        for key, names in parameter_names(name, module, model).items():
            absent = [n for n in names if n not in tensors]
            if absent:
                raise ValueError(f"the engine has {name} but {absent[0]} was not sent")
            holder = holders[module] if holders else module
            live, sent = _views(module, holder, key, [tensors[n] for n in names], generator)
            if not torch.equal(live, sent.to(live.device, live.dtype)):
                raise ValueError(f"{names[0]} differs between engine and learner")
            proven.update(names)
            yield len(proven)
    unseen = sorted(tensors.keys() - proven)
    if unseen:
        raise ValueError(f"{len(unseen)} tensors cannot be read back, {unseen[0]} among them")


def _views(
    module: Any, holder: nn.Module, key: str, sent: Sequence[Tensor], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Give what a module computes with, and what it should compute with."""
    rows = sum(map(len, sent))
    if key == "weight" and isinstance(module, LinearBase | ParallelLMHead):
        width = int(getattr(module, "input_size", 0) or module.embedding_dim)
        chosen = torch.randperm(width, generator=generator)[:PROBES]
        dtype = getattr(module, "params_dtype", None) or module.weight.dtype
        device = next(iter(module.parameters())).device
        inputs = nn.functional.one_hot(chosen, width).to(device, dtype)
        live = module.quant_method.apply(holder, inputs, None)
        return live[:, :rows], torch.cat([t[:, chosen] for t in sent]).T
    if key == "weight" and isinstance(module, VocabParallelEmbedding):
        ids = torch.arange(rows, device=module.weight.device)
        return module.quant_method.embedding(holder, ids), sent[0]
    return getattr(holder, key), torch.cat(list(sent))
