"""Two learner ranks in two processes: what they compute is what one computes."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import psutil
import pytest
import torch
from helpers import make_group, near_policy, random_groups, totals_of

from rlvr.errors import LearnerError, ModelError, unwrapped
from rlvr.learner import checkpoint
from rlvr.learner.adapter import AdapterSettings
from rlvr.learner.algorithm import Algorithm, CriticSettings
from rlvr.learner.ranks import Ranks, free_port, whole
from rlvr.learner.step import Learner
from rlvr.types import Group

SEQUENCES = [np.arange(start, start + length, dtype=np.int32) for start, length in ((0, 9), (40, 57), (9, 2))]


@dataclass(frozen=True)
class Case:
    algorithm: dict[str, Any] = field(default_factory=dict)
    model: str = "tied"
    precision: str = "float32"
    tokens: int = 150
    settings: dict[str, Any] = field(default_factory=dict)
    single: bool = False  # one sample, so that the second rank has none


CASES = {
    "token": Case(),
    "untied, sequence, clipped": Case({"loss_per": "sequence", "max_grad_norm": 0.01, "weight_decay": 0.1}, "untied"),
    "gspo, one sample": Case({"baseline": "none", "loss": "gspo"}, single=True),
    "checkpointing": Case(settings={"gradient_checkpointing": True}),
    "reference, four updates": Case(
        {"kl": "loss", "kl_coefficient": 0.1, "old_logprobs": "learner", "correction": "geometric",
         "minibatches": 2, "epochs": 2, "entropy_bonus": 0.01, "learning_rate": 2e-4}, tokens=4096
    ),
    "critic": Case({"baseline": "critic", "critic": CriticSettings(), "decay": 0.9}),
    "shared critic": Case({"baseline": "critic", "critic": CriticSettings(backbone="shared"), "epochs": 2}),
    "lora, reference": Case(
        {"kl": "loss", "kl_coefficient": 0.1}, "untied", settings={"adapter": AdapterSettings(kind="lora", rank=4)}
    ),
    "bfloat16": Case(precision="bfloat16"),
    "bfloat16 lora": Case(
        {"kl": "loss", "kl_coefficient": 0.1}, precision="bfloat16",
        settings={"adapter": AdapterSettings(kind="lora", rank=4)}
    ),
}  # fmt: skip
ADAPTED = "lora, reference"
EXACT = [name for name, case in CASES.items() if case.precision == "float32"]


def learner_of(case: Case, folders: dict[str, Path], ranks: Ranks | None) -> Learner:
    algorithm = Algorithm(**{"learning_rate": 1e-3} | case.algorithm)
    return Learner(
        folders[case.model], algorithm, tokens_per_microbatch=case.tokens, threads=1, precision=case.precision,
        ranks=ranks, **case.settings,
    )  # fmt: skip


def updaters_of(learner: Learner) -> dict[str, Any]:
    return {"policy": learner.updater} | ({"critic": learner.critic.updater} if learner.critic else {})


def outcome(learner: Learner, steps: Sequence[Sequence[Group]]) -> dict[str, Any]:
    """Take the steps, and tell everything that another number of ranks must not change."""
    gradients: dict[str, torch.Tensor] = {}
    for kind, updater in updaters_of(learner).items():
        take = updater.optimizer.step

        def noted(kind: str = kind, updater: Any = updater, take: Any = take) -> None:
            for name, master in updater.masters.items():
                gradients.setdefault(f"{kind} {name}", whole(master.grad).clone())
            take()

        updater.optimizer.step = noted
    metrics = [learner.step(groups, totals_of(groups)) for groups in steps]
    for line in metrics:  # what ranks cannot share is computed by each
        line.pop("computed_tokens", None)
        line.pop("scored_tokens", None)
    told = {"metrics": metrics, "gradients": gradients}
    for updater in updaters_of(learner).values():
        del updater.optimizer.step
    told["weights"] = {
        f"{kind} {name}": whole(master.detach()).clone()
        for kind, updater in updaters_of(learner).items() for name, master in updater.masters.items()
    }  # fmt: skip
    told["scores"] = learner.score(SEQUENCES)
    told["served"] = {name: tensor.clone() for name, tensor in learner.tensors()}
    return told


def perturbed(learner: Learner) -> dict[str, Any]:
    """Tell what is lent in a self-test, and what is lent after it."""
    with learner.perturbed():
        lent = {name: tensor.clone() for name, tensor in learner.tensors()}
        scores = learner.score(SEQUENCES)
    return {"lent": lent, "scores": scores, "after": {name: tensor.clone() for name, tensor in learner.tensors()}}


def run_rank(rank: int, port: int, folders: dict[str, Path], steps: dict[str, Any], out: Path) -> None:
    """Run all cases as one of two ranks, and write what came of them."""
    ranks = Ranks(count=2, rank=rank, port=port, deadline_s=60)
    told: dict[str, Any] = {}
    for name, case in CASES.items():
        learner = learner_of(case, folders, ranks)
        told[name] = outcome(learner, steps[name])
        if name == ADAPTED:
            checkpoint.save(learner, out / "adapter", facts={})
            ranks.total({})  # rank 0 has written
            checkpoint.restore(learner, out / "adapter")
            told["restored adapter"] = {name: tensor.clone() for name, tensor in learner.tensors()}
    fresh = learner_of(CASES["token"], folders, ranks)
    told["perturbed"] = perturbed(fresh)
    poisoned = [
        make_group(
            [replace(r, logprobs=r.logprobs + np.float32(np.nan)) for r in group.rollouts], group.values.tolist()
        )
        for group in steps["token"][0]
    ]
    with pytest.raises(LearnerError, match="not finite"):
        fresh.step(poisoned, totals_of(poisoned))
    told["after poison"] = outcome(fresh, steps["token"])
    checkpoint.save(fresh, out / "two", facts={"step": 2})
    ranks.total({})
    resumed = learner_of(CASES["token"], folders, ranks)
    assert checkpoint.restore(resumed, out / "two") == {"step": 2}
    told["resumed"] = outcome(resumed, steps["token"])
    from_one = learner_of(CASES["token"], folders, ranks)
    checkpoint.restore(from_one, out / "one")
    told["resumed from one"] = outcome(from_one, steps["token"])
    start = time.monotonic()
    with pytest.raises(LearnerError) as caught, ranks.together():
        if rank == 1:
            raise RuntimeError("broke")
        ranks.combine([np.zeros(3, dtype=np.float32)])
    told["failure"] = str(caught.value), time.monotonic() - start
    torch.save(told, out / f"rank{rank}.pt")


@pytest.fixture(scope="module")
def folders(tied_model: Path, untied_model: Path) -> dict[str, Path]:
    return {"tied": tied_model, "untied": untied_model}


@pytest.fixture(scope="module")
def steps(folders: dict[str, Path]) -> dict[str, list[list[Group]]]:
    judges = {name: learner_of(Case(model=name), folders, None) for name in folders}
    made = {}
    for name, case in CASES.items():
        groups = [near_policy(judges[case.model], random_groups(seed, groups=3)) for seed in (0, 1)]
        made[name] = [[make_group(g[0].rollouts[:1], [1.0])] for g in groups] if case.single else groups
    return made


@pytest.fixture(scope="module")
def one(folders: dict[str, Path], steps: dict[str, Any]) -> dict[str, Any]:
    return {name: outcome(learner_of(case, folders, None), steps[name]) for name, case in CASES.items()}


@pytest.fixture(scope="module")
def two(
    folders: dict[str, Path], steps: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[dict[str, Any]], Path]:
    out = tmp_path_factory.mktemp("ranks")
    learner = learner_of(CASES["token"], folders, None)
    outcome(learner, steps["token"])
    checkpoint.save(learner, out / "one", facts={})
    spawn = multiprocessing.get_context("spawn")
    port = free_port()
    started = [spawn.Process(target=run_rank, args=(rank, port, folders, steps, out)) for rank in (0, 1)]
    for process in started:
        process.start()
    for process in started:
        process.join(timeout=240)
        process.kill()
    assert [process.exitcode for process in started] == [0, 0]
    return [torch.load(out / f"rank{rank}.pt", weights_only=False) for rank in (0, 1)], out


pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


def assert_near(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert float((found[name] - tensor).norm()) <= 1e-5 * float(tensor.norm()), name


@pytest.mark.parametrize("name", EXACT)
def test_two_ranks_compute_what_one_computes(name: str, one: dict[str, Any], two: Any) -> None:
    expected, (found, other) = one[name], two[0]
    for ours, theirs, others in zip(found[name]["metrics"], expected["metrics"], other[name]["metrics"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-7)
        assert others == ours, "ranks tell the same"
    assert any(float(gradient.norm()) > 0 for gradient in expected["gradients"].values())
    assert_near(found[name]["gradients"], expected["gradients"])
    assert_near(found[name]["weights"], expected["weights"])
    for ours, theirs in zip(found[name]["scores"], expected["scores"], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["bfloat16", "bfloat16 lora"])
def test_bfloat16_on_two_ranks_stays_near_one(name: str, one: dict[str, Any], two: Any) -> None:
    expected, found = one[name], two[0][0][name]
    assert found["metrics"][0]["loss"] == pytest.approx(expected["metrics"][0]["loss"], abs=0.01)
    assert found["metrics"][0]["grad_norm"] == pytest.approx(expected["metrics"][0]["grad_norm"], rel=0.02)
    for name, slope in expected["gradients"].items():
        assert found["gradients"][name].dtype == torch.float32
        if not slope.any():  # of LoRA's A, while B is 0
            assert not found["gradients"][name].any()
            continue
        cosine = torch.nn.functional.cosine_similarity(found["gradients"][name].flatten(), slope.flatten(), dim=0)
        assert float(cosine) > 0.99, name


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_what_ranks_lend_is_what_one_lends_to_the_bit(folders: dict[str, Path], two: Any) -> None:
    learner = learner_of(CASES["token"], folders, None)
    before, expected = {n: t.clone() for n, t in learner.tensors()}, perturbed(learner)
    for told in two[0]:  # every rank gathers everything
        found = told["perturbed"]
        assert same(found["lent"], expected["lent"])
        assert same(found["after"], before)
        assert not any(torch.equal(found["lent"][name], tensor) for name, tensor in before.items())
    for ours, theirs in zip(found["scores"], expected["scores"], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_a_failed_step_leaves_ranks_able_to_go_on(one: dict[str, Any], two: Any) -> None:
    assert_near(two[0][0]["after poison"]["weights"], one["token"]["weights"])


def test_checkpoints_do_not_know_how_many_ranks_wrote_them(
    folders: dict[str, Path], steps: dict[str, Any], two: Any
) -> None:
    (first, second), out = two
    names = [sorted(str(p.relative_to(out / n)) for p in (out / n).rglob("*")) for n in ("one", "two")]
    assert names[0] == names[1]
    single = learner_of(CASES["token"], folders, None)
    checkpoint.restore(single, out / "one")
    expected = outcome(single, steps["token"])
    assert_near(first["resumed from one"]["weights"], expected["weights"])
    assert first["resumed"]["metrics"] == second["resumed"]["metrics"]
    single = learner_of(CASES["token"], folders, None)
    assert checkpoint.restore(single, out / "two") == {"step": 2}
    resumed = outcome(single, steps["token"])
    assert_near(first["resumed"]["weights"], resumed["weights"])
    assert not same(expected["served"], one_step(folders, steps)), "a resumed run goes on from its own weights"


def test_an_adapter_of_two_ranks_is_saved_whole(folders: dict[str, Path], two: Any) -> None:
    (first, _), out = two
    single = learner_of(CASES[ADAPTED], folders, None)
    checkpoint.restore(single, out / "adapter")
    assert same(first["restored adapter"], first[ADAPTED]["served"])
    served = dict(single.tensors())
    assert served.keys() == first[ADAPTED]["served"].keys()
    for name, tensor in served.items():
        torch.testing.assert_close(first[ADAPTED]["served"][name], tensor)
    assert (out / "adapter" / "adapter" / "adapter_model.safetensors").is_file()


def one_step(folders: dict[str, Path], steps: dict[str, Any]) -> dict[str, torch.Tensor]:
    return dict(outcome(learner_of(CASES["token"], folders, None), steps["token"])["served"])


def test_the_failure_of_one_rank_ends_all_with_its_sentence(two: Any) -> None:
    for told in two[0]:
        sentence, seconds = told["failure"]
        assert sentence == "learner rank 1: RuntimeError: broke"
        assert seconds < 20, "nobody waits for the deadline"


def test_one_rank_never_touches_torch_distributed(tied_model: Path, tmp_path: Path) -> None:
    program = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from pathlib import Path
import torch
from helpers import make_learner, random_groups, totals_of
from rlvr.learner import checkpoint
def refuse(*_, **__): raise AssertionError
for name in ("init_process_group", "all_reduce", "all_gather_object", "TCPStore", "barrier", "get_rank"):
    setattr(torch.distributed, name, refuse)
learner = make_learner(Path({str(tied_model)!r}))
groups = random_groups()
learner.step(groups, totals_of(groups))
learner.score([groups[0].rollouts[0].prompt_ids])
checkpoint.save(learner, Path({str(tmp_path / "step-1")!r}), facts={{}})
checkpoint.restore(learner, Path({str(tmp_path / "step-1")!r}))
print("rlvr ran", torch.distributed.is_initialized())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("rlvr ran False")


def make_manifest(tensors: Iterator[tuple[str, torch.Tensor]], *, version: int, folder: str) -> Any:
    """Stand in for the export: keep the tensors, and say in which process that was."""
    torch.save(dict(tensors), Path(folder) / f"version-{version}.pt")
    return os.getpid()


@pytest.fixture
def cluster() -> Iterator[Any]:
    """Give Ray, started for a test."""
    ray = pytest.importorskip("ray")
    paths = os.pathsep.join(str(folder) for folder in Path(__file__).parents[:3])
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR",
             object_store_memory=80 * 2**20, runtime_env={"env_vars": {"PYTHONPATH": paths}})  # fmt: skip
    try:
        yield ray
    finally:
        ray.shutdown()


def actor_of(folders: dict[str, Path], ranks: Ranks, **settings: Any) -> Any:
    from rlvr.learner.actor import LearnerActor

    return LearnerActor.remote(
        str(folders["tied"]), Algorithm(learning_rate=1e-3), ranks=ranks, tokens_per_microbatch=150, threads=1,
        precision="float32", **settings,
    )  # fmt: skip


@pytest.mark.parametrize("count", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_what_no_learner_can_be_made_of_is_said_in_its_own_sentence(
    cluster: Any, folders: dict[str, Path], count: int
) -> None:
    from rlvr.loop.cluster import Cluster

    adapter = AdapterSettings(kind="lora", targets=("nothing_proj",))
    learner = actor_of(folders, Ranks(count=count, deadline_s=60), adapter=adapter)
    with pytest.raises(ModelError, match=r"^adapter.targets: 'nothing_proj' matches no linear layer"):
        Cluster._get(cast(Any, None), learner.start.remote(), 90, "the learner to load the model")
    alone = actor_of(folders, Ranks(count=2, rank=1, port=free_port(), deadline_s=2))
    with pytest.raises(LearnerError, match=r"^learner rank 1 did not meet the 1 other\(s\)"):
        Cluster._get(cast(Any, None), alone.start.remote(), 90, "the learner to load the model")


def test_two_actors_are_one_learner(
    cluster: Any, folders: dict[str, Path], steps: dict[str, Any], one: dict[str, Any], tmp_path: Path
) -> None:
    ray, actor = cluster, actor_of(folders, Ranks(count=2, deadline_s=60))

    def call(name: str, *arguments: Any, **named: Any) -> Any:
        return ray.get(getattr(actor, name).remote(*arguments, **named), timeout=90)

    call("start")
    groups = steps["token"]
    for step, expected in zip(groups, one["token"]["metrics"], strict=True):
        told = call("step", [ray.put(group) for group in step], totals_of(step))
        assert told["learner_seconds"] > 0
        assert {name: told[name] for name in expected} == pytest.approx(expected, rel=1e-5, abs=1e-7)
    known = {"folder": str(tmp_path), "sequences": SEQUENCES}
    rank0, scores = call("export", make_manifest, version=2, perturbed=False, **known)
    for ours, theirs in zip(scores, one["token"]["scores"], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    exported = torch.load(tmp_path / "version-2.pt")
    assert exported.keys() == one["token"]["served"].keys()
    _, moved = call("export", make_manifest, version=3, perturbed=True, **known)
    noisy = torch.load(tmp_path / "version-3.pt")
    assert not any(torch.equal(noisy[name], tensor) for name, tensor in exported.items())
    assert any(not np.allclose(a, b, atol=0.1) for a, b in zip(moved, scores, strict=True))
    call("save", str(tmp_path / "step-2"), {"step": 2})
    assert call("restore", str(tmp_path / "step-2")) == {"step": 2}
    assert call("version") == 2
    single = learner_of(CASES["token"], folders, None)
    checkpoint.restore(single, tmp_path / "step-2")
    assert same(dict(single.tensors()), exported)

    # a follower that is killed in between is named, and nobody waits for it
    learners = [p for p in psutil.Process().children(recursive=True) if "LearnerActor" in " ".join(p.cmdline())]
    (follower,) = [p for p in learners if p.pid != rank0]
    follower.kill()
    with pytest.raises(LearnerError, match="learner rank 1 died"), unwrapped():
        call("step", [ray.put(group) for group in groups[0]], totals_of(groups[0]))
