"""What the rollout worker needs of a generation engine. `VllmEngine` is the real one; tests bring a fake."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rlvr.types import Manifest, Span, Stop

__all__ = ["Completion", "Engine", "EngineSettings", "Sampling"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are drawn. `temperature` 0 takes the likeliest token."""

    max_tokens: int
    temperature: float = 1.0
    seed: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """What an engine sampled for one prompt."""

    token_ids: NDArray[np.int32]  # [T], the end token included
    logprobs: NDArray[np.float32]  # [T] nats, after temperature
    stop: Stop
    spans: tuple[Span, ...]  # weight version per stretch of token_ids


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """What an engine is started with."""

    model: str  # a local folder
    kind: str  # cpu or gpu
    dtype: str  # bfloat16 or float32
    max_model_len: int  # tokens, prompt and reply together
    max_num_seqs: int
    kv_cache_gib: int
    cores: tuple[int, ...] = ()  # CPU cores to bind to; empty: those that the process may use
    transport: str = "shm"
    lora_rank: int = 0  # the largest rank of an adapter that is pushed; 0: none is


class Engine(Protocol):
    """A generation engine whose weights can be replaced and proven."""

    async def start(self) -> None:
        """Load the model. Errors: EngineError, ResourceError."""
        ...

    async def generate(self, prompt_ids: Sequence[int], *, sampling: Sampling) -> Completion:
        """Sample one reply and wait until all weights that it came from are proven. Several calls run at once.

        Errors: EngineError where they turn out not to be.
        """
        ...

    async def score(self, token_ids: Sequence[int], *, base: bool = False) -> NDArray[np.float32]:
        """Give log p of every token but the first, at temperature 1, through the serving path. Shape [T-1], nats.

        `base` leaves the adapter out, where there is one.
        """
        ...

    async def prepare(self, manifest: Manifest, *, skip: Sequence[str] = ()) -> None:
        """Check the bytes and make them ready beside the live weights, which go on generating. Errors: ValueError.

        Full weights take the place of all; an adapter goes onto the full ones that are live, in the place of another.
        `skip` leaves tensors out (a fault). A later call replaces what an earlier one prepared.
        """
        ...

    async def swap(self, manifest: Manifest, *, recompute: bool = False) -> float:
        """Let the prepared weights go live between two steps of the engine and give the seconds that it stood still.

        Running requests are kept; `recompute` computes their keys and values again. Nothing that is sampled from now
        on leaves `generate` before `stamp`. Errors: ValueError where another manifest, or none, was prepared.
        """
        ...

    async def read_back(self, manifest: Manifest, *, seed: int, whole: bool = False) -> int:
        """Compare live weights with the manifest's bytes; give the tensors found equal. Errors: ValueError.

        What `prepare` has read back already need only be live; `whole` reads it from the live model all the same.
        """
        ...

    async def stamp(self, version: int) -> None:
        """Say that the live weights are proven to be `version`."""
        ...

    async def reject(self, reason: str) -> None:
        """Say that the live weights could not be proven: every reply that holds a token of them fails."""
        ...

    async def stop(self) -> None:
        """Shut down."""
        ...
