"""Attention within forests of tokens, behind the interface that `transformers` models call."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional

from rlvr.core.packing import chains, layout
from rlvr.errors import ModelError

if TYPE_CHECKING:
    from jaxtyping import Float, Int

    from rlvr.types import Batch

__all__ = ["IMPLEMENTATION", "Forest", "RaggedForest", "attend", "forest_of", "register"]

IMPLEMENTATION = "rlvr_forest"
CHUNK = 64  # queries in a row: more wastes masked scores, fewer copy the keys of ancestors more often

Attention = Callable[..., Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Forest:
    """A batch as equal rows with a mask. R = rows, C = chunk, K = keys of a row."""

    count: int  # M, tokens
    length: int  # of the longest sequence
    shared: int  # S, query heads by key head
    keys: Int[Tensor, "R K"]
    mask: Float[Tensor, "R 1 S*C K"]  # added to the scores: 0 or -inf

    @classmethod
    def of(
        cls, batch: Batch, *, device: torch.device, dtype: torch.dtype, shared: int = 1, chunk: int = CHUNK
    ) -> Forest:
        """Lay a batch out for a model that computes in `dtype` and has `shared` query heads by key head."""
        plan = layout(batch, chunk=chunk)
        mask = torch.zeros(plan.visible.shape, dtype=dtype, device=device)
        mask.masked_fill_(~torch.from_numpy(plan.visible).to(device), -torch.inf)
        return cls(
            count=len(batch.token_ids), length=int(batch.positions.max()) + 1, shared=shared,
            keys=torch.from_numpy(plan.keys).to(device), mask=mask[:, None].repeat(1, 1, shared, 1),
        )  # fmt: skip

    def attend(
        self, query: Float[Tensor, "Q M D"], key: Float[Tensor, "H M D"], value: Float[Tensor, "H M D"],
        scale: float | None,
    ) -> Float[Tensor, "M Q D"]:  # fmt: skip
        """Attend row by row."""
        rows, chunk, heads = len(self.keys), self.mask.shape[2] // self.shared, len(key)
        shared = len(query) // heads
        if shared != self.shared:
            raise ModelError(f"a layer has {shared} query heads by key head, and the model's config says {self.shared}")
        padded = functional.pad(query.transpose(0, 1), (0, 0, 0, 0, 0, rows * chunk - self.count))
        # query heads that share a key head stand below each other, so that keys are never repeated
        asked = padded.view(rows, chunk, heads, shared, -1).permute(0, 2, 3, 1, 4)
        found = functional.scaled_dot_product_attention(
            asked.reshape(rows, heads, shared * chunk, -1), _gather(key, self.keys).transpose(1, 2),
            _gather(value, self.keys).transpose(1, 2), attn_mask=self.mask, scale=scale,
        )  # fmt: skip
        found = found.view(rows, heads, shared, chunk, -1).permute(0, 3, 1, 2, 4)
        return found.reshape(rows * chunk, heads * shared, -1)[: self.count]


@dataclass(frozen=True, slots=True, kw_only=True)
class RaggedForest:
    """A batch as sequences of unequal length, for flash-attn. S = runs of tokens between branches."""

    length: int  # of the longest sequence
    keys: Int[Tensor, " keys"]
    query_ends: Int[Tensor, " S+1"]  # int32, cumulative
    key_ends: Int[Tensor, " S+1"]
    longest_query: int
    longest_key: int
    flash: Attention  # flash_attn_varlen_func, whose causal mask ends at the last key of the last query

    @classmethod
    def of(cls, batch: Batch, *, device: torch.device, flash: Attention) -> RaggedForest:
        """Cut a batch where it branches."""
        plan = chains(batch)
        return cls(
            length=int(batch.positions.max()) + 1, keys=torch.from_numpy(plan.keys).to(device),
            query_ends=torch.from_numpy(plan.query_ends).to(device, torch.int32),
            key_ends=torch.from_numpy(plan.key_ends).to(device, torch.int32),
            longest_query=int((plan.query_ends[1:] - plan.query_ends[:-1]).max()),
            longest_key=int((plan.key_ends[1:] - plan.key_ends[:-1]).max()), flash=flash,
        )  # fmt: skip

    def attend(
        self, query: Float[Tensor, "Q M D"], key: Float[Tensor, "H M D"], value: Float[Tensor, "H M D"],
        scale: float | None,
    ) -> Float[Tensor, "M Q D"]:  # fmt: skip
        """Attend run by run."""
        return self.flash(
            query.transpose(0, 1).contiguous(), _gather(key, self.keys), _gather(value, self.keys),
            self.query_ends, self.key_ends, self.longest_query, self.longest_key, softmax_scale=scale, causal=True,
        )  # fmt: skip


def forest_of(batch: Batch, *, device: torch.device, dtype: torch.dtype, shared: int) -> Forest | RaggedForest:
    """Choose the layout: flash-attn on GPU where it is installed and the type is a half one, else masked rows."""
    half = dtype in (torch.bfloat16, torch.float16)
    if device.type == "cuda" and half and importlib.util.find_spec("flash_attn"):
        from flash_attn import flash_attn_varlen_func

        return RaggedForest.of(batch, device=device, flash=flash_attn_varlen_func)
    return Forest.of(batch, device=device, dtype=dtype, shared=shared)


def attend(
    module: Any, query: Float[Tensor, "1 Q M D"], key: Float[Tensor, "1 H M D"], value: Float[Tensor, "1 H M D"],
    attention_mask: Tensor | None, *, scaling: float | None = None, forest: Forest | RaggedForest | None = None,
    sliding_window: int | None = None, softcap: float | None = None, s_aux: Tensor | None = None, **_: Any,
) -> tuple[Float[Tensor, "1 M Q D"], None]:  # fmt: skip
    """Attend within a forest; without one, causally. Q = query heads, H = key heads.

    Errors: ModelError where the model asks for more than that: a window shorter than a sequence, a cap, sinks.
    """
    length = forest.length if forest else query.shape[2]
    if sliding_window and length > sliding_window:
        raise ModelError(f"the model attends within {sliding_window} tokens only, and a sequence has {length}")
    if softcap is not None or s_aux is not None:
        raise ModelError("the model's attention has a soft cap or sinks, which this learner does not do")
    if forest is None:
        out = functional.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=True)
        return out.transpose(1, 2), None
    return forest.attend(query[0], key[0], value[0], scaling)[None], None


def _gather(source: Float[Tensor, "H M D"], keys: Int[Tensor, " *K"]) -> Float[Tensor, " *K H D"]:
    table = source.transpose(0, 1)
    gathered = functional.embedding(keys, table.reshape(len(table), -1))  # its backward pass is a fast sum by index
    return gathered.view(*keys.shape, *table.shape[1:])


def register() -> None:
    """Make the implementation known to `transformers`. Its masks are ours, so that it makes none."""
    from transformers import AttentionInterface

    AttentionInterface.register(IMPLEMENTATION, attend)
