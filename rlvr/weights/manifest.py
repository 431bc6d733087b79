"""What a version consists of, and whether bytes are what they claim to be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlvr.types import Manifest, TensorInfo

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["check", "describe", "digest", "from_mapping", "open_tensors"]


def digest(tensor: Tensor) -> str:
    """Give the BLAKE3 of a tensor's bytes, in hex."""
    import torch
    from blake3 import blake3

    raw = tensor.detach().cpu().contiguous().view(torch.uint8).reshape(-1).numpy()
    return str(blake3(raw.data, max_threads=blake3.AUTO).hexdigest())


def describe(tensors: Iterable[tuple[str, Tensor]]) -> tuple[TensorInfo, ...]:
    """Give name, shape, dtype and digest of every tensor."""
    return tuple(
        TensorInfo(name=name, shape=tuple(t.shape), dtype=str(t.dtype).removeprefix("torch."), digest=digest(t))
        for name, t in tensors
    )


def open_tensors(path: str | Path) -> dict[str, Tensor]:
    """Map the tensors of a safetensors file into memory. Errors: ValueError where it is none, OSError."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except SafetensorError as error:
        raise ValueError(f"{path} holds no weights: {error}") from error


def check(manifest: Manifest, tensors: Mapping[str, Tensor]) -> None:
    """Compare bytes with their manifest. Errors: ValueError names the first tensor that is missing or differs."""
    expected = {info.name: info for info in manifest.tensors}
    missing, surplus = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys())
    if missing:
        raise ValueError(f"{len(missing)} of {len(expected)} tensors are missing, {missing[0]} among them")
    if surplus:
        raise ValueError(f"{len(surplus)} tensors are not in the manifest, {surplus[0]} among them")
    for name, info in expected.items():
        tensor = tensors[name]
        if tuple(tensor.shape) != tuple(info.shape):
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, the manifest says {tuple(info.shape)}")
        if str(tensor.dtype) != f"torch.{info.dtype}":
            raise ValueError(f"{name} has dtype {tensor.dtype}, the manifest says {info.dtype}")
        if digest(tensor) != info.digest:
            raise ValueError(f"the bytes of {name} do not match their digest")


def from_mapping(data: Mapping[str, Any]) -> Manifest:
    """Make a manifest of what `dataclasses.asdict` made of one."""
    tensors = (TensorInfo(**{**info, "shape": tuple(info["shape"])}) for info in data["tensors"])  # lists, on the way
    return Manifest(**{**data, "tensors": tuple(tensors)})
