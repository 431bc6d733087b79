"""The policy: the model that is trained, all of it or an adapter on it, and what it was at the start."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from rlvr.learner.adapter import (
    AdapterSettings,
    after_optimizer_step,
    attach,
    before_optimizer_step,
    load_quantized,
    parameter_groups,
    reference_disabled,
)
from rlvr.learner.adapter_tensors import (
    MERGED_ONLY,
    adapter_state,
    load_adapter_state,
    pushed_tensors,
    save_adapter,
    served_tensors,
)
from rlvr.learner.body import Body
from rlvr.learner.model import load_model
from rlvr.learner.ranks import share_of, whole

if TYPE_CHECKING:
    from rlvr.learner.update import Updater
    from rlvr.types import Batch

__all__ = ["Part", "Policy"]

Part = Literal["model", "base", "adapter"]  # what is pushed: all in one, an adapter merged, or the two one by one


class Policy(Body):
    """A body with its trained parameters. The base of an adapter is frozen and kept in `dtype`, without masters.

    `dtype` is what is computed in and pushed, `weights` what weights are rounded to before.
    """

    def __init__(
        self, folder: Path, *, dtype: torch.dtype, weights: torch.dtype, device: str, temperature: float,
        adapter: AdapterSettings | None = None, shard: Callable[[Body], None] = lambda body: None,
        max_length: int | None = None,
    ) -> None:  # fmt: skip
        quantized = adapter is not None and adapter.kind == "qlora"
        model = load_quantized(folder) if quantized else load_model(folder).to(device)
        super().__init__(model, temperature=temperature)
        self.check_window(folder, max_length=max_length)
        if not quantized:  # a 4-bit model has no float32 to be checked in
            self.check(folder)
        self.settings, self.reference_folder = adapter, folder
        self._warmed = False  # then the adapter, too, was another one when reinforcement learning began
        self.compute, self.weights = dtype, weights
        self.adapter: Any = None
        self._frozen: Body | None = None
        if adapter:
            self.adapter = attach(self.model if quantized else self.model.to(dtype), adapter)
            self.model = self.adapter.get_base_model()
        self._shard = shard
        shard(self)

    def trained(self) -> dict[str, nn.Parameter]:
        """Give the parameters that learn, by name."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def groups(self, rate: float) -> list[dict[str, Any]]:
        """Give AdamW's parameter groups: one, but for LoRA+."""
        if self.adapter is None or self.settings is None:
            return [{"params": list(self.trained().values()), "lr": rate}]
        return parameter_groups(self.adapter, self.settings, learning_rate=rate)

    def before_update(self) -> None:
        """Add what an adapter's own regulariser adds to the gradient."""
        if self.adapter is not None:
            before_optimizer_step(self.adapter)

    def after_update(self, number: int) -> None:
        """Let an adapter follow its schedule of ranks. `number` counts the updates of the run from 1."""
        if self.adapter is not None:
            after_optimizer_step(self.adapter, number)

    def refer_to(self, folder: Path) -> None:
        """Let the model in a folder, which a warm start ended with, be the reference."""
        self.reference_folder, self._warmed, self._frozen = folder, True, None

    def reference(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Give `logprobs` of the policy that training started from: the adapter off, or a frozen copy of its own.

        The copy is loaded when it is first asked for. After a warm start there is one with an adapter too.
        """
        if self.adapter is not None and not self._warmed:
            with reference_disabled(self.adapter):
                return self.logprobs(batch)
        if self._frozen is None:
            model = load_model(self.reference_folder, dtype=self.compute).to(self.device).requires_grad_(False)
            for parameter in model.parameters():  # as the policy that training starts from
                parameter.data = parameter.data.to(self.weights).to(self.compute)
            self._frozen = Body(model, temperature=self.temperature)
            self._shard(self._frozen)
        return self._frozen.logprobs(batch)

    def tensors(self, part: Part = "model") -> Iterator[tuple[str, Tensor]]:
        """Yield every tensor by name as the engine takes it, in `compute`; a tied output head is named explicitly.

        An adapter is merged in float32, a matrix at a time, and rounded once; or left out, or given alone.
        """
        if self.adapter is not None:
            only = part == "adapter"
            found = pushed_tensors(self.adapter) if only else served_tensors(self.adapter, merged=part == "model")
            for name, tensor in found:
                yield name, tensor.detach().to(self.compute)
            return
        seen = set()
        for name, tensor in self.model.state_dict().items():
            seen.add(name)
            yield name, whole(tensor.detach().to(self.compute))
        if "lm_head.weight" not in seen:
            yield "lm_head.weight", whole(self.model.get_output_embeddings().weight.detach().to(self.compute))

    @contextlib.contextmanager
    def perturbed(self, updater: Updater, *, part: Part = "model") -> Iterator[None]:
        """Multiply a part's weights by 1 + 0.2 e, e ~ N(0, 1), within the block; put the exact ones back after it.

        The updater rounds its masters into the weights that have one apart; of the others a copy is kept.
        """
        generator = torch.Generator().manual_seed(0)
        named = self.model.named_parameters()
        own = {n: p for n, p in named if part == "model" or (".lora_" in n) == (part == "adapter")}
        kept = {name: p.detach().clone() for name, p in own.items() if updater.masters.get(name, p) is p}
        # a zero, as in a fresh bias, would not move by a factor; B of a fresh adapter is all that would move the model
        fresh = 0.1 if part == "adapter" else 0.01
        with torch.no_grad():
            for p in own.values():
                noise = share_of(torch.randn(p.shape, generator=generator).to(p.device), p)
                p.copy_(torch.where(p == 0, fresh * noise, p * (1.0 + 0.2 * noise)))
        try:
            yield
        finally:
            updater.publish()
            with torch.no_grad():
                for name, exact in kept.items():
                    own[name].copy_(exact)

    def without_adapter(self) -> contextlib.AbstractContextManager[None]:
        """Make the policy the model that its adapter was attached to, within the block."""
        return reference_disabled(self.adapter)

    def state(self, masters: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Give what a resumed run needs of the weights: the float32 masters, or all of the adapter."""
        return adapter_state(self.adapter) if self.adapter is not None else dict(masters)

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take up an adapter as `state` gave it; masters are the updater's."""
        if self.adapter is not None:
            with torch.no_grad():
                load_adapter_state(self.adapter, state)

    def save_adapter(self, folder: Path) -> None:
        """Write the adapter as peft does, where there is one that fits the original base."""
        if self.adapter is not None and self.settings and self.settings.kind not in MERGED_ONLY:
            folder.mkdir()
            save_adapter(self.adapter, folder)
