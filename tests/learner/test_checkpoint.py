"""Checkpoints: others can load them, a run goes on from them to the bit, and a failure leaves the last one standing."""

from __future__ import annotations

import errno
import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from helpers import make_learner, random_groups, same_weights, totals_of, weights_of
from transformers import AutoModelForCausalLM, AutoTokenizer

from rlvr.errors import CheckpointError
from rlvr.learner.algorithm import Algorithm
from rlvr.learner.checkpoint import latest, restore, save
from rlvr.learner.step import Learner
from rlvr.testing import tiny_model


def train(learner: Learner, *seeds: int) -> Learner:
    for seed in seeds:
        groups = random_groups(seed)
        learner.step(groups, totals_of(groups))
    return learner


def test_plain_transformers_loads_what_the_engine_was_given(model_folder: Path, tmp_path: Path) -> None:
    learner = train(make_learner(model_folder), 1)
    save(learner, tmp_path / "step-000001", facts={})
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "step-000001", dtype="auto", local_files_only=True)
    assert model.dtype == learner.dtype
    served, loaded = dict(learner.tensors()), model.state_dict()
    assert served.keys() == loaded.keys()
    assert all(torch.equal(served[name], loaded[name]) for name in served)
    assert model.config.tie_word_embeddings == learner.model.config.tie_word_embeddings
    assert model.config.use_cache, "generation from a checkpoint wants its cache"


def test_the_tokenizer_goes_with_the_model(tied_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "step-000001"
    save(make_learner(tied_model), folder, facts={})
    before, after = (AutoTokenizer.from_pretrained(f, local_files_only=True) for f in (tied_model, folder))
    messages = [{"role": "user", "content": "3 + 4 = ?"}]
    assert after.apply_chat_template(messages, add_generation_prompt=True, tokenize=False) == (
        before.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    )
    assert after.encode("naïve\n") == before.encode("naïve\n") == [*"naïve\n".encode()]
    assert after.eos_token_id == before.eos_token_id == 258
    generation = AutoModelForCausalLM.from_pretrained(folder).generation_config
    assert generation.eos_token_id == 258


@pytest.mark.parametrize("autocast", [False, True])
def test_a_resumed_run_equals_one_that_never_stopped(model_folder: Path, tmp_path: Path, autocast: bool) -> None:
    def fresh(folder: Path) -> Learner:
        learner = make_learner(folder, warmup_steps=3, weight_decay=0.01)
        learner.autocast = autocast
        return learner

    straight = train(fresh(model_folder), 1, 2, 3)
    save(train(fresh(model_folder), 1), tmp_path / "step-000001", facts={"step": 1, "recipe": {"name": "r"}})
    # other weights at first, so that everything has to come out of the checkpoint
    other = tiny_model(tmp_path / "other", tied=model_folder.name == "tied", seed=9)
    resumed = fresh(other)
    assert restore(resumed, tmp_path / "step-000001") == {"step": 1, "recipe": {"name": "r"}}
    assert resumed.version == 1
    train(resumed, 2, 3)
    assert same_weights(weights_of(straight), weights_of(resumed))
    assert resumed.version == straight.version == 3
    tied = resumed.model.get_output_embeddings().weight is resumed.model.get_input_embeddings().weight
    assert tied == resumed.model.config.tie_word_embeddings


def test_a_checkpoint_can_be_trained_further_as_a_model(tied_model: Path, tmp_path: Path) -> None:
    learner = train(make_learner(tied_model), 1)
    save(learner, tmp_path / "step-000001", facts={})
    again = make_learner(tmp_path / "step-000001")
    served = dict(learner.tensors())
    assert all(torch.equal(weight, served[name].float()) for name, weight in weights_of(again).items())
    assert {p.dtype for p in again.model.parameters()} == {torch.float32}


def test_saving_again_replaces(tied_model: Path, tmp_path: Path) -> None:
    learner, folder = make_learner(tied_model), tmp_path / "step-000001"
    save(learner, folder, facts={"turn": 1})
    save(train(learner, 1), folder, facts={"turn": 2})
    other = make_learner(tied_model)
    assert restore(other, folder) == {"turn": 2}
    assert same_weights(weights_of(other), weights_of(learner))
    assert os.listdir(tmp_path) == ["step-000001"]


Failure = Callable[[pytest.MonkeyPatch], None]


def full_disk(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def torch_full_disk(*_: object, **__: object) -> None:
    raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed")


FAILURES: dict[str, Failure] = {
    "safetensors": lambda patch: patch.setattr("safetensors.torch.save_file", full_disk),
    "torch": lambda patch: patch.setattr("torch.save", torch_full_disk),
    "the last rename": lambda patch: patch.setattr("os.replace", full_disk),
}


@contextmanager
def short_files(limit: int) -> Iterator[None]:
    """Let writes past `limit` bytes of a file fail, as those on a full disk do."""
    old, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, old[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)


def assert_stands(folder: Path, learner: Learner, weights: dict[str, torch.Tensor]) -> None:
    """Assert that a checkpoint is whole, the newest, and alone: no scraps beside it."""
    assert restore(learner, folder) == {"step": 1}
    assert same_weights(weights_of(learner), weights)
    assert latest(folder.parent) == folder
    assert os.listdir(folder.parent) == [folder.name]


@pytest.mark.parametrize("name", ["step-000001", "step-000002"])
@pytest.mark.parametrize("failure", list(FAILURES))
def test_a_failed_write_leaves_the_old_checkpoint(tied_model: Path, tmp_path: Path, failure: str, name: str) -> None:
    learner, folder = make_learner(tied_model), tmp_path / "step-000001"
    save(learner, folder, facts={"step": 1})
    before = weights_of(learner)
    train(learner, 1)
    with pytest.MonkeyPatch.context() as patch:
        FAILURES[failure](patch)
        with pytest.raises(CheckpointError, match=rf"{name} cannot be written .* free disk space .* --resume"):
            save(learner, tmp_path / name, facts={"step": 2})
    assert_stands(folder, learner, before)


@pytest.mark.parametrize("limit", [50_000, 250_000, 500_000], ids=["served weights", "master weights", "optimizer"])
def test_a_disk_that_is_really_full(tied_model: Path, tmp_path: Path, limit: int) -> None:
    learner = Learner(tied_model, Algorithm(), tokens_per_microbatch=256, threads=1, precision="bfloat16")
    folder = tmp_path / "step-000001"
    train(learner, 1)
    save(learner, folder, facts={"step": 1})
    sizes = [p.stat().st_size for p in (folder / "model.safetensors", *sorted((folder / "trainer").glob("[ms]*")))]
    assert sum(size > limit for size in sizes) == {50_000: 3, 250_000: 2, 500_000: 1}[limit], sizes
    before = weights_of(learner)
    train(learner, 2)
    with short_files(limit), pytest.raises(CheckpointError, match="step-000002 cannot be written"):
        save(learner, tmp_path / "step-000002", facts={"step": 2})
    assert_stands(folder, learner, before)


@pytest.mark.parametrize("file", ["master.safetensors", "state.pt", "facts.json"])
@pytest.mark.parametrize("damage", ["gone", "empty", "half", "junk"])
def test_a_damaged_checkpoint_is_named(tied_model: Path, tmp_path: Path, file: str, damage: str) -> None:
    learner = train(make_learner(tied_model), 1)
    save(learner, tmp_path / "step-000001", facts={"step": 1, "recipe": "long enough to be cut"})
    path = tmp_path / "step-000001" / "trainer" / file
    content = path.read_bytes()
    path.write_bytes({"gone": b"", "empty": b"", "half": content[: len(content) // 2], "junk": b"\x93junk" * 9}[damage])
    if damage == "gone":
        path.unlink()
    with pytest.raises(CheckpointError, match=r"step-000001 cannot be read: \S"):
        restore(learner, tmp_path / "step-000001")


def test_a_checkpoint_of_another_model_is_refused(tied_model: Path, untied_model: Path, tmp_path: Path) -> None:
    save(make_learner(tied_model), tmp_path / "step-000001", facts={})
    with pytest.raises(CheckpointError, match="cannot be read"):
        restore(make_learner(untied_model), tmp_path / "step-000001")


def test_latest_is_the_newest_whole_one(tmp_path: Path) -> None:
    assert latest(tmp_path) is None
    assert latest(tmp_path / "nowhere") is None
    for name in ("step-000002", "step-000010", ".step-000030.part", "other-000040"):
        (tmp_path / name / "trainer").mkdir(parents=True)
        (tmp_path / name / "trainer" / "facts.json").write_text("{}")
    (tmp_path / "step-000020" / "trainer").mkdir(parents=True)
    (tmp_path / "step-000020" / "trainer" / "master.safetensors").write_bytes(b"")
    assert latest(tmp_path) == tmp_path / "step-000010"


def test_a_checkpoint_of_an_earlier_version_is_named_as_such(tied_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "step-000001"
    save(make_learner(tied_model), folder, facts={})
    state = torch.load(folder / "trainer" / "state.pt", weights_only=True)
    del state["updates"]
    torch.save(state, folder / "trainer" / "state.pt")
    with pytest.raises(CheckpointError, match=r"^the checkpoint .*/step-000001 is of an earlier version of rlvr, "):
        restore(make_learner(tied_model), folder)
