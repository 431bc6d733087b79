"""The adapter in vLLM's own processes: made ready beside the live one, put into the engine's only slot, read back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from vllm.lora.lora_model import LoRAModel
from vllm.lora.lora_weights import LoRALayerWeights

__all__ = ["ADAPTER", "Adapter", "clear", "found_in"]

ADAPTER = 1  # vLLM's number of the adapter; there is never another
SLOT = 0  # of the buffers that a layer computes with


class Adapter:
    """A new adapter for an engine, laid out as vLLM's layers compute with it.

    The tensors are named after the base's matrices, `NAME.lora_A.weight` [rank, in] and `NAME.lora_B.weight`
    [out, rank], and the product B A is added as it is: a scale is in B already. Errors: ValueError where a matrix lacks
    its other half, has no place in the engine or does not fit there.
    """

    def __init__(self, manager: Any, tensors: Mapping[str, Tensor], *, digest: str) -> None:
        self.digest, self.count, self._manager = digest, len(tensors), manager
        pairs = {name: _pair(name, tensors) for name in sorted({_matrix(name) for name in tensors})}
        self._wanted = {key: _laid_out(key, live, pairs) for key, live in _buffers(manager)}
        placed = {part for name in manager.modules for part in _parts(manager, name)}
        unseen = sorted(pairs.keys() - placed)
        if unseen:
            raise ValueError(f"{len(unseen)} adapted matrices have no place in the engine, {unseen[0]} among them")
        layers = {
            name: LoRALayerWeights(name, len(a), len(a), a.clone(), b.clone(), scaling=1.0)
            for name, (a, b) in pairs.items()
        }
        self._model = LoRAModel(ADAPTER, max(len(a) for a, _ in pairs.values()), layers)

    def read_on(self, *, until: float) -> bool:
        """Have nothing to read before it is live: its buffers are compared whole then."""
        return True

    def take_over(self) -> None:
        """Go live, in the place of whatever adapter there was."""
        self._manager.remove_all_adapters()
        self._manager.add_adapter(self._model)
        self._manager.activate_adapter(ADAPTER)

    def compare(self) -> int:
        """Give how many tensors every layer computes with as they were sent. Errors: ValueError names the first that
        is not, a layer that should have no adapter among them, or says which adapters the engine lists.
        """
        listed, slots = sorted(self._manager.list_adapters()), list(self._manager.lora_index_to_id)
        if listed != [ADAPTER] or slots != [ADAPTER]:
            raise ValueError(f"the engine lists the adapters {listed}, in slots {slots}, instead of the one pushed")
        for key, live in _buffers(self._manager):
            wanted = self._wanted[key]
            if not (torch.equal(live, wanted.to(live.device)) if wanted is not None else not live.any()):
                raise ValueError(f"{_named(key)} differs between engine and learner")
        return self.count


def clear(manager: Any) -> None:
    """Take every adapter out of the engine, its buffers too."""
    manager.remove_all_adapters()
    for module in manager.modules.values():
        module.reset_lora(SLOT)


def found_in(manager: Any) -> str:
    """Say what is left of an adapter in the engine; nothing is ""."""
    if manager.list_adapters():
        return f"the engine still lists the adapters {sorted(manager.list_adapters())}"
    left = next((key for key, live in _buffers(manager) if live.any()), None)
    return f"the engine still holds {_named(left)}" if left else ""


Key = tuple[str, str]  # the matrix in the base, "A" or "B"


def _buffers(manager: Any) -> Iterator[tuple[Key, Tensor]]:
    """Yield the live matrices of the slot: A [most ranks, in], B [out, most ranks]. Errors: ValueError where a layer is
    of a kind that is not known.
    """
    for name, module in manager.modules.items():
        parts = _parts(manager, name)
        for half, stacked in (("A", module.lora_a_stacked), ("B", module.lora_b_stacked)):
            several = (stacked,) if isinstance(stacked, Tensor) else stacked
            if len(several) != len(parts):
                raise ValueError(f"{name} keeps its adapter as {type(module).__name__}, which is not known here")
            yield from (((part, half), found[SLOT].squeeze(0)) for part, found in zip(parts, several, strict=True))


def _parts(manager: Any, name: str) -> list[str]:
    return list(manager.packed_modules.get(name, [name]))


def _laid_out(key: Key, live: Tensor, pairs: Mapping[str, tuple[Tensor, Tensor]]) -> Tensor | None:
    """Give a matrix as a layer computes with it, zeros where its rank is below the most; None without an adapter."""
    if key[0] not in pairs:
        return None
    sent = pairs[key[0]][key[1] == "B"]
    side = 0 if key[1] == "B" else 1  # the one that the base's matrix fixes
    if sent.shape[side] != live.shape[side] or sent.shape[1 - side] > live.shape[1 - side]:
        raise ValueError(f"{_named(key)} has shape {tuple(sent.shape)}, the engine has room for {tuple(live.shape)}")
    if sent.dtype != live.dtype:
        raise ValueError(f"{_named(key)} is {sent.dtype}, the engine computes in {live.dtype}")
    whole = torch.zeros(live.shape, dtype=live.dtype)
    whole[: sent.shape[0], : sent.shape[1]] = sent
    return whole


def _named(key: Key) -> str:
    return f"{key[0]}.lora_{key[1]}.weight"


def _matrix(name: str) -> str:
    matrix, mark, half = name.rpartition(".lora_")
    if not mark or half not in ("A.weight", "B.weight"):
        raise ValueError(f"{name} is no part of an adapter")
    return matrix


def _pair(name: str, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    names = _named((name, "A")), _named((name, "B"))
    absent = [n for n in names if n not in tensors]
    if absent:
        raise ValueError(f"{absent[0]} was not sent")
    a, b = (tensors[n] for n in names)
    if len(a) != b.shape[1]:
        raise ValueError(f"{names[0]} has rank {len(a)} and {names[1]} rank {b.shape[1]}")
    return a, b
