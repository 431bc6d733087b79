"""The learner's end of vLLM's own GPU transports, `ipc` and `nccl`. The workers' end is `VllmEngine.transfer`."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Call", "Fanout", "Sender"]

Tensors = Callable[[], "Iterator[tuple[str, Tensor]]"]
# Runs one named step of a transfer on all workers and waits for them: call(step, one payload per worker).
Call = Callable[[str, Sequence[Any]], None]


class Fanout:
    """vLLM's weight-sync client protocol over several engines, each with a place of its own in the NCCL group."""

    def __init__(self, call: Call, *, workers: int) -> None:
        self._call, self._workers = call, workers

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Open the channel on every worker."""
        offset = init_info.get("rank_offset")
        shared = [dict(init_info) for _ in range(self._workers)]
        if offset is not None:
            shared = [info | {"rank_offset": offset + place} for place, info in enumerate(shared)]
        self._call("init", shared)

    def start_weight_update(self) -> None:
        """Wait until every worker is fenced and paused, then put its model into loading state."""
        self._call("start", [None] * self._workers)

    def update_weights(self, update_info: Any) -> None:
        """Let every worker receive."""
        self._call("update", [update_info] * self._workers)

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Finish loading. Versions are stamped by the weight law, after the proof, never here."""
        self._call("finish", [None] * self._workers)


class Sender:
    """Keeps the channel open between pushes."""

    def __init__(self, backend: str, call: Call, *, workers: int, tensors: Tensors) -> None:
        from rlvr.weights.transport import open_trainer

        self._trainer = open_trainer(backend, Fanout(call, workers=workers), world_size=workers + 1, tensors=tensors)

    def send(self) -> None:
        """Send all tensors once, to all workers."""
        self._trainer.send_weights()


def free_address() -> tuple[str, int]:
    """Give this host's address and a free port on it, for the workers to meet the learner at."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return socket.gethostbyname(socket.gethostname()), int(probe.getsockname()[1])
