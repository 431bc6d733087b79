"""Which host runs whom, where a run joins a cluster that has several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

__all__ = ["at", "cores_of", "hosts"]


def hosts() -> list[str]:
    """Give the ids of the living nodes, this one first."""
    here = str(ray.get_runtime_context().get_node_id())
    return [here, *sorted(str(n["NodeID"]) for n in ray.nodes() if n["Alive"] and n["NodeID"] != here)]


def at(node: str, *, instead: bool = False) -> dict[str, Any]:
    """Give Ray's options for an actor on one node, or `instead` on another if that one is gone."""
    return {"scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=instead)}


def cores_of(
    place: int, *, workers: int, hosts: int, cores: Sequence[int], beside_learner: bool = False
) -> tuple[int, ...]:
    """Give the share of a host's cores that a worker gets. Workers go round the hosts, which have the same cores.

    On the learner's host, the first, workers have half where it computes meanwhile, or one each where that is more: the
    fewer of a worker's threads wait for each other, the less time of theirs is lost.
    """
    beside = len(range(place % hosts, workers, hosts))
    free = cores[: max((len(cores) + 1) // 2, beside)] if beside_learner and place % hosts == 0 else cores
    return tuple(free[place // hosts :: beside]) if beside <= len(free) else tuple(free)
