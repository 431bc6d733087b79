"""From gradients to new weights: float32 masters of what is kept in a smaller type."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from rlvr.learner.ranks import is_sharded, share_of, whole

__all__ = ["Updater"]


class Updater:
    """AdamW over float32 masters. Gradients of a smaller type are added up in float32 as they arrive.

    Weights are rounded to `weights` and compute in `dtype`. A parameter that is float32 in both, as those named in
    `exact` always are, is its own master; so is one that ranks share, which is rounded when they gather it. `groups`
    are AdamW's parameter groups, over the model's parameters.
    """

    def __init__(
        self, named: Mapping[str, nn.Parameter], *, dtype: torch.dtype, weights: torch.dtype | None = None, rate: float,
        betas: tuple[float, float], eps: float, weight_decay: float, groups: list[dict[str, Any]] | None = None,
        exact: Collection[str] = (),
    ) -> None:  # fmt: skip
        weights = weights or dtype
        self._working, self._weights = dict(named), weights
        self.masters: dict[str, nn.Parameter] = {}
        for name, parameter in named.items():
            if weights == torch.float32 or name in exact or is_sharded(parameter):
                self.masters[name] = parameter
                continue
            self.masters[name] = nn.Parameter(parameter.data.float())
            parameter.data = parameter.data.to(weights).to(dtype)
            parameter.register_post_accumulate_grad_hook(_collector(self.masters[name]))
        owners = {id(parameter): self.masters[name] for name, parameter in named.items()}
        groups = groups or [{"params": list(named.values()), "lr": rate}]
        self.optimizer = torch.optim.AdamW(
            [group | {"params": [owners[id(p)] for p in group["params"]]} for group in groups],
            lr=rate, betas=betas, eps=eps, weight_decay=weight_decay, fused=True,
        )  # fmt: skip
        for group in self.optimizer.param_groups:
            group["base_rate"] = group["lr"]

    def gradient_norm(self, *, limit: float) -> float:
        """Scale the gradients so that their norm is at most `limit`, and give it as it was before."""
        # no call of torch takes both what ranks share and what is whole
        parts = [[p for p in self.masters.values() if is_sharded(p) is shared] for shared in (True, False)]
        norms = [nn.utils.get_total_norm([p.grad for p in part if p.grad is not None]) for part in parts]
        norm = math.hypot(*(float(whole(one)) for one in norms))
        for part in parts:
            nn.utils.clip_grads_with_norm_(part, limit, torch.tensor(norm))
        return norm

    def update(self, *, share: float, then: Callable[[], None] | None = None) -> None:
        """Take an optimizer step at `share` of the learning rates, call `then`, and forget the gradients."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_rate"] * share
        self.optimizer.step()
        if then:
            then()
        self.forget()
        self.publish()

    def forget(self) -> None:
        """Drop the gradients."""
        self.optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def publish(self) -> None:
        """Round the masters into the weights that compute."""
        for name, parameter in self._working.items():
            if parameter is not self.masters[name]:
                parameter.copy_(self.masters[name].to(self._weights))

    @torch.no_grad()
    def restore(self, masters: Mapping[str, Tensor], optimizer: Mapping[str, Any]) -> None:
        """Take up masters and the optimizer's moments of a checkpoint; rates and the like are the recipe's."""
        for name, master in self.masters.items():
            master.copy_(share_of(masters[name], master))
        parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        known = optimizer["state"].items()
        state = {place: {n: share_of(t, parameters[place]) for n, t in moments.items()} for place, moments in known}
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": state})
        self.publish()


def _collector(master: nn.Parameter) -> Any:
    @torch.no_grad()
    def collect(parameter: nn.Parameter) -> None:
        arrived = parameter.grad
        assert arrived is not None
        if master.grad is None:
            master.grad = arrived.float()
        else:
            master.grad.add_(arrived)
        parameter.grad = None

    return collect
