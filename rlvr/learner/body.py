"""A causal language model that takes forests of tokens."""

from __future__ import annotations

import copy
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from rlvr.core.logprobs import token_logprobs
from rlvr.core.packing import pack
from rlvr.errors import ModelError
from rlvr.learner.attention import forest_of
from rlvr.types import Batch, Sample

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jaxtyping import Float, Int

__all__ = ["Body", "States", "plain_sample"]


@dataclass(frozen=True, slots=True, kw_only=True)
class States:
    """Hidden states that predict. S = distinct ones, U = tokens scored in the forest, N = loss tokens."""

    hidden: Float[Tensor, "S H"]
    rows: Int[Tensor, " U"]  # which state predicts a scored token
    at: Int[Tensor, " N"]  # which scored token a loss token is


class Body:
    """A model with what a forward pass needs. `head` is the output head's weight, [V, H]."""

    def __init__(self, model: Any, *, temperature: float = 1.0) -> None:
        self.model, self.temperature = model, temperature
        self.run_layers: Callable[..., Any] = model.base_model
        self.sharded: torch.dtype | None = None  # the type of the matrix products, where `Ranks.shard` was here

    def at(self, temperature: float) -> Body:
        """Give the same model with another temperature."""
        other = copy.copy(self)
        other.temperature = temperature
        return other

    @property
    def head(self) -> Tensor:
        """Give the weight of the output head, tied or not."""
        return self.model.get_output_embeddings().weight

    @property
    def device(self) -> torch.device:
        """Give where the model lives."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Give the type of the matrix products."""
        return self.sharded or self.model.get_input_embeddings().weight.dtype

    def states(self, batch: Batch) -> States:
        """Run the layers, and give the last hidden states that predict a batch's scored tokens, each once."""
        sources, rows = np.unique(batch.parents[batch.scored], return_inverse=True)
        hidden = self.run_layers(
            input_ids=self._tensor(batch.token_ids)[None],
            position_ids=self._tensor(batch.positions)[None],
            forest=forest_of(batch, device=self.device, dtype=self.dtype, shared=self._shared_heads()),
            use_cache=False,
        ).last_hidden_state[0]
        return States(hidden=hidden[self._tensor(sources)], rows=self._tensor(rows), at=self._tensor(batch.scored_at))

    def logprobs(
        self, batch: Batch, *, states: States | None = None
    ) -> tuple[Float[Tensor, " N"], Float[Tensor, " N"]]:
        """Give log-probabilities of a batch's loss tokens and the entropies behind them, after temperature, in nats."""
        states = states or self.states(batch)
        targets = self._tensor(batch.token_ids[batch.scored])
        logprobs, entropy = token_logprobs(
            states.hidden, self.head, targets, rows=states.rows, temperature=self.temperature
        )
        return logprobs[states.at], entropy[states.rows][states.at]

    def _shared_heads(self) -> int:
        config = self.model.config.get_text_config()
        heads: int = config.num_attention_heads
        return heads // (getattr(config, "num_key_value_heads", None) or heads)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def check_window(self, folder: Path, *, max_length: int | None) -> None:
        """Make sure that no sequence is longer than the layers attend. Errors: ModelError."""
        config = self.model.config.get_text_config()
        window = getattr(config, "sliding_window", None)
        if "sliding_attention" not in (getattr(config, "layer_types", None) or ["sliding_attention"]):
            return  # a window that no layer uses
        if window and max_length and max_length > window:
            raise ModelError(
                f"the model in {folder} attends within {window} tokens only, and rollout.max_model_len = {max_length} "
                f"lets a sequence be longer; lower it to {window} or choose another model"
            )

    @torch.no_grad()
    def check(self, folder: Path) -> None:
        """Make sure that a forest gives what plain sequences give. Errors: ModelError says what differs."""
        streams = ([1, 2, 3, 4, 5, 6], [1, 2, 3, 5, 7], [1, 2, 3, 4, 6, 2, 9])
        sequences = [np.array(ids, dtype=np.int32) for ids in streams]
        samples = [plain_sample(ids[:2], ids[2:]) for ids in sequences]
        (batch,) = pack(samples, max_tokens=64)
        states = self.states(batch)
        ours, _ = self.logprobs(batch, states=states)
        for index, ids in enumerate(sequences):
            here = self._tensor(batch.samples == index)
            tokens = self._tensor(ids.astype(np.int64))[None]
            out = self.model(input_ids=tokens, use_cache=False, output_hidden_states=True)
            found = states.hidden[states.rows][states.at][here]
            plain = out.hidden_states[-1][0, 1:-1]
            if (found - plain).norm() > 1e-3 * plain.norm():
                raise ModelError(
                    f"the model in {folder} does not attend as the learner needs it (a sliding window, or attention "
                    "that is not causal), so that prompts cannot be shared between replies; choose another model"
                )
            logits = out.logits[0, 1:-1].float() / self.temperature
            whole = logits.log_softmax(-1).gather(1, tokens[0, 2:, None])[:, 0]
            if not torch.allclose(whole, ours[here].float(), atol=1e-3):
                raise ModelError(
                    f"the model in {folder} does more to its logits than multiply by the output head (a bias, a soft "
                    "cap or a scale), which this learner does not do"
                )

    def recompute_layers(self) -> None:
        """Keep only the input of each layer and compute the rest again going backward: gradient checkpointing.

        After `compile_layers` what is computed again is the compiled layer.
        """
        from torch.utils.checkpoint import checkpoint

        for layer in layers_of(self.model):
            layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False)

    def compile_layers(self) -> None:
        """Compile each layer, for sequences of any length."""
        for layer in layers_of(self.model):
            layer.forward = torch.compile(layer.forward, dynamic=True)


def layers_of(model: Any) -> Sequence[nn.Module]:
    """Give the decoder layers: the module list as long as the config says. Errors: ModelError."""
    wanted = model.config.get_text_config().num_hidden_layers
    for module in model.modules():
        if isinstance(module, nn.ModuleList) and len(module) == wanted:
            return list(module)
    raise ModelError(f"{type(model).__name__} has no list of its {wanted} layers, which gradient checkpointing needs")


def plain_sample(prompt_ids: np.ndarray, token_ids: np.ndarray, *, mask: np.ndarray | None = None) -> Sample:
    """Make a sample without credit, in order to score its tokens."""
    nothing = np.zeros(len(token_ids), dtype=np.float32)
    return Sample(
        group_id="", prompt_ids=np.asarray(prompt_ids, dtype=np.int32), token_ids=np.asarray(token_ids, dtype=np.int32),
        loss_mask=np.ones(len(token_ids), dtype=bool) if mask is None else mask,
        engine_logprobs=nothing, old_logprobs=nothing, advantages=nothing,
    )  # fmt: skip
