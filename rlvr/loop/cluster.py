"""Ray: who runs where, and every wait with a deadline."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import ray

from rlvr.config import Recipe
from rlvr.errors import ConfigError, EngineError, ResourceError, brief
from rlvr.learner.actor import LearnerActor
from rlvr.learner.algorithm import Totals
from rlvr.learner.sft import Demonstration, SftSettings
from rlvr.loop.places import at, cores_of, hosts
from rlvr.loop.settings import (
    algorithm_of,
    learner_settings_of,
    payoff_of,
    products_of,
    rollout_settings_of,
    transport_of,
)
from rlvr.loop.traffic import Committed, Errand, Event, Learned, Traffic, resolve
from rlvr.loop.workers import START_S, Workers
from rlvr.observe.libraries import preloads
from rlvr.observe.recorder import make_recorder
from rlvr.rollout.actor import RolloutActor
from rlvr.rollout.engine import EngineSettings
from rlvr.rollout.grading import RewardSpec
from rlvr.types import Group, GroupHeader, Message, Task
from rlvr.weights.actor import WeightServiceActor
from rlvr.weights.export import shared_folder
from rlvr.weights.faults import Fault
from rlvr.weights.fetch import Receiver
from rlvr.weights.service import Published

__all__ = ["Cluster"]

Arrived = list[tuple[GroupHeader, Any]]
CANARY_SEQUENCES, CANARY_TOKENS = 4, 64
# Niceness of a learner beside engines: their steps are short, and replies wait for them.
YIELDING = 19
PULSE_S = 5.0  # for workers to answer what takes them no time


class Cluster:
    """The actors of one run: learner, rollout workers, weight service. Use it as a context manager."""

    def __init__(self, recipe: Recipe, *, model: Path, warn: Callable[[str], None]) -> None:
        self.recipe, self.model, self.warn = recipe, model, warn
        self._lost = 0  # grading processes
        self._counted: dict[str, int] = {}  # by worker
        self._payoff = payoff_of(recipe)
        self._folder: Path | None = None
        self._workers = Workers(
            self._make_worker, transport=transport_of(recipe), deadline_s=recipe.weights.deadline_s, warn=warn,
            joined=lambda name, handle: self._traffic.join(name, handle), left=lambda name: self._traffic.leave(name),
        )  # fmt: skip
        self._traffic = Traffic(
            deadline_s=recipe.rollout.deadline_s, newcomers=self._workers,
            lost=lambda name, error: self._workers.lost(name, f"died ({brief(error, limit=120)})"),
        )  # fmt: skip
        self._learner: Any = None
        self._service: Any = None
        self._recorder: Any = None
        self._recording: Any = None

    def __enter__(self) -> Cluster:
        """Start Ray, the learner and the workers."""
        _start_ray(self.recipe.hardware.ray_address)
        try:
            products, parent = products_of(self.recipe), self.recipe.weights.folder
            self._folder = shared_folder(self.model, dtype=products, parent=parent)
            settings = learner_settings_of(self.recipe, cores=len(os.sched_getaffinity(0)))
            self._learner = (
                cast(Any, LearnerActor)
                .options(**self._place(), **self._here())
                .remote(
                    str(self.model),
                    algorithm_of(self.recipe),
                    place=self._place() | self._here(),
                    niceness=YIELDING if self._overlaps else 0,
                    **settings,
                )
            )
            loading = self._learner.start.remote()
            starting = self._workers.begin(self.recipe.rollout.workers)
            self._workers.started(self._get(starting, START_S, "the engines to start"))
            self._get(loading, START_S, "the learner to load the model")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Shut everything down and remove the shared files."""
        try:
            self._workers.stop(20)
            ray.shutdown()
        finally:
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)

    def prove(self, tasks: Sequence[Task], version: int, *, fault: Fault | None) -> dict[str, float]:
        """Start the weight service, test it on perturbed weights, and bring all workers to `version`."""
        if fault and transport_of(self.recipe) in ("ipc", "nccl"):
            raise ConfigError(f"--inject works on transports of files only, not on {transport_of(self.recipe)}")
        if fault and fault.kind == "weights.stale_head" and self.recipe.weights.mode == "adapter":
            raise ConfigError(
                '--inject weights.stale_head needs a push of the head, which weights.mode = "adapter" lacks'
            )
        render = self._any_worker().render
        prompts = self._get([render.remote(t.messages) for t in tasks[:CANARY_SEQUENCES]], START_S, "the canary")
        sequences = [np.asarray(ids[-CANARY_TOKENS:]) for ids in prompts]
        self._service = cast(Any, WeightServiceActor).options(**self._here()).remote(
            self._learner, self._workers.serving, sequences=sequences, folder=str(self._folder),
            deadline_s=self._push_s(), fault=fault,
            transport=transport_of(self.recipe), adapter=self.recipe.weights.mode == "adapter",
        )  # fmt: skip
        deadline = START_S + 6 * self._push_s()  # the service's own deadlines come first
        proof = self._get(self._service.self_test.remote(version), deadline, "the weight self-test")
        self._workers.serve(self._service)
        return dict(proof)

    def submit(self, errand: Errand) -> None:
        """Begin to sample a group; an `Arrival` ends it. If its worker dies, it is sampled again elsewhere."""
        self._traffic.submit(errand)

    def learn(self, references: Sequence[Any], totals: Totals) -> None:
        """Begin a step of the learner; `Learned` ends it."""
        self._traffic.begin(
            self._learner.step.remote(list(references), totals), lambda metrics: Learned(metrics=metrics),
            "the learner's step", deadline_s=self.recipe.rollout.deadline_s, raised="rollout.deadline_s",
        )  # fmt: skip

    def publish(self, version: int) -> None:
        """Begin to push the learner's weights to all workers and to prove them there; `Committed` ends it.

        Returns once the learner has exported them, as its next step changes them.
        """
        call = self._service.publish.remote(version)
        # the service's own deadlines come first, also those of workers that join before
        deadline = (4 + self.recipe.rollout.workers) * self._push_s()
        self._traffic.begin(call, self._committed, "the weight service", deadline_s=deadline)
        itself = transport_of(self.recipe) in ("ipc", "nccl")  # the learner sends, after it has exported
        exported = [] if itself else [self._service.exported.remote(version)]
        if not ray.wait([call, *exported], timeout=deadline)[0]:
            raise EngineError(f"the driver waited {deadline:g} s for the learner to export version {version}")

    def _push_s(self) -> float:
        """Give how long a worker may take over a push: also the replies that are to end first, where they are."""
        w, r = self.recipe.weights, self.recipe.rollout
        return w.deadline_s + (0.0 if w.in_flight else r.deadline_s)

    def _committed(self, published: Published) -> Committed:
        self._workers.heed(published)
        return Committed(version=published.version, receipts=published.receipts)

    def wait(self) -> Event:
        """Wait for what happens next of all that was begun. Errors: those of what failed; EngineError if late."""
        return self._traffic.wait()

    def rollout(self, tasks: Sequence[Task], seeds: Sequence[int], *, group_size: int, greedy: bool = False) -> Arrived:
        """Sample one group per task, beside all that is under way, and give them in the order of tasks."""
        numbered = enumerate(zip(tasks, seeds, strict=True))
        arrived = self._traffic.run(
            [Errand(ticket=n, task=t, seed=s, group_size=group_size, greedy=greedy) for n, (t, s) in numbered]
        )
        return [(one.header, one.group) for one in arrived]

    def render_demonstrations(self, conversations: Sequence[Sequence[Message]]) -> list[Demonstration]:
        """Give the token ids of conversations, as an engine would be given the prompt and sample the reply."""
        worker = self._any_worker()
        return list(self._get(worker.render_demonstrations.remote(list(conversations)), START_S, "the demonstrations"))

    def warm_start(self, demonstrations: Sequence[Demonstration], settings: SftSettings) -> Iterator[dict[str, float]]:
        """Let the learner take the updates of a warm start, and yield the metrics of each."""
        deadline = self.recipe.rollout.deadline_s
        self._get(self._learner.begin_warm_start.remote(list(demonstrations), settings), deadline, "the warm start")
        what, key = "an update of the warm start", "rollout.deadline_s"
        while metrics := self._get(self._learner.warm_start_update.remote(), deadline, what, raised=key):
            yield dict(metrics)

    def refer_to(self, folder: Path) -> None:
        """Let the model in a folder be the reference of a KL."""
        self._get(self._learner.refer_to.remote(str(folder.absolute())), START_S, "the learner")

    def fetch(self, references: Sequence[Any]) -> list[Group]:
        """Bring groups to the driver."""
        return list(self._get(list(references), self.recipe.rollout.deadline_s, "groups"))

    def keep_records(self, folder: Path, *, until: int) -> None:
        """Start recording rollouts in `folder`; what a resumed run will write again is removed."""
        self._recorder = make_recorder(folder.absolute(), place=self._here())
        self._recording = self._recorder.keep_until.remote(until)

    def record(self, step: int, arrived: Arrived) -> None:
        """Write a step's rollouts while the run goes on. Errors: ResourceError where an earlier write failed."""
        self.recorded()
        seeds = {header.group_id: header.seed for header, _ in arrived}
        self._recording = self._recorder.write.remote(step, groups=[group for _, group in arrived], seeds=seeds)

    def recorded(self) -> None:
        """Wait for the last write. Errors: ResourceError where it failed."""
        self._get(self._recording, self.recipe.rollout.deadline_s, "the recorder")

    def save(self, folder: Path, facts: Mapping[str, Any]) -> None:
        """Write a checkpoint. Errors: CheckpointError."""
        self._get(self._learner.save.remote(str(folder.absolute()), dict(facts)), START_S, "the checkpoint")

    def restore(self, folder: Path) -> dict[str, Any]:
        """Load a checkpoint and give its facts. Errors: CheckpointError."""
        return dict(self._get(self._learner.restore.remote(str(folder.absolute())), START_S, "the checkpoint"))

    def lost_graders(self) -> int:
        """Count the grading processes that somebody else killed since this command started, and warn of new ones."""
        calls = {name: worker.lost_graders.remote() for name, worker in self._workers.serving.items()}
        answered = ray.wait([*calls.values()], num_returns=len(calls), timeout=PULSE_S)[0] if calls else []
        for name, call in calls.items():
            try:
                counted = ray.get(call, timeout=0) if call in answered else self._counted.get(name, 0)
            except ray.exceptions.RayError:
                continue  # the next push or rollout finds the worker dead and replaces it
            known = self._counted.get(name, 0)
            self._lost += max(0, counted - known)
            if counted > known:
                self.warn(f"{counted - known} grading process(es) of {name} were killed from outside and replaced")
            self._counted[name] = counted
        return self._lost

    def _any_worker(self) -> Any:
        return next(iter(self._workers.ready().values()))

    def _make_worker(self, name: str, place: int) -> Any:
        r, transport = self.recipe.rollout, transport_of(self.recipe)
        nodes = hosts() if self._spreads() else [""]
        cores = sorted(os.sched_getaffinity(0))
        share = cores_of(place, workers=r.workers, hosts=len(nodes), cores=cores, beside_learner=self._overlaps)
        away = self._at(nodes[place % len(nodes)]) if self._spreads() else {}
        receiver = Receiver(name, deadline_s=0.9 * self.recipe.weights.deadline_s)  # it speaks before the service
        engine = EngineSettings(
            model=str(self.model), kind=self.recipe.hardware.kind, max_model_len=r.max_model_len,
            max_num_seqs=r.max_num_seqs, kv_cache_gib=r.kv_cache_gib, cores=share,
            transport=transport, dtype=products_of(self.recipe),
            lora_rank=self.recipe.adapter.rank if self.recipe.weights.mode == "adapter" else 0,
        )  # fmt: skip
        return cast(Any, RolloutActor).options(**self._place(), **away).remote(
            name,
            engine=engine,
            settings=rollout_settings_of(self.recipe),
            payoff=self._payoff,
            environment=(self.recipe.environment.name, self.recipe.environment.options),
            rewards=[RewardSpec(name=p.name, weight=p.weight, options=p.options) for p in self.recipe.reward],
            grading={
                "processes": r.grading_processes, "timeout_s": r.grading_timeout_s, "memory_mb": r.grading_memory_mb
            },
            receiver=receiver if transport in ("disk", "tcp") else None,
        )  # fmt: skip

    def _spreads(self) -> bool:
        """Tell whether workers are spread over hosts; where there are GPUs they go where those are."""
        return bool(self.recipe.hardware.ray_address) and self.recipe.hardware.kind == "cpu"

    def _here(self) -> dict[str, Any]:
        """Give Ray's options for whoever shares files with the driver."""
        return at(hosts()[0]) if self._spreads() else {}

    def _at(self, node: str) -> dict[str, Any]:
        # As a run begins, the nodes may not know each other yet, and Ray would take the one that it asks first. Later a
        # node may be gone.
        return at(node, instead=self._service is not None)

    @property
    def _overlaps(self) -> bool:
        """Tell whether engines and learner compute at once on the same cores."""
        return self.recipe.hardware.kind == "cpu" and self.recipe.rollout.max_staleness > 0

    def _place(self) -> dict[str, Any]:
        # plug-ins given as module:attr live in the user's folder; Ray's workers must find them there
        here = os.pathsep.join(filter(None, [os.getcwd(), os.environ.get("PYTHONPATH", "")]))
        variables = {"PYTHONPATH": here, "TOKENIZERS_PARALLELISM": "false"}
        if self.recipe.hardware.kind == "gpu":
            # CUDA IPC is for a learner and an engine that share a device
            shared = transport_of(self.recipe) == "ipc"
            return {"num_gpus": 0.5 if shared else 1, "runtime_env": {"env_vars": variables}}
        if self._overlaps:
            variables["KMP_BLOCKTIME"] = "0"  # a thread of the learner that waits for others must not spin
        libraries = os.pathsep.join(preloads())
        return {"runtime_env": {"env_vars": variables | ({"LD_PRELOAD": libraries} if libraries else {})}}

    def _get(self, reference: Any, timeout: float, what: str, *, raised: str = "") -> Any:
        """Wait for a result. `raised` names the key that allows for a longer wait."""
        try:
            if isinstance(reference, list):
                return [resolve(one, timeout=timeout) for one in reference]
            return resolve(reference, timeout=timeout)
        except ray.exceptions.GetTimeoutError as error:
            advice = f"; raise {raised} if it takes that long" if raised else ""
            raise EngineError(f"the driver waited {timeout:g} s for {what}{advice}") from error
        except (ray.exceptions.RayActorError, ray.exceptions.OutOfMemoryError) as error:
            raise EngineError(f"an actor died while the driver waited for {what}: {brief(error)}") from error


def _start_ray(address: str | None) -> None:
    # Ray gives its workers a niceness of 15; with the matrix products of a step on all cores, whatever else runs would
    # stop them at every barrier.
    os.environ.setdefault("RAY_worker_niceness", "0")
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    try:
        if port.isdecimal():  # Ray itself asks for a minute before it gives up
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(
            address=address or "local", include_dashboard=False, log_to_driver=False, logging_level="ERROR",
            **({} if address else {"num_cpus": os.cpu_count(), "object_store_memory": 256 * 2**20}),
        )  # fmt: skip
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        where = f"the cluster at hardware.ray_address = {address!r}" if address else "a Ray of its own"
        raise ResourceError(f"the run cannot reach {where}: {brief(error)}") from error
