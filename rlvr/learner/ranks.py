"""Several learner ranks: processes that hold a share of one model each, sharded by FSDP2, and work as one learner.

Every rank knows all samples and computes its share of the batches; gradients, metrics and scores are then added up, so
that all ranks go on from the same numbers. Calls in which ranks meet must come in the same order on all of them.
With one rank every function here gives back what it was given, and torch.distributed is never touched.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from rlvr.errors import BoundaryError, LearnerError, RlvrError, boundary
from rlvr.types import Batch

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from rlvr.learner.body import Body

__all__ = ["Ranks", "free_port", "is_sharded", "share_of", "whole"]

_NOTHING = np.zeros(0, dtype=np.int64)
# What a rank runs when there are fewer batches than ranks: the others wait for its part of every layer.
FILLER = Batch(
    token_ids=np.zeros(1, dtype=np.int64), positions=np.zeros(1, dtype=np.int64), ends=np.ones(1, dtype=np.int64),
    parents=np.full(1, -1), scored=_NOTHING, scored_at=_NOTHING, samples=_NOTHING, places=_NOTHING,
)  # fmt: skip


@dataclass(eq=False, kw_only=True)
class Ranks:
    """The ranks of one learner, seen from one of them. `host` and `port` say where rank 0 listens."""

    count: int = 1
    rank: int = 0
    host: str = "127.0.0.1"
    port: int = 0
    deadline_s: float = 300.0  # for the start, and for a rank to wait for the others in one exchange
    _models: list[Any] = field(default_factory=list)
    _store: Any = None

    def of(self, rank: int) -> Ranks:
        """Give the same ranks as another one of them sees them."""
        return replace(self, rank=rank, _models=[], _store=None)

    def join(self, device: torch.device) -> None:
        """Meet the other ranks. Errors: LearnerError where they do not come in time."""
        import torch
        from torch import distributed

        if self._store is not None:
            return
        limit = timedelta(seconds=self.deadline_s)
        if device.type == "cuda":
            torch.cuda.set_device(device)  # Ray shows each rank one GPU
        try:
            with boundary("joining"):
                self._store = distributed.TCPStore(  # type: ignore[attr-defined]
                    self.host, self.port, self.count, self.rank == 0, limit
                )
                distributed.init_process_group(
                    "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
                    store=self._store, rank=self.rank, world_size=self.count, timeout=limit,
                )  # fmt: skip
        except BoundaryError as error:
            raise LearnerError(
                f"learner rank {self.rank} did not meet the {self.count - 1} other(s) at {self.host}:{self.port} "
                f"within {self.deadline_s:g} s ({error.reason}); hardware.ranks must not be more than there are devices"
            ) from error

    def leave(self) -> None:
        """Part from the other ranks, which ends whatever they wait for from this one."""
        if self._store is not None:
            from torch import distributed

            if distributed.is_initialized():
                distributed.destroy_process_group()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Make a failure of one rank within the block the failure of all, by one sentence that names the first.

        A LearnerError passes: it comes of numbers that all ranks share, so that all raise it at the same place.
        """
        if self.count == 1:
            yield
            return
        try:
            with boundary(f"learner rank {self.rank}"):
                yield
        except LearnerError:
            raise
        except RlvrError as error:
            first = self._first_failure(str(error))
            self.leave()
            if first == str(error) and not isinstance(error, BoundaryError):
                raise
            raise LearnerError(first) from error

    def _first_failure(self, mine: str) -> str:
        """Give what the first rank to fail said of it; those that failed because of it come later."""
        with suppress(BoundaryError), boundary("the other ranks"):  # rank 0, which keeps this, may be gone
            if self._store is not None:
                return str(self._store.compare_set("failure", "", mine).decode())
        return mine

    def shard(self, body: Body, *, dtype: torch.dtype) -> None:
        """Leave this rank its share of a model's float32 weights. It computes in `dtype`; gradients add up in float32.

        Layers are gathered one at a time. Embedding and head stay gathered from a forward pass to the end of its
        backward pass: the head is used after the layers, outside of them.
        """
        if self.count == 1:
            return
        import torch
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

        from rlvr.learner.body import layers_of

        model = body.model
        self.join(body.device)
        mesh = init_device_mesh(body.device.type, (self.count,))
        policy = MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32)
        for module in [*layers_of(model), model]:
            fully_shard(module, mesh=mesh, mp_policy=policy)
            assert isinstance(module, FSDPModule)
            module.set_gradient_divide_factor(1.0)  # a sum, not a mean: denominators are those of the whole step
            module.set_force_sum_reduction_for_comms(True)  # gloo knows sums only
        if model.base_model is not model:  # its layers run without its forward pass, whose hooks they need
            model.run_layers = lambda **inputs: model.base_model(**inputs)
            register_fsdp_forward_method(model, "run_layers")
            body.run_layers = model.run_layers
        body.sharded = dtype
        with torch.no_grad():
            body.states(FILLER)  # in the first pass FSDP notes what learns, and an adapter may be off in the next one
        model.reshard()
        self._models.append(model)

    def share(self, batches: Sequence[Batch]) -> Sequence[Batch]:
        """Give this rank's batches, as many as every other has."""
        if self.count == 1:
            return batches
        return [b if len(b.token_ids) else FILLER for b in batches[self.rank :: self.count]]

    def total(self, sums: Mapping[str, float]) -> Counter[str]:
        """Add up metrics over the ranks, in the same order on all."""
        if self.count == 1:
            return Counter(sums)
        from torch import distributed

        told: list[Any] = [None] * self.count
        distributed.all_gather_object(told, dict(sums))
        whole: Counter[str] = Counter()
        for one in told:
            whole.update(one)
        return whole

    def combine(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Add up arrays in which every rank has filled in its share. What scoring left gathered is let go."""
        if self.count == 1 or not arrays:
            return arrays
        import torch
        from torch import distributed

        for model in self._models:
            model.reshard()  # weights that change while a copy of them stands gathered would not be seen
        joined = torch.from_numpy(np.concatenate(arrays))
        distributed.all_reduce(joined)
        return np.split(joined.numpy(), np.cumsum([len(array) for array in arrays])[:-1])

    def gather(self, tree: Any) -> Any:
        """Gather the sharded tensors within dicts and lists, one at a time, in the memory of rank 0's host."""
        if self.count == 1:
            return tree
        if isinstance(tree, Mapping):
            return {name: self.gather(value) for name, value in tree.items()}
        if isinstance(tree, list):
            return [self.gather(value) for value in tree]
        if not is_sharded(tree):
            return tree
        found = whole(tree)
        return None if self.rank else found.cpu()


def free_port() -> int:
    """Give a port of this host that nobody listens on, for rank 0 to."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def is_sharded(tensor: Any) -> bool:
    """Tell whether a tensor is one rank's share, a DTensor. Does not load torch.distributed, as a type check would."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """Give a tensor whole, on every rank; all of them must ask."""
    full: Callable[[], Tensor] | None = getattr(tensor, "full_tensor", None)
    return full() if full else tensor


def share_of(tensor: Tensor, like: Tensor) -> Tensor:
    """Give this rank's share of a whole tensor, cut as `like` is. Nothing is sent."""
    if not is_sharded(like) or tensor.shape != like.shape:
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(like, DTensor)
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)
