"""Push hundreds of versions to real engines while they sample, with faults in many of the pushes, and look for leaks.

python benchmarks/weights_soak.py [--versions 500] [--seed 0]      results: benchmarks/results/weights_soak.json

A model of 80,000 parameters on two workers trains at each version on what was sampled, so that all weights change.
Faults strike at random: pushes that must be refused are pushed again, workers that are killed or hang are replaced.
Whether the engines ran the weights that their tokens are stamped with is looked at from outside of the weight law: the
learner, at the version of the tokens, computes their log-probabilities again (`mismatch_lag_0`).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import ray

from rlvr.config import Recipe
from rlvr.errors import RlvrError, WeightProofError, cause_of
from rlvr.learner.algorithm import Totals
from rlvr.loop import workers
from rlvr.loop.cluster import Cluster
from rlvr.observe.metrics import write_json
from rlvr.testing import task, tiny_model
from rlvr.types import Grade, Rollout, Task
from rlvr.weights.faults import REFUSED, Fault

RESULTS = Path(__file__).parent / "results" / "weights_soak.json"
TASKS = [task(f"What is {n} + {n}?", str(2 * n)) for n in range(4)]
DEADLINE_S = 20.0
LONGEST = 64  # reply, tokens
WRONG = 0.1  # nats: what other weights show is several times that, what rounding shows a tenth
# faults by how often one of 100 pushes has it; a kill or a hang costs the start of an engine
SHARES = {**dict.fromkeys(REFUSED, 5), "weights.duplicate": 5, "weights.reorder": 5, "weights.slow": 1}
DEADLY = ("weights.kill", "weights.hang")


class Distinct:
    """Score how many different tokens a reply has: something that keeps a policy from settling on one reply.

    A policy that has settled gives groups without a gradient, and pushes of the weights that are there already.
    """

    def grade(self, task: Task, rollout: Rollout) -> Grade:
        """Look at the tokens."""
        return Grade(verdict=None, score=len(set(rollout.token_ids.tolist())) / LONGEST)


def recipe(model: Path) -> Recipe:
    """Give the recipe of the soak."""
    return Recipe.model_validate(
        {
            "name": "soak", "steps": 1, "model": {"path": str(model)}, "environment": {"name": "arithmetic"},
            "reward": ({"name": "weights_soak:Distinct"},),
            "weights": {"deadline_s": DEADLINE_S}, "algorithm": {"learning_rate": 1e-3},
            "rollout": {"workers": 2, "prompts_per_step": 4, "group_size": 2, "max_new_tokens": LONGEST,
                        "max_model_len": 256, "max_num_seqs": 16, "max_staleness": 1},
        }
    )  # fmt: skip


class Soak:
    """The state of the soak: what was pushed, and what came of it."""

    def __init__(self, cluster: Cluster, *, seed: int) -> None:
        self.cluster, self.random, self.version = cluster, random.Random(seed), 0
        self.counts: Counter[str] = Counter()
        self.mismatch: list[float] = []
        self.stalls: list[float] = []
        self.memory: list[float] = []

    def push(self, fault: str) -> None:
        """Push the next version while all workers sample; push again what had to be refused; then train on it."""
        self.version += 1
        running = self.ask()
        self.counts[fault or "none"] += 1
        if fault in REFUSED:
            try:
                self.publish(fault)
            except WeightProofError:
                self.counts["refused"] += 1
            else:
                self.counts["UNDETECTED"] += 1
        self.publish("" if fault in REFUSED else fault)
        self.collect(running)
        self.train()

    def publish(self, fault: str) -> None:
        service = self.cluster._service
        ray.get(service.inject.remote(Fault(kind=fault, version=self.version) if fault else None))
        try:
            published = ray.get(service.publish.remote(self.version), timeout=8 * DEADLINE_S)
        except ray.exceptions.RayTaskError as error:
            raise cause_of(error) from None
        self.cluster._workers.heed(published)
        self.stalls += [receipt.stall_seconds for receipt in published.receipts]
        self.counts["lost"] += len(published.lost)

    def ask(self) -> list[tuple[Any, Any]]:
        """Start a group of every task on every worker."""
        handles = self.cluster._workers.ready().values()
        seeds = [self.random.getrandbits(40) for _ in TASKS]
        return [tuple(h.run.remote(t, 2, s, False)) for h in handles for t, s in zip(TASKS, seeds, strict=True)]

    def collect(self, running: list[tuple[Any, Any]]) -> None:
        """Look at the groups that were under way: of the versions that were served, or failed with a reason."""
        for header, _ in running:
            try:
                found = ray.get(header, timeout=4 * DEADLINE_S)
            except ray.exceptions.RayActorError:
                self.counts["groups of a lost worker"] += 1
            except ray.exceptions.RayTaskError as error:
                self.counts["groups not given out"] += isinstance(cause_of(error), RlvrError)
            else:
                right = self.version - 1 <= found.min_version <= found.max_version <= self.version
                self.counts["groups in flight" if right else "UNDETECTED"] += 1
                self.counts["groups of two versions"] += found.min_version < found.max_version

    def train(self) -> None:
        """Sample under the version, compare with the learner, and let the learner take a step."""
        arrived = [(ray.get(header, timeout=4 * DEADLINE_S), group) for header, group in self.ask()]
        wrong = [h for h, _ in arrived if (h.min_version, h.max_version) != (self.version, self.version)]
        self.counts["UNDETECTED"] += len(wrong)
        totals = Totals(loss_tokens=sum(sum(h.lengths) for h, _ in arrived), sequences=2 * len(arrived))
        learner = self.cluster._learner
        told = ray.get(learner.step.remote([group for _, group in arrived], totals), timeout=4 * DEADLINE_S)
        if "mismatch" not in told:
            self.counts["no gradient"] += 1
            return
        self.mismatch.append(told["mismatch"])
        self.counts["UNDETECTED"] += told["mismatch"] > WRONG

    def measure(self) -> dict[str, Any]:
        """Give what may leak. An engine's memory grows, too, until every block of its KV cache has been used once."""
        own = psutil.Process()
        megabytes, descriptors = Counter[str](), Counter[str]()
        for one in [own, *own.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                name = "driver" if one == own else one.name()
                used, opened = one.memory_full_info().uss / 1e6, one.num_fds()
                megabytes[name] += round(used)
                descriptors[name] += opened
        folder = self.cluster._folder
        return {
            "version": self.version, "megabytes": dict(megabytes), "descriptors": dict(descriptors),
            "dev_shm_mb": round(psutil.disk_usage("/dev/shm").used / 1e6),
            "files": len(list(folder.iterdir())) if folder else -1,
        }  # fmt: skip

    def told(self, measured: list[dict[str, Any]], *, seconds: float) -> dict[str, Any]:
        """Give what came of it so far."""
        return {
            "versions": self.version, "seconds": round(seconds), "undetected": self.counts["UNDETECTED"],
            "counts": dict(self.counts), "mismatch_mean": round(statistics.fmean(self.mismatch), 4),
            "mismatch_max": round(max(self.mismatch), 4), "stall_median_s": round(statistics.median(self.stalls), 4),
            "stall_max_s": round(max(self.stalls), 4), "measured": measured,
        }  # fmt: skip


def chosen(versions: int, *, seed: int, deadly: int) -> dict[int, str]:
    """Choose which pushes are struck by what."""
    dice = random.Random(seed)
    found = {}
    for version in range(1, versions + 1):
        roll = dice.uniform(0, 100)
        for fault, share in SHARES.items():
            roll -= share
            if roll < 0:
                found[version] = fault
                break
    for place, version in enumerate(sorted(dice.sample(range(20, versions - 20), deadly))):
        found[version] = DEADLY[place % 2]
    return found


def main() -> None:
    """Run the soak and write what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--versions", type=int, default=500)
    parser.add_argument("--deadly", type=int, default=8, help="kills and hangs, in turn")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    workers.MOST_RESTARTS = 10**6
    os.chdir(Path(__file__).parent)  # where workers find the reward
    faults = chosen(options.versions, seed=options.seed, deadly=options.deadly)
    start, said = time.monotonic(), list[str]()
    with tempfile.TemporaryDirectory() as folder:
        model = tiny_model(Path(folder), tied=True)
        with Cluster(recipe(model), model=model, warn=said.append) as cluster:
            cluster.prove(TASKS, 0, fault=None)
            soak, measured = Soak(cluster, seed=options.seed), []
            for version in range(1, options.versions + 1):
                soak.push(faults.get(version, ""))
                if version % 25 == 0:
                    while len(cluster._workers.ready()) < 2:
                        time.sleep(0.2)
                    measured.append(soak.measure())
                    print(json.dumps(measured[-1]), flush=True)
                    write_json(RESULTS, soak.told(measured, seconds=time.monotonic() - start))
            shared = cluster._folder
    result = soak.told(measured, seconds=time.monotonic() - start)
    result["folder_left"] = bool(shared and shared.exists())
    write_json(RESULTS, result)
    print(json.dumps({k: v for k, v in result.items() if k != "measured"}, indent=1))


if __name__ == "__main__":
    main()
