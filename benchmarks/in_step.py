"""Check on real engines that training with max_staleness = 0 is a plain loop: sample, learn, push, one by one.

python benchmarks/in_step.py [--steps 3]                            results: benchmarks/results/in_step.json

The quick start recipe runs twice from the same model: through the stream of tickets, as in `rlvr train`, and by a loop
of a few lines. Both have to ask for the same tasks with the same seeds, and every token has to come from the weights of
its step. The plain loop's learner is given the stream's rollouts: losses, and all files of the checkpoint at the end,
have to be the same, bit by bit. So both have the same weights at each step, and what the engines sampled under them may
be compared token by token; a CPU engine rounds by batch mates, so that some replies part on the way.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any

import ray

from rlvr import plugins
from rlvr.config import Recipe, load_recipe
from rlvr.learner.model import prepare
from rlvr.loop.cluster import Cluster
from rlvr.loop.ledger import Place, TaskStream, eval_tasks
from rlvr.loop.settings import buffer_of, precision_of
from rlvr.loop.stream import Stream
from rlvr.observe.metrics import write_json
from rlvr.rollout.runner import seed_of
from rlvr.types import Group, GroupHeader

HOME = Path(__file__).resolve().parent
RECIPE, RESULTS = HOME.parent / "launch" / "quickstart_cpu.toml", HOME / "results" / "in_step.json"


@dataclass
class Run:
    """Of every step what was sampled and the loss; of the checkpoint at the end the digest of each file."""

    sampled: list[list[tuple[GroupHeader, Group]]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)

    def keep(self, cluster: Cluster, arrived: list[tuple[GroupHeader, Any]]) -> None:
        """Keep what was sampled for a step."""
        groups = cluster.fetch([group for _, group in arrived])
        self.sampled.append([(header, group) for (header, _), group in zip(arrived, groups, strict=True)])

    def end(self, cluster: Cluster) -> Run:
        """Save a checkpoint and keep its digests."""
        with tempfile.TemporaryDirectory() as folder:
            cluster.save(place := Path(folder) / "checkpoint", {})
            for file in sorted(path for path in place.rglob("*") if path.is_file()):
                self.digests[str(file.relative_to(place))] = hashlib.blake2b(file.read_bytes()).hexdigest()
        return self


def streamed(cluster: Cluster, recipe: Recipe, tasks: TaskStream) -> Run:
    """Train as a run does."""
    stream = Stream(cluster, tasks, buffer_of(recipe), recipe=recipe, step=0, worthwhile=lambda headers: True)
    run = Run()
    for step in range(recipe.steps):
        taken = stream.take()
        run.keep(cluster, taken.arrived)
        run.losses.append(stream.learn(taken.admitted)["loss"])
        stream.publish(step + 1)
    stream.settle()
    return run.end(cluster)


def plain(cluster: Cluster, recipe: Recipe, tasks: TaskStream, *, given: Run) -> Run:
    """Take one step after the other: sample, train on the groups that are given instead, push."""
    run, size, buffer = Run(), recipe.rollout.prompts_per_step, buffer_of(recipe)
    for step, groups in enumerate(given.sampled):
        seeds = [seed_of(recipe.seed, step, place) for place in range(size)]
        sampled = cluster.rollout(list(tasks.take(size).values()), seeds, group_size=recipe.rollout.group_size)
        run.keep(cluster, sampled)
        theirs = buffer.admit([(header, ray.put(group)) for header, group in groups], step)
        learned = cluster._learner.step.remote(list(theirs.references), theirs.totals)
        run.losses.append(ray.get(learned)["loss"])
        ray.get(cluster._service.publish.remote(step + 1))
    return run.end(cluster)


def on_policy(run: Run) -> bool:
    """Tell whether every token comes from the weights that its step began with."""
    spans = ((k, span) for k, step in enumerate(run.sampled) for _, g in step for r in g.rollouts for span in r.spans)
    return all(span.version == step for step, span in spans)


def asked(run: Run) -> list[list[tuple[str, int]]]:
    """Give the tasks of each step and the seeds that they were sampled with."""
    return [[(header.task_id, header.seed) for header, _ in step] for step in run.sampled]


def equal(one: Run, other: Run) -> Iterator[dict[str, Any]]:
    """Compare what was sampled at each step; a token counts as equal up to the first that differs in its reply."""
    for step, (a, b) in enumerate(zip(one.sampled, other.sampled, strict=True), 1):
        pairs = [
            (x.token_ids.tolist(), y.token_ids.tolist())
            for (_, g), (_, h) in zip(a, b, strict=True)
            for x, y in zip(g.rollouts, h.rollouts, strict=True)
        ]
        same = sum(len(list(takewhile(lambda both: both[0] == both[1], zip(*pair, strict=False)))) for pair in pairs)
        yield {
            "step": step, "replies": len(pairs), "equal_replies": sum(x == y for x, y in pairs),
            "tokens": sum(len(x) for x, _ in pairs), "equal_tokens": same,
        }  # fmt: skip


def main() -> int:
    """Run both, compare, and write what came of it. Gives 1 where more differs than what was sampled."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3)
    recipe = load_recipe(RECIPE, overrides=[f"steps={parser.parse_args().steps}"])
    environment = plugins.create(plugins.ENVIRONMENTS, recipe.environment.name, recipe.environment.options)
    held_out = eval_tasks(environment, name=recipe.environment.name, count=recipe.eval.tasks)
    runs: list[Run] = []
    for _ in range(2):
        tasks = TaskStream(environment, name=recipe.environment.name, seed=recipe.seed, place=Place())
        with Cluster(recipe, model=prepare(recipe.model.path), warn=print) as cluster:
            cluster.prove(held_out, 0, fault=None)
            one = plain(cluster, recipe, tasks, given=runs[0]) if runs else streamed(cluster, recipe, tasks)
            runs.append(one)
    first, second = runs
    steps = list(equal(first, second))
    told = {
        "recipe": str(RECIPE.relative_to(HOME.parent)), "precision": precision_of(recipe), "losses": first.losses,
        "same_tasks_and_seeds": asked(first) == asked(second), "on_policy": on_policy(first) and on_policy(second),
        "equal_losses": first.losses == second.losses and any(first.losses),
        "files_of_the_checkpoint": sorted(first.digests), "equal_files": first.digests == second.digests,
        "equal_tokens": round(sum(s["equal_tokens"] for s in steps) / sum(s["tokens"] for s in steps), 4),
        "steps": steps,
    }  # fmt: skip
    write_json(RESULTS, told)
    print(json.dumps(told, indent=1))
    held = told["same_tasks_and_seeds"], told["on_policy"], told["equal_losses"], told["equal_files"]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
