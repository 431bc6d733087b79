"""An adapter's targets against a model's files: told at once where they are wrong, never where they are right."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from rlvr.errors import ModelError
from rlvr.learner.model import load_model
from rlvr.learner.targets import check_files, check_names

ENDS = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]


def test_every_linear_layer_is_found_in_the_files(model_folder: Path) -> None:
    model = load_model(model_folder)
    head = model.get_output_embeddings()
    names = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and m is not head]
    check_files([*names, *ENDS, "self_attn.q_proj"], model_folder)
    check_names([*names, *ENDS, "self_attn.q_proj"], names)


@pytest.mark.parametrize(
    ("target", "near"),
    [("q_prj", "q_proj"), ("lm_head", ", ".join(ENDS)), ("embed_tokens", ", ".join(ENDS)), ("proj", "q_proj")],
)
def test_what_matches_nothing_is_told(target: str, near: str, model_folder: Path) -> None:
    with pytest.raises(ModelError) as caught:
        check_files(["q_proj", target], model_folder)
    sentence = f"adapter.targets: {target!r} matches no linear layer below the output head; there is "
    assert str(caught.value).startswith(sentence)
    assert near in str(caught.value)


@pytest.fixture
def copied(tied_model: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tied_model, tmp_path / "model"))


def test_a_model_in_several_files_is_read_whole(copied: Path) -> None:
    tensors = load_file(copied / "model.safetensors")
    (copied / "model.safetensors").unlink()
    for number, own in enumerate(("q_proj", "")):
        part = {n: t for n, t in tensors.items() if ("q_proj" in n) is bool(own)}
        save_file(part, copied / f"model-{number}.safetensors")
    check_files(["q_proj", "k_proj"], copied)
    with pytest.raises(ModelError, match="'w1' matches no linear layer"):
        check_files(["w1"], copied)


def test_other_modules_above_a_layer_do_not_refuse_it(copied: Path) -> None:
    """Files of a backbone alone, and of older libraries, call what stands above otherwise."""
    tensors = load_file(copied / "model.safetensors")
    save_file({n.removeprefix("model."): t for n, t in tensors.items()}, copied / "model.safetensors")
    check_files(["model.layers.0.self_attn.q_proj"], copied)


@pytest.mark.parametrize("damage", ["gone", "empty", "short", "no json", "a list", "no shape"])
def test_a_file_that_says_nothing_is_left_to_loading(damage: str, copied: Path) -> None:
    file = copied / "model.safetensors"
    header: Any = {"gone": None, "a list": [1], "no shape": {"model.layers.0.w.weight": {}}}.get(damage)
    if damage == "gone":
        file.unlink()
    elif header is not None:
        text = json.dumps(header).encode()
        file.write_bytes(len(text).to_bytes(8, "little") + text)
    else:
        file.write_bytes({"empty": b"", "short": b"\xff" * 4, "no json": b"\x02" + bytes(7) + b"{]"}[damage])
    check_files(["nothing"], copied)
